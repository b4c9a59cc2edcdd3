"""What every page of the window has in common."""

from __future__ import annotations

from typing import ClassVar

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QHBoxLayout, QLabel, QVBoxLayout, QWidget

from so8t_studio.context import AppContext
from so8t_studio.widgets.elided_label import ElidedLabel

MARGIN = 24
GAP = 16


class PageHeader(QWidget):
    """Title and one muted line on the left, the page's own buttons on the right."""

    def __init__(self, title: str, subtitle: str = "", parent: QWidget | None = None) -> None:
        super().__init__(parent)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(8)
        words = QVBoxLayout()
        words.setSpacing(0)
        self.title = QLabel(title)
        self.title.setProperty("role", "title")
        self.title.setObjectName("pageTitle")
        self.subtitle = ElidedLabel(subtitle)
        self.subtitle.setProperty("role", "muted")
        self.subtitle.setObjectName("pageSubtitle")
        self.subtitle.setVisible(bool(subtitle))
        words.addWidget(self.title)
        words.addWidget(self.subtitle)
        row.addLayout(words, 1)
        self._actions = QHBoxLayout()
        self._actions.setSpacing(8)
        row.addLayout(self._actions)

    def set_subtitle(self, text: str) -> None:
        """Show ``text`` below the title; an empty text takes no room."""
        self.subtitle.setText(text)
        self.subtitle.setVisible(bool(text))

    def add_action(self, widget: QWidget) -> None:
        """Put a button or field on the right of the header."""
        self._actions.addWidget(widget, 0, Qt.AlignmentFlag.AlignVCenter)


class Page(QWidget):
    """A page: made at its first show, told when it is shown and hidden.

    ``body`` is a vertical layout with the standard margins and the standard header on top, made on
    first use; a page that needs another arrangement sets its own layout instead.
    """

    key: ClassVar[str] = ""

    def __init__(self, context: AppContext, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.context = context
        self.setObjectName(f"page_{self.key}")
        self._body: QVBoxLayout | None = None
        self._header: PageHeader | None = None

    def title(self) -> str:
        """Return the name in the rail and on top of the page."""
        raise NotImplementedError

    def icon_name(self) -> str:
        """Return the file stem of the icon in ``resources/icons``."""
        return self.key

    @property
    def header(self) -> PageHeader:
        """The standard header, on top of :attr:`body`."""
        if self._header is None:
            self._header = PageHeader(self.title(), parent=self)
        return self._header

    @property
    def body(self) -> QVBoxLayout:
        """The standard layout of a page, header included."""
        if self._body is None:
            self._body = QVBoxLayout(self)
            self._body.setContentsMargins(MARGIN, MARGIN - 4, MARGIN, MARGIN)
            self._body.setSpacing(GAP)
            self._body.addWidget(self.header)
        return self._body

    def on_shown(self) -> None:
        """The page became the visible one; a stale page refreshes itself here."""

    def on_hidden(self) -> None:
        """Another page became the visible one."""

    def open_payload(self, payload: object) -> None:
        """Act on what a :class:`~so8t_studio.context.Navigation` brought."""

    def can_close(self) -> bool:
        """Tell whether the window may close now; the page may ask the user."""
        return True
