"""Between the search field and the table: reads the query and applies it, slow ones off thread."""

from __future__ import annotations

from PySide6.QtCore import QObject, Signal, Slot

from so8t_engine.samples.query import Query, SearchCancelled, parse_query
from so8t_engine.samples.query_terms import Facts, QueryError
from so8t_engine.samples.schema import Sample
from so8t_studio.models.background import Reporter, Task
from so8t_studio.models.dataset_store import DatasetStore
from so8t_studio.models.sample_table import SampleTableModel

_AT_ONCE = 4000


class Filtering(QObject):
    """Applies queries to the table. A regular expression over many rows does not block typing."""

    applied = Signal()
    """The table shows the rows of the query."""
    problem = Signal(str)
    """Why the query cannot be used; '' takes that back."""
    busy_changed = Signal(bool)
    """A search in the background began or ended."""

    def __init__(self, store: DatasetStore, model: SampleTableModel, facts: Facts) -> None:
        super().__init__(model)
        self._store, self._model, self._facts = store, model, facts
        self._task: Task | None = None
        self._query = Query()
        store.samples_changed.connect(self._on_samples_changed)
        model.query_failed.connect(self.problem)

    @property
    def busy(self) -> bool:
        """True while a search goes on in the background."""
        return self._task is not None

    def apply(self, text: str) -> None:
        """Filter by a query as it was typed."""
        try:
            query = parse_query(text, self._facts)
        except QueryError as error:
            self.problem.emit(str(error))
            return
        self.stop()
        self.problem.emit("")
        if query.slow and len(self._store) > _AT_ONCE:
            self._start(query)
            return
        try:
            self._model.set_query(query)
        except QueryError as error:
            self.problem.emit(str(error))
            return
        self.applied.emit()

    def stop(self) -> None:
        """End a search that still goes on."""
        if self._task is not None:
            self._task.stop()
            self._task.deleteLater()
            self._task = None
            self.busy_changed.emit(False)

    def _start(self, query: Query) -> None:
        self._query = query
        samples, texts = list(self._store.samples), list(self._store.texts)

        def work(reporter: Reporter) -> list[Sample]:
            return query.select(samples, texts, cancelled=reporter.cancelled)

        self._task = Task(work, self)
        self._task.succeeded.connect(self._on_succeeded)
        self._task.failed.connect(self._on_failed)
        self._task.start()
        self.busy_changed.emit(True)

    @Slot(object)
    def _on_succeeded(self, found: list[Sample]) -> None:
        self.stop()
        self._model.set_query(self._query, found)
        self.applied.emit()

    @Slot(object)
    def _on_failed(self, error: Exception) -> None:
        self.stop()
        if not isinstance(error, SearchCancelled):
            self.problem.emit(str(error))

    @Slot(object)
    def _on_samples_changed(self, _change: object) -> None:
        if self._task is not None:  # it looks at rows that are no longer these
            query = self._query
            self.stop()
            self._start(query)
