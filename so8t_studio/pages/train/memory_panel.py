"""Memory by part against the card, as a bar and in words, and the dry run that measures it."""

from __future__ import annotations

import html
from typing import Any

from PySide6.QtCore import QRectF, QSize, Qt, Signal, Slot
from PySide6.QtGui import QColor, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import (
    QFrame,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from so8t_studio.pages.train.memory_plan import MemoryPlan
from so8t_studio.theme import Theme
from so8t_studio.widgets.flow_layout import FlowLayout

GIB, MIB = 1 << 30, 1 << 20
TAKEN = "taken"


def human(size: int) -> str:
    """Return a size in MiB or GiB."""
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / MIB:.0f} MiB"


class MemoryBar(QWidget):
    """Parts side by side on the scale of the card; a line marks where the card ends."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("memoryBar")
        self._parts: list[tuple[str, int, QColor]] = []
        self._total: int | None = None
        self._peak: int | None = None
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def sizeHint(self) -> QSize:
        """A bar with a little room for the marks."""
        return QSize(320, 26)

    def show_parts(
        self, parts: list[tuple[str, int, QColor]], total: int | None, peak: int | None = None
    ) -> None:
        """Show parts in bytes; ``peak`` is where a dry run really came to."""
        self._parts, self._total, self._peak = parts, total, peak
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw parts, the end of the card and the measured peak."""
        theme = Theme.instance()
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        needed = sum(size for _name, size, _color in self._parts)
        scale = max(needed, self._total or 0, self._peak or 0, 1) * 1.02
        width, top, height = float(self.width()), 3.0, float(self.height() - 6)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(theme.color("sunken"))
        whole = width * (self._total or scale) / scale
        painter.drawRoundedRect(QRectF(0, top, whole, height), 4, 4)
        at = 0.0
        for name, size, color in self._parts:
            span = width * size / scale
            painter.setBrush(color)
            painter.drawRect(QRectF(at, top, max(1.0, span - 1), height))
            if name == TAKEN:  # hatched: not ours
                painter.setBrush(Qt.BrushStyle.BDiagPattern)
                painter.drawRect(QRectF(at, top, max(1.0, span - 1), height))
            at += span
        if self._total is not None:
            self._line(painter, whole, theme.color("text"), Qt.PenStyle.SolidLine)
        if self._peak is not None:
            taken = sum(size for name, size, _ in self._parts if name == TAKEN)
            x = width * (taken + self._peak) / scale
            self._line(painter, x, theme.color("text"), Qt.PenStyle.DashLine)

    def _line(self, painter: QPainter, x: float, color: QColor, style: Qt.PenStyle) -> None:
        pen = QPen(color)
        pen.setWidthF(2.0)
        pen.setStyle(style)
        painter.setPen(pen)
        painter.drawLine(int(x) - 1, 0, int(x) - 1, self.height())


class MemoryPanel(QFrame):
    """``dry_run_requested`` and ``dry_run_cancelled`` from its one button."""

    dry_run_requested = Signal()
    dry_run_cancelled = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("role", "card")
        self.setObjectName("memoryPanel")
        self._plan = MemoryPlan(problem=self.tr("Estimating…"))
        self._measured: dict[str, Any] = {}
        self._running = False
        column = QVBoxLayout(self)
        column.setContentsMargins(16, 12, 16, 12)
        column.setSpacing(6)
        head = QHBoxLayout()
        title = QLabel(self.tr("Memory"))
        title.setProperty("role", "h3")
        head.addWidget(title)
        self.verdict = QLabel()
        self.verdict.setObjectName("memoryVerdict")
        self.verdict.setWordWrap(True)
        head.addWidget(self.verdict, 1)
        self.button = QPushButton()
        self.button.setObjectName("dryRun")
        self.button.setToolTip(
            self.tr(
                "Loads the base model in a process of its own, takes one step with the longest "
                "samples and reports its peak. Nothing of it is kept."
            )
        )
        self.button.clicked.connect(self._on_button_clicked)
        head.addWidget(self.button)
        column.addLayout(head)
        self.bar = MemoryBar()
        column.addWidget(self.bar)
        self._legend = QWidget()
        self._flow = FlowLayout(self._legend, gap=12)
        column.addWidget(self._legend)
        self.host = QLabel()
        self.host.setObjectName("memoryHost")
        self.host.setProperty("role", "caption")
        self.host.setWordWrap(True)
        column.addWidget(self.host)
        Theme.instance().changed.connect(self._on_theme_changed)
        self.refresh()

    def names(self) -> dict[str, str]:
        """Return what the parts are called."""
        return {
            "weights": self.tr("weights"),
            "activations": self.tr("activations"),
            "optimizer": self.tr("optimizer"),
            "head and logits": self.tr("logits"),
            "prefix cache": self.tr("cache of the lower layers"),
            "lower layers": self.tr("lower layers"),
            "libraries": self.tr("libraries"),
            TAKEN: self.tr("held by others"),
        }

    def show_plan(self, plan: MemoryPlan) -> None:
        """Show an estimate; what was measured for other settings is forgotten."""
        if plan.parts != self._plan.parts or plan.device != self._plan.device:
            self._measured = {}
        self._plan = plan
        self.refresh()

    def show_measured(self, found: dict[str, Any]) -> None:
        """Show what a dry run measured for the settings that are shown."""
        self._measured = found
        self.refresh()

    def set_running(self, running: bool, sentence: str = "") -> None:
        """Say that a dry run goes on, and what it does just now."""
        self._running = running
        self.refresh()
        if running:
            self.verdict.setText(sentence or self.tr("Dry run: starting the process."))

    def refresh(self) -> None:
        """Draw bar, legend and sentence."""
        plan, theme, names = self._plan, Theme.instance(), self.names()
        self.button.setText(self.tr("Cancel dry run") if self._running else self.tr("Dry run"))
        self.button.setAccessibleName(self.button.text())
        shown = not plan.problem
        self.bar.setVisible(shown)
        self._legend.setVisible(shown)
        parts: list[tuple[str, int, QColor]] = []
        if plan.taken:
            parts.append((TAKEN, plan.taken, theme.color("border_strong")))
        for number, (name, size) in enumerate(plan.parts.items()):
            parts.append((name, size, theme.series_color(number)))
        peak = self._measured.get("peak")
        self.bar.show_parts(parts, plan.total, None if peak is None else int(peak))
        words = [f"{names.get(name, name)} {human(size)}" for name, size, _color in parts]
        self.bar.setAccessibleName(
            self.tr("Memory by part: {parts}").format(parts=", ".join(words))
        )
        while self._flow.count():
            item = self._flow.takeAt(0)
            if item is not None and item.widget() is not None:
                item.widget().deleteLater()
        for (_name, _size, color), text in zip(parts, words, strict=True):
            label = QLabel(f'<span style="color: {color.name()}">■</span> {html.escape(text)}')
            label.setProperty("role", "caption")
            self._flow.addWidget(label)
        self._show_words()

    def _show_words(self) -> None:
        plan = self._plan
        role, text = "muted", plan.problem
        if not plan.problem:
            needed = human(plan.needed)
            text = self.tr("About {needed} on {device}").format(needed=needed, device=plan.device)
            if plan.free is not None and plan.total is not None:
                text += self.tr(", where {free} of {total} are free").format(
                    free=human(max(0, plan.free)), total=human(plan.total)
                )
            text += self.tr("; longest row {count} tokens.").format(count=plan.longest)
            if plan.fits is False:
                role = "error"
                text += " " + self.tr("That does not fit.")
            peak = self._measured.get("peak")
            if peak is not None:
                text += " " + self.tr("Measured: {peak} at the peak of one step.").format(
                    peak=human(int(peak))
                )
        if not self._running:
            self.verdict.setText(text)
        if self.verdict.property("role") != role:
            self.verdict.setProperty("role", role)
            self.verdict.style().unpolish(self.verdict)
            self.verdict.style().polish(self.verdict)
        names = self.names()
        self.host.setVisible(bool(plan.host))
        self.host.setText(
            self.tr("In CPU memory besides: {parts}.").format(
                parts=", ".join(
                    f"{names.get(name, name)} {human(size)}" for name, size in plan.host.items()
                )
            )
        )

    @Slot()
    def _on_button_clicked(self) -> None:
        if self._running:
            self.dry_run_cancelled.emit()
        else:
            self.dry_run_requested.emit()

    @Slot()
    def _on_theme_changed(self) -> None:
        self.refresh()
