"""The evaluation that is going on: what it does, how far it is, and a button to cancel it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PySide6.QtCore import Signal, Slot
from PySide6.QtWidgets import QFrame, QHBoxLayout, QLabel, QProgressBar, QPushButton, QWidget

from so8t_engine.events import AnyEvent, Log, Progress, Result
from so8t_studio.jobs.handle import JobHandle
from so8t_studio.jobs.request import JobRequest
from so8t_studio.jobs.service import JobService
from so8t_studio.jobs.state import JobState, Phase

RESOLUTION = 1000


@dataclass(frozen=True)
class JobOutcome:
    """How an evaluation ended: its final state, the file it wrote (if any), its warnings."""

    state: JobState
    path: Path | None
    warnings: tuple[str, ...]


class JobBar(QFrame):
    """Hidden while nothing runs. ``finished(JobOutcome)``, ``active_changed(bool)``."""

    finished = Signal(object)
    active_changed = Signal(bool)

    def __init__(self, jobs: JobService, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("role", "card")
        self.setObjectName("jobBar")
        self._jobs = jobs
        self._handle: JobHandle | None = None
        self._path: Path | None = None
        self._warnings: list[str] = []
        row = QHBoxLayout(self)
        row.setContentsMargins(16, 8, 12, 8)
        row.setSpacing(16)
        self.label = QLabel()
        self.label.setObjectName("jobText")
        row.addWidget(self.label)
        self.progress = QProgressBar()
        self.progress.setObjectName("jobProgress")
        self.progress.setAccessibleName(self.tr("Progress of the evaluation"))
        self.progress.setTextVisible(False)
        row.addWidget(self.progress, 1)
        self.cancel = QPushButton(self.tr("Cancel"))
        self.cancel.setObjectName("jobCancel")
        self.cancel.setAccessibleName(self.tr("Cancel the evaluation"))
        self.cancel.setToolTip(self.tr("Stop; what was stored before stays as it is."))
        self.cancel.clicked.connect(self._on_cancel_clicked)
        row.addWidget(self.cancel)
        self.hide()

    @property
    def active(self) -> bool:
        """True from the start until the process is gone."""
        return self._handle is not None

    def start(self, args: list[str], *, title: str, run_dir: Path, persona: str) -> JobHandle:
        """Start the job; it waits its turn if another heavy one runs."""
        request = JobRequest(
            kind="eval", args=args, run_dir=run_dir, needs_gpu=True, title=title, persona=persona
        )
        handle = self._jobs.start(request)
        self._handle, self._path, self._warnings = handle, None, []
        handle.events.connect(self._on_events)
        handle.state_changed.connect(self._on_state_changed)
        handle.ended.connect(self._on_ended)
        self.cancel.setEnabled(True)
        self.progress.setRange(0, 0)
        self.label.setText(handle.state.sentence)
        self.show()
        self.active_changed.emit(True)
        return handle

    @Slot(object)
    def _on_events(self, batch: tuple[AnyEvent, ...]) -> None:
        for event in batch:
            if isinstance(event, Progress):
                self._show_progress(event)
            elif isinstance(event, Result) and event.name == "evaluation":
                self._path = Path(str(event.data.get("path", "")))
            elif isinstance(event, Log) and event.level == "warning":
                self._warnings.append(event.message)

    def _show_progress(self, event: Progress) -> None:
        if event.phase == "evaluating" and event.total > 0:
            self.progress.setRange(0, RESOLUTION)
            self.progress.setValue(round(RESOLUTION * event.done / event.total))
            text = self.tr("Evaluating: {done} of {total} rows").format(
                done=f"{event.done:.0f}", total=f"{event.total:.0f}"
            )
            if event.eta_s is not None:
                text = self.tr("{text}, about {seconds} s left").format(
                    text=text, seconds=f"{event.eta_s:.0f}"
                )
            self.label.setText(text)
        elif event.phase == "loading base":
            self.progress.setRange(0, 0)
            self.label.setText(self.tr("Loading the model…"))

    @Slot(object)
    def _on_state_changed(self, state: JobState) -> None:
        if state.phase in (Phase.QUEUED, Phase.STARTING):
            self.label.setText(state.sentence)
        elif state.phase is Phase.STOPPING:
            self.label.setText(self.tr("Stopping…"))
            self.progress.setRange(0, 0)

    @Slot(object)
    def _on_ended(self, state: JobState) -> None:
        self._handle = None
        self.hide()
        self.active_changed.emit(False)
        path = self._path if state.phase is Phase.DONE else None
        self.finished.emit(JobOutcome(state, path, tuple(self._warnings)))

    @Slot()
    def _on_cancel_clicked(self) -> None:
        if self._handle is not None:
            self.cancel.setEnabled(False)
            self._handle.stop()
