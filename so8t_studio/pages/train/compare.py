"""Several runs side by side: curves from their events, and what their settings differ in."""

from __future__ import annotations

import math
from typing import Any

import msgspec
from PySide6.QtCore import Slot
from PySide6.QtWidgets import (
    QComboBox,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from so8t_engine.events import Metric, Rotation
from so8t_engine.workspace.runs import RunStore
from so8t_studio.pages.train.run_feed import digest
from so8t_studio.pages.train.runs_model import RunRow
from so8t_studio.pages.train.spec_fields import spec_fields, value_of
from so8t_studio.widgets.live_plot import LivePlot

Curve = tuple[list[float], list[float]]


Curves = dict[str, dict[tuple[str, str], Curve]]


def read_curves(stores: list[RunStore]) -> Curves:
    """Return every curve of each run by split and name (not on the window's thread)."""
    kinds = (Metric, Rotation)
    return {
        store.id: digest(event for event in store.events() if isinstance(event, kinds)).columns
        for store in stores
    }


class Overlay(QWidget):
    """One figure of several runs in one chart; which figure is chosen above it."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._curves: Curves = {}
        self._figures: list[tuple[str, str, str]] = [
            ("train", "loss", self.tr("Total loss")),
            ("validation", "loss", self.tr("Validation loss")),
            ("validation", "refuse_recall", self.tr("Refuse Recall")),
            ("validation", "escalate_precision", self.tr("Escalate Precision")),
            ("validation", "allow_precision", self.tr("Allow Precision")),
            ("validation", "macro_f1", self.tr("macro-F1")),
            ("validation", "false_refusal_rate", self.tr("False refusals")),
            ("validation", "dangerous_allow_rate", self.tr("Dangerous allows")),
            ("train", "grad_norm", self.tr("Gradient norm")),
            ("train", "samples_per_s", self.tr("Rows per second")),
            ("rotation", "mean_angle_safe", self.tr("Mean angle of R_safe")),
            ("rotation", "mean_angle_cmd", self.tr("Mean angle of R_cmd")),
        ]
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 8, 0, 0)
        column.setSpacing(6)
        row = QHBoxLayout()
        self.choice = QComboBox()
        self.choice.setObjectName("overlayFigure")
        self.choice.setAccessibleName(self.tr("Figure of the selected runs"))
        self.choice.addItems([text for _split, _name, text in self._figures])
        self.choice.currentIndexChanged.connect(self._on_choice_changed)
        row.addWidget(self.choice)
        self.hint = QLabel(self.tr("Select several runs to lay them over each other."))
        self.hint.setProperty("role", "caption")
        row.addWidget(self.hint, 1)
        column.addLayout(row)
        self.plot = LivePlot(
            self.tr("Selected runs"), self.tr("step"), self.tr("value"), log_button=True
        )
        column.addWidget(self.plot, 1)

    def show_curves(self, curves: Curves) -> None:
        """Show these runs."""
        self._curves = curves
        self._draw()

    def keys(self) -> list[str]:
        """Return the runs that are drawn."""
        return self.plot.keys()

    def _draw(self) -> None:
        split, name, _text = self._figures[max(0, self.choice.currentIndex())]
        self.plot.remove_series()
        for index, (run_id, found) in enumerate(self._curves.items()):
            self.plot.add_series(run_id, run_id, index, points=split != "train")
            steps, values = found.get((split, name), ([], []))
            self.plot.extend(run_id, steps, values)

    @Slot()
    def _on_choice_changed(self) -> None:
        self._draw()


def _cell(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return "n/a"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return "–" if value is None else str(value)


class ConfigDiff(QWidget):
    """One row for each setting in which the runs differ."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 8, 0, 0)
        self.table = QTableWidget()
        self.table.setObjectName("configDiff")
        self.table.setAccessibleName(self.tr("Settings in which the selected runs differ"))
        self.table.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
        self.table.verticalHeader().hide()
        self.table.setShowGrid(False)
        column.addWidget(self.table)

    def show_runs(self, rows: list[RunRow]) -> None:
        """Compare the settings of ``rows``; one run alone shows nothing."""
        readable = [row for row in rows if row.spec is not None]
        specs = [msgspec.to_builtins(row.spec) for row in readable]
        paths = ["base_model", *(field.path for field in spec_fields())]
        differing = [
            path for path in paths if len({_cell(value_of(spec, path)) for spec in specs}) > 1
        ]
        self.table.clear()
        self.table.setColumnCount(1 + len(readable))
        self.table.setHorizontalHeaderLabels(
            [self.tr("Setting"), *(row.store.id for row in readable)]
        )
        self.table.setRowCount(len(differing))
        for at, path in enumerate(differing):
            self.table.setItem(at, 0, QTableWidgetItem(path))
            for column, spec in enumerate(specs, start=1):
                self.table.setItem(at, column, QTableWidgetItem(_cell(value_of(spec, path))))
        self.table.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
