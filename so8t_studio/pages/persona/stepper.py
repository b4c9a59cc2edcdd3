"""The stepper: five cards, each with its state in words and one button."""

from __future__ import annotations

from PySide6.QtCore import QRectF, QSize, Qt, Signal, Slot
from PySide6.QtGui import QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import (
    QFrame,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from so8t_studio.pages.persona.steps import Status, Step, next_step
from so8t_studio.theme import Theme

BADGE = 32


class StepBadge(QWidget):
    """A circle with a sign (done, attention, running) or the step's number, on a line."""

    def __init__(self, number: int, last: int, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._number, self._last = number, last
        self._status = Status.WAITING
        self._current = False
        self.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Expanding)
        Theme.instance().changed.connect(self._on_theme_changed)

    def set_status(self, status: Status, *, current: bool) -> None:
        """Show how the step stands."""
        self._status, self._current = status, current
        self.update()

    def sizeHint(self) -> QSize:
        """Return the preferred size."""
        return QSize(BADGE + 8, BADGE + 8)

    def minimumSizeHint(self) -> QSize:
        """Return the least size."""
        return self.sizeHint()

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Draw line, circle and sign."""
        theme = Theme.instance()
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        middle_x, middle_y = self.width() / 2, self.height() / 2
        painter.setPen(QPen(theme.color("border"), 2))
        if self._number > 1:
            painter.drawLine(int(middle_x), 0, int(middle_x), int(middle_y))
        if self._number < self._last:
            painter.drawLine(int(middle_x), int(middle_y), int(middle_x), self.height())
        token = {
            Status.DONE: "success",
            Status.ATTENTION: "warning",
            Status.RUNNING: "accent",
            Status.OPEN: "accent" if self._current else "border_strong",
            Status.WAITING: "border",
        }[self._status]
        soft = {
            Status.DONE: "success_soft",
            Status.ATTENTION: "warning_soft",
            Status.RUNNING: "accent_soft",
            Status.OPEN: "accent_soft" if self._current else "surface",
            Status.WAITING: "surface",
        }[self._status]
        circle = QRectF(middle_x - BADGE / 2 + 1, middle_y - BADGE / 2 + 1, BADGE - 2, BADGE - 2)
        painter.setBrush(theme.color(soft))
        painter.setPen(QPen(theme.color(token), 2))
        painter.drawEllipse(circle)
        sign = {Status.DONE: "✓", Status.ATTENTION: "!", Status.RUNNING: "…"}.get(
            self._status, str(self._number)
        )
        painter.setFont(theme.font(11.0, bold=True))
        painter.setPen(theme.color("text_muted" if self._status is Status.WAITING else "text"))
        painter.drawText(circle, Qt.AlignmentFlag.AlignCenter, sign)
        painter.end()

    @Slot()
    def _on_theme_changed(self) -> None:
        self.update()


class StepCard(QFrame):
    """``triggered(Step)`` when its button is pressed."""

    triggered = Signal(object)

    def __init__(self, key: str, number: int, last: int, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName(f"step_{key}")
        self._step: Step | None = None
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(12)
        self.badge = StepBadge(number, last)
        row.addWidget(self.badge)
        card = QFrame()
        card.setProperty("role", "card")
        inside = QHBoxLayout(card)
        inside.setContentsMargins(16, 10, 12, 10)
        inside.setSpacing(12)
        words = QVBoxLayout()
        words.setSpacing(1)
        self.title = QLabel()
        self.title.setProperty("role", "caption")
        words.addWidget(self.title)
        self.words = QLabel()
        self.words.setObjectName(f"stepWords_{key}")
        self.words.setProperty("role", "h3")
        self.words.setWordWrap(True)
        words.addWidget(self.words)
        self.detail = QLabel()
        self.detail.setObjectName(f"stepDetail_{key}")
        self.detail.setProperty("role", "caption")
        self.detail.setWordWrap(True)
        words.addWidget(self.detail)
        inside.addLayout(words, 1)
        self.button = QPushButton()
        self.button.setObjectName(f"stepButton_{key}")
        self.button.setMinimumWidth(128)
        self.button.clicked.connect(self._on_clicked)
        inside.addWidget(self.button, 0, Qt.AlignmentFlag.AlignVCenter)
        # The gap between cards is inside of the row, so that the line of the badges has none.
        holder = QVBoxLayout()
        holder.setContentsMargins(0, 0, 0, 10)
        holder.addWidget(card)
        row.addLayout(holder, 1)

    @property
    def step(self) -> Step | None:
        """The step that is shown."""
        return self._step

    def set_step(self, step: Step, *, current: bool) -> None:
        """Show a step; the current one has the prominent button."""
        self._step = step
        self.badge.set_status(step.status, current=current)
        self.title.setText(step.title)
        self.words.setText(step.words)
        self.detail.setText(step.detail)
        self.detail.setVisible(bool(step.detail))
        self.button.setText(step.button)
        self.button.setVisible(bool(step.button))
        self.button.setAccessibleName(f"{step.title}: {step.button}")
        kind = "primary" if current else ""
        if self.button.property("kind") != kind:
            self.button.setProperty("kind", kind)
            self.button.style().polish(self.button)
        self.setAccessibleName(f"{step.title}: {step.words}. {step.detail}")

    @Slot()
    def _on_clicked(self) -> None:
        if self._step is not None:
            self.triggered.emit(self._step)


class Stepper(QWidget):
    """Data → Train → Inspect → Evaluate → Chat-test. ``step_triggered(Step)``."""

    step_triggered = Signal(object)
    KEYS = ("data", "train", "inspect", "evaluate", "chat")

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("stepper")
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(0)
        self.cards: dict[str, StepCard] = {}
        for number, key in enumerate(self.KEYS, start=1):
            card = StepCard(key, number, len(self.KEYS))
            card.triggered.connect(self.step_triggered)
            column.addWidget(card)
            self.cards[key] = card
        column.addStretch(1)

    def set_steps(self, steps: list[Step]) -> None:
        """Show the steps."""
        current = next_step(steps)
        for index, step in enumerate(steps):
            self.cards[step.key].set_step(step, current=index == current)
