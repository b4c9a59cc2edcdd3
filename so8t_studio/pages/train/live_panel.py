"""During a run: headline figures, charts with full history, machine, log."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from PySide6.QtCore import Qt, Slot
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import (
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QScrollArea,
    QSlider,
    QSplitter,
    QVBoxLayout,
    QWidget,
)

from so8t_engine.events import AnyEvent, Telemetry
from so8t_studio.pages.train.cases_panel import CasesPanel
from so8t_studio.pages.train.machine_panel import MachinePanel
from so8t_studio.pages.train.run_feed import Digest, digest
from so8t_studio.widgets.live_plot import LivePlot
from so8t_studio.widgets.log_view import LogLine, LogView
from so8t_studio.widgets.stat_tile import StatTile

CHART_HEIGHT = 260
TWO_COLUMNS = 860
LOG_HEIGHT = 440
SMOOTHING = 90  # percent; single steps of a few rows say little


class LivePanel(QWidget):
    """Shows one run: live or recorded, through the same door."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("livePanel")
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 12, 0, 0)
        self.splitter = QSplitter(Qt.Orientation.Vertical)
        self.splitter.setChildrenCollapsible(False)
        column.addWidget(self.splitter)
        self._scroll = QScrollArea()
        self._scroll.setWidgetResizable(True)
        self._scroll.setFrameShape(QFrame.Shape.NoFrame)
        self._scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        body = QWidget()
        body.setObjectName("scrollBody")
        inner = QVBoxLayout(body)
        inner.setContentsMargins(0, 0, 8, 0)
        inner.setSpacing(12)
        inner.addLayout(self._make_tiles())
        inner.addLayout(self._make_tools())
        self._charts = QGridLayout()
        self._charts.setSpacing(12)
        self._first_charts = QGridLayout()
        self._first_charts.setSpacing(12)
        inner.addLayout(self._first_charts)
        self.cases = CasesPanel()
        inner.addWidget(self.cases)
        inner.addLayout(self._charts)
        self.machine = MachinePanel()
        self._make_charts()
        inner.addWidget(self.machine)
        self._machine_charts = QGridLayout()
        self._machine_charts.setSpacing(12)
        inner.addLayout(self._machine_charts)
        inner.addStretch(1)
        self._scroll.setWidget(body)
        self.splitter.addWidget(self._scroll)
        self.log = LogView()
        self.log.setMinimumHeight(96)
        self.splitter.addWidget(self.log)
        self.splitter.setStretchFactor(0, 4)
        self.splitter.setStretchFactor(1, 1)
        self.splitter.setSizes([500, 150])
        self._wide: bool | None = None
        self._last_epoch = 0.0
        self._log_chosen = False
        self.smoothing.setValue(SMOOTHING)
        self._arrange(True)

    # -- construction ---------------------------------------------------------------------------
    def _make_tiles(self) -> QGridLayout:
        grid = QGridLayout()
        grid.setSpacing(12)
        self.tiles = {
            "refuse_recall": StatTile(self.tr("Refuse Recall")),
            "escalate_precision": StatTile(self.tr("Escalate Precision")),
            "allow_precision": StatTile(self.tr("Allow Precision")),
            "dangerous_allow_rate": StatTile(self.tr("Dangerous allows")),
            "false_refusal_rate": StatTile(self.tr("False refusals")),
        }
        for index, (name, tile) in enumerate(self.tiles.items()):
            tile.setObjectName(f"tile_{name}")
            grid.addWidget(tile, 0, index)
            grid.setColumnStretch(index, 1)
        return grid

    def _make_tools(self) -> QHBoxLayout:
        row = QHBoxLayout()
        row.setSpacing(8)
        self.run_label = QLabel()
        self.run_label.setObjectName("liveRunLabel")
        self.run_label.setProperty("role", "muted")
        row.addWidget(self.run_label, 1)
        label = QLabel(self.tr("Smoothing"))
        label.setProperty("role", "caption")
        row.addWidget(label)
        self.smoothing_value = QLabel()
        self.smoothing_value.setProperty("role", "caption")
        self.smoothing = QSlider(Qt.Orientation.Horizontal)
        self.smoothing.setObjectName("smoothing")
        self.smoothing.setAccessibleName(self.tr("Smoothing of the training curves"))
        self.smoothing.setToolTip(
            self.tr("Moving average of the training curves; pointing at one shows its own values.")
        )
        self.smoothing.setRange(0, 98)
        self.smoothing.setFixedWidth(140)
        self.smoothing.valueChanged.connect(self._on_smoothing_changed)
        label.setBuddy(self.smoothing)
        row.addWidget(self.smoothing)
        row.addWidget(self.smoothing_value)
        self.log_button = QPushButton(self.tr("Show log"))
        self.log_button.setObjectName("showLog")
        self.log_button.setAccessibleName(self.tr("Show the log below the charts"))
        self.log_button.setToolTip(self.tr("Show or hide the log below the charts."))
        self.log_button.setCheckable(True)
        self.log_button.setChecked(True)
        self.log_button.toggled.connect(self._on_log_toggled)
        row.addWidget(self.log_button)
        return row

    def _make_charts(self) -> None:
        step = self.tr("step")
        self.loss = LivePlot(self.tr("Loss by part"), step, self.tr("loss"), log_button=True)
        self.quality = LivePlot(
            self.tr("Validation, with 95 % intervals"), step, self.tr("share"), y_range=(0, 1)
        )
        self.errors = LivePlot(
            self.tr("Costly mistakes on validation"), step, self.tr("share"), y_range=(0, 1)
        )
        self.rates = LivePlot(self.tr("Learning rates"), step, self.tr("rate"), log_button=True)
        self.flow = LivePlot(self.tr("Gradient norm"), step, self.tr("norm"), log_button=True)
        self.speed = LivePlot(self.tr("Speed"), step, self.tr("throughput"), self.tr("rows/s"))
        self.angle = LivePlot(
            self.tr("Mean rotation angle"), step, self.tr("angle"), self.tr("rad")
        )
        self.health = LivePlot(
            self.tr("Health of the rotations"), step, self.tr("distance from SO(8)"),
            log_button=True,
        )  # fmt: skip
        self.pet = LivePlot(self.tr("Weight of PET"), step, "λ", log_button=True)
        names: list[tuple[LivePlot, str, str, str, int | str, bool]] = [
            (self.loss, "train", "loss", self.tr("total"), 0, False),
            (self.loss, "train", "verdict_loss", self.tr("verdict"), 1, False),
            (self.loss, "train", "danger_loss", self.tr("danger"), 4, False),
            (self.loss, "train", "task_loss", self.tr("task"), 2, False),
            (self.loss, "train", "pet", "PET", 3, False),
            (self.loss, "validation", "loss", self.tr("validation"), 7, True),
            (self.quality, "validation", "refuse_recall", self.tr("Refuse Recall"), "refuse",
             False),
            (self.quality, "validation", "escalate_precision", self.tr("Escalate Precision"),
             "escalate", False),
            (self.quality, "validation", "allow_precision", self.tr("Allow Precision"), "allow",
             False),
            (self.quality, "validation", "macro_f1", self.tr("macro-F1"), 0, True),
            (self.errors, "validation", "dangerous_allow_rate", self.tr("dangerous allows"),
             "refuse", False),
            (self.errors, "validation", "false_refusal_rate", self.tr("false refusals"),
             "escalate", False),
            (self.rates, "train", "lr_lora", "LoRA", 0, False),
            (self.rates, "train", "lr_gates", self.tr("gates"), 1, False),
            (self.rates, "train", "lr_head", self.tr("head"), 2, False),
            (self.flow, "train", "grad_norm", self.tr("gradient norm"), 0, False),
            (self.speed, "train", "samples_per_s", self.tr("rows per second"), 0, False),
            (self.angle, "rotation", "mean_angle_safe", "R_safe", "refuse", False),
            (self.angle, "rotation", "mean_angle_cmd", "R_cmd", 0, False),
            (self.health, "rotation", "max_orthogonality_error", "max|RᵀR − I|", 1, False),
            (self.health, "rotation", "max_determinant_error", "max|det R − 1|", 4, True),
            (self.pet, "train", "pet_weight", "λ", 3, False),
        ]  # fmt: skip
        self._homes: dict[tuple[str, str], LivePlot] = {}
        for plot, split, name, text, color, dashed in names:
            plot.add_series(f"{split}.{name}", text, color, dashed=dashed, points=split != "train")
            self._homes[split, name] = plot
        self.charts = [self.loss, self.quality, self.errors, self.rates, self.flow, self.angle,
                       self.health, self.speed, self.pet]  # fmt: skip
        for plot in [*self.charts, self.machine.use, self.machine.memory]:
            plot.setFixedHeight(CHART_HEIGHT)

    def _arrange(self, wide: bool) -> None:
        if wide == self._wide:
            return
        self._wide = wide
        columns = 2 if wide else 1
        for grid, charts in (
            (self._first_charts, self.charts[:2]),
            (self._charts, self.charts[2:]),
            (self._machine_charts, [self.machine.use, self.machine.memory]),
        ):
            for index, plot in enumerate(charts):
                grid.addWidget(plot, index // columns, index % columns)
            grid.setColumnStretch(0, 1)
            grid.setColumnStretch(1, 1 if wide else 0)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Use two columns of charts where they fit."""
        super().resizeEvent(event)
        self._arrange(event.size().width() >= TWO_COLUMNS)
        if not self._log_chosen:  # until the user decides, the log shows where there is room
            self.log.setVisible(event.size().height() >= LOG_HEIGHT)
            self.log_button.blockSignals(True)
            self.log_button.setChecked(event.size().height() >= LOG_HEIGHT)
            self.log_button.blockSignals(False)

    # -- data -----------------------------------------------------------------------------------
    def clear(self, label: str) -> None:
        """Forget the run that was shown; ``label`` names the next one."""
        for plot in self.charts:
            plot.clear()
        for tile in self.tiles.values():
            tile.set_value("–", self.tr("not measured yet"))
        self.log.clear()
        self.cases.clear()
        self._last_epoch = 0.0
        self.run_label.setText(label)

    def set_label(self, label: str) -> None:
        """Say which run is shown."""
        self.run_label.setText(label)

    def set_total_steps(self, total: int) -> None:
        """Show the whole run on the x axis."""
        if total > 0:
            for plot in self.charts:
                plot.set_x_limits(0, total)

    def digest(self, events: Iterable[AnyEvent]) -> Digest:
        """Sort a batch that follows on what is shown; :meth:`take_digest` then adds it."""
        return digest(events, self._last_epoch)

    def take_digest(self, found: Digest) -> None:
        """Add events that were sorted before (elsewhere than on the window's thread)."""
        for key, (steps, values) in found.columns.items():
            plot = self._homes.get(key)
            if plot is not None:
                plot.extend(".".join(key), steps, values)
        for key, (steps, lows, highs) in found.bands.items():
            plot = self._homes.get(key)
            if plot is not None:
                for at, low, high in zip(steps, lows, highs, strict=True):
                    plot.append_band(".".join(key), at, low, high)
        self._last_epoch = found.last_epoch
        self._add_marks(found)
        self.cases.add(found.cases)
        self.log.extend(
            LogLine(entry.t, entry.level if entry.level in ("debug", "info", "warning", "error")
                    else "info", entry.message)
            for entry in found.logs
        )  # fmt: skip
        if found.validation:
            self._show_validation(found.validation)

    def _add_marks(self, found: Digest) -> None:
        words = {
            "best": self.tr("best"),
            "last": self.tr("end"),
            "emergency": self.tr("stopped"),
            "periodic": "▾",
        }
        for step, number in found.epochs.items():
            text = self.tr("pass {number}").format(number=number)
            for plot in self.charts:
                plot.add_mark(step, text, quiet=True)
        for mark in found.marks:
            for plot in (self.loss, self.quality):
                text = words.get(mark.reason, mark.reason)
                plot.add_mark(mark.step, text)

    def _show_validation(self, values: dict[str, float | None]) -> None:
        for name, tile in self.tiles.items():
            value = values.get(name)
            if value is None or not np.isfinite(value):
                tile.set_value("n/a", self.tr("nothing to count"))
                continue
            low, high = values.get(f"{name}_low"), values.get(f"{name}_high")
            detail = ""
            if low is not None and high is not None:
                detail = self.tr("95 %: {low} to {high}").format(
                    low=f"{low:.2f}", high=f"{high:.2f}"
                )
            tile.set_value(f"{value:.2f}", detail)

    def show_reading(self, reading: Telemetry) -> None:
        """Add a reading of the machine."""
        self.machine.show_reading(reading)

    @Slot(bool)
    def _on_log_toggled(self, on: bool) -> None:
        self._log_chosen = True
        self.log.setVisible(on)

    @Slot(int)
    def _on_smoothing_changed(self, value: int) -> None:
        self.smoothing_value.setText(f"{value / 100:.2f}")
        for plot in (self.loss, self.flow, self.speed):
            plot.set_smoothing(value / 100)
