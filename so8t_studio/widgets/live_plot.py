"""A chart that grows while a job runs: full history, zoom, hover values, log scale, smoothing."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

os.environ.setdefault("PYQTGRAPH_QT_LIB", "PySide6")

import numpy as np
import pyqtgraph as pg
from numpy.typing import ArrayLike
from PySide6.QtCore import QEvent, QObject, QPointF, Qt, QTimer, Slot
from PySide6.QtGui import QColor, QPaintEvent, QPen, QShowEvent
from PySide6.QtWidgets import (
    QCheckBox,
    QFrame,
    QHBoxLayout,
    QLabel,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from so8t_studio.theme import Theme
from so8t_studio.widgets.history import History, smooth
from so8t_studio.widgets.legend import Legend
from so8t_studio.widgets.plot_marks import PlotMarks

FRAME_MS = 100
WIDTH = 1.6
FEW_POINTS = 200
THIN_FROM = 400  # stroking a dense line wider than one pixel takes ten times as long


@dataclass
class _Series:
    name: str
    color: int | str
    dashed: bool
    history: History = field(default_factory=History)
    smoothed: History | None = None
    band: tuple[History, History] | None = None
    curve: pg.PlotCurveItem | None = None
    dots: pg.ScatterPlotItem | None = None
    band_curves: tuple[pg.PlotCurveItem, pg.PlotCurveItem] | None = None
    band_fill: pg.FillBetweenItem | None = None
    visible: bool = True
    thin: bool = False


class LivePlot(QFrame):
    """Curves over a common x with title, axis labels, legend and hover values.

    Data is kept in full; each frame draws only what the width can show. Redraws are collected and
    happen at most ten times a second, and not at all while hidden.
    """

    def __init__(
        self,
        title: str,
        x_label: str,
        y_label: str,
        unit: str = "",
        parent: QWidget | None = None,
        *,
        y_range: tuple[float, float] | None = None,
        log_button: bool = False,
    ) -> None:
        super().__init__(parent)
        self.setProperty("role", "card")
        self.setObjectName("livePlot")
        self.setAccessibleName(title)
        self._title, self._x_label, self._y_label, self._unit = title, x_label, y_label, unit
        self._y_range = y_range
        self._series: dict[str, _Series] = {}
        self._smoothing = 0.0
        self._log = False
        self._auto = True
        self._x_limits: tuple[float, float] | None = None
        self._dirty = False
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(FRAME_MS)
        self._timer.timeout.connect(self._on_frame_due)
        self._build(log_button)
        theme = Theme.instance()
        theme.changed.connect(self._on_theme_changed)
        self._restyle()

    # -- construction ---------------------------------------------------------------------------
    def _build(self, log_button: bool) -> None:
        column = QVBoxLayout(self)
        column.setContentsMargins(16, 12, 12, 8)
        column.setSpacing(4)
        head = QHBoxLayout()
        head.setSpacing(8)
        heading = QLabel(self._title)
        heading.setProperty("role", "h3")
        head.addWidget(heading)
        self._readout = QLabel("")
        self._readout.setProperty("role", "caption")
        self._readout.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        self._readout.setMinimumWidth(20)
        head.addWidget(self._readout, 1)
        self.log_box = QCheckBox(self.tr("Log"))
        self.log_box.setObjectName("plotLog")
        self.log_box.setAccessibleName(
            self.tr("Logarithmic scale of {title}").format(title=self._title)
        )
        self.log_box.setVisible(log_button)
        self.log_box.toggled.connect(self.set_log)
        head.addWidget(self.log_box)
        self.fit = QToolButton()
        self.fit.setObjectName("plotFit")
        self.fit.setText(self.tr("Fit"))
        self.fit.setToolTip(self.tr("Show everything again after zooming or moving."))
        self.fit.setAccessibleName(self.tr("Show all of {title}").format(title=self._title))
        self.fit.clicked.connect(self.reset_view)
        self.fit.setEnabled(False)
        head.addWidget(self.fit)
        column.addLayout(head)
        self.legend = Legend()
        self.legend.toggled.connect(self._on_legend_toggled)
        column.addWidget(self.legend)
        self._widget = pg.PlotWidget()
        self._widget.setFrameShape(QFrame.Shape.NoFrame)
        self._widget.setMinimumHeight(96)
        self._widget.setAccessibleName(self._title)
        self._widget.setFocusPolicy(Qt.FocusPolicy.ClickFocus)
        self._plot = self._widget.getPlotItem()
        self._plot.hideButtons()
        self._plot.setMenuEnabled(False)
        self._marks = PlotMarks(self._plot)
        self._view = self._plot.getViewBox()
        self._view.setDefaultPadding(0.02)
        self._view.disableAutoRange()
        self._view.sigRangeChangedManually.connect(self._on_range_changed_manually)
        self._view.sigResized.connect(self._on_resized)
        self._cross = pg.InfiniteLine(angle=90, movable=False)
        self._cross.hide()
        self._plot.addItem(self._cross, ignoreBounds=True)
        self._widget.scene().sigMouseMoved.connect(self._on_mouse_moved)
        self._widget.installEventFilter(self)
        column.addWidget(self._widget, 1)

    # -- data -----------------------------------------------------------------------------------
    def add_series(
        self,
        key: str,
        name: str,
        color: int | str | None = None,
        *,
        dashed: bool = False,
        points: bool = False,
    ) -> None:
        """Declare a curve; ``color`` is a chart colour number or the name of a token.

        ``points`` marks each value while there are few, so that a single one is visible.
        """
        if key in self._series:
            return
        chosen = len(self._series) if color is None else color
        series = _Series(name, chosen, dashed)
        series.curve = pg.PlotCurveItem(connect="finite")
        self._plot.addItem(series.curve)
        if points:
            series.dots = pg.ScatterPlotItem(size=6, pxMode=True)
            self._plot.addItem(series.dots)
        self._series[key] = series
        self._style_series(series)
        self.legend.add(key, name, self._ink(series), dashed=dashed)

    def append(self, key: str, x: float, y: float | None) -> None:
        """Add a point to a curve; None is a gap."""
        self.extend(key, [x], [np.nan if y is None else y])

    def extend(self, key: str, x: ArrayLike, y: ArrayLike) -> None:
        """Add points to a curve."""
        series = self._series[key]
        series.history.extend(x, y)
        if series.smoothed is not None:
            self._smooth_on(series.smoothed, np.atleast_1d(x), np.atleast_1d(y))
        self._schedule()

    def _smooth_on(self, smoothed: History, x: np.ndarray, y: np.ndarray) -> None:
        """Add the average of new points without looking at all the older ones again."""
        if not len(x):
            return
        older = int(np.searchsorted(smoothed.x, float(x[0])))
        last = float(smoothed.y[older - 1]) if older else np.nan
        smoothed.extend(x, smooth(y, self._smoothing, last if np.isfinite(last) else None))

    def append_band(self, key: str, x: float, low: float | None, high: float | None) -> None:
        """Add the ends of an interval around a curve."""
        series = self._series[key]
        if series.band is None:
            series.band = (History(), History())
            curves = (pg.PlotCurveItem(), pg.PlotCurveItem())
            series.band_curves = curves
            series.band_fill = pg.FillBetweenItem(*curves)
            series.band_fill.setZValue(-10)
            self._plot.addItem(series.band_fill, ignoreBounds=True)
            self._style_series(series)
        if low is not None and high is not None:
            series.band[0].append(x, low)
            series.band[1].append(x, high)
        self._schedule()

    def add_mark(self, x: float, text: str, *, quiet: bool = False) -> None:
        """Draw a vertical line with a short text; see :class:`PlotMarks`."""
        self._marks.add(x, text, quiet=quiet)
        self._schedule()

    def marks(self) -> list[tuple[float, str]]:
        """Return where the marks are and what they say, by x."""
        return sorted((mark.x, mark.text) for mark in self._marks.marks)

    def clear(self) -> None:
        """Forget all points and marks; the curves stay declared."""
        for series in self._series.values():
            series.history.clear()
            series.smoothed = None
            if series.band is not None:
                for edge in series.band:
                    edge.clear()
        self._marks.clear()
        self._readout.setText("")
        self.reset_view()

    def remove_series(self) -> None:
        """Forget all curves as well."""
        self.clear()
        for series in self._series.values():
            self._plot.removeItem(series.curve)
            if series.dots is not None:
                self._plot.removeItem(series.dots)
            if series.band_fill is not None:
                self._plot.removeItem(series.band_fill)
        self._series.clear()
        self.legend.clear()

    def history(self, key: str) -> History:
        """Return all points of a curve."""
        return self._series[key].history

    def keys(self) -> list[str]:
        """Return the declared curves."""
        return list(self._series)

    # -- view -----------------------------------------------------------------------------------
    def set_smoothing(self, factor: float) -> None:
        """Draw the exponential moving average with this memory, 0 (off) to below 1."""
        self._smoothing = min(0.999, max(0.0, factor))
        for series in self._series.values():
            series.smoothed = None
        self._schedule()

    @Slot(bool)
    def set_log(self, on: bool) -> None:
        """Switch the y axis to a logarithmic scale; values of zero and below become gaps."""
        self._log = on
        self._plot.getAxis("left").setLogMode(on)
        if self.log_box.isChecked() != on:
            self.log_box.setChecked(on)
        self._schedule()

    def set_x_limits(self, first: float, last: float) -> None:
        """Show this range of x as long as the user does not zoom, e.g. all steps of a run."""
        self._x_limits = (first, last)
        self._schedule()

    @Slot()
    def reset_view(self) -> None:
        """Follow the data again."""
        self._auto = True
        self.fit.setEnabled(False)
        self._schedule()

    def redraw(self) -> None:
        """Draw now what the range shows."""
        self._dirty = False
        first, last = self._x_range()
        columns = max(64, int(self._view.width()) // 2)
        low, high = np.inf, -np.inf
        for series in self._series.values():
            if series.curve is None:
                continue
            series.curve.setVisible(series.visible)
            if series.dots is not None:
                series.dots.setVisible(series.visible)
            if series.band_fill is not None:
                series.band_fill.setVisible(series.visible)
            if not series.visible:
                continue
            x, y = self._drawn(series).visible(first, last, columns)
            y = self._scaled(y)
            self._set_width(series, thin=len(x) > THIN_FROM)
            series.curve.setData(x, y)
            if series.dots is not None:
                few = len(x) <= FEW_POINTS
                # A scatter of nothing but gaps has no bounds; numpy would warn in every repaint.
                shown = np.isfinite(y) if few else np.zeros(len(y), dtype=bool)
                series.dots.setData(x[shown], y[shown])
            bounds = [y]
            if series.band is not None and series.band_curves is not None:
                for edge, curve in zip(series.band, series.band_curves, strict=True):
                    edge_x, edge_y = edge.visible(first, last, columns)
                    edge_y = self._scaled(edge_y)
                    curve.setData(edge_x, edge_y)
                    bounds.append(edge_y)
            for values in bounds:
                known = values[np.isfinite(values)]
                if len(known):
                    low, high = min(low, known.min()), max(high, known.max())
        if self._auto:
            self._view.setXRange(first, last, padding=0.02)
            self._fit_y(float(low), float(high))
        self._marks.place()

    def _set_width(self, series: _Series, *, thin: bool) -> None:
        if series.curve is None or series.thin == thin:
            return
        series.thin = thin
        pen = QPen(series.curve.opts["pen"])
        pen.setWidthF(1.0 if thin else WIDTH)
        series.curve.setPen(pen)

    def _fit_y(self, low: float, high: float) -> None:
        if self._y_range is not None and not self._log:
            low, high = self._y_range
        elif not np.isfinite(low) or not np.isfinite(high):
            low, high = 0.0, 1.0
        elif high - low < 1e-12:
            pad = abs(high) * 0.1 or 1.0
            low, high = (0.0, 1.0) if high == 0 else (low - pad, high + pad)
        self._view.setYRange(low, high, padding=0.06)

    def _x_range(self) -> tuple[float, float]:
        if not self._auto:
            (first, last), _ = self._view.viewRange()
            return float(first), float(last)
        first, last = np.inf, -np.inf
        for series in self._series.values():
            if len(series.history):
                first = min(first, float(series.history.x[0]))
                last = max(last, float(series.history.x[-1]))
        if self._x_limits is not None:
            first, last = min(first, self._x_limits[0]), max(last, self._x_limits[1])
        if not np.isfinite(first):
            return 0.0, 1.0
        return (first, last) if last > first else (first - 0.5, last + 0.5)

    def _drawn(self, series: _Series) -> History:
        if self._smoothing <= 0:
            return series.history
        if series.smoothed is None:
            series.smoothed = History()
            series.smoothed.extend(series.history.x, smooth(series.history.y, self._smoothing))
        return series.smoothed

    def _scaled(self, y: np.ndarray) -> np.ndarray:
        if not self._log:
            return y
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(y > 0, np.log10(y), np.nan)

    def _schedule(self) -> None:
        self._dirty = True
        if self.isVisible() and not self._timer.isActive():
            self._timer.start()

    # -- events ---------------------------------------------------------------------------------
    @Slot()
    def _on_frame_due(self) -> None:
        # A chart that is scrolled out of sight is drawn when it comes into sight (paintEvent).
        if self._dirty and not self.visibleRegion().isEmpty():
            self.redraw()

    @Slot()
    def _on_resized(self) -> None:
        self._schedule()

    @Slot()
    def _on_range_changed_manually(self) -> None:
        self._auto = False
        self.fit.setEnabled(True)
        self._schedule()

    @Slot(str, bool)
    def _on_legend_toggled(self, key: str, on: bool) -> None:
        self._series[key].visible = on
        self._schedule()

    @Slot(object)
    def _on_mouse_moved(self, position: QPointF) -> None:
        if not self._plot.sceneBoundingRect().contains(position):
            self._leave()
            return
        x = float(self._view.mapSceneToView(position).x())
        found = []
        at = None
        for series in self._series.values():
            point = series.history.nearest(x) if series.visible else None
            if point is not None and np.isfinite(point[1]):
                at = point[0] if at is None or abs(point[0] - x) < abs(at - x) else at
                found.append(f"{series.name} {point[1]:.4g}")
        if at is None:
            return
        self._cross.setPos(at)
        self._cross.show()
        head = f"{self._x_label} {at:g}"
        text = " · ".join([head, *found[:6]])
        self._readout.setText(text if self.width() > 520 else " · ".join([head, *found[:2]]))

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Forget the hover values when the pointer leaves."""
        if event.type() == QEvent.Type.Leave:
            self._leave()
        return super().eventFilter(watched, event)

    def _leave(self) -> None:
        self._cross.hide()
        self._readout.setText("")

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw what arrived while out of sight."""
        super().paintEvent(event)
        if self._dirty and not self._timer.isActive():
            self._timer.start()

    def showEvent(self, event: QShowEvent) -> None:
        """Draw what arrived while hidden."""
        super().showEvent(event)
        self._schedule()

    # -- colours --------------------------------------------------------------------------------
    @Slot()
    def _on_theme_changed(self) -> None:
        self._restyle()

    def _ink(self, series: _Series) -> QColor:
        theme = Theme.instance()
        if isinstance(series.color, str):
            return theme.color(series.color)
        return theme.series_color(series.color)

    def _style_series(self, series: _Series) -> None:
        ink = self._ink(series)
        pen = QPen(ink)
        pen.setCosmetic(True)
        pen.setWidthF(1.0 if series.thin else WIDTH)
        if series.dashed:
            pen.setStyle(Qt.PenStyle.DashLine)
        if series.curve is not None:
            series.curve.setPen(pen)
        if series.dots is not None:
            series.dots.setBrush(ink)
            series.dots.setPen(None)
        if series.band_fill is not None:
            soft = QColor(ink)
            soft.setAlpha(40)
            series.band_fill.setBrush(soft)

    def _restyle(self) -> None:
        theme = Theme.instance()
        self._widget.setBackground(theme.color("surface"))
        muted = theme.color("text_muted")
        for side in ("left", "bottom"):
            axis = self._plot.getAxis(side)
            axis.setPen(theme.color("border_strong"))
            axis.setTextPen(muted)
            axis.setTickFont(theme.font(8.5))
            axis.enableAutoSIPrefix(False)
            axis.setStyle(maxTickLevel=0)
            axis.label.setFont(theme.font(8.5))
        self._plot.getAxis("left").setWidth(58)
        style = {"color": muted.name(), "font-size": "8.5pt"}
        self._plot.setLabel("bottom", self._x_label, **style)
        label = f"{self._y_label} ({self._unit})" if self._unit else self._y_label
        self._plot.setLabel("left", label, **style)
        self._plot.showGrid(x=False, y=True, alpha=0.25)
        self._cross.setPen(theme.color("border_strong"))
        for key, series in self._series.items():
            self._style_series(series)
            self.legend.set_color(key, self._ink(series))
        self._marks.restyle()
