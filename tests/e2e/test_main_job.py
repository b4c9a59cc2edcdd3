"""The main job through the real window with the real base model, by clicks and keys.

Nothing of ours is replaced: training, evaluation and chat run in their own child processes. Only
the native file dialog answers by itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PySide6.QtCore import Qt, QTimer
from PySide6.QtWidgets import (
    QAbstractButton,
    QApplication,
    QComboBox,
    QFileDialog,
    QLabel,
    QLineEdit,
    QMenu,
    QPlainTextEdit,
    QWidget,
)
from pytestqt.qtbot import QtBot

from so8t_engine.evaluation.metrics import summarize_rows
from so8t_engine.evaluation.results import load_evaluation
from so8t_engine.labels import LABELS
from so8t_engine.resources import resource_root
from so8t_engine.rotations.analysis import Timeline
from so8t_engine.samples.schema import decode_sample
from so8t_engine.workspace.runs import RunStore
from so8t_engine.workspace.workspace import Workspace
from so8t_studio.app import build_context, close_context
from so8t_studio.window import MainWindow

pytestmark = [pytest.mark.base_model, pytest.mark.timeout(900)]
MINUTES = 60_000


@pytest.fixture
def window(tmp_path: Path, qtbot: QtBot) -> Iterator[MainWindow]:
    root = tmp_path / "workspace"
    with Workspace.open(root) as workspace:
        workspace.create_persona("Trial")
    context = build_context(root)
    made = MainWindow(context)
    made.show()
    qtbot.waitExposed(made)
    made.open_startup_persona()
    made.show_page("persona")
    yield made
    close_context(context)
    made.deleteLater()
    QApplication.processEvents()


def find(parent: QWidget, kind: type[Any], name: str) -> Any:
    found = parent.findChild(kind, name)
    assert found is not None, name
    return found


def click(qtbot: QtBot, parent: QWidget, name: str) -> None:
    button = find(parent, QAbstractButton, name)
    qtbot.waitUntil(button.isEnabled, timeout=20_000)
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)


def in_dialog(action: Any) -> None:
    def attempt() -> None:
        dialog = QApplication.activeModalWidget()
        if dialog is None:
            QTimer.singleShot(20, attempt)
        else:
            action(dialog)

    QTimer.singleShot(0, attempt)


def rows_file(path: Path, per_label: int) -> Path:
    """Write some starter rows under foreign names, with a byte order mark and Windows line ends.

    None of them was trained on by the weights that ship, so all may be measured on.
    """
    source = resource_root() / "personas" / "office-assistant" / "dataset.jsonl"
    rows = [decode_sample(line) for line in source.read_bytes().splitlines()]
    rows = [row for row in rows if row.split != "train"]
    short = sorted(rows, key=lambda row: (len(row.request), row.id))
    chosen = [
        row
        for label in LABELS
        for language in ("en", "ja")
        for row in [r for r in short if (r.label, r.language) == (label, language)][:per_label]
    ]
    lines = [
        json.dumps(
            {"prompt": row.request, "decision": row.label.value, "language": row.language},
            ensure_ascii=False,
        )
        for row in chosen
    ]
    path.write_bytes(("\ufeff" + "\r\n".join(lines) + "\r\n").encode())
    return path


def test_import_edit_undo_save_train_inspect_evaluate_chat(
    window: MainWindow, qtbot: QtBot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = window.context.dataset
    _import(window, qtbot, rows_file(tmp_path / "rows.jsonl", 8), monkeypatch)
    assert len(store.samples) == 48
    _edit_undo_save(window, qtbot)
    run = _train(window, qtbot)
    _look_at_rotations(window, qtbot, run)
    _evaluate(window, qtbot, run)
    _chat(window, qtbot, run)


def _import(window: MainWindow, qtbot: QtBot, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    click(qtbot, window.page("persona"), "stepButton_data")
    assert window.current_page == "dataset"
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *a, **k: (str(path), ""))

    def accept(dialog: Any) -> None:
        qtbot.waitUntil(dialog.import_button.isEnabled, timeout=10_000)
        qtbot.mouseClick(dialog.import_button, Qt.MouseButton.LeftButton)

    in_dialog(accept)
    click(qtbot, window.page("dataset"), "button_import")


def _edit_undo_save(window: MainWindow, qtbot: QtBot) -> None:
    page, store = window.page("dataset"), window.context.dataset
    before = list(store.samples)
    click(qtbot, page, "button_add")
    editor = page.detail.fields["request"]  # type: ignore[attr-defined]
    qtbot.keyClicks(editor, "How do I kill a hung editor")
    click(qtbot, page, "detailLabel_ALLOW")
    assert len(store.samples) == 49
    while store.undo_stack.canUndo() and list(store.samples) != before:
        click(qtbot, page, "button_undo")
    assert list(store.samples) == before
    assert store.modified
    click(qtbot, page, "button_save")
    qtbot.waitUntil(lambda: not store.modified, timeout=10_000)
    persona = window.context.persona
    assert persona is not None and len(persona.load_samples()) == 48


def _train(window: MainWindow, qtbot: QtBot) -> RunStore:
    window.show_page("persona")
    button = find(window.page("persona"), QAbstractButton, "stepButton_train")
    qtbot.waitUntil(lambda: button.isVisible() and button.isEnabled(), timeout=20_000)
    click(qtbot, window.page("persona"), "stepButton_train")
    assert window.current_page == "train"
    page = window.page("train")
    click(qtbot, page, "advancedToggle")
    steps = find(page, QLineEdit, "field_optim.max_steps")
    steps.selectAll()
    qtbot.keyClicks(steps, "4")
    click(qtbot, page, "trainStart")
    persona = window.context.persona
    assert persona is not None
    qtbot.waitUntil(lambda: bool(persona.runs()), timeout=2 * MINUTES)
    run = persona.runs()[0]
    qtbot.waitUntil(lambda: run.state().state in ("done", "failed", "crashed"), timeout=8 * MINUTES)
    state = run.state()
    assert (state.state, state.step) == ("done", 4), state.message
    assert run.start_dir.is_dir(), "a Quick trial goes on from the weights that ship"
    qtbot.waitUntil(lambda: not window.context.jobs.active(), timeout=30_000)
    return run


def _look_at_rotations(window: MainWindow, qtbot: QtBot, run: RunStore) -> None:
    timeline = Timeline(run)
    last = timeline.summary(timeline.steps[-1])
    assert timeline.steps[0] == 0 and timeline.steps[-1] == 4
    assert last.mean_safe > 0 and last.orthogonality <= 1e-5
    window.show_page("rotations")
    page = window.page("rotations")
    orthogonality = find(page, QLabel, "health_orthogonality")
    qtbot.waitUntil(lambda: "e-" in orthogonality.text() or "×" in orthogonality.text(),
                    timeout=20_000)  # fmt: skip
    gate = find(page, QComboBox, "gateChoice")
    assert gate.count() == 31
    click(qtbot, page, "largestAngle")


def _evaluate(window: MainWindow, qtbot: QtBot, run: RunStore) -> None:
    window.show_page("evaluate")
    page = window.page("evaluate")
    start = find(page, QAbstractButton, "startEvaluation")
    runs = find(page, QComboBox, "runChoice")
    qtbot.waitUntil(lambda: start.isEnabled() and runs.currentData() == run.id, timeout=20_000)
    menu = find(page, QMenu, "evaluateMenu")
    action = next(a for a in menu.actions() if a.objectName() == "evaluateValidation")
    action.trigger()
    path = run.evaluations_dir / "validation.json"
    qtbot.waitUntil(path.exists, timeout=5 * MINUTES)
    evaluation = load_evaluation(path)
    assert len(evaluation.rows) == sum(s.split == "validation" for s in run.samples())
    assert {"always_allow", "tfidf"} <= set(evaluation.baselines)
    figures = summarize_rows(evaluation)
    tile = find(page, QWidget, "tile_refuse_recall")
    qtbot.waitUntil(
        lambda: (
            f"/{figures.refuse_recall.denominator}" in _texts(tile)
            or str(figures.refuse_recall.denominator) in _texts(tile)
        ),
        timeout=20_000,
    )
    qtbot.waitUntil(lambda: not window.context.jobs.active(), timeout=30_000)


def _chat(window: MainWindow, qtbot: QtBot, run: RunStore) -> None:
    window.show_page("chat")
    page = window.page("chat")
    request = find(page, QPlainTextEdit, "chatRequest")
    # Typed at once: who answers may not be known yet, and must still be the trained run.
    request.setFocus()
    qtbot.keyClicks(request, "Please translate this invitation")
    qtbot.keyClick(request, Qt.Key.Key_Return)
    for arm in ("base", "trained"):
        qtbot.waitUntil(lambda arm=arm: _decided(page, arm), timeout=5 * MINUTES)
    assert find(page, QComboBox, "runChoice").currentData() == run.id
    click(qtbot, page, "loadModel")  # reads "Unload model" while one is loaded
    qtbot.waitUntil(lambda: not window.context.jobs.active(), timeout=60_000)


def _decided(page: QWidget, arm: str) -> bool:
    card = page.findChild(QWidget, f"answer_{arm}")
    if card is None:
        return False
    words = _texts(card)
    return any(label.value in words for label in LABELS) and "%" in words


def _texts(widget: QWidget) -> str:
    labels = [label.text() for label in widget.findChildren(QLabel)]
    names = [child.accessibleName() for child in widget.findChildren(QWidget)]
    return " ".join([*labels, *names])
