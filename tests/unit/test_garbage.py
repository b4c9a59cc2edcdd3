"""Cyclic garbage with QObjects is destroyed on the GUI thread, whoever allocates."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator

import pytest
from PySide6.QtCore import QObject
from pytestqt.qtbot import QtBot

from so8t_studio.garbage import GuiGarbageCollector


class Node(QObject):
    """An object that keeps itself alive in a cycle."""

    def __init__(self) -> None:
        super().__init__()
        self.itself = self


@pytest.fixture
def collector(qapp: object) -> Iterator[GuiGarbageCollector]:
    made = GuiGarbageCollector()
    yield made
    made.stop()
    gc.disable()  # as the rest of the suite runs


def test_a_busy_thread_never_collects_and_the_gui_thread_does(
    collector: GuiGarbageCollector, qtbot: QtBot
) -> None:
    threads: list[threading.Thread] = []
    dead = weakref.ref(Node(), lambda _ref: threads.append(threading.current_thread()))

    def allocate() -> None:
        for _ in range(50):
            [[] for _ in range(2000)]

    worker = threading.Thread(target=allocate)
    worker.start()
    worker.join()
    assert dead() is not None, "the worker's allocations collected it"
    keep = [[] for _ in range(2000)]
    qtbot.waitUntil(lambda: dead() is None, timeout=5000)
    assert threads == [threading.main_thread()]
    assert len(keep) == 2000


def test_stopping_gives_collection_back(qapp: object) -> None:
    made = GuiGarbageCollector()
    assert not gc.isenabled()
    made.stop()
    assert gc.isenabled()
    gc.disable()
