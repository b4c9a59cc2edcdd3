"""Every control of the four pages has a name for tests and one for screen readers."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from PySide6.QtWidgets import (
    QAbstractButton,
    QAbstractItemView,
    QAbstractSlider,
    QAbstractSpinBox,
    QComboBox,
    QLineEdit,
    QPlainTextEdit,
    QScrollBar,
    QTabBar,
    QWidget,
)
from pytestqt.qtbot import QtBot

from so8t_studio.context import AppContext
from tests.helpers.evaluations import make_evaluation, write_evaluation
from tests.helpers.page_context import page_context
from tests.helpers.persona_files import add_run, make_persona, make_samples

CONTROLS = (
    QAbstractButton, QComboBox, QLineEdit, QPlainTextEdit, QAbstractSlider, QAbstractSpinBox,
    QAbstractItemView,
)  # fmt: skip
PAGES = {
    "persona": "PersonaPage",
    "rotations": "RotationsPage",
    "evaluate": "EvaluatePage",
    "chat": "ChatPage",
}


@pytest.fixture
def context(qtbot: QtBot, tmp_path: Path) -> Iterator[AppContext]:
    persona = make_persona(tmp_path / "ws")
    run = add_run(persona)
    write_evaluation(run, make_evaluation(make_samples(60)))
    with page_context(tmp_path / "ws", tmp_path) as found:
        yield found


def _part_of_a_control(widget: QWidget) -> bool:
    parent = widget.parentWidget()
    inner = (QComboBox, QAbstractSpinBox, QAbstractItemView, QTabBar)
    return (
        isinstance(widget, QScrollBar)
        or isinstance(parent, inner)
        or (parent is not None and isinstance(parent.parentWidget(), QComboBox))
    )


@pytest.mark.parametrize("key", PAGES)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_controls_are_named(qtbot: QtBot, context: AppContext, key: str, theme: str) -> None:
    context.theme.set_mode(theme)  # type: ignore[arg-type]
    module = importlib.import_module(f"so8t_studio.pages.{key}.page")
    page = getattr(module, PAGES[key])(context)
    qtbot.addWidget(page)
    context.open_persona("office-assistant")
    page.resize(1060, 740)
    page.show()
    page.on_shown()
    qtbot.waitUntil(lambda: not page._loader.busy)
    controls = [
        widget
        for kind in CONTROLS
        for widget in page.findChildren(kind)
        if not _part_of_a_control(widget)
    ]
    assert len(controls) >= 8
    for widget in controls:
        visible = widget.isVisibleTo(page)
        assert widget.objectName(), f"{widget} of {key} has no objectName"
        if visible:
            assert widget.accessibleName(), f"{widget.objectName()} of {key} has no accessibleName"
    assert not page.grab().isNull()
