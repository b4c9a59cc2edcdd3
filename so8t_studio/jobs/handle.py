"""A job as pages see it: its state, its events and its controls."""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from typing import Any

from PySide6.QtCore import QObject, Qt, Signal, Slot

from so8t_engine.events import AnyEvent, Error, Hello, Log, Progress, Result
from so8t_studio.jobs.request import JobRequest
from so8t_studio.jobs.state import JobState, Phase, phase_sentence
from so8t_studio.jobs.supervisor import Supervisor

LAST_WORDS = 30


class JobHandle(QObject):
    """Lives on the window's thread. ``ended`` fires once, after the process is gone.

    Attributes:
        hello, progress, error, result: the last event of each kind, None before.
        last_words: the last lines of its log.
        offers: ``text`` and ``changes`` of settings that would fit, after memory ran out.
        started_mono: monotonic seconds when the process was started, 0 before.
    """

    events = Signal(object)
    state_changed = Signal(object)
    ended = Signal(object)

    def __init__(self, request: JobRequest, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.request = request
        self.state = JobState(Phase.QUEUED, phase_sentence(Phase.QUEUED), run_dir=request.run_dir)
        self.hello: Hello | None = None
        self.progress: Progress | None = None
        self.error: Error | None = None
        self.result: Result | None = None
        self.last_words: deque[Log] = deque(maxlen=LAST_WORDS)
        self.offers: list[dict[str, Any]] = []
        self.started_mono = 0.0
        self._worker: Supervisor | None = None

    def attach(self, worker: Supervisor) -> None:
        """Take the worker that runs this job (the service calls this)."""
        self._worker = worker
        self.started_mono = time.monotonic()
        queued = Qt.ConnectionType.QueuedConnection
        worker.events_read.connect(self._on_events_read, queued)
        worker.state_changed.connect(self._on_state_changed, queued)

    @property
    def worker(self) -> Supervisor | None:
        """The thread behind this job, None while it waits and after it was reaped."""
        return self._worker

    def release(self) -> None:
        """Let go of the finished worker."""
        self._worker = None

    def send(self, command: dict[str, Any]) -> None:
        """Send a command to the running job; without a process it is dropped."""
        if self._worker is not None:
            self._worker.send(command)

    def pause(self) -> None:
        """Ask the job to wait after its current step."""
        self.send({"cmd": "pause"})

    def resume(self) -> None:
        """Let a paused job go on."""
        self.send({"cmd": "resume"})

    def stop(self) -> None:
        """Ask for a clean end: finish the step, save, exit. A queued job is cancelled."""
        if self._worker is not None:
            self._worker.ask_stop()
        elif not self.state.is_final:
            self.set_state(
                dataclasses.replace(
                    self.state,
                    phase=Phase.CANCELLED,
                    sentence=self.tr("Taken out of the queue before it started."),
                )
            )

    def kill(self) -> None:
        """End the process and everything it started, now."""
        if self._worker is not None:
            self._worker.ask_kill()
        else:
            self.stop()

    @property
    def can_leave(self) -> bool:
        """True if the process can go on without this window: it keeps its events in a folder."""
        return self.request.kind == "train" and self.state.run_dir is not None

    def leave(self) -> None:
        """Let the process go on by itself; it is found again through its folder."""
        if self._worker is not None and self.can_leave:
            self._worker.ask_leave()

    def set_state(self, state: JobState) -> None:
        """Take over a state and announce it."""
        was_final = self.state.is_final
        self.state = state
        self.state_changed.emit(state)
        if state.is_final and not was_final:
            self.ended.emit(state)

    @Slot(object)
    def _on_events_read(self, batch: tuple[AnyEvent, ...]) -> None:
        for event in batch:
            if isinstance(event, Hello):
                self.hello = event
            elif isinstance(event, Progress):
                self.progress = event
            elif isinstance(event, Log):
                self.last_words.append(event)
            elif isinstance(event, Error):
                self.error = event
                words = " ".join(filter(None, (event.what, event.why)))
                self.last_words.append(Log(t=event.t, level="error", message=words))
            elif isinstance(event, Result):
                self.result = event
                if event.name == "out_of_memory":
                    self.offers = list(event.data.get("suggestions", []))
        self.events.emit(batch)

    @Slot(object)
    def _on_state_changed(self, state: JobState) -> None:
        self.set_state(state)
