"""The confusion matrix: counts, row percentages, and the dangerous cell marked as such."""

from __future__ import annotations

from PySide6.QtCore import QRectF, QSize, Qt, Slot
from PySide6.QtGui import QColor, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QSizePolicy, QWidget

from so8t_engine.labels import LABELS, Label
from so8t_studio.theme import Theme
from so8t_studio.widgets.label_chip import SIGNS

LEFT = 112
TOP = 44
MIN_CELL = 46
ALLOW_COLUMN, REFUSE_ROW = LABELS.index(Label.ALLOW), LABELS.index(Label.REFUSE)


class ConfusionView(QWidget):
    """Rows are the labels, columns the decisions, in the order ALLOW, ESCALATE, REFUSE."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("confusionMatrix")
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self._counts: tuple[tuple[int, int, int], ...] = ((0, 0, 0),) * 3
        Theme.instance().changed.connect(self._on_theme_changed)

    def set_counts(self, counts: tuple[tuple[int, int, int], ...]) -> None:
        """Show counts ``[3][3]``, rows the truth."""
        self._counts = counts
        words = [
            self.tr("{true} decided as {decided}: {count}").format(
                true=true.value, decided=decided.value, count=counts[row][column]
            )
            for row, true in enumerate(LABELS)
            for column, decided in enumerate(LABELS)
        ]
        self.setAccessibleName(self.tr("Confusion matrix. {cells}").format(cells=". ".join(words)))
        self.setToolTip("\n".join(words))
        self.update()

    @property
    def counts(self) -> tuple[tuple[int, int, int], ...]:
        """The counts that are shown."""
        return self._counts

    def sizeHint(self) -> QSize:
        """Return the preferred size."""
        return QSize(LEFT + 3 * 100, TOP + 3 * 56)

    def minimumSizeHint(self) -> QSize:
        """Return the least size at which count and percentage fit."""
        return QSize(LEFT + 3 * 72, TOP + 3 * MIN_CELL)

    def _cell(self, row: int, column: int) -> QRectF:
        width = (self.width() - LEFT - 2) / 3
        height = min(72.0, (self.height() - TOP - 2) / 3)
        return QRectF(LEFT + column * width, TOP + row * height, width - 4, height - 4)

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Draw the matrix."""
        theme = Theme.instance()
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        center = Qt.AlignmentFlag.AlignCenter
        middle = Qt.AlignmentFlag.AlignVCenter
        painter.setPen(theme.color("text_muted"))
        painter.setFont(theme.font(8.5))
        wide = QRectF(LEFT, 0, self.width() - LEFT, 18)
        painter.drawText(wide, center, self.tr("decision"))
        painter.drawText(
            QRectF(0, TOP - 22, LEFT - 12, 18),
            middle | Qt.AlignmentFlag.AlignRight,
            self.tr("label"),
        )
        for index, label in enumerate(LABELS):
            top, side = self._cell(0, index), self._cell(index, 0)
            painter.setFont(theme.font(8.5, bold=True))
            painter.setPen(theme.color("text"))
            name = f"{SIGNS[label]} {label.value}"
            painter.drawText(QRectF(top.left(), TOP - 24, top.width(), 20), center, name)
            line = QRectF(0, side.top(), LEFT - 12, side.height() / 2 + 4)
            painter.drawText(line, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignBottom, name)
            total = sum(self._counts[index])
            painter.setFont(theme.font(8.0))
            painter.setPen(theme.color("text_muted"))
            below = QRectF(0, side.center().y() + 4, LEFT - 12, side.height() / 2)
            painter.drawText(
                below,
                Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignTop,
                self.tr("1 sample") if total == 1 else self.tr("{n} samples").format(n=total),
            )
            for column in range(3):
                self._paint_cell(painter, index, column)
        painter.end()

    def _paint_cell(self, painter: QPainter, row: int, column: int) -> None:
        theme = Theme.instance()
        cell, count = self._cell(row, column), self._counts[row][column]
        total = sum(self._counts[row])
        share = count / total if total else 0.0
        token = "allow" if row == column else "refuse"
        base, soft = theme.color("sunken"), theme.color(f"{token}_soft")
        weight = min(1.0, 0.25 + share) if count else 0.0
        fill = QColor.fromRgbF(
            base.redF() + weight * (soft.redF() - base.redF()),
            base.greenF() + weight * (soft.greenF() - base.greenF()),
            base.blueF() + weight * (soft.blueF() - base.blueF()),
        )
        dangerous = (row, column) == (REFUSE_ROW, ALLOW_COLUMN)
        painter.setBrush(fill)
        edge = theme.color("refuse") if dangerous and count else theme.color("border")
        painter.setPen(QPen(edge, 2 if dangerous and count else 1))
        painter.drawRoundedRect(cell, 5, 5)
        painter.setPen(theme.color("text"))
        painter.setFont(theme.font(12.0, bold=True))
        upper = QRectF(cell.left(), cell.top() + 2, cell.width(), cell.height() * 0.56)
        painter.drawText(upper, Qt.AlignmentFlag.AlignCenter, str(count))
        painter.setFont(theme.font(8.0))
        painter.setPen(theme.color("text_muted"))
        lower = QRectF(
            cell.left(), cell.top() + cell.height() * 0.54, cell.width(), cell.height() * 0.4
        )
        text = f"{100 * share:.0f} %" if total else self.tr("n/a")
        if dangerous and count:
            painter.setPen(theme.color("refuse"))
            words = self.tr("{share} dangerous").format(share=text)
            fits = painter.fontMetrics().horizontalAdvance(words) < cell.width() - 6
            text = words if fits else f"⚠ {text}"
        painter.drawText(lower, Qt.AlignmentFlag.AlignCenter, text)

    @Slot()
    def _on_theme_changed(self) -> None:
        self.update()
