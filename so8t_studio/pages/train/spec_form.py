"""A form that is generated from the declaration of the training specification."""

from __future__ import annotations

from typing import Any

import msgspec
from PySide6.QtCore import Qt, QTimer, Signal, Slot
from PySide6.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from so8t_engine.specs import TrainSpec
from so8t_studio.pages.train.spec_fields import (
    SWITCHES,
    Field,
    as_text,
    build_spec,
    check_value,
    default_part,
    parse_text,
    spec_fields,
    value_of,
    with_value,
)

EDITOR_WIDTH = 220


class _Row:
    """The widgets of one field."""

    def __init__(self, field: Field, form: SpecForm) -> None:
        self.field = field
        self.name = QLabel(field.path.rpartition(".")[2].replace("_", " "))
        self.name.setToolTip(field.path)
        self.name.setMinimumWidth(150)
        self.editor = self._make_editor(form)
        self.editor.setObjectName(f"field_{field.path}")
        self.editor.setAccessibleName(field.path)
        self.editor.setAccessibleDescription(field.help)
        self.editor.setProperty("path", field.path)
        self.editor.setFixedWidth(EDITOR_WIDTH)
        self.name.setBuddy(self.editor)
        self.reset = QToolButton()
        self.reset.setText("↺")
        self.reset.setObjectName(f"reset_{field.path}")
        self.reset.setProperty("path", field.path)
        self.reset.setAccessibleName(form.tr("Reset {name}").format(name=field.path))
        self.reset.clicked.connect(form.on_reset_clicked)
        policy = self.reset.sizePolicy()
        policy.setRetainSizeWhenHidden(True)
        self.reset.setSizePolicy(policy)
        self.note = QLabel()
        self.note.setWordWrap(True)
        self.note.setProperty("role", "caption")
        self.marked = False
        self.widgets: list[QWidget] = [self.name, self.editor, self.reset, self.note]

    def _make_editor(self, form: SpecForm) -> QWidget:
        if self.field.kind in ("bool", "switch"):
            box = QCheckBox()
            box.toggled.connect(form.on_editor_changed)
            return box
        if self.field.kind == "choice":
            combo = QComboBox()
            combo.addItems(list(self.field.choices))
            combo.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
            combo.currentIndexChanged.connect(form.on_editor_changed)
            return combo
        line = QLineEdit()
        line.textChanged.connect(form.on_editor_changed)
        return line

    def read(self) -> Any:
        """Return what is typed as plain data; raises ValueError with a sentence."""
        if isinstance(self.editor, QCheckBox):
            on = self.editor.isChecked()
            if self.field.kind == "switch":
                return default_part(self.field.path) if on else None
            return on
        if isinstance(self.editor, QComboBox):
            return self.editor.currentText()
        assert isinstance(self.editor, QLineEdit)
        return parse_text(self.field, self.editor.text())

    def write(self, value: Any) -> None:
        """Show a value without announcing it."""
        self.editor.blockSignals(True)
        if isinstance(self.editor, QCheckBox):
            self.editor.setChecked(bool(value))
        elif isinstance(self.editor, QComboBox):
            self.editor.setCurrentText(str(value))
        elif isinstance(self.editor, QLineEdit):
            text = as_text(self.field, value)
            several = "\n" in text  # such as a policy that came with a run: kept, not edited here
            self.editor.setReadOnly(several)
            self.editor.setText(text.partition("\n")[0] + " …" if several else text)
            self.editor.setCursorPosition(0)
        self.editor.blockSignals(False)

    def show_state(self, *, changed: bool, error: str, reference: Any) -> None:
        """Mark the row as changed or wrong; the note says what is allowed."""
        font = self.name.font()
        font.setBold(changed)
        self.name.setFont(font)
        self.marked = changed
        title = self.field.path.rpartition(".")[2].replace("_", " ")
        self.name.setText(f"● {title}" if changed else title)
        self.reset.setVisible(changed)
        self.reset.setToolTip(as_text(self.field, reference))
        role = "error" if error else "caption"
        if self.note.property("role") != role:
            self.note.setProperty("role", role)
            self.note.style().unpolish(self.note)
            self.note.style().polish(self.note)
        if isinstance(self.editor, QLineEdit) and bool(self.editor.property("invalid")) != bool(
            error
        ):
            self.editor.setProperty("invalid", bool(error))
            self.editor.style().unpolish(self.editor)
            self.editor.style().polish(self.editor)
        self.note.setText(error or self.field_words())

    def field_words(self) -> str:
        """Return help, unit, range and default in one line."""
        field = self.field
        facts = [field.unit, field.range]
        if field.kind not in ("switch", "bool", "text"):
            facts.append(f"default {as_text(field, field.default)}")
        inside = "; ".join(filter(None, facts))
        return f"{field.help}  [{inside}]" if inside else field.help


class SpecForm(QWidget):
    """All settings with search. ``changed`` fires after each edit.

    The form holds the values of a *reference* (a preset or a run) and the differences from it.
    """

    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("specForm")
        self._reference = msgspec.to_builtins(TrainSpec())
        self._data = dict(self._reference)
        self._errors: dict[str, str] = {}
        self._rows: dict[str, _Row] = {}
        self._cards: dict[str, tuple[QFrame, list[_Row]]] = {}
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(12)
        column.addLayout(self._make_tools())
        for section in dict.fromkeys(field.section for field in spec_fields()):
            column.addWidget(self._make_card(section))
        self._refresh()

    def _make_tools(self) -> QHBoxLayout:
        tools = QHBoxLayout()
        tools.setSpacing(16)
        self.search = QLineEdit()
        self.search.setObjectName("specSearch")
        self.search.setAccessibleName(self.tr("Find a setting"))
        self.search.setPlaceholderText(self.tr("Find a setting"))
        self.search.setClearButtonEnabled(True)
        self.search.setMaximumWidth(320)
        self.search.textChanged.connect(self._on_filter_changed)
        tools.addWidget(self.search)
        self.only_changed = QCheckBox(self.tr("Only changed settings"))
        self.only_changed.setObjectName("specOnlyChanged")
        self.only_changed.toggled.connect(self._on_filter_changed)
        tools.addWidget(self.only_changed)
        tools.addStretch(1)
        return tools

    def _make_card(self, section: str) -> QFrame:
        titles = {
            "run": self.tr("Run"),
            "data": self.tr("Data"),
            "model": self.tr("Model"),
            "model.lora": self.tr("LoRA adapters"),
            "loss": self.tr("Loss"),
            "loss.pet": self.tr("Smoothness (PET)"),
            "optim": self.tr("Optimizer"),
            "schedule": self.tr("Evaluation and checkpoints"),
        }
        card = QFrame()
        card.setProperty("role", "card")
        grid = QGridLayout(card)
        grid.setContentsMargins(16, 12, 16, 12)
        grid.setHorizontalSpacing(12)
        grid.setVerticalSpacing(6)
        grid.setColumnStretch(3, 1)
        heading = QLabel(titles.get(section, section))
        heading.setProperty("role", "h3")
        grid.addWidget(heading, 0, 0, 1, 4)
        rows = []
        for field in spec_fields():
            if field.section != section:
                continue
            row = _Row(field, self)
            at = grid.rowCount()
            for index, widget in enumerate(row.widgets):
                grid.addWidget(widget, at, index)
            self._rows[field.path] = row
            rows.append(row)
        self._cards[section] = (card, rows)
        return card

    # -- values ---------------------------------------------------------------------------------
    def set_reference(self, spec: TrainSpec, changes: dict[str, Any] | None = None) -> None:
        """Show ``spec`` as the unchanged state, then apply ``changes`` by dotted path."""
        self._reference = msgspec.to_builtins(spec)
        self._data = dict(self._reference)
        self._errors.clear()
        for path, value in (changes or {}).items():
            row = self._rows.get(path)
            if row is None or self._is_within(path, off=changes or {}):
                continue
            if not check_value(row.field, self._data, value):
                self._data = with_value(self._data, path, value)
        for path, row in self._rows.items():
            row.write(value_of(self._data, path))
        self._show_switches()
        self._refresh()
        self.changed.emit()

    def _is_within(self, path: str, *, off: dict[str, Any]) -> bool:
        """Tell whether ``path`` belongs to a part that ``off`` leaves out."""
        return any(
            name in off and off[name] is None and path.startswith(f"{name}.") for name in SWITCHES
        )

    def _show_switches(self) -> None:
        """Show whether a part that can be left out is there; its settings wait with it."""
        for name in SWITCHES:
            on = value_of(self._data, name) is not None
            for path, row in self._rows.items():
                if path.startswith(f"{name}."):
                    row.editor.setEnabled(on)

    def changes(self) -> dict[str, Any]:
        """Return what differs from the reference, by dotted path."""
        found = {}
        for path in self._rows:
            value = value_of(self._data, path)
            if value != value_of(self._reference, path):
                found[path] = value
        for name in SWITCHES:  # a part that was switched on again says all of itself
            if found.get(name) is not None:
                found.pop(name)
        return {
            path: value for path, value in found.items() if not self._is_within(path, off=found)
        }

    def errors(self) -> dict[str, str]:
        """Return the fields whose text cannot be used, with the reason."""
        return dict(self._errors)

    def spec(self) -> TrainSpec:
        """Return the settings as typed.

        Raises:
            ValueError: if a field is wrong.
        """
        if self._errors:
            path, sentence = next(iter(self._errors.items()))
            raise ValueError(f"{path}: {sentence}")
        return build_spec(self._data)

    # -- slots ----------------------------------------------------------------------------------
    @Slot()
    def on_editor_changed(self) -> None:
        """Take over what was typed if it fits, and say so if it does not."""
        sender = self.sender()
        row = self._rows.get(str(sender.property("path"))) if sender is not None else None
        if row is None:
            return
        path = row.field.path
        try:
            value = row.read()
            error = check_value(row.field, self._data, value)
        except ValueError as problem:
            value, error = None, str(problem)
        if error:
            self._errors[path] = error
        else:
            self._errors.pop(path, None)
            self._take(path, msgspec.to_builtins(value))
        self._show_row(row)
        self.changed.emit()

    def _take(self, path: str, value: Any) -> None:
        self._data = with_value(self._data, path, value)
        if path not in SWITCHES:
            return
        self._show_switches()
        for other, row in self._rows.items():
            if other.startswith(f"{path}."):
                self._errors.pop(other, None)
                row.write(value_of(self._data, other))
                self._show_row(row)

    @Slot()
    def on_reset_clicked(self) -> None:
        """Return a field to the value of the reference."""
        sender = self.sender()
        row = self._rows.get(str(sender.property("path"))) if sender is not None else None
        if row is None:
            return
        value = value_of(self._reference, row.field.path)
        self._take(row.field.path, value)
        self._errors.pop(row.field.path, None)
        row.write(value)
        self._show_row(row)
        self.changed.emit()

    @Slot()
    def _on_filter_changed(self) -> None:
        QTimer.singleShot(0, self, self._filter)

    def _filter(self) -> None:
        needle = self.search.text().casefold().replace("_", " ")
        changed = self.changes()
        for card, rows in self._cards.values():
            any_shown = False
            for row in rows:
                words = f"{row.field.path} {row.field.help}".casefold().replace("_", " ")
                shown = needle in words
                if self.only_changed.isChecked():
                    shown = shown and (row.field.path in changed or row.field.path in self._errors)
                for widget in row.widgets:
                    widget.setVisible(shown and (widget is not row.reset or row.marked))
                any_shown = any_shown or shown
            card.setVisible(any_shown)

    def _show_row(self, row: _Row) -> None:
        path = row.field.path
        reference = value_of(self._reference, path)
        error = self._errors.get(path, "")
        changed = bool(error) or value_of(self._data, path) != reference
        row.show_state(changed=changed, error=error, reference=reference)

    def _refresh(self) -> None:
        for row in self._rows.values():
            self._show_row(row)
