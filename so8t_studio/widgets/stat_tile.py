"""One number that matters, with its name, a detail and optionally how full it is."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QFrame, QHBoxLayout, QLabel, QProgressBar, QVBoxLayout, QWidget


class StatTile(QFrame):
    """A card with a caption, a large value and a muted detail."""

    def __init__(self, caption: str, parent: QWidget | None = None, *, bar: bool = False) -> None:
        super().__init__(parent)
        self.setProperty("role", "card")
        self.setObjectName("statTile")
        self._caption_text = caption
        column = QVBoxLayout(self)
        column.setContentsMargins(16, 10, 16, 10)
        column.setSpacing(2)
        self._caption = QLabel(caption)
        self._caption.setProperty("role", "caption")
        column.addWidget(self._caption)
        line = QHBoxLayout()
        line.setSpacing(8)
        self._value = QLabel("–")
        self._value.setProperty("role", "value")
        self._value.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        line.addWidget(self._value)
        line.addStretch(1)
        column.addLayout(line)
        self._detail = QLabel("")
        self._detail.setProperty("role", "caption")
        self._detail.setWordWrap(True)
        column.addWidget(self._detail)
        self._bar: QProgressBar | None = None
        if bar:
            self._bar = QProgressBar()
            self._bar.setRange(0, 1000)
            self._bar.setTextVisible(False)
            self._bar.setFixedHeight(6)
            self._bar.setAccessibleName(caption)
            column.addWidget(self._bar)
        column.addStretch(1)
        self.set_value("–")

    def set_caption(self, caption: str) -> None:
        """Change the name of the number."""
        self._caption_text = caption
        self._caption.setText(caption)

    def set_value(self, value: str, detail: str = "", fraction: float | None = None) -> None:
        """Show ``value`` with ``detail`` below; ``fraction`` (0 to 1) fills the bar."""
        self._value.setText(value)
        self._detail.setText(detail)
        self._detail.setVisible(bool(detail))
        if self._bar is not None:
            self._bar.setVisible(fraction is not None)
            if fraction is not None:
                self._bar.setValue(round(1000 * min(1.0, max(0.0, fraction))))
        self.setAccessibleName(f"{self._caption_text}: {value}. {detail}")

    def value(self) -> str:
        """Return the text that is shown."""
        return self._value.text()

    def detail(self) -> str:
        """Return the detail that is shown."""
        return self._detail.text()
