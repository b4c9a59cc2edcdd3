"""What a newcomer finds: a starter persona that is trained, evaluated, and ready to be taught."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QPushButton
from pytestqt.qtbot import QtBot

from so8t_engine.specs import LoraSpec, ModelSpec, TrainSpec, preset
from so8t_engine.workspace.runs import RunStore
from so8t_engine.workspace.workspace import shipped_run
from so8t_studio.context import AppContext
from so8t_studio.pages.train.checks import start_check
from so8t_studio.pages.train.page import RUNS, SETUP, TrainPage
from so8t_studio.pages.train.run_actions import again, begun_with
from so8t_studio.pages.train.runs_model import read_row
from so8t_studio.window import MainWindow
from tests.helpers.apps import closing_context

pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.fixture
def context(qapp: object, tmp_path: Path) -> Iterator[AppContext]:
    with closing_context(tmp_path / "workspace", trained=True) as made:
        yield made


def test_every_step_up_to_chat_is_done(context: AppContext, qtbot: QtBot) -> None:
    window = MainWindow(context)
    qtbot.addWidget(window)
    window.show()
    window.show_page("persona")
    stepper = window.page("persona").stepper  # type: ignore[attr-defined]
    cards = stepper.cards
    qtbot.waitUntil(
        lambda: cards["train"].words.text() == f"Run {shipped_run().id} done", timeout=20_000
    )
    assert "health" in cards["inspect"].words.text()
    assert cards["evaluate"].words.text().startswith("Refuse Recall 0.9")
    assert cards["chat"].words.text() == "Not tried yet"


def test_its_run_can_be_trained_on_from_but_not_continued(
    context: AppContext, qtbot: QtBot
) -> None:
    window = MainWindow(context)
    qtbot.addWidget(window)
    window.show()
    window.show_page("train")
    page = window.page("train")
    assert isinstance(page, TrainPage)
    page.tabs.setCurrentIndex(RUNS)
    qtbot.waitUntil(lambda: len(page.runs.model.rows()) == 1, timeout=20_000)
    page.setup.choose("balanced")
    page.runs.select(shipped_run().id)
    begin = page.findChild(QPushButton, "runBegin")
    assert begin is not None and begin.isEnabled()
    assert not page.runs.continue_button.isEnabled(), "it has no optimizer state"
    assert not page.runs.resume_button.isEnabled()
    qtbot.mouseClick(begin, Qt.MouseButton.LeftButton)
    assert page.tabs.currentIndex() == SETUP
    assert page.setup.preset_key == "quick"
    assert page.setup.form.changes() == {"start_from": shipped_run().id}
    qtbot.waitUntil(
        lambda: any(check.key == "start" for check in page.setup.checks()), timeout=20_000
    )
    (check,) = [check for check in page.setup.checks() if check.key == "start"]
    assert check.level == "ok" and shipped_run().id in check.sentence


def test_the_settings_of_the_other_run_come_along(context: AppContext) -> None:
    persona = context.persona
    assert persona is not None
    spec = TrainSpec(
        base_model="/a/folder", model=ModelSpec(adapt_layers=4, lora=LoraSpec(rank=8, alpha=8.0))
    )
    row = read_row(RunStore.create(persona.runs_dir, spec, policy=""))
    key, changes = begun_with(row)
    assert key == "quick"
    assert changes["model.adapt_layers"] == 4 and changes["model.lora.rank"] == 8
    assert changes["base_model"] == "/a/folder" and changes["start_from"] == row.store.id
    plain = read_row(RunStore.create(persona.runs_dir, TrainSpec(model=ModelSpec(lora=None)),
                                     policy=""))  # fmt: skip
    assert begun_with(plain)[1]["model.lora"] is None


def test_a_run_is_repeated_from_its_own_copy_of_the_weights(context: AppContext) -> None:
    persona = context.persona
    assert persona is not None
    store = RunStore.create(persona.runs_dir, preset("quick"), policy="")
    assert again(read_row(store), None).start_from == ""
    store.start_dir.mkdir()
    assert again(read_row(store), None).start_from == str(store.start_dir.resolve())


def test_the_check_names_what_does_not_fit(context: AppContext) -> None:
    persona = context.persona
    assert persona is not None
    assert start_check(TrainSpec(), persona) == []
    (fits,) = start_check(preset("quick"), persona)
    assert fits.level == "ok"
    (rank,) = start_check(
        TrainSpec(start_from="starter", model=ModelSpec(adapt_layers="all", lora=LoraSpec(rank=4))),
        persona,
    )
    assert rank.level == "error" and '"rank":16' in rank.sentence
    (other,) = start_check(TrainSpec(start_from="starter", base_model="/a/folder"), persona)
    assert other.level == "warning" and "Balanced" in other.next_step
    (gone,) = start_check(TrainSpec(start_from="20990101_000000"), persona)
    assert gone.level == "error"
