"""The dataset as a table: filtered, sorted, editable, with precise signals."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import compress, count
from operator import attrgetter, is_, is_not
from typing import Any, ClassVar

from PySide6.QtCore import (
    QAbstractTableModel,
    QModelIndex,
    QObject,
    QPersistentModelIndex,
    Qt,
    Signal,
    Slot,
)

from so8t_engine.labels import parse_label
from so8t_engine.samples.query import Query, searchable
from so8t_engine.samples.query_terms import QueryError
from so8t_engine.samples.schema import SPLITS, Sample
from so8t_studio.commands.dataset import relabel, set_field, set_split
from so8t_studio.models.dataset_store import DatasetChange, DatasetStore
from so8t_studio.models.row_order import RowOrder
from so8t_studio.models.sample_cells import (
    COLUMNS,
    EDITABLE,
    cell_text,
    cell_value,
    column_titles,
)
from so8t_studio.models.sample_list import Edit

Index = QModelIndex | QPersistentModelIndex
SAMPLE_ROLE = int(Qt.ItemDataRole.UserRole) + 1
_MAX_RANGES = 64
_MAX_PRECISE = 20_000
_id_of = attrgetter("id")
_CELL = Qt.ItemFlag.ItemIsSelectable | Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemNeverHasChildren
_EDITABLE_CELL = _CELL | Qt.ItemFlag.ItemIsEditable


class SampleTableModel(QAbstractTableModel):
    """Rows that match :attr:`query`, in sort order.

    The model shows a list of its own, so that it is consistent at every moment; it follows the
    store's changes with begin/end signals for the rows concerned and resets only on a load.
    """

    COLUMNS: ClassVar[tuple[str, ...]] = COLUMNS
    EDITABLE: ClassVar[frozenset[str]] = EDITABLE

    view_changed = Signal()
    """The rows that are shown changed in number or order."""
    query_failed = Signal(str)
    """The filter cannot be applied to the rows as they are now and was dropped: why."""

    def __init__(self, store: DatasetStore, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._store = store
        self._order = RowOrder(store)
        self._shown_order: tuple[object, ...] = ((), 0)
        self._view: list[Sample] = list(store.samples)
        self._row_of: dict[str, int] | None = None
        self._moving = False
        self._titles = column_titles()
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
            return cell_text(sample, name)
        if role == Qt.ItemDataRole.EditRole:
            value = cell_value(sample, name)
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
            return f"{self._titles[index.column()]}: {cell_text(sample, name)}"
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
        """Return what can be done with a cell. Qt asks this for every cell of a selection."""
        if not index.isValid():
            return Qt.ItemFlag.NoItemFlags
        if self.COLUMNS[index.column()] in self.EDITABLE and not self._store.read_only:
            return _EDITABLE_CELL
        return _CELL

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
            return self._header(section) if 0 <= section < len(self._titles) else None
        return f"{section + 1:,}"

    def _header(self, section: int) -> str:
        """Return the title; of several sort keys, their rank, and the direction of the lower ones.

        The view draws the direction of the first key itself.
        """
        names = [name for name, _ in self._order.sort]
        name = self.COLUMNS[section]
        if len(names) < 2 or name not in names:
            return self._titles[section]
        place = names.index(name)
        arrow = "" if not place else "▴" if self._order.sort[place][1] else "▾"
        return f"{self._titles[section]}  {place + 1}{arrow}"

    def sort(self, column: int, order: Qt.SortOrder = Qt.SortOrder.AscendingOrder) -> None:
        """Sort by a column, then by what was sorted before; -1 returns to file order."""
        if column < 0:
            self.set_sort(())
            return
        name = self.COLUMNS[column]
        rest = tuple(key for key in self._order.sort if key[0] != name)[:3]
        self.set_sort(((name, order == Qt.SortOrder.DescendingOrder), *rest))

    # What the page asks

    def column_title(self, name: str) -> str:
        """Return the title of a column."""
        return self._titles[self.COLUMNS.index(name)]

    @property
    def query(self) -> Query:
        """The filter in force."""
        return self._order.query

    def set_query(self, query: Query, found: list[Sample] | None = None) -> None:
        """Show only the rows that match.

        Args:
            query: the filter from now on.
            found: the rows of the store that match it, where they were looked for elsewhere.

        Raises:
            QueryError: if a regular expression takes too long; the old filter stays then.
        """
        before, self._order.query = self._order.query, query
        try:
            wanted = self._order.sorted(found) if found is not None else self._order.wanted()
        except QueryError:
            self._order.query = before
            raise
        self._show(wanted)

    def set_sort(self, keys: Sequence[tuple[str, bool]]) -> None:
        """Sort by (column name, descending), the first key first; () is file order."""
        self._order.sort = tuple(key for key in keys if key[0] in self.COLUMNS)
        self._show(self._wanted_or_all())
        self.headerDataChanged.emit(Qt.Orientation.Horizontal, 0, len(self.COLUMNS) - 1)

    @property
    def sort_keys(self) -> tuple[tuple[str, bool], ...]:
        """The sort in force."""
        return self._order.sort

    @property
    def view(self) -> Sequence[Sample]:
        """The rows that are shown; do not change the list."""
        return self._view

    def sample_at(self, row: int) -> Sample | None:
        """Return the sample of a row that is shown."""
        return self._view[row] if 0 <= row < len(self._view) else None

    def row_of(self, sample_id: str) -> int:
        """Return the row of a sample, -1 if it is not shown."""
        if self._row_of is None and not self._order.is_ordered and not self._moving:
            return self._row_by_position(sample_id)
        if self._row_of is None:
            self._row_of = dict(zip(map(_id_of, self._view), count(), strict=False))
        return self._row_of.get(sample_id, -1)

    def _row_by_position(self, sample_id: str) -> int:
        """In file order a row is found by halving, without a dictionary of all rows."""
        positions = self._store.rows.positions()
        place = positions.get(sample_id, -1)
        if place < 0:
            return -1
        row = bisect_left(self._view, place, key=lambda sample: positions[sample.id])
        return row if row < len(self._view) and self._view[row].id == sample_id else -1

    def ids(self) -> list[str]:
        """Return the identifiers of all rows that are shown."""
        return list(map(_id_of, self._view))

    def refresh(self) -> None:
        """Apply the filter again, after something outside of the samples changed it."""
        self._show(self._wanted_or_all())

    def set_rank(self, rank: Mapping[str, int]) -> None:
        """Show rows with the same rank together: identifier → rank; {} is file order."""
        self._order.rank = rank

    # Following the store

    @Slot(object)
    def _on_samples_changed(self, change: DatasetChange) -> None:
        self._order.rows_changed()
        edit = change.edit
        if change.kind == "loaded" or edit is None:
            self._order.rank = {}
            self.beginResetModel()
            self._view = self._wanted_or_all()
            self._row_of = None
            self.endResetModel()
            self.view_changed.emit()
            return
        stays = not edit.removed and not edit.inserted
        if len(edit.changed) == 1 and stays:
            self._follow_one(*edit.changed[0])
            return
        everything = self._order.query.is_empty and not self._order.is_ordered
        if everything and stays and len(edit.changed) > _MAX_PRECISE:
            self._view = list(self._store.samples)
            self._cells_changed(0, len(self._view) - 1)
            return
        fresh = {new.id: new for _, new in edit.changed}
        if edit.removed and edit.inserted:  # a row may leave and come back with other contents
            gone = {sample.id for _, sample in edit.removed}
            fresh.update((sample.id, sample) for _, sample in edit.inserted if sample.id in gone)
        if fresh:
            self._refresh_cells(fresh)
        if not everything or not stays:
            self._show(self._wanted_after(edit))

    def _follow_one(self, old: Sample, new: Sample) -> None:
        """Follow the edit of one row without looking at all the others."""
        row = self.row_of(old.id)
        matches = self._matches(new)
        if row >= 0:
            self._view[row] = new
            self._cells_changed(row, row)
        if row >= 0 and not matches:
            self._remove(row, row)
            self.view_changed.emit()
        elif row < 0 and matches:
            place = self._order.place_of(new, self._view)
            self.beginInsertRows(QModelIndex(), place, place)
            self._view.insert(place, new)
            self._row_of = None
            self.endInsertRows()
            self.view_changed.emit()
        elif row >= 0 and self._order.is_ordered:
            self._move(row, new)

    def _move(self, row: int, sample: Sample) -> None:
        """Put a row where its new values belong."""
        others = self._view[:row] + self._view[row + 1 :]
        place = self._order.place_of(sample, others)
        if place == row:
            return
        end = place if place < row else place + 1  # as Qt counts, before the row has left
        self.beginMoveRows(QModelIndex(), row, row, QModelIndex(), end)
        others.insert(place, sample)
        self._view = others
        self._row_of = None
        self.endMoveRows()
        self.view_changed.emit()

    def _matches(self, sample: Sample) -> bool:
        try:
            return self._order.query.is_empty or self._order.query.matches(
                sample, searchable(sample)
            )
        except QueryError as error:
            self._drop_query(error)
            return True

    def _drop_query(self, error: QueryError) -> None:
        self._order.query = Query()
        self.query_failed.emit(str(error))

    def _refresh_cells(self, fresh: dict[str, Sample]) -> None:
        """Put new values into rows that are shown and announce the ranges of them."""
        view = self._view
        rows = list(compress(count(), map(fresh.__contains__, map(_id_of, view))))
        for row in rows:
            view[row] = fresh[view[row].id]
        ranges = _ranges(rows)
        if len(ranges) > _MAX_RANGES:  # one wide signal repaints faster than thousands of them
            ranges = [(rows[0], rows[-1])]
        for first, last in ranges:
            self._cells_changed(first, last)

    def _cells_changed(self, first: int, last: int) -> None:
        self.dataChanged.emit(self.index(first, 0), self.index(last, len(self.COLUMNS) - 1))

    def _wanted_or_all(self) -> list[Sample]:
        """Return the rows of the filter; a filter that fails on new rows is given up."""
        try:
            return self._order.wanted()
        except QueryError as error:
            self._drop_query(error)
            return self._order.wanted()

    def _wanted_after(self, edit: Edit) -> list[Sample]:
        """Return the rows of the filter; a slow one looks at the rows of the edit only."""
        try:
            return self._order.wanted_after(edit, self._view)
        except QueryError as error:
            self._drop_query(error)
            return self._order.wanted()

    def _show(self, wanted: list[Sample]) -> None:
        """Move from the rows that are shown to ``wanted`` with as few signals as possible."""
        old = self._view
        if len(old) == len(wanted) and all(map(is_, old, wanted)):
            return
        order = self._order.name
        self._moving = True
        if order != self._shown_order and len(old) == len(wanted) and (
            set(map(_id_of, old)) == set(map(_id_of, wanted))
        ):  # fmt: skip
            self._reorder(wanted)
        else:
            self._splice(wanted)
        self._shown_order = order
        self._moving = False
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
            self._remove(first, last)
        for first, last in inserted:
            self.beginInsertRows(QModelIndex(), first, last)
            self._view[first:first] = wanted[first : last + 1]
            self._row_of = None
            self.endInsertRows()

    def _remove(self, first: int, last: int) -> None:
        self.beginRemoveRows(QModelIndex(), first, last)
        del self._view[first : last + 1]
        self._row_of = None
        self.endRemoveRows()

    def _replace_block(self, wanted: list[Sample]) -> None:
        """Replace everything between the common start and the common end."""
        old = self._view
        shorter = min(len(old), len(wanted))
        start = next(compress(count(), map(is_not, old, wanted)), shorter)
        backwards = map(is_not, reversed(old), reversed(wanted))
        end = min(next(compress(count(), backwards), shorter), shorter - start)
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


def _ranges(rows: Any) -> list[tuple[int, int]]:
    """Return ascending row numbers as inclusive ranges."""
    ranges: list[tuple[int, int]] = []
    for row in rows:
        if ranges and row == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], row)
        else:
            ranges.append((row, row))
    return ranges
