"""The search field with completion, a label filter and saved filters."""

from __future__ import annotations

import re

from PySide6.QtCore import QStringListModel, Qt, QTimer, Signal, Slot
from PySide6.QtGui import QAction
from PySide6.QtWidgets import (
    QComboBox,
    QCompleter,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QMenu,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from so8t_engine.labels import LABELS
from so8t_engine.samples.query import quote
from so8t_studio.theme import Theme
from so8t_studio.widgets.label_chip import SIGNS

_FIELDS = ("label:", "lang:", "category:", "tag:", "split:", "source:", "issue:", "length>",
           "length<", "tokens>", "tokens<", "word:", "request:", "response:", "rationale:",
           "context:", "id:")  # fmt: skip
_LABEL_TERM = re.compile(r"(?<!\S)label:(ALLOW|ESCALATE|REFUSE)(?!\S)", re.IGNORECASE)
_TERMS = re.compile(r'(?:[^\s"]|"(?:[^"\\]|\\.)*")+')
_NAME = re.compile(r"[a-z]+(?=[:<>=])")
_WORD = re.compile(r'(?:[^\s"]|"(?:[^"\\]|\\.)*(?:"|$))*$')


def _field_of(term: str) -> str:
    found = _NAME.match(term)
    return found[0] if found is not None else ""


class SearchBar(QWidget):
    """Emits the query as text; the page understands it and reports errors back."""

    query_changed = Signal(str)
    left = Signal()
    """Enter or Down: the user wants to go on in the table."""
    filter_saved = Signal(str)
    filter_removed = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(2)
        row = QHBoxLayout()
        row.setSpacing(8)
        self.field = QLineEdit()
        self.field.setObjectName("searchField")
        self.field.setAccessibleName(self.tr("Search"))
        self.field.setPlaceholderText(self.tr("Search, or label:REFUSE lang:ja -tag:reviewed"))
        self.field.setClearButtonEnabled(True)
        self.field.setToolTip(
            self.tr(
                "Words must all occur. “a phrase”, /regular expression/, word:whole, "
                "field:value, field: (empty), length>200; a minus before any of them excludes."
            )
        )
        row.addWidget(self.field, 1)
        self.labels = QComboBox()
        self.labels.setObjectName("labelFilter")
        self.labels.setAccessibleName(self.tr("Label filter"))
        self.labels.addItem(self.tr("All labels"), "")
        for label in LABELS:
            self.labels.addItem(f"{SIGNS[label]} {label.value}", label.value)
        self.labels.activated.connect(self._on_label_activated)
        row.addWidget(self.labels)
        self.saved = QToolButton()
        self.saved.setObjectName("savedFilters")
        self.saved.setAccessibleName(self.tr("Saved filters"))
        self.saved.setToolTip(self.tr("Saved filters"))
        self.saved.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        self._menu = QMenu(self.saved)
        self._menu.aboutToShow.connect(self._fill_menu)
        self.saved.setMenu(self._menu)
        row.addWidget(self.saved)
        column.addLayout(row)
        self.problem = QLabel()
        self.problem.setObjectName("searchProblem")
        self.problem.setProperty("role", "error")
        self.problem.setWordWrap(True)
        self.problem.hide()
        column.addWidget(self.problem)
        self.busy = QLabel(self.tr("Searching…"))
        self.busy.setObjectName("searchBusy")
        self.busy.setProperty("role", "muted")
        self.busy.hide()
        column.addWidget(self.busy)
        self._filters: list[str] = []
        self._values: dict[str, list[str]] = {}
        self._words = QStringListModel(self)
        self._completer = QCompleter(self._words, self)
        self._completer.setWidget(self.field)
        self._completer.setCaseSensitivity(Qt.CaseSensitivity.CaseInsensitive)
        self._completer.activated.connect(self._on_completed)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(0)  # keys that wait already are taken together
        self._timer.timeout.connect(self._announce)
        self.field.textChanged.connect(self._on_text_changed)
        self.field.textEdited.connect(self._on_text_edited)
        self.field.returnPressed.connect(self._on_return_pressed)
        Theme.instance().changed.connect(self._on_theme_changed)
        self._on_theme_changed()

    def text(self) -> str:
        """Return the query."""
        return self.field.text()

    def set_text(self, text: str) -> None:
        """Replace the query and announce it at once."""
        self.field.setText(text)
        self._timer.stop()
        self._announce()

    def toggle_term(self, term: str) -> None:
        """Add a term such as ``lang:ja``; take it out if it is there; replace its field's value.

        Several terms of one field, such as ``length>=3 length<6``, come and go together.
        """
        terms, added = _TERMS.findall(self.field.text()), _TERMS.findall(term)
        name = _field_of(term)
        own = [one for one in terms if name and _field_of(one) == name]
        kept = [one for one in terms if one not in own]
        self.set_text(" ".join(kept if own == added else [*kept, *added]))

    def show_problem(self, sentence: str) -> None:
        """Say what is wrong with the query; '' says that nothing is."""
        self.problem.setText(sentence)
        self.problem.setVisible(bool(sentence))
        self.field.setProperty("invalid", bool(sentence))
        self.field.style().unpolish(self.field)
        self.field.style().polish(self.field)

    def show_busy(self, busy: bool) -> None:
        """Say that a search goes on in the background, or no longer."""
        self.busy.setVisible(busy)

    def set_values(self, values: dict[str, list[str]]) -> None:
        """Offer values of fields for completion, by query name of the field."""
        self._values = values

    def set_filters(self, filters: list[str]) -> None:
        """Show saved filters."""
        self._filters = list(filters)

    @Slot(str)
    def _on_text_changed(self, text: str) -> None:
        found = _LABEL_TERM.search(text)
        self.labels.setCurrentIndex(
            self.labels.findData(found[1].upper()) if found is not None else 0
        )
        self._timer.start()

    @Slot(str)
    def _on_text_edited(self, text: str) -> None:
        word = self._word()[0]
        if not word:
            self._completer.popup().hide()
            return
        name, colon, _ = word.lstrip("-").partition(":")
        minus = "-" if word.startswith("-") else ""
        if colon:
            options = [f"{minus}{name}:{quote(v)}" for v in self._values.get(name, ())]
        else:
            options = [minus + field for field in _FIELDS]
        self._words.setStringList(options)
        self._completer.setCompletionPrefix(word)
        found = self._completer.completionCount()
        if found and not (found == 1 and self._completer.currentCompletion() == word):
            self._completer.complete()
        else:
            self._completer.popup().hide()

    def _word(self) -> tuple[str, int]:
        """Return the word before the cursor and where it starts."""
        place = self.field.cursorPosition()
        before = self.field.text()[:place]
        found = _WORD.search(before)
        start = found.start() if found is not None else place
        return before[start:], start

    @Slot(str)
    def _on_completed(self, choice: str) -> None:
        word, start = self._word()
        text = self.field.text()
        self.field.setText(text[:start] + choice + text[start + len(word) :])
        self.field.setCursorPosition(start + len(choice))
        if choice.endswith(":"):  # a field was chosen; its values come next
            self._on_text_edited(self.field.text())

    @Slot()
    def _announce(self) -> None:
        self.query_changed.emit(self.field.text())

    @Slot()
    def _on_return_pressed(self) -> None:
        self._timer.stop()
        self._announce()
        self.left.emit()

    @Slot(int)
    def _on_label_activated(self, _index: int) -> None:
        value = self.labels.currentData()
        rest = _LABEL_TERM.sub("", self.field.text()).strip()
        self.set_text(f"label:{value} {rest}".strip() if value else rest)

    @Slot()
    def _fill_menu(self) -> None:
        self._menu.clear()
        for text in self._filters:
            self._menu.addAction(text).setData(text)
        if self._filters:
            self._menu.addSeparator()
        current = self.field.text().strip()
        if current in self._filters:
            self._menu.addAction(self.tr("Forget this filter")).setData(("remove", current))
        else:
            keep = self._menu.addAction(self.tr("Save this filter"))
            keep.setData(("save", current))
            keep.setEnabled(bool(current))
        for action in self._menu.actions():
            action.triggered.connect(self._on_menu_triggered)

    @Slot()
    def _on_menu_triggered(self) -> None:
        action = self.sender()
        if not isinstance(action, QAction):
            return
        data = action.data()
        if isinstance(data, str):
            self.set_text(data)
        elif data[0] == "save":
            self.filter_saved.emit(data[1])
        else:
            self.filter_removed.emit(data[1])

    @Slot()
    def _on_theme_changed(self) -> None:
        self.saved.setIcon(Theme.instance().icon("star", "text_muted"))
