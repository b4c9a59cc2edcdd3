"""The machine's figures, once a second, from a child that may crash without harm."""

from __future__ import annotations

import logging
import os
import sys
from collections import deque
from pathlib import Path

import platformdirs
from PySide6.QtCore import QObject, Qt, QTimer, Signal, Slot

from so8t_engine.events import AnyEvent, Telemetry
from so8t_studio.jobs.request import JobRequest
from so8t_studio.jobs.state import JobState
from so8t_studio.jobs.worker import JobWorker, Patience

log = logging.getLogger(__name__)
HISTORY = 3600
RESTARTS_S = (1, 5, 30, 120)


class TelemetryService(QObject):
    """Keeps one monitor process alive. ``updated(Telemetry)`` about once a second.

    Attributes:
        latest: the last reading, None before the first.
        history: the readings of the last hour.
    """

    updated = Signal(object)
    failed = Signal(str)

    def __init__(
        self, command: list[str] | None = None, log_dir: Path | None = None,
        parent: QObject | None = None,
    ) -> None:  # fmt: skip
        super().__init__(parent)
        self._command = command or [
            sys.executable,
            "-m",
            "so8t_engine.jobs.telemetry",
            "--attached",
        ]
        self._log_dir = log_dir or Path(platformdirs.user_log_dir("so8t", appauthor=False)) / "jobs"
        self._worker: JobWorker | None = None
        self._failures = 0
        self._running = False
        self._watched = 0
        self._restart = QTimer(self)
        self._restart.setSingleShot(True)
        self._restart.timeout.connect(self._on_restart_due)
        self.latest: Telemetry | None = None
        self.history: deque[Telemetry] = deque(maxlen=HISTORY)

    def start(self) -> None:
        """Start the monitor."""
        self._running = True
        self._launch()

    def watch(self, pid: int) -> None:
        """Report the process tree of ``pid`` as well; 0 ends that."""
        if pid == self._watched:
            return
        self._watched = pid
        if self._worker is not None:
            self._worker.send({"cmd": "watch", "pid": pid})

    def stop(self) -> None:
        """End the monitor and join its thread."""
        self._running = False
        self._restart.stop()
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.ask_stop()
            if not worker.wait(3000):
                worker.ask_kill()
                worker.wait(10_000)
            worker.deleteLater()

    def _launch(self) -> None:
        request = JobRequest("monitor", [], title="monitor", command=self._command)
        patience = Patience(grace=1.0, terminate=1.0, reap=2.0, silence=0.0)
        # Of its own, since several windows may be open.
        worker = JobWorker(request, self._log_dir / f"monitor-{os.getpid()}.log", patience)
        queued = Qt.ConnectionType.QueuedConnection
        worker.events_read.connect(self._on_events_read, queued)
        worker.state_changed.connect(self._on_state_changed, queued)
        self._worker = worker
        if self._watched:  # a monitor that had to be started again watches the same job
            worker.send({"cmd": "watch", "pid": self._watched})
        worker.start()

    @Slot(object)
    def _on_events_read(self, batch: tuple[AnyEvent, ...]) -> None:
        for event in batch:
            if isinstance(event, Telemetry):
                self.latest = event
                self.history.append(event)
                self._failures = 0
                self.updated.emit(event)

    @Slot(object)
    def _on_state_changed(self, state: JobState) -> None:
        if not state.is_final or not self._running or self.sender() is not self._worker:
            return
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.wait()
            worker.deleteLater()
        delay = RESTARTS_S[min(self._failures, len(RESTARTS_S) - 1)]
        self._failures += 1
        log.warning("The monitor ended (%s); next try in %s s", state.sentence, delay)
        self.failed.emit(state.sentence)
        self._restart.start(1000 * delay)

    @Slot()
    def _on_restart_due(self) -> None:
        if self._running and self._worker is None:
            self._launch()
