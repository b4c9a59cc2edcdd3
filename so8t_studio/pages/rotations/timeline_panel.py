"""The whole model: angle of every gate and block at one step, and means over all steps."""

from __future__ import annotations

from PySide6.QtCore import Slot
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import (
    QComboBox,
    QFrame,
    QHBoxLayout,
    QLabel,
    QSizePolicy,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)

from so8t_engine.rotations.analysis import Summary
from so8t_studio.pages.rotations.loading import HistoryPoint
from so8t_studio.pages.rotations.overview import AngleOverview
from so8t_studio.widgets.live_plot import LivePlot
from so8t_studio.widgets.side_by_side import GAP, SideBySide

STACK_BELOW = 700
PART_HEIGHT = 256


class TimelinePanel(QWidget):
    """Overview on the left, curves over the steps on the right; stacked where it is narrow."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._summary: Summary | None = None
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Ignored)
        card = QFrame()
        card.setProperty("role", "card")
        card.setObjectName("overviewCard")
        column = QVBoxLayout(card)
        column.setContentsMargins(16, 12, 8, 4)
        column.setSpacing(6)
        head = QHBoxLayout()
        heading = QLabel(self.tr("Largest angle by gate and block"))
        heading.setProperty("role", "h3")
        head.addWidget(heading, 1)
        self.side_choice = QComboBox()
        self.side_choice.setObjectName("overviewSide")
        self.side_choice.setAccessibleName(self.tr("Rotation in the overview"))
        self.side_choice.setToolTip(self.tr("Which rotation the overview shows."))
        self.side_choice.addItem("R_safe", "safe")
        self.side_choice.addItem("R_cmd", "cmd")
        self.side_choice.currentIndexChanged.connect(self._on_side_changed)
        head.addWidget(self.side_choice)
        column.addLayout(head)
        self.overview = AngleOverview()
        column.addWidget(self.overview, 1)
        card.setMinimumHeight(PART_HEIGHT)
        self.tabs = QTabWidget()
        self.tabs.setObjectName("historyTabs")
        self.tabs.setDocumentMode(True)
        self.angles = LivePlot(self.tr("Mean angle"), self.tr("step"), self.tr("angle"), "°")
        self.angles.add_series("safe", "R_safe")
        self.angles.add_series("cmd", "R_cmd", dashed=True)
        self.tabs.addTab(self.angles, self.tr("Angles"))
        self.health = LivePlot(
            self.tr("Distance from SO(8)"), self.tr("step"), self.tr("largest error")
        )
        self.health.add_series("orthogonality", "max |RᵀR − I|")
        self.health.add_series("determinant", "|det R − 1|", dashed=True)
        self.health.set_log(True)
        self.tabs.addTab(self.health, self.tr("Health"))
        self.tabs.setMinimumHeight(PART_HEIGHT)
        self._parts = SideBySide(card, self.tabs, shares=(3, 2), stack_below=STACK_BELOW)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.addWidget(self._parts)

    @property
    def side(self) -> str:
        """``safe`` or ``cmd``: which rotation the overview shows."""
        return str(self.side_choice.currentData())

    def set_summary(self, summary: Summary) -> None:
        """Show the angles of one step."""
        self._summary = summary
        self._show_summary()

    def set_history(self, points: tuple[HistoryPoint, ...]) -> None:
        """Replace the curves."""
        for plot in (self.angles, self.health):
            plot.clear()
        steps = [float(point.step) for point in points]
        if not steps:
            return
        self.angles.extend("safe", steps, [point.angle_safe for point in points])
        self.angles.extend("cmd", steps, [point.angle_cmd for point in points])
        # Exactly zero (step 0) has no place on a logarithmic axis and is a gap there.
        self.health.extend("orthogonality", steps, [point.orthogonality for point in points])
        self.health.extend("determinant", steps, [point.determinant for point in points])

    def hasHeightForWidth(self) -> bool:
        """It takes what is left; the wrapping legends inside must not claim more."""
        return False

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Ask for the height that the arrangement needs."""
        super().resizeEvent(event)
        stacked = event.size().width() < STACK_BELOW
        self.setMinimumHeight(2 * PART_HEIGHT + GAP if stacked else PART_HEIGHT)

    @Slot(int)
    def _on_side_changed(self, _index: int) -> None:
        self._show_summary()

    def _show_summary(self) -> None:
        if self._summary is not None:
            angles = self._summary.safe if self.side == "safe" else self._summary.cmd
            self.overview.set_angles(self._summary.gates, angles)
