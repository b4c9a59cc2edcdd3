"""Runs the measured dry run as a job and tells the memory panel."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import QObject, Signal, Slot

from so8t_engine.events import AnyEvent, Progress, Result
from so8t_studio.context import AppContext
from so8t_studio.jobs.handle import JobHandle
from so8t_studio.jobs.request import JobRequest
from so8t_studio.jobs.state import JobState, Phase
from so8t_studio.pages.train.memory_panel import MemoryPanel

KIND = "dry run"


class DryRun(QObject):
    """One dry run at a time. ``failed(JobHandle)`` if it came to no figure."""

    failed = Signal(object)
    finished = Signal()

    def __init__(self, context: AppContext, panel: MemoryPanel, parent: QObject) -> None:
        super().__init__(parent)
        self._context = context
        self._panel = panel
        self._handle: JobHandle | None = None
        self._found: dict[str, Any] = {}
        panel.dry_run_cancelled.connect(self._on_cancelled)

    @property
    def running(self) -> bool:
        """True while its process lives or waits for its turn."""
        return self._handle is not None and not self._handle.state.is_final

    def start(self, arguments: list[str]) -> None:
        """Start it with the arguments of the command line."""
        persona = self._context.persona
        if persona is None or self.running:
            return
        self._found = {}
        request = JobRequest(
            KIND,
            arguments,
            needs_gpu=True,
            title=self.tr("Dry run of {name}").format(name=persona.name),
            persona=persona.slug,
        )
        handle = self._context.jobs.start(request)
        self._handle = handle
        handle.events.connect(self._on_events)
        handle.state_changed.connect(self._on_state_changed)
        handle.ended.connect(self._on_ended)
        self._panel.set_running(True)

    @Slot()
    def _on_cancelled(self) -> None:
        if self._handle is not None:
            self._handle.kill()

    @Slot(object)
    def _on_events(self, batch: tuple[AnyEvent, ...]) -> None:
        for event in batch:
            if isinstance(event, Progress):
                words = {
                    "loading base": self.tr("Dry run: loading the base model."),
                    "caching prefix": self.tr("Dry run: preparing the unchanged layers."),
                }
                if event.phase in words:
                    self._panel.set_running(True, words[event.phase])
            elif isinstance(event, Result) and event.name == "dry_run":
                self._found = event.data

    @Slot(object)
    def _on_state_changed(self, state: JobState) -> None:
        if state.phase is Phase.QUEUED:
            self._panel.set_running(True, self.tr("Dry run: waiting for the running job."))

    @Slot(object)
    def _on_ended(self, state: JobState) -> None:
        self._panel.set_running(False)
        if self._found:
            self._panel.show_measured(self._found)
        elif state.phase in (Phase.FAILED, Phase.CRASHED):
            self.failed.emit(self._handle)
        self.finished.emit()
