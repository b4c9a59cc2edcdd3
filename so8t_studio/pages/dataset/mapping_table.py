"""Which column of a file feeds which field, as a table of choices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PySide6.QtCore import Signal, Slot
from PySide6.QtWidgets import QComboBox, QTableWidget, QTableWidgetItem, QWidget

from so8t_engine.samples.fields import TARGETS

MAX_COLUMNS = 200


class MappingTable(QTableWidget):
    """One row a column: its name and the field that it feeds."""

    mapping_changed = Signal(object)
    """dict[column, field]; an empty field ignores the column."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._names: list[str] = []
        self._rest: dict[str, str] = {}
        self.setColumnCount(2)
        self.setHorizontalHeaderLabels([self.tr("Column in the file"), self.tr("Feeds")])
        self.verticalHeader().setDefaultSectionSize(38)
        self.setColumnWidth(0, 300)
        self.setColumnWidth(1, 260)

    def show_mapping(self, columns: Sequence[str], mapping: Mapping[str, str]) -> None:
        """Show columns and what they feed; the choices stay where the columns are the same."""
        names = list(columns[:MAX_COLUMNS])
        self._rest = {name: mapping.get(name, "") for name in columns[MAX_COLUMNS:]}
        if names != self._names:
            self._names = names
            self._make_rows()
        for row, name in enumerate(names):
            box = self.cellWidget(row, 1)
            if isinstance(box, QComboBox):
                box.setCurrentIndex(max(box.findData(mapping.get(name, "")), 0))

    def _make_rows(self) -> None:
        self.setRowCount(len(self._names))
        for row, name in enumerate(self._names):
            item = QTableWidgetItem(name)
            item.setToolTip(name)
            self.setItem(row, 0, item)
            box = QComboBox()
            box.setObjectName(f"mapping_{row}")
            box.setAccessibleName(self.tr("Field for the column {name}").format(name=name))
            box.addItem(self.tr("(ignored)"), "")
            for target in TARGETS:
                box.addItem(target, target)
            box.activated.connect(self._on_activated)
            self.setCellWidget(row, 1, box)

    @Slot(int)
    def _on_activated(self, _index: int) -> None:
        """Take over the choice; a field that two columns would feed goes to the one chosen."""
        chosen = self.sender()
        value = chosen.currentData() if isinstance(chosen, QComboBox) else ""
        mapping = dict(self._rest)
        for row, name in enumerate(self._names):
            box = self.cellWidget(row, 1)
            if isinstance(box, QComboBox):
                if box is not chosen and value and box.currentData() == value:
                    box.setCurrentIndex(0)
                mapping[name] = str(box.currentData())
        self.mapping_changed.emit(mapping)
