"""Clicks and waits on the Train page."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QPushButton

from so8t_studio.jobs.state import Phase
from so8t_studio.pages.train.page import TrainPage


def press(qtbot, page: TrainPage, name: str) -> None:
    """Click the button with the object name ``name``."""
    qtbot.mouseClick(page.findChild(QPushButton, name), Qt.MouseButton.LeftButton)


def wait_phase(qtbot, page: TrainPage, *phases: Phase) -> None:
    """Wait until the page's job is in one of ``phases``."""

    def reached() -> bool:
        handle = page.card.handle
        return handle is not None and handle.state.phase in phases

    qtbot.waitUntil(reached, timeout=20_000)
