"""Every rotation of a model at a glance: the angle of each gate and block, to be clicked."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PySide6.QtCore import QEvent, QPointF, QRectF, QSize, Qt, Signal, Slot
from PySide6.QtGui import QColor, QImage, QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QSizePolicy, QToolTip, QWidget

from so8t_studio.theme import Theme

LEFT = 68
BOTTOM = 34
TOP = 4
RIGHT = 64
ROW = 14


class AngleOverview(QWidget):
    """Rows are gates, columns are blocks, brightness is the largest angle.

    ``block_chosen`` carries ``(gate, block)``.
    """

    block_chosen = Signal(object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("angleOverview")
        self.setMouseTracking(True)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self._gates: tuple[str, ...] = ()
        self._angles: NDArray[np.float64] = np.zeros((0, 0))
        self._limit = 1.0
        self._chosen = (0, 0)
        self._image = QImage()
        Theme.instance().changed.connect(self._on_theme_changed)

    def set_angles(self, gates: tuple[str, ...], angles: dict[str, NDArray[np.float64]]) -> None:
        """Show the largest angle in radians of each block, ``[K]`` by gate."""
        self._gates = gates
        widest = max((len(angles[gate]) for gate in gates), default=0)
        grid = np.full((len(gates), widest), np.nan)
        for row, gate in enumerate(gates):
            grid[row, : len(angles[gate])] = np.degrees(angles[gate])
        self._angles = grid
        largest = float(np.nanmax(grid)) if grid.size else 0.0
        self._limit = largest if largest > 0 else 1.0
        self.setAccessibleName(
            self.tr("Largest angle of {gates} gates and {blocks} blocks, at most {angle}°").format(
                gates=len(gates), blocks=widest, angle=f"{largest:.3g}"
            )
        )
        self.updateGeometry()
        self._redraw()

    def choose(self, gate: str, block: int) -> None:
        """Mark a block; says nothing to anybody."""
        if gate in self._gates:
            self._chosen = (self._gates.index(gate), block)
            self.update()

    @property
    def chosen(self) -> tuple[str, int]:
        """The marked gate and block; an empty name while there is nothing to mark."""
        if not self._gates:
            return "", 0
        return self._gates[min(self._chosen[0], len(self._gates) - 1)], self._chosen[1]

    def angle(self, row: int, column: int) -> float:
        """Return the angle of a cell in degrees."""
        return float(self._angles[row, column])

    def sizeHint(self) -> QSize:
        """Return the preferred size."""
        return QSize(420, max(120, len(self._gates) * ROW) + TOP + BOTTOM)

    def minimumSizeHint(self) -> QSize:
        """Return the least size: four pixels a gate."""
        return QSize(240, max(100, 5 * len(self._gates)) + TOP + BOTTOM)

    def frame(self) -> QRectF:
        """Return the rectangle of the cells in widget coordinates."""
        return QRectF(
            LEFT, TOP, max(1, self.width() - LEFT - RIGHT), max(1, self.height() - TOP - BOTTOM)
        )

    def cell_center(self, row: int, column: int) -> QPointF:
        """Return the middle of a cell in widget coordinates."""
        frame = self.frame()
        rows, columns = self._angles.shape
        return QPointF(
            frame.left() + (column + 0.5) * frame.width() / columns,
            frame.top() + (row + 0.5) * frame.height() / rows,
        )

    def _cell_at(self, position: QPointF) -> tuple[int, int] | None:
        frame = self.frame()
        rows, columns = self._angles.shape
        if not rows or not columns or not frame.contains(position):
            return None
        row = min(rows - 1, int((position.y() - frame.top()) / frame.height() * rows))
        column = min(columns - 1, int((position.x() - frame.left()) / frame.width() * columns))
        return (row, column) if math.isfinite(self._angles[row, column]) else None

    # -- painting -------------------------------------------------------------------------------
    def _ramp(self) -> NDArray[np.uint8]:
        """Return 256 colours ``[256, 3]`` from the quiet to the loud end."""
        tokens = Theme.instance().tokens
        low, high = QColor(tokens.sunken), QColor(tokens.accent)
        ends = np.array(
            [[low.red(), low.green(), low.blue()], [high.red(), high.green(), high.blue()]], float
        )
        share = np.linspace(0, 1, 256)[:, None]
        return np.asarray(np.round(ends[0] + share * (ends[1] - ends[0])), dtype=np.uint8)

    def _redraw(self) -> None:
        if not self._angles.size:
            self._image = QImage()
        else:
            shade = np.nan_to_num(self._angles / self._limit).clip(0, 1)
            pixels = np.ascontiguousarray(self._ramp()[np.round(shade * 255).astype(int)])
            rows, columns = self._angles.shape
            self._image = QImage(
                pixels.data, columns, rows, 3 * columns, QImage.Format.Format_RGB888
            ).copy()
        self.update()

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Draw cells, gate names, block numbers, scale and mark."""
        if self._image.isNull():
            return
        theme, frame = Theme.instance(), self.frame()
        rows, columns = self._angles.shape
        painter = QPainter(self)
        painter.drawImage(frame, self._image)
        painter.setPen(QPen(theme.color("border"), 1))
        painter.drawRect(frame)
        painter.setFont(theme.font(7.5))
        painter.setPen(theme.color("text_muted"))
        height = frame.height() / rows
        every = max(1, math.ceil(11 / height))
        right = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        for row in {*range(0, rows, every), rows - 1}:
            if row != rows - 1 and (rows - 1 - row) * height < 11:
                continue
            middle = frame.top() + (row + 0.5) * height
            painter.drawText(QRectF(0, middle - 8, LEFT - 6, 16), right, self._gates[row])
        self._paint_blocks(painter, frame, columns)
        self._paint_scale(painter, frame)
        row, column = min(self._chosen[0], rows - 1), min(self._chosen[1], columns - 1)
        width = frame.width() / columns
        painter.setPen(QPen(theme.color("text"), 2))
        painter.drawRect(
            QRectF(frame.left() + column * width, frame.top() + row * height, width, height)
        )
        if self.hasFocus():
            painter.setPen(QPen(theme.color("accent"), 1, Qt.PenStyle.DotLine))
            painter.drawRect(self.rect().adjusted(0, 0, -1, -1))
        painter.end()

    def _paint_blocks(self, painter: QPainter, frame: QRectF, columns: int) -> None:
        width = frame.width() / columns
        step = next(
            (s for s in (1, 2, 4, 8, 16, 32, 64, 128, 256) if s * width >= 28), max(1, columns)
        )
        center = Qt.AlignmentFlag.AlignHCenter | Qt.AlignmentFlag.AlignTop
        for column in range(0, columns, step):
            x = frame.left() + (column + 0.5) * width
            painter.drawText(QRectF(x - 20, frame.bottom() + 3, 40, 14), center, str(column))
        name = self.tr("block") if columns > 1 else self.tr("shared by all blocks")
        below = QRectF(frame.left(), frame.bottom() + 17, frame.width(), 16)
        painter.drawText(below, center, name)

    def _paint_scale(self, painter: QPainter, frame: QRectF) -> None:
        theme = Theme.instance()
        ramp = self._ramp()
        x = frame.right() + 10
        for line in range(int(frame.height())):
            shade = ramp[255 - int(255 * line / max(1.0, frame.height() - 1))]
            color = QColor(int(shade[0]), int(shade[1]), int(shade[2]))
            painter.fillRect(QRectF(x, frame.top() + line, 8, 1.5), color)
        painter.setPen(theme.color("text_muted"))
        left = Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter
        ends = ((frame.top() + 6, self._limit), (frame.bottom() - 6, 0.0))
        for y, value in ends:
            painter.drawText(QRectF(x + 12, y - 8, RIGHT - 20, 16), left, f"{value:.2g}°")

    # -- pointer and keys -----------------------------------------------------------------------
    def _pick(self, row: int, column: int) -> None:
        self._chosen = (row, column)
        self.update()
        self.block_chosen.emit((self._gates[row], column))

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Choose the clicked block."""
        found = self._cell_at(event.position())
        if found is not None and event.button() == Qt.MouseButton.LeftButton:
            self._pick(*found)

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Name the block below the pointer and its angle."""
        found = self._cell_at(event.position())
        if found is None:
            QToolTip.hideText()
            return
        text = self.tr("{gate}, block {block}: {angle}°").format(
            gate=self._gates[found[0]], block=found[1], angle=f"{self.angle(*found):.3f}"
        )
        QToolTip.showText(event.globalPosition().toPoint(), text, self)

    def leaveEvent(self, event: QEvent) -> None:
        """Take the tooltip away."""
        QToolTip.hideText()
        super().leaveEvent(event)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Walk from block to block."""
        moves = {
            Qt.Key.Key_Left: (0, -1),
            Qt.Key.Key_Right: (0, 1),
            Qt.Key.Key_Up: (-1, 0),
            Qt.Key.Key_Down: (1, 0),
        }
        move = moves.get(Qt.Key(event.key()))
        if move is None or not self._angles.size:
            super().keyPressEvent(event)
            return
        row = min(self._angles.shape[0] - 1, max(0, self._chosen[0] + move[0]))
        column = min(self._angles.shape[1] - 1, max(0, self._chosen[1] + move[1]))
        if math.isfinite(self._angles[row, column]):
            self._pick(row, column)

    @Slot()
    def _on_theme_changed(self) -> None:
        self._redraw()
