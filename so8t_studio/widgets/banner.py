"""A notice inside a page: what happened, why, what to do next."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal, Slot
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QFrame, QHBoxLayout, QLabel, QPushButton, QToolButton, QWidget

from so8t_studio.theme import Theme

KINDS = ("info", "success", "warning", "error")


class Banner(QFrame):
    """One sentence with an optional action and details to copy. Hidden until shown."""

    action_triggered = Signal()
    dismissed = Signal()

    def __init__(self, parent: QWidget | None = None, *, dismissible: bool = False) -> None:
        super().__init__(parent)
        self.setObjectName("banner")
        self._kind = "info"
        self._details = ""
        row = QHBoxLayout(self)
        row.setContentsMargins(16, 10, 12, 10)
        row.setSpacing(12)
        self._icon = QLabel()
        self._icon.setAlignment(Qt.AlignmentFlag.AlignTop)
        row.addWidget(self._icon, 0, Qt.AlignmentFlag.AlignTop)
        self._text = QLabel()
        self._text.setObjectName("bannerText")
        self._text.setWordWrap(True)
        self._text.setTextFormat(Qt.TextFormat.PlainText)
        self._text.setTextInteractionFlags(
            Qt.TextInteractionFlag.TextSelectableByMouse
            | Qt.TextInteractionFlag.TextSelectableByKeyboard
        )
        row.addWidget(self._text, 1)
        self._action = QPushButton()
        self._action.setObjectName("bannerAction")
        self._action.setAccessibleName(self.tr("Act on this notice"))
        self._action.clicked.connect(self.action_triggered)
        row.addWidget(self._action)
        self._copy = QPushButton(self.tr("Copy details"))
        self._copy.setObjectName("bannerCopyDetails")
        self._copy.setAccessibleName(self.tr("Copy details"))
        self._copy.setToolTip(self.tr("Copy the technical details for a bug report."))
        self._copy.clicked.connect(self._on_copy_clicked)
        row.addWidget(self._copy)
        self._close = QToolButton()
        self._close.setObjectName("bannerDismiss")
        self._close.setText("✕")
        self._close.setAccessibleName(self.tr("Dismiss this notice"))
        self._close.setToolTip(self.tr("Dismiss this notice"))
        self._close.setVisible(dismissible)
        self._close.clicked.connect(self._on_dismiss_clicked)
        row.addWidget(self._close, 0, Qt.AlignmentFlag.AlignTop)
        Theme.instance().changed.connect(self._on_theme_changed)
        self.hide()

    def show_message(self, kind: str, text: str, *, action: str = "", details: str = "") -> None:
        """Show ``text``; ``kind`` is ``info``, ``success``, ``warning`` or ``error``."""
        self._kind = kind if kind in KINDS else "info"
        self._details = details
        self._text.setText(text)
        self._action.setText(action)
        self._action.setAccessibleName(action)
        self._action.setVisible(bool(action))
        self._copy.setVisible(bool(details))
        names = {
            "info": self.tr("Information"),
            "success": self.tr("Success"),
            "warning": self.tr("Warning"),
            "error": self.tr("Error"),
        }
        self.setAccessibleName(f"{names[self._kind]}: {text}")
        self._restyle()
        self.show()

    def clear(self) -> None:
        """Hide the banner."""
        self._details = ""
        self.hide()

    @property
    def kind(self) -> str:
        """The kind that is shown."""
        return self._kind

    def text(self) -> str:
        """Return the sentence that is shown."""
        return self._text.text()

    @Slot()
    def _on_copy_clicked(self) -> None:
        QGuiApplication.clipboard().setText(f"{self._text.text()}\n\n{self._details}")
        self._copy.setText(self.tr("Copied"))

    @Slot()
    def _on_dismiss_clicked(self) -> None:
        self.clear()
        self.dismissed.emit()

    @Slot()
    def _on_theme_changed(self) -> None:
        self._restyle()

    def _restyle(self) -> None:
        theme = Theme.instance()
        tokens = theme.tokens
        ink, fill = getattr(tokens, self._kind), getattr(tokens, f"{self._kind}_soft")
        self._icon.setPixmap(theme.icon(self._kind, self._kind).pixmap(20, 20))
        self._copy.setText(self.tr("Copy details"))
        self.setStyleSheet(
            f"QFrame#banner {{ background: {fill}; border: none; border-left: 4px solid {ink};"
            f" border-radius: 6px; }}"
        )
