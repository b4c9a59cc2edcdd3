"""Four 8×8 matrices side by side on one diverging colour scale."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QEvent, QPointF, QRectF, QSize, Qt, QTimer, Signal, Slot
from PySide6.QtGui import (
    QColor,
    QKeyEvent,
    QLinearGradient,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPen,
    QResizeEvent,
)
from PySide6.QtWidgets import QSizePolicy, QWidget

from so8t_studio.theme import Theme

SIZE = 8
TOP = 26
BOTTOM = 36
LEFT = 46
BAR = 74
GAP = 14
MIN_SIDE = 112
MAX_SIDE = 264


@dataclass(frozen=True)
class HoveredCell:
    """A cell of one of the matrices: which matrix, row, column (from 0) and its value."""

    matrix: int
    row: int
    column: int
    value: float


class MatrixRow(QWidget):
    """Paints up to four matrices with channel numbers on both axes and one colour bar.

    One widget and one scale for all four, because entries are compared across matrices. The arrow
    keys move a cursor from cell to cell, so that values can be read without a mouse.
    """

    cell_hovered = Signal(object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("matrixRow")
        self.setMouseTracking(True)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self._titles: tuple[str, ...] = ()
        self._matrices: tuple[NDArray[np.float64], ...] = ()
        self._limit = 1.0
        self._first_channel = 0
        self._cursor: HoveredCell | None = None
        Theme.instance().changed.connect(self._on_theme_changed)

    def set_matrices(
        self,
        titles: tuple[str, ...],
        matrices: tuple[NDArray[np.float64], ...],
        *,
        limit: float,
        first_channel: int,
    ) -> None:
        """Show ``matrices`` (each ``[8, 8]``) on a scale from ``-limit`` to ``+limit``.

        Args:
            titles: one a matrix.
            matrices: the values.
            limit: end of the colour scale; larger values saturate.
            first_channel: number of the first channel of the block, for the axes.
        """
        self._titles, self._matrices = titles, matrices
        self._limit, self._first_channel = limit, first_channel
        if self._cursor is not None:
            self._set_cursor(self._cursor.matrix, self._cursor.row, self._cursor.column)
        self.setAccessibleName(
            self.tr("Matrices {names}, channels {first} to {last}").format(
                names=", ".join(titles), first=first_channel, last=first_channel + SIZE - 1
            )
        )
        self.update()

    def sizeHint(self) -> QSize:
        """Return the preferred size."""
        return QSize(900, self.heightForWidth(900))

    def minimumSizeHint(self) -> QSize:
        """Return the least size at which the numbers can be told apart."""
        return QSize(4 * MIN_SIDE + LEFT + BAR + 3 * GAP, MIN_SIDE + TOP + BOTTOM)

    def heightForWidth(self, width: int) -> int:
        """Return the height at which the matrices are squares that fill ``width``."""
        return int(self._side(width)) + TOP + BOTTOM

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Keep the matrices square; layouts inside of scroll areas ignore heightForWidth.

        The height follows after the layouts are done: a change within their pass gets lost.
        """
        super().resizeEvent(event)
        QTimer.singleShot(0, self, self._fit_height)

    @Slot()
    def _fit_height(self) -> None:
        wanted = self.heightForWidth(self.width())
        if self.minimumHeight() != wanted:
            self.setFixedHeight(wanted)

    @staticmethod
    def _side(width: int) -> float:
        side = (width - LEFT - BAR - 3 * GAP) / 4
        return float(min(MAX_SIDE, max(MIN_SIDE, side)))

    def frame(self, index: int) -> QRectF:
        """Return the square of matrix ``index`` in widget coordinates."""
        side = self._side(self.width())
        return QRectF(LEFT + index * (side + GAP), TOP, side, side)

    def cell_at(self, position: QPointF) -> HoveredCell | None:
        """Return the cell below a point of the widget."""
        for index, matrix in enumerate(self._matrices):
            frame = self.frame(index)
            if frame.contains(position):
                row = min(SIZE - 1, int((position.y() - frame.top()) / frame.height() * SIZE))
                column = min(SIZE - 1, int((position.x() - frame.left()) / frame.width() * SIZE))
                return HoveredCell(index, row, column, float(matrix[row, column]))
        return None

    def cursor_cell(self) -> HoveredCell | None:
        """Return the cell whose value is being read."""
        return self._cursor

    def color_at(self, value: float) -> QColor:
        """Return the colour of a value on the shared scale."""
        tokens = Theme.instance().tokens
        share = max(-1.0, min(1.0, value / self._limit)) if self._limit > 0 else 0.0
        middle = QColor(tokens.diverging_mid)
        end = QColor(tokens.diverging_high if share >= 0 else tokens.diverging_low)
        weight = abs(share)
        return QColor.fromRgbF(
            middle.redF() + weight * (end.redF() - middle.redF()),
            middle.greenF() + weight * (end.greenF() - middle.greenF()),
            middle.blueF() + weight * (end.blueF() - middle.blueF()),
        )

    # -- painting -------------------------------------------------------------------------------
    def paintEvent(self, _event: QPaintEvent) -> None:
        """Draw matrices, axes and colour bar."""
        painter = QPainter(self)
        for index in range(len(self._matrices)):
            self._paint_matrix(painter, index)
        if self._matrices:
            self._paint_bar(painter)
        painter.end()

    def _paint_matrix(self, painter: QPainter, index: int) -> None:
        theme, frame, matrix = Theme.instance(), self.frame(index), self._matrices[index]
        painter.setFont(theme.font(10.0, bold=True))
        painter.setPen(theme.color("text"))
        heading = QRectF(frame.left(), 0, frame.width(), TOP - 4)
        title = painter.fontMetrics().elidedText(
            self._titles[index], Qt.TextElideMode.ElideRight, int(frame.width())
        )
        painter.drawText(heading, Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter, title)
        edges_x = [round(frame.left() + k * frame.width() / SIZE) for k in range(SIZE + 1)]
        edges_y = [round(frame.top() + k * frame.height() / SIZE) for k in range(SIZE + 1)]
        for row in range(SIZE):
            for column in range(SIZE):
                left, top = edges_x[column], edges_y[row]
                painter.fillRect(
                    left,
                    top,
                    edges_x[column + 1] - left,
                    edges_y[row + 1] - top,
                    self.color_at(float(matrix[row, column])),
                )
        painter.setPen(QPen(theme.color("border"), 1))
        painter.drawRect(frame)
        self._paint_axes(painter, index, frame)
        cursor = self._cursor
        if cursor is not None and cursor.matrix == index:
            painter.setPen(QPen(theme.color("text"), 2))
            painter.drawRect(
                edges_x[cursor.column],
                edges_y[cursor.row],
                edges_x[cursor.column + 1] - edges_x[cursor.column],
                edges_y[cursor.row + 1] - edges_y[cursor.row],
            )

    def _paint_axes(self, painter: QPainter, index: int, frame: QRectF) -> None:
        theme = Theme.instance()
        painter.setFont(theme.font(7.5))
        painter.setPen(theme.color("text_muted"))
        cell = frame.width() / SIZE
        widest = painter.fontMetrics().horizontalAdvance(str(self._first_channel + SIZE - 1))
        every = 1 if widest + 4 <= cell else 2 if widest + 4 <= 2 * cell else 4
        middle = Qt.AlignmentFlag.AlignCenter
        for k in range(0, SIZE, every):
            text = str(self._first_channel + k)
            left = frame.left() + k * cell
            painter.drawText(QRectF(left - cell, frame.bottom() + 2, 3 * cell, 14), middle, text)
            if index == 0:
                line = QRectF(14, frame.top() + k * cell, LEFT - 20, cell)
                painter.drawText(
                    line, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter, text
                )
        painter.setFont(theme.font(8.0))
        below = QRectF(frame.left(), frame.bottom() + 16, frame.width(), 18)
        painter.drawText(below, middle, self.tr("input channel"))
        if index == 0:
            painter.save()
            painter.translate(8, frame.center().y())
            painter.rotate(-90)
            painter.drawText(
                QRectF(-frame.height() / 2, -8, frame.height(), 16),
                middle,
                self.tr("output channel"),
            )
            painter.restore()

    def _paint_bar(self, painter: QPainter) -> None:
        theme = Theme.instance()
        last = self.frame(len(self._matrices) - 1)
        bar = QRectF(last.right() + 14, last.top(), 12, last.height())
        gradient = QLinearGradient(bar.topLeft(), bar.bottomLeft())
        for stop in range(11):
            gradient.setColorAt(stop / 10, self.color_at(self._limit * (1 - stop / 5)))
        painter.fillRect(bar, gradient)
        painter.setPen(QPen(theme.color("border"), 1))
        painter.drawRect(bar)
        painter.setFont(theme.font(7.5))
        painter.setPen(theme.color("text_muted"))
        for share in (1.0, 0.5, 0.0, -0.5, -1.0):
            y = bar.top() + (1 - share) / 2 * bar.height()
            painter.drawText(
                QRectF(bar.right() + 5, y - 8, BAR - 30, 16),
                Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter,
                f"{share * self._limit:+.2g}" if share else "0",
            )

    # -- pointer and keys -----------------------------------------------------------------------
    def _set_cursor(self, matrix: int, row: int, column: int) -> None:
        if not 0 <= matrix < len(self._matrices):
            self._cursor = None
        else:
            value = float(self._matrices[matrix][row, column])
            self._cursor = HoveredCell(matrix, row, column, value)
        self.cell_hovered.emit(self._cursor)
        self.update()

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Read the value below the pointer."""
        found = self.cell_at(event.position())
        if found != self._cursor:
            self._cursor = found
            self.cell_hovered.emit(found)
            self.update()

    def leaveEvent(self, _event: QEvent) -> None:
        """Forget the value when the pointer leaves."""
        if not self.hasFocus() and self._cursor is not None:
            self._cursor = None
            self.cell_hovered.emit(None)
            self.update()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Move the cursor; at the edge of a matrix it goes on in the next one."""
        moves = {
            Qt.Key.Key_Left: (0, -1),
            Qt.Key.Key_Right: (0, 1),
            Qt.Key.Key_Up: (-1, 0),
            Qt.Key.Key_Down: (1, 0),
        }
        move = moves.get(Qt.Key(event.key()))
        if move is None or not self._matrices:
            super().keyPressEvent(event)
            return
        if self._cursor is None:
            self._set_cursor(0, 0, 0)
            return
        matrix, column = self._cursor.matrix, self._cursor.column + move[1]
        row = min(SIZE - 1, max(0, self._cursor.row + move[0]))
        if column < 0:
            matrix, column = (matrix - 1, SIZE - 1) if matrix else (0, 0)
        elif column >= SIZE:
            last = len(self._matrices) - 1
            matrix, column = (matrix + 1, 0) if matrix < last else (last, SIZE - 1)
        self._set_cursor(matrix, row, column)

    @Slot()
    def _on_theme_changed(self) -> None:
        self.update()
