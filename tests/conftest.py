"""Fixtures that every test may use: an application on a temporary workspace, and leak hunters."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("PYQTGRAPH_QT_LIB", "PySide6")

import pytest


@pytest.fixture(autouse=True)
def _private_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep every test away from the user's own settings, logs and documents."""
    monkeypatch.setenv("SO8T_SETTINGS", str(tmp_path / "settings.json"))
    monkeypatch.setenv("SO8T_WORKSPACE", str(tmp_path / "workspace"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def app_context(qapp: object, tmp_path: Path) -> Iterator[object]:
    """The services of the window on a fresh workspace with the starter persona open.

    At the end nothing of it may be alive: no job thread, no child process.
    """
    from tests.helpers.apps import closing_context

    with closing_context(tmp_path / "workspace") as context:
        yield context


@pytest.fixture
def no_leaks(qapp: object) -> Iterator[None]:
    """Fail if the test leaves a thread, child process or running timer behind."""
    from tests.helpers.leaks import LeakHunter

    hunter = LeakHunter()
    yield
    hunter.check()
