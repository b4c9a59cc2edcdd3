"""Whether a block stays in SO(8), in words and in numbers."""

from __future__ import annotations

import math

from PySide6.QtCore import Slot
from PySide6.QtWidgets import QFrame, QGridLayout, QHBoxLayout, QLabel, QVBoxLayout, QWidget

from so8t_engine.rotations.analysis import HEALTH_LIMIT, BlockView
from so8t_studio.theme import Theme


class HealthPanel(QFrame):
    """Verdict, errors, principal angles, and a note where R_cmd was not trained."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("role", "card")
        self.setObjectName("healthPanel")
        self._view: BlockView | None = None
        column = QVBoxLayout(self)
        column.setContentsMargins(16, 10, 16, 10)
        column.setSpacing(6)
        head = QHBoxLayout()
        head.setSpacing(16)
        self.verdict = QLabel()
        self.verdict.setObjectName("healthVerdict")
        head.addWidget(self.verdict)
        self.numbers = QLabel()
        self.numbers.setObjectName("healthNumbers")
        self.numbers.setProperty("role", "muted")
        self.numbers.setWordWrap(True)
        head.addWidget(self.numbers, 1)
        column.addLayout(head)
        grid = QGridLayout()
        grid.setHorizontalSpacing(16)
        grid.setVerticalSpacing(2)
        self.angles: dict[str, QLabel] = {}
        names = (
            ("safe", self.tr("Angles of R_safe")),
            ("cmd", self.tr("Angles of R_cmd")),
            ("product", self.tr("Angles of R_cmd·R_safe")),
        )
        for index, (key, name) in enumerate(names):
            caption = QLabel(name)
            caption.setProperty("role", "caption")
            value = QLabel()
            value.setObjectName(f"angles_{key}")
            grid.addWidget(caption, 0, index)
            grid.addWidget(value, 1, index)
            grid.setColumnStretch(index, 1)
            self.angles[key] = value
        column.addLayout(grid)
        self.note = QLabel()
        self.note.setObjectName("cmdNote")
        self.note.setProperty("role", "muted")
        self.note.setWordWrap(True)
        self.note.hide()
        column.addWidget(self.note)
        Theme.instance().changed.connect(self._restyle)

    def set_view(self, view: BlockView, note: str = "") -> None:
        """Show the health of a block; ``note`` explains an identity."""
        self._view = view
        if view.in_so8:
            self.verdict.setText(self.tr("✓ Stays in SO(8)"))
            self.verdict.setToolTip(
                self.tr("Lengths and angles of the eight channels are kept; nothing is lost.")
            )
        else:
            self.verdict.setText(self.tr("✕ Has left SO(8)"))
            self.verdict.setToolTip(
                self.tr("The error is above {limit}: do not rely on this run.").format(
                    limit=f"{HEALTH_LIMIT:.0e}"
                )
            )
        self.numbers.setText(
            self.tr(
                "max |RᵀR − I| {orthogonality}   ·   |det R − 1| {determinant}   ·   "
                "‖commutator‖ {commutator}   ·   ‖R_cmd·R_safe − I‖ {distance}"
            ).format(
                orthogonality=f"{view.orthogonality:.1e}",
                determinant=f"{view.determinant:.1e}",
                commutator=f"{view.commutator_norm:.3g}",
                distance=f"{view.distance:.3g}",
            )
        )
        for key, angles in (
            ("safe", view.angles_safe),
            ("cmd", view.angles_cmd),
            ("product", view.angles_product),
        ):
            self.angles[key].setText("   ".join(f"{math.degrees(a):.2f}°" for a in angles))
        self.note.setText(note)
        self.note.setVisible(bool(note))
        self._restyle()

    @Slot()
    def _restyle(self) -> None:
        if self._view is None:
            return
        tokens = Theme.instance().tokens
        good = self._view.in_so8
        ink, fill = (
            (tokens.success, tokens.success_soft) if good else (tokens.error, tokens.error_soft)
        )
        self.verdict.setStyleSheet(
            f"color: {ink}; background: {fill}; border-radius: 6px; padding: 3px 10px;"
            "font-weight: 700;"
        )
