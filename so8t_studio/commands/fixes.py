"""Undoable fixes of what the quality check found."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from PySide6.QtCore import QCoreApplication

from so8t_engine.labels import LABEL_INDEX
from so8t_engine.samples.quality import fix, surplus, surplus_duplicates
from so8t_engine.samples.schema import Sample
from so8t_studio.commands.dataset import push, rows_text
from so8t_studio.models.dataset_store import DatasetStore
from so8t_studio.models.sample_list import Edit

Groups = Sequence[Sequence[str]]


def _tr(text: str) -> str:
    return QCoreApplication.translate("DatasetCommands", text)


def fix_edit(store: DatasetStore, kind: str, ids: Sequence[str], groups: Groups = ()) -> Edit:
    """Return the edit that puts a kind of problem right.

    Args:
        store: whose rows; rows that are gone since the check are passed over.
        kind: one of :data:`so8t_engine.samples.quality.FIXABLE`.
        ids: the rows of the finding.
        groups: which of them belong together.
    """
    rows = [sample for sample in map(store.sample, ids) if sample is not None]
    found = [[sample for sample in map(store.sample, group) if sample is not None]
             for group in groups]  # fmt: skip
    if kind == "duplicate":
        return store.rows.removal(surplus_duplicates(rows))
    if kind == "near_duplicate":
        return store.rows.removal(surplus(found))
    if kind == "empty":
        return store.rows.removal(sample.id for sample in rows if not sample.request.strip())
    if kind == "conflict":
        return _strictest(found)
    if kind == "leak":
        return _together(found)
    pairs = [(sample, fix(sample, kind)) for sample in rows]
    return Edit(changed=tuple((old, new) for old, new in pairs if old != new))


def _strictest(groups: Sequence[Sequence[Sample]]) -> Edit:
    """Give all rows of a group the label of the most careful one."""
    replace = msgspec.structs.replace
    changed = []
    for group in groups:
        label = max((sample.label for sample in group), key=LABEL_INDEX.__getitem__, default=None)
        for sample in group:
            if label is not None and sample.label is not label:
                changed.append((sample, replace(sample, label=label)))
    return Edit(changed=tuple(changed), fields=("label",))


def _together(groups: Sequence[Sequence[Sample]]) -> Edit:
    """Move rows to training whose near-duplicates are trained on; the test split stays."""
    replace = msgspec.structs.replace
    changed = []
    for group in groups:
        splits = {sample.split for sample in group}
        if "train" in splits and "test" not in splits:
            changed += [(sample, replace(sample, split="train")) for sample in group
                        if sample.split == "validation"]  # fmt: skip
    return Edit(changed=tuple(changed), fields=("split",))


def fix_title(kind: str, edit: Edit) -> str:
    """Return the readable name of a fix in the undo history."""
    titles = {
        "duplicate": _tr("Delete repetitions ({rows})"),
        "near_duplicate": _tr("Delete near-repetitions ({rows})"),
        "empty": _tr("Delete empty requests ({rows})"),
        "conflict": _tr("Give {rows} the strictest label of their group"),
        "leak": _tr("Move {rows} to train, beside their near-duplicates"),
        "control": _tr("Remove control characters from {rows}"),
        "mojibake": _tr("Repair the encoding of {rows}"),
        "language": _tr("Set the language of {rows}"),
        "personal": _tr("Tag {rows} with personal-data"),
    }
    text = titles.get(kind, _tr("Tag {rows} for review"))
    return text.format(rows=rows_text(len(edit.removed) + len(edit.changed)))


def fix_rows(store: DatasetStore, kind: str, ids: Sequence[str], groups: Groups = ()) -> bool:
    """Put a kind of problem right as one undo step; False if there is nothing to do."""
    edit = fix_edit(store, kind, ids, groups)
    return push(store, fix_title(kind, edit), edit)
