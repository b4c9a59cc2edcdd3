"""What stands in for a page that cannot be opened: it says why and keeps the window alive."""

from __future__ import annotations

import traceback

from PySide6.QtWidgets import QWidget

from so8t_studio.context import AppContext
from so8t_studio.pages.base import Page
from so8t_studio.pages.registry import PageEntry
from so8t_studio.widgets.banner import Banner
from so8t_studio.widgets.empty_state import EmptyState


class PlaceholderPage(Page):
    """Shown when a page's module is absent or fails to load."""

    def __init__(
        self,
        context: AppContext,
        entry: PageEntry,
        error: Exception | None = None,
        parent: QWidget | None = None,
    ) -> None:
        self._entry = entry
        super().__init__(context, parent)
        self.setObjectName(f"page_{entry.key}")
        if error is not None:
            banner = Banner()
            banner.show_message(
                "error",
                self.tr("The page “{name}” could not be opened: {reason}").format(
                    name=entry.text(), reason=error
                ),
                details="".join(traceback.format_exception(error)),
            )
            self.body.addWidget(banner)
            self.body.addStretch(1)
            return
        self.body.addWidget(
            EmptyState(
                entry.icon,
                self.tr("This page is not part of this build"),
                self.tr("Everything else works as usual. Choose another page in the rail."),
            ),
            1,
        )

    def title(self) -> str:
        """Return the name of the missing page."""
        return self._entry.text()
