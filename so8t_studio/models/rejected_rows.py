"""The rows of an import that are no samples, as a table in which they can be corrected."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import (
    QAbstractTableModel,
    QModelIndex,
    QObject,
    QPersistentModelIndex,
    Qt,
    Signal,
)

from so8t_engine.errors import DataError
from so8t_engine.samples.corrections import read_corrected
from so8t_engine.samples.readers import ImportResult, Rejected
from so8t_engine.samples.schema import Sample

Index = QModelIndex | QPersistentModelIndex
COLUMNS = ("file", "line", "field", "value", "reason", "raw")
_REASON, _RAW = COLUMNS.index("reason"), COLUMNS.index("raw")


class RejectedRowsModel(QAbstractTableModel):
    """File, line, field, value and reason of each row; the last column is the row, editable."""

    corrected_changed = Signal()
    """A row was corrected, or a correction is no longer right."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._result: ImportResult | None = None
        self._texts: dict[int, str] = {}
        self._samples: dict[int, Sample] = {}
        self._reasons: dict[int, str] = {}

    @property
    def rows(self) -> list[Rejected]:
        """The rows as the file held them."""
        return self._result.rejected if self._result is not None else []

    @property
    def corrected(self) -> list[Sample]:
        """The samples that corrections made, in file order."""
        return [self._samples[row] for row in sorted(self._samples)]

    @property
    def left(self) -> int:
        """How many rows are still no samples."""
        return len(self.rows) - len(self._samples)

    def remaining(self) -> list[Rejected]:
        """Return the rows that nobody corrected."""
        return [one for row, one in enumerate(self.rows) if row not in self._samples]

    def show_result(self, result: ImportResult) -> None:
        """Show what a file held; corrections of the same lines are tried again."""
        kept = {self.rows[row].line: text for row, text in self._texts.items()}
        self.beginResetModel()
        self._result = result
        self._texts, self._samples, self._reasons = {}, {}, {}
        for row, one in enumerate(result.rejected if kept else ()):
            if one.line in kept:
                self._correct(row, kept[one.line])
        self.endResetModel()

    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008
        """Return the number of rejected rows."""
        return 0 if parent.isValid() else len(self.rows)

    def columnCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008
        """Return the number of columns."""
        return 0 if parent.isValid() else len(COLUMNS)

    def data(self, index: Index, role: int = int(Qt.ItemDataRole.DisplayRole)) -> Any:
        """Return what a cell shows or edits."""
        if not index.isValid() or index.row() >= len(self.rows):
            return None
        row, rejected, name = index.row(), self.rows[index.row()], COLUMNS[index.column()]
        if role in (
            Qt.ItemDataRole.DisplayRole, Qt.ItemDataRole.EditRole, Qt.ItemDataRole.ToolTipRole
        ):  # fmt: skip
            if name == "raw":
                text = self._texts.get(row, rejected.raw)
            elif name == "reason":
                text = self._reasons.get(row, rejected.reason)
            elif name == "line":
                text = f"{rejected.line:,}"
            else:
                text = str(getattr(rejected, name))
            return text if role == Qt.ItemDataRole.EditRole else text[:2000]
        return None

    def setData(self, index: Index, value: Any, role: int = int(Qt.ItemDataRole.EditRole)) -> bool:
        """Take a corrected row; False if the cell is not the row's text."""
        if role != Qt.ItemDataRole.EditRole or not index.isValid() or index.column() != _RAW:
            return False
        row = index.row()
        if str(value) == self._texts.get(row, self.rows[row].raw):
            return False
        self._correct(row, str(value))
        self.dataChanged.emit(self.index(row, _REASON), self.index(row, _RAW))
        self.corrected_changed.emit()
        return True

    def _correct(self, row: int, text: str) -> None:
        assert self._result is not None
        self._texts[row] = text
        self._samples.pop(row, None)
        try:
            self._samples[row] = read_corrected(text, self.rows[row].line, self._result)
            self._reasons[row] = self.tr("✓ corrected")
        except DataError as error:
            self._reasons[row] = str(error)

    def flags(self, index: Index) -> Qt.ItemFlag:
        """Only the row itself can be edited."""
        flags = super().flags(index)
        if not index.isValid():
            return flags
        flags |= Qt.ItemFlag.ItemNeverHasChildren
        return flags | Qt.ItemFlag.ItemIsEditable if index.column() == _RAW else flags

    def headerData(
        self,
        section: int,
        orientation: Qt.Orientation,
        role: int = int(Qt.ItemDataRole.DisplayRole),
    ) -> Any:
        """Return titles of columns."""
        if role != Qt.ItemDataRole.DisplayRole or orientation != Qt.Orientation.Horizontal:
            return None
        titles = (self.tr("File"), self.tr("Line"), self.tr("Field"), self.tr("Value"),
                  self.tr("Reason"), self.tr("Row (edit to correct)"))  # fmt: skip
        return titles[section] if 0 <= section < len(titles) else None
