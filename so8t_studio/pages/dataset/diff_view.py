"""Two versions of one row beside each other, with what differs marked."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from PySide6.QtCore import Slot
from PySide6.QtGui import QColor, QFont, QTextCharFormat, QTextCursor
from PySide6.QtWidgets import QHBoxLayout, QLabel, QTextEdit, QVBoxLayout, QWidget

from so8t_engine.samples.schema import Sample
from so8t_studio.theme import Theme
from so8t_studio.widgets.label_chip import SIGNS

FIELDS = ("label", "request", "context", "rationale", "response", "category", "language", "tags",
          "source", "split")  # fmt: skip
_PIECE = re.compile(r"[A-Za-z0-9À-ɏ]+|\s+|.", re.DOTALL)
_MAX_COMPARED = 4000


def field_text(sample: Sample, name: str) -> str:
    """Return a field as one text; the label with its sign."""
    value = getattr(sample, name)
    if name == "label":
        return f"{SIGNS[sample.label]} {value}"
    return ", ".join(value) if isinstance(value, tuple) else str(value)


def different_parts(left: str, right: str) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Return where two texts differ, as (start, end) in each, by words and single signs."""
    if max(len(left), len(right)) > _MAX_COMPARED:
        return [(0, len(left))], [(0, len(right))]
    a, b = _PIECE.findall(left), _PIECE.findall(right)
    starts_a, starts_b = _starts(a), _starts(b)
    ours, theirs = [], []
    for kind, a1, a2, b1, b2 in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if kind != "equal":
            ours.append((starts_a[a1], starts_a[a2]))
            theirs.append((starts_b[b1], starts_b[b2]))
    return [part for part in ours if part[0] < part[1]], [p for p in theirs if p[0] < p[1]]


def _starts(pieces: Sequence[str]) -> list[int]:
    places = [0]
    for piece in pieces:
        places.append(places[-1] + len(piece))
    return places


class DiffView(QWidget):
    """Left the row before, right the row after."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(12)
        self.left = self._side("diffLeft", self.tr("Before"), row)
        self.right = self._side("diffRight", self.tr("After"), row)
        self._shown: tuple[Sample | None, Sample | None] = (None, None)
        Theme.instance().changed.connect(self._on_theme_changed)

    def _side(self, name: str, title: str, row: QHBoxLayout) -> QTextEdit:
        column = QVBoxLayout()
        column.setSpacing(4)
        head = QLabel(title)
        head.setProperty("role", "h3")
        text = QTextEdit()
        text.setObjectName(name)
        text.setAccessibleName(title)
        text.setReadOnly(True)
        text.setTabChangesFocus(True)
        column.addWidget(head)
        column.addWidget(text, 1)
        row.addLayout(column, 1)
        return text

    def show_rows(self, before: Sample | None, after: Sample | None) -> None:
        """Show two versions; None is a row that is not there."""
        self._shown = (before, after)
        tokens = Theme.instance().tokens
        for editor, own, other, colour, place in (
            (self.left, before, after, tokens.refuse_soft, 0),
            (self.right, after, before, tokens.allow_soft, 1),
        ):
            editor.clear()
            if own is None:
                editor.setPlainText(self.tr("(not there)"))
                continue
            _write(editor.textCursor(), own, other, QColor(colour), place)

    def clear(self) -> None:
        """Show nothing."""
        self._shown = (None, None)
        self.left.clear()
        self.right.clear()

    @Slot()
    def _on_theme_changed(self) -> None:
        if self._shown != (None, None):
            self.show_rows(*self._shown)


def _write(
    cursor: QTextCursor, own: Sample, other: Sample | None, colour: QColor, place: int
) -> None:
    """Write the fields; what the other version has not stands on ``colour``, underlined."""
    muted = QTextCharFormat()
    muted.setForeground(Theme.instance().color("text_muted"))
    bold = QTextCharFormat(muted)
    bold.setFontWeight(QFont.Weight.Bold)
    marked = QTextCharFormat()
    marked.setBackground(colour)
    marked.setFontUnderline(True)
    first = True
    for name in FIELDS:
        text = field_text(own, name)
        theirs = field_text(other, name) if other is not None else text
        if not text and not theirs:
            continue
        if not first:
            cursor.insertBlock()
        first = False
        differs = text != theirs
        cursor.insertText(f"{'▸ ' if differs else ''}{name}: ", bold if differs else muted)
        pair = (text, theirs) if place == 0 else (theirs, text)
        parts = different_parts(*pair)[place] if differs else []
        at = 0
        for start, end in parts:
            cursor.insertText(text[at:start], QTextCharFormat())
            cursor.insertText(text[start:end], marked)
            at = end
        cursor.insertText(text[at:] if text else "–", QTextCharFormat())
