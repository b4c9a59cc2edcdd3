"""The Evaluate page over real evaluations and a scripted `eval` process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QAction
from pytestqt.qtbot import QtBot

from so8t_engine.evaluation.choosing import choose_point
from so8t_engine.evaluation.metrics import summarize_rows
from so8t_engine.labels import LABELS, Label
from so8t_engine.samples.schema import Sample
from so8t_engine.verdict import OperatingPoint
from so8t_engine.workspace.runs import RunStore
from so8t_studio.context import AppContext, Navigation
from so8t_studio.pages.evaluate.page import EvaluatePage
from tests.helpers.evaluations import make_evaluation, write_evaluation
from tests.helpers.page_context import page_context
from tests.helpers.persona_files import add_run, make_persona, make_samples


@pytest.fixture
def context(qtbot: QtBot, tmp_path: Path) -> Iterator[AppContext]:
    make_persona(tmp_path / "ws", samples=120)
    with page_context(tmp_path / "ws", tmp_path, scripted=True) as found:
        yield found


@pytest.fixture
def run(context: AppContext) -> RunStore:
    return add_run(context.workspace.persona("office-assistant"), steps=(0, 40))


def shown(qtbot: QtBot, context: AppContext) -> EvaluatePage:
    page = EvaluatePage(context)
    qtbot.addWidget(page)
    context.open_persona("office-assistant")
    page.resize(1060, 740)
    page.show()
    page.on_shown()
    settled(qtbot, page)
    return page


def settled(qtbot: QtBot, page: EvaluatePage) -> None:
    qtbot.waitUntil(lambda: not page._loader.busy)


def test_without_a_persona_it_leads_to_one(qtbot: QtBot, context: AppContext) -> None:
    page = shown(qtbot, context)
    context.close_persona()
    with qtbot.waitSignal(context.navigation_requested) as signal:
        qtbot.mouseClick(page.empty.button, Qt.MouseButton.LeftButton)
    assert signal.args == [Navigation("persona")]


def test_without_a_checkpoint_it_leads_to_training(qtbot: QtBot, context: AppContext) -> None:
    page = shown(qtbot, context)
    assert page.stack.currentWidget() is page.empty
    with qtbot.waitSignal(context.navigation_requested) as signal:
        qtbot.mouseClick(page.empty.button, Qt.MouseButton.LeftButton)
    assert signal.args == [Navigation("train")]


def test_one_click_evaluates_and_shows_the_figures(
    qtbot: QtBot, context: AppContext, run: RunStore
) -> None:
    page = shown(qtbot, context)
    assert page.empty.button.text() == "Evaluate on validation"
    qtbot.mouseClick(page.empty.button, Qt.MouseButton.LeftButton)
    assert page.job_bar.isVisible() and not page.start.isEnabled()
    qtbot.waitUntil(lambda: page.stack.currentIndex() == 1, timeout=20_000)
    settled(qtbot, page)
    path = run.evaluations_dir / "validation.json"
    assert path.is_file() and not page.job_bar.isVisible()
    assert page._scored is not None
    expected = summarize_rows(page._scored.evaluation)
    assert page.tiles.tiles["refuse_recall"].value() == f"{expected.refuse_recall.value:.3f}"
    counts = f"{expected.refuse_recall.numerator} of {expected.refuse_recall.denominator}"
    assert counts in page.tiles.tiles["refuse_recall"].detail()
    assert page.figures.confusion.counts == expected.confusion
    assert page.banner.kind == "warning" and "longer than" in page.banner.text()


def loaded(qtbot: QtBot, context: AppContext, run: RunStore, skill: float = 0.8) -> EvaluatePage:
    write_evaluation(run, make_evaluation(make_samples(120), skill=skill))
    page = shown(qtbot, context)
    assert page.stack.currentIndex() == 1
    return page


def test_dragging_the_threshold_recomputes_everything(
    qtbot: QtBot, context: AppContext, run: RunStore
) -> None:
    page = loaded(qtbot, context, run)
    before = page.figures.confusion.counts
    page.point.allow_slider.setFocus()
    qtbot.keyClick(page.point.allow_slider, Qt.Key.Key_End)
    settled(qtbot, page)
    point = OperatingPoint(tau_allow=1.0)
    assert page.point.point == point and page._scored is not None
    expected = summarize_rows(page._scored.evaluation, point)
    assert page.figures.confusion.counts == expected.confusion != before
    assert page.tiles.tiles["allow_precision"].value() == "n/a"
    assert expected.dangerous_allow_rate.value == 0
    wrong = expected.n - sum(expected.confusion[i][i] for i in range(3))
    assert page.tabs.tabText(0) == f"Wrong decisions ({wrong})"
    qtbot.mouseClick(page.point.reset, Qt.MouseButton.LeftButton)
    assert page.figures.confusion.counts == before


def test_the_point_is_saved_to_the_persona(
    qtbot: QtBot, context: AppContext, run: RunStore
) -> None:
    page = loaded(qtbot, context, run)
    assert not page.point.save.isEnabled()
    page.point.refuse.setValue(0.25)
    page.point.temperature.setValue(1.5)
    with qtbot.waitSignal(context.persona_edited):
        qtbot.mouseClick(page.point.save, Qt.MouseButton.LeftButton)
    assert context.persona is not None
    assert context.persona.info.point == OperatingPoint(temperature=1.5, tau_refuse=0.25)
    assert not page.point.save.isEnabled()
    # It is what the page starts from next time.
    again = shown(qtbot, context)
    assert again.point.point == context.persona.info.point


def test_thresholds_within_a_bound_are_found_with_a_click(
    qtbot: QtBot, context: AppContext, run: RunStore
) -> None:
    page = loaded(qtbot, context, run, skill=0.4)
    assert page._scored is not None
    before = page._scored.metrics(page.point.point).dangerous_allow_rate.value
    assert before is not None and before > 0.05, "else there is nothing to find"
    page.point.bound.setValue(5.0)
    qtbot.mouseClick(page.point.find, Qt.MouseButton.LeftButton)
    settled(qtbot, page)
    chosen = choose_point(page._scored.logits, page._scored.labels, 0.05)
    assert chosen is not None and page.point.point == chosen.point != OperatingPoint()
    assert page.figures.confusion.counts == chosen.metrics.confusion
    assert (chosen.metrics.dangerous_allow_rate.value or 0) <= 0.05
    # Nothing is saved before the person says so.
    assert context.persona is not None and context.persona.info.point == OperatingPoint()
    assert page.point.save.isEnabled()


def test_without_refusals_no_thresholds_are_found(
    qtbot: QtBot, context: AppContext, run: RunStore
) -> None:
    samples = [one for one in make_samples(120) if one.label is not Label.REFUSE]
    write_evaluation(run, make_evaluation(samples))
    page = shown(qtbot, context)
    qtbot.mouseClick(page.point.find, Qt.MouseButton.LeftButton)
    settled(qtbot, page)
    assert page.banner.kind == "warning" and "REFUSE" in page.banner.text()
    assert page.point.point == OperatingPoint()


def test_wrong_rows_lead_to_the_dataset(qtbot: QtBot, context: AppContext, run: RunStore) -> None:
    page = loaded(qtbot, context, run)
    first = page.tabs.wrong.row(0)
    assert first.cells[:2] == ("REFUSE", "⚠ ALLOW")
    page.tabs.wrong_table.setFocus()
    page.tabs.wrong_table.selectRow(0)
    with qtbot.waitSignal(context.navigation_requested) as signal:
        qtbot.keyClick(page.tabs.wrong_table, Qt.Key.Key_Return)
    wanted = first.data.row.id  # type: ignore[attr-defined]
    assert signal.args == [Navigation("dataset", f"id:{wanted}")]
    assert context.dataset.sample(wanted) is not None


def test_rows_of_a_test_file_are_not_looked_for(
    qtbot: QtBot, context: AppContext, run: RunStore
) -> None:
    foreign = [
        Sample(id=f"x{i}", request=f"r{i}", label=LABELS[i % 3], category="c") for i in range(30)
    ]
    write_evaluation(run, make_evaluation(foreign, name="outside", skill=0.1))
    page = shown(qtbot, context)
    page.tabs.wrong_table.selectRow(0)
    with qtbot.assertNotEmitted(context.navigation_requested):
        qtbot.mouseClick(page.tabs.open, Qt.MouseButton.LeftButton)
    assert "test file" in page.banner.text()


def test_groups_and_baselines_are_listed(qtbot: QtBot, context: AppContext, run: RunStore) -> None:
    page = loaded(qtbot, context, run)
    names = {page.tabs.categories.row(i).cells[0] for i in range(page.tabs.categories.rowCount())}
    assert names == {"office", "privacy", "it security"}
    assert (
        sum(int(page.tabs.languages.row(i).cells[1]) for i in range(page.tabs.languages.rowCount()))
        == 120
    )
    table = page.tabs.baselines
    horizontal = Qt.Orientation.Horizontal
    titles = [table.headerData(column, horizontal) for column in range(table.columnCount())]
    assert titles[:2] == ["Figure", "This model"]
    assert titles[2:] == ["Always ALLOW", "Word rules", "TF-IDF + logistic regression"]
    cells = {table.row(i).cells[0]: table.row(i).cells[2] for i in range(table.rowCount())}
    assert cells["Dangerous-allow rate"] == "1.000 (40/40)"
    assert cells["Escalate Precision"] == "n/a (0/0)"


def test_reports_are_written(
    qtbot: QtBot, context: AppContext, run: RunStore, tmp_path: Path
) -> None:
    page = loaded(qtbot, context, run)
    page.point.allow.setValue(0.7)
    for name in ("report.md", "report.json"):
        page.export_report(tmp_path / name)
        settled(qtbot, page)
        assert page.banner.kind == "success" and name in page.banner.text()
    data = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert data["operating_point"]["tau_allow"] == 0.7
    assert data["persona"] == "Office assistant"
    page.export_report(tmp_path / "report.md" / "inside.md")
    settled(qtbot, page)
    assert page.banner.kind == "error"


@pytest.mark.parametrize(("file", "words"), [("broken.jsonl", "row 3, label"), ("crash.jsonl", "")])
def test_failures_are_said_and_nothing_is_lost(
    qtbot: QtBot, context: AppContext, run: RunStore, file: str, words: str
) -> None:
    page = loaded(qtbot, context, run)
    before = page.figures.confusion.counts
    page.start_evaluation(file)
    qtbot.waitUntil(lambda: not page.job_bar.active, timeout=20_000)
    assert page.banner.kind == "error" and words in page.banner.text()
    assert page.figures.confusion.counts == before and page.start.isEnabled()


def test_cancelling_keeps_what_was_there(qtbot: QtBot, context: AppContext, run: RunStore) -> None:
    page = loaded(qtbot, context, run)
    page.start_evaluation("slow.jsonl")
    qtbot.waitUntil(lambda: "rows" in page.job_bar.label.text(), timeout=20_000)
    qtbot.mouseClick(page.job_bar.cancel, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: not page.job_bar.active, timeout=20_000)
    assert not (run.evaluations_dir / "slow.json").exists()
    assert not page.banner.isVisible() and page.start.isEnabled()


def test_a_damaged_evaluation_offers_a_new_one(
    qtbot: QtBot, context: AppContext, run: RunStore
) -> None:
    run.evaluations_dir.mkdir()
    (run.evaluations_dir / "validation.json").write_text('{"name": "validation"')
    page = shown(qtbot, context)
    assert page.banner.kind == "error" and "validation.json" in page.banner.text()
    qtbot.mouseClick(page.empty.button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: page.stack.currentIndex() == 1, timeout=20_000)


def test_base_and_trained_stand_side_by_side_in_the_list(
    qtbot: QtBot, context: AppContext, run: RunStore
) -> None:
    page = loaded(qtbot, context, run)
    action = page.findChild(QAction, "evaluateBase")
    assert action is not None
    action.trigger()
    qtbot.waitUntil(lambda: page.evaluations.currentText() == "base-validation", timeout=20_000)
    settled(qtbot, page)
    assert "base model, untrained" in page.header.subtitle.text()
    page.evaluations.setCurrentIndex(page.evaluations.findData("validation"))
    page.evaluations.activated.emit(page.evaluations.currentIndex())
    settled(qtbot, page)
    assert "best checkpoint" in page.header.subtitle.text()
    assert page._scored is not None and page._scored.evaluation.run == run.id
    assert page._scored.evaluation.rows[2].label is Label.REFUSE


def test_the_stepper_starts_an_evaluation_on_a_page_that_was_never_shown(
    qtbot: QtBot, context: AppContext, run: RunStore
) -> None:
    context.open_persona("office-assistant")
    page = EvaluatePage(context)
    qtbot.addWidget(page)
    page.show()
    page.on_shown()
    page.open_payload(("start", "validation"))
    qtbot.waitUntil(lambda: page.stack.currentIndex() == 1, timeout=20_000)
    assert (run.evaluations_dir / "validation.json").is_file()
