"""A label as a small pill: sign, word and colour, so that colour is never alone."""

from __future__ import annotations

from PySide6.QtCore import QCoreApplication, Qt, Slot
from PySide6.QtWidgets import QLabel, QSizePolicy, QWidget

from so8t_engine.labels import Label
from so8t_studio.theme import Theme

SIGNS: dict[Label, str] = {Label.ALLOW: "✓", Label.ESCALATE: "▲", Label.REFUSE: "✕"}
TOKENS: dict[Label, str] = {
    Label.ALLOW: "allow",
    Label.ESCALATE: "escalate",
    Label.REFUSE: "refuse",
}


class LabelChip(QLabel):
    """Shows one label, or a dash."""

    def __init__(self, label: Label | str | None = None, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._label: Label | None = None
        self.setObjectName("labelChip")
        self.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.setSizePolicy(QSizePolicy.Policy.Maximum, QSizePolicy.Policy.Fixed)
        Theme.instance().changed.connect(self._on_theme_changed)
        self.set_label(label)

    def set_label(self, label: Label | str | None) -> None:
        """Show ``label``; None or an empty text shows a dash."""
        self._label = Label(label) if label else None
        if self._label is None:
            self.setText("–")
            self.setAccessibleName(QCoreApplication.translate("LabelChip", "No decision"))
        else:
            self.setText(f"{SIGNS[self._label]}  {self._label.value}")
            self.setAccessibleName(self._label.value)
        self._restyle()

    @property
    def label(self) -> Label | None:
        """The label that is shown."""
        return self._label

    @Slot()
    def _on_theme_changed(self) -> None:
        self._restyle()

    def _restyle(self) -> None:
        tokens = Theme.instance().tokens
        name = TOKENS.get(self._label) if self._label is not None else None
        ink = getattr(tokens, name) if name else tokens.text_muted
        fill = getattr(tokens, f"{name}_soft") if name else tokens.sunken
        self.setStyleSheet(
            f"color: {ink}; background: {fill}; border-radius: 10px; padding: 2px 10px;"
            "font-size: 9pt; font-weight: 700;"
        )
