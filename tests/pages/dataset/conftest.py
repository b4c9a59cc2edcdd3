"""A Dataset page on a small persona, with the model tester attached."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from PySide6.QtTest import QAbstractItemModelTester
from pytestqt.qtbot import QtBot

from so8t_engine.workspace.workspace import Workspace
from so8t_studio.app import build_context, close_context
from so8t_studio.context import AppContext
from so8t_studio.pages.dataset.page import DatasetPage
from tests.helpers.dataset_page import rows


@pytest.fixture
def context(tmp_path: Path, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch) -> Iterator[AppContext]:
    monkeypatch.setenv("SO8T_SETTINGS", str(tmp_path / "settings.json"))
    root = tmp_path / "workspace"
    with Workspace.open(root) as workspace:
        workspace.create_persona("Tester").save_samples(rows())
        workspace.create_persona("Empty")
    made = build_context(root)
    made.open_persona("tester")
    yield made
    made.dataset.close()
    close_context(made)


@pytest.fixture
def page(context: AppContext, qtbot: QtBot) -> Iterator[DatasetPage]:
    made = DatasetPage(context)
    QAbstractItemModelTester(made.model, QAbstractItemModelTester.FailureReportingMode.Fatal, made)
    qtbot.addWidget(made)
    made.resize(1280, 800)
    with qtbot.waitExposed(made):
        made.show()
    made.on_shown()
    yield made
    made.quality.stop()
    made.statistics.stop()
    made.filtering.stop()
    made.operations.finish()
