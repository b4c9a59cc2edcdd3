"""A log with levels, a level filter and search; bounded in memory."""

from __future__ import annotations

import datetime as dt
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from PySide6.QtCore import Slot
from PySide6.QtGui import QColor, QGuiApplication, QTextCharFormat, QTextCursor
from PySide6.QtWidgets import (
    QComboBox,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPlainTextEdit,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from so8t_studio.theme import Theme

LEVELS = ("debug", "info", "warning", "error")
LIMIT = 20_000
_TOKENS = {"debug": "text_muted", "info": "text", "warning": "warning", "error": "error"}
_SIGNS = {"debug": "·", "info": " ", "warning": "!", "error": "✕"}


@dataclass(frozen=True)
class LogLine:
    """One line: seconds since the epoch, level, text."""

    t: float
    level: str
    message: str


class LogView(QWidget):
    """Read-only log. It follows its end until the user scrolls up."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("logView")
        self._lines: deque[LogLine] = deque(maxlen=LIMIT)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(8)
        tools = QHBoxLayout()
        tools.setSpacing(8)
        self.level = QComboBox()
        self.level.setObjectName("logLevel")
        self.level.setAccessibleName(self.tr("Least level that is shown"))
        for name, text in zip(
            LEVELS,
            (self.tr("Everything"), self.tr("Info"), self.tr("Warnings"), self.tr("Errors")),
            strict=True,
        ):
            self.level.addItem(text, name)
        self.level.setCurrentIndex(1)
        self.level.currentIndexChanged.connect(self._on_filter_changed)
        tools.addWidget(self.level)
        self.search = QLineEdit()
        self.search.setObjectName("logSearch")
        self.search.setAccessibleName(self.tr("Search the log"))
        self.search.setPlaceholderText(self.tr("Search the log"))
        self.search.setClearButtonEnabled(True)
        self.search.textChanged.connect(self._on_filter_changed)
        tools.addWidget(self.search, 1)
        self.count = QLabel()
        self.count.setProperty("role", "caption")
        tools.addWidget(self.count)
        self.copy = QPushButton(self.tr("Copy log"))
        self.copy.setObjectName("logCopy")
        self.copy.setAccessibleName(self.tr("Copy the shown lines of the log"))
        self.copy.clicked.connect(self._on_copy_clicked)
        tools.addWidget(self.copy)
        column.addLayout(tools)
        self.text = QPlainTextEdit()
        self.text.setObjectName("logText")
        self.text.setAccessibleName(self.tr("Log"))
        self.text.setReadOnly(True)
        self.text.setMaximumBlockCount(LIMIT)
        self.text.setLineWrapMode(QPlainTextEdit.LineWrapMode.WidgetWidth)
        self.text.setFont(Theme.instance().mono_font(9.0))
        column.addWidget(self.text, 1)
        Theme.instance().changed.connect(self._on_filter_changed)
        self._show_count()

    def append(self, message: str, level: str = "info", t: float = 0.0) -> None:
        """Add one line."""
        self.extend([LogLine(t, level if level in LEVELS else "info", message)])

    def extend(self, lines: Iterable[LogLine]) -> None:
        """Add lines, oldest first."""
        fresh = list(lines)[-LIMIT:]
        self._lines.extend(fresh)
        self._write([line for line in fresh if self._shown(line)])
        self._show_count()

    def clear(self) -> None:
        """Forget all lines."""
        self._lines.clear()
        self.text.clear()
        self._show_count()

    def lines(self) -> list[LogLine]:
        """Return all lines that are held, shown or not."""
        return list(self._lines)

    def _shown(self, line: LogLine) -> bool:
        least = LEVELS.index(self.level.currentData())
        if LEVELS.index(line.level) < least:
            return False
        needle = self.search.text().casefold()
        return not needle or needle in line.message.casefold()

    def _write(self, lines: list[LogLine]) -> None:
        if not lines:
            return
        bar = self.text.verticalScrollBar()
        follow = bar.value() >= bar.maximum() - 2
        cursor = QTextCursor(self.text.document())
        cursor.movePosition(QTextCursor.MoveOperation.End)
        cursor.beginEditBlock()
        first = self.text.document().isEmpty()
        for line in lines:
            if not first:
                cursor.insertBlock()
            first = False
            form = QTextCharFormat()
            form.setForeground(QColor(getattr(Theme.instance().tokens, _TOKENS[line.level])))
            stamp = dt.datetime.fromtimestamp(line.t).strftime("%H:%M:%S") if line.t else " " * 8
            cursor.insertText(f"{stamp} {_SIGNS[line.level]} {line.message}", form)
        cursor.endEditBlock()
        if follow:
            bar.setValue(bar.maximum())

    @Slot()
    def _on_filter_changed(self) -> None:
        self.text.clear()
        self._write([line for line in self._lines if self._shown(line)])
        self._show_count()

    def _show_count(self) -> None:
        shown = 0 if self.text.document().isEmpty() else self.text.document().blockCount()
        if shown == len(self._lines):
            one = len(self._lines) == 1
            words = self.tr("1 line") if one else self.tr("{count} lines")
            self.count.setText(words.format(count=len(self._lines)))
        else:
            self.count.setText(
                self.tr("{shown} of {total} lines").format(shown=shown, total=len(self._lines))
            )

    @Slot()
    def _on_copy_clicked(self) -> None:
        QGuiApplication.clipboard().setText(self.text.toPlainText())
