"""The operating point: temperature and two thresholds, dragged while the figures follow."""

from __future__ import annotations

import math

from PySide6.QtCore import Qt, Signal, Slot
from PySide6.QtWidgets import (
    QDoubleSpinBox,
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSlider,
    QVBoxLayout,
    QWidget,
)

from so8t_engine.verdict import OperatingPoint

TEMPERATURES = (0.1, 10.0)
STEPS = 1000


def _temperature_to_slider(value: float) -> int:
    low, high = (math.log(end) for end in TEMPERATURES)
    return round((math.log(value) - low) / (high - low) * STEPS)


def _slider_to_temperature(value: int) -> float:
    low, high = (math.log(end) for end in TEMPERATURES)
    return math.exp(low + value / STEPS * (high - low))


class PointPanel(QFrame):
    """``point_changed(OperatingPoint)`` while dragging; ``save_requested()`` for the persona.

    ``find_requested(share)`` asks for the best point within that share of dangerous allows.
    """

    point_changed = Signal(object)
    find_requested = Signal(float)
    save_requested = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("role", "card")
        self.setObjectName("pointPanel")
        self._saved = OperatingPoint()
        self._writable = True
        column = QVBoxLayout(self)
        column.setContentsMargins(16, 12, 16, 12)
        column.setSpacing(8)
        heading = QLabel(self.tr("Operating point"))
        heading.setProperty("role", "h3")
        column.addWidget(heading)
        rule = QLabel(
            self.tr("ALLOW from its threshold on; else REFUSE from its own; else ESCALATE.")
        )
        rule.setProperty("role", "caption")
        rule.setWordWrap(True)
        column.addWidget(rule)
        self._grid = QGridLayout()
        self._grid.setHorizontalSpacing(12)
        self._grid.setVerticalSpacing(6)
        self._grid.setColumnStretch(1, 1)
        self.temperature, self.temperature_slider = self._row(
            0,
            self.tr("Temperature"),
            "temperature",
            self.tr("Above 1 softens the probabilities, below 1 sharpens them."),
            TEMPERATURES,
        )
        self.allow, self.allow_slider = self._row(
            1,
            self.tr("ALLOW from"),
            "tauAllow",
            self.tr("Least probability of ALLOW. Higher means fewer dangerous allows."),
            (0.0, 1.0),
        )
        self.refuse, self.refuse_slider = self._row(
            2,
            self.tr("REFUSE from"),
            "tauRefuse",
            self.tr("Least probability of REFUSE. Higher sends more to a human."),
            (0.0, 1.0),
        )
        column.addLayout(self._grid)
        column.addLayout(self._bound_row())
        buttons = QHBoxLayout()
        self.state = QLabel()
        self.state.setObjectName("pointState")
        self.state.setProperty("role", "caption")
        self.state.setWordWrap(True)
        buttons.addWidget(self.state, 1)
        self.reset = QPushButton(self.tr("Reset"))
        self.reset.setObjectName("pointReset")
        self.reset.setAccessibleName(self.tr("Go back to the persona's operating point"))
        self.reset.setToolTip(self.tr("Go back to the persona's operating point."))
        self.reset.clicked.connect(self._on_reset_clicked)
        buttons.addWidget(self.reset)
        self.save = QPushButton(self.tr("Save to persona"))
        self.save.setObjectName("pointSave")
        self.save.setAccessibleName(self.tr("Save the operating point to the persona"))
        self.save.setToolTip(self.tr("Chat, headless decisions and later evaluations then use it."))
        self.save.clicked.connect(self.save_requested)
        buttons.addWidget(self.save)
        column.addStretch(1)
        column.addLayout(buttons)
        self.set_point(OperatingPoint())

    def _row(
        self, row: int, name: str, key: str, tip: str, bounds: tuple[float, float]
    ) -> tuple[QDoubleSpinBox, QSlider]:
        label = QLabel(name)
        slider = QSlider(Qt.Orientation.Horizontal)
        slider.setObjectName(f"{key}Slider")
        slider.setRange(0, STEPS)
        slider.setPageStep(50)
        slider.setSingleStep(10)
        field = QDoubleSpinBox()
        field.setObjectName(key)
        field.setDecimals(3)
        field.setSingleStep(0.01)
        field.setRange(*bounds)
        field.setMinimumWidth(92)
        field.setKeyboardTracking(False)
        field.lineEdit().setTextMargins(6, 0, 0, 0)  # a style sheet cannot
        label.setBuddy(field)
        for widget in (slider, field):
            widget.setAccessibleName(name)
            widget.setToolTip(tip)
        label.setToolTip(tip)
        slider.valueChanged.connect(self._on_slider_moved)
        field.valueChanged.connect(self._on_field_changed)
        for column, widget in enumerate((label, slider, field)):
            self._grid.addWidget(widget, row, column)
        return field, slider

    def _bound_row(self) -> QHBoxLayout:
        row = QHBoxLayout()
        label = QLabel(self.tr("Dangerous allows at most"))
        self.bound = QDoubleSpinBox()
        self.bound.setObjectName("pointBound")
        self.bound.setDecimals(1)
        self.bound.setRange(0.0, 100.0)
        self.bound.setSingleStep(0.5)
        self.bound.setValue(5.0)
        self.bound.setSuffix(" %")
        self.bound.setMinimumWidth(92)
        self.bound.setAccessibleName(label.text())
        self.bound.setToolTip(
            self.tr("Largest share of the REFUSE rows shown here that may be decided ALLOW.")
        )
        self.bound.lineEdit().setTextMargins(6, 0, 0, 0)
        label.setBuddy(self.bound)
        self.find = QPushButton(self.tr("Find"))
        self.find.setObjectName("pointFind")
        self.find.setAccessibleName(self.tr("Find the thresholds of the best macro-F1 in bounds"))
        self.find.setToolTip(
            self.tr(
                "Tries all thresholds on the rows shown and keeps those of the best macro-F1 "
                "within the bound. Find them on validation rows, and judge them on others."
            )
        )
        self.find.clicked.connect(lambda: self.find_requested.emit(self.bound.value() / 100))
        row.addWidget(label, 1)
        row.addWidget(self.bound)
        row.addWidget(self.find)
        return row

    @property
    def point(self) -> OperatingPoint:
        """The operating point at the fields."""
        return OperatingPoint(
            temperature=self.temperature.value(),
            tau_allow=self.allow.value(),
            tau_refuse=self.refuse.value(),
        )

    def set_saved(self, point: OperatingPoint, *, writable: bool) -> None:
        """Say what the persona uses, and whether it may be changed."""
        self._saved, self._writable = point, writable
        self._describe()

    def set_point(self, point: OperatingPoint) -> None:
        """Put the fields to ``point`` without announcing it."""
        widgets = (
            self.temperature,
            self.allow,
            self.refuse,
            self.temperature_slider,
            self.allow_slider,
            self.refuse_slider,
        )
        for widget in widgets:
            widget.blockSignals(True)
        self.temperature.setValue(point.temperature)
        self.allow.setValue(point.tau_allow)
        self.refuse.setValue(point.tau_refuse)
        self._move_sliders()
        for widget in widgets:
            widget.blockSignals(False)
        self._describe()

    def _move_sliders(self) -> None:
        self.temperature_slider.setValue(_temperature_to_slider(self.temperature.value()))
        self.allow_slider.setValue(round(self.allow.value() * STEPS))
        self.refuse_slider.setValue(round(self.refuse.value() * STEPS))

    @Slot()
    def _on_slider_moved(self) -> None:
        point = OperatingPoint(
            temperature=round(_slider_to_temperature(self.temperature_slider.value()), 3),
            tau_allow=self.allow_slider.value() / STEPS,
            tau_refuse=self.refuse_slider.value() / STEPS,
        )
        moved = self.sender()
        for field, slider, value in (
            (self.temperature, self.temperature_slider, point.temperature),
            (self.allow, self.allow_slider, point.tau_allow),
            (self.refuse, self.refuse_slider, point.tau_refuse),
        ):
            if slider is moved:  # the others keep the exact figure that was typed
                field.blockSignals(True)
                field.setValue(value)
                field.blockSignals(False)
        self._describe()
        self.point_changed.emit(self.point)

    @Slot()
    def _on_field_changed(self) -> None:
        for slider in (self.temperature_slider, self.allow_slider, self.refuse_slider):
            slider.blockSignals(True)
        self._move_sliders()
        for slider in (self.temperature_slider, self.allow_slider, self.refuse_slider):
            slider.blockSignals(False)
        self._describe()
        self.point_changed.emit(self.point)

    @Slot()
    def _on_reset_clicked(self) -> None:
        self.set_point(self._saved)
        self.point_changed.emit(self.point)

    def _describe(self) -> None:
        same = self.point == self._saved
        self.reset.setEnabled(not same)
        self.save.setEnabled(not same and self._writable)
        if same:
            self.state.setText(self.tr("This is what the persona uses."))
        elif self._writable:
            self.state.setText(self.tr("Tried here only; not saved."))
        else:
            self.state.setText(self.tr("Tried here only; this window only reads."))
