"""Imports join a dataset by one rule, in the window and on the command line."""

from __future__ import annotations

from typing import get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from so8t_engine.errors import DataError
from so8t_engine.labels import LABELS, Label
from so8t_engine.samples.combine import IMPORT_MODES, ImportMode, carry_out, plan_import
from so8t_engine.samples.corrections import read_corrected
from so8t_engine.samples.readers import ImportResult
from so8t_engine.samples.schema import Sample
from so8t_studio.commands.dataset import import_edit
from so8t_studio.models.sample_list import SampleList

_names = st.sampled_from(["a", "b", "c", "a-2", "a-3"])
_samples = st.builds(
    Sample, id=_names, request=st.sampled_from(["x", "y"]), label=st.sampled_from(LABELS)
)
_unique = st.lists(_samples, max_size=5, unique_by=lambda sample: sample.id)


@settings(max_examples=200, deadline=None)
@given(_unique, _unique, st.sampled_from(IMPORT_MODES))
def test_window_and_command_line_import_alike(
    old: list[Sample], new: list[Sample], mode: ImportMode
) -> None:
    plan = plan_import({sample.id: sample for sample in old}, new, mode)
    expected = carry_out(old, plan, mode)
    rows = SampleList.of(old)
    rows.apply(import_edit(rows, new, mode))
    assert rows.rows == expected
    ids = [sample.id for sample in expected]
    assert len(set(ids)) == len(ids)
    if mode == "replace":
        assert expected == new
    elif mode == "merge":
        by_id = {sample.id: sample for sample in [*old, *new]}
        assert {sample.id: sample for sample in expected} == by_id
        assert ids[: len(old)] == [sample.id for sample in old]
    else:
        assert expected[: len(old)] == old
        added = expected[len(old) :]
        assert [msgspec.structs.replace(s, id="") for s in added] == [
            msgspec.structs.replace(s, id="") for s in new
        ]
    assert set(get_args(ImportMode)) == set(IMPORT_MODES)


def result(kind: str, columns: list[str], mapping: dict[str, str]) -> ImportResult:
    return ImportResult(
        samples=[], rejected=[], encoding="utf-8", format=kind, columns=columns, mapping=mapping
    )


CSV = result("csv", ["text", "decision", "note"], {"text": "request", "decision": "label",
                                                     "note": ""})  # fmt: skip
JSONL = result("jsonl", ["prompt", "decision"], {"prompt": "request", "decision": "label"})


@pytest.mark.parametrize(
    ("file", "text"),
    [
        (CSV, "Shred it,deny,why"),
        (CSV, 'Shred it;deny;"a; b"'),
        (CSV, '{"text": "Shred it", "decision": "deny"}'),
        (JSONL, '{"prompt": "Shred it", "decision": "REFUSE"}'),
        (JSONL, '{"request": "ignored", "prompt": "Shred it", "label": "x", "decision": "deny"}'),
    ],
)
def test_a_corrected_row_is_read_with_the_mapping_in_force(file: ImportResult, text: str) -> None:
    sample = read_corrected(text, 7, file)
    assert (sample.request, sample.label) == ("Shred it", Label.REFUSE)


@pytest.mark.parametrize(
    ("file", "text", "reason"),
    [
        (CSV, "Shred it,deny", "3 columns"),
        (CSV, '"Shred it,deny,', "quotes are not right"),
        (CSV, "Shred it,MAYBE,", "not a label"),
        (CSV, "  ", "empty"),
        (JSONL, '{"prompt": "cut off', "not valid JSON"),
        (JSONL, "[1]", "not an object"),
        (JSONL, '{"prompt": {"a": 1}, "decision": "deny"}', "nested object"),
    ],
)
def test_a_row_that_is_still_wrong_says_why(file: ImportResult, text: str, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        read_corrected(text, 7, file)
