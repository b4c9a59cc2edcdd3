"""Banners one below the other; takes no room while none of them is shown."""

from __future__ import annotations

from PySide6.QtCore import QEvent, QObject
from PySide6.QtWidgets import QVBoxLayout, QWidget

from so8t_studio.widgets.banner import Banner


class BannerStack(QWidget):
    """Keeps a distance to what is above it, as long as there is something to say."""

    def __init__(
        self, banners: list[Banner], margin: int, gap: int, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self.setObjectName("bannerStack")
        self._banners = banners
        column = QVBoxLayout(self)
        column.setContentsMargins(margin, gap, margin, 0)
        column.setSpacing(gap)
        for banner in banners:
            column.addWidget(banner)
            banner.installEventFilter(self)
        self._follow()

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Follow the banners as they come and go."""
        # A child of a hidden parent gets no Show event, but it does say that it is to be shown.
        if event.type() in (QEvent.Type.ShowToParent, QEvent.Type.HideToParent):
            self._follow()
        return super().eventFilter(watched, event)

    def _follow(self) -> None:
        self.setVisible(any(not banner.isHidden() for banner in self._banners))
