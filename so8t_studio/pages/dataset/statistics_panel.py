"""Label balance per language and category, lengths; charts filter when clicked."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal, Slot
from PySide6.QtGui import QShowEvent
from PySide6.QtWidgets import QFrame, QLabel, QScrollArea, QVBoxLayout, QWidget

from so8t_engine.labels import LABELS
from so8t_engine.samples.query import quote
from so8t_engine.samples.stats import Lengths, TokenCounts, summarize_rows, token_counter
from so8t_studio.models.background import Reporter, Task
from so8t_studio.models.dataset_store import DatasetStore
from so8t_studio.pages.dataset.charts import Histogram, StackedBars
from so8t_studio.theme import Theme
from so8t_studio.widgets.label_chip import SIGNS, TOKENS

_MAX_CATEGORIES = 30


class StatisticsPanel(QScrollArea):
    """Counts in the background when it is visible and the data changed."""

    term_chosen = Signal(str)
    """A query term such as ``lang:ja``."""

    def __init__(self, store: DatasetStore, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._store = store
        self._stale = True
        self._task: Task | None = None
        self._tokens: dict[str, int] = {}
        self.setObjectName("statisticsPanel")
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        body = QWidget()
        body.setObjectName("scrollBody")
        self.setWidget(body)
        column = QVBoxLayout(body)
        column.setContentsMargins(4, 8, 10, 8)
        column.setSpacing(6)
        self.legend = QLabel()
        self.legend.setObjectName("chartLegend")
        self.legend.setTextFormat(Qt.TextFormat.RichText)
        column.addWidget(self.legend)
        self.labels = StackedBars(self.tr("Rows by label"))
        self.labels.setObjectName("chartLabels")
        self.labels.chosen.connect(self._on_label_chosen)
        self.splits = StackedBars(self.tr("Rows by split and label"))
        self.splits.setObjectName("chartSplits")
        self.splits.chosen.connect(self._on_split_chosen)
        self.languages = StackedBars(self.tr("Rows by language and label"))
        self.languages.setObjectName("chartLanguages")
        self.languages.chosen.connect(self._on_language_chosen)
        self.categories = StackedBars(self.tr("Rows by category and label"))
        self.categories.setObjectName("chartCategories")
        self.categories.chosen.connect(self._on_category_chosen)
        self.characters = Histogram(self.tr("Length of requests in characters"))
        self.characters.setObjectName("chartCharacters")
        self.characters.chosen.connect(self._on_length_chosen)
        self.tokens = Histogram(self.tr("Length of requests in tokens of the base model"))
        self.tokens.setObjectName("chartTokens")
        self.tokens.chosen.connect(self._on_tokens_chosen)
        self._notes: dict[str, QLabel] = {}
        for title, widget, name in (
            (self.tr("By label"), self.labels, ""),
            (self.tr("By language"), self.languages, ""),
            (self.tr("By category"), self.categories, ""),
            (self.tr("By split"), self.splits, ""),
            (self.tr("Length in characters"), self.characters, "characters"),
            (self.tr("Length in tokens (base model)"), self.tokens, "tokens"),
        ):
            head = QLabel(title)
            head.setProperty("role", "h3")
            column.addWidget(head)
            column.addWidget(widget)
            if name:
                note = QLabel()
                note.setProperty("role", "caption")
                note.setWordWrap(True)
                self._notes[name] = note
                column.addWidget(note)
            column.addSpacing(6)
        column.addStretch(1)
        Theme.instance().changed.connect(self._on_theme_changed)
        self._on_theme_changed()

    @Slot()
    def _on_theme_changed(self) -> None:
        tokens = Theme.instance().tokens
        parts = [
            f'<span style="color:{getattr(tokens, TOKENS[label])}">■</span>'
            f" {SIGNS[label]} {label.value}"
            for label in LABELS
        ]
        self.legend.setText("&nbsp;&nbsp; ".join(parts))

    def token_counts(self) -> dict[str, int]:
        """Return the number of tokens of each row, as of the last count."""
        return self._tokens

    def mark_stale(self) -> None:
        """The data changed; count again if somebody looks."""
        self._stale = True
        if self.isVisible():
            self.run()

    def showEvent(self, event: QShowEvent) -> None:
        """Count when the panel is looked at."""
        super().showEvent(event)
        if self._stale:
            self.run()

    def run(self) -> None:
        """Count in the background."""
        self.stop()
        self._stale = False
        samples = list(self._store.samples)
        persona = self._store.persona
        reference = "default"
        if persona is not None:
            try:
                reference = persona.info.base_model
            except ValueError:
                reference = "default"

        def work(_reporter: Reporter) -> TokenCounts:
            return summarize_rows(samples, _counter(reference))

        self._task = Task(work, self)
        self._task.succeeded.connect(self._on_succeeded)
        self._task.failed.connect(self._on_failed)
        self._notes["characters"].setText(self.tr("Counting…"))
        self._task.start()

    def stop(self) -> None:
        """End a count that is going on."""
        if self._task is not None:
            self._task.stop()
            self._task.deleteLater()
            self._task = None

    @Slot(object)
    def _on_failed(self, error: Exception) -> None:
        self.stop()
        self._notes["characters"].setText(
            self.tr("The rows cannot be counted: {error}.").format(error=error)
        )

    @Slot(object)
    def _on_succeeded(self, found: TokenCounts) -> None:
        self.stop()
        statistics, self._tokens = found.statistics, found.tokens
        empty = self.tr("(none)")
        self.labels.show_rows(
            [(name, name, {name: count}) for name, count in statistics.labels.items()]
        )
        self.splits.show_rows([(name, name, counts) for name, counts in statistics.splits.items()])
        self.languages.show_rows(
            [(name, name or empty, counts) for name, counts in statistics.languages.items()][:12]
        )
        categories = list(statistics.categories.items())[:_MAX_CATEGORIES]
        self.categories.show_rows([(name, name or empty, counts) for name, counts in categories])
        self._show_lengths("characters", self.characters, statistics.characters)
        self._show_lengths("tokens", self.tokens, statistics.tokens)

    def _show_lengths(self, name: str, chart: Histogram, found: Lengths | None) -> None:
        chart.setVisible(found is not None)
        if found is None:
            self._notes[name].setText(
                self.tr("The base model is not on this machine yet; see the Persona page.")
            )
            return
        units = {"characters": self.tr("characters"), "tokens": self.tr("tokens")}
        chart.show_counts(found.edges, found.counts, units[name])
        self._notes[name].setText(
            self.tr("median {median} · 95 % below {p95} · longest {longest}").format(
                median=f"{found.median:,.0f}",
                p95=f"{found.p95:,.0f}",
                longest=f"{found.longest:,}",
            )
        )

    @Slot(str)
    def _on_language_chosen(self, name: str) -> None:
        self.term_chosen.emit(f"lang:{quote(name)}")

    @Slot(str)
    def _on_category_chosen(self, name: str) -> None:
        self.term_chosen.emit(f"category:{quote(name)}")

    @Slot(object)
    def _on_length_chosen(self, step: tuple[int, int]) -> None:
        self._choose_step("length", self.characters, step)

    @Slot(object)
    def _on_tokens_chosen(self, step: tuple[int, int]) -> None:
        self._choose_step("tokens", self.tokens, step)

    def _choose_step(self, name: str, chart: Histogram, step: tuple[int, int]) -> None:
        last = step[1] >= chart.end  # the last step holds everything that is longer, too
        self.term_chosen.emit(f"{name}>={step[0]}" + ("" if last else f" {name}<{step[1]}"))

    @Slot(str)
    def _on_label_chosen(self, name: str) -> None:
        self.term_chosen.emit(f"label:{name}")

    @Slot(str)
    def _on_split_chosen(self, name: str) -> None:
        self.term_chosen.emit(f"split:{name}")


def _counter(reference: str):  # type: ignore[no-untyped-def]
    """Return the token counter of a base model, None where it is not on this machine."""
    from so8t_engine.errors import So8tError

    try:
        from so8t_engine.model.base_cache import resolve_base

        return token_counter(resolve_base(reference))
    except (ImportError, So8tError, OSError):
        return None
