"""A few fixed validation cases: what the persona decides of them as it learns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PySide6.QtCore import Qt, Slot
from PySide6.QtWidgets import (
    QAbstractItemView,
    QFrame,
    QHeaderView,
    QLabel,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from so8t_engine.labels import Label
from so8t_studio.theme import Theme

ROW_HEIGHT = 30
PATH = 6
TOKENS = {Label.ALLOW: "allow", Label.ESCALATE: "escalate", Label.REFUSE: "refuse"}
REQUEST, EXPECTED, NOW, SHARE, BEFORE = range(5)


class CasesPanel(QFrame):
    """One row a case: request, expected, decided now with its probability, decided before."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("role", "card")
        self.setObjectName("casesPanel")
        self._history: list[dict[str, Any]] = []
        column = QVBoxLayout(self)
        column.setContentsMargins(16, 12, 16, 12)
        column.setSpacing(4)
        title = QLabel(self.tr("Watched cases"))
        title.setProperty("role", "h3")
        column.addWidget(title)
        self.caption = QLabel()
        self.caption.setObjectName("casesCaption")
        self.caption.setProperty("role", "caption")
        self.caption.setWordWrap(True)
        column.addWidget(self.caption)
        self.table = QTableWidget(0, 5)
        self.table.setObjectName("casesTable")
        self.table.setAccessibleName(self.tr("Verdicts of the watched cases"))
        self.table.setHorizontalHeaderLabels(
            [self.tr("Request"), self.tr("Expected"), self.tr("Decided now"),
             self.tr("Probability"), self.tr("At earlier measurements")]
        )  # fmt: skip
        self.table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.table.setTabKeyNavigation(False)
        self.table.setShowGrid(False)
        self.table.setWordWrap(False)
        self.table.verticalHeader().hide()
        self.table.verticalHeader().setDefaultSectionSize(ROW_HEIGHT)
        header = self.table.horizontalHeader()
        header.setHighlightSections(False)
        header.setDefaultAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(REQUEST, QHeaderView.ResizeMode.Stretch)
        self.table.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        column.addWidget(self.table)
        Theme.instance().changed.connect(self._on_theme_changed)
        self.clear()

    def clear(self) -> None:
        """Forget the run that was shown."""
        self._history = []
        self.table.setRowCount(0)
        self.hide()

    def add(self, entries: Sequence[dict[str, Any]]) -> None:
        """Take further evaluations; a resumed run repeats those after its checkpoint."""
        for entry in entries:
            step = entry["step"]
            self._history = [old for old in self._history if old["step"] < step]
            self._history.append(entry)
        if self._history:
            self._fill()
            self.show()

    def decided(self) -> dict[str, str]:
        """Return the newest verdict of each case, by its id."""
        if not self._history:
            return {}
        return {case["id"]: case["decided"] for case in self._history[-1]["cases"]}

    def _fill(self) -> None:
        newest = self._history[-1]
        cases = newest["cases"]
        before = {case["id"]: case["decided"] for case in self._history[-2]["cases"]} if (
            len(self._history) > 1
        ) else {}  # fmt: skip
        changed = sum(before.get(case["id"], case["decided"]) != case["decided"] for case in cases)
        right = sum(case["decided"] == case["expected"] for case in cases)
        self.caption.setText(
            self.tr(
                "{right} of {count} as expected at step {step}; {changed} changed since the "
                "measurement before. They are examples: the figures above count all rows."
            ).format(right=right, count=len(cases), step=newest["step"], changed=changed)
        )
        self.table.setRowCount(len(cases))
        for row, case in enumerate(cases):
            self._fill_row(row, case)
        header = self.table.horizontalHeader().sizeHint().height()
        self.table.setFixedHeight(header + ROW_HEIGHT * len(cases) + 4)

    def _fill_row(self, row: int, case: dict[str, Any]) -> None:
        right = case["decided"] == case["expected"]
        earlier = [
            old["decided"]
            for entry in self._history[:-1]
            for old in entry["cases"]
            if old["id"] == case["id"]
        ]
        share = case.get(f"p_{case['decided'].lower()}", 0.0)
        texts = (
            " ".join(case["request"].split()),
            case["expected"],
            f"{'✓' if right else '✕'}  {case['decided']}",
            f"{share:.2f}",
            " → ".join(word.capitalize() for word in earlier[-PATH:]) or "–",
        )
        theme = Theme.instance()
        for column, text in enumerate(texts):
            item = QTableWidgetItem(text)
            item.setToolTip(case["request"] if column == REQUEST else text)
            if column == NOW:
                font = theme.font(9.5, bold=True)
                item.setFont(font)
            if column in (EXPECTED, NOW):
                label = case["expected"] if column == EXPECTED else case["decided"]
                token = TOKENS.get(Label(label)) if label in Label.__members__ else None
                if token is not None:
                    item.setForeground(theme.color(token))
            if column == BEFORE:
                item.setForeground(theme.color("text_muted"))
            self.table.setItem(row, column, item)

    @Slot()
    def _on_theme_changed(self) -> None:
        if self._history:
            self._fill()
