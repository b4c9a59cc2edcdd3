"""Horizontal bars of counts by label, clickable; and a small histogram."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PySide6.QtCore import QEvent, QPoint, QRectF, QSize, Qt, Signal, Slot
from PySide6.QtGui import QHelpEvent, QKeyEvent, QMouseEvent, QPainter, QPaintEvent
from PySide6.QtWidgets import QSizePolicy, QToolTip, QWidget

from so8t_engine.labels import LABELS
from so8t_studio.theme import Theme
from so8t_studio.widgets.label_chip import SIGNS, TOKENS

_ROW = 26
_NAME = 104
_COUNT = 56


class StackedBars(QWidget):
    """One bar a name, divided by label. Up and Down move, Enter or a click chooses."""

    chosen = Signal(str)
    """The name whose bar was chosen."""

    def __init__(self, title: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._rows: list[tuple[str, str, dict[str, int]]] = []
        self._title = title
        self._current = 0
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setAccessibleName(title)
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        Theme.instance().changed.connect(self._on_theme_changed)

    def show_rows(self, rows: Sequence[tuple[str, str, Mapping[str, int]]]) -> None:
        """Show (key, text, counts by label name)."""
        self._rows = [(key, text, dict(counts)) for key, text, counts in rows]
        self._current = 0
        words = "; ".join(f"{text}: {sum(counts.values()):,}" for _, text, counts in self._rows)
        self.setAccessibleDescription(words)
        self.updateGeometry()
        self.update()

    def sizeHint(self) -> QSize:
        """Return room for all bars."""
        return QSize(280, max(len(self._rows), 1) * _ROW + 2)

    def minimumSizeHint(self) -> QSize:
        """Return the same height; the width may shrink."""
        return QSize(200, self.sizeHint().height())

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Draw names, bars and numbers."""
        theme = Theme.instance()
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        most = max((sum(counts.values()) for _, _, counts in self._rows), default=1) or 1
        room = max(self.width() - _NAME - _COUNT - 8, 20)
        for number, (_, text, counts) in enumerate(self._rows):
            top = number * _ROW
            if self.hasFocus() and number == self._current:
                painter.setPen(theme.color("accent"))
                painter.setBrush(Qt.BrushStyle.NoBrush)
                painter.drawRoundedRect(QRectF(0.5, top + 1.5, self.width() - 1, _ROW - 3), 4, 4)
            painter.setPen(theme.color("text"))
            name = self.fontMetrics().elidedText(text, Qt.TextElideMode.ElideRight, _NAME - 8)
            painter.drawText(
                QRectF(4, top, _NAME - 4, _ROW), int(Qt.AlignmentFlag.AlignVCenter), name
            )
            left = float(_NAME)
            total = sum(counts.values())
            painter.setPen(Qt.PenStyle.NoPen)
            for label in LABELS:
                width = room * counts.get(label.value, 0) / most
                painter.setBrush(theme.color(TOKENS[label]))
                painter.drawRect(QRectF(left, top + 6, width, _ROW - 12))
                left += width
            painter.setPen(theme.color("text_muted"))
            painter.drawText(
                QRectF(self.width() - _COUNT, top, _COUNT - 4, _ROW),
                int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter),
                f"{total:,}",
            )

    def event(self, event: QEvent) -> bool:
        """Show the numbers of the bar under the pointer."""
        if event.type() == QEvent.Type.ToolTip and isinstance(event, QHelpEvent):
            row = self._row_at(event.pos())
            if row >= 0:
                _, text, counts = self._rows[row]
                parts = [f"{SIGNS[label]} {label.value}: {counts.get(label.value, 0):,}"
                         for label in LABELS]  # fmt: skip
                QToolTip.showText(event.globalPos(), "\n".join([text, *parts]), self)
            return True
        return super().event(event)

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        """Choose the bar under the pointer."""
        row = self._row_at(event.position().toPoint())
        if row >= 0:
            self._current = row
            self.chosen.emit(self._rows[row][0])

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Move between bars and choose one."""
        key = event.key()
        if key in (Qt.Key.Key_Down, Qt.Key.Key_Up) and self._rows:
            step = 1 if key == Qt.Key.Key_Down else -1
            self._current = max(0, min(self._current + step, len(self._rows) - 1))
            self.update()
        elif key in (Qt.Key.Key_Return, Qt.Key.Key_Enter, Qt.Key.Key_Space) and self._rows:
            self.chosen.emit(self._rows[self._current][0])
        else:
            super().keyPressEvent(event)

    def _row_at(self, place: QPoint) -> int:
        row = place.y() // _ROW
        return row if 0 <= row < len(self._rows) else -1

    @Slot()
    def _on_theme_changed(self) -> None:
        self.update()


class Histogram(QWidget):
    """Counts over steps of a number, with both axes named. A click chooses a step."""

    chosen = Signal(object)
    """(from, below)."""

    def __init__(self, title: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._edges: Sequence[int] = (0, 1)
        self._counts: Sequence[int] = (0,)
        self._unit = ""
        self._current = 0
        self.setAccessibleName(title)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.setMinimumHeight(120)
        self.setMouseTracking(True)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        Theme.instance().changed.connect(self._on_theme_changed)

    def show_counts(self, edges: Sequence[int], counts: Sequence[int], unit: str) -> None:
        """Show new numbers; ``unit`` names the horizontal axis."""
        self._edges, self._counts, self._unit = edges, counts, unit
        self._current = 0
        self.update()

    @property
    def end(self) -> int:
        """Where the last step ends; it also holds what is longer."""
        return self._edges[-1]

    def sizeHint(self) -> QSize:
        """Return a low, wide panel."""
        return QSize(280, 130)

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Draw bars and the axis."""
        theme = Theme.instance()
        painter = QPainter(self)
        most = max(self._counts)
        if not most:
            return
        base = self.height() - 34
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(theme.color("accent"))
        width = (self.width() - 8) / len(self._counts)
        for number, count in enumerate(self._counts):
            height = (base - 18) * count / most
            painter.drawRect(QRectF(4 + number * width, base - height, max(width - 1, 1), height))
        if self.hasFocus():
            painter.setPen(theme.color("accent"))
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.drawRect(QRectF(3 + self._current * width, 14, width, base - 13))
        painter.setPen(theme.color("border_strong"))
        painter.drawLine(4, base, self.width() - 4, base)
        painter.setPen(theme.color("text_muted"))
        painter.drawText(4, 12, self.tr("{count} rows at most").format(count=f"{most:,}"))
        painter.drawText(4, base + 14, str(self._edges[0]))
        area = QRectF(0, base + 2, self.width() - 4, 16)
        painter.drawText(area, int(Qt.AlignmentFlag.AlignRight), f"{self._edges[-1]:,}")
        area = QRectF(0, base + 16, self.width(), 16)
        painter.drawText(area, int(Qt.AlignmentFlag.AlignHCenter), self._unit)

    def event(self, event: QEvent) -> bool:
        """Show the numbers of the step under the pointer."""
        if event.type() == QEvent.Type.ToolTip and isinstance(event, QHelpEvent):
            step = self._step_at(event.pos().x())
            words = self.tr("{low} to {high}: {count}").format(
                low=self._edges[step], high=self._edges[step + 1] - 1,
                count=f"{self._counts[step]:,}",
            )  # fmt: skip
            QToolTip.showText(event.globalPos(), words, self)
            return True
        return super().event(event)

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        """Choose the step under the pointer."""
        self._choose(self._step_at(int(event.position().x())))

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Left and Right move between steps, Enter chooses one."""
        key = event.key()
        if key in (Qt.Key.Key_Left, Qt.Key.Key_Right):
            step = 1 if key == Qt.Key.Key_Right else -1
            self._current = max(0, min(self._current + step, len(self._counts) - 1))
            self.update()
        elif key in (Qt.Key.Key_Return, Qt.Key.Key_Enter, Qt.Key.Key_Space):
            self._choose(self._current)
        else:
            super().keyPressEvent(event)

    def _choose(self, step: int) -> None:
        self._current = step
        self.chosen.emit((self._edges[step], self._edges[step + 1]))

    def _step_at(self, x: int) -> int:
        width = (self.width() - 8) / len(self._counts)
        return max(0, min(int((x - 4) / width), len(self._counts) - 1))

    @Slot()
    def _on_theme_changed(self) -> None:
        self.update()
