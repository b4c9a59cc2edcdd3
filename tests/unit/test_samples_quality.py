"""Duplicates, split, quality, statistics, snapshots, and the headless commands over them."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from so8t_engine.cli_data import data_app
from so8t_engine.labels import LABELS, Label
from so8t_engine.samples.duplicates import (
    THRESHOLD,
    comparison_key,
    exact_groups,
    jaccard,
    near_groups,
    shingles,
)
from so8t_engine.samples.quality import check, fix, row_problems, surplus_duplicates
from so8t_engine.samples.readers import read_samples
from so8t_engine.samples.schema import Sample
from so8t_engine.samples.split import assign_splits, split_table
from so8t_engine.samples.stats import lengths, summarize
from so8t_engine.samples.writers import write_samples
from so8t_engine.workspace.snapshots import content_hash, diff, list_snapshots, take_snapshot
from so8t_engine.workspace.workspace import Workspace

runner = CliRunner()
LONG = "Please reset the password of the shared mailbox for the finance team in Osaka"


def sample(number: int, request: str, label: Label = Label.ALLOW, **more: object) -> Sample:
    return Sample(id=f"r{number}", request=request, label=label, **more)  # type: ignore[arg-type]


def test_near_groups_find_what_people_would_call_the_same() -> None:
    rows = [
        sample(0, LONG),
        sample(1, LONG.upper() + "!!"),
        sample(2, LONG.replace("Osaka", "Kyoto")),
        sample(3, "An entirely different question about lunch"),
        sample(4, "経費精算の締め切りを教えてください。"),
        sample(5, "経費精算の締め切りを教えてください！"),
    ]
    assert exact_groups(rows) == [[0, 1], [4, 5]]
    assert near_groups(rows) == [[0, 1, 2], [4, 5]]


_alphabet = st.sampled_from(["alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf"])
_texts = st.lists(_alphabet, min_size=3, max_size=14).map(" ".join)


@settings(max_examples=60, deadline=None)
@given(st.lists(_texts, min_size=2, max_size=14), st.integers(0, 99), st.floats(0.05, 0.6))
def test_near_duplicates_never_straddle(texts: list[str], seed: int, fraction: float) -> None:
    rows = [
        sample(n, text, LABELS[n % 3], language="ja" if n % 2 else "en")
        for n, text in enumerate(texts)
    ]
    result = assign_splits(rows, validation_fraction=fraction, seed=seed)
    assert [msgspec.structs.replace(s, split="") for s in result] == rows
    assert all(s.split in ("train", "validation") for s in result)
    sets = [shingles(comparison_key(s)) for s in result]
    for a in range(len(result)):
        for b in range(a):
            # MinHash may miss pairs right at the threshold; clear ones it never does.
            if jaccard(sets[a], sets[b]) >= THRESHOLD + 0.1:
                assert result[a].split == result[b].split
    mirrored = assign_splits(rows[::-1], validation_fraction=fraction, seed=seed)
    assert mirrored[::-1] == result


def test_split_is_stratified_seeded_and_keeps_what_is_given() -> None:
    rows = [
        sample(n, f"{n * 7919} question {n * 104729} about {n * 1299709}", LABELS[n % 3],
               language="ja" if n % 2 else "en")
        for n in range(600)
    ]  # fmt: skip
    rows[0] = msgspec.structs.replace(rows[0], split="test")
    first = assign_splits(rows, validation_fraction=0.2, seed=1)
    assert first == assign_splits(rows, validation_fraction=0.2, seed=1)
    assert first != assign_splits(rows, validation_fraction=0.2, seed=2)
    assert first[0].split == "test"
    for counts in split_table(first).values():
        assert 18 <= counts["validation"] <= 22
    again = assign_splits(first, validation_fraction=0.5, seed=9)
    assert again == first


def test_contrast_groups_never_straddle() -> None:
    rows = [
        sample(n, f"{n * 7919} question {n * 104729} about {n * 1299709}", LABELS[n % 3],
               tags=(f"group:{n // 4}", "form:question"))
        for n in range(200)
    ]  # fmt: skip
    result = assign_splits(rows, validation_fraction=0.3, seed=1)
    assert sum(row.split == "validation" for row in result) == pytest.approx(60, abs=8)
    for first in range(0, 200, 4):
        assert len({row.split for row in result[first : first + 4]}) == 1
    given = [msgspec.structs.replace(rows[0], split="test"), *rows[1:4]]
    followed = assign_splits(given, validation_fraction=0.3, seed=1)
    assert [row.split for row in followed] == ["test"] * 4


def test_a_free_row_follows_its_twin_that_has_a_split() -> None:
    for given_split in ("train", "validation", "test"):
        rows = [sample(0, LONG, split=given_split), sample(1, LONG + "?")]
        assert assign_splits(rows, validation_fraction=0.5, seed=0)[1].split == given_split


@pytest.mark.parametrize(
    ("more", "kinds"),
    [
        ({"request": "  "}, {"empty"}),
        ({"request": "ab"}, {"short"}),
        ({"request": "word " * 1000}, {"long"}),
        ({"request": "zero\u200bwidth here"}, {"control"}),
        ({"request": "Ã©tÃ© is garbled text"}, {"mojibake"}),
        ({"request": "Plain English request", "language": "ja"}, {"language"}),
        ({"request": "これは日本語です", "language": "en"}, {"language"}),
        ({"request": "これは日本語です", "language": "ja"}, set()),
        ({"request": "Mail to a.b@example.com now"}, {"personal"}),
        ({"request": "Call 03-1234-5678 now"}, {"personal"}),
        ({"request": "Card 4111 1111 1111 1111 please"}, {"personal"}),
        ({"request": "Invoice 1234 5678 9012 3456 please"}, set()),
        ({"request": "In 2024 there were 12345 rows"}, set()),
        ({"request": "No reason given", "rationale": ""}, {"no_rationale"}),
    ],
)
def test_problems_of_single_rows(more: dict[str, str], kinds: set[str]) -> None:
    row = Sample(**{"id": "1", "label": Label.ALLOW, "rationale": "why", **more})  # type: ignore[arg-type]
    assert set(row_problems(row)) == kinds


def test_check_finds_conflicts_duplicates_and_shortcuts() -> None:
    rows = [
        sample(0, LONG), sample(1, LONG, Label.REFUSE), sample(2, "Same thing twice"),
        sample(3, "same thing twice!"), sample(4, LONG.replace("Osaka", "Kobe"), Label.REFUSE),
    ]  # fmt: skip
    rows += [
        sample(10 + n, f"{'bomb' if n < 15 else 'bread'} number {n * 7919} of {n * 104729}",
               Label.REFUSE if n < 15 else Label.ALLOW)
        for n in range(30)
    ]  # fmt: skip
    report = check(rows)
    found = {finding.kind: finding for finding in report.findings}
    assert found["conflict"].groups == (("r0", "r1", "r4"),)
    assert set(found["duplicate"].groups) == {("r0", "r1"), ("r2", "r3")}
    assert found["near_duplicate"].groups == (("r0", "r1", "r4"),)
    assert report.issues()["r1"] >= {"conflict", "duplicate"}
    assert surplus_duplicates(rows) == ["r3"]  # r1 has another label: never dropped silently
    shortcut = [note for note in report.notes if note.kind == "shortcut"]
    assert {note.query for note in shortcut} == {"word:bomb", "word:bread"}
    assert any(n.kind == "imbalance" and "ESCALATE" in n.text for n in report.notes)


def test_fixes() -> None:
    row = Sample(id="1", request="été au café", label=Label.ALLOW, language="ja")
    garbled = msgspec.structs.replace(row, request=row.request.encode().decode("cp1252"))
    assert fix(garbled, "mojibake").request == row.request
    japanese = "経費の精算".encode().decode("cp932", "ignore")
    assert fix(msgspec.structs.replace(row, request="a\u200bb c"), "control").request == "ab c"
    assert fix(msgspec.structs.replace(row, request="just some words"), "language").language == "en"
    assert fix(row, "personal").tags == ("personal-data",)
    assert fix(msgspec.structs.replace(row, request=japanese), "mojibake").request


def test_statistics_add_up() -> None:
    rows = [sample(n, "x" * (n + 1), LABELS[n % 3], language="en", category=str(n % 2))
            for n in range(90)]  # fmt: skip
    found = summarize(rows, lambda texts: [len(text) // 2 for text in texts])
    assert found.rows == sum(found.labels.values()) == sum(found.characters.counts) == 90
    assert sum(sum(counts.values()) for counts in found.categories.values()) == 90
    assert found.characters.median == 45.5 and found.characters.longest == 90
    assert found.tokens is not None and sum(found.tokens.counts) == 90
    assert summarize([]).characters.longest == 0


@given(st.lists(st.integers(0, 100_000), max_size=60))
def test_histograms_lose_nobody(values: list[int]) -> None:
    found = lengths(values, "characters")
    assert sum(found.counts) == len(values)
    assert len(found.edges) == len(found.counts) + 1


def test_diff_and_snapshots(tmp_path: Path) -> None:
    before = [sample(n, f"question {n}") for n in range(5)]
    after = [
        before[0],
        msgspec.structs.replace(before[1], label=Label.REFUSE, rationale="new"),
        msgspec.structs.replace(before[2], rationale="why"),
        msgspec.structs.replace(before[3], id="other", split="train"),  # same text, another id
        sample(9, "brand new"),
    ]
    found = diff(before, after)
    assert [(one.kind, one.id) for one in found] == [
        ("removed", "r4"), ("relabelled", "r1"), ("edited", "r2"), ("added", "r9")
    ]  # fmt: skip
    assert found[1].fields == ("label", "rationale")
    assert diff(after, after) == []
    assert content_hash(before) == content_hash(before[::-1]) != content_hash(after)
    with Workspace.open(tmp_path) as workspace:
        persona = workspace.create_persona("x")
        taken = [take_snapshot(persona, rows) for rows in (before, after)]
        assert [s.name for s in list_snapshots(persona)] == [s.name for s in taken[::-1]]
        assert taken[0].load() == before


def run(*arguments: object, code: int = 0) -> dict[str, object]:
    result = runner.invoke(data_app, [str(one) for one in arguments] + ["--json"])
    assert result.exit_code == code, result.output
    found: dict[str, object] = json.loads(result.stdout)
    return found


def test_headless_convert_and_persona(tmp_path: Path) -> None:
    source = tmp_path / "x.csv"
    source.write_text("prompt,decision\nHello,comply\nBad,MAYBE\nBoom,deny\n", "utf-8-sig")
    out = tmp_path / "out.jsonl"
    rejected = tmp_path / "rejected.jsonl"
    summary = run("import", source, "--out", out, "--rejected", rejected, code=3)
    assert (summary["imported"], summary["rejected"]) == (2, 1)
    assert [s.label for s in read_samples(out).samples] == [Label.ALLOW, Label.REFUSE]
    assert json.loads(rejected.read_text("utf-8"))["line"] == 3
    root = tmp_path / "w"
    with Workspace.open(root) as workspace:
        workspace.create_persona("Mine")
    where = ("--workspace", root, "--persona", "mine")
    assert run("check", source, code=3)["rejected"] == 1
    assert run("import", source, *where, code=3)["added"] == 2
    assert run("import", out, *where)["added"] == 2
    assert run("import", source, "--mode", "merge", *where, code=3)["added"] == 0
    assert run("check", *where)["issues"]["duplicate"] == 4  # type: ignore[index]
    assert run("dedupe", *where)["removed"] == 2
    assert run("split", "--validation", "0.5", *where)["rows"] == 2
    assert run("stats", *where)["rows"] == 2
    assert run("stats", "-w", root)["rows"] == 2  # the only persona needs no name
    exported = tmp_path / "e.parquet"
    assert run("export", exported, "--query", "label:REFUSE", *where)["rows"] == 1
    changed = run("diff", exported, "now", *where)
    assert (changed["added"], changed["removed"]) == (1, 0)


def test_headless_errors_have_a_sentence_and_a_code(tmp_path: Path) -> None:
    root = tmp_path / "w"
    Workspace.open(root).close()
    bad = tmp_path / "bad.csv"
    bad.write_text("a,b\n1,2\n", "utf-8")
    for arguments, code in (
        (("import", bad, "--out", tmp_path / "o.jsonl"), 3),
        (("import", tmp_path / "none.csv", "--out", tmp_path / "o.jsonl"), 3),
        (("stats", "--workspace", root, "--persona", "nobody"), 5),
        (("stats", "--workspace", tmp_path / "nowhere"), 5),
        (("dedupe", bad), 3),
    ):
        found = run(*arguments, code=code)
        assert found["error"]
    assert not (tmp_path / "o.jsonl").exists()
    held = Workspace.open(root)
    held.create_persona("mine")
    good = tmp_path / "good.jsonl"
    write_samples(good, [sample(1, "hello")])
    assert "another window" in str(
        run("import", good, "--workspace", root, "--persona", "mine", code=5)["error"]
    )
    held.close()
