"""Counts per label, category, language … which filter when they are clicked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from operator import attrgetter

from PySide6.QtCore import QEvent, QObject, Qt, Signal, Slot
from PySide6.QtGui import QKeyEvent
from PySide6.QtWidgets import QHeaderView, QTreeWidget, QTreeWidgetItem, QWidget

from so8t_engine.labels import LABELS
from so8t_engine.samples.query import quote
from so8t_engine.samples.schema import SPLITS, Sample
from so8t_studio.theme import Theme
from so8t_studio.widgets.label_chip import SIGNS, TOKENS

_TERM = int(Qt.ItemDataRole.UserRole)
_MAX_VALUES = 60


def count_facets(samples: Sequence[Sample]) -> dict[str, Counter[str]]:
    """Return counts of values by query field; an empty value counts under ''."""
    facets: dict[str, Counter[str]] = {
        name: Counter(map(attrgetter(attribute), samples))
        for name, attribute in (
            ("label", "label"),
            ("lang", "language"),
            ("category", "category"),
            ("split", "split"),
            ("source", "source"),
        )
    }
    facets["tag"] = Counter(tag for sample in samples for tag in sample.tags)
    return facets


class FacetPanel(QTreeWidget):
    """A tree of values with counts."""

    term_chosen = Signal(str)
    """A query term such as ``category:hr``."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("facets")
        self.setAccessibleName(self.tr("Filter by value"))
        self.setToolTip(self.tr("Click a value to show only its rows; click again for all rows."))
        self.setColumnCount(2)
        self.setHeaderHidden(True)
        self.setRootIsDecorated(False)
        self.setIndentation(12)
        self.setUniformRowHeights(True)
        header = self.header()
        header.setStretchLastSection(False)
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        header.setSectionResizeMode(1, QHeaderView.ResizeMode.ResizeToContents)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.itemClicked.connect(self._on_item_clicked)
        self.installEventFilter(self)
        self._shown: dict[str, Counter[str]] = {}
        Theme.instance().changed.connect(self._on_theme_changed)

    def show_counts(self, facets: dict[str, Counter[str]], issues: Counter[str]) -> None:
        """Show counts; unchanged ones cost nothing."""
        facets = {**facets, "issue": issues}
        if facets == self._shown:
            return
        self._shown = facets
        self._build()

    def _build(self) -> None:
        place = self.verticalScrollBar().value()
        self.clear()
        titles = {
            "label": self.tr("Label"),
            "lang": self.tr("Language"),
            "issue": self.tr("Issues"),
            "split": self.tr("Split"),
            "category": self.tr("Category"),
            "tag": self.tr("Tags"),
            "source": self.tr("Source"),
        }
        for name, title in titles.items():
            counts = self._shown.get(name, Counter())
            if not any(counts.values()) and name != "label":
                continue
            top = QTreeWidgetItem([title])
            font = top.font(0)
            font.setBold(True)
            top.setFont(0, font)
            top.setFlags(Qt.ItemFlag.ItemIsEnabled)
            self.addTopLevelItem(top)
            for value in self._ordered(name, counts):
                top.addChild(self._item(name, value, counts[value]))
            top.setExpanded(True)
        self.verticalScrollBar().setValue(place)

    @staticmethod
    def _ordered(name: str, counts: Counter[str]) -> Iterable[str]:
        if name == "label":
            return [label.value for label in LABELS]
        if name == "split":
            return [value for value in (*SPLITS, "") if counts[value]]
        ordered = sorted(counts, key=lambda value: (-counts[value], value))
        return [value for value in ordered if counts[value]][:_MAX_VALUES]

    def _item(self, name: str, value: str, count: int) -> QTreeWidgetItem:
        shown = value or (self.tr("auto") if name == "split" else self.tr("(empty)"))
        if name == "label":
            label = next(one for one in LABELS if one.value == value)
            shown = f"{SIGNS[label]}  {value}"
        item = QTreeWidgetItem([shown, f"{count:,}"])
        item.setTextAlignment(1, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        item.setForeground(1, Theme.instance().color("text_muted"))
        if name == "label":
            item.setForeground(0, Theme.instance().color(TOKENS[label]))
        item.setToolTip(0, shown)
        empty = "split:auto" if name == "split" else f"{name}:"
        item.setData(0, _TERM, f"{name}:{quote(value)}" if value else empty)
        return item

    @Slot(QTreeWidgetItem, int)
    def _on_item_clicked(self, item: QTreeWidgetItem, _column: int) -> None:
        term = item.data(0, _TERM)
        if term:
            self.term_chosen.emit(term)

    @Slot()
    def _on_theme_changed(self) -> None:
        self._build()

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Enter chooses the current value."""
        if (
            event.type() == QEvent.Type.KeyPress
            and isinstance(event, QKeyEvent)
            and event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter)
            and self.currentItem() is not None
        ):
            self._on_item_clicked(self.currentItem(), 0)
            return True
        return super().eventFilter(watched, event)
