"""The runs of a persona as a table."""

from __future__ import annotations

import datetime as dt
import functools
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PySide6.QtCore import QAbstractTableModel, QModelIndex, QObject, QPersistentModelIndex, Qt

from so8t_engine.errors import So8tError
from so8t_engine.specs import TrainSpec
from so8t_engine.workspace.runs import RunNotes, RunState, RunStore
from so8t_studio.jobs.state import Phase, phase_word
from so8t_studio.pages.train.controls import duration
from so8t_studio.theme import Theme

Index = QModelIndex | QPersistentModelIndex
STAR, STATE, RUN, NAME, STEPS, TIME, FIRST_METRIC = range(7)
NOTES, BASE, DATA = range(FIRST_METRIC + 4, FIRST_METRIC + 7)
METRICS = ("refuse_recall", "escalate_precision", "allow_precision", "macro_f1")
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


def _is_number(column: int) -> bool:
    return STEPS <= column < NOTES


@dataclass(frozen=True)
class RunRow:
    """What the list shows of a run, read at one moment."""

    store: RunStore
    state: RunState
    spec: TrainSpec | None
    checkpoints: int
    problem: str = ""
    notes: RunNotes = field(default_factory=RunNotes)
    persona: str = ""
    data: str = ""
    rows: int = 0
    touched: float = 0.0
    keeps_progress: bool = True

    @property
    def resumable(self) -> bool:
        """True if it stopped before its end and left a checkpoint."""
        unfinished = self.state.step < self.state.total_steps or self.state.total_steps == 0
        ended = self.state.state in ("cancelled", "failed", "crashed")
        return ended and unfinished and self.checkpoints > 0 and self.keeps_progress

    @property
    def continuable(self) -> bool:
        """True if it ended, in whatever way, and left a checkpoint to go on from."""
        idle = not self.active and self.state.state != "queued"
        return idle and self.checkpoints > 0 and self.keeps_progress

    @property
    def usable(self) -> bool:
        """True if another run can begin with its weights."""
        return self.spec is not None and self.checkpoints > 0

    @property
    def metrics(self) -> dict[str, float | None]:
        """Those of the best checkpoint, else the last that were measured."""
        return self.state.best_metrics or self.state.metrics

    @property
    def active(self) -> bool:
        """True while its process lives."""
        return self.state.state in ("starting", "running", "paused", "stopping")

    @property
    def seconds(self) -> float:
        """How long it took, or takes so far; 0 if that is unknown."""
        if self.state.started and self.active:
            return max(0.0, time.time() - self.state.started)
        ended = self.state.ended or self.touched  # a crash leaves no end, but a last event
        if not self.state.started or ended < self.state.started:
            return 0.0
        return ended - self.state.started


@functools.lru_cache(maxsize=512)
def _snapshot(root: Path) -> tuple[str, int]:
    """Return fingerprint and rows of the data of a run; both are frozen with it."""
    store = RunStore(root)
    try:
        with store.samples_path.open("rb") as stream:
            rows = sum(1 for line in stream if line.strip())
    except OSError:
        return "", 0
    return store.data_fingerprint(), rows


def read_row(store: RunStore, persona: str = "") -> RunRow:
    """Read a run from its folder (not on the window's thread)."""
    problem = ""
    spec: TrainSpec | None = None
    try:
        spec = store.spec()
    except So8tError as error:
        problem = str(error)
    data, rows = _snapshot(store.root)
    try:
        touched = store.events_path.stat().st_mtime
    except OSError:
        touched = 0.0
    return RunRow(
        store, store.state(), spec, len(store.checkpoints()), problem, store.notes(), persona,
        data, rows, touched, store.keeps_progress(),
    )  # fmt: skip


class RunsModel(QAbstractTableModel):
    """Newest first; sorted through a proxy by ``Qt.UserRole``."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._rows: list[RunRow] = []
        self._headers = [
            "★", self.tr("State"), self.tr("Run"), self.tr("Settings"), self.tr("Steps"),
            self.tr("Time"), self.tr("Refuse R."), self.tr("Escalate P."), self.tr("Allow P."),
            self.tr("F1"), self.tr("Tags, note"), self.tr("Base"), self.tr("Data"),
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
        if role == Qt.ItemDataRole.ToolTipRole and orientation == Qt.Orientation.Horizontal:
            tips = {
                STAR: self.tr("Worth keeping"),
                FIRST_METRIC: self.tr("Refuse Recall of the best checkpoint"),
                FIRST_METRIC + 1: self.tr("Escalate Precision of the best checkpoint"),
                FIRST_METRIC + 2: self.tr("Allow Precision of the best checkpoint"),
                FIRST_METRIC + 3: self.tr("Macro-F1 of the best checkpoint"),
                DATA: self.tr("First digits of the SHA-256 of the frozen data"),
            }
            return tips.get(section)
        if role == Qt.ItemDataRole.TextAlignmentRole:
            side = (
                Qt.AlignmentFlag.AlignRight if _is_number(section) else Qt.AlignmentFlag.AlignLeft
            )
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
            return self._tip(row, index.column())
        if role == Qt.ItemDataRole.ForegroundRole and index.column() == STATE:
            token = TOKENS.get(row.state.state)
            return Theme.instance().color(token) if token else None
        if role == Qt.ItemDataRole.TextAlignmentRole and _is_number(index.column()):
            return Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        return None

    def _tip(self, row: RunRow, column: int) -> str | None:
        if column == NOTES and (row.notes.note or row.notes.tags):
            return "\n".join(filter(None, (", ".join(row.notes.tags), row.notes.note)))
        if column == DATA and row.data:
            return self.tr("{count} rows, {mark}").format(count=row.rows, mark=row.data)
        if column == BASE and row.spec is not None:
            return row.spec.base_model
        return row.problem or row.state.message or None

    def _metric(self, row: RunRow, column: int) -> float | None:
        return row.metrics.get(METRICS[column - FIRST_METRIC])

    def _text(self, row: RunRow, column: int) -> str:
        if column == STATE:
            return f"{SIGNS.get(row.state.state, '?')}  {self._state_word(row.state.state)}"
        if FIRST_METRIC <= column < NOTES:
            value = self._metric(row, column)
            return "n/a" if value is None else f"{value:.3f}"
        total = row.state.total_steps
        base = row.spec.base_model if row.spec is not None else ""
        return {
            STAR: "★" if row.notes.starred else "",
            RUN: row.store.id,
            NAME: row.spec.name if row.spec is not None else self.tr("unreadable"),
            NOTES: "  ".join(filter(None, (", ".join(row.notes.tags), _first_line(row.notes)))),
            BASE: base.rstrip("/\\").replace("\\", "/").rpartition("/")[2],
            DATA: row.data,
            STEPS: f"{row.state.step} / {total}" if total else "–",
            TIME: duration(row.seconds) if row.seconds else "–",
        }[column]

    @staticmethod
    def _state_word(state: str) -> str:
        return phase_word(Phase(state)) if state in Phase.__members__.values() else state

    def _key(self, row: RunRow, column: int) -> Any:
        if column == STAR:
            return not row.notes.starred
        if column == STEPS:
            return row.state.step
        if column == TIME:
            return row.seconds
        if FIRST_METRIC <= column < NOTES:
            value = self._metric(row, column)
            return -1.0 if value is None else value
        return self._text(row, column)


def _first_line(notes: RunNotes) -> str:
    return notes.note.strip().partition("\n")[0]


def started_text(state: RunState) -> str:
    """Return when a run began, in the user's time zone."""
    if not state.started:
        return ""
    return dt.datetime.fromtimestamp(state.started).strftime("%Y-%m-%d %H:%M")
