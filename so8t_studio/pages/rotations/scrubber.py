"""Walks through the recorded steps of a run, by hand or by itself."""

from __future__ import annotations

from PySide6.QtCore import Qt, QTimer, Signal, Slot
from PySide6.QtWidgets import QHBoxLayout, QLabel, QPushButton, QSlider, QWidget

from so8t_studio.theme import Theme

FRAME_MS = 220


class Scrubber(QWidget):
    """Play button, slider over recorded steps, and the step in words.

    ``step_chosen`` carries the optimizer step.
    """

    step_chosen = Signal(object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("scrubber")
        self._steps: tuple[int, ...] = ()
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(12)
        self.play = QPushButton()
        self.play.setObjectName("scrubberPlay")
        self.play.setCheckable(True)
        self.play.setToolTip(self.tr("Play through the recorded steps (Space)."))
        self.play.toggled.connect(self._on_play_toggled)
        row.addWidget(self.play)
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setObjectName("scrubberSlider")
        self.slider.setAccessibleName(self.tr("Recorded step"))
        self.slider.setToolTip(self.tr("Drag to see the rotations at an earlier step."))
        self.slider.setPageStep(1)
        self.slider.valueChanged.connect(self._on_slider_moved)
        row.addWidget(self.slider, 1)
        self.label = QLabel()
        self.label.setObjectName("scrubberStep")
        self.label.setMinimumWidth(150)
        row.addWidget(self.label)
        self._timer = QTimer(self)
        self._timer.setInterval(FRAME_MS)
        self._timer.timeout.connect(self._on_timer_fired)
        Theme.instance().changed.connect(self._restyle)
        self._restyle()
        self._describe()

    @property
    def steps(self) -> tuple[int, ...]:
        """The recorded steps."""
        return self._steps

    @property
    def step(self) -> int | None:
        """The step at the slider."""
        return self._steps[self.slider.value()] if self._steps else None

    @property
    def at_end(self) -> bool:
        """True while the last recorded step is shown."""
        return not self._steps or self.slider.value() == len(self._steps) - 1

    @property
    def playing(self) -> bool:
        """True while the steps run by themselves."""
        return self._timer.isActive()

    def set_steps(self, steps: tuple[int, ...], step: int | None) -> None:
        """Replace the steps and stand at ``step`` without announcing it."""
        self._steps = steps
        self.slider.blockSignals(True)
        self.slider.setRange(0, max(0, len(steps) - 1))
        self.slider.setValue(steps.index(step) if step in steps else max(0, len(steps) - 1))
        self.slider.blockSignals(False)
        self.setEnabled(bool(steps))
        self.play.setEnabled(len(steps) > 1)
        self.slider.setEnabled(len(steps) > 1)
        self._describe()

    def stop(self) -> None:
        """End playing."""
        self.play.setChecked(False)

    @Slot(bool)
    def _on_play_toggled(self, on: bool) -> None:
        if on and self.at_end:
            self.slider.setValue(0)
        if on:
            self._timer.start()
        else:
            self._timer.stop()
        self._restyle()

    @Slot()
    def _on_timer_fired(self) -> None:
        if self.at_end:
            self.stop()
            return
        self.slider.setValue(self.slider.value() + 1)

    @Slot(int)
    def _on_slider_moved(self, _value: int) -> None:
        self._describe()
        if self.step is not None:
            self.step_chosen.emit(self.step)

    def _describe(self) -> None:
        if not self._steps:
            self.label.setText(self.tr("No recorded step"))
            return
        self.label.setText(
            self.tr("Step {step} ({number} of {total})").format(
                step=self.step, number=self.slider.value() + 1, total=len(self._steps)
            )
        )

    @Slot()
    def _restyle(self) -> None:
        playing = self.play.isChecked()
        self.play.setIcon(Theme.instance().icon("pause" if playing else "play", "text"))
        self.play.setText(self.tr("Pause") if playing else self.tr("Play"))
        self.play.setAccessibleName(
            self.tr("Pause at this step") if playing else self.tr("Play through the recorded steps")
        )
