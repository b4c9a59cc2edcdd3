"""The three probabilities of a verdict as labelled bars."""

from __future__ import annotations

from PySide6.QtCore import QRectF, QSize, Qt, Slot
from PySide6.QtGui import QFont, QPainter, QPaintEvent
from PySide6.QtWidgets import QSizePolicy, QWidget

from so8t_engine.labels import LABELS
from so8t_engine.verdict import Verdict
from so8t_studio.theme import Theme
from so8t_studio.widgets.label_chip import SIGNS, TOKENS

ROW = 24


class VerdictBars(QWidget):
    """Three rows: sign and name, bar, percentage; the decided one is bold."""

    def __init__(self, verdict: Verdict | None = None, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("verdictBars")
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self._verdict: Verdict | None = None
        Theme.instance().changed.connect(self._on_theme_changed)
        self.set_verdict(verdict)

    def set_verdict(self, verdict: Verdict | None) -> None:
        """Show the probabilities of ``verdict``; None shows empty bars."""
        self._verdict = verdict
        if verdict is None:
            self.setAccessibleName(self.tr("No verdict yet"))
        else:
            parts = ", ".join(
                f"{label.value} {value:.0%}"
                for label, value in zip(LABELS, verdict.probabilities, strict=True)
            )
            self.setAccessibleName(
                self.tr("Verdict {label}. {parts}").format(label=verdict.label.value, parts=parts)
            )
            self.setToolTip(verdict.reason or parts)
        self.update()

    def sizeHint(self) -> QSize:
        """Return the preferred size."""
        return QSize(280, 3 * ROW)

    def minimumSizeHint(self) -> QSize:
        """Return the least size at which the words fit."""
        return QSize(200, 3 * ROW)

    @Slot()
    def _on_theme_changed(self) -> None:
        self.update()

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Draw the rows."""
        theme = Theme.instance()
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        base = QFont(self.font())
        base.setPointSizeF(9.0)
        bold = QFont(base)
        bold.setBold(True)
        painter.setFont(bold)
        name_width = painter.fontMetrics().horizontalAdvance("▲  ESCALATE") + 12
        value_width = painter.fontMetrics().horizontalAdvance("100.0 %") + 8
        bar_width = max(24.0, float(self.width() - name_width - value_width))
        for row, label in enumerate(LABELS):
            top = row * ROW
            value = self._verdict.probabilities[row] if self._verdict is not None else None
            decided = self._verdict is not None and self._verdict.label is label
            painter.setFont(bold if decided else base)
            painter.setPen(theme.color(TOKENS[label]) if decided else theme.color("text_muted"))
            left = Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter
            right = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
            painter.drawText(
                QRectF(0, top, name_width, ROW), left, f"{SIGNS[label]}  {label.value}"
            )
            track = QRectF(name_width, top + ROW / 2 - 4, bar_width, 8)
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(theme.color("hover"))
            painter.drawRoundedRect(track, 4, 4)
            if value:
                filled = QRectF(track)
                filled.setWidth(max(8.0, track.width() * value))
                painter.setBrush(theme.color(TOKENS[label]))
                painter.drawRoundedRect(filled, 4, 4)
            painter.setPen(theme.color("text"))
            text = "–" if value is None else f"{100 * value:.1f} %"
            painter.drawText(QRectF(self.width() - value_width, top, value_width, ROW), right, text)
        painter.end()
