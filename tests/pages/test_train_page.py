"""The Train page with real clicks and a scripted child process."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from PySide6.QtCore import Qt, QTimer
from PySide6.QtGui import QColor
from PySide6.QtWidgets import (
    QAbstractButton,
    QApplication,
    QComboBox,
    QLabel,
    QLineEdit,
    QMessageBox,
    QPlainTextEdit,
    QPushButton,
    QSlider,
    QTableView,
    QToolButton,
)

from so8t_engine.specs import load_spec, preset
from so8t_engine.workspace.runs import RunState, RunStore
from so8t_studio.jobs.state import Phase
from so8t_studio.pages.train.checks import run_checks
from so8t_studio.pages.train.page import LIVE, RUNS, SETUP, TrainPage
from so8t_studio.widgets.empty_state import EmptyState
from tests.helpers.train_page import press, wait_phase

pytestmark = pytest.mark.usefixtures("no_leaks")
LEFT = Qt.MouseButton.LeftButton


def visible_buttons(page: TrainPage) -> set[str]:
    card = page.card
    found = {"start": card.start, "pause": card.pause, "stop": card.stop, "kill": card.kill}
    return {name for name, button in found.items() if button.isVisible() and button.isEnabled()}


def test_start_trains_and_the_page_shows_what_happened(qtbot, opened):
    page = opened("train", "--steps", "30")
    assert visible_buttons(page) == {"start"}
    press(qtbot, page, "trainStart")
    assert page.tabs.currentIndex() == LIVE
    wait_phase(qtbot, page, Phase.DONE)
    assert visible_buttons(page) == {"start"}
    steps = page.live.loss.history("train.loss")
    assert list(steps.x) == list(range(1, 31))
    assert page.live.run_label.text().endswith("as it ended")
    assert page.live.tiles["refuse_recall"].value() == "0.91"
    assert "0.82" in page.live.tiles["refuse_recall"].detail()
    assert np.isnan(page.live.loss.history("train.task_loss").y).all()
    messages = [line.message for line in page.live.log.lines()]
    assert messages.count("Checkpoint saved at step 30.") == 1
    qtbot.waitUntil(lambda: len(page.runs.model.rows()) == 1, timeout=10_000)
    qtbot.waitUntil(lambda: page.runs.model.rows()[0].state.state == "done", timeout=10_000)


def test_the_child_gets_exactly_the_settings_that_are_shown(qtbot, opened):
    page = opened("train", "--steps", "3")
    qtbot.mouseClick(page.setup._cards["balanced"].radio, LEFT)
    page.setup.advanced.click()
    field = page.findChild(QLineEdit, "field_optim.lr_lora")
    field.clear()
    qtbot.keyClicks(field, "3e-4")
    press(qtbot, page, "trainStart")
    wait_phase(qtbot, page, Phase.DONE)
    run = page.context.persona.runs()[0]
    assert run.spec().optim.lr_lora == 3e-4
    assert run.spec().optim.epochs == preset("balanced").optim.epochs
    args = page.card.handle.request.args
    assert args[:4] == ["train", "--workspace", str(page.context.workspace.root), "--persona"]
    assert load_spec(Path(args[args.index("--spec") + 1])) == run.spec()


def test_stop_and_save_then_resume_goes_on_in_the_same_run(qtbot, opened):
    page = opened("train", "--steps", "400")
    press(qtbot, page, "trainStart")
    wait_phase(qtbot, page, Phase.RUNNING)
    assert visible_buttons(page) == {"pause", "stop", "kill"}
    press(qtbot, page, "trainStop")
    wait_phase(qtbot, page, Phase.STOPPING, Phase.CANCELLED)
    wait_phase(qtbot, page, Phase.CANCELLED)
    page.tabs.setCurrentIndex(RUNS)
    qtbot.waitUntil(
        lambda: [row.state.state for row in page.runs.model.rows()] == ["cancelled"],
        timeout=10_000,
    )
    page.runs.select(page.runs.model.rows()[0].store.id)
    assert page.runs.resume_button.isEnabled()
    press(qtbot, page, "runResume")
    wait_phase(qtbot, page, Phase.RUNNING)
    assert "--resume" in page.card.handle.request.args
    assert len(page.context.persona.runs()) == 1
    press(qtbot, page, "trainStop")
    wait_phase(qtbot, page, Phase.CANCELLED)


def test_pause_button_becomes_resume_only_when_the_job_says_so(qtbot, opened):
    page = opened("train", "--steps", "100000")
    press(qtbot, page, "trainStart")
    wait_phase(qtbot, page, Phase.RUNNING)
    press(qtbot, page, "trainPause")
    wait_phase(qtbot, page, Phase.PAUSED)
    assert page.card.pause.text() == "Resume"
    assert visible_buttons(page) == {"pause", "stop", "kill"}
    press(qtbot, page, "trainPause")
    wait_phase(qtbot, page, Phase.RUNNING)
    assert page.card.pause.text() == "Pause"
    press(qtbot, page, "trainStop")
    wait_phase(qtbot, page, Phase.CANCELLED)


def test_end_now_asks_first(qtbot, opened, monkeypatch):
    page = opened("train", "--steps", "100000")
    press(qtbot, page, "trainStart")
    wait_phase(qtbot, page, Phase.RUNNING)
    asked: list[str] = []

    def answer(text: str):
        def exec_(box: QMessageBox) -> int:
            asked.append(box.text())
            button = next(item for item in box.buttons() if item.text() == text)
            button.click()
            return 0

        return exec_

    monkeypatch.setattr(QMessageBox, "exec", answer("Keep running"))
    press(qtbot, page, "trainKill")
    assert page.card.handle.state.phase is Phase.RUNNING
    monkeypatch.setattr(QMessageBox, "exec", answer("End now"))
    press(qtbot, page, "trainKill")
    wait_phase(qtbot, page, Phase.CANCELLED)
    assert len(asked) == 2


def test_a_failure_says_what_why_and_what_next_and_copies_details(qtbot, opened):
    page = opened("error")
    press(qtbot, page, "trainStart")
    wait_phase(qtbot, page, Phase.FAILED)
    qtbot.waitUntil(page.failure.isVisible, timeout=5_000)
    ink = QColor(page.context.theme.tokens.error_soft)
    assert page.failure.grab().toImage().pixelColor(page.failure.width() // 2, 4) == ink
    assert page.failure.text() == (
        "The data set has no row labelled REFUSE. It was filtered. Add rows labelled REFUSE."
    )
    qtbot.mouseClick(page.failure.findChild(QPushButton, "bannerCopyDetails"), LEFT)
    copied = QApplication.clipboard().text()
    assert "exit code: 3" in copied and "DataError" in copied
    assert visible_buttons(page) == {"start"}


def test_without_a_persona_the_page_leads_to_one(qtbot, opened):
    page = opened()
    asked: list[str] = []
    page.context.navigation_requested.connect(lambda wish: asked.append(wish.page))
    page.context.close_persona()
    assert page.empty.isVisible() and not page.card.isVisible() and not page.tabs.isVisible()
    qtbot.mouseClick(page.empty.button, LEFT)
    assert asked == ["persona"]


def test_a_crash_shows_the_last_output(qtbot, opened):
    page = opened("before-hello")
    press(qtbot, page, "trainStart")
    wait_phase(qtbot, page, Phase.FAILED)
    qtbot.waitUntil(page.failure.isVisible, timeout=5_000)
    qtbot.mouseClick(page.failure.findChild(QPushButton, "bannerCopyDetails"), LEFT)
    assert "No module named 'torch'" in QApplication.clipboard().text()


def test_a_wrong_setting_blocks_the_start_with_its_name(qtbot, opened):
    page = opened()
    page.setup.advanced.click()
    field = page.findChild(QLineEdit, "field_optim.batch_size")
    field.setText("zero")
    assert not page.card.start.isEnabled()
    assert "optim.batch_size" in page.card.sentence.text()
    field.setText("0")
    assert not page.card.start.isEnabled()
    assert page.setup.form.errors().keys() == {"optim.batch_size"}
    field.setText("13")
    assert page.card.start.isEnabled()
    assert page.setup.form.changes() == {"optim.batch_size": 13}
    assert "1 changed" in page.setup.changed_label.text()


def test_what_was_typed_is_there_again_after_a_restart(qtbot, opened):
    page = opened()
    qtbot.mouseClick(page.setup._cards["thorough"].radio, LEFT)
    page.findChild(QLineEdit, "field_seed").setText("99")
    page.on_hidden()
    again = TrainPage(page.context)
    qtbot.addWidget(again)
    assert again.setup.preset_key == "thorough"
    assert again.setup.form.spec().seed == 99


def test_settings_of_a_run_can_be_used_again(qtbot, opened):
    page = opened("train", "--steps", "2")
    page.findChild(QLineEdit, "field_seed").setText("4711")
    press(qtbot, page, "trainStart")
    wait_phase(qtbot, page, Phase.DONE)
    page.setup.choose("thorough")
    qtbot.waitUntil(lambda: bool(page.runs.model.rows()), timeout=10_000)
    page.runs.select(page.runs.model.rows()[0].store.id)
    page.tabs.setCurrentIndex(RUNS)
    press(qtbot, page, "runCopy")
    assert page.tabs.currentIndex() == SETUP
    assert page.setup.preset_key == "quick"
    assert page.setup.form.changes() == {"seed": 4711}


def test_a_run_whose_process_is_gone_is_offered_for_resume(qtbot, opened):
    page = opened()
    persona = page.context.persona
    run = RunStore.create(persona.runs_dir, page.setup.form.spec(), policy="")
    run.save_state(RunState(state="running", pid=2**22 + 5, pid_started=1.0, step=7, total_steps=9))
    folder = run.checkpoints_dir / "step-00000007"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}", "utf-8")
    page._refresh()
    qtbot.waitUntil(page.orphans.isVisible, timeout=10_000)
    assert run.id in page.orphans.text() and "step 7" in page.orphans.text()
    qtbot.mouseClick(page.orphans.findChild(QPushButton, "bannerAction"), LEFT)
    wait_phase(qtbot, page, Phase.RUNNING, Phase.DONE)
    assert page.card.handle.request.args[-3:] == ["--resume", run.id, "--events"]
    wait_phase(qtbot, page, Phase.DONE)


def test_a_page_made_during_a_run_shows_the_whole_history(qtbot, opened):
    page = opened("train", "--steps", "300")
    press(qtbot, page, "trainStart")
    qtbot.waitUntil(lambda: len(page.live.loss.history("train.loss")) > 20, timeout=20_000)
    late = TrainPage(page.context)
    qtbot.addWidget(late)
    late.show()
    late.on_shown()
    wait_phase(qtbot, page, Phase.DONE)
    qtbot.waitUntil(lambda: len(late.live.loss.history("train.loss")) == 300, timeout=20_000)
    assert list(late.live.loss.history("train.loss").x) == list(range(1, 301))


def test_two_selected_runs_are_laid_over_each_other_and_compared(qtbot, opened):
    page = opened("train", "--steps", "5")
    for seed in ("1", "2"):
        page.findChild(QLineEdit, "field_seed").setText(seed)
        press(qtbot, page, "trainStart")
        wait_phase(qtbot, page, Phase.DONE)
        qtbot.waitUntil(lambda: page.card.handle.worker is None, timeout=5_000)
    qtbot.waitUntil(lambda: len(page.runs.model.rows()) == 2, timeout=10_000)
    page.tabs.setCurrentIndex(RUNS)
    page.runs.table.selectAll()
    qtbot.waitUntil(lambda: len(page.runs.overlay.keys()) == 2, timeout=10_000)
    table = page.runs.diff.table
    assert [table.item(row, 0).text() for row in range(table.rowCount())] == ["seed"]


def test_delete_moves_to_the_trash(qtbot, opened, monkeypatch):
    page = opened("train", "--steps", "2")
    press(qtbot, page, "trainStart")
    wait_phase(qtbot, page, Phase.DONE)
    qtbot.waitUntil(lambda: bool(page.runs.model.rows()), timeout=10_000)
    page.tabs.setCurrentIndex(RUNS)
    page.runs.select(page.runs.model.rows()[0].store.id)

    asked: list[str] = []

    def exec_(box: QMessageBox) -> int:
        asked.append(box.text())
        next(item for item in box.buttons() if "trash" in item.text()).click()
        return 0

    monkeypatch.setattr(QMessageBox, "exec", exec_)
    qtbot.waitUntil(page.runs.delete_button.isEnabled, timeout=10_000)
    run = page.runs.model.rows()[0].store
    (run.root / "big.bin").write_bytes(b"0" * 3_000_000)
    press(qtbot, page, "runDelete")
    qtbot.waitUntil(lambda: page.context.persona.runs() == [], timeout=10_000)
    assert run.id in asked[0] and "3 MB" in asked[0]
    assert len(list((page.context.workspace.root / "trash").iterdir())) == 1
    qtbot.waitUntil(lambda: not page.runs.model.rows(), timeout=10_000)
    assert page.runs.findChild(EmptyState).isVisible()


def test_the_command_line_is_the_same_run(qtbot, opened, monkeypatch):
    page = opened()
    page.findChild(QLineEdit, "field_seed").setText("5")
    monkeypatch.setattr(QMessageBox, "exec", lambda box: 0)
    press(qtbot, page, "specCommand")
    words = QApplication.clipboard().text().split()
    assert words[:2] == ["so8t", "train"]
    assert load_spec(Path(words[words.index("--spec") + 1])) == page.setup.form.spec()


def test_the_form_has_every_field_with_help_and_an_accessible_name(qtbot, opened):
    page = opened()
    rows = page.setup.form._rows
    assert len(rows) >= 50
    for path, row in rows.items():
        assert row.editor.accessibleName() == path
        assert row.field.help, f"{path} has no description"
        assert row.note.text()
    assert json.loads(json.dumps(page.setup.form.changes())) == {}


def test_checks_name_what_is_missing(tmp_path, base_ready):
    from so8t_engine.labels import Label
    from so8t_engine.samples.schema import Sample
    from so8t_engine.specs import LossSpec, TrainSpec

    def found(samples, spec=None, **more):
        checks = run_checks(samples, spec or TrainSpec(), base="default", folder=tmp_path,
                            reading=None, **more)  # fmt: skip
        return {check.key: check for check in checks}

    assert found([])["rows"].level == "error"
    one = [Sample(id="1", request="a", label=Label.ALLOW)]
    assert "ESCALATE or REFUSE" in found(one)["rows"].sentence
    rows = [
        Sample(id=f"{label}{n}", request=f"{label} {n}", label=label)
        for label in Label
        for n in range(30)
    ]
    good = found(rows)
    assert {check.level for check in good.values()} <= {"ok", "info"}
    clash = [*rows, Sample(id="x", request="ALLOW 3", label=Label.REFUSE)]
    assert "1 requests" in found(clash)["conflicts"].sentence
    only_train = [Sample(id=s.id, request=s.request, label=s.label, split="train") for s in rows]
    assert found(only_train)["split"].level == "error"
    assert found(rows, TrainSpec(loss=LossSpec(w_task=0.1)))["task"].level == "warning"
    assert found(rows, TrainSpec(device="cuda"))["device"].level == "error"
    assert found(rows, read_only=True)["lock"].level == "error"


def test_every_label_in_the_page_is_wide_enough_at_the_small_size(qtbot, opened):
    page = opened()
    page.resize(816, 560)
    qtbot.wait(50)
    for label in page.setup.widget().findChildren(QLabel):
        if label.isVisible() and label.wordWrap():
            needed = label.heightForWidth(label.width())
            assert label.height() >= needed, label.text()


def test_a_flood_of_50000_events_keeps_the_window_alive(qtbot, opened):
    page = opened("flood", "--count", "50000")
    gaps: list[float] = []
    last = [time.monotonic()]
    ticker = QTimer()
    ticker.setInterval(5)

    def tick() -> None:
        now = time.monotonic()
        gaps.append(now - last[0])
        last[0] = now

    ticker.timeout.connect(tick)
    ticker.start()
    press(qtbot, page, "trainStart")
    qtbot.waitUntil(
        lambda: page.card.handle.state.is_final and page.card.handle.worker is None,
        timeout=60_000,
    )
    ticker.stop()
    assert len(page.live.loss.history("train.loss")) == 50_000
    assert max(gaps) < 1.0, "the window stood still"


def test_a_truncated_event_file_still_shows_what_is_left(qtbot, opened):
    page = opened("train", "--steps", "20")
    press(qtbot, page, "trainStart")
    wait_phase(qtbot, page, Phase.DONE)
    run = page.context.persona.runs()[0]
    raw = run.events_path.read_bytes()
    run.events_path.write_bytes(raw[: len(raw) // 2])
    page.open_payload(run.id)
    history = page.live.loss.history("train.loss")
    qtbot.waitUntil(lambda: 3 < len(history) < 20, timeout=10_000)
    assert "recorded" in page.live.run_label.text()


def test_everything_that_can_be_operated_has_a_name(qtbot, opened):
    page = opened()
    page.setup.advanced.click()
    kinds = (QAbstractButton, QLineEdit, QComboBox, QSlider, QTableView, QPlainTextEdit)
    found = [widget for kind in kinds for widget in page.findChildren(kind)]
    assert len(found) > 100
    for widget in found:
        if widget.metaObject().className() in ("QTableCornerButton",) or (
            widget.objectName() in ("qt_spinbox_lineedit", "ScrollLeftButton", "ScrollRightButton")
            or widget.parent().metaObject().className() in ("QLineEdit", "QTabBar")
        ):
            continue  # parts that Qt makes itself
        where = f"{widget.metaObject().className()} in {widget.parent().objectName()}"
        assert widget.objectName(), where
        assert widget.accessibleName() or (isinstance(widget, QAbstractButton) and widget.text()), (
            f"{where} {widget.objectName()}"
        )


def test_the_keyboard_alone_starts_and_stops_a_run(qtbot, opened):
    page = opened("train", "--steps", "100000")
    page.window().activateWindow()
    qtbot.waitUntil(page.window().isActiveWindow, timeout=5_000)
    page.card.start.setFocus()
    qtbot.keyClick(page.card.start, Qt.Key.Key_Space)
    wait_phase(qtbot, page, Phase.RUNNING)
    page.card.stop.setFocus()
    qtbot.keyClick(page.card.stop, Qt.Key.Key_Space)
    wait_phase(qtbot, page, Phase.CANCELLED)


def test_further_runs_wait_in_a_queue_that_can_change(qtbot, opened):
    page = opened("train", "--steps", "300")
    press(qtbot, page, "trainStart")
    wait_phase(qtbot, page, Phase.RUNNING)
    first = page.card.handle
    page.tabs.setCurrentIndex(SETUP)
    seed = page.findChild(QLineEdit, "field_seed")
    for value in ("1", "2", "3"):
        seed.setText(value)
        qtbot.wait(20)
        press(qtbot, page, "trainQueue")
    jobs = page.context.jobs
    assert page.card.handle is first
    up = "queueUp_2"
    qtbot.waitUntil(lambda: page.queue.findChild(QToolButton, up) is not None, timeout=5_000)
    one, two, three = jobs.queued()
    qtbot.mouseClick(page.queue.findChild(QToolButton, up), LEFT)
    assert jobs.queued() == [one, three, two]
    qtbot.mouseClick(page.queue.findChild(QToolButton, "queueRemove_0"), LEFT)
    assert jobs.queued() == [three, two] and one.state.phase is Phase.CANCELLED
    first.stop()
    qtbot.waitUntil(lambda: page.card.handle is three, timeout=20_000)
    qtbot.waitUntil(lambda: three.state.phase is Phase.RUNNING, timeout=20_000)
    two.stop()
    three.stop()
    qtbot.waitUntil(lambda: not jobs.active(), timeout=20_000)
    assert not page.queue.isVisible()
    seeds = sorted(run.spec().seed for run in page.context.persona.runs())
    assert seeds == [3, 17]
