"""The Rotations page over real recordings, driven by clicks and keys."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PySide6.QtCore import QPoint, Qt
from pytestqt.qtbot import QtBot

from so8t_studio.context import AppContext, Navigation, RunChange
from so8t_studio.pages.rotations.page import RotationsPage
from tests.helpers.page_context import page_context
from tests.helpers.persona_files import add_recording, add_run, make_persona


@pytest.fixture
def context(qtbot: QtBot, tmp_path: Path) -> Iterator[AppContext]:
    make_persona(tmp_path / "ws")
    with page_context(tmp_path / "ws", tmp_path) as found:
        yield found


def shown(qtbot: QtBot, context: AppContext) -> RotationsPage:
    page = RotationsPage(context)
    qtbot.addWidget(page)
    context.open_persona("office-assistant")
    page.resize(1060, 740)
    page.show()
    page.on_shown()
    qtbot.waitUntil(lambda: not page._loader.busy)
    return page


def loaded(qtbot: QtBot, context: AppContext, **options: object) -> RotationsPage:
    assert context.workspace is not None
    add_run(context.workspace.persona("office-assistant"), **options)  # type: ignore[arg-type]
    page = shown(qtbot, context)
    assert page.stack.currentIndex() == 2
    return page


def test_without_a_persona_it_leads_to_one(qtbot: QtBot, context: AppContext) -> None:
    page = loaded(qtbot, context)
    context.close_persona()
    assert page.stack.currentWidget() is page.empty and not page.runs.isVisible()
    with qtbot.waitSignal(context.navigation_requested) as signal:
        qtbot.mouseClick(page.empty.button, Qt.MouseButton.LeftButton)
    assert signal.args == [Navigation("persona")]


def test_without_runs_it_leads_to_training(qtbot: QtBot, context: AppContext) -> None:
    page = shown(qtbot, context)
    assert page.stack.currentWidget() is page.empty
    assert not page.save.isVisible()
    with qtbot.waitSignal(context.navigation_requested) as signal:
        qtbot.mouseClick(page.empty.button, Qt.MouseButton.LeftButton)
    assert signal.args == [Navigation("train")]


def test_it_opens_at_the_largest_angle_of_the_last_step(qtbot: QtBot, context: AppContext) -> None:
    page = loaded(qtbot, context)
    assert page.controls.chosen == ("head", 2)
    assert page.scrubber.step == 40 and page.scrubber.at_end
    assert page.health.verdict.text() == "✓ Stays in SO(8)"
    view = page._view
    assert view is not None
    np.testing.assert_array_equal(page.matrices._matrices[0], view.safe)
    np.testing.assert_allclose(page.matrices._matrices[2], view.cmd @ view.safe)
    assert "loss.w_task is 0" in page.health.note.text()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"w_task": 0.2}, "no task loss has moved it"),
        ({"w_task": 0.2, "train_cmd": True}, ""),
        ({"steps": (0,)}, "nothing has been learned"),
    ],
)
def test_an_identity_is_explained(
    qtbot: QtBot, context: AppContext, options: dict[str, object], words: str
) -> None:
    page = loaded(qtbot, context, **options)
    assert words in page.health.note.text()
    assert page.health.note.isVisible() == bool(words)


def test_samples_without_replies_are_named_as_the_reason(qtbot: QtBot, context: AppContext) -> None:
    persona = context.workspace.persona("office-assistant")
    run = add_run(persona, w_task=0.2)
    run.save_samples([s for s in run.samples() if not s.response])
    page = shown(qtbot, context)
    assert "no training sample has one" in page.health.note.text()


def test_strength_zero_is_the_base_model(qtbot: QtBot, context: AppContext) -> None:
    page = loaded(qtbot, context)
    page.controls.strength.setFocus()
    qtbot.keyClick(page.controls.strength, Qt.Key.Key_Home)
    np.testing.assert_allclose(page.matrices._matrices[2], np.eye(8), atol=1e-14)
    assert "base model" in page.health.note.text()
    page.controls.strength.setValue(50)
    half = page.matrices._matrices[0]
    page.controls.strength.setValue(100)
    np.testing.assert_allclose(half @ half, page.matrices._matrices[0], atol=1e-12)


def test_overview_click_and_arrow_keys_choose_a_block(qtbot: QtBot, context: AppContext) -> None:
    page = loaded(qtbot, context)
    overview = page.timeline.overview
    position = overview.cell_center(1, 7).toPoint()
    qtbot.mouseClick(overview, Qt.MouseButton.LeftButton, pos=position)
    assert page.controls.chosen == ("layers.27", 7)
    assert page.controls.block_slider.value() == 7
    overview.setFocus()
    qtbot.keyClick(overview, Qt.Key.Key_Right)
    qtbot.keyClick(overview, Qt.Key.Key_Down)
    assert page.controls.chosen == ("layers.28", 8)
    qtbot.mouseClick(page.controls.largest, Qt.MouseButton.LeftButton)
    assert page.controls.chosen == ("head", 2) == overview.chosen
    page.controls.gate.setCurrentText("layers.26")
    assert overview.chosen == ("layers.26", 2)
    assert "layers.26" in page.header.subtitle.text()


def test_values_are_read_by_pointer_and_by_keys(qtbot: QtBot, context: AppContext) -> None:
    page = loaded(qtbot, context)
    frame = page.matrices.frame(0)
    cell = frame.width() / 8
    point = QPoint(int(frame.left() + 3.5 * cell), int(frame.top() + 1.5 * cell))
    qtbot.mouseMove(page.matrices, QPoint(2, 2))
    qtbot.mouseMove(page.matrices, point)
    value = page.matrices._matrices[0][1, 3]
    expected = f"R_safe, output channel 17, input channel 19:  {value:+.6f}"
    assert page.readout.text() == expected
    page.matrices.setFocus()
    for _ in range(5):
        qtbot.keyClick(page.matrices, Qt.Key.Key_Right)
    assert page.readout.text().startswith("R_cmd, output channel 17, input channel 16:")


def test_scrubbing_and_playing_walk_through_the_steps(qtbot: QtBot, context: AppContext) -> None:
    page = loaded(qtbot, context)
    page.scrubber.slider.setFocus()
    qtbot.keyClick(page.scrubber.slider, Qt.Key.Key_Home)
    qtbot.waitUntil(lambda: page._frame is not None and page._frame.recording.step == 0)
    np.testing.assert_allclose(page.matrices._matrices[0], np.eye(8), atol=1e-15)
    qtbot.keyClick(page, Qt.Key.Key_Space)
    assert page.scrubber.playing
    seen = []
    page.scrubber.step_chosen.connect(seen.append)
    qtbot.waitUntil(lambda: not page.scrubber.playing, timeout=6000)
    assert seen == [10, 20, 30, 40]
    qtbot.waitUntil(lambda: page._frame is not None and page._frame.recording.step == 40)


def test_a_recording_run_is_followed_live(qtbot: QtBot, context: AppContext) -> None:
    persona = context.workspace.persona("office-assistant")
    run = add_run(persona, state="running", checkpoint=False)
    page = shown(qtbot, context)
    assert "recording" in page.runs.currentText()
    add_recording(run, 50)
    qtbot.waitUntil(lambda: page.scrubber.step == 50, timeout=5000)
    # Whoever looks at an earlier step is not pulled away.
    page.scrubber.slider.setValue(1)
    add_recording(run, 60)
    context.runs_changed.emit(RunChange(run.id, "moved"))
    qtbot.waitUntil(lambda: page.scrubber.steps[-1] == 60, timeout=5000)
    assert page.scrubber.step == 10


def test_a_damaged_recording_is_an_error_and_the_others_stay(
    qtbot: QtBot, context: AppContext
) -> None:
    page = loaded(qtbot, context)
    path = page._run(page._opened.run_id).rotation_files()[1]  # type: ignore[union-attr]
    path.write_bytes(path.read_bytes()[:100])
    page.scrubber.slider.setValue(1)
    qtbot.waitUntil(page.banner.isVisible)
    assert page.banner.kind == "error" and "step-00000010" in page.banner.text()
    page.scrubber.slider.setValue(2)
    qtbot.waitUntil(lambda: page._frame is not None and page._frame.recording.step == 20)


def test_shared_rotations_have_one_block(qtbot: QtBot, context: AppContext) -> None:
    page = loaded(qtbot, context, shared=True)
    assert page.controls.chosen == ("head", 0)
    assert not page.controls.block.isEnabled()


def test_hidden_pages_wait(qtbot: QtBot, context: AppContext) -> None:
    page = loaded(qtbot, context)
    page.on_hidden()
    page.hide()
    context.runs_changed.emit(RunChange("", "added"))
    assert page._stale and not page._loader.busy


def test_the_figure_is_drawn_by_a_process_of_its_own(
    qtbot: QtBot, context: AppContext, tmp_path: Path
) -> None:
    page = loaded(qtbot, context)
    page.controls.choose("layers.27", 3)
    wish = page.figure_wish()
    assert wish is not None and (wish.gate, wish.block, wish.step) == ("layers.27", 3, 40)
    with qtbot.waitSignal(page.saver.saved, timeout=60_000):
        page.saver.save(wish, tmp_path / "figure.svg")
    assert (tmp_path / "figure.svg").read_text("utf-8").count("<image") >= 4
    assert page.banner.kind == "success" and "figure.svg" in page.banner.text()
    with qtbot.waitSignal(page.saver.failed, timeout=60_000):
        page.saver.save(wish, tmp_path / "figure.bmp")
    assert page.banner.kind == "error" and ".png, .svg" in page.banner.text()


def test_nothing_overlaps_when_the_window_shrinks(qtbot: QtBot, context: AppContext) -> None:
    page = loaded(qtbot, context)
    for width, height in ((1060, 740), (808, 560), (1400, 900), (760, 520)):
        page.resize(width, height)
        qtbot.waitUntil(
            lambda: page.matrices.height() == page.matrices.heightForWidth(page.matrices.width())
        )
        qtbot.waitUntil(lambda: page.readout.y() >= page.matrices.geometry().bottom())
        last = page.matrices.frame(3)
        assert page.matrices.rect().contains(last.toRect())
        card = page.matrices.parentWidget()
        health = page.health.geometry()
        assert not card.geometry().intersects(health)  # type: ignore[union-attr]
