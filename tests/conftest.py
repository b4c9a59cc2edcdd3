"""Fixtures that every test may use: an application on a temporary workspace, and leak hunters."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("PYQTGRAPH_QT_LIB", "PySide6")

import pytest

# As in the window (so8t_studio/garbage.py): QObjects must not be collected on a background thread.
gc.disable()
_COLLECT_EVERY = 25
_finished = 0


@pytest.fixture(autouse=True)
def _collect_on_the_main_thread(request: pytest.FixtureRequest) -> Iterator[None]:
    """Collect cyclic garbage after every test with widgets, and now and then after others."""
    global _finished
    yield
    _finished += 1
    names = request.fixturenames
    if "qtbot" in names or "qapp" in names or _finished % _COLLECT_EVERY == 0:
        gc.collect()


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
