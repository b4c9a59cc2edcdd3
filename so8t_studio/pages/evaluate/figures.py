"""The figures of an evaluation: three headline tiles, the rest beside them, the matrix."""

from __future__ import annotations

from PySide6.QtWidgets import QFrame, QGridLayout, QHBoxLayout, QLabel, QVBoxLayout, QWidget

from so8t_engine.evaluation.metrics import HEADLINE_METRICS, OTHER_METRICS, Metrics, Ratio
from so8t_studio.names import metric_definition, metric_title
from so8t_studio.pages.evaluate.confusion_view import ConfusionView
from so8t_studio.widgets.stat_tile import StatTile


def ratio_text(ratio: Ratio) -> str:
    """Return the value, or n/a for an empty denominator."""
    return "n/a" if ratio.value is None else f"{ratio.value:.3f}"


class HeadlineTiles(QWidget):
    """Refuse Recall, Escalate Precision and Allow Precision with interval and counts."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(12)
        self.tiles: dict[str, StatTile] = {}
        for name in HEADLINE_METRICS:
            tile = StatTile(metric_title(name), bar=True)
            tile.setObjectName(f"tile_{name}")
            tile.setToolTip(metric_definition(name))
            row.addWidget(tile, 1)
            self.tiles[name] = tile

    def set_metrics(self, metrics: Metrics) -> None:
        """Show the three figures."""
        for name, tile in self.tiles.items():
            ratio = metrics.ratio(name)
            counts = self.tr("{numerator} of {denominator}").format(
                numerator=ratio.numerator, denominator=ratio.denominator
            )
            if ratio.value is None:
                detail = self.tr("Nothing to measure it on (0 of 0)")
            else:
                detail = self.tr("{counts}   ·   95 %: {low} to {high}").format(
                    counts=counts, low=f"{ratio.low:.2f}", high=f"{ratio.high:.2f}"
                )
            tile.set_value(ratio_text(ratio), detail, ratio.value)


class OtherFigures(QFrame):
    """The confusion matrix with the other figures below it."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("role", "card")
        self.setObjectName("otherFigures")
        column = QVBoxLayout(self)
        column.setContentsMargins(16, 12, 16, 12)
        column.setSpacing(10)
        heading = QLabel(self.tr("What was decided"))
        heading.setProperty("role", "h3")
        column.addWidget(heading)
        row = QHBoxLayout()
        row.setSpacing(24)
        self.confusion = ConfusionView()
        row.addWidget(self.confusion, 1)
        grid = QGridLayout()
        grid.setHorizontalSpacing(14)
        grid.setVerticalSpacing(6)
        self.values: dict[str, QLabel] = {}
        for index, name in enumerate(OTHER_METRICS):
            caption = QLabel(metric_title(name))
            caption.setProperty("role", "muted")
            value = QLabel("–")
            value.setObjectName(f"value_{name}")
            detail = QLabel("")
            detail.setProperty("role", "caption")
            detail.setObjectName(f"detail_{name}")
            for label in (caption, value, detail):
                label.setToolTip(metric_definition(name))
            grid.addWidget(caption, 2 * index, 0)
            grid.addWidget(value, 2 * index, 1)
            grid.addWidget(detail, 2 * index + 1, 0, 1, 2)
            self.values[name] = value
            self.values[f"{name}_detail"] = detail
        side = QVBoxLayout()
        side.addLayout(grid)
        side.addStretch(1)
        row.addLayout(side)
        column.addLayout(row, 1)

    def set_metrics(self, metrics: Metrics) -> None:
        """Show matrix and figures."""
        self.confusion.set_counts(metrics.confusion)
        for name in OTHER_METRICS:
            ratio = metrics.ratio(name)
            self.values[name].setText(ratio_text(ratio))
            parts = []
            if ratio.numerator is not None:
                parts.append(
                    self.tr("{numerator} of {denominator}").format(
                        numerator=ratio.numerator, denominator=ratio.denominator
                    )
                )
            if ratio.low is not None and ratio.high is not None:
                parts.append(
                    self.tr("{low} to {high}").format(
                        low=f"{ratio.low:.2f}", high=f"{ratio.high:.2f}"
                    )
                )
            self.values[f"{name}_detail"].setText("   ·   ".join(parts))
