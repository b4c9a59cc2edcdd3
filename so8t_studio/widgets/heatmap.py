"""A matrix as colours on a diverging scale, with labelled axes and the value under the pointer."""

from __future__ import annotations

import os

os.environ.setdefault("PYQTGRAPH_QT_LIB", "PySide6")

import numpy as np
import pyqtgraph as pg
from numpy.typing import ArrayLike, NDArray
from PySide6.QtCore import QEvent, QObject, QPointF, Qt, Signal, Slot
from PySide6.QtWidgets import QFrame, QLabel, QVBoxLayout, QWidget

from so8t_studio.theme import Theme

TEXT_LIMIT = 8 * 8


class Heatmap(QFrame):
    """Row 0 on top, columns to the right, zero in the middle of the scale.

    ``cell_hovered`` carries ``(row, column, value)`` or None.
    """

    cell_hovered = Signal(object)

    def __init__(
        self,
        title: str,
        x_label: str = "column",
        y_label: str = "row",
        parent: QWidget | None = None,
        *,
        show_values: bool = False,
    ) -> None:
        super().__init__(parent)
        self.setProperty("role", "card")
        self.setObjectName("heatmap")
        self._title, self._x_label, self._y_label = title, x_label, y_label
        self._show_values = show_values
        self._matrix: NDArray[np.float64] | None = None
        self._limit = 1.0
        self._texts: list[pg.TextItem] = []
        column = QVBoxLayout(self)
        column.setContentsMargins(12, 10, 8, 6)
        column.setSpacing(2)
        self._heading = QLabel(title)
        self._heading.setProperty("role", "h3")
        column.addWidget(self._heading)
        self._widget = pg.GraphicsLayoutWidget()
        self._widget.setFrameShape(QFrame.Shape.NoFrame)
        self._widget.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self._widget.setMinimumSize(150, 140)
        self._plot = self._widget.addPlot()
        self._plot.setMenuEnabled(False)
        self._plot.hideButtons()
        self._plot.setMouseEnabled(False, False)
        self._plot.invertY(True)
        self._plot.setAspectLocked(True)
        self._plot.setDefaultPadding(0.0)
        self._image = pg.ImageItem(axisOrder="row-major")
        self._plot.addItem(self._image)
        self._bar = pg.ColorBarItem(values=(-1.0, 1.0), width=12, interactive=False)
        self._bar.setImageItem(self._image, insert_in=self._plot)
        self._widget.scene().sigMouseMoved.connect(self._on_mouse_moved)
        self._widget.installEventFilter(self)
        column.addWidget(self._widget, 1)
        self._readout = QLabel(" ")
        self._readout.setProperty("role", "caption")
        self._readout.setObjectName("heatmapReadout")
        column.addWidget(self._readout)
        Theme.instance().changed.connect(self._on_theme_changed)
        self._restyle()
        self.set_matrix(None)

    def set_title(self, title: str) -> None:
        """Change the heading."""
        self._title = title
        self._heading.setText(title)
        self._describe()

    def set_matrix(self, matrix: ArrayLike | None, *, limit: float | None = None) -> None:
        """Show ``matrix`` ``[rows, columns]``; ``limit`` is the end of the scale, else max |value|.

        A matrix of zeros keeps a scale of ±1 so that it reads as zero.
        """
        if matrix is None:
            self._matrix = None
            self._image.clear()
            self._clear_texts()
            self._describe()
            return
        values = np.asarray(matrix, dtype=np.float64)
        same_shape = self._matrix is not None and self._matrix.shape == values.shape
        self._matrix = values
        if limit is None:
            known = np.abs(values[np.isfinite(values)])
            limit = float(known.max()) if len(known) else 1.0
        self._limit = limit if limit > 1e-12 else 1.0
        self._image.setImage(values, autoLevels=False)
        self._bar.setLevels((-self._limit, self._limit))
        if not same_shape:
            self._fit()
        self._fill_texts()
        self._describe()

    @property
    def matrix(self) -> NDArray[np.float64] | None:
        """The matrix that is shown."""
        return self._matrix

    def set_show_values(self, on: bool) -> None:
        """Print the value into each cell (only up to 8 by 8)."""
        self._show_values = on
        self._fill_texts()

    def _fit(self) -> None:
        if self._matrix is None:
            return
        rows, columns = self._matrix.shape
        self._plot.setRange(xRange=(0, columns), yRange=(0, rows), padding=0.0)
        for side, count in (("left", rows), ("bottom", columns)):
            step = max(1, count // 8)
            ticks = [(index + 0.5, str(index + 1)) for index in range(0, count, step)]
            self._plot.getAxis(side).setTicks([ticks, []])

    def _describe(self) -> None:
        if self._matrix is None:
            self.setAccessibleName(self.tr("{title}: nothing to show").format(title=self._title))
            return
        rows, columns = self._matrix.shape
        self.setAccessibleName(
            self.tr("{title}: {rows} by {columns}, largest value {value}").format(
                title=self._title, rows=rows, columns=columns, value=f"{self._limit:.3g}"
            )
        )

    def _clear_texts(self) -> None:
        for text in self._texts:
            self._plot.removeItem(text)
        self._texts.clear()

    def _fill_texts(self) -> None:
        self._clear_texts()
        if self._matrix is None or not self._show_values or self._matrix.size > TEXT_LIMIT:
            return
        theme = Theme.instance()
        for (row, column), value in np.ndenumerate(self._matrix):
            share = abs(value) / self._limit
            strong = share > 0.6
            ink = "#ffffff" if strong != theme.is_dark else theme.tokens.text
            ink = "#0e1420" if strong and theme.is_dark else ink
            text = pg.TextItem(f"{value:.2f}", color=ink, anchor=(0.5, 0.5))
            text.setFont(theme.font(7.5))
            text.setPos(column + 0.5, row + 0.5)
            self._plot.addItem(text, ignoreBounds=True)
            self._texts.append(text)

    @Slot(object)
    def _on_mouse_moved(self, position: QPointF) -> None:
        if self._matrix is None:
            return
        point = self._plot.getViewBox().mapSceneToView(position)
        row, column = int(np.floor(point.y())), int(np.floor(point.x()))
        rows, columns = self._matrix.shape
        if not (0 <= row < rows and 0 <= column < columns):
            self._leave()
            return
        value = float(self._matrix[row, column])
        self._readout.setText(
            f"{self._y_label} {row + 1}, {self._x_label} {column + 1}:  {value:+.5f}"
        )
        self.cell_hovered.emit((row, column, value))

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Forget the value when the pointer leaves."""
        if event.type() == QEvent.Type.Leave:
            self._leave()
        return super().eventFilter(watched, event)

    def _leave(self) -> None:
        if self._readout.text().strip():
            self._readout.setText(" ")
            self.cell_hovered.emit(None)

    @Slot()
    def _on_theme_changed(self) -> None:
        self._restyle()
        self._fill_texts()

    def _restyle(self) -> None:
        theme = Theme.instance()
        tokens = theme.tokens
        self._widget.setBackground(theme.color("surface"))
        colors = [tokens.diverging_low, tokens.diverging_mid, tokens.diverging_high]
        self._bar.setColorMap(pg.ColorMap([0.0, 0.5, 1.0], colors))
        muted = theme.color("text_muted")
        for axis in (self._plot.getAxis("left"), self._plot.getAxis("bottom"), self._bar.axis):
            axis.setPen(theme.color("border_strong"))
            axis.setTextPen(muted)
            axis.setTickFont(theme.font(8.0))
        style = {"color": muted.name(), "font-size": "8pt"}
        self._plot.setLabel("bottom", self._x_label, **style)
        self._plot.setLabel("left", self._y_label, **style)
