"""One long piece of work off the GUI thread, with progress, cancel and a clean end."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from PySide6.QtCore import QObject, QThread, Signal, Slot

log = logging.getLogger(__name__)
_SWITCH_S = 0.0005
Work = Callable[["Reporter"], Any]


class Reporter:
    """What the work gets: a place for progress and the question whether to go on."""

    def __init__(self, report: Callable[[object], None]) -> None:
        self._report = report
        self._cancelled = threading.Event()
        self._last = 0.0

    def progress(self, done: int, total: int) -> None:
        """Announce progress, at most twenty times a second."""
        now = time.monotonic()
        if now - self._last >= 0.05 or done >= total:
            self._last = now
            self._report((done, total))

    def cancelled(self) -> bool:
        """Tell whether the user gave up."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Ask the work to stop."""
        self._cancelled.set()


class _Thread(QThread):
    progressed = Signal(object)

    def __init__(self, work: Work, parent: QObject) -> None:
        super().__init__(parent)
        self._work = work
        self.reporter = Reporter(self.progressed.emit)
        self.result: Any = None
        self.error: Exception | None = None

    def run(self) -> None:
        """Do the work; a failure is kept for the GUI thread."""
        try:
            self.result = self._work(self.reporter)
        except Exception as error:
            log.info("Background work ended early: %s", error, exc_info=True)
            self.error = error


class Task(QObject):
    """Runs ``work`` in a thread of its own. Its signals arrive in the thread that made it.

    ``stop`` must be called before the owner goes away; it asks the work to end and waits.
    """

    progressed = Signal(object)
    """(done, total)."""
    succeeded = Signal(object)
    """What the work returned."""
    failed = Signal(object)
    """The exception."""

    def __init__(self, work: Work, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._thread = _Thread(work, self)
        self._thread.progressed.connect(self._on_progressed)
        self._thread.finished.connect(self._on_finished)
        self._stopped = False

    @property
    def running(self) -> bool:
        """True until the work has ended."""
        return self._thread.isRunning()

    def start(self) -> None:
        """Begin."""
        # With the default of 5 ms a repaint that calls back into Python a hundred times would wait
        # behind the work each time.
        sys.setswitchinterval(_SWITCH_S)
        self._thread.start()

    def cancel(self) -> None:
        """Ask the work to end; ``failed`` follows when it does."""
        self._thread.reporter.cancel()

    def stop(self) -> None:
        """Ask the work to end, wait for it, and announce nothing any more."""
        self._stopped = True
        self._thread.reporter.cancel()
        self._thread.wait()

    @Slot(object)
    def _on_progressed(self, value: object) -> None:
        if not self._stopped:
            self.progressed.emit(value)

    @Slot()
    def _on_finished(self) -> None:
        if self._stopped:
            return
        if self._thread.error is not None:
            self.failed.emit(self._thread.error)
        else:
            self.succeeded.emit(self._thread.result)
