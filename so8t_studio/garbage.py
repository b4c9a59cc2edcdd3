"""Runs Python's cyclic garbage collector on the GUI thread only.

The collector otherwise runs on whichever thread allocates. When that is a background thread and the
garbage holds QObjects, their destructors run there, take Qt's locks and wait for the interpreter
lock, while the GUI thread, deleting widgets, holds one and waits for the other: the window freezes
for good. So automatic collection is switched off and a timer on the GUI thread does it instead.
"""

from __future__ import annotations

import gc

from PySide6.QtCore import QObject, QTimer, Slot

INTERVAL_MS = 500


class GuiGarbageCollector(QObject):
    """Collects by the interpreter's own thresholds, twice a second, on the thread it lives in."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._thresholds = gc.get_threshold()
        gc.disable()
        # What exists after start-up lives as long as the window and need not be looked at again.
        gc.freeze()
        self._timer = QTimer(self)
        self._timer.setInterval(INTERVAL_MS)
        self._timer.timeout.connect(self._on_timer_timeout)
        self._timer.start()

    def stop(self) -> None:
        """Give collection back to the interpreter."""
        self._timer.stop()
        gc.unfreeze()
        gc.enable()

    @Slot()
    def _on_timer_timeout(self) -> None:
        """Collect the oldest generation that is due."""
        counts = gc.get_count()
        for generation in (2, 1, 0):
            if counts[generation] > self._thresholds[generation]:
                gc.collect(generation)
                return
