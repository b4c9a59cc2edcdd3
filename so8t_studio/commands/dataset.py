"""Undoable edits of the dataset. Each bulk edit is one command with a readable name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import Any

import msgspec
from PySide6.QtCore import QCoreApplication
from PySide6.QtGui import QUndoCommand

from so8t_engine.labels import Label
from so8t_engine.samples.combine import ImportMode, plan_import
from so8t_engine.samples.fields import clean_tags, clean_text
from so8t_engine.samples.query import SearchCancelled
from so8t_engine.samples.query_terms import (
    REGEX_SECONDS,
    QueryError,
    compile_regex,
    pattern_error,
    too_slow,
)
from so8t_engine.samples.schema import Sample, new_sample_id
from so8t_studio.models.dataset_store import DatasetStore
from so8t_studio.models.sample_list import Edit, SampleList

TEXT_FIELDS = ("request", "context", "response", "rationale", "category", "language", "source")
_MERGE_ID = 0x5A1


def _tr(text: str) -> str:
    return QCoreApplication.translate("DatasetCommands", text)


def rows_text(count: int) -> str:
    """Return “1 row” or “1,234 rows”."""
    return _tr("1 row") if count == 1 else _tr("{count} rows").format(count=f"{count:,}")


class EditCommand(QUndoCommand):
    """One edit of the store. Commands with the same ``merge_key`` in a row become one."""

    def __init__(self, store: DatasetStore, title: str, edit: Edit, merge_key: str = "") -> None:
        super().__init__(title)
        self._store = store
        self.edit = edit
        self.merge_key = merge_key

    def redo(self) -> None:
        """Carry the edit out."""
        self._store.apply(self.edit)

    def undo(self) -> None:
        """Take the edit back."""
        self._store.apply(self.edit.inverse())

    def id(self) -> int:
        """Return the number by which Qt finds commands that may merge; -1 never merges."""
        return _MERGE_ID if self.merge_key else -1

    def mergeWith(self, other: QUndoCommand) -> bool:
        """Swallow the next command if it goes on typing in the same field."""
        if not isinstance(other, EditCommand) or other.merge_key != self.merge_key:
            return False
        changed = tuple(
            (old, new)
            for (old, _), (_, new) in zip(self.edit.changed, other.edit.changed, strict=True)
        )
        self.edit = Edit(changed=changed, fields=self.edit.fields)
        return True


def push(
    store: DatasetStore, title: str, edit: Edit, *, merge_key: str = "", initiator: object = None
) -> bool:
    """Carry out an edit through the undo stack; False if there is nothing to do."""
    if edit.is_empty or store.read_only:
        return False
    store.announce_as(initiator)
    try:
        store.undo_stack.push(EditCommand(store, title, edit, merge_key))
    finally:
        store.announce_as(None)
    return True


def _chosen(store: DatasetStore, ids: Iterable[str]) -> list[Sample]:
    """Return the rows of identifiers, in loops that run in C."""
    return list(map(store.rows.rows.__getitem__, map(store.rows.positions().__getitem__, ids)))


def _change(
    store: DatasetStore,
    ids: Iterable[str],
    change: Callable[[Sample], Sample],
    fields: tuple[str, ...] = (),
) -> Edit:
    pairs = [(old, change(old)) for old in _chosen(store, ids)]
    changed = tuple([(old, new) for old, new in pairs if new is not old and new != old])
    return Edit(changed=changed, fields=fields)


def _set(store: DatasetStore, ids: Iterable[str], field: str, value: str) -> Edit:
    """Return the edit that gives rows one value of one field."""
    replace, value_of = msgspec.structs.replace, attrgetter(field)
    old = [sample for sample in _chosen(store, ids) if value_of(sample) != value]
    new = [replace(sample, **{field: value}) for sample in old]
    return Edit(changed=tuple(zip(old, new, strict=True)), fields=(field,))


def add_sample(
    store: DatasetStore, sample: Sample | None = None, *, position: int | None = None
) -> str:
    """Add one row (by default an empty ESCALATE) and return its identifier, '' if refused."""
    sample = sample or Sample(id=new_sample_id(), request="", label=Label.ESCALATE)
    if sample.id in store.rows:
        sample = msgspec.structs.replace(sample, id=new_sample_id())
    done = push(store, _tr("Add a row"), store.rows.insertion([sample], position))
    return sample.id if done else ""


def delete_samples(store: DatasetStore, ids: Iterable[str]) -> bool:
    """Remove rows."""
    edit = store.rows.removal(ids)
    return push(store, _tr("Delete {rows}").format(rows=rows_text(len(edit.removed))), edit)


def relabel(store: DatasetStore, ids: Iterable[str], label: Label) -> bool:
    """Give rows a label."""
    edit = _set(store, ids, "label", label)
    title = _tr("Set {rows} to {label}")
    return push(store, title.format(rows=rows_text(len(edit.changed)), label=label.value), edit)


def set_split(store: DatasetStore, ids: Iterable[str], split: str) -> bool:
    """Put rows into a split; '' lets each run decide."""
    edit = _set(store, ids, "split", split)
    title = _tr("Move {rows} to {split}")
    names = {"": _tr("automatic split")}
    return push(
        store,
        title.format(rows=rows_text(len(edit.changed)), split=names.get(split, split)),
        edit,
    )


def assign_all_splits(store: DatasetStore, samples: Sequence[Sample]) -> bool:
    """Take over the splits of ``samples``, which carry identifiers of the store."""
    wanted = {sample.id: sample.split for sample in samples}
    ids = [sample.id for sample in store.samples if sample.id in wanted]
    replace = msgspec.structs.replace
    edit = _change(store, ids, lambda s: replace(s, split=wanted[s.id]), ("split",))
    return push(store, _tr("Split {rows}").format(rows=rows_text(len(edit.changed))), edit)


def retag(
    store: DatasetStore, ids: Iterable[str], *, add: Iterable[str] = (), remove: Iterable[str] = ()
) -> bool:
    """Add and remove tags."""
    added, removed = clean_tags(add), frozenset(remove)

    def change(sample: Sample) -> Sample:
        tags = clean_tags((*(tag for tag in sample.tags if tag not in removed), *added))
        return msgspec.structs.replace(sample, tags=tags)

    edit = _change(store, ids, change)
    if added:
        title = _tr("Tag {rows} with {tags}").format(
            rows=rows_text(len(edit.changed)), tags=", ".join(added)
        )
    else:
        title = _tr("Remove tags from {rows}").format(rows=rows_text(len(edit.changed)))
    return push(store, title, edit)


def set_field(
    store: DatasetStore,
    sample_id: str,
    field: str,
    value: Any,
    *,
    session: str = "",
    initiator: object = None,
) -> bool:
    """Change one field of one row. ``session`` merges consecutive edits of the same field."""
    if field in TEXT_FIELDS:
        value = clean_text(str(value))[0]
        if field in ("category", "language", "source"):
            value = value.strip()
    elif field == "tags":
        value = clean_tags(value)
    edit = _change(store, [sample_id], lambda s: msgspec.structs.replace(s, **{field: value}))
    key = f"{sample_id}/{field}/{session}" if session else ""
    title = _tr("Edit {field}").format(field=field)
    return push(store, title, edit, merge_key=key, initiator=initiator)


def find_replace(
    store: DatasetStore,
    ids: Iterable[str],
    find: str,
    replacement: str,
    *,
    fields: Sequence[str] = ("request",),
    regex: bool = False,
    case_sensitive: bool = False,
    whole_word: bool = False,
) -> int:
    """Replace text in fields of rows; returns the number of rows that changed.

    Raises:
        QueryError: if the regular expression or its replacement is not valid, or takes too long.
    """
    edit = find_replace_edit(
        _chosen(store, ids), find, replacement, fields=fields, regex=regex,
        case_sensitive=case_sensitive, whole_word=whole_word,
    )  # fmt: skip
    push(store, replace_title(find, edit), edit)
    return len(edit.changed)


def replace_title(find: str, edit: Edit) -> str:
    """Return the readable name of a find-and-replace in the undo history."""
    title = _tr("Replace “{find}” in {rows}")
    return title.format(find=find[:40], rows=rows_text(len(edit.changed)))


def find_replace_edit(
    samples: Sequence[Sample],
    find: str,
    replacement: str,
    *,
    fields: Sequence[str],
    regex: bool,
    case_sensitive: bool,
    whole_word: bool,
    cancelled: Callable[[], bool] = bool,
) -> Edit:
    """Return what :func:`find_replace` would change; a row never loses its whole request.

    It touches nothing of Qt, so that it may run in the background.

    Raises:
        QueryError: if the regular expression or its replacement is not valid, or takes too long.
        SearchCancelled: if ``cancelled`` said so; it is asked every thousand rows.
    """
    if not find or not fields:
        return Edit()
    source = find if regex else re.escape(find)
    if whole_word:
        source = rf"(?<!\w)(?:{source})(?!\w)"
    pattern = compile_regex(source, 0 if case_sensitive else re.IGNORECASE)
    new = replacement if regex else (lambda _match: replacement)

    def put(text: str) -> str:
        if not text:
            return text
        return clean_text(pattern.sub(new, text, timeout=REGEX_SECONDS))[0]

    changed = []
    try:
        for number, sample in enumerate(samples):
            if number % 1000 == 0 and cancelled():
                raise SearchCancelled
            values = {field: put(getattr(sample, field)) for field in fields}
            if all(getattr(sample, field) == text for field, text in values.items()):
                continue
            if values.get("request", "x").strip():
                changed.append((sample, msgspec.structs.replace(sample, **values)))
    except TimeoutError as error:
        raise too_slow(find) from error
    except (pattern_error, IndexError) as error:
        raise QueryError(f"The replacement “{replacement}” is not valid: {error}.") from error
    return Edit(changed=tuple(changed), fields=tuple(fields))


def import_edit(rows: SampleList, samples: Sequence[Sample], mode: ImportMode) -> Edit:
    """Return the edit that brings foreign samples in, as :func:`plan_import` says."""
    positions = rows.positions()
    wanted = [sample for sample in samples if sample.id in positions]
    known = {sample.id: rows.rows[positions[sample.id]] for sample in wanted}
    if mode == "append" and known:  # the numbers behind repeated identifiers must be free as well
        known = {sample.id: sample for sample in rows.rows}
    plan = plan_import(known, samples, mode)
    removed = tuple(enumerate(rows.rows)) if mode == "replace" else ()
    start = 0 if mode == "replace" else len(rows)
    return Edit(removed, tuple(plan.changed), tuple(enumerate(plan.fresh, start)))


def import_samples(
    store: DatasetStore, samples: Sequence[Sample], *, mode: ImportMode = "append", source: str = ""
) -> Edit:
    """Bring foreign samples in and return the edit that did it."""
    edit = import_edit(store.rows, samples, mode)
    count = len(edit.inserted) + len(edit.changed)
    title = _tr("Import {rows} from {file}") if source else _tr("Import {rows}")
    push(store, title.format(rows=rows_text(count), file=source), edit)
    return edit


def restore_edit(rows: SampleList, wanted: Sequence[Sample]) -> Edit:
    """Return the edit after which the dataset is exactly ``wanted``, in that order."""
    target = {sample.id: sample for sample in wanted}
    common = [sample.id for sample in rows.rows if sample.id in target]
    if common != [sample.id for sample in wanted if sample.id in rows]:
        return Edit(removed=tuple(enumerate(rows.rows)), inserted=tuple(enumerate(wanted)))
    removed = tuple((n, s) for n, s in enumerate(rows.rows) if s.id not in target)
    changed = tuple((s, target[s.id]) for s in rows.rows if s.id in target and s != target[s.id])
    inserted = tuple((n, s) for n, s in enumerate(wanted) if s.id not in rows)
    return Edit(removed=removed, changed=changed, inserted=inserted)


def restore_title(name: str) -> str:
    """Return the readable name of going back to a snapshot in the undo history."""
    return _tr("Restore the snapshot {name}").format(name=name)


def push_recovered(store: DatasetStore, wanted: Sequence[Sample]) -> bool:
    """Bring back what a crashed window had not saved."""
    return push(store, _tr("Recover unsaved edits"), restore_edit(store.rows, wanted))


def restore_rows(store: DatasetStore, pairs: Sequence[tuple[Sample | None, Sample | None]]) -> bool:
    """Give rows back what they were: (before, after) as a difference says it."""
    rows = store.rows
    changed, removed, inserted = [], [], []
    for before, after in pairs:
        current = rows.get(after.id) if after is not None else None
        if before is None:
            if current is not None:
                removed.append(current.id)
        elif current is not None:
            # The identifier stays what it is now: the rows may have been paired by their text.
            restored = msgspec.structs.replace(before, id=current.id, split=current.split)
            if restored != current:
                changed.append((current, restored))
        elif before.id not in rows:
            inserted.append(before)
    gone = rows.removal(removed).removed
    start = len(rows) - len(gone)
    edit = Edit(
        removed=gone,
        changed=tuple(changed),
        inserted=tuple((start + number, sample) for number, sample in enumerate(inserted)),
    )
    return push(store, _tr("Restore {rows}").format(rows=rows_text(len(pairs))), edit)
