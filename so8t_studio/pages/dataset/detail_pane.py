"""Everything about the current row, editable."""

from __future__ import annotations

import itertools

from PySide6.QtCore import QEvent, QObject, Qt, QTimer, Signal, Slot
from PySide6.QtGui import QFocusEvent, QKeyEvent
from PySide6.QtWidgets import (
    QButtonGroup,
    QComboBox,
    QFormLayout,
    QFrame,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPlainTextEdit,
    QPushButton,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from so8t_engine.labels import LABELS, Label
from so8t_engine.samples.schema import SPLITS, Sample
from so8t_studio.commands.dataset import relabel, set_field, set_split
from so8t_studio.models.dataset_store import DatasetStore
from so8t_studio.models.sample_cells import is_right_to_left
from so8t_studio.theme import Theme
from so8t_studio.widgets.label_chip import SIGNS, TOKENS

_COMMIT_AFTER_MS = 700
_sessions = itertools.count(1)


class TextField(QPlainTextEdit):
    """A text that announces its value when typing pauses or the focus leaves."""

    committed = Signal(str, str)
    """Field name and text."""

    def __init__(self, field: str, title: str, lines: int, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.field = field
        self.setObjectName(f"detail_{field}")
        self.setAccessibleName(title)
        self.setTabChangesFocus(True)
        self.setMinimumHeight(self.fontMetrics().lineSpacing() * lines + 18)
        self.setMaximumHeight(self.fontMetrics().lineSpacing() * (lines + 2) + 18)
        self.session = ""
        self._shown = ""
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_COMMIT_AFTER_MS)
        self._timer.timeout.connect(self.commit)
        self.textChanged.connect(self._on_text_changed)

    def show_text(self, text: str) -> None:
        """Show a value without announcing it."""
        self._timer.stop()
        self._shown = text
        if self.toPlainText() != text.replace("\r\n", "\n").replace("\r", "\n"):
            self.blockSignals(True)
            self.setPlainText(text)
            self.blockSignals(False)
        direction = (
            Qt.LayoutDirection.RightToLeft if is_right_to_left(text)
            else Qt.LayoutDirection.LeftToRight
        )  # fmt: skip
        option = self.document().defaultTextOption()
        option.setTextDirection(direction)
        self.document().setDefaultTextOption(option)

    @Slot()
    def commit(self) -> None:
        """Announce what was typed, if anything was."""
        self._timer.stop()
        text = self.toPlainText()
        if text != self._shown.replace("\r\n", "\n").replace("\r", "\n"):
            self._shown = text
            self.committed.emit(self.field, text)

    def focusInEvent(self, event: QFocusEvent) -> None:
        """Begin a new undo step."""
        self.session = str(next(_sessions))
        super().focusInEvent(event)

    def focusOutEvent(self, event: QFocusEvent) -> None:
        """Commit what was typed."""
        self.commit()
        super().focusOutEvent(event)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Ctrl+Enter commits at once."""
        if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter) and (
            event.modifiers() & Qt.KeyboardModifier.ControlModifier
        ):
            self.commit()
            return
        super().keyPressEvent(event)

    @Slot()
    def _on_text_changed(self) -> None:
        self._timer.start()


class LabelButtons(QWidget):
    """Three buttons, one of which is the label."""

    chosen = Signal(object)
    """Label."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(6)
        self._group = QButtonGroup(self)
        self.buttons: dict[Label, QPushButton] = {}
        for number, label in enumerate(LABELS, start=1):
            button = QPushButton(f"{SIGNS[label]} {label.value}")
            button.setObjectName(f"detailLabel_{label.value}")
            button.setAccessibleName(label.value)
            button.setToolTip(self.tr("Give this row the label {label} (key {number})").format(
                label=label.value, number=number))  # fmt: skip
            button.setCheckable(True)
            self._group.addButton(button)
            self.buttons[label] = button
            row.addWidget(button, 1)
        self._group.buttonClicked.connect(self._on_button_clicked)
        Theme.instance().changed.connect(self._on_theme_changed)
        self._on_theme_changed()

    def set_label(self, label: Label | None) -> None:
        """Check the button of a label; None checks none."""
        self._group.setExclusive(False)
        for own, button in self.buttons.items():
            button.setChecked(own is label)
        self._group.setExclusive(True)

    @Slot()
    def _on_theme_changed(self) -> None:
        tokens = Theme.instance().tokens
        for label, button in self.buttons.items():
            ink, fill = getattr(tokens, TOKENS[label]), getattr(tokens, f"{TOKENS[label]}_soft")
            button.setStyleSheet(
                "QPushButton { padding: 6px 4px; }"
                f"QPushButton:checked {{ color: {ink}; background: {fill};"
                f" border: 1px solid {ink}; font-weight: 700; }}"
                f"QPushButton:focus {{ border: 2px solid {ink}; padding: 5px 3px; }}"
            )

    @Slot(object)
    def _on_button_clicked(self, clicked: object) -> None:
        for label, button in self.buttons.items():
            if button is clicked:
                self.chosen.emit(label)


class DetailPane(QScrollArea):
    """Edits the fields of one sample through the undo stack."""

    def __init__(self, store: DatasetStore, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._store = store
        self._sample: Sample | None = None
        self.setObjectName("detailPane")
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        body = QWidget()
        body.setObjectName("scrollBody")
        self.setWidget(body)
        column = QVBoxLayout(body)
        column.setContentsMargins(4, 8, 10, 8)
        column.setSpacing(6)
        self.note = QLabel()
        self.note.setProperty("role", "muted")
        self.note.setWordWrap(True)
        column.addWidget(self.note)
        self.labels = LabelButtons()
        self.labels.chosen.connect(self._on_label_chosen)
        column.addWidget(self.labels)
        self.fields: dict[str, TextField] = {}
        for field, title, lines in (
            ("request", self.tr("Request"), 3),
            ("context", self.tr("Context"), 1),
            ("rationale", self.tr("Rationale"), 2),
            ("response", self.tr("Response"), 2),
        ):
            self._add_text(column, field, title, lines)
        self.lines: dict[str, QLineEdit] = {}
        form = QFormLayout()
        form.setSpacing(6)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        for field, title in (
            ("category", self.tr("Category")),
            ("language", self.tr("Language")),
            ("tags", self.tr("Tags")),
            ("source", self.tr("Source")),
        ):
            self._add_line(form, field, title)
        self.split = QComboBox()
        self.split.setObjectName("detail_split")
        self.split.setAccessibleName(self.tr("Split"))
        self.split.addItem(self.tr("auto (each run decides)"), "")
        for name in SPLITS:
            self.split.addItem(name, name)
        self.split.activated.connect(self._on_split_activated)
        form.addRow(self.tr("Split"), self.split)
        column.addLayout(form)
        column.addStretch(1)
        self.show_sample(None)

    def _add_text(self, column: QVBoxLayout, field: str, title: str, lines: int) -> None:
        label = QLabel(title)
        label.setProperty("role", "h3")
        editor = TextField(field, title, lines)
        label.setBuddy(editor)
        editor.committed.connect(self._on_text_committed)
        self.fields[field] = editor
        column.addWidget(label)
        column.addWidget(editor)

    def _add_line(self, form: QFormLayout, field: str, title: str) -> None:
        editor = QLineEdit()
        editor.setObjectName(f"detail_{field}")
        editor.setAccessibleName(title)
        if field == "tags":
            editor.setPlaceholderText(self.tr("separated by commas"))
        editor.editingFinished.connect(self._on_line_finished)
        editor.installEventFilter(self)
        self.lines[field] = editor
        form.addRow(title, editor)

    @property
    def sample(self) -> Sample | None:
        """The row that is shown."""
        return self._sample

    def show_sample(self, sample: Sample | None, selected: int = 1) -> None:
        """Show a row; ``selected`` is the number of rows that bulk edits would change."""
        if sample is None or self._sample is None or sample.id != self._sample.id:
            self.commit()
        self._sample = sample
        usable = sample is not None and not self._store.read_only
        for text_field in self.fields.values():
            text_field.setReadOnly(not usable)
            text_field.show_text(getattr(sample, text_field.field) if sample else "")
        for name, line in self.lines.items():
            line.setReadOnly(not usable)
            value = getattr(sample, name) if sample else ""
            shown = ", ".join(value) if isinstance(value, tuple) else value
            if line.text() != shown and not (line.hasFocus() and line.isModified()):
                line.setText(shown)
        self.labels.set_label(sample.label if sample else None)
        self.labels.setEnabled(usable)
        self.split.setEnabled(usable)
        self.split.setCurrentIndex(max(self.split.findData(sample.split if sample else ""), 0))
        self.note.setText(self._note(sample, selected))

    def _note(self, sample: Sample | None, selected: int) -> str:
        if sample is None:
            return self.tr("Select a row to see all of it.")
        if selected > 1:
            return self.tr("{count} rows are selected; this is the current one.").format(
                count=f"{selected:,}"
            )
        return self.tr("{length} characters · id {id}").format(
            length=f"{len(sample.request):,}", id=sample.id[:40]
        )

    @Slot()
    def commit(self) -> None:
        """Take over what was typed but not committed yet."""
        for text_field in self.fields.values():
            text_field.commit()
        for line in self.lines.values():
            if line.isModified():
                self._commit_line(line)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Escape in a line gives the old value back."""
        if (
            event.type() == QEvent.Type.KeyPress
            and isinstance(event, QKeyEvent)
            and event.key() == Qt.Key.Key_Escape
            and isinstance(watched, QLineEdit)
            and self._sample is not None
        ):
            watched.setModified(False)
            self.show_sample(self._sample)
        return super().eventFilter(watched, event)

    @Slot(object)
    def _on_label_chosen(self, label: Label) -> None:
        if self._sample is not None:
            relabel(self._store, [self._sample.id], label)

    @Slot(str, str)
    def _on_text_committed(self, field: str, text: str) -> None:
        if self._sample is not None and self._store.sample(self._sample.id) is not None:
            session = self.fields[field].session
            set_field(self._store, self._sample.id, field, text, session=session, initiator=self)

    @Slot()
    def _on_line_finished(self) -> None:
        line = self.sender()
        if isinstance(line, QLineEdit) and line.isModified():
            self._commit_line(line)

    def _commit_line(self, line: QLineEdit) -> None:
        line.setModified(False)
        field = line.objectName().removeprefix("detail_")
        if self._sample is None or self._store.sample(self._sample.id) is None:
            return
        value = line.text().replace(";", ",").split(",") if field == "tags" else line.text()
        set_field(self._store, self._sample.id, field, value)

    @Slot(int)
    def _on_split_activated(self, _index: int) -> None:
        if self._sample is not None:
            set_split(self._store, [self._sample.id], str(self.split.currentData()))
