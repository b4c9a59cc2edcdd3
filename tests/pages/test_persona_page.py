"""The Persona page: stepper from what is on disk, form, create, rename, duplicate, delete."""

from __future__ import annotations

import datetime as dt
import json
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QMessageBox, QPushButton
from pytestqt.qtbot import QtBot

from so8t_engine.labels import Label
from so8t_engine.samples.schema import Sample
from so8t_engine.workspace.runs import RunStore
from so8t_studio.commands.dataset import add_sample
from so8t_studio.context import AppContext, Navigation, RunChange
from so8t_studio.pages.persona.base_model import check_base_folder, estimate_tokens
from so8t_studio.pages.persona.name_dialog import NameDialog
from so8t_studio.pages.persona.page import PersonaPage
from so8t_studio.pages.persona.progress import DataFacts, Facts, data_facts, gather
from so8t_studio.pages.persona.steps import Status, build_steps, next_step
from tests.helpers.evaluations import make_evaluation, write_evaluation
from tests.helpers.page_context import page_context
from tests.helpers.persona_files import add_run, make_persona, make_samples

LEFT = Qt.MouseButton.LeftButton
SLUG = "office-assistant"


@pytest.fixture
def context(qtbot: QtBot, tmp_path: Path) -> Iterator[AppContext]:
    make_persona(tmp_path / "ws")
    with page_context(tmp_path / "ws", tmp_path) as found:
        yield found


def shown(qtbot: QtBot, context: AppContext, slug: str = SLUG) -> PersonaPage:
    page = PersonaPage(context)
    qtbot.addWidget(page)
    if slug:
        context.open_persona(slug)
    page.resize(1060, 740)
    page.show()
    page.on_shown()
    settled(qtbot, page)
    return page


def settled(qtbot: QtBot, page: PersonaPage) -> None:
    qtbot.waitUntil(lambda: not page._loader.busy and not page._refresh.isActive())


def words(page: PersonaPage) -> list[str]:
    return [card.words.text() for card in page.stepper.cards.values()]


def primary(page: PersonaPage) -> list[str]:
    return [
        key
        for key, card in page.stepper.cards.items()
        if card.button.property("kind") == "primary" and card.button.isVisible()
    ]


def test_clicking_only_the_next_button_leads_through_all_pages(
    qtbot: QtBot, context: AppContext
) -> None:
    persona = context.workspace.persona(SLUG)
    page = shown(qtbot, context)
    asked: list[Navigation] = []
    context.navigation_requested.connect(asked.append)

    def press() -> Navigation:
        (key,) = primary(page)
        qtbot.mouseClick(page.stepper.cards[key].button, LEFT)
        return asked[-1]

    assert words(page)[0] == "60 rows, no label conflicts"
    assert words(page)[1:] == ["Not trained yet", "After training", "After training",
                               "After training"]  # fmt: skip
    assert press() == Navigation("train", None)
    run = add_run(persona)
    context.runs_changed.emit(RunChange(run.id, "finished"))
    settled(qtbot, page)
    assert words(page)[1] == f"Run {run.id} done"
    assert words(page)[2].startswith("Largest angle ") and "health 3e-07" in words(page)[2]
    assert page.stepper.cards["inspect"].step.payload == run.id  # type: ignore[union-attr]
    assert press() == Navigation("evaluate", ("start", "validation"))
    write_evaluation(run, make_evaluation(make_samples(60)))
    context.runs_changed.emit(RunChange(run.id, "moved"))
    settled(qtbot, page)
    assert page._facts is not None and page._facts.metrics is not None
    recall = page._facts.metrics.refuse_recall
    expected = f"Refuse Recall {recall.value:.2f} ({recall.numerator}/{recall.denominator})"
    assert words(page)[3] == expected
    assert press() == Navigation("chat", run.id)
    (run.root / "chat.jsonl").write_text(json.dumps({"request": "x"}) + "\n", "utf-8")
    context.runs_changed.emit(RunChange(run.id, "moved"))
    settled(qtbot, page)
    assert words(page)[4] == "1 request tried on this run"


def test_conflicts_and_unsaved_edits_are_said(qtbot: QtBot, context: AppContext) -> None:
    persona = context.workspace.persona(SLUG)
    rows = make_samples(60)
    twin = msgspec.structs.replace(rows[0], id="twin", label=Label.REFUSE)
    persona.save_samples([*rows, twin])
    page = shown(qtbot, context)
    assert words(page)[0] == "61 rows, 1 label conflict"
    assert primary(page) == ["data"]
    add_sample(context.dataset, Sample(id="n", request="new", label=Label.ALLOW))
    assert words(page)[0].endswith("edits not saved")
    context.dataset.save()
    settled(qtbot, page)
    assert words(page)[0] == "62 rows, 1 label conflict"


def test_an_empty_persona_starts_with_data(qtbot: QtBot, context: AppContext) -> None:
    context.workspace.create_persona("Blank")
    page = shown(qtbot, context, "blank")
    assert words(page)[:2] == ["No rows yet", "Needs data first"]
    assert primary(page) == ["data"]


def test_a_damaged_dataset_is_named_with_its_line(qtbot: QtBot, context: AppContext) -> None:
    persona = context.workspace.persona(SLUG)
    with persona.dataset_path.open("ab") as stream:
        stream.write(b'{"id": "x", "request": "r", "label": "MAYBE"}\n')
    facts = gather(persona)
    assert "line 61" in facts.data.error
    step = build_steps(facts)[0]
    assert step.status is Status.ATTENTION and "line 61" in step.detail


@pytest.mark.parametrize(
    ("state", "checkpoint", "expected", "button"),
    [
        ("running", False, "is going on", "Watch"),
        ("failed", False, "failed", "Open Train"),
        ("cancelled", True, "stopped, checkpoint saved", "Train again"),
    ],
)
def test_runs_in_every_state_are_put_into_words(
    qtbot: QtBot, context: AppContext, state: str, checkpoint: bool, expected: str, button: str
) -> None:
    add_run(context.workspace.persona(SLUG), state=state, checkpoint=checkpoint)
    page = shown(qtbot, context)
    assert expected in words(page)[1]
    assert page.stepper.cards["train"].button.text() == button


def test_a_run_that_goes_on_is_followed_to_its_end(
    qtbot: QtBot, context: AppContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("so8t_studio.pages.persona.page.WATCH_MS", 50)
    run = add_run(context.workspace.persona(SLUG), state="running", checkpoint=False)
    page = shown(qtbot, context)
    detail = page.stepper.cards["train"].detail
    assert detail.text() == "Step 40 of 40"
    state = run.state()
    state.step, state.total_steps = 41, 80
    run.save_state(state)
    qtbot.waitUntil(lambda: detail.text() == "Step 41 of 80", timeout=5000)
    state.state, state.message = "failed", "The disk is full."
    run.save_state(state)
    qtbot.waitUntil(lambda: detail.text() == "The disk is full.", timeout=5000)
    assert not page._watch.isActive()


def test_changed_data_asks_for_training_again(qtbot: QtBot, context: AppContext) -> None:
    persona = context.workspace.persona(SLUG)
    run = add_run(persona)
    later = dt.datetime.now().timestamp() + 10
    os.utime(persona.dataset_path, (later, later))
    page = shown(qtbot, context)
    assert primary(page) == ["train"]
    assert "changed after it" in page.stepper.cards["train"].detail.text()
    assert isinstance(run, RunStore)


def test_bad_health_is_a_warning() -> None:
    facts = Facts(data=DataFacts(rows=90, labels=dict.fromkeys(Label, 30)), trained="r")
    from so8t_studio.pages.persona.progress import RotationFacts

    facts = Facts(
        data=facts.data,
        newest="r",
        trained="r",
        rotations=RotationFacts(step=1, gate="head", angle=1.0, health=2e-3),
    )
    step = build_steps(facts)[2]
    assert step.status is Status.ATTENTION and "do not rely" in step.detail
    assert next_step(build_steps(facts)) == 3


def test_conflicts_ignore_case_and_spacing() -> None:
    def row(number: int, request: str, label: Label, context: str = "") -> Sample:
        return Sample(id=str(number), request=request, label=label, context=context)

    rows = [
        row(1, "Read my mail", Label.ALLOW),
        row(2, "read  MY mail", Label.REFUSE),
        row(3, "Read my mail", Label.REFUSE, "as the boss"),
        row(4, "other", Label.ALLOW),
        row(5, "other", Label.ALLOW),
    ]
    assert data_facts(rows).conflicts == 1


# -- form ---------------------------------------------------------------------------------------


def test_typing_is_saved_and_announced(qtbot: QtBot, context: AppContext) -> None:
    page = shown(qtbot, context)
    page.form.policy.setFocus()
    page.form.policy.selectAll()
    qtbot.keyClicks(page.form.policy, "Refuse everything harmful.")
    with qtbot.waitSignal(context.persona_edited, timeout=3000):
        pass
    assert context.persona is not None
    assert context.persona.info.policy == "Refuse everything harmful."
    assert page.form.state.text() == "✓ Saved"
    assert "About 6 of the 384 tokens" in page.form.hint.text()
    page.form.name.setFocus()
    page.form.name.selectAll()
    qtbot.keyClicks(page.form.name, "Front desk")
    page.form.description.setFocus()  # leaving the field saves at once
    assert context.persona.info.name == "Front desk"
    assert page.header.title.text() == "Front desk"
    assert context.persona.slug == SLUG


def test_an_empty_name_is_refused_and_the_old_one_kept(qtbot: QtBot, context: AppContext) -> None:
    page = shown(qtbot, context)
    page.form.name.setFocus()
    page.form.name.selectAll()
    qtbot.keyClick(page.form.name, Qt.Key.Key_Delete)
    page.form.commit()
    assert page.banner.kind == "error" and "needs a name" in page.banner.text()
    assert context.persona is not None and context.persona.info.name == "Office assistant"


def test_switching_personas_writes_what_was_typed(qtbot: QtBot, context: AppContext) -> None:
    context.workspace.create_persona("Second")
    page = shown(qtbot, context)
    page.form.policy.setFocus()
    qtbot.keyClicks(page.form.policy, "New rule. ")
    context.open_persona("second")
    assert context.workspace.persona(SLUG).info.policy.startswith("New rule. ")
    assert context.workspace.persona("second").info.policy == ""
    assert page.form.policy.toPlainText() == ""


def test_long_policies_get_a_hint(qtbot: QtBot, context: AppContext) -> None:
    page = shown(qtbot, context)
    page.form.policy.setPlainText("word " * 300)
    assert page.form.hint.text().startswith("⚠ About 375")
    assert estimate_tokens("規則") == 3


@pytest.mark.parametrize(
    ("config", "weights", "problem"),
    [
        (None, False, "no config.json"),
        ("{", True, "cannot be read"),
        ('{"hidden_size": 577}', True, "577 is not a multiple of 8"),
        ('{"hidden_size": 576}', False, "no .safetensors"),
        ('{"model_type": "llama", "num_hidden_layers": 30, "hidden_size": 576}', True, ""),
    ],
)
def test_base_folders_are_checked(
    qtbot: QtBot, context: AppContext, tmp_path: Path, config: str | None, weights: bool,
    problem: str,
) -> None:  # fmt: skip
    folder = tmp_path / "base"
    folder.mkdir()
    if config is not None:
        (folder / "config.json").write_text(config)
    if weights:
        (folder / "model.safetensors").write_bytes(b"")
    text, found = check_base_folder(folder)
    assert problem in found and bool(found) == bool(problem) and bool(text) != bool(problem)
    page = shown(qtbot, context)
    page.form.choose_base(str(folder))
    qtbot.waitUntil(lambda: "Looking" not in page.form.base_state.text())
    assert context.persona is not None and context.persona.info.base_model == str(folder)
    assert (problem or "llama, 30 layers, hidden size 576") in page.form.base_state.text()


# -- create, rename, duplicate, delete ------------------------------------------------------------


def _answer(qtbot: QtBot, page: PersonaPage, name: str, *, option: bool = False) -> None:
    dialog = page.findChild(NameDialog)
    assert dialog is not None
    dialog.field.clear()
    dialog.field.insert(name)
    if option:
        dialog.option.click()
    with qtbot.waitSignal(dialog.finished):
        qtbot.mouseClick(dialog.accept_button, LEFT)


def test_create_with_the_examples_of_the_open_persona(qtbot: QtBot, context: AppContext) -> None:
    page = shown(qtbot, context)
    qtbot.mouseClick(page.new, LEFT)
    dialog = page.findChild(NameDialog)
    assert dialog is not None and not dialog.accept_button.isEnabled()
    with qtbot.waitSignal(context.personas_changed):
        _answer(qtbot, page, "受付 Desk", option=True)
    assert context.persona is not None and context.persona.info.name == "受付 Desk"
    settled(qtbot, page)
    assert words(page)[0].startswith("60 rows")
    assert page.form.name.text() == "受付 Desk"


def test_rename_and_duplicate(qtbot: QtBot, context: AppContext) -> None:
    page = shown(qtbot, context)
    page.rename_action.trigger()
    _answer(qtbot, page, "Help desk")
    assert context.workspace.persona(SLUG).info.name == "Help desk"
    assert page.header.title.text() == "Help desk"
    qtbot.waitUntil(lambda: page.findChild(NameDialog) is None)
    page.duplicate_action.trigger()
    _answer(qtbot, page, "Help desk 2")
    assert [persona.name for persona in context.workspace.personas()] == [
        "Help desk",
        "Help desk 2",
    ]
    assert context.persona is not None and context.persona.slug == "help-desk-2"


def _confirm(qtbot: QtBot, page: PersonaPage) -> None:
    box = page.findChild(QMessageBox)
    assert box is not None
    button = box.findChild(QPushButton, "confirmDelete")
    assert button is not None
    with qtbot.waitSignal(box.finished):
        qtbot.mouseClick(button, LEFT)


def test_a_guard_is_asked_before_another_persona_is_made(qtbot: QtBot, context: AppContext) -> None:
    page = shown(qtbot, context)
    answers = [False, False, True]
    context.add_switch_guard(lambda: answers.pop(0))
    qtbot.mouseClick(page.new, LEFT)
    page.duplicate_action.trigger()
    assert not page.findChildren(NameDialog) and len(context.workspace.personas()) == 1
    page.duplicate_action.trigger()
    (dialog,) = page.findChildren(NameDialog)
    qtbot.mouseClick(dialog.accept_button, LEFT)
    assert len(context.workspace.personas()) == 2 and not answers


def test_delete_moves_to_the_trash_and_opens_another(qtbot: QtBot, context: AppContext) -> None:
    context.workspace.create_persona("Second")
    page = shown(qtbot, context)
    page.delete_action.trigger()
    _confirm(qtbot, page)
    assert [persona.slug for persona in context.workspace.personas()] == ["second"]
    assert context.persona is not None and context.persona.slug == "second"
    assert len(list((context.workspace.root / "trash").iterdir())) >= 1
    qtbot.waitUntil(lambda: page.findChild(QMessageBox) is None)
    page.delete_action.trigger()
    _confirm(qtbot, page)
    assert context.persona is None and page.stack.currentWidget() is page.empty


def test_a_persona_in_training_is_not_deleted(qtbot: QtBot, context: AppContext) -> None:
    add_run(context.workspace.persona(SLUG), state="running")
    page = shown(qtbot, context)
    page.delete_action.trigger()
    _confirm(qtbot, page)
    assert "Stop the run first" in page.banner.text()
    assert context.persona is not None and context.persona.root.is_dir()


def test_a_second_window_only_reads(qtbot: QtBot, context: AppContext, tmp_path: Path) -> None:
    with page_context(context.workspace.root, tmp_path / "second") as other:
        assert other.workspace.read_only
        page = shown(qtbot, other)
        assert page.form.policy.isReadOnly() and not page.new.isEnabled()
        assert not page.delete_action.isEnabled() and page.form.state.text()
        assert words(page)[0] == "60 rows, no label conflicts"


def test_without_a_persona_the_starter_is_offered(qtbot: QtBot, context: AppContext) -> None:
    page = shown(qtbot, context, "")
    assert page.stack.currentWidget() is page.empty
    context.workspace.delete(SLUG)
    qtbot.mouseClick(page.empty.button, LEFT)
    assert context.persona is not None and context.persona.slug == SLUG
    settled(qtbot, page)
    assert page._facts is not None and page._facts.data.rows > 300
