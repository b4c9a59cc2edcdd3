"""Turns a wrong decision into a sample of the dataset."""

from __future__ import annotations

import re

import msgspec
from PySide6.QtCore import Slot
from PySide6.QtWidgets import (
    QButtonGroup,
    QDialog,
    QDialogButtonBox,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPlainTextEdit,
    QRadioButton,
    QVBoxLayout,
    QWidget,
)

from so8t_engine.labels import LABELS, Label
from so8t_engine.samples.schema import Sample, new_sample_id
from so8t_studio.pages.chat.session import TRAINED, Exchange
from so8t_studio.widgets.label_chip import SIGNS

_JAPANESE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")


def guess_language(text: str) -> str:
    """Return ``ja`` for text with kana or kanji, else ``en``."""
    return "ja" if _JAPANESE.search(text) else "en"


class CorrectionDialog(QDialog):
    """Asks for the right decision, why it is right, and what should have been said."""

    def __init__(
        self, exchange: Exchange, categories: list[str], parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self.setObjectName("correctionDialog")
        self.setWindowTitle(self.tr("Correct this decision"))
        self.setMinimumWidth(520)
        self._exchange = exchange
        column = QVBoxLayout(self)
        column.setContentsMargins(20, 16, 20, 16)
        column.setSpacing(12)
        request = QLabel(exchange.request)
        request.setProperty("role", "h3")
        request.setWordWrap(True)
        column.addWidget(request)
        column.addWidget(self._decided(exchange))
        choices = QHBoxLayout()
        self.group = QButtonGroup(self)
        self.labels: dict[Label, QRadioButton] = {}
        for label in LABELS:
            button = QRadioButton(f"{SIGNS[label]} {label.value}")
            button.setObjectName(f"correct_{label.value}")
            button.setAccessibleName(
                self.tr("The right decision is {label}").format(label=label.value)
            )
            self.group.addButton(button)
            self.labels[label] = button
            choices.addWidget(button)
        choices.addStretch(1)
        column.addLayout(choices)
        form = QFormLayout()
        form.setSpacing(8)
        self.rationale = QPlainTextEdit()
        self.rationale.setObjectName("correctRationale")
        self.rationale.setAccessibleName(self.tr("Why it is right"))
        self.rationale.setTabChangesFocus(True)
        self.rationale.setFixedHeight(64)
        form.addRow(self.tr("Why it is right"), self.rationale)
        self.response = QPlainTextEdit()
        self.response.setObjectName("correctResponse")
        self.response.setAccessibleName(self.tr("What it should say"))
        self.response.setTabChangesFocus(True)
        self.response.setFixedHeight(64)
        form.addRow(self.tr("What it should say"), self.response)
        self.category = QLineEdit()
        self.category.setObjectName("correctCategory")
        self.category.setAccessibleName(self.tr("Category"))
        if categories:
            self.category.setPlaceholderText(
                self.tr("For example: {names}").format(names=", ".join(categories[:3]))
            )
        form.addRow(self.tr("Category"), self.category)
        column.addLayout(form)
        self.buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Cancel)
        self.add = self.buttons.addButton(
            self.tr("Add to dataset"), QDialogButtonBox.ButtonRole.AcceptRole
        )
        self.add.setObjectName("correctAdd")
        self.add.setProperty("kind", "primary")
        self.add.setEnabled(False)
        self.buttons.accepted.connect(self.accept)
        self.buttons.rejected.connect(self.reject)
        self.group.buttonToggled.connect(self._on_choice_changed)
        column.addWidget(self.buttons)

    def _decided(self, exchange: Exchange) -> QLabel:
        arm = TRAINED if TRAINED in exchange.answers else exchange.arms[0]
        verdict = exchange.answers[arm].verdict
        words = verdict.label.value if verdict is not None else "–"
        label = QLabel(self.tr("It was decided {label}. What is right?").format(label=words))
        label.setProperty("role", "muted")
        return label

    @Slot()
    def _on_choice_changed(self) -> None:
        self.add.setEnabled(self.group.checkedButton() is not None)

    @property
    def label(self) -> Label | None:
        """The decision that was chosen."""
        return next((label for label, button in self.labels.items() if button.isChecked()), None)

    def sample(self, known: Sample | None) -> Sample:
        """Return the corrected sample; ``known`` is the row with the same request, if any."""
        label = self.label
        assert label is not None
        exchange = self._exchange
        if known is not None:
            return msgspec.structs.replace(
                known,
                label=label,
                rationale=self.rationale.toPlainText().strip() or known.rationale,
                response=self.response.toPlainText().strip() or known.response,
                category=self.category.text().strip() or known.category,
            )
        return Sample(
            id=new_sample_id(),
            request=exchange.request,
            context=exchange.context,
            label=label,
            rationale=self.rationale.toPlainText().strip(),
            response=self.response.toPlainText().strip(),
            category=self.category.text().strip(),
            language=guess_language(exchange.request),
            tags=("chat",),
            source=f"chat {exchange.run_id or 'base'}",
        )
