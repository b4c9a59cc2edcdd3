"""The runs of a persona as a table."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import Any

from PySide6.QtCore import QAbstractTableModel, QModelIndex, QObject, QPersistentModelIndex, Qt

from so8t_engine.errors import So8tError
from so8t_engine.specs import TrainSpec
from so8t_engine.workspace.runs import RunState, RunStore
from so8t_studio.pages.train.controls import duration
from so8t_studio.theme import Theme

Index = QModelIndex | QPersistentModelIndex
SIGNS = {
    "queued": "…",
    "starting": "▸",
    "running": "▶",
    "paused": "❚❚",
    "stopping": "◼",
    "done": "✓",
    "cancelled": "◻",
    "failed": "✕",
    "crashed": "!",
}
TOKENS = {
    "done": "success",
    "failed": "error",
    "crashed": "error",
    "cancelled": "warning",
    "paused": "warning",
    "running": "accent",
}


@dataclass(frozen=True)
class RunRow:
    """What the list shows of a run, read at one moment."""

    store: RunStore
    state: RunState
    spec: TrainSpec | None
    checkpoints: int
    problem: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def resumable(self) -> bool:
        """True if it stopped before its end and left a checkpoint."""
        unfinished = self.state.step < self.state.total_steps or self.state.total_steps == 0
        ended = self.state.state in ("cancelled", "failed", "crashed")
        return ended and unfinished and self.checkpoints > 0

    @property
    def active(self) -> bool:
        """True while its process lives."""
        return self.state.state in ("starting", "running", "paused", "stopping")

    @property
    def seconds(self) -> float:
        """How long it took, 0 if that is unknown."""
        if not self.state.started or not self.state.ended:
            return 0.0
        return self.state.ended - self.state.started


def read_row(store: RunStore) -> RunRow:
    """Read a run from its folder (not on the window's thread)."""
    problem = ""
    spec: TrainSpec | None = None
    try:
        spec = store.spec()
    except So8tError as error:
        problem = str(error)
    return RunRow(store, store.state(), spec, len(store.checkpoints()), problem)


class RunsModel(QAbstractTableModel):
    """Newest first; sorted through a proxy by ``Qt.UserRole``."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._rows: list[RunRow] = []
        self._headers = [
            self.tr("State"), self.tr("Run"), self.tr("Settings"), self.tr("Steps"),
            self.tr("Time"), self.tr("Refuse Recall"), self.tr("Escalate Prec."),
            self.tr("Allow Prec."), self.tr("macro-F1"),
        ]  # fmt: skip

    def set_rows(self, rows: list[RunRow]) -> None:
        """Replace the rows; unchanged lists of runs keep selection and scroll position."""
        if [row.store.root for row in rows] == [row.store.root for row in self._rows]:
            self._rows = rows
            if rows:
                self.dataChanged.emit(
                    self.index(0, 0), self.index(len(rows) - 1, len(self._headers) - 1)
                )
            return
        self.beginResetModel()
        self._rows = rows
        self.endResetModel()

    def row(self, index: int) -> RunRow | None:
        """Return a row, None past the end."""
        return self._rows[index] if 0 <= index < len(self._rows) else None

    def rows(self) -> list[RunRow]:
        """Return all rows."""
        return list(self._rows)

    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008
        """Return the number of runs."""
        return 0 if parent.isValid() else len(self._rows)

    def columnCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008
        """Return the number of columns."""
        return 0 if parent.isValid() else len(self._headers)

    def headerData(
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> Any:
        """Return the names of the columns."""
        if orientation == Qt.Orientation.Horizontal and role == Qt.ItemDataRole.DisplayRole:
            return self._headers[section]
        if role == Qt.ItemDataRole.TextAlignmentRole:
            side = Qt.AlignmentFlag.AlignRight if section >= 3 else Qt.AlignmentFlag.AlignLeft
            return side | Qt.AlignmentFlag.AlignVCenter
        return None

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Return what a cell shows, its colour, and its key for sorting."""
        row = self.row(index.row()) if index.isValid() else None
        if row is None:
            return None
        if role == Qt.ItemDataRole.DisplayRole:
            return self._text(row, index.column())
        if role == Qt.ItemDataRole.UserRole:
            return self._key(row, index.column())
        if role == Qt.ItemDataRole.ToolTipRole:
            return row.problem or row.state.message or None
        if role == Qt.ItemDataRole.ForegroundRole and index.column() == 0:
            token = TOKENS.get(row.state.state)
            return Theme.instance().color(token) if token else None
        if role == Qt.ItemDataRole.TextAlignmentRole and index.column() >= 3:
            return Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        return None

    def _metric(self, row: RunRow, column: int) -> float | None:
        names = ("refuse_recall", "escalate_precision", "allow_precision", "macro_f1")
        return row.state.metrics.get(names[column - 5])

    def _text(self, row: RunRow, column: int) -> str:
        if column == 0:
            word = {
                "queued": self.tr("waiting"),
                "starting": self.tr("starting"),
                "running": self.tr("running"),
                "paused": self.tr("paused"),
                "stopping": self.tr("stopping"),
                "done": self.tr("done"),
                "cancelled": self.tr("stopped"),
                "failed": self.tr("failed"),
                "crashed": self.tr("crashed"),
            }.get(row.state.state, row.state.state)
            return f"{SIGNS.get(row.state.state, '?')}  {word}"
        if column == 1:
            return row.store.id
        if column == 2:
            return row.spec.name if row.spec is not None else self.tr("unreadable")
        if column == 3:
            total = row.state.total_steps
            return f"{row.state.step} / {total}" if total else "–"
        if column == 4:
            return duration(row.seconds) if row.seconds else "–"
        value = self._metric(row, column)
        return "n/a" if value is None else f"{value:.3f}"

    def _key(self, row: RunRow, column: int) -> Any:
        if column == 3:
            return row.state.step
        if column == 4:
            return row.seconds
        if column >= 5:
            value = self._metric(row, column)
            return -1.0 if value is None else value
        return self._text(row, column)


def started_text(state: RunState) -> str:
    """Return when a run began, in the user's time zone."""
    if not state.started:
        return ""
    return dt.datetime.fromtimestamp(state.started).strftime("%Y-%m-%d %H:%M")
