"""Counts per label, category, language … which filter when they are clicked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from operator import attrgetter
from typing import ClassVar

from PySide6.QtCore import QEvent, QObject, Qt, QTimer, Signal, Slot
from PySide6.QtGui import QKeyEvent
from PySide6.QtWidgets import QHeaderView, QTreeWidget, QTreeWidgetItem, QWidget

from so8t_engine.labels import LABELS
from so8t_engine.samples.query import quote
from so8t_engine.samples.schema import SPLITS, Sample
from so8t_studio.theme import Theme
from so8t_studio.widgets.label_chip import SIGNS, TOKENS

_TERM = int(Qt.ItemDataRole.UserRole)
_MAX_VALUES = 60
_COUNT_AT_ONCE = 5000


class FacetCounter(QObject):
    """Counts values field by field between events, so that no step holds up the window."""

    counted = Signal(object)
    """dict[query field, Counter of values]; an empty value counts under ''."""

    FIELDS: ClassVar[tuple[tuple[str, str], ...]] = (
        ("label", "label"), ("lang", "language"), ("category", "category"), ("split", "split"),
        ("source", "source"), ("tag", "tags"),
    )  # fmt: skip

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self._samples: Sequence[Sample] = ()
        self._found: dict[str, Counter[str]] = {}
        self._timer = QTimer(self)
        self._timer.setInterval(0)
        self._timer.timeout.connect(self._step)

    def start(self, samples: Sequence[Sample]) -> None:
        """Count from the beginning; small datasets at once."""
        self._samples, self._found = samples, {}
        if len(samples) > _COUNT_AT_ONCE:
            self._timer.start()
            return
        self._timer.stop()
        while self._step():
            pass

    @Slot()
    def _step(self) -> bool:
        """Count one field; False after the last."""
        name, attribute = self.FIELDS[len(self._found)]
        values = map(attrgetter(attribute), self._samples)
        self._found[name] = Counter(chain.from_iterable(values) if name == "tag" else values)
        if len(self._found) < len(self.FIELDS):
            return True
        self._timer.stop()
        self._samples = ()
        self.counted.emit(self._found)
        return False


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
