"""Vertical lines with short texts over a chart: passes, checkpoints, the end."""

from __future__ import annotations

from dataclasses import dataclass

import pyqtgraph as pg
from PySide6.QtCore import Qt
from PySide6.QtGui import QPen

from so8t_studio.theme import Theme

GAP, LETTER = 8, 6  # pixels between the texts of marks, and of a letter
RIGHT_OF_LINE, LEFT_OF_LINE = (0.0, 0.5), (1.0, 0.5)
QUIET_MARKS = 40  # more lines than that would hide the curves


@dataclass(frozen=True)
class Mark:
    """A line; a ``quiet`` one, such as the begin of a pass, is fainter with its text below."""

    x: float
    text: str
    quiet: bool
    line: pg.InfiniteLine


class PlotMarks:
    """The marks of one plot."""

    def __init__(self, plot: pg.PlotItem) -> None:
        self._plot = plot
        self.marks: list[Mark] = []

    def add(self, x: float, text: str, *, quiet: bool) -> None:
        """Draw a line; one that is there is not drawn twice, and quiet ones stay few."""
        if any(mark.x == x and mark.text == text for mark in self.marks):
            return
        if quiet and sum(mark.quiet for mark in self.marks) >= QUIET_MARKS:
            return
        options = {"position": 0.06 if quiet else 0.92}
        line = pg.InfiniteLine(x, angle=90, movable=False, label=text, labelOpts=options)
        line.label.setFont(Theme.instance().font(7.5))
        line.setToolTip(text)
        line.setZValue(-20 if quiet else -15)
        self._plot.addItem(line, ignoreBounds=True)
        self.marks.append(Mark(x, text, quiet, line))
        self.restyle()

    def clear(self) -> None:
        """Take all lines away."""
        for mark in self.marks:
            self._plot.removeItem(mark.line)
        self.marks.clear()

    def place(self) -> None:
        """Put texts right of their lines, left of the last ones, and hide what would overlap."""
        view = self._plot.getViewBox()
        (first, last), _ = view.viewRange()
        width = view.width()
        scale = width / max(last - first, 1e-12)
        for quiet in (False, True):
            end = float("-inf")
            for mark in sorted(self.marks, key=lambda mark: mark.x):
                if mark.quiet != quiet:
                    continue
                at, length = (mark.x - first) * scale, GAP + LETTER * len(mark.text)
                fits = at + length <= width
                start = at if fits else at - length
                anchors = [RIGHT_OF_LINE if fits else LEFT_OF_LINE] * 2
                if mark.line.label.anchors != anchors:
                    mark.line.label.anchors = anchors
                    mark.line.label.updatePosition()
                shown = start >= end
                mark.line.label.setVisible(bool(shown))
                if shown:
                    end = start + length

    def restyle(self) -> None:
        """Take over the colours of the theme."""
        theme = Theme.instance()
        pen = QPen(theme.color("border_strong"))
        pen.setCosmetic(True)
        pen.setStyle(Qt.PenStyle.DotLine)
        faint = QPen(theme.color("border"))
        faint.setCosmetic(True)
        for mark in self.marks:
            mark.line.setPen(faint if mark.quiet else pen)
            mark.line.label.setColor(theme.color("text_muted"))
