"""Readers against the files that people really have, and against hostile ones."""

from __future__ import annotations

import codecs
import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from so8t_engine.errors import DataError
from so8t_engine.labels import Label
from so8t_engine.samples.readers import ImportResult, ReadCancelled, read_samples
from so8t_engine.samples.schema import Sample

GOOD = '{"id":"a","request":"Book a room","label":"ALLOW"}'
JAPANESE = "会議室を予約してください。資料も印刷してほしいです。"


def read(tmp_path: Path, name: str, content: str | bytes, **kwargs: object) -> ImportResult:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_samples(path, **kwargs)  # type: ignore[arg-type]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", [b"", codecs.BOM_UTF8])
def test_jsonl_with_bom_blank_lines_and_either_line_end(
    tmp_path: Path, end: str, bom: bytes
) -> None:
    text = end.join([GOOD, "", "   ", '{"id":"b","request":"殺す","label":"refuse"}', ""])
    result = read(tmp_path, "x.jsonl", bom + text.encode())
    assert [(s.id, s.label) for s in result.samples] == [("a", Label.ALLOW), ("b", Label.REFUSE)]
    assert result.rejected == []
    assert result.encoding == ("utf-8-sig" if bom else "utf-8")


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [("utf-8", "utf-8"), ("utf-8-sig", "utf-8-sig"), ("utf-16", "utf-16"), ("cp932", "cp932"),
     ("utf-16-le", "utf-16-le")],
)  # fmt: skip
def test_csv_encodings_of_japanese_offices(tmp_path: Path, encoding: str, expected: str) -> None:
    rows = "".join(f'"{number}. {JAPANESE}",escalation,ja\r\n' for number in range(30))
    result = read(tmp_path, "x.csv", ("prompt,decision,lang\r\n" + rows).encode(encoding))
    assert result.encoding == expected
    assert len(result.samples) == 30
    assert result.samples[4].request == f"4. {JAPANESE}"
    assert {s.label for s in result.samples} == {Label.ESCALATE}
    assert {s.language for s in result.samples} == {"ja"}


KANA = st.text(
    "あいうえおかきくけこさしすせそたちつてとアイウエオカキクケコ会議室契約書社員予約、。",
    min_size=2,
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    KANA.filter(lambda text: any("あ" <= sign <= "コ" for sign in text)),
    st.sampled_from(["cp932", "euc_jp", "utf-8", "utf-16"]),
)
def test_even_one_short_row_of_japanese_is_read_right(
    tmp_path: Path, text: str, encoding: str
) -> None:
    result = read(tmp_path, "x.csv", f"request,label\r\n{text},ALLOW\r\n".encode(encoding))
    assert [s.request for s in result.samples] == [text]


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("会議室予約", "cp932"),  # no kana at all
        ("契約書", "cp932"),
        ("déjà vu à l'école", "latin-1"),
        ("Prüfen Sie das Gehalt für März", "cp1252"),
        ("“curly” quotes – and a €", "cp1252"),
        ("会議室を予約", "utf-16-le"),
        ("会議室を予約", "utf-16-be"),
    ],
)
def test_short_files_in_other_encodings(tmp_path: Path, text: str, encoding: str) -> None:
    result = read(tmp_path, "x.csv", f"request,label\r\n{text},ALLOW\r\n".encode(encoding))
    assert [s.request for s in result.samples] == [text]


def test_latin_1_is_detected(tmp_path: Path) -> None:
    text = "text;label\n" + "Könnten Sie das Gehalt prüfen, bitte schön?;ESCALATE\n" * 20
    result = read(tmp_path, "x.csv", text.encode("latin-1"))
    assert result.samples[0].request == "Könnten Sie das Gehalt prüfen, bitte schön?"


def test_a_damaged_byte_costs_one_row(tmp_path: Path) -> None:
    lines = [json.dumps({"request": JAPANESE + str(n), "label": "ALLOW"}, ensure_ascii=False)
             for n in range(50)]  # fmt: skip
    raw = bytearray("\n".join(lines).encode())
    raw[raw.index(b"\xe4")] = 0xFF
    result = read(tmp_path, "x.jsonl", bytes(raw))
    assert result.encoding == "utf-8"
    assert len(result.samples) == 49
    assert [(r.line, r.file) for r in result.rejected] == [(1, "x.jsonl")]
    assert "not valid utf-8" in result.rejected[0].reason


@pytest.mark.parametrize(
    ("row", "field", "part"),
    [
        ('{"request":"x","label":"MAYBE"}', "label", "ALLOW, ESCALATE or REFUSE"),
        ('{"request":"x"}', "label", "missing"),
        ('{"label":"ALLOW"}', "request", "no field"),
        ('{"request":"  ","label":"ALLOW"}', "request", "empty"),
        ('{"request":{"a":1},"label":"ALLOW"}', "request", "nested object"),
        ('{"request":["a"],"label":"ALLOW"}', "request", "a list"),
        ('{"request":"x","label":"ALLOW","split":"holdout"}', "split", "validation"),
        ('{"request":"x","label":"ALLOW","tags":{"a":1}}', "tags", "list of words"),
        ('{"request":"x","label"', "", "not valid JSON at character"),
        ("[1]", "", "not an object"),
        ("[" * 5000, "", "nested too deeply"),
    ],
)
def test_rejected_rows_say_where_and_why_and_good_ones_stay(
    tmp_path: Path, row: str, field: str, part: str
) -> None:
    result = read(tmp_path, "x.jsonl", f"{GOOD}\n{row}\n{GOOD.replace('a', 'b', 1)}\n")
    assert len(result.samples) + len(result.rejected) == 3
    (rejected,) = [r for r in result.rejected if r.line == 2]
    assert (rejected.file, rejected.field) == ("x.jsonl", field)
    assert part in rejected.reason
    assert rejected.raw


def test_numbers_where_text_belongs_are_read_and_noted(tmp_path: Path) -> None:
    result = read(tmp_path, "x.jsonl", '{"request":42,"label":"ALLOW","category":1.5,"id":7}')
    assert (result.samples[0].request, result.samples[0].category) == ("42", "1.5")
    assert result.samples[0].id == "7"
    assert {r.field for r in result.repaired} == {"request", "category", "id"}


def test_nul_surrogates_and_decomposed_text_are_repaired(tmp_path: Path) -> None:
    rows = (
        r'{"id":"1","request":"a\u0000b","label":"ALLOW"}'
        "\n"
        r'{"id":"2","request":"x\ud800y \ud83d\ude00","label":"ALLOW"}'
        "\n" + json.dumps({"id": "3", "request": "か\u3099", "label": "ALLOW"}, ensure_ascii=False)
    )
    result = read(tmp_path, "x.jsonl", rows)
    assert [s.request for s in result.samples] == ["ab", "x\ufffdy 😀", "が"]
    assert [(r.line, r.field) for r in result.repaired] == [(1, "request"), (2, "request")]


def test_repeated_ids_become_unique_and_are_noted(tmp_path: Path) -> None:
    rows = "\n".join(GOOD.replace("room", f"room {n}") for n in range(3))
    result = read(tmp_path, "x.jsonl", rows)
    assert [s.id for s in result.samples] == ["a", "a-2", "a-3"]
    assert len(result.repaired) == 2


def test_rows_without_an_id_get_the_same_one_every_time(tmp_path: Path) -> None:
    rows = '{"request":"x","label":"ALLOW"}\n{"request":"y","label":"ALLOW"}'
    first = read(tmp_path, "x.jsonl", rows).samples
    assert read(tmp_path, "y.jsonl", rows).samples == first
    assert len({s.id for s in first}) == 2


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"user_request": "q", "safety_label": "deny", "task_output": "r",
          "safety_rationale": "w"}, ("q", "", "r", "w", Label.REFUSE)),
        ({"instruction": "q", "input": "c", "output": "r", "decision": "comply"},
         ("q", "c", "r", "", Label.ALLOW)),
        ({"input": "q", "verdict": "Escalation"}, ("q", "", "", "", Label.ESCALATE)),
        ({"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q0"},
                       {"role": "assistant", "content": "r0"}, {"role": "user", "content": "q"},
                       {"role": "assistant", "content": "r"}], "label": "ALLOW"},
         ("q", "s\nuser: q0\nassistant: r0", "r", "", Label.ALLOW)),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]},
                       {"role": "assistant", "content": "[REFUSE]"}]},
         ("q", "", "", "", Label.REFUSE)),
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "r"}],
          "label": "ALLOW"}, ("q", "", "r", "", Label.ALLOW)),
    ],
)  # fmt: skip
def test_names_of_other_datasets(
    tmp_path: Path, row: dict[str, object], expected: tuple[object, ...]
) -> None:
    (s,) = read(tmp_path, "x.jsonl", json.dumps(row)).samples
    assert (s.request, s.context, s.response, s.rationale, s.label) == expected


def test_a_mapping_overrules_the_names(tmp_path: Path) -> None:
    text = "request,frage,urteil\nignored,wirklich,deny\n"
    mapping = {"frage": "request", "urteil": "label", "request": ""}
    (sample,) = read(tmp_path, "x.csv", text, mapping=mapping).samples
    assert (sample.request, sample.label) == ("wirklich", Label.REFUSE)


def test_json_array_object_and_pretty_print(tmp_path: Path) -> None:
    rows = [{"request": f"q{n}", "label": "ALLOW"} for n in range(5)]
    for number, document in enumerate([rows, {"version": 1, "data": rows}]):
        for indent in (None, 2):
            result = read(tmp_path, f"{number}.json", json.dumps(document, indent=indent))
            assert [s.request for s in result.samples] == [f"q{n}" for n in range(5)]
            assert result.format == "json"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_large_array_in_a_single_line(tmp_path: Path, encoding: str) -> None:
    rows = [{"request": f"{n} " + "long " * 100, "label": "ALLOW"} for n in range(9000)]
    text = json.dumps(rows)
    assert len(text) > 4 << 20 and "\n" not in text
    result = read(tmp_path, "x.json", text.encode(encoding))
    assert [s.request for s in result.samples] == [row["request"] for row in rows]
    assert result.rejected == [] and result.format == "json"


@pytest.mark.parametrize(
    ("fields", "reason"), [(10**6, "longer than 4 MiB"), (2000, "1,024 fields")]
)
def test_a_row_with_a_million_fields_costs_one_row(
    tmp_path: Path, fields: int, reason: str
) -> None:
    wide = json.dumps({**{f"c{n}": n for n in range(fields)}, "request": "x", "label": "ALLOW"})
    for name, text in (("x.json", f"[{wide}, {GOOD}]"), ("x.jsonl", f"{wide}\n{GOOD}\n")):
        result = read(tmp_path, name, text)
        assert [s.id for s in result.samples] == ["a"]
        assert [reason in r.reason for r in result.rejected] == [True]


def test_a_damaged_element_of_an_array_costs_one_row(tmp_path: Path) -> None:
    text = '[\n{"request":"a","label":"ALLOW"},\n{"request":"b" "label":"ALLOW"},\n' + (
        '{"request":"c","label":"ALLOW"}\n]'
    )
    result = read(tmp_path, "x.json", text)
    assert [s.request for s in result.samples] == ["a", "c"]
    assert [(r.line, r.reason.split(":")[0]) for r in result.rejected] == [(3, "not valid JSON")]


def test_a_truncated_array_keeps_what_is_whole(tmp_path: Path) -> None:
    rows = [{"request": "q" * 500 + str(n), "label": "ALLOW"} for n in range(5000)]
    text = json.dumps(rows, indent=1)
    result = read(tmp_path, "x.json", text[: len(text) // 2])
    assert 2400 < len(result.samples) < 2600
    assert len(result.rejected) == 1


def test_csv_recovers_from_an_unclosed_quote(tmp_path: Path) -> None:
    text = 'request,label\nfine,ALLOW\n"never closed,ALLOW\n' + "also fine,REFUSE\n" * 50
    result = read(tmp_path, "x.csv", text)
    assert len(result.samples) == 51
    (rejected,) = result.rejected
    assert rejected.line == 3
    assert "never closes" in rejected.reason
    assert rejected.raw.startswith('"never closed')


def test_csv_with_line_breaks_in_cells_and_extra_cells(tmp_path: Path) -> None:
    text = 'request,label\r\n"two\r\nlines",ALLOW\r\na,ALLOW,surplus\r\nb,REFUSE,\r\n'
    result = read(tmp_path, "x.csv", text)
    assert [s.request for s in result.samples] == ["two\r\nlines", "b"]
    assert [(r.line, "3 cells" in r.reason) for r in result.rejected] == [(4, True)]


@pytest.mark.parametrize("sign", [",", ";", "\t", "|"])
def test_delimiters(tmp_path: Path, sign: str) -> None:
    text = sign.join(["request", "label", "tags"]) + "\n" + sign.join(["a", "ALLOW", "x"]) + "\n"
    result = read(tmp_path, "x.txt", text)
    assert result.samples[0].tags == ("x",)


def test_parquet_with_messages_and_bad_rows(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    frame = pl.DataFrame(
        {
            "messages": [[{"role": "user", "content": f"q{n}"}] for n in range(3)],
            "label": ["ALLOW", "NOPE", "DENY"],
        }
    )
    frame.write_parquet(path)
    result = read_samples(path)
    assert [(s.request, s.label) for s in result.samples] == [
        ("q0", Label.ALLOW), ("q2", Label.REFUSE)
    ]  # fmt: skip
    assert [(r.line, r.field, r.value) for r in result.rejected] == [(2, "label", "NOPE")]


def test_a_truncated_or_lying_parquet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pl.DataFrame({"request": ["a" * 100] * 1000, "label": ["ALLOW"] * 1000}).write_parquet(path)
    raw = path.read_bytes()
    for broken in (raw[: len(raw) // 2], raw[:-8] + b"\xff\xff\xff\x7fPAR1", b"PAR1PAR1"):
        with pytest.raises(DataError, match="cut off or damaged"):
            read(tmp_path, "y.parquet", broken)


def test_a_parquet_bomb_is_refused_before_it_unpacks(tmp_path: Path) -> None:
    path = tmp_path / "bomb.parquet"
    texts = pl.repeat("A" * 1_000_000, 1080, eager=True).alias("request")
    frame = pl.DataFrame({"request": texts}).with_columns(label=pl.lit("ALLOW"))
    frame.write_parquet(path, compression="zstd", use_pyarrow=False, statistics=False)
    assert path.stat().st_size < 20_000_000
    code = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
from pathlib import Path
from so8t_engine.errors import DataError
from so8t_engine.samples.readers import read_samples
try:
    result = read_samples(Path({str(path)!r}))
    sys.exit(3)
except DataError as error:
    assert "more than 1 GiB of text" in str(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    "content",
    [b"\x89PNG\r\n\x1a\n" + bytes(500), b"PK\x03\x04" + bytes(500), bytes(range(256)) * 40,
     b"\x7fELF" + bytes(1000)],
    ids=["png", "zip", "bytes", "elf"],
)  # fmt: skip
def test_binary_files_are_refused_with_a_sentence(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DataError, match="not a dataset"):
        read(tmp_path, "x.jsonl", content)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_empty_files(tmp_path: Path, content: bytes) -> None:
    try:
        assert read(tmp_path, "x.csv", content).samples == []
    except DataError as error:
        assert "empty" in str(error) or "no rows" in str(error)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(DataError):
            read_samples(path)


def test_a_million_columns_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="columns"):
        read(tmp_path, "x.csv", ",".join(["c"] * 1_000_000) + "\n1\n")


def test_a_file_without_any_sample_is_given_up_early(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="None of the first"):
        read(tmp_path, "x.jsonl", "no json here\n" * 200_000)


def test_cancel_and_progress(tmp_path: Path) -> None:
    text = (GOOD + "\n") * 5000
    seen: list[tuple[int, int]] = []
    read(tmp_path, "x.jsonl", text, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert all(done <= total == len(text) for done, total in seen)
    with pytest.raises(ReadCancelled):
        read(tmp_path, "x.jsonl", text, cancelled=lambda: True)


def test_limit_makes_a_preview(tmp_path: Path) -> None:
    assert len(read(tmp_path, "x.jsonl", (GOOD + "\n") * 5000, limit=10).samples) == 10


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("name", ["x.jsonl", "x.csv", "x.json"])
@pytest.mark.parametrize(
    "mebibytes",
    # python -m pytest -m slow tests/unit/test_samples_readers.py: half a minute, 2 GiB of disk
    [pytest.param(300, id="300MiB"), pytest.param(2048, id="2GiB", marks=pytest.mark.slow)],
)
def test_one_huge_line_is_rejected_in_bounded_memory(
    tmp_path: Path, name: str, mebibytes: int
) -> None:
    path = tmp_path / name
    with path.open("wb") as stream:
        if name == "x.json":
            stream.write(b'[{"request":"a","label":"ALLOW"},\n{"request":"')
        elif name == "x.csv":
            stream.write(b"request,label\na,ALLOW\n")
        else:
            stream.write(GOOD.encode() + b"\n")
        for _ in range(mebibytes):
            stream.write(b"x" * (1 << 20))
        if name == "x.json":
            stream.write(b'","label":"ALLOW"},\n{"request":"b","label":"ALLOW"}]')
        else:
            stream.write(b"\n" + (b"b,ALLOW\n" if name == "x.csv" else GOOD.encode() + b"\n"))
    code = f"""
from pathlib import Path
from so8t_engine.samples.readers import read_samples
result = read_samples(Path({str(path)!r}))
assert len(result.samples) == 2, result
assert len(result.rejected) >= 1, result
status = Path("/proc/self/status").read_text()
print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) < 300 * 1024  # KiB


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(junk=st.binary(max_size=400), name=st.sampled_from(["j.jsonl", "j.csv", "j.json", "j.txt"]))
def test_junk_never_raises_anything_but_data_errors(tmp_path: Path, junk: bytes, name: str) -> None:
    try:
        result = read(tmp_path, name, junk)
    except DataError:
        return
    assert all(isinstance(sample, Sample) for sample in result.samples)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.sampled_from(["good", "{bad", "", '{"request":1}', "[]", "null"]), max_size=20))
def test_every_line_is_a_sample_or_a_rejection(tmp_path: Path, kinds: list[str]) -> None:
    lines = [GOOD.replace('"a"', f'"{n}"') if kind == "good" else kind
             for n, kind in enumerate(kinds)]  # fmt: skip
    try:
        result = read(tmp_path, "x.jsonl", "\n".join(["", *lines, GOOD]))
    except DataError:
        raise AssertionError from None
    assert len(result.samples) == kinds.count("good") + 1
    expected = [n for n, kind in enumerate(kinds, start=2) if kind not in ("good", "")]
    assert [r.line for r in result.rejected] == expected
