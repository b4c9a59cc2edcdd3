"""What failed, why, what to do next; with the end of the log and settings that would fit."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import Signal, Slot
from PySide6.QtWidgets import (
    QFrame,
    QLabel,
    QPlainTextEdit,
    QPushButton,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from so8t_studio.theme import Theme
from so8t_studio.widgets.banner import Banner
from so8t_studio.widgets.flow_layout import FlowLayout

EXCERPT_LINES = 40
EXCERPT_HEIGHT = 112


class FailureCard(QFrame):
    """``offer_chosen(dict)`` carries dotted settings that the user wants; ``resume_requested``."""

    offer_chosen = Signal(object)
    resume_requested = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("failureCard")
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(6)
        self.banner = Banner(dismissible=True)
        self.banner.setObjectName("failureBanner")
        self.banner.action_triggered.connect(self.resume_requested)
        self.banner.dismissed.connect(self.clear)
        column.addWidget(self.banner)
        self._tools = QWidget()
        self._offers_row = FlowLayout(self._tools, gap=8)
        self._offers_label = QLabel(self.tr("Settings that would fit:"))
        self._offers_label.setProperty("role", "caption")
        self._offers_row.addWidget(self._offers_label)
        self.toggle = QToolButton()
        self.toggle.setObjectName("failureLogToggle")
        self.toggle.setCheckable(True)
        self.toggle.setText(self.tr("Show the end of the log"))
        self.toggle.setAccessibleName(self.tr("Show the end of the log"))
        self.toggle.toggled.connect(self._on_toggled)
        self._offers_row.addWidget(self.toggle)
        column.addWidget(self._tools)
        self.excerpt = QPlainTextEdit()
        self.excerpt.setObjectName("failureLog")
        self.excerpt.setAccessibleName(self.tr("End of the log"))
        self.excerpt.setReadOnly(True)
        self.excerpt.setFont(Theme.instance().mono_font(9.0))
        self.excerpt.setFixedHeight(EXCERPT_HEIGHT)
        column.addWidget(self.excerpt)
        self._buttons: list[QPushButton] = []
        self._offers: list[dict[str, Any]] = []
        self.clear()

    def show_failure(
        self,
        sentence: str,
        next_step: str = "",
        *,
        details: str = "",
        excerpt: str = "",
        offers: list[dict[str, Any]] | None = None,
        resumable: bool = False,
    ) -> None:
        """Show a failure.

        Args:
            sentence: what failed and why.
            next_step: what to do.
            details: everything for a bug report; behind “Copy details”.
            excerpt: the last lines of the log.
            offers: ``text`` and ``changes`` (dotted settings) of what would fit in memory.
            resumable: True if the run left a checkpoint.
        """
        text = " ".join(filter(None, (sentence, next_step)))
        action = self.tr("Resume the run") if resumable else ""
        self.banner.show_message("error", text, details=details, action=action)
        self._show_offers(offers or [])
        lines = excerpt.strip().splitlines()[-EXCERPT_LINES:]
        self.excerpt.setPlainText("\n".join(lines))
        bar = self.excerpt.verticalScrollBar()
        bar.setValue(bar.maximum())
        self.toggle.setVisible(bool(lines))
        self._tools.setVisible(bool(lines) or bool(offers))
        self.toggle.setChecked(False)
        self.excerpt.hide()
        self.show()

    def _show_offers(self, offers: list[dict[str, Any]]) -> None:
        for button in self._buttons:
            self._offers_row.removeWidget(button)
            button.deleteLater()
        self._buttons.clear()
        self._offers = offers
        self._offers_label.setVisible(bool(offers))
        for number, offer in enumerate(offers):
            button = QPushButton(str(offer.get("text", "")))
            button.setObjectName(f"failureOffer_{number}")
            button.setAccessibleName(self.tr("Use: {text}").format(text=offer.get("text", "")))
            changes = offer.get("changes", {})
            button.setToolTip("\n".join(f"{name} = {value}" for name, value in changes.items()))
            button.setProperty("number", number)
            button.clicked.connect(self._on_offer_clicked)
            self._buttons.append(button)
            self._offers_row.addWidget(button)
        self._offers_row.removeWidget(self.toggle)
        self._offers_row.addWidget(self.toggle)  # after the offers

    @Slot()
    def clear(self) -> None:
        """Hide the card."""
        self.banner.clear()
        self._show_offers([])
        self.hide()

    def text(self) -> str:
        """Return the sentence that is shown."""
        return self.banner.text()

    @Slot(bool)
    def _on_toggled(self, on: bool) -> None:
        self.excerpt.setVisible(on)
        text = self.tr("Hide the end of the log") if on else self.tr("Show the end of the log")
        self.toggle.setText(text)
        self.toggle.setAccessibleName(text)

    @Slot()
    def _on_offer_clicked(self) -> None:
        button = self.sender()
        if button is not None:
            self.offer_chosen.emit(dict(self._offers[int(button.property("number"))]["changes"]))
