"""The left rail: persona switcher above the list of pages."""

from __future__ import annotations

from PySide6.QtCore import QSize, Qt, Signal, Slot
from PySide6.QtWidgets import (
    QButtonGroup,
    QComboBox,
    QFrame,
    QHBoxLayout,
    QLabel,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
)

from so8t_engine.errors import So8tError
from so8t_studio.context import AppContext
from so8t_studio.pages.registry import PageEntry

WIDTH = 208


class Rail(QFrame):
    """``page_selected(key)`` when the user picks a page."""

    page_selected = Signal(str)

    def __init__(self, context: AppContext, entries: tuple[PageEntry, ...]) -> None:
        super().__init__()
        self.setObjectName("rail")
        self.setFixedWidth(WIDTH)
        self._context = context
        self._buttons: dict[str, QToolButton] = {}
        self._entries = entries
        column = QVBoxLayout(self)
        column.setContentsMargins(12, 16, 12, 16)
        column.setSpacing(4)
        column.addLayout(self._brand())
        column.addSpacing(16)
        caption = QLabel(self.tr("Persona"))
        caption.setProperty("role", "caption")
        column.addWidget(caption)
        self.personas = QComboBox()
        self.personas.setObjectName("personaSwitcher")
        self.personas.setAccessibleName(self.tr("Open persona"))
        self.personas.setToolTip(self.tr("Open another persona of this workspace."))
        self.personas.setSizeAdjustPolicy(
            QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
        )
        self.personas.setMinimumContentsLength(8)
        caption.setBuddy(self.personas)
        self.personas.activated.connect(self._on_persona_activated)
        column.addWidget(self.personas)
        column.addSpacing(16)
        self._group = QButtonGroup(self)
        self._group.setExclusive(True)
        for number, entry in enumerate(entries, start=1):
            column.addWidget(self._button(entry, number))
        column.addStretch(1)
        context.persona_changed.connect(self._on_personas_changed)
        context.persona_edited.connect(self._on_personas_changed)
        context.personas_changed.connect(self._on_personas_changed)
        self.restyle()
        self._on_personas_changed()

    def _brand(self) -> QHBoxLayout:
        row = QHBoxLayout()
        row.setContentsMargins(4, 0, 0, 0)
        row.setSpacing(8)
        icon = QLabel()
        icon.setPixmap(self._context.theme.icon("app").pixmap(24, 24))
        name = QLabel("SO8T Studio")
        name.setObjectName("brand")
        row.addWidget(icon)
        row.addWidget(name)
        row.addStretch(1)
        return row

    def _button(self, entry: PageEntry, number: int) -> QToolButton:
        button = QToolButton()
        button.setObjectName(f"rail_{entry.key}")
        button.setProperty("role", "rail")
        button.setProperty("page", entry.key)
        button.setText(entry.text())
        button.setAccessibleName(self.tr("Page {name}").format(name=entry.text()))
        button.setToolTip(f"{entry.text()} (Ctrl+{number})")
        button.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        button.setIconSize(QSize(20, 20))
        button.setCheckable(True)
        button.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        button.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        button.setMinimumHeight(40)
        button.clicked.connect(self._on_button_clicked)
        self._group.addButton(button)
        self._buttons[entry.key] = button
        return button

    def select(self, key: str) -> None:
        """Mark the page that is shown."""
        if key in self._buttons:
            self._buttons[key].setChecked(True)
            self.restyle()

    def restyle(self) -> None:
        """Draw the icons in the colours of the theme."""
        for entry in self._entries:
            button = self._buttons[entry.key]
            token = "accent" if button.isChecked() else "text_muted"
            button.setIcon(self._context.theme.icon(entry.icon, token))

    @Slot()
    def _on_button_clicked(self) -> None:
        button = self.sender()
        if isinstance(button, QToolButton):
            self.page_selected.emit(str(button.property("page")))

    @Slot()
    def _on_personas_changed(self) -> None:
        self.personas.blockSignals(True)
        self.personas.clear()
        try:
            found = self._context.workspace.personas()
        except So8tError as error:
            found = []
            self._context.post("error", str(error))
        for persona in found:
            self.personas.addItem(persona.info.name, persona.slug)
        current = self._context.persona
        index = self.personas.findData(current.slug) if current is not None else -1
        self.personas.setCurrentIndex(index)
        self.personas.setPlaceholderText(self.tr("No persona open"))
        self.personas.setEnabled(bool(found))
        self.personas.blockSignals(False)

    @Slot(int)
    def _on_persona_activated(self, index: int) -> None:
        slug = self.personas.itemData(index)
        current = self._context.persona
        if slug is None or (current is not None and current.slug == slug):
            return
        self._context.request_persona(slug)
        self._on_personas_changed()
