"""Write samples to the formats that other tools read; reading them back is exact (torch-free)."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from so8t_engine.errors import DataError
from so8t_engine.samples.schema import SAMPLE_FIELDS, Sample, encode_sample
from so8t_engine.workspace.atomic import replacing, write_lines, write_with

EXPORT_FORMATS: dict[str, str] = {
    "jsonl": "JSON Lines",
    "json": "JSON array",
    "csv": "CSV",
    "tsv": "TSV",
    "parquet": "Parquet",
    "chat": "Chat messages (JSON Lines)",
}
_SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv",
             ".parquet": "parquet"}  # fmt: skip
# What a spreadsheet would run as a formula, with any apostrophes that already stand before it.
_FORMULA = re.compile("'*[=+\\-@\t\r＝＋－＠]")
_PLAIN_TAG = re.compile(r'[^;,\[\]"\s=+\-@\'][^;,\[\]"\r\n\t]*')


def format_of(path: Path, wanted: str = "") -> str:
    """Return the export format that ``wanted`` or the file's name says.

    Raises:
        DataError: if neither is known.
    """
    kind = wanted or _SUFFIXES.get(path.suffix.casefold(), "")
    if kind not in EXPORT_FORMATS:
        raise DataError(
            f"{wanted or path.suffix or path.name!r} is not an export format.",
            next_step=f"Use one of: {', '.join(EXPORT_FORMATS)}.",
        )
    return kind


def write_samples(path: Path, samples: Sequence[Sample], *, format: str = "") -> str:  # noqa: A002
    """Write the samples atomically and return the format.

    Spreadsheet formulas in CSV and TSV cells get a leading apostrophe, which the reader of this
    program takes off again.

    Raises:
        DataError: if the format is unknown or the file cannot be written.
    """
    kind = format_of(path, format)
    try:
        if kind == "jsonl":
            write_lines(path, (encode_sample(sample) for sample in samples))
        elif kind == "json":
            write_lines(path, _array_lines(samples))
        elif kind == "chat":
            write_lines(path, (_chat_line(sample) for sample in samples))
        elif kind == "parquet":
            _write_parquet(path, samples)
        else:
            _write_table(path, samples, "," if kind == "csv" else "\t")
    except OSError as error:
        raise DataError(
            f"{path} cannot be written: {error.strerror or error}.",
            next_step="Check the folder, its permissions and the free space.",
        ) from error
    return kind


def _array_lines(samples: Sequence[Sample]) -> Iterator[bytes]:
    yield b"[\n"
    for index, sample in enumerate(samples):
        yield encode_sample(sample).rstrip(b"\n") + (b",\n" if index + 1 < len(samples) else b"\n")
    yield b"]\n"


def chat_row(sample: Sample) -> dict[str, Any]:
    """Return the sample as chat messages; the other fields stand beside them."""
    messages = [{"role": "user", "content": sample.request}]
    if sample.context:
        messages.insert(0, {"role": "system", "content": sample.context})
    if sample.response:
        messages.append({"role": "assistant", "content": sample.response})
    row: dict[str, Any] = {"messages": messages}
    for name, value in msgspec.to_builtins(sample).items():
        if name not in ("request", "context", "response"):
            row[name] = value
    return row


def _chat_line(sample: Sample) -> bytes:
    return json.dumps(chat_row(sample), ensure_ascii=False).encode() + b"\n"


def neutralise(cell: str) -> str:
    """Return a cell that no spreadsheet takes for a formula; reversible."""
    return "'" + cell if _FORMULA.match(cell) else cell


def join_tags(tags: Iterable[str]) -> str:
    """Return tags as one cell: separated by ``;``, or as a JSON list where a tag needs it."""
    tags = list(tags)
    if all(_PLAIN_TAG.fullmatch(tag) for tag in tags):
        return ";".join(tags)
    return json.dumps(tags, ensure_ascii=False)


def _write_table(path: Path, samples: Iterable[Sample], delimiter: str) -> None:
    with replacing(path) as binary:
        # The BOM makes spreadsheets read UTF-8.
        text = io.TextIOWrapper(binary, encoding="utf-8-sig", newline="")
        writer = csv.writer(text, delimiter=delimiter, lineterminator="\r\n")
        writer.writerow(SAMPLE_FIELDS)
        for sample in samples:
            cells = [
                join_tags(sample.tags) if name == "tags" else str(getattr(sample, name))
                for name in SAMPLE_FIELDS
            ]
            writer.writerow([neutralise(cell) for cell in cells])
        text.flush()
        text.detach()


def _write_parquet(path: Path, samples: Sequence[Sample]) -> None:
    import polars as pl

    columns: dict[str, Any] = {
        name: [
            list(sample.tags) if name == "tags" else str(getattr(sample, name))
            for sample in samples
        ]
        for name in SAMPLE_FIELDS
    }
    kinds: dict[str, Any] = {
        name: pl.List(pl.String) if name == "tags" else pl.String for name in SAMPLE_FIELDS
    }
    write_with(path, pl.DataFrame(columns, schema=kinds).write_parquet)
