"""Two parts beside each other, or below each other where the window is small."""

from __future__ import annotations

from PySide6.QtCore import QSize
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QBoxLayout, QWidget

GAP = 12
NO_LIMIT = 16_777_215  # QWIDGETSIZE_MAX, which PySide6 does not export


class SideBySide(QWidget):
    """``main`` and ``side``; stacked below ``stack_below`` pixels of width.

    Args:
        main: the part that grows.
        side: the other one.
        side_width: fixed width of ``side``, or 0 to share the width by ``shares``.
        shares: stretch factors of the two parts.
        stack_below: width below which they are stacked.
    """

    def __init__(
        self,
        main: QWidget,
        side: QWidget,
        *,
        side_width: int = 0,
        shares: tuple[int, int] = (1, 0),
        stack_below: int = 900,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self._main, self._side = main, side
        self._side_width, self._stack_below = side_width, stack_below
        self._layout = QBoxLayout(QBoxLayout.Direction.LeftToRight, self)
        self._layout.setContentsMargins(0, 0, 0, 0)
        self._layout.setSpacing(GAP)
        self._layout.addWidget(main, shares[0])
        self._layout.addWidget(side, shares[1])
        self._arrange(NO_LIMIT)

    @property
    def stacked(self) -> bool:
        """True while the parts are below each other."""
        return self._layout.direction() == QBoxLayout.Direction.TopToBottom

    def minimumSizeHint(self) -> QSize:
        """Ask for the width of the stacked arrangement, so that the window can shrink to it."""
        main = self._least(self._main).expandedTo(QSize(self._main.minimumWidth(), 0))
        side = self._least(self._side)
        if self.stacked:
            return QSize(max(main.width(), side.width()), main.height() + side.height() + GAP)
        return QSize(max(main.width(), side.width()), max(main.height(), side.height()))

    @staticmethod
    def _least(part: QWidget) -> QSize:
        """Return the least size of a part; wrapped text needs more height than its hint says."""
        size = part.minimumSizeHint().expandedTo(QSize(0, part.minimumHeight()))
        if part.hasHeightForWidth() and part.width() > 0:
            size.setHeight(max(size.height(), part.heightForWidth(part.width())))
        return size

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Choose the arrangement by the width."""
        super().resizeEvent(event)
        self._arrange(event.size().width())

    def _arrange(self, width: int) -> None:
        stacked = width < self._stack_below
        if self._side_width:
            self._side.setMaximumWidth(NO_LIMIT if stacked else self._side_width)
            self._side.setMinimumWidth(0 if stacked else self._side_width)
        self._layout.setDirection(
            QBoxLayout.Direction.TopToBottom if stacked else QBoxLayout.Direction.LeftToRight
        )
        self.updateGeometry()
