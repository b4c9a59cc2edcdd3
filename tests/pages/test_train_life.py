"""The life of runs on the Train page: failures, notes, again, continue, runs from elsewhere."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QAction
from PySide6.QtWidgets import (
    QApplication,
    QCheckBox,
    QInputDialog,
    QLineEdit,
    QPushButton,
    QToolButton,
)

from so8t_engine.specs import LoraSpec, ModelSpec, TrainSpec, encode_spec, load_spec
from so8t_engine.workspace.runs import RunState, RunStore
from so8t_studio.jobs.state import Phase
from so8t_studio.pages.train.page import LIVE, RUNS, SETUP, TrainPage
from so8t_studio.pages.train.run_feed import digest, newer
from so8t_studio.pages.train.runs_model import NOTES, STAR
from tests.helpers.train_page import press, wait_phase

pytestmark = pytest.mark.usefixtures("no_leaks")
LEFT = Qt.MouseButton.LeftButton


def finished(qtbot, page: TrainPage) -> RunStore:
    """Train to the end and select the run."""
    press(qtbot, page, "trainStart")
    wait_phase(qtbot, page, Phase.DONE)
    qtbot.waitUntil(lambda: page.card.handle.worker is None, timeout=10_000)
    qtbot.waitUntil(
        lambda: [row.state.state for row in page.runs.model.rows()] == ["done"], timeout=10_000
    )
    page.tabs.setCurrentIndex(RUNS)
    store = page.runs.model.rows()[0].store
    page.runs.select(store.id)
    return store


def arguments(page: TrainPage) -> list[str]:
    return page.card.handle.request.args


def started_spec(page: TrainPage) -> TrainSpec:
    args = arguments(page)
    return load_spec(Path(args[args.index("--spec") + 1]))


def test_out_of_memory_offers_settings_that_one_click_takes_over(qtbot, opened):
    page = opened("out-of-memory")
    page.findChild(QLineEdit, "field_seed").setText("41")
    press(qtbot, page, "trainStart")
    wait_phase(qtbot, page, Phase.FAILED)
    qtbot.waitUntil(page.failure.isVisible, timeout=5_000)
    assert "Out of memory: 2.0 GiB were asked for" in page.failure.text()
    assert not page.failure.excerpt.isVisible()
    qtbot.mouseClick(page.failure.toggle, LEFT)
    assert "CUDA out of memory" in page.failure.excerpt.toPlainText()
    qtbot.mouseClick(page.failure.findChild(QPushButton, "bannerCopyDetails"), LEFT)
    assert "CUDA out of memory" in QApplication.clipboard().text()
    page.setup.choose("thorough")  # whatever the form holds meanwhile
    press(qtbot, page, "failureOffer_0")
    assert page.tabs.currentIndex() == SETUP and not page.failure.isVisible()
    spec = page.setup.form.spec()
    assert (spec.optim.batch_size, spec.optim.accumulation, spec.seed) == (4, 4, 41)
    assert page.setup.preset_key == "quick"
    assert page.card.start.isEnabled()


def test_a_failed_run_with_a_checkpoint_is_resumed_from_its_card(qtbot, opened):
    page = opened("error")
    press(qtbot, page, "trainStart")
    wait_phase(qtbot, page, Phase.FAILED)
    qtbot.waitUntil(page.failure.isVisible, timeout=5_000)
    assert not page.failure.findChild(QPushButton, "bannerAction").isVisible()
    run = page.context.persona.runs()[0]
    folder = run.checkpoints_dir / "step-00000003"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}", "utf-8")
    page._show_end(page.card.handle)
    press(qtbot, page, "bannerAction")
    qtbot.waitUntil(lambda: "--resume" in arguments(page), timeout=5_000)
    assert run.id in arguments(page)
    wait_phase(qtbot, page, Phase.FAILED)


def test_watched_cases_and_marks_appear_live_and_again_from_the_folder(qtbot, opened):
    page = opened("train", "--steps", "30")
    store = finished(qtbot, page)
    decided = page.live.cases.decided()
    assert decided["c0"] == "ALLOW" and decided["c5"] == "ESCALATE"
    table = page.live.cases.table
    assert table.item(0, 2).text() == "✓  ALLOW" and table.item(5, 2).text() == "✕  ESCALATE"
    assert "Escalate → Allow" in table.item(0, 4).text()
    assert "5 of 6 as expected at step 30" in page.live.cases.caption.text()
    marks = page.live.loss.marks()
    assert (11.0, "pass 2") in marks and (21.0, "pass 3") in marks
    assert [x for x, text in marks if text == "▾"] == [6, 12, 18, 24, 30]
    names = ("train.loss", "validation.loss", "train.pet")
    curves = {name: list(page.live.loss.history(name).y) for name in names}
    page.follower.clear("")
    assert not page.live.cases.decided() and not page.live.loss.marks()
    page.open_payload(store.id)
    qtbot.waitUntil(lambda: page.live.cases.decided() == decided, timeout=10_000)
    assert page.live.loss.marks() == marks
    for name in names:
        assert list(page.live.loss.history(name).y) == curves[name]


def test_notes_tags_and_star_are_kept_with_the_run_and_sortable(qtbot, opened):
    page = opened("train", "--steps", "2")
    store = finished(qtbot, page)
    page.runs.compare.setCurrentIndex(2)
    page.findChild(QCheckBox, "runStar").click()
    qtbot.keyClicks(page.findChild(QLineEdit, "runTags"), "baseline, audit , baseline")
    page.runs.details.note.setPlainText("Second line\nof two")
    qtbot.waitUntil(lambda: store.notes().note.startswith("Second"), timeout=5_000)
    assert store.notes().tags == ("baseline", "audit") and store.notes().starred
    model = page.runs.model
    qtbot.waitUntil(lambda: model.rows()[0].notes.starred, timeout=5_000)
    assert model.index(0, STAR).data() == "★"
    assert model.index(0, NOTES).data() == "baseline, audit  Second line"
    assert page.runs.table.isSortingEnabled()
    facts = page.runs.details.facts.text()
    assert store.id in facts and "seed 17" in facts and page.context.persona.name in facts
    assert json.loads(store.notes_path.read_text("utf-8"))["starred"] is True


def again(page: TrainPage, name: str) -> None:
    page.runs.again_button.menu().findChild(QAction, name)
    action = next(item for item in page.runs.again_button.menu().actions()
                  if item.objectName() == name)  # fmt: skip
    action.trigger()


def test_a_run_is_repeated_with_its_own_data_policy_and_seed_or_another(qtbot, opened, monkeypatch):
    page = opened("train", "--steps", "2")
    store = finished(qtbot, page)
    folders: list[str] = []
    monkeypatch.setattr("so8t_studio.pages.train.runs_panel.QDesktopServices.openUrl",
                        lambda url: folders.append(url.toLocalFile()))  # fmt: skip
    press(qtbot, page, "runFolder")
    assert folders == [str(store.root)]
    store.policy_path.write_text("Policy as it was.\nTwo lines.", "utf-8")
    again(page, "runAgainSame")
    wait_phase(qtbot, page, Phase.DONE)
    spec = started_spec(page)
    assert spec.seed == store.spec().seed and spec.policy == "Policy as it was.\nTwo lines."
    assert Path(spec.data.dataset) == store.samples_path and spec.data.limit == 0
    qtbot.waitUntil(lambda: page.card.handle.worker is None, timeout=5_000)
    page.runs.select(store.id)
    again(page, "runAgainNew")
    qtbot.waitUntil(lambda: started_spec(page).seed != store.spec().seed, timeout=10_000)
    wait_phase(qtbot, page, Phase.DONE)


def test_a_finished_run_goes_on_for_more_passes(qtbot, opened, monkeypatch):
    page = opened("train", "--steps", "2")
    store = finished(qtbot, page)
    assert not page.runs.resume_button.isEnabled(), "it came to its end"
    monkeypatch.setattr(QInputDialog, "getDouble", lambda *a, **k: (1.5, False))
    press(qtbot, page, "runContinue")
    assert page.card.handle.state.phase is Phase.DONE, "the question was cancelled"
    monkeypatch.setattr(QInputDialog, "getDouble", lambda *a, **k: (1.5, True))
    press(qtbot, page, "runContinue")
    qtbot.waitUntil(lambda: "--more" in arguments(page), timeout=5_000)
    args = arguments(page)
    assert args[args.index("--resume") + 1] == store.id and args[args.index("--more") + 1] == "1.5"
    wait_phase(qtbot, page, Phase.DONE)
    assert len(page.context.persona.runs()) == 1


def test_a_run_that_was_started_elsewhere_is_found_shown_whole_and_stopped(qtbot, opened):
    page = opened()
    persona = page.context.persona
    spec = page.setup.form.spec()
    run = RunStore.create(persona.runs_dir, spec, policy="")
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.helpers.detachable_child", str(run.root)],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        qtbot.waitUntil(lambda: run.state().step > 20 or sum(1 for _ in run.events()) > 40,
                        timeout=20_000)  # fmt: skip
        page._refresh()
        wait_phase(qtbot, page, Phase.RUNNING)
        handle = page.card.handle
        assert handle.state.adopted and handle.state.run_dir == run.root
        assert not page.card.start.isVisible() and page.card.stop.isEnabled()
        qtbot.waitUntil(lambda: "started elsewhere" in page.card.detail.text(), timeout=5_000)
        history = page.live.loss.history("train.loss")
        qtbot.waitUntil(lambda: len(history) > 60, timeout=10_000)
        press(qtbot, page, "trainStop")
        wait_phase(qtbot, page, Phase.CANCELLED)
        assert child.wait(10) == 0
        qtbot.waitUntil(lambda: handle.worker is None, timeout=10_000)
        steps = list(history.x)
        assert steps == list(range(1, len(steps) + 1)), "no step is missing or counted twice"
        assert page.card.start.isVisible()
    finally:
        child.kill()
        child.wait()


def test_the_dry_run_is_a_job_of_its_own_and_its_peak_is_shown(qtbot, opened):
    page = opened("dry-run")
    memory = page.setup.memory
    press(qtbot, page, "dryRun")
    assert memory.button.text() == "Cancel dry run"
    qtbot.waitUntil(lambda: not page.preparing.dry_run.running, timeout=20_000)
    qtbot.waitUntil(lambda: "Measured: 3.0 GiB" in memory.verdict.text(), timeout=5_000)
    assert memory.button.text() == "Dry run"
    assert page.context.persona.runs() == []
    assert page.card.handle is None, "it is no training run"


def test_a_dry_run_can_be_cancelled(qtbot, opened):
    page = opened("silent")
    press(qtbot, page, "dryRun")
    job = page.context.jobs
    qtbot.waitUntil(lambda: any(item.state.phase is Phase.RUNNING for item in job.active()),
                    timeout=10_000)  # fmt: skip
    press(qtbot, page, "dryRun")
    qtbot.waitUntil(lambda: not job.active(), timeout=10_000)
    assert not page.failure.isVisible() and page.setup.memory.button.text() == "Dry run"


def test_a_dry_run_that_fails_says_why(qtbot, opened):
    page = opened("error")
    press(qtbot, page, "dryRun")
    qtbot.waitUntil(page.failure.isVisible, timeout=10_000)
    assert "no row labelled REFUSE" in page.failure.text()
    assert page.setup.memory.button.text() == "Dry run"


def test_every_setting_can_be_loaded_saved_and_switched_off(qtbot, opened, monkeypatch, tmp_path):
    page = opened()
    form = page.setup.form
    spec = TrainSpec(
        name="Mine", base_model="/models/x", policy="One\nTwo", seed=3,
        model=ModelSpec(lora=None, adapt_layers=(1, 2)),
    )  # fmt: skip
    file = tmp_path / "mine.json"
    file.write_bytes(encode_spec(spec))
    monkeypatch.setattr("so8t_studio.pages.train.setup_actions.ask_open", lambda parent: file)
    press(qtbot, page, "specLoad")
    assert form.spec() == spec
    assert not page.findChild(QLineEdit, "field_model.lora.rank").isEnabled()
    out = tmp_path / "out.json"
    monkeypatch.setattr("so8t_studio.pages.train.setup_actions.ask_save", lambda parent: out)
    press(qtbot, page, "specSave")
    assert load_spec(out) == spec
    page.on_hidden()
    late = TrainPage(page.context)
    qtbot.addWidget(late)
    assert late.setup.form.spec() == spec, "it is the same after a restart"
    page.findChild(QCheckBox, "field_model.lora").click()
    assert form.spec().model.lora == LoraSpec()
    rank = page.findChild(QLineEdit, "field_model.lora.rank")
    assert rank.isEnabled() and rank.text() == "16"
    assert "default 16" in form._rows["model.lora.rank"].note.text()


def test_training_uses_the_base_model_that_the_page_names(qtbot, opened):
    page = opened("train", "--steps", "1")
    persona = page.context.persona
    info = persona.info
    persona.save(msgspec.structs.replace(info, base_model="/models/other"))
    page.context.persona_edited.emit(persona)
    assert "/models/other" in page.header.subtitle.text()
    press(qtbot, page, "trainStart")
    wait_phase(qtbot, page, Phase.DONE)
    assert started_spec(page).base_model == "/models/other"
    assert page.tabs.currentIndex() == LIVE


def test_any_figure_of_the_selected_runs_can_be_laid_over_each_other(qtbot, opened):
    page = opened("train", "--steps", "10")
    store = finished(qtbot, page)
    overlay = page.runs.overlay
    qtbot.waitUntil(
        lambda: overlay.keys() == [store.id] and len(overlay.plot.history(store.id)) == 10,
        timeout=10_000,
    )
    names = [overlay.choice.itemText(index) for index in range(overlay.choice.count())]
    overlay.choice.setCurrentIndex(names.index("Refuse Recall"))
    assert len(overlay.plot.history(store.id)) == 5
    overlay.choice.setCurrentIndex(names.index("Mean angle of R_safe"))
    assert len(overlay.plot.history(store.id)) == 5


def test_events_that_a_history_holds_already_are_not_taken_twice():
    from so8t_engine.events import Metric

    def at(step: int, t: float, seq: int) -> Metric:
        return Metric(t=t, seq=seq, step=step, epoch=0.0, split="train", values={"loss": 1.0})

    history = digest([at(1, 100.0, 0), at(2, 101.0, 1)])
    later = [at(2, 101.0, 1), at(3, 102.0, 2)]
    assert [event.step for event in newer(later, history.last)] == [3]
    new_process = [at(3, 500.0, 0)]
    assert newer(new_process, history.last) == new_process
    clock_went_back = [at(3, 50.0, 2)]
    assert newer(clock_went_back, history.last) == clock_went_back


def lost_run(page: TrainPage, name: str, step: int) -> RunStore:
    run = RunStore(page.context.persona.runs_dir / name)
    run.root.mkdir(parents=True)
    run.spec_path.write_bytes(encode_spec(page.setup.form.spec()))
    run.save_state(RunState(state="running", pid=2**22 + 5, pid_started=1.0, step=step,
                            total_steps=9, started=time.time() - 125))  # fmt: skip
    run.events_path.write_bytes(b"")
    return run


def test_a_lost_run_is_offered_until_it_is_dismissed_or_another_is_begun(qtbot, opened):
    page = opened()
    older = lost_run(page, "20260101_120000", 3)
    page._refresh()
    qtbot.waitUntil(page.orphans.isVisible, timeout=10_000)
    assert older.id in page.orphans.text()
    row = page.runs.model.rows()[0]
    assert 120 < row.seconds < 200, "it lasted until its last event"
    newer_run = lost_run(page, "20260102_120000", 5)
    page._refresh()
    qtbot.waitUntil(lambda: newer_run.id in page.orphans.text(), timeout=10_000)
    page.orphans.findChild(QToolButton, "bannerDismiss").click()
    assert not page.orphans.isVisible()
    late = TrainPage(page.context)
    qtbot.addWidget(late)
    late.show()
    late.on_shown()
    qtbot.waitUntil(lambda: len(late.runs.model.rows()) == 2, timeout=10_000)
    assert not late.orphans.isVisible(), "it was dismissed, and the older one is past"
    states = {row.store.id: row.state.state for row in late.runs.model.rows()}
    assert set(states.values()) == {"crashed"}, "they stay in the list as what they are"
