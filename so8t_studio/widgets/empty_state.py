"""What a page shows when there is nothing to show yet: why, and the one way on."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal, Slot
from PySide6.QtWidgets import QLabel, QPushButton, QVBoxLayout, QWidget

from so8t_studio.theme import Theme

TEXT_WIDTH = 440


class EmptyState(QWidget):
    """Icon, title, a sentence and at most one button."""

    action_triggered = Signal()

    def __init__(
        self,
        icon: str,
        title: str,
        text: str,
        button: str = "",
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self.setObjectName("emptyState")
        self._icon_name = icon
        column = QVBoxLayout(self)
        column.setContentsMargins(32, 32, 32, 32)
        column.setSpacing(8)
        column.addStretch(2)
        self._icon = QLabel()
        self._icon.setAlignment(Qt.AlignmentFlag.AlignCenter)
        column.addWidget(self._icon)
        self._title = QLabel(title)
        self._title.setProperty("role", "h2")
        self._title.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self._title.setWordWrap(True)
        column.addWidget(self._title)
        self._text = QLabel(text)
        self._text.setProperty("role", "muted")
        self._text.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self._text.setWordWrap(True)
        self._text.setFixedWidth(TEXT_WIDTH)
        column.addWidget(self._text, 0, Qt.AlignmentFlag.AlignHCenter)
        column.addSpacing(8)
        self.button = QPushButton(button)
        self.button.setObjectName("emptyStateAction")
        self.button.setProperty("kind", "primary")
        self.button.clicked.connect(self.action_triggered)
        column.addWidget(self.button, 0, Qt.AlignmentFlag.AlignHCenter)
        column.addStretch(3)
        Theme.instance().changed.connect(self._on_theme_changed)
        self.set_content(title, text, button)
        self._restyle()

    def set_content(self, title: str, text: str, button: str = "") -> None:
        """Replace the words; an empty ``button`` hides it."""
        self._title.setText(title)
        self._text.setText(text)
        # A wrapped label in an aligned cell is given one line's height unless it insists.
        self._text.ensurePolished()
        self._text.setFixedHeight(max(24, self._text.heightForWidth(TEXT_WIDTH) + 4))
        self.button.setText(button)
        self.button.setAccessibleName(button or title)
        self.button.setVisible(bool(button))
        self.setAccessibleName(f"{title}. {text}")

    @Slot()
    def _on_theme_changed(self) -> None:
        self._restyle()

    def _restyle(self) -> None:
        icon = Theme.instance().icon(self._icon_name, "border_strong")
        self._icon.setPixmap(icon.pixmap(48, 48))
