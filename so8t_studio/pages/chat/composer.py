"""Where a request is typed: Enter sends, Shift+Enter breaks the line, Up brings the last back."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal, Slot
from PySide6.QtGui import QKeyEvent, QTextCursor
from PySide6.QtWidgets import (
    QCheckBox,
    QFrame,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPlainTextEdit,
    QPushButton,
    QSlider,
    QVBoxLayout,
    QWidget,
)

from so8t_studio.theme import Theme

STRENGTH_UNIT = 100
MAX_STRENGTH = 200


class RequestEdit(QPlainTextEdit):
    """``sent()`` on Enter, ``recalled(offset)`` on Up and Down at the edges."""

    sent = Signal()
    recalled = Signal(int)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Send on Enter; Shift+Enter is a line break."""
        key, modifiers = event.key(), event.modifiers()
        if key in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            if modifiers & Qt.KeyboardModifier.ShiftModifier:
                super().keyPressEvent(event)
            else:
                self.sent.emit()
            return
        plain = modifiers in (Qt.KeyboardModifier.NoModifier, Qt.KeyboardModifier.KeypadModifier)
        if plain and key == Qt.Key.Key_Up and self.textCursor().blockNumber() == 0:
            self.recalled.emit(-1)
            return
        last = self.document().blockCount() - 1
        if plain and key == Qt.Key.Key_Down and self.textCursor().blockNumber() == last:
            self.recalled.emit(1)
            return
        super().keyPressEvent(event)


class Composer(QFrame):
    """Request, optional context, strength and arms. ``send_requested()``, ``stop_requested()``."""

    send_requested = Signal()
    stop_requested = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("role", "card")
        self.setObjectName("composer")
        self._history: list[str] = []
        self._position = 0
        self._answering = False
        column = QVBoxLayout(self)
        column.setContentsMargins(12, 10, 12, 10)
        column.setSpacing(8)
        self.situation = QLineEdit()
        self.situation.setObjectName("chatContext")
        self.situation.setAccessibleName(self.tr("Context"))
        self.situation.setPlaceholderText(
            self.tr("Context (optional): the situation in which this is asked")
        )
        self.situation.returnPressed.connect(self.send_requested)
        column.addWidget(self.situation)
        row = QHBoxLayout()
        row.setSpacing(8)
        self.request = RequestEdit()
        self.request.setObjectName("chatRequest")
        self.request.setAccessibleName(self.tr("Request"))
        self.request.setPlaceholderText(
            self.tr("Type a request. Enter sends it, Shift+Enter breaks the line.")
        )
        self.request.setTabChangesFocus(True)
        self.request.setFixedHeight(56)
        self.request.sent.connect(self.send_requested)
        self.request.recalled.connect(self._on_recalled)
        self.request.textChanged.connect(self._on_text_changed)
        row.addWidget(self.request, 1)
        self.send = QPushButton()
        self.send.setObjectName("chatSend")
        self.send.setProperty("kind", "primary")
        self.send.setMinimumWidth(96)
        self.send.clicked.connect(self._on_send_clicked)
        row.addWidget(self.send, 0, Qt.AlignmentFlag.AlignBottom)
        column.addLayout(row)
        column.addLayout(self._options())
        Theme.instance().changed.connect(self._restyle)
        self._restyle()

    def _options(self) -> QHBoxLayout:
        row = QHBoxLayout()
        row.setSpacing(12)
        self.compare = QCheckBox(self.tr("Compare with the base model"))
        self.compare.setObjectName("chatCompare")
        self.compare.setAccessibleName(self.tr("Compare with the base model"))
        self.compare.setToolTip(self.tr("Ask the model before training as well."))
        self.compare.setChecked(True)
        row.addWidget(self.compare)
        row.addStretch(1)
        self.gates_off = QCheckBox(self.tr("Gates off"))
        self.gates_off.setObjectName("chatGatesOff")
        self.gates_off.setAccessibleName(self.tr("Gates off"))
        self.gates_off.setToolTip(self.tr("Switch the rotations off; LoRA and head stay on."))
        self.gates_off.toggled.connect(self._on_gates_toggled)
        row.addWidget(self.gates_off)
        self._strength_name = QLabel(self.tr("Strength"))
        row.addWidget(self._strength_name)
        self.strength = QSlider(Qt.Orientation.Horizontal)
        self.strength.setObjectName("chatStrength")
        self.strength.setAccessibleName(self.tr("Strength of the rotations"))
        self.strength.setToolTip(self.tr("exp(strength × A): 1 is as trained."))
        self.strength.setRange(0, MAX_STRENGTH)
        self.strength.setValue(STRENGTH_UNIT)
        self.strength.setSingleStep(5)
        self.strength.setPageStep(25)
        self.strength.setFixedWidth(120)
        self.strength.valueChanged.connect(self._on_strength_changed)
        row.addWidget(self.strength)
        self.strength_text = QLabel("1.00")
        self.strength_text.setMinimumWidth(34)
        row.addWidget(self.strength_text)
        return row

    @property
    def strength_value(self) -> float:
        """Strength of the rotations; 0 with the gates off."""
        return 0.0 if self.gates_off.isChecked() else self.strength.value() / STRENGTH_UNIT

    def set_trained(self, trained: bool) -> None:
        """Say whether there is a trained model to compare with."""
        widgets = (self.compare, self.gates_off, self.strength, self.strength_text)
        for widget in (*widgets, self._strength_name):
            widget.setVisible(trained)

    def set_answering(self, answering: bool) -> None:
        """Turn the button into Stop while an answer is being written."""
        self._answering = answering
        self._restyle()

    def take(self) -> tuple[str, str]:
        """Return request and context and clear the request; the context stays."""
        text = self.request.toPlainText().strip()
        if text:
            self._history.append(text)
        self._position = len(self._history)
        self.request.clear()
        return text, self.situation.text().strip()

    def set_request(self, text: str) -> None:
        """Put a request into the field."""
        self.request.setPlainText(text)
        self.request.moveCursor(QTextCursor.MoveOperation.End)

    @Slot(int)
    def _on_recalled(self, offset: int) -> None:
        if not self._history:
            return
        self._position = min(len(self._history), max(0, self._position + offset))
        at_end = self._position == len(self._history)
        self.set_request("" if at_end else self._history[self._position])

    @Slot()
    def _on_text_changed(self) -> None:
        usable = self._answering or bool(self.request.toPlainText().strip())
        self.send.setEnabled(usable)
        name = "stop" if self._answering else "send"
        self.send.setIcon(Theme.instance().icon(name, "on_accent" if usable else "text_muted"))

    @Slot()
    def _on_send_clicked(self) -> None:
        if self._answering:
            self.stop_requested.emit()
        else:
            self.send_requested.emit()

    @Slot(bool)
    def _on_gates_toggled(self, off: bool) -> None:
        self.strength.setEnabled(not off)
        self._on_strength_changed(0)

    @Slot(int)
    def _on_strength_changed(self, _value: int) -> None:
        self.strength_text.setText(f"{self.strength_value:.2f}")

    @Slot()
    def _restyle(self) -> None:
        self.send.setText(self.tr("Stop") if self._answering else self.tr("Send"))
        self.send.setAccessibleName(
            self.tr("Stop the answer") if self._answering else self.tr("Send the request")
        )
        self.send.setToolTip(
            self.tr("Stop the answer (Esc).") if self._answering else self.tr("Send (Enter).")
        )
        self._on_text_changed()
