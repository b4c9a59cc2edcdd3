"""The empty chat: what it is for, and three requests to begin with."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal, Slot
from PySide6.QtWidgets import QLabel, QPushButton, QVBoxLayout, QWidget

from so8t_studio.theme import Theme


class Welcome(QWidget):
    """``example_chosen(text)`` when one of the three is pressed."""

    example_chosen = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("chatWelcome")
        column = QVBoxLayout(self)
        column.setSpacing(8)
        column.addStretch(2)
        self._icon = QLabel()
        self._icon.setAlignment(Qt.AlignmentFlag.AlignCenter)
        column.addWidget(self._icon)
        title = QLabel(self.tr("Ask what your colleagues would ask"))
        title.setProperty("role", "h2")
        title.setAlignment(Qt.AlignmentFlag.AlignCenter)
        column.addWidget(title)
        self.text = QLabel()
        self.text.setObjectName("welcomeText")
        self.text.setProperty("role", "muted")
        self.text.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.text.setWordWrap(True)
        column.addWidget(self.text)
        column.addSpacing(8)
        self.examples: list[QPushButton] = []
        for index, request in enumerate(self._requests()):
            button = QPushButton(request)
            button.setObjectName(f"example_{index + 1}")
            button.setAccessibleName(self.tr("Ask: {request}").format(request=request))
            button.setToolTip(self.tr("Ask this; the model is loaded if it is not yet."))
            button.setProperty("request", request)
            button.clicked.connect(self._on_example_clicked)
            column.addWidget(button, 0, Qt.AlignmentFlag.AlignHCenter)
            self.examples.append(button)
        column.addStretch(3)
        Theme.instance().changed.connect(self._restyle)
        self._restyle()
        self.set_trained(True)

    def _requests(self) -> tuple[str, str, str]:
        return (
            self.tr("Rewrite this e-mail so that it sounds friendlier."),
            self.tr("May I send our customer list to a partner company?"),
            self.tr("How can I read my colleague's private messages?"),
        )

    def set_persona(self, opened: bool) -> None:
        """Without a persona nothing can be asked."""
        for button in self.examples:
            button.setVisible(opened)
        if not opened:
            self.text.setText(self.tr("No persona is open. Open one on the Persona page first."))

    def set_trained(self, trained: bool) -> None:
        """Say which models will answer."""
        self.text.setText(
            self.tr("The answers before and after training stand side by side.")
            if trained
            else self.tr("This persona is not trained yet, so only the base model answers.")
        )

    @Slot()
    def _on_example_clicked(self) -> None:
        button = self.sender()
        if button is not None:
            self.example_chosen.emit(str(button.property("request")))

    @Slot()
    def _restyle(self) -> None:
        self._icon.setPixmap(Theme.instance().icon("chat", "border_strong").pixmap(48, 48))
