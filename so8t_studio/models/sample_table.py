"""The dataset as a table: filtered, sorted, editable, with precise signals."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from PySide6.QtCore import (
    QAbstractTableModel,
    QCoreApplication,
    QModelIndex,
    QObject,
    QPersistentModelIndex,
    Qt,
    Signal,
    Slot,
)

from so8t_engine.labels import LABEL_INDEX, Label, parse_label
from so8t_engine.samples.query import Query, fold, searchable
from so8t_engine.samples.schema import SPLITS, Sample
from so8t_studio.commands.dataset import relabel, set_field, set_split
from so8t_studio.models.dataset_store import DatasetChange, DatasetStore

Index = QModelIndex | QPersistentModelIndex
SAMPLE_ROLE = int(Qt.ItemDataRole.UserRole) + 1
MAX_PREVIEW = 280
_MAX_RANGES = 64
_MAX_PRECISE = 20_000


def _length(sample: Sample) -> int:
    return len(sample.request)


def _tag_text(sample: Sample) -> str:
    return ", ".join(sample.tags)


class SampleTableModel(QAbstractTableModel):
    """Rows that match :attr:`query`, in sort order.

    The model shows a list of its own, so that it is consistent at every moment; it follows the
    store's changes with begin/end signals for the rows concerned and resets only on a load.
    """

    COLUMNS: ClassVar[tuple[str, ...]] = (
        "label", "request", "context", "response", "rationale", "category", "language", "tags",
        "source", "split", "length", "id",
    )  # fmt: skip
    EDITABLE: ClassVar[frozenset[str]] = frozenset(COLUMNS) - {"length", "id"}

    view_changed = Signal()
    """The rows that are shown changed in number or order."""

    def __init__(self, store: DatasetStore, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._store = store
        self._query = Query()
        self._sort: tuple[tuple[str, bool], ...] = ()
        self._shown_sort: tuple[tuple[str, bool], ...] = ()
        self._view: list[Sample] = list(store.samples)
        self._row_of: dict[str, int] | None = None
        self._titles = self._column_titles()
        store.samples_changed.connect(self._on_samples_changed)

    # What Qt asks

    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008
        """Return the number of rows that match."""
        return 0 if parent.isValid() else len(self._view)

    def columnCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008
        """Return the number of columns."""
        return 0 if parent.isValid() else len(self.COLUMNS)

    def data(self, index: Index, role: int = int(Qt.ItemDataRole.DisplayRole)) -> Any:
        """Return what a cell shows; ``SAMPLE_ROLE`` gives the whole sample."""
        if not index.isValid() or index.row() >= len(self._view):
            return None
        sample = self._view[index.row()]
        name = self.COLUMNS[index.column()]
        if role == Qt.ItemDataRole.DisplayRole:
            return self._shown(sample, name)
        if role == Qt.ItemDataRole.EditRole:
            value = self._value(sample, name)
            return str(value) if name != "length" else value
        if role == SAMPLE_ROLE:
            return sample
        if role == Qt.ItemDataRole.ToolTipRole and name in ("request", "context", "response",
                                                            "rationale"):  # fmt: skip
            return str(getattr(sample, name))[:2000] or None
        if role == Qt.ItemDataRole.TextAlignmentRole:
            if name == "length":
                return int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
            return int(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
        if role == Qt.ItemDataRole.AccessibleTextRole:
            return f"{self._titles[index.column()]}: {self._shown(sample, name)}"
        return None

    def setData(self, index: Index, value: Any, role: int = int(Qt.ItemDataRole.EditRole)) -> bool:
        """Edit a cell through the undo stack; False if the value is not accepted."""
        if role != Qt.ItemDataRole.EditRole or not index.isValid() or self._store.read_only:
            return False
        sample = self._view[index.row()]
        name = self.COLUMNS[index.column()]
        if name not in self.EDITABLE:
            return False
        if name == "label":
            try:
                label = parse_label(value)
            except ValueError:
                return False
            return relabel(self._store, [sample.id], label)
        if name == "split":
            return value in (*SPLITS, "") and set_split(self._store, [sample.id], str(value))
        if name == "tags":
            return set_field(
                self._store, sample.id, "tags", str(value).replace(";", ",").split(",")
            )
        if name == "request" and not str(value).strip():
            return False
        return set_field(self._store, sample.id, name, str(value))

    def flags(self, index: Index) -> Qt.ItemFlag:
        """Return what can be done with a cell."""
        flags = super().flags(index)
        if not index.isValid():
            return flags
        flags |= Qt.ItemFlag.ItemNeverHasChildren
        if self.COLUMNS[index.column()] in self.EDITABLE and not self._store.read_only:
            flags |= Qt.ItemFlag.ItemIsEditable
        return flags

    def headerData(
        self,
        section: int,
        orientation: Qt.Orientation,
        role: int = int(Qt.ItemDataRole.DisplayRole),
    ) -> Any:
        """Return titles of columns and numbers of rows."""
        if role != Qt.ItemDataRole.DisplayRole:
            return None
        if orientation == Qt.Orientation.Horizontal:
            return self._titles[section] if 0 <= section < len(self._titles) else None
        return f"{section + 1:,}"

    def sort(self, column: int, order: Qt.SortOrder = Qt.SortOrder.AscendingOrder) -> None:
        """Sort by a column, then by what was sorted before; -1 returns to file order."""
        if column < 0:
            self.set_sort(())
            return
        name = self.COLUMNS[column]
        rest = tuple(key for key in self._sort if key[0] != name)[:3]
        self.set_sort(((name, order == Qt.SortOrder.DescendingOrder), *rest))

    # What the page asks

    @property
    def query(self) -> Query:
        """The filter in force."""
        return self._query

    def set_query(self, query: Query) -> None:
        """Show only the rows that match."""
        self._query = query
        self._show(self._wanted())

    def set_sort(self, keys: Sequence[tuple[str, bool]]) -> None:
        """Sort by (column name, descending), the first key first; () is file order."""
        self._sort = tuple(keys)
        self._show(self._wanted())

    @property
    def sort_keys(self) -> tuple[tuple[str, bool], ...]:
        """The sort in force."""
        return self._sort

    @property
    def view(self) -> Sequence[Sample]:
        """The rows that are shown; do not change the list."""
        return self._view

    def sample_at(self, row: int) -> Sample | None:
        """Return the sample of a row that is shown."""
        return self._view[row] if 0 <= row < len(self._view) else None

    def row_of(self, sample_id: str) -> int:
        """Return the row of a sample, -1 if it is not shown."""
        if self._row_of is None:
            self._row_of = {sample.id: row for row, sample in enumerate(self._view)}
        return self._row_of.get(sample_id, -1)

    def ids(self) -> list[str]:
        """Return the identifiers of all rows that are shown."""
        return [sample.id for sample in self._view]

    def refresh(self) -> None:
        """Apply the filter again, after something outside of the samples changed it."""
        self._show(self._wanted())

    # Following the store

    @Slot(object)
    def _on_samples_changed(self, change: DatasetChange) -> None:
        if change.kind == "loaded" or change.edit is None:
            self.beginResetModel()
            self._view = self._wanted()
            self._row_of = None
            self.endResetModel()
            self.view_changed.emit()
            return
        edit = change.edit
        if len(edit.changed) == 1 and not edit.removed and not edit.inserted:
            self._follow_one(*edit.changed[0])
            return
        fresh = {new.id: new for _, new in edit.changed}
        if edit.removed and edit.inserted:  # a row may leave and come back with other contents
            gone = {sample.id for _, sample in edit.removed}
            fresh.update((sample.id, sample) for _, sample in edit.inserted if sample.id in gone)
        if fresh:
            self._refresh_cells(fresh)
        if edit.removed or edit.inserted or self._sort or not self._query.is_empty:
            self._show(self._wanted())

    def _follow_one(self, old: Sample, new: Sample) -> None:
        """Follow the edit of one row without looking at all the others."""
        row = self.row_of(old.id)
        matches = self._query.is_empty or self._query.matches(new, searchable(new))
        if row >= 0 and matches and not self._sort:
            self._view[row] = new
            self._cells_changed(row, row)
        elif row >= 0 or matches:
            if row >= 0:
                self._view[row] = new
                self._cells_changed(row, row)
            self._show(self._wanted())

    def _refresh_cells(self, fresh: dict[str, Sample]) -> None:
        """Put new values into rows that are shown and announce the ranges of them."""
        view = self._view
        rows = [row for row, sample in enumerate(view) if sample.id in fresh]
        for row in rows:
            view[row] = fresh[view[row].id]
        ranges = _ranges(rows)
        if len(ranges) > _MAX_RANGES:  # one wide signal repaints faster than thousands of them
            ranges = [(rows[0], rows[-1])]
        for first, last in ranges:
            self._cells_changed(first, last)

    def _cells_changed(self, first: int, last: int) -> None:
        self.dataChanged.emit(self.index(first, 0), self.index(last, len(self.COLUMNS) - 1))

    def _wanted(self) -> list[Sample]:
        rows = self._query.select(self._store.samples, self._store.texts)
        for name, descending in reversed(self._sort):
            rows.sort(key=self._sort_key(name), reverse=descending)
        return rows

    def _show(self, wanted: list[Sample]) -> None:
        """Move from the rows that are shown to ``wanted`` with as few signals as possible."""
        old = self._view
        if len(old) == len(wanted) and all(a is b for a, b in zip(old, wanted, strict=True)):
            return
        if (
            self._sort != self._shown_sort
            and len(old) == len(wanted)
            and ({s.id for s in old} == {s.id for s in wanted})
        ):
            self._reorder(wanted)
        else:
            self._splice(wanted)
        self._shown_sort = self._sort
        self.view_changed.emit()

    def _reorder(self, wanted: list[Sample]) -> None:
        """The same rows in another order."""
        self.layoutAboutToBeChanged.emit()
        before = self.persistentIndexList()
        ids = [self._view[index.row()].id for index in before]
        self._view = wanted
        self._row_of = None
        after = [
            self.index(self.row_of(one), index.column())
            for one, index in zip(ids, before, strict=True)
        ]
        self.changePersistentIndexList(before, after)
        self.layoutChanged.emit()

    def _splice(self, wanted: list[Sample]) -> None:
        """Remove and insert ranges; one block each where there would be very many ranges."""
        if max(len(self._view), len(wanted)) > _MAX_PRECISE:  # comparing sets would take too long
            self._replace_block(wanted)
            return
        keep = {sample.id for sample in wanted}
        removed = _ranges(row for row, sample in enumerate(self._view) if sample.id not in keep)
        shown = {sample.id for sample in self._view}
        survivors = [sample.id for sample in self._view if sample.id in keep]
        in_order = survivors == [sample.id for sample in wanted if sample.id in shown]
        inserted = _ranges(row for row, sample in enumerate(wanted) if sample.id not in shown)
        if not in_order or len(removed) + len(inserted) > _MAX_RANGES:
            self._replace_block(wanted)
            return
        for first, last in reversed(removed):
            self.beginRemoveRows(QModelIndex(), first, last)
            del self._view[first : last + 1]
            self._row_of = None
            self.endRemoveRows()
        for first, last in inserted:
            self.beginInsertRows(QModelIndex(), first, last)
            self._view[first:first] = wanted[first : last + 1]
            self._row_of = None
            self.endInsertRows()

    def _replace_block(self, wanted: list[Sample]) -> None:
        """Replace everything between the common start and the common end."""
        old = self._view
        shorter = min(len(old), len(wanted))
        start = 0
        while start < shorter and old[start] is wanted[start]:
            start += 1
        end = 0
        while end < shorter - start and old[-1 - end] is wanted[-1 - end]:
            end += 1
        if len(old) - end > start:
            self.beginRemoveRows(QModelIndex(), start, len(old) - end - 1)
            self._view = old[:start] + old[len(old) - end :]
            self._row_of = None
            self.endRemoveRows()
        if len(wanted) - end > start:
            self.beginInsertRows(QModelIndex(), start, len(wanted) - end - 1)
            self._view = wanted
            self._row_of = None
            self.endInsertRows()

    # Values

    def _column_titles(self) -> tuple[str, ...]:
        tr = self.tr
        return (
            tr("Label"), tr("Request"), tr("Context"), tr("Response"), tr("Rationale"),
            tr("Category"), tr("Language"), tr("Tags"), tr("Source"), tr("Split"), tr("Length"),
            tr("Identifier"),
        )  # fmt: skip

    def column_title(self, name: str) -> str:
        """Return the title of a column."""
        return self._titles[self.COLUMNS.index(name)]

    def _value(self, sample: Sample, name: str) -> Any:
        if name == "length":
            return len(sample.request)
        if name == "tags":
            return _tag_text(sample)
        return getattr(sample, name)

    def _shown(self, sample: Sample, name: str) -> str:
        if name == "label":
            return sample.label.value
        if name == "length":
            return f"{len(sample.request):,}"
        if name == "split":
            return sample.split or QCoreApplication.translate("SampleTableModel", "auto")
        return preview(str(self._value(sample, name)))

    @staticmethod
    def _sort_key(name: str) -> Callable[[Sample], Any]:
        if name == "label":
            return lambda sample: LABEL_INDEX[Label(sample.label)]
        if name == "length":
            return _length
        if name == "tags":
            return _tag_text
        return lambda sample: fold(getattr(sample, name))


def preview(text: str) -> str:
    """Return the start of a text on one logical line, so that painting a cell stays cheap."""
    if len(text) > MAX_PREVIEW:
        text = text[:MAX_PREVIEW] + "…"
    return " ".join(text.split()) if ("\n" in text or "\r" in text or "\t" in text) else text


def is_right_to_left(text: str) -> bool:
    """Tell whether the first strong character of a text runs right to left."""
    for sign in text[:80]:
        direction = unicodedata.bidirectional(sign)
        if direction in ("R", "AL"):
            return True
        if direction == "L":
            return False
    return False


def _ranges(rows: Any) -> list[tuple[int, int]]:
    """Return ascending row numbers as inclusive ranges."""
    ranges: list[tuple[int, int]] = []
    for row in rows:
        if ranges and row == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], row)
        else:
            ranges.append((row, row))
    return ranges
