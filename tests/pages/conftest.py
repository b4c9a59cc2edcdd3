"""Fixtures that the tests of the Train page share."""

from __future__ import annotations

import pytest

from so8t_studio.pages.train.page import TrainPage
from tests.helpers.apps import closing_context, fake_command


@pytest.fixture
def base_ready(monkeypatch, tmp_path):
    """A base model folder that the check accepts is not part of these tests."""
    monkeypatch.setattr(
        "so8t_studio.pages.train.checks.resolve_base", lambda reference: tmp_path / "base"
    )


@pytest.fixture
def opened(qtbot, tmp_path, base_ready):
    """Return a function that opens the page on a child that follows a scenario."""
    stack = []

    def make(scenario: str = "train", *options: str) -> TrainPage:
        command = fake_command(scenario, *options)
        holder = closing_context(tmp_path / "workspace", command=command, rows=30)
        context = holder.__enter__()
        stack.append(holder)
        page = TrainPage(context)
        qtbot.addWidget(page)
        page.resize(1072, 740)
        page.show()
        page.on_shown()
        qtbot.waitUntil(lambda: bool(page.setup.checks()), timeout=10_000)
        return page

    yield make
    for holder in stack:
        holder.__exit__(None, None, None)
