"""Asks for the name of a persona."""

from __future__ import annotations

from PySide6.QtCore import Slot
from PySide6.QtWidgets import (
    QCheckBox,
    QDialog,
    QDialogButtonBox,
    QLabel,
    QLineEdit,
    QVBoxLayout,
    QWidget,
)


class NameDialog(QDialog):
    """One field; the button stays off while it is empty."""

    def __init__(
        self,
        title: str,
        button: str,
        *,
        name: str = "",
        option: str = "",
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self.setObjectName("nameDialog")
        self.setWindowTitle(title)
        self.setMinimumWidth(380)
        column = QVBoxLayout(self)
        column.setContentsMargins(20, 16, 20, 16)
        column.setSpacing(10)
        label = QLabel(self.tr("Name"))
        column.addWidget(label)
        self.field = QLineEdit(name)
        self.field.setObjectName("newName")
        self.field.setAccessibleName(self.tr("Name"))
        self.field.selectAll()
        label.setBuddy(self.field)
        column.addWidget(self.field)
        self.option = QCheckBox(option)
        self.option.setObjectName("nameOption")
        self.option.setAccessibleName(option)
        self.option.setVisible(bool(option))
        column.addWidget(self.option)
        buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Cancel)
        self.accept_button = buttons.addButton(button, QDialogButtonBox.ButtonRole.AcceptRole)
        self.accept_button.setObjectName("acceptName")
        self.accept_button.setProperty("kind", "primary")
        buttons.accepted.connect(self.accept)
        buttons.rejected.connect(self.reject)
        column.addWidget(buttons)
        self.field.textChanged.connect(self._on_text_changed)
        self._on_text_changed()

    @property
    def name(self) -> str:
        """What was typed, without spaces around it."""
        return self.field.text().strip()

    @Slot()
    def _on_text_changed(self) -> None:
        self.accept_button.setEnabled(bool(self.name))
