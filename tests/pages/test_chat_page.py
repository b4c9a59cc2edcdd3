"""The Chat page with a scripted `chat` process that speaks the real protocol."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QApplication, QPushButton
from pytestqt.qtbot import QtBot

from so8t_engine.labels import Label
from so8t_engine.verdict import OperatingPoint, decide
from so8t_engine.workspace.runs import RunStore
from so8t_studio.context import AppContext
from so8t_studio.jobs.request import JobRequest
from so8t_studio.pages.chat.correction import CorrectionDialog, guess_language
from so8t_studio.pages.chat.page import ChatPage
from so8t_studio.pages.chat.session import BASE, TRAINED, Exchange, ModelState
from tests.helpers.page_context import page_context
from tests.helpers.persona_files import add_run, make_persona

LEFT = Qt.MouseButton.LeftButton


@pytest.fixture
def context(qtbot: QtBot, tmp_path: Path) -> Iterator[AppContext]:
    make_persona(tmp_path / "ws")
    with page_context(tmp_path / "ws", tmp_path, scripted=True) as found:
        yield found


@pytest.fixture
def run(context: AppContext) -> RunStore:
    return add_run(context.workspace.persona("office-assistant"), steps=(0, 40))


def shown(qtbot: QtBot, context: AppContext) -> ChatPage:
    page = ChatPage(context)
    qtbot.addWidget(page)
    context.open_persona("office-assistant")
    page.resize(1060, 740)
    page.show()
    page.on_shown()
    qtbot.waitUntil(lambda: not page._loader.busy)
    return page


def ask(qtbot: QtBot, page: ChatPage, text: str) -> Exchange:
    page.composer.request.setFocus()
    qtbot.keyClicks(page.composer.request, text)
    qtbot.keyClick(page.composer.request, Qt.Key.Key_Return)
    exchange = page.session.current
    assert exchange is not None
    return exchange


def answered(qtbot: QtBot, page: ChatPage, text: str) -> Exchange:
    exchange = ask(qtbot, page, text)
    qtbot.waitUntil(lambda: exchange.finished, timeout=20_000)
    return exchange


def test_an_example_loads_the_model_and_answers_side_by_side(
    qtbot: QtBot, context: AppContext, run: RunStore
) -> None:
    page = shown(qtbot, context)
    assert page.stack.currentWidget() is page.welcome and len(page.welcome.examples) == 3
    assert not page.session.loaded
    qtbot.mouseClick(page.welcome.examples[0], LEFT)
    exchange = page.session.current
    assert exchange is not None and exchange.arms == (BASE, TRAINED)
    qtbot.waitUntil(lambda: exchange.finished, timeout=20_000)
    card = page._cards[exchange.id]
    assert card.panels[BASE].chip.label is Label.ALLOW
    assert card.panels[TRAINED].chip.label is Label.ESCALATE
    assert card.panels[BASE].reply.text() == "Here are three points."
    assert "Judged again with this reply: ✓ ALLOW" in card.panels[BASE].state.text()
    assert not card.panels[TRAINED].reply.isVisible()
    assert page.model_state.text() == "Model ready"


def test_enter_sends_and_shift_enter_breaks_the_line(
    qtbot: QtBot, context: AppContext, run: RunStore
) -> None:
    page = shown(qtbot, context)
    edit = page.composer.request
    qtbot.keyClicks(edit, "first")
    qtbot.keyClick(edit, Qt.Key.Key_Return, Qt.KeyboardModifier.ShiftModifier)
    qtbot.keyClicks(edit, "please refuse")
    page.composer.situation.setText("In a meeting")
    qtbot.keyClick(edit, Qt.Key.Key_Return)
    exchange = page.session.current
    assert exchange is not None
    assert (exchange.request, exchange.context) == ("first\nplease refuse", "In a meeting")
    assert edit.toPlainText() == ""
    qtbot.waitUntil(lambda: exchange.finished, timeout=20_000)
    verdict = exchange.answers[TRAINED].verdict
    assert verdict is not None and verdict.label is Label.REFUSE and verdict.confidence > 0.9
    qtbot.keyClick(edit, Qt.Key.Key_Up)
    assert edit.toPlainText() == "first\nplease refuse"


def test_without_a_persona_nothing_can_be_asked(qtbot: QtBot, context: AppContext) -> None:
    page = shown(qtbot, context)
    assert all(button.isVisible() for button in page.welcome.examples)
    context.close_persona()
    assert not any(button.isVisible() for button in page.welcome.examples)
    assert "No persona is open" in page.welcome.text.text()
    assert not page.composer.isEnabled()


def test_cards_take_the_height_of_their_text_and_no_more(
    qtbot: QtBot, context: AppContext, run: RunStore
) -> None:
    page = shown(qtbot, context)
    for number in range(3):
        exchange = Exchange(
            id=f"long {number}", request="May I? " * 40, context="", strength=1.0, run_id=run.id,
            arms=(BASE, TRAINED),
        )  # fmt: skip
        page._add_card(exchange)
        answer = exchange.answers[BASE]
        answer.verdict = answer.reply_verdict = decide((3.0, 0.0, -1.0), OperatingPoint())
        answer.text, answer.done = "I am sorry for any inconvenience. " * 20, True
        page._cards[exchange.id].show_exchange()
    holder, last = page.scroll.widget(), page._cards["long 2"]
    qtbot.waitUntil(lambda: holder.height() - last.geometry().bottom() <= 12, timeout=5000)
    for panel in last.panels.values():
        assert panel.height() >= panel.heightForWidth(panel.width())


def test_a_request_sent_while_the_runs_are_still_read_goes_to_the_trained_model(
    qtbot: QtBot, context: AppContext, run: RunStore
) -> None:
    page = ChatPage(context)
    qtbot.addWidget(page)
    context.open_persona("office-assistant")
    page.show()
    page.on_shown()
    assert page._loader.busy  # nothing was waited for: the list of runs is not here yet
    qtbot.keyClicks(page.composer.request, "please refuse")
    qtbot.keyClick(page.composer.request, Qt.Key.Key_Return)
    qtbot.waitUntil(lambda: page.session.current is not None, timeout=10_000)
    exchange = page.session.current
    assert exchange is not None and exchange.arms == (BASE, TRAINED) and exchange.run_id == run.id
    assert page.composer.request.toPlainText() == ""
    qtbot.waitUntil(lambda: exchange.finished, timeout=20_000)


def test_gates_off_and_single_arm_reach_the_model(
    qtbot: QtBot, context: AppContext, run: RunStore
) -> None:
    page = shown(qtbot, context)
    page.composer.compare.click()
    page.composer.gates_off.click()
    assert page.composer.strength_value == 0 and not page.composer.strength.isEnabled()
    exchange = answered(qtbot, page, "please refuse")
    assert exchange.arms == (TRAINED,) and exchange.strength == 0
    verdict = exchange.answers[TRAINED].verdict
    assert verdict is not None and verdict.label is Label.ALLOW  # the script's "gates off"
    page.composer.gates_off.click()
    page.composer.strength.setValue(150)
    exchange = answered(qtbot, page, "please refuse")
    assert exchange.strength == 1.5
    assert exchange.answers[TRAINED].verdict.label is Label.REFUSE  # type: ignore[union-attr]


def test_a_reply_that_fails_the_second_judgement_is_withheld(
    qtbot: QtBot, context: AppContext, run: RunStore
) -> None:
    page = shown(qtbot, context)
    exchange = answered(qtbot, page, "allow but leak")
    panel = page._cards[exchange.id].panels[TRAINED]
    assert panel.withheld and not panel.reply.isVisible()
    assert "withheld" in panel.state.text() and "REFUSE" in panel.state.text()
    qtbot.mouseClick(panel.reveal, LEFT)
    assert panel.reply.isVisible() and panel.reply.text() == "Here are three points."


def test_stop_ends_the_reply_and_the_model_stays(
    qtbot: QtBot, context: AppContext, run: RunStore
) -> None:
    page = shown(qtbot, context)
    exchange = ask(qtbot, page, "slowly allow")
    qtbot.waitUntil(lambda: exchange.answers[BASE].verdict is not None, timeout=20_000)
    assert page.composer.send.text() == "Stop"
    qtbot.mouseClick(page.composer.send, LEFT)
    qtbot.waitUntil(lambda: exchange.finished, timeout=5000)
    assert exchange.answers[BASE].reply_verdict is not None
    assert exchange.answers[BASE].reply_verdict.label is Label.ESCALATE
    assert exchange.answers[TRAINED].verdict is not None
    assert exchange.answers[TRAINED].verdict.reason
    assert page.session.state is ModelState.READY and page.composer.send.text() == "Send"
    assert answered(qtbot, page, "please refuse").answers[TRAINED].verdict is not None


def test_a_crash_decides_escalate_and_says_why(
    qtbot: QtBot, context: AppContext, run: RunStore
) -> None:
    page = shown(qtbot, context)
    exchange = ask(qtbot, page, "crash now")
    qtbot.waitUntil(lambda: exchange.finished, timeout=20_000)
    for arm in exchange.arms:
        verdict = exchange.answers[arm].verdict
        assert verdict is not None
        assert verdict.label is Label.ESCALATE and verdict.confidence == 0 and verdict.reason
    panel = page._cards[exchange.id].panels[TRAINED]
    assert panel.reason.isVisible() and panel.chip.label is Label.ESCALATE
    assert page.banner.kind == "error" and not page.session.loaded
    # The next question starts a fresh process.
    assert answered(qtbot, page, "please refuse").answers[TRAINED].verdict.reason == ""  # type: ignore[union-attr]


def test_a_model_that_cannot_be_loaded_is_an_error(
    qtbot: QtBot, context: AppContext, run: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SO8T_TEST_NO_BASE", "1")
    page = shown(qtbot, context)
    qtbot.mouseClick(page.load, LEFT)
    qtbot.waitUntil(page.banner.isVisible, timeout=20_000)
    assert "base model is not here" in page.banner.text()
    assert "Fetch it first" in page.banner.text()
    assert page.load.text() == "Load model"


def test_a_failure_of_one_arm_is_shown_with_its_reason(
    qtbot: QtBot, context: AppContext, run: RunStore
) -> None:
    page = shown(qtbot, context)
    exchange = answered(qtbot, page, "broken")
    panel = page._cards[exchange.id].panels[TRAINED]
    assert panel.reason.text() == "⚠ The model could not read this request."


def test_load_and_unload_are_explicit_and_leave_no_process(
    qtbot: QtBot, context: AppContext, run: RunStore
) -> None:
    page = shown(qtbot, context)
    qtbot.mouseClick(page.load, LEFT)
    qtbot.waitUntil(lambda: page.session.state is ModelState.READY, timeout=20_000)
    pid = context.jobs.active()[0].state.pid
    assert psutil.pid_exists(pid)
    qtbot.mouseClick(page.load, LEFT)
    qtbot.waitUntil(lambda: not page.session.loaded, timeout=10_000)
    assert page.model_state.text() == "Model not loaded"
    qtbot.waitUntil(lambda: not psutil.pid_exists(pid), timeout=5000)


def test_an_idle_model_makes_room_for_training(
    qtbot: QtBot, context: AppContext, run: RunStore
) -> None:
    page = shown(qtbot, context)
    qtbot.mouseClick(page.load, LEFT)
    qtbot.waitUntil(lambda: page.session.state is ModelState.READY, timeout=20_000)
    args = ["eval", "--workspace", str(context.workspace.root), "--persona", "office-assistant"]
    args += ["--run", run.id, "--data", "validation"]
    heavy = context.jobs.start(JobRequest(kind="eval", args=args, needs_gpu=True))
    qtbot.waitUntil(lambda: heavy.state.is_final, timeout=20_000)
    assert heavy.state.phase == "done"
    assert not page.session.loaded and "make room" in page.model_state.text()


def test_what_was_tried_is_noted_beside_the_run(
    qtbot: QtBot, context: AppContext, run: RunStore
) -> None:
    page = shown(qtbot, context)
    answered(qtbot, page, "please refuse")
    qtbot.waitUntil((run.root / "chat.jsonl").is_file)
    qtbot.waitUntil(lambda: not page._loader.busy)
    line = json.loads((run.root / "chat.jsonl").read_text("utf-8"))
    assert line["request"] == "please refuse"
    assert line["answers"]["trained"]["verdict"]["label"] == "REFUSE"


def _correct(qtbot: QtBot, page: ChatPage, exchange: Exchange, label: Label) -> None:
    qtbot.mouseClick(page._cards[exchange.id].correct, LEFT)
    dialog = page.findChild(CorrectionDialog)
    assert dialog is not None and not dialog.add.isEnabled()
    dialog.labels[label].click()
    qtbot.keyClicks(dialog.rationale, "Private mail is private.")
    dialog.category.setText("privacy")
    with qtbot.waitSignal(dialog.finished):
        qtbot.mouseClick(dialog.add, LEFT)
    QApplication.processEvents()


def test_a_correction_becomes_a_sample_and_can_be_undone(
    qtbot: QtBot, context: AppContext, run: RunStore
) -> None:
    page = shown(qtbot, context)
    exchange = answered(qtbot, page, "please allow this")
    store = context.dataset
    before = len(store)
    _correct(qtbot, page, exchange, Label.REFUSE)
    assert len(store) == before + 1 and store.modified
    sample = store.samples[-1]
    assert (sample.request, sample.label) == ("please allow this", Label.REFUSE)
    assert sample.rationale == "Private mail is private." and sample.category == "privacy"
    assert sample.language == "en" and "chat" in sample.tags and run.id in sample.source
    assert "Added to the dataset as REFUSE" in page._cards[exchange.id].note.text()
    button = page.banner.findChild(QPushButton, "bannerAction")
    assert button is not None
    qtbot.mouseClick(button, LEFT)
    assert not store.modified and page.banner.kind == "success"
    assert context.persona is not None
    assert context.persona.load_samples()[-1] == sample
    store.undo_stack.undo()
    assert len(store) == before
    store.undo_stack.redo()
    # The same request again changes the row instead of contradicting it.
    again = answered(qtbot, page, "please allow this")
    _correct(qtbot, page, again, Label.ESCALATE)
    assert len(store) == before + 1
    assert store.sample(sample.id).label is Label.ESCALATE  # type: ignore[union-attr]


def test_without_a_run_only_the_base_model_answers(qtbot: QtBot, context: AppContext) -> None:
    page = shown(qtbot, context)
    assert "only the base model" in page.welcome.text.text()
    assert not page.composer.strength.isVisible()
    exchange = answered(qtbot, page, "please refuse")
    assert exchange.arms == (BASE,) and exchange.run_id == ""


def test_another_persona_starts_a_new_conversation(
    qtbot: QtBot, context: AppContext, run: RunStore
) -> None:
    context.workspace.create_persona("Second")
    page = shown(qtbot, context)
    answered(qtbot, page, "please refuse")
    context.open_persona("second")
    qtbot.waitUntil(lambda: not page.session.loaded, timeout=10_000)
    qtbot.waitUntil(lambda: not page._loader.busy)
    assert not page._cards and page.stack.currentWidget() is page.welcome
    assert page.run_id == ""


@pytest.mark.parametrize(
    ("text", "language"), [("Hello", "en"), ("会議の要点", "ja"), ("ok カナ", "ja")]
)
def test_language_is_guessed_from_the_script(text: str, language: str) -> None:
    assert guess_language(text) == language
