"""A live chart with real mouse events: hover, zoom, fit, log scale, smoothing, marks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from PySide6.QtCore import QPoint, QPointF, Qt
from PySide6.QtGui import QWheelEvent
from PySide6.QtWidgets import QApplication

from so8t_studio.theme import Theme
from so8t_studio.widgets.live_plot import LivePlot
from so8t_studio.widgets.plot_marks import QUIET_MARKS


@pytest.fixture
def plot(qtbot):
    Theme("light").apply()
    made = LivePlot("Loss", "step", "loss", log_button=True)
    qtbot.addWidget(made)
    made.resize(700, 320)
    made.add_series("a", "total")
    made.add_series("b", "verdict", points=True)
    made.show()
    return made


def drawn(plot: LivePlot, key: str) -> np.ndarray:
    plot.redraw()
    return plot._series[key].curve.getData()[1]


def wheel(plot: LivePlot, at: QPointF) -> None:
    viewport = plot._widget.viewport()
    event = QWheelEvent(
        at, QPointF(viewport.mapToGlobal(at.toPoint())), QPoint(0, 0), QPoint(0, 240),
        Qt.MouseButton.NoButton, Qt.KeyboardModifier.NoModifier, Qt.ScrollPhase.NoScrollPhase,
        False,
    )  # fmt: skip
    QApplication.sendEvent(viewport, event)


def test_hover_reads_every_curve_at_the_nearest_step(plot, qtbot):
    plot.extend("a", range(1, 101), np.linspace(2.0, 1.0, 100))
    plot.extend("b", [50], [0.5])
    plot.redraw()
    scene = plot._view.mapViewToScene(QPointF(50.2, 1.5))
    qtbot.mouseMove(plot._widget.viewport(), plot._widget.mapFromScene(scene))
    assert plot._readout.text() == "step 50 · total 1.505 · verdict 0.5"
    plot._leave()
    assert plot._readout.text() == ""


def test_zooming_stops_following_until_fit_is_pressed(plot, qtbot):
    plot.extend("a", range(1, 1001), np.linspace(2.0, 1.0, 1000))
    plot.redraw()
    assert not plot.fit.isEnabled()
    wheel(plot, QPointF(plot._widget.width() / 2, plot._widget.height() / 2))
    assert plot.fit.isEnabled()
    (first, last), _ = plot._view.viewRange()
    assert last - first < 900
    plot.extend("a", [1001, 2000], [1.0, 1.0])
    plot.redraw()
    assert plot._view.viewRange()[0] == [first, last], "what the user looks at stays"
    qtbot.mouseClick(plot.fit, Qt.MouseButton.LeftButton)
    plot.redraw()
    assert plot._view.viewRange()[0][1] >= 2000 and not plot.fit.isEnabled()


def test_the_logarithmic_scale_leaves_gaps_where_there_is_no_logarithm(plot, qtbot):
    plot.extend("a", [1, 2, 3, 4], [100.0, 0.0, -1.0, 0.01])
    qtbot.mouseClick(
        plot.log_box, Qt.MouseButton.LeftButton, pos=QPoint(8, plot.log_box.height() // 2)
    )
    assert np.allclose(drawn(plot, "a"), [2.0, np.nan, np.nan, -2.0], equal_nan=True)
    plot.set_log(False)
    assert np.allclose(drawn(plot, "a"), [100.0, 0.0, -1.0, 0.01])


def test_smoothing_draws_a_moving_average_and_keeps_the_values(plot):
    noisy = [1.0, 0.0] * 50
    plot.extend("a", range(100), noisy)
    plot.set_smoothing(0.9)
    smooth = drawn(plot, "a")
    assert smooth.std() < 0.25 * np.std(noisy) and smooth[0] == 1.0
    assert list(plot.history("a").y) == noisy
    plot.set_smoothing(0.0)
    assert list(drawn(plot, "a")) == noisy


def test_a_moving_average_grows_point_by_point_as_at_once(plot):
    values = np.random.default_rng(5).random(300)
    values[[7, 8, 200]] = np.nan
    plot.extend("a", range(300), values)
    plot.set_smoothing(0.9)
    at_once = drawn(plot, "a").copy()
    plot.clear()
    plot.extend("a", range(4), values[:4])
    drawn(plot, "a")
    for x in range(4, 300):
        plot.append("a", x, values[x])
    assert np.allclose(drawn(plot, "a"), at_once, atol=1e-6)
    plot.extend("a", range(150, 300), values[150:])  # a resumed run
    assert np.allclose(drawn(plot, "a"), at_once, atol=1e-6)


def test_a_resumed_run_replaces_what_happens_again(plot):
    plot.extend("a", range(1, 11), np.ones(10))
    plot.extend("a", range(6, 13), np.full(7, 2.0))
    assert list(plot.history("a").x) == list(range(1, 13))
    assert list(plot.history("a").y) == [1.0] * 5 + [2.0] * 7


def test_marks_are_drawn_once_and_quiet_ones_stay_few(plot):
    plot.add_mark(10, "best")
    plot.add_mark(10, "best")
    for number in range(QUIET_MARKS + 20):
        plot.add_mark(number, f"pass {number}", quiet=True)
    assert len(plot.marks()) == 1 + QUIET_MARKS
    plot.add_mark(500, "end")
    assert (500, "end") in plot.marks()
    plot.clear()
    assert plot.marks() == []


def test_an_interval_is_drawn_around_its_curve_and_is_part_of_the_range(plot):
    plot.extend("b", [1, 2], [0.5, 0.6])
    plot.append_band("b", 1, 0.1, 0.9)
    plot.append_band("b", 2, 0.2, 1.4)
    plot.redraw()
    low, high = (curve.getData()[1] for curve in plot._series["b"].band_curves)
    assert list(low) == pytest.approx([0.1, 0.2]) and list(high) == pytest.approx([0.9, 1.4])
    assert plot._view.viewRange()[1][1] >= 1.4


def test_texts_of_marks_do_not_run_into_each_other(plot):
    plot.extend("a", range(1, 1001), np.ones(1000))
    plot.set_x_limits(0, 1000)
    for step in (100, 103, 106, 900):
        plot.add_mark(step, f"pass {step}", quiet=True)
    plot.redraw()
    shown = {mark.text: mark.line.label.isVisible() for mark in plot._marks.marks}
    assert shown == {"pass 100": True, "pass 103": False, "pass 106": False, "pass 900": True}
    plot._view.setXRange(100, 107, padding=0)
    plot._on_range_changed_manually()
    plot.redraw()
    assert all(mark.line.label.isVisible() for mark in plot._marks.marks if mark.x < 200)


def test_texts_of_marks_stay_apart_and_inside(plot, qtbot):
    plot.extend("a", range(1600), np.zeros(1600))
    for number in range(2, 12):
        plot.add_mark(150 * (number - 1), f"pass {number}", quiet=True)
    plot.redraw()
    qtbot.wait(50)  # the scene takes over the new range
    plot.redraw()
    labels = [mark.line.label for mark in plot._marks.marks if mark.line.label.isVisible()]
    spans = sorted(
        (rect.left(), rect.right())
        for rect in (label.mapRectToScene(label.boundingRect()) for label in labels)
    )
    assert len(spans) >= 2
    assert all(left[1] <= right[0] for left, right in itertools.pairwise(spans))
    assert spans[-1][1] <= plot._widget.width()
