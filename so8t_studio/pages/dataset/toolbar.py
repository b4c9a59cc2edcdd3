"""The row of commands above the table."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QHBoxLayout, QMenu, QToolButton, QWidget

from so8t_engine.labels import LABELS
from so8t_studio.pages.dataset.actions import DatasetActions

_BESIDE = Qt.ToolButtonStyle.ToolButtonTextBesideIcon
_ONLY = Qt.ToolButtonStyle.ToolButtonIconOnly
_TEXT = Qt.ToolButtonStyle.ToolButtonTextOnly


class DatasetToolbar(QWidget):
    """Buttons for the actions; some lose their text where the page is narrow."""

    facets_clicked = Signal(bool)
    """Whether the list of values should be shown."""

    def __init__(self, actions: DatasetActions, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("datasetToolbar")
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(4)
        self._tools: list[QToolButton] = []
        for action, style in (
            (actions.import_file, _BESIDE), (actions.add, _BESIDE), (actions.delete, _ONLY),
            (None, _ONLY), *((actions.labels[label], _TEXT) for label in LABELS), (None, _ONLY),
            (actions.undo, _ONLY), (actions.redo, _ONLY), (None, _ONLY), (actions.save, _BESIDE),
            (actions.export, _ONLY),
        ):  # fmt: skip
            if action is None:
                row.addSpacing(10)
                continue
            button = QToolButton()
            button.setDefaultAction(action)
            button.setToolButtonStyle(style)
            button.setObjectName(action.objectName().replace("action_", "button_"))
            button.setAccessibleName(action.text())
            button.setFocusPolicy(Qt.FocusPolicy.TabFocus)
            button.setProperty("mayShrink", style == _BESIDE)
            self._tools.append(button)
            row.addWidget(button)
        row.addStretch(1)
        self.facets_button = QToolButton()
        self.facets_button.setObjectName("button_facets")
        self.facets_button.setText(self.tr("Filters"))
        self.facets_button.setAccessibleName(self.tr("Show filters by value"))
        self.facets_button.setToolTip(self.tr("Show or hide the list of values with counts"))
        self.facets_button.setCheckable(True)
        self.facets_button.clicked.connect(self.facets_clicked)
        row.addWidget(self.facets_button)
        row.addWidget(self._make_more(actions))

    def _make_more(self, actions: DatasetActions) -> QToolButton:
        more = QToolButton()
        more.setObjectName("button_more")
        more.setText(self.tr("More"))
        more.setAccessibleName(self.tr("More commands"))
        more.setToolTip(self.tr("More commands"))
        more.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        menu = QMenu(more)
        self.split_menu = QMenu(self.tr("Move selected rows to"), menu)
        menu.addActions([actions.find_replace, actions.tag])
        menu.addMenu(self.split_menu)
        menu.addSeparator()
        menu.addActions([actions.splits, actions.snapshots])
        menu.addSeparator()
        menu.addAction(actions.select_all)
        more.setMenu(menu)
        return more

    def set_narrow(self, narrow: bool) -> None:
        """Show icons without text, or with it."""
        for button in self._tools:
            if button.property("mayShrink"):
                button.setToolButtonStyle(_ONLY if narrow else _BESIDE)
