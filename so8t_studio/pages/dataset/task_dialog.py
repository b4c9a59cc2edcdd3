"""A dialog with one piece of work in the background at a time."""

from __future__ import annotations

from PySide6.QtWidgets import QDialog, QWidget

from so8t_studio.models.background import Task


class TaskDialog(QDialog):
    """Ends its background work before the next begins and before it closes."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._task: Task | None = None

    def _stop(self) -> None:
        if self._task is not None:
            self._task.stop()
            self._task.deleteLater()
            self._task = None

    def done(self, code: int) -> None:
        """Close; work that still goes on is ended first."""
        self._stop()
        super().done(code)
