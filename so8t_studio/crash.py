"""Nothing fails silently: Python errors and crashes of the interpreter leave a report."""

from __future__ import annotations

import datetime as dt
import faulthandler
import logging
import sys
import threading
import traceback
from pathlib import Path
from types import TracebackType
from typing import IO

import platformdirs
from PySide6.QtCore import QObject, Qt, Signal, Slot

log = logging.getLogger(__name__)
KEEP = 20


def default_report_dir() -> Path:
    """Return the folder of crash reports."""
    return Path(platformdirs.user_log_dir("so8t", appauthor=False)) / "crashes"


class CrashHooks(QObject):
    """Catches what nobody caught, in any thread.

    ``reported(path, text)`` is emitted on the thread of this object, so that the window may show
    it. A crash of the interpreter itself leaves a ``fault-*.txt``, which :meth:`left_behind` finds
    at the next start.
    """

    reported = Signal(object, str)
    _queued = Signal(object, str)

    def __init__(self, folder: Path | None = None, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.folder = folder or default_report_dir()
        self._fault: IO[str] | None = None
        self._fault_path: Path | None = None
        self._queued.connect(self._on_queued, Qt.ConnectionType.QueuedConnection)

    def install(self) -> None:
        """Put the hooks in place."""
        sys.excepthook = self._on_exception
        threading.excepthook = self._on_thread_exception
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            stamp = dt.datetime.now().strftime("%Y%m%d_%H%M%S_%f")
            self._fault_path = self.folder / f"fault-{stamp}.txt"
            self._fault = self._fault_path.open("w", encoding="utf-8")
            faulthandler.enable(self._fault)
        except OSError as error:
            log.warning("Crash reports cannot be written to %s: %s", self.folder, error)

    def remove(self) -> None:
        """Take the hooks away; a clean end leaves no fault file."""
        sys.excepthook = sys.__excepthook__
        threading.excepthook = threading.__excepthook__
        if self._fault is not None and self._fault_path is not None:
            faulthandler.disable()
            self._fault.close()
            self._fault = None
            if self._fault_path.stat().st_size == 0:
                self._fault_path.unlink()

    def left_behind(self) -> list[Path]:
        """Return reports of crashes of earlier starts that nobody has seen, oldest first.

        They are renamed to ``seen-*`` so that each is offered once.
        """
        found = []
        for path in sorted(self.folder.glob("fault-*.txt")):
            if path == self._fault_path:
                continue
            try:
                if path.stat().st_size == 0:
                    path.unlink()  # the process was killed from outside; there is no report
                    continue
                found.append(path.rename(path.with_name(f"seen-{path.name}")))
            except OSError as error:
                log.warning("The crash report %s cannot be read: %s", path, error)
        return found

    def _on_exception(
        self,
        kind: type[BaseException],
        error: BaseException,
        trace: TracebackType | None,
    ) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, trace)
            return
        self._report("".join(traceback.format_exception(kind, error, trace)))

    def _on_thread_exception(self, args: threading.ExceptHookArgs) -> None:
        if args.exc_value is None or issubclass(args.exc_type, SystemExit):
            return
        self._report(
            "".join(traceback.format_exception(args.exc_type, args.exc_value, args.exc_traceback))
        )

    def _report(self, text: str) -> None:
        log.error("Unexpected error:\n%s", text)
        path: Path | None = None
        try:
            stamp = dt.datetime.now().strftime("%Y%m%d_%H%M%S_%f")
            path = self.folder / f"error-{stamp}.txt"
            self.folder.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            for old in sorted(self.folder.glob("error-*.txt"))[:-KEEP]:
                old.unlink()
        except OSError as error:
            log.warning("The report cannot be written: %s", error)
            path = None
        self._queued.emit(path, text)

    @Slot(object, str)
    def _on_queued(self, path: Path | None, text: str) -> None:
        self.reported.emit(path, text)
