"""Reads that would hold up the window: done one after another off the GUI thread."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import logging
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from PySide6.QtCore import QObject, QRunnable, QThreadPool, Signal, Slot

from so8t_engine.errors import So8tError

log = logging.getLogger(__name__)
_pool: QThreadPool | None = None


@dataclass(frozen=True)
class Failure:
    """Why a piece of work gave no value.

    Attributes:
        text: what failed, why and what to do next, for the user.
        details: the traceback where the failure was not foreseen, else empty.
    """

    text: str
    details: str = ""


@dataclass(frozen=True)
class _Answer:
    topic: str
    number: int
    value: object


class _Task(QRunnable):
    def __init__(self, loader: Loader, topic: str, number: int, work: Callable[[], object]) -> None:
        super().__init__()
        self._loader = loader
        self._topic = topic
        self._number = number
        self._work = work

    def run(self) -> None:
        """Do the work unless a newer wish for the same topic makes it pointless."""
        if not self._loader.wants(self._topic, self._number):
            return
        try:
            value = self._work()
        except So8tError as error:
            value = Failure(str(error))
        except Exception as error:
            log.exception("Background work %s failed", self._topic)
            value = Failure(f"{type(error).__name__}: {error}", traceback.format_exc())
        # The page may be gone by now; then nobody is waiting.
        with contextlib.suppress(RuntimeError):
            self._loader.answered.emit(_Answer(self._topic, self._number, value))


def _shared_pool() -> QThreadPool:
    global _pool
    if _pool is None:
        _pool = QThreadPool()
        _pool.setMaxThreadCount(1)
        _pool.setExpiryTimeout(2000)
        atexit.register(wait_for_background)
    return _pool


def wait_for_background(timeout_ms: int = 10_000) -> bool:
    """Wait until nothing is read any more; call it before the application object goes."""
    return _pool is None or _pool.waitForDone(timeout_ms)


class Loader(QObject):
    """Runs functions on one background thread and answers on the thread that it lives in.

    A newer wish for a topic replaces the older one: only the answer to the newest is delivered.
    """

    answered = Signal(object)
    busy_changed = Signal(bool)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._numbers = itertools.count()
        self._newest: dict[str, int] = {}
        self._receivers: dict[str, Callable[[object], None]] = {}
        self.answered.connect(self._on_answered)

    def load(
        self, topic: str, work: Callable[[], object], receive: Callable[[object], None]
    ) -> None:
        """Run ``work`` and hand its value, or a :class:`Failure`, to ``receive``."""
        number = next(self._numbers)
        was_busy = self.busy
        self._newest[topic] = number
        self._receivers[topic] = receive
        if not was_busy:
            self.busy_changed.emit(True)
        _shared_pool().start(_Task(self, topic, number, work))

    def cancel(self, topic: str) -> None:
        """Forget what was asked for ``topic``."""
        if self._newest.pop(topic, None) is not None and not self.busy:
            self.busy_changed.emit(False)

    def wants(self, topic: str, number: int) -> bool:
        """Tell whether the answer ``number`` to ``topic`` is still the one waited for."""
        return self._newest.get(topic) == number

    @property
    def busy(self) -> bool:
        """True while an answer is awaited."""
        return bool(self._newest)

    @Slot(object)
    def _on_answered(self, answer: _Answer) -> None:
        if not self.wants(answer.topic, answer.number):
            return
        del self._newest[answer.topic]
        if not self.busy:
            self.busy_changed.emit(False)
        self._receivers[answer.topic](answer.value)
