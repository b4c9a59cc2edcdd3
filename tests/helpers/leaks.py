"""Finds what a test leaves behind: threads, child processes, file handles."""

from __future__ import annotations

import gc
import threading
import time
from pathlib import Path

import psutil
from PySide6.QtCore import QCoreApplication, QEvent, QThread


def _children() -> set[int]:
    found = set()
    for child in psutil.Process().children(recursive=True):
        try:
            if child.status() != psutil.STATUS_ZOMBIE:
                found.add(child.pid)
        except psutil.Error:
            continue
    return found


def _handles() -> int:
    folder = Path("/proc/self/fd")
    return sum(1 for _ in folder.iterdir()) if folder.is_dir() else 0


def _threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.is_alive()}


class LeakHunter:
    """Takes stock when made; :meth:`check` fails on anything new, after a short patience."""

    def __init__(self, handle_slack: int = 4) -> None:
        self._slack = handle_slack
        self._children = _children()
        self._threads = _threads()
        self._handles = _handles()

    def findings(self) -> list[str]:
        """Return what is there now and was not before."""
        found = [f"child process {pid}" for pid in _children() - self._children]
        fresh = _threads() - self._threads
        found += [f"thread {name}" for name in fresh if not name.startswith(("Dummy", "pytest"))]
        found += [
            f"running QThread {item.objectName()}"
            for item in gc.get_objects()
            # Not isinstance: it reads `__class__`, and torch has objects that warn when read.
            if issubclass(type(item), QThread) and _running(item)
        ]
        if _handles() > self._handles + self._slack:
            found.append(f"{_handles() - self._handles} more file handles")
        return found

    def check(self, patience: float = 5.0) -> None:
        """Fail if something is left."""
        deadline = time.monotonic() + patience
        while (found := self.findings()) and time.monotonic() < deadline:
            QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete.value)
            QCoreApplication.processEvents()
            gc.collect()
            time.sleep(0.05)
        assert not found, f"left behind: {found}"


def _running(thread: QThread) -> bool:
    try:
        return thread.isRunning() and thread is not QThread.currentThread()
    except RuntimeError:  # its C++ half is gone, which is what we want
        return False
