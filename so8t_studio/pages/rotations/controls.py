"""Chooses what is looked at: gate, block, strength and colour scale."""

from __future__ import annotations

from PySide6.QtCore import Qt, QTimer, Signal, Slot
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import (
    QCheckBox,
    QComboBox,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSlider,
    QSpinBox,
    QWidget,
)

from so8t_engine.rotations.analysis import Recording
from so8t_studio.widgets.flow_layout import FlowLayout

STRENGTH_UNIT = 100
MAX_STRENGTH = 2.0


class _Group(QWidget):
    """A label and its fields, kept together when the line wraps."""

    def __init__(self, text: str, *fields: QWidget) -> None:
        super().__init__()
        self.setFixedHeight(36)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 8, 0)
        row.setSpacing(8)
        if text:
            label = QLabel(text)
            label.setBuddy(fields[0])
            row.addWidget(label)
        for field in fields:
            row.addWidget(field)


class RotationControls(QWidget):
    """``block_chosen(gate, block)``, ``view_changed()`` for strength and colours, and a jump."""

    block_chosen = Signal(object)
    view_changed = Signal()
    largest_requested = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("rotationControls")
        self._blocks: dict[str, int] = {}
        flow = self._flow = FlowLayout(self, gap=8)
        self.gate = QComboBox()
        self.gate.setObjectName("gateChoice")
        self.gate.setAccessibleName(self.tr("Gate"))
        self.gate.setToolTip(
            self.tr("Layer gates turn the output of attention; the head gate turns the last state.")
        )
        self.gate.setMinimumContentsLength(9)
        self.gate.currentIndexChanged.connect(self._on_gate_changed)
        flow.addWidget(_Group(self.tr("Gate"), self.gate))
        self.block = QSpinBox()
        self.block.setObjectName("blockNumber")
        self.block.setAccessibleName(self.tr("Block"))
        self.block.setToolTip(self.tr("Each block turns eight consecutive channels."))
        self.block.setMinimumWidth(72)
        self.block.lineEdit().setTextMargins(6, 0, 0, 0)  # a style sheet cannot
        self.block_slider = QSlider(Qt.Orientation.Horizontal)
        self.block_slider.setObjectName("blockSlider")
        self.block_slider.setAccessibleName(self.tr("Block"))
        self.block_slider.setFixedWidth(110)
        self.block.valueChanged.connect(self._on_block_changed)
        self.block_slider.valueChanged.connect(self.block.setValue)
        flow.addWidget(_Group(self.tr("Block"), self.block, self.block_slider))
        self.largest = QPushButton(self.tr("Largest angle"))
        self.largest.setObjectName("largestAngle")
        self.largest.setAccessibleName(self.tr("Go to the gate and block with the largest angle"))
        self.largest.setToolTip(self.tr("Go to the gate and block with the largest angle."))
        self.largest.clicked.connect(self.largest_requested)
        flow.addWidget(_Group("", self.largest))
        self.strength = QSlider(Qt.Orientation.Horizontal)
        self.strength.setObjectName("strengthSlider")
        self.strength.setAccessibleName(self.tr("Strength"))
        self.strength.setToolTip(
            self.tr("R = exp(strength × A): 0 is the base model, 1 the trained rotation.")
        )
        self.strength.setRange(0, round(MAX_STRENGTH * STRENGTH_UNIT))
        self.strength.setValue(STRENGTH_UNIT)
        self.strength.setSingleStep(5)
        self.strength.setPageStep(25)
        self.strength.setFixedWidth(110)
        self.strength_text = QLabel()
        self.strength_text.setMinimumWidth(34)
        self.strength_text.setObjectName("strengthText")
        self.strength.valueChanged.connect(self._on_strength_changed)
        flow.addWidget(_Group(self.tr("Strength"), self.strength, self.strength_text))
        self.stretch = QCheckBox(self.tr("Stretch colours"))
        self.stretch.setObjectName("stretchColours")
        self.stretch.setAccessibleName(self.tr("Stretch colours"))
        self.stretch.setToolTip(
            self.tr("End the colour scale at the largest entry off the diagonal, not at 1.")
        )
        self.stretch.setChecked(True)
        self.stretch.toggled.connect(self.view_changed)
        flow.addWidget(_Group("", self.stretch))
        self._show_strength()

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Ask for as many lines as the width needs; scroll areas forget heightForWidth."""
        super().resizeEvent(event)
        QTimer.singleShot(0, self, self._fit_height)

    @Slot()
    def _fit_height(self) -> None:
        wanted = self._flow.heightForWidth(self.width())
        if self.minimumHeight() != wanted:
            self.setFixedHeight(wanted)

    def set_recording(self, recording: Recording) -> None:
        """Offer the gates and blocks of a recording; what is chosen stays if it exists there."""
        gate, block = self.chosen
        blocks = {name: recording.blocks(name) for name in recording.gates}
        if blocks == self._blocks:
            return
        self._blocks = blocks
        self.gate.blockSignals(True)
        self.gate.clear()
        self.gate.addItems(list(blocks))
        self.gate.blockSignals(False)
        self.choose(gate if gate in blocks else recording.gates[0], block)

    @property
    def chosen(self) -> tuple[str, int]:
        """The chosen gate and block."""
        return self.gate.currentText(), self.block.value()

    def choose(self, gate: str, block: int) -> None:
        """Choose a gate and block without announcing it."""
        last = self._blocks.get(gate, 1) - 1
        for field in (self.gate, self.block, self.block_slider):
            field.blockSignals(True)
        self.gate.setCurrentText(gate)
        self.block.setRange(0, last)
        self.block_slider.setRange(0, last)
        self.block.setValue(min(block, last))
        self.block_slider.setValue(min(block, last))
        for field in (self.gate, self.block, self.block_slider):
            field.blockSignals(False)
        self.block.setEnabled(last > 0)
        self.block_slider.setEnabled(last > 0)

    @property
    def strength_value(self) -> float:
        """The strength α of exp(αA)."""
        return self.strength.value() / STRENGTH_UNIT

    @Slot(int)
    def _on_gate_changed(self, _index: int) -> None:
        self.choose(*self.chosen)
        self.block_chosen.emit(self.chosen)

    @Slot(int)
    def _on_block_changed(self, value: int) -> None:
        self.block_slider.blockSignals(True)
        self.block_slider.setValue(value)
        self.block_slider.blockSignals(False)
        self.block_chosen.emit(self.chosen)

    @Slot(int)
    def _on_strength_changed(self, _value: int) -> None:
        self._show_strength()
        self.view_changed.emit()

    def _show_strength(self) -> None:
        self.strength_text.setText(f"{self.strength_value:.2f}")
