"""Whether a block stays in SO(8), in words and in numbers."""

from __future__ import annotations

import math

from PySide6.QtCore import Qt, Slot
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QFrame, QGridLayout, QLabel, QVBoxLayout, QWidget

from so8t_engine.rotations.analysis import HEALTH_LIMIT, BlockView
from so8t_studio.theme import Theme

WIDE = 520


def _degrees(angles: tuple[float, ...]) -> str:
    return " ".join(f"{math.degrees(angle):.1f}°" for angle in angles)


class HealthPanel(QFrame):
    """Verdict, errors, principal angles, and a note where R_cmd was not trained."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("role", "card")
        self.setObjectName("healthPanel")
        self._view: BlockView | None = None
        column = QVBoxLayout(self)
        column.setContentsMargins(16, 12, 16, 10)
        column.setSpacing(8)
        self.verdict = QLabel()
        self.verdict.setObjectName("healthVerdict")
        column.addWidget(self.verdict, 0, Qt.AlignmentFlag.AlignLeft)
        self._grid = QGridLayout()
        self._grid.setHorizontalSpacing(12)
        self._grid.setVerticalSpacing(3)
        self._captions: dict[str, QLabel] = {}
        self.values: dict[str, QLabel] = {}
        for key, name, tip in self._rows():
            caption = QLabel(name)
            caption.setProperty("role", "caption")
            value = QLabel()
            value.setObjectName(f"health_{key}")
            value.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
            for label in (caption, value):
                label.setToolTip(tip)
            self._captions[key], self.values[key] = caption, value
        column.addLayout(self._grid)
        self.note = QLabel()
        self.note.setObjectName("cmdNote")
        self.note.setProperty("role", "caption")
        self.note.setWordWrap(True)
        self.note.hide()
        column.addWidget(self.note)
        column.addStretch(1)
        self._wide: bool | None = None
        self._arrange(wide=False)
        Theme.instance().changed.connect(self._restyle)

    def _rows(self) -> tuple[tuple[str, str, str], ...]:
        angles = self.tr("The four planes in which the block turns, largest angle first.")
        return (
            (
                "orthogonality",
                "max |RᵀR − I|",
                self.tr("How far lengths and right angles are from kept; audited in float64."),
            ),
            (
                "determinant",
                "|det R − 1|",
                self.tr("How far volume is from being kept; a mirror would read 2."),
            ),
            (
                "commutator",
                self.tr("Commutator norm"),
                self.tr("How much it matters that R_safe acts before R_cmd; 0: not at all."),
            ),
            (
                "distance",
                self.tr("Distance from I"),
                self.tr("Frobenius norm of R_cmd·R_safe − I; 0 is the untouched base model."),
            ),
            ("angles_safe", self.tr("R_safe turns"), angles),
            ("angles_cmd", self.tr("R_cmd turns"), angles),
            ("angles_product", self.tr("Both turn"), angles),
        )

    def _arrange(self, *, wide: bool) -> None:
        """Put errors and angles side by side where there is room, else below each other."""
        if wide == self._wide:
            return
        self._wide = wide
        for index, key in enumerate(self.values):
            row, side = (index, 0) if not wide or index < 4 else (index - 4, 2)
            self._grid.addWidget(self._captions[key], row, side)
            self._grid.addWidget(self.values[key], row, side + 1)
        self._grid.setColumnStretch(1, 1)
        self._grid.setColumnStretch(3, 2 if wide else 0)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Follow the width."""
        super().resizeEvent(event)
        self._arrange(wide=event.size().width() > WIDE)

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
        texts = {
            "orthogonality": f"{view.orthogonality:.1e}",
            "determinant": f"{view.determinant:.1e}",
            "commutator": f"{view.commutator_norm:.3g}",
            "distance": f"{view.distance:.3g}",
            "angles_safe": _degrees(view.angles_safe),
            "angles_cmd": _degrees(view.angles_cmd),
            "angles_product": _degrees(view.angles_product),
        }
        for key, text in texts.items():
            self.values[key].setText(text)
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
