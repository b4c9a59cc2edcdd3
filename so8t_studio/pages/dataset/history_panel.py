"""Every edit since the dataset was opened, by name; a click goes back to it."""

from __future__ import annotations

from PySide6.QtGui import QUndoStack
from PySide6.QtWidgets import QLabel, QUndoView, QVBoxLayout, QWidget


class HistoryPanel(QWidget):
    """The undo stack as a list; the first line is the dataset as it was opened."""

    def __init__(
        self, stack: QUndoStack, *, read_only: bool, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self.setObjectName("historyPanel")
        column = QVBoxLayout(self)
        column.setContentsMargins(4, 8, 10, 8)
        column.setSpacing(8)
        words = QLabel(self.tr("Choose a line to take back, or do again, everything up to it."))
        words.setProperty("role", "muted")
        words.setWordWrap(True)
        column.addWidget(words)
        self.view = QUndoView()
        self.view.setObjectName("undoHistory")
        self.view.setAccessibleName(self.tr("Undo history"))
        self.view.setEmptyLabel(self.tr("As it was opened"))
        self.view.setUniformItemSizes(True)
        column.addWidget(self.view, 1)
        self._stack = stack
        self.set_read_only(read_only)

    def set_read_only(self, read_only: bool) -> None:
        """Show the list only where edits are possible."""
        self.view.setStack(None if read_only else self._stack)
        self.view.setEnabled(not read_only)
