"""One question and its answers, before and after training side by side."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal, Slot
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import (
    QBoxLayout,
    QFrame,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from so8t_engine.labels import Label
from so8t_studio.pages.chat.session import BASE, Answer, Exchange
from so8t_studio.widgets.label_chip import LabelChip
from so8t_studio.widgets.verdict_bars import VerdictBars

STACK_BELOW = 560


def _text_label(name: str) -> QLabel:
    label = QLabel()
    label.setObjectName(name)
    label.setWordWrap(True)
    label.setTextFormat(Qt.TextFormat.PlainText)
    label.setTextInteractionFlags(
        Qt.TextInteractionFlag.TextSelectableByMouse
        | Qt.TextInteractionFlag.TextSelectableByKeyboard
    )
    return label


class AnswerPanel(QFrame):
    """Decision, bars and reply of one arm."""

    def __init__(self, arm: str, strength: float, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("role", "sunken")
        self.setObjectName(f"answer_{arm}")
        self.arm = arm
        self._revealed = False
        self._answer = Answer()
        self._stopped = False
        column = QVBoxLayout(self)
        column.setContentsMargins(14, 10, 14, 12)
        column.setSpacing(8)
        head = QHBoxLayout()
        title = QLabel(self._title(strength))
        title.setProperty("role", "h3")
        head.addWidget(title, 1)
        self.chip = LabelChip()
        head.addWidget(self.chip)
        column.addLayout(head)
        self.bars = VerdictBars()
        column.addWidget(self.bars)
        self.reason = _text_label("answerReason")
        self.reason.setProperty("role", "warning")
        self.reason.hide()
        column.addWidget(self.reason)
        self.reply = _text_label("answerReply")
        self.reply.hide()
        column.addWidget(self.reply)
        foot = QHBoxLayout()
        self.state = QLabel(self.tr("Deciding…"))
        self.state.setObjectName("answerState")
        self.state.setProperty("role", "caption")
        self.state.setWordWrap(True)
        foot.addWidget(self.state, 1)
        self.reveal = QPushButton(self.tr("Show the reply"))
        self.reveal.setObjectName("revealReply")
        self.reveal.setProperty("kind", "quiet")
        self.reveal.setAccessibleName(self.tr("Show the reply that was withheld"))
        self.reveal.clicked.connect(self._on_reveal_clicked)
        self.reveal.hide()
        foot.addWidget(self.reveal)
        column.addLayout(foot)
        column.addStretch(1)

    def _title(self, strength: float) -> str:
        if self.arm == BASE:
            return self.tr("Before: base model")
        if strength == 0:
            return self.tr("After: gates off")
        if strength != 1:
            return self.tr("After: strength {value}").format(value=f"{strength:.2f}")
        return self.tr("After: trained")

    def set_answer(self, answer: Answer, *, cancelled: bool) -> None:
        """Show what has arrived so far."""
        self._answer, self._stopped = answer, cancelled
        verdict = answer.verdict
        self.chip.set_label(verdict.label if verdict else None)
        self.bars.set_verdict(verdict)
        reason = verdict.reason if verdict else ""
        if verdict is not None and verdict.truncated:
            cut = self.tr("The request was longer than the model reads and was cut in the middle.")
            reason = f"{reason} {cut}".strip()
        self.reason.setText(f"⚠ {reason}")
        self.reason.setVisible(bool(reason))
        self._show_reply()

    @property
    def withheld(self) -> bool:
        """True if the reply did not pass the second judgement."""
        second = self._answer.reply_verdict
        return second is not None and second.label is not Label.ALLOW and bool(self._answer.text)

    def _show_reply(self) -> None:
        answer = self._answer
        hidden = self.withheld and not self._revealed
        self.reply.setText(answer.text.strip())
        self.reply.setVisible(bool(answer.text.strip()) and not hidden)
        self.reveal.setVisible(hidden)
        self.state.setText(self._state_words())
        self.state.setVisible(bool(self.state.text()))
        role = "warning" if self.withheld else "caption"
        if self.state.property("role") != role:
            self.state.setProperty("role", role)
            self.state.style().polish(self.state)

    def _state_words(self) -> str:
        answer = self._answer
        if answer.verdict is None:
            return self.tr("Deciding…")
        if answer.verdict.label is Label.ESCALATE:
            return self.tr("A human decides; nothing is answered.")
        if answer.verdict.label is Label.REFUSE:
            return self.tr("Refused; no reply is written.")
        second = answer.reply_verdict
        if second is None:
            if answer.done:
                return ""
            if not answer.text:
                return self.tr("Writing a reply…")
            return self.tr("Writing; a draft until the reply itself is judged.")
        if second.reason:
            return self.tr("⚠ Not final: {reason}").format(reason=second.reason)
        confidence = f"{100 * second.confidence:.0f} %"
        if second.label is Label.ALLOW:
            return self.tr("Judged again with this reply: ✓ ALLOW, {confidence}").format(
                confidence=confidence
            )
        return self.tr("⚠ Reply withheld. Judged again with it: {label}, {confidence}").format(
            label=second.label.value, confidence=confidence
        )

    @Slot()
    def _on_reveal_clicked(self) -> None:
        self._revealed = True
        self._show_reply()


class ExchangeCard(QFrame):
    """``correction_requested(Exchange)`` when the decision was wrong."""

    correction_requested = Signal(object)

    def __init__(self, exchange: Exchange, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("role", "card")
        self.setObjectName(f"exchange_{exchange.id}")
        self.exchange = exchange
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Preferred)
        column = QVBoxLayout(self)
        column.setContentsMargins(16, 12, 16, 12)
        column.setSpacing(10)
        head = QHBoxLayout()
        head.setSpacing(12)
        words = QVBoxLayout()
        words.setSpacing(2)
        if exchange.context:
            context = _text_label("exchangeContext")
            context.setProperty("role", "caption")
            context.setText(self.tr("Context: {text}").format(text=exchange.context))
            words.addWidget(context)
        request = _text_label("exchangeRequest")
        request.setProperty("role", "h3")
        request.setText(exchange.request)
        words.addWidget(request)
        head.addLayout(words, 1)
        self.correct = QPushButton(self.tr("Correct this…"))
        self.correct.setObjectName("correctThis")
        self.correct.setAccessibleName(self.tr("Correct the decision on this request"))
        self.correct.setToolTip(self.tr("Add the right decision to the dataset."))
        self.correct.clicked.connect(self._on_correct_clicked)
        self.correct.setEnabled(False)
        head.addWidget(self.correct, 0, Qt.AlignmentFlag.AlignTop)
        column.addLayout(head)
        self._row = QBoxLayout(QBoxLayout.Direction.LeftToRight)
        self._row.setSpacing(12)
        self.panels: dict[str, AnswerPanel] = {}
        for arm in exchange.arms:
            panel = AnswerPanel(arm, exchange.strength)
            self._row.addWidget(panel, 1)
            self.panels[arm] = panel
        column.addLayout(self._row)
        self.note = QLabel()
        self.note.setObjectName("exchangeNote")
        self.note.setProperty("role", "success")
        self.note.hide()
        column.addWidget(self.note)

    def show_exchange(self) -> None:
        """Take over what is new in the exchange."""
        for arm, panel in self.panels.items():
            panel.set_answer(self.exchange.answers[arm], cancelled=self.exchange.cancelled)
        self.correct.setEnabled(
            any(answer.verdict is not None for answer in self.exchange.answers.values())
        )

    def show_note(self, text: str) -> None:
        """Say what became of a correction."""
        self.note.setText(text)
        self.note.show()

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Put the arms below each other where it is narrow."""
        super().resizeEvent(event)
        narrow = event.size().width() < STACK_BELOW
        self._row.setDirection(
            QBoxLayout.Direction.TopToBottom if narrow else QBoxLayout.Direction.LeftToRight
        )

    @Slot()
    def _on_correct_clicked(self) -> None:
        self.correction_requested.emit(self.exchange)
