"""Name, description, policy and base model of the open persona; kept as they are typed."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import msgspec
from PySide6.QtCore import QEvent, QObject, QTimer, Signal, Slot
from PySide6.QtWidgets import (
    QComboBox,
    QFileDialog,
    QFrame,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPlainTextEdit,
    QVBoxLayout,
    QWidget,
)

from so8t_engine.errors import So8tError
from so8t_engine.workspace.personas import Persona, PersonaInfo
from so8t_studio.jobs.background import Failure, Loader
from so8t_studio.pages.persona.base_model import check_base_folder, estimate_tokens

SAVE_MS = 800
READ_TOKENS = 384
DEFAULT = "default"


class PersonaForm(QFrame):
    """``saved(Persona)`` after the file was written; ``failed(str)`` if it could not be."""

    saved = Signal(object)
    failed = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("role", "card")
        self.setObjectName("personaForm")
        self._persona: Persona | None = None
        self._loader = Loader(self)
        self._base = DEFAULT
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(SAVE_MS)
        self._timer.timeout.connect(self.commit)
        column = QVBoxLayout(self)
        column.setContentsMargins(16, 14, 16, 14)
        column.setSpacing(6)
        self.name = QLineEdit()
        self._add(column, self.name, "personaName", self.tr("Name"))
        self.description = QLineEdit()
        self.description.setPlaceholderText(self.tr("One sentence for colleagues"))
        self._add(column, self.description, "personaDescription", self.tr("Description"))
        self.policy = QPlainTextEdit()
        self.policy.setTabChangesFocus(True)
        self.policy.setMinimumHeight(120)
        self.policy.setPlaceholderText(
            self.tr("What is allowed, what a human decides, what is refused.")
        )
        self._add(column, self.policy, "personaPolicy", self.tr("Policy"), stretch=1)
        self.hint = QLabel()
        self.hint.setObjectName("policyHint")
        self.hint.setProperty("role", "caption")
        self.hint.setWordWrap(True)
        column.addWidget(self.hint)
        self.base = QComboBox()
        self.base.setToolTip(self.tr("The model that is fine-tuned; it stays as it is."))
        self.base.addItem(self.tr("Default: SmolLM2-135M-Instruct"), DEFAULT)
        self.base.addItem(self.tr("Local folder…"), "")
        self._add(column, self.base, "personaBase", self.tr("Base model"))
        self.base.activated.connect(self._on_base_activated)
        self.base_state = QLabel()
        self.base_state.setObjectName("baseState")
        self.base_state.setProperty("role", "caption")
        self.base_state.setWordWrap(True)
        column.addWidget(self.base_state)
        foot = QHBoxLayout()
        foot.addStretch(1)
        self.state = QLabel()
        self.state.setObjectName("formState")
        self.state.setProperty("role", "caption")
        foot.addWidget(self.state)
        column.addLayout(foot)
        self.name.textEdited.connect(self._on_edited)
        self.description.textEdited.connect(self._on_edited)
        self.policy.textChanged.connect(self._on_edited)
        for field in (self.name, self.description, self.policy):
            field.installEventFilter(self)
        self.set_persona(None)

    @staticmethod
    def _add(
        column: QVBoxLayout, field: QWidget, name: str, title: str, *, stretch: int = 0
    ) -> None:
        label = QLabel(title)
        label.setProperty("role", "caption")
        label.setBuddy(field)
        field.setObjectName(name)
        field.setAccessibleName(title)
        column.addWidget(label)
        column.addWidget(field, stretch)

    # -- showing --------------------------------------------------------------------------------
    def set_persona(self, persona: Persona | None) -> None:
        """Show a persona; what was typed for the one before is written first.

        Raises:
            WorkspaceError: if its ``persona.toml`` cannot be read.
        """
        if self._timer.isActive():
            self.commit()
        self._timer.stop()
        info = persona.info if persona is not None else PersonaInfo(name="")
        another = persona != self._persona
        self._persona = persona
        for field, text in ((self.name, info.name), (self.description, info.description)):
            if field.text() != text:
                field.setText(text)
                field.setCursorPosition(0)  # long text shows its beginning
        if self.policy.toPlainText() != info.policy:
            self.policy.blockSignals(True)
            self.policy.setPlainText(info.policy)
            self.policy.blockSignals(False)
        read_only = persona is None or persona.read_only
        for field in (self.name, self.description, self.policy):
            if field.isReadOnly() != read_only:
                field.setReadOnly(read_only)
                field.style().polish(field)
        self.base.setEnabled(not read_only)
        self._show_base(info.base_model)
        self._show_hint()
        if another:
            self.state.setText(self.tr("This window only reads.") if read_only and persona else "")

    @property
    def pending(self) -> bool:
        """True while something is typed that is not written yet."""
        return self._timer.isActive()

    def _show_hint(self) -> None:
        tokens = estimate_tokens(self.policy.toPlainText())
        if not tokens:
            self.hint.setText(self.tr("Without a policy the persona learns from examples alone."))
            return
        words = self.tr("About {tokens} of the {total} tokens that the model reads at once.")
        text = words.format(tokens=tokens, total=READ_TOKENS)
        if tokens > READ_TOKENS // 2:
            text = self.tr("⚠ {text} Shorten it, so that long requests still fit.").format(
                text=text
            )
        self.hint.setText(text)

    def _show_base(self, reference: str) -> None:
        self._base = reference
        index = self.base.findData(reference)
        if index < 0:
            self.base.insertItem(1, Path(reference).name or reference, reference)
            index = 1
        self.base.setCurrentIndex(index)
        self.base.setToolTip(reference)
        if reference == DEFAULT:
            self.base_state.setText(
                self.tr("Apache-2.0, hidden size 576 (72 blocks); fine without a GPU.")
            )
            return
        folder = Path(reference).expanduser()
        if not folder.is_absolute():
            self.base_state.setText(self.tr("A hub model; it must be in the local cache already."))
            return
        self.base_state.setText(self.tr("Looking into the folder…"))
        self._loader.load("base", partial(check_base_folder, folder), self._take_base)

    def _take_base(self, value: object) -> None:
        if isinstance(value, Failure):
            self.base_state.setText(f"⚠ {value.text}")
            return
        words, problem = value  # type: ignore[misc]
        self.base_state.setText(f"⚠ {problem}" if problem else words)

    # -- editing --------------------------------------------------------------------------------
    @Slot()
    def _on_edited(self) -> None:
        self._show_hint()
        if self._persona is None or self._persona.read_only:
            return
        self.state.setText(self.tr("Typing…"))
        self._timer.start()

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Write when a field is left."""
        if event.type() == QEvent.Type.FocusOut and self._timer.isActive():
            self._timer.stop()
            self.commit()
        return super().eventFilter(watched, event)

    @Slot(int)
    def _on_base_activated(self, index: int) -> None:
        reference = str(self.base.itemData(index) or "")
        if not reference:
            folder = QFileDialog.getExistingDirectory(self, self.tr("Folder of the base model"))
            reference = folder or self._base
        self.choose_base(reference)

    def choose_base(self, reference: str) -> None:
        """Use another base model: ``default``, a folder, or a hub id."""
        changed = reference != self._base
        self._show_base(reference)
        if changed:
            self.commit()

    @Slot()
    def commit(self) -> None:
        """Write what is typed, if it differs from the file."""
        self._timer.stop()
        persona = self._persona
        if persona is None or persona.read_only:
            return
        name = self.name.text().strip()
        if not name:
            self.failed.emit(self.tr("A persona needs a name; the old one is kept."))
            self.state.setText("")
            return
        try:
            before = persona.info
            info = msgspec.structs.replace(
                before,
                name=name,
                description=self.description.text().strip(),
                policy=self.policy.toPlainText(),
                base_model=self._base,
            )
            if info == before:
                self.state.setText("")
                return
            persona.save(info)
        except (So8tError, OSError) as error:
            self.failed.emit(str(error))
            return
        self.state.setText(self.tr("✓ Saved"))
        self.saved.emit(persona)
