"""import(export(x)) == x for every format, and no cell is a formula."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from so8t_engine.errors import DataError
from so8t_engine.labels import Label
from so8t_engine.samples.readers import read_samples
from so8t_engine.samples.schema import Sample
from so8t_engine.samples.writers import EXPORT_FORMATS, format_of, neutralise, write_samples
from tests.unit.samples_strategies import datasets, texts

_SUFFIX = {"jsonl": ".jsonl", "json": ".json", "csv": ".csv", "tsv": ".tsv",
           "parquet": ".parquet", "chat": ".jsonl"}  # fmt: skip


@pytest.mark.parametrize("kind", list(EXPORT_FORMATS))
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rows=datasets)
def test_round_trip_is_exact(tmp_path: Path, kind: str, rows: list[Sample]) -> None:
    path = tmp_path / f"data{_SUFFIX[kind]}"
    assert write_samples(path, rows, format=kind) == kind
    if not rows and kind in ("jsonl", "chat"):
        assert path.read_bytes() == b""
        return
    result = read_samples(path)
    assert result.rejected == []
    assert result.samples == rows
    assert result.repaired == []


@given(text=texts)
def test_neutralised_cells_never_start_a_formula(text: str) -> None:
    assert neutralise(text)[:1] not in set("=+-@\t\r＝＋－＠")


def test_csv_opens_in_a_spreadsheet_without_running_anything(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    write_samples(path, [Sample(id="1", request="=cmd|'/c calc'!A0", label=Label.REFUSE)])
    raw = path.read_bytes()
    assert raw.startswith(b"\xef\xbb\xbf")
    with path.open(encoding="utf-8-sig", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert rows[0]["request"] == "'=cmd|'/c calc'!A0"
    assert all(not cell.startswith(("=", "+", "-", "@")) for cell in rows[0].values())


def test_unknown_format_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="jsonl, json, csv"):
        format_of(tmp_path / "x.xlsx")


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    write_samples(path, [Sample(id="1", request="a", label=Label.ALLOW)])
    before = path.read_bytes()

    def rows() -> list[Sample]:
        return [Sample(id="2", request="b", label=Label.ALLOW), None]  # type: ignore[list-item]

    with pytest.raises(AttributeError):
        write_samples(tmp_path / "x.jsonl", rows(), format="chat")
    assert path.read_bytes() == before
    assert [child.name for child in tmp_path.iterdir()] == ["x.jsonl"]
