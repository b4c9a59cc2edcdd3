"""The Dataset page: table, filters, detail pane, and everything that edits samples."""

from __future__ import annotations

from collections import Counter
from typing import ClassVar

from PySide6.QtCore import Qt, QTimer, Slot
from PySide6.QtGui import QDragEnterEvent, QDropEvent, QKeyEvent, QResizeEvent
from PySide6.QtWidgets import (
    QSplitter,
    QStackedWidget,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)

from so8t_engine.labels import Label
from so8t_engine.samples.query_terms import Facts
from so8t_engine.samples.schema import Sample
from so8t_studio.context import AppContext
from so8t_studio.models.dataset_store import DatasetChange
from so8t_studio.models.sample_table import SampleTableModel
from so8t_studio.pages.base import Page
from so8t_studio.pages.dataset.actions import DatasetActions
from so8t_studio.pages.dataset.counts_bar import CountsBar
from so8t_studio.pages.dataset.detail_pane import DetailPane
from so8t_studio.pages.dataset.facets import FacetCounter, FacetPanel
from so8t_studio.pages.dataset.filtering import Filtering
from so8t_studio.pages.dataset.history_panel import HistoryPanel
from so8t_studio.pages.dataset.operations import DatasetOperations
from so8t_studio.pages.dataset.quality_panel import QualityPanel
from so8t_studio.pages.dataset.remembered import Remembered
from so8t_studio.pages.dataset.search_bar import SearchBar
from so8t_studio.pages.dataset.statistics_panel import StatisticsPanel
from so8t_studio.pages.dataset.table_view import SampleTableView, next_after_label
from so8t_studio.pages.dataset.toolbar import DatasetToolbar
from so8t_studio.widgets.banner import Banner
from so8t_studio.widgets.empty_state import EmptyState

_REFRESH_MS = 120
_WIDE = 1200
_NARROW = 900
_MAX_OFFERED = 200


class DatasetPage(Page):
    """See the module."""

    key: ClassVar[str] = "dataset"

    def __init__(self, context: AppContext, parent: QWidget | None = None) -> None:
        super().__init__(context, parent)
        self._store = context.dataset
        self.model = SampleTableModel(self._store, self)
        self.actions_ = DatasetActions(self)
        self._stale = True
        self.setAcceptDrops(True)
        self.body.setSpacing(10)
        self.banner = Banner(dismissible=True)
        self.banner.action_triggered.connect(self._on_banner_action)
        self._banner_action = ""
        self.body.addWidget(self.banner)
        self.toolbar = DatasetToolbar(self.actions_)
        self.toolbar.facets_clicked.connect(self._on_facets_clicked)
        self.body.addWidget(self.toolbar)
        self.counts = CountsBar()
        self.counts.label_chosen.connect(self._on_count_chosen)
        self.body.addWidget(self.counts)
        self.stack = QStackedWidget()
        self.empty = EmptyState(
            "dataset",
            self.tr("No examples yet"),
            self.tr(
                "A persona learns from examples: what people ask, and whether the answer is "
                "ALLOW, ESCALATE or REFUSE. Import a file (JSON Lines, JSON, CSV, TSV, Parquet), "
                "drop one here, or add rows by hand."
            ),
            self.tr("Import a file…"),
        )
        self.stack.addWidget(self.empty)
        self.stack.addWidget(self._make_work_area())
        self.body.addWidget(self.stack, 1)
        self.operations = DatasetOperations(self)
        self.empty.action_triggered.connect(self.operations.choose_import)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_REFRESH_MS)
        self._timer.timeout.connect(self._refresh_counts)
        self._counter = FacetCounter(self)
        self._counter.counted.connect(self._on_counted)
        self.filtering = Filtering(
            self._store, self.model, Facts(self.quality.issues, self.statistics.token_counts)
        )
        self._connect()
        self.remembered = Remembered(context.settings, self.table, self.search, self)
        self._after_load()

    def title(self) -> str:
        """Return the page's name."""
        return self.tr("Dataset")

    # Layout

    def _make_work_area(self) -> QWidget:
        area = QWidget()
        column = QVBoxLayout(area)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(8)
        self.search = SearchBar()
        column.addWidget(self.search)
        self.splitter = QSplitter(Qt.Orientation.Horizontal)
        self.splitter.setObjectName("datasetSplitter")
        self.splitter.setChildrenCollapsible(False)
        self.facets = FacetPanel()
        self.facets.setMinimumWidth(150)
        self.table = SampleTableView(self.model)
        self.table.setMinimumWidth(300)
        self.detail = DetailPane(self._store)
        self.quality = QualityPanel(self._store)
        self.statistics = StatisticsPanel(self._store)
        self.tabs = QTabWidget()
        self.tabs.setObjectName("datasetTabs")
        self.tabs.setDocumentMode(True)
        self.tabs.setMinimumWidth(320)
        self.tabs.addTab(self.detail, self.tr("Row"))
        self.tabs.addTab(self.quality, self.tr("Quality"))
        self.tabs.addTab(self.statistics, self.tr("Statistics"))
        self.history = HistoryPanel(self._store.undo_stack, read_only=self._store.read_only)
        self.tabs.addTab(self.history, self.tr("History"))
        self.tabs.currentChanged.connect(self.detail.commit)
        for part, stretch in ((self.facets, 0), (self.table, 3), (self.tabs, 1)):
            self.splitter.addWidget(part)
            self.splitter.setStretchFactor(self.splitter.count() - 1, stretch)
        self.splitter.setSizes([180, 680, 320])
        column.addWidget(self.splitter, 1)
        return area

    def _connect(self) -> None:
        store, table = self._store, self.table
        store.samples_changed.connect(self._on_samples_changed)
        store.modified_changed.connect(self._on_modified_changed)
        store.undo_stack.undoTextChanged.connect(self._on_undo_text_changed)
        store.undo_stack.redoTextChanged.connect(self._on_undo_text_changed)
        store.undo_stack.canUndoChanged.connect(self._on_undo_text_changed)
        store.undo_stack.canRedoChanged.connect(self._on_undo_text_changed)
        self.model.view_changed.connect(self._on_view_changed)
        table.current_changed.connect(self._on_current_changed)
        table.selectionModel().selectionChanged.connect(self._on_selection_changed)
        table.label_key_pressed.connect(self._on_label_key_pressed)
        table.edit_requested.connect(self.focus_field)
        table.search_requested.connect(self._on_search_requested)
        self.search.query_changed.connect(self._on_query_changed)
        self.search.left.connect(self._on_search_left)
        self.filtering.problem.connect(self.search.show_problem)
        self.filtering.busy_changed.connect(self.search.show_busy)
        self.filtering.applied.connect(self._on_filtered)
        self.facets.term_chosen.connect(self.search.toggle_term)
        self.quality.query_requested.connect(self._on_finding_chosen)
        self.quality.issues_found.connect(self._on_issues_found)
        self.statistics.term_chosen.connect(self.search.toggle_term)
        self.actions_.search.triggered.connect(self._on_search_requested)
        for label, action in self.actions_.labels.items():
            action.setData(label)
            action.triggered.connect(self._on_label_action)

    # Page

    def on_shown(self) -> None:
        """Bring counts up to date if they changed while the page was hidden."""
        if self._stale:
            self._refresh_counts()

    def open_payload(self, payload: object) -> None:
        """Show the rows of a query, or one row by ``id:``."""
        if isinstance(payload, str):
            self.search.set_text(payload)

    def can_close(self) -> bool:
        """Offer to save unsaved edits before the window closes."""
        self.detail.commit()
        self.quality.stop()
        self.statistics.stop()
        self.filtering.stop()
        self.remembered.flush()
        closing = self.operations.confirm_unsaved()
        if closing:
            self._store.flush_journal()
        return closing

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Show the facets by default only where there is room."""
        super().resizeEvent(event)
        self._show_facets()
        self.toolbar.set_narrow(self.width() < _NARROW)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Escape goes back to the table, and from there to all rows."""
        if event.key() == Qt.Key.Key_Escape and self.stack.currentIndex() == 1:
            if self.table.hasFocus() and self.search.text():
                self.search.set_text("")
            else:
                self.table.setFocus()
            return
        super().keyPressEvent(event)

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        """Accept files."""
        if not self._store.read_only and any(u.isLocalFile() for u in event.mimeData().urls()):
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:
        """Import the files that were dropped, one after the other."""
        names = [url.toLocalFile() for url in event.mimeData().urls() if url.isLocalFile()]
        if names:
            event.acceptProposedAction()
            self.operations.import_later(names)

    # What the operations ask

    def target_ids(self) -> list[str]:
        """Return the selected rows, or the current one."""
        ids = self.table.selected_ids()
        current = self.table.current_sample()
        return ids or ([current.id] if current is not None else [])

    def scope_ids(self) -> list[str]:
        """Return the selection if it has several rows, else all rows that are shown."""
        ids = self.table.selected_ids()
        return ids if len(ids) > 1 else self.model.ids()

    @Slot(str)
    def focus_field(self, field: str) -> None:
        """Put the cursor into a field of the detail pane."""
        self.tabs.setCurrentWidget(self.detail)
        editor = self.detail.fields[field]
        editor.setFocus(Qt.FocusReason.ShortcutFocusReason)
        editor.selectAll()
        self.detail.ensureWidgetVisible(editor)

    def show_notice(self, kind: str, text: str, *, action: str = "", label: str = "") -> None:
        """Show a banner; ``action`` names what its button does."""
        self._banner_action = action
        self.banner.show_message(kind, text, action=label)

    # Reactions

    @Slot(object)
    def _on_samples_changed(self, change: DatasetChange) -> None:
        if change.kind == "loaded":
            self._after_load()
            return
        self.stack.setCurrentIndex(1 if len(self._store) else 0)
        self._show_detail()
        self._schedule()

    def _after_load(self) -> None:
        self.stack.setCurrentIndex(1 if len(self._store) else 0)
        self.banner.clear()
        self.search.set_text("")
        if len(self._store):
            self.table.go_to_row(0)
        self._update_enabled()
        self.history.set_read_only(self._store.read_only)
        self._on_undo_text_changed()
        self._on_modified_changed(self._store.modified)
        self._refresh_counts()
        self.operations.announce_load()

    def _schedule(self) -> None:
        self._show_numbers()
        self._stale = True
        if self.isVisible():
            self._timer.start()

    @Slot()
    def _refresh_counts(self) -> None:
        self._stale = False
        self.operations.announce_journal()
        self._counter.start(self._store.samples)
        self._show_numbers()
        self.quality.mark_stale()
        self.statistics.mark_stale()

    @Slot(object)
    def _on_counted(self, facets: dict[str, Counter[str]]) -> None:
        issues = self.quality.issue_counts()
        self.facets.show_counts(facets, issues)
        values = {name: [v for v, _ in c.most_common(_MAX_OFFERED) if v]
                  for name, c in facets.items()}  # fmt: skip
        self.search.set_values({**values, "issue": ["any", *issues]})

    def _show_numbers(self) -> None:
        rows = self.table.selectionModel().selection()
        selected = sum(part.bottom() - part.top() + 1 for part in rows)
        self.counts.show_counts(
            len(self._store), self._store.label_counts(), self.model.rowCount(), selected
        )

    @Slot(bool)
    def _on_modified_changed(self, modified: bool) -> None:
        persona = self._store.persona
        name = persona.name if persona is not None else ""
        state = self.tr("{name} · unsaved edits") if modified else self.tr("{name} · saved")
        if self._store.read_only and persona is not None:
            state = self.tr("{name} · read-only")
        self.header.set_subtitle(state.format(name=name) if name else "")
        self.actions_.save.setEnabled(modified and not self._store.read_only)

    @Slot()
    def _on_undo_text_changed(self) -> None:
        stack, acts = self._store.undo_stack, self.actions_
        writable = not self._store.read_only
        acts.undo.setEnabled(stack.canUndo() and writable)
        acts.redo.setEnabled(stack.canRedo() and writable)
        undo, redo = stack.undoText(), stack.redoText()
        acts.undo.setToolTip(self.tr("Undo: {what}").format(what=undo) if undo else self.tr("Undo"))
        acts.redo.setToolTip(self.tr("Redo: {what}").format(what=redo) if redo else self.tr("Redo"))

    def _update_enabled(self) -> None:
        acts = self.actions_
        writable = not self._store.read_only
        some = writable and len(self._store) > 0
        for action in (acts.import_file, acts.add):
            action.setEnabled(writable)
        for action in (
            acts.delete,
            acts.tag,
            acts.find_replace,
            acts.splits,
            *acts.labels.values(),
        ):
            action.setEnabled(some)
        self.toolbar.split_menu.setEnabled(some)
        acts.export.setEnabled(len(self._store) > 0)
        self.empty.button.setVisible(writable)

    @Slot()
    def _on_view_changed(self) -> None:
        self._update_enabled()
        if not self.table.currentIndex().isValid() and self.model.rowCount():
            last = self.detail.sample
            if last is None or not self.table.go_to(last.id):
                self.table.go_to_row(0)
        self._show_detail()
        self._show_numbers()

    @Slot(object)
    def _on_current_changed(self, _sample: Sample | None) -> None:
        self._show_detail()

    @Slot()
    def _on_selection_changed(self) -> None:
        self._show_numbers()
        self._show_detail()

    def _show_detail(self) -> None:
        parts = self.table.selectionModel().selection()
        selected = sum(part.bottom() - part.top() + 1 for part in parts)
        self.detail.show_sample(self.table.current_sample(), selected)

    @Slot(object)
    def _on_label_key_pressed(self, label: Label) -> None:
        """Label and move on, also when the filter makes the row disappear."""
        following = next_after_label(self.table, self.model)
        self.operations.relabel(label)
        if following:
            self.table.go_to(following)

    @Slot()
    def _on_label_action(self) -> None:
        action = self.sender()
        for label, own in self.actions_.labels.items():
            if own is action:
                self.operations.relabel(label)

    @Slot(object)
    def _on_count_chosen(self, label: Label) -> None:
        self.search.toggle_term(f"label:{label.value}")

    @Slot(str)
    def _on_query_changed(self, text: str) -> None:
        if "issue:" not in text:
            self.model.set_rank({})
        self.detail.commit()
        self.filtering.apply(text)

    @Slot()
    def _on_filtered(self) -> None:
        self.table.scrollTo(self.table.currentIndex())
        self._show_numbers()

    @Slot(str)
    def _on_finding_chosen(self, query: str) -> None:
        """Show the rows of a finding, those that belong together next to each other."""
        self.model.set_rank(self.quality.rank(query))
        self.search.set_text(query)

    @Slot()
    def _on_search_left(self) -> None:
        self.table.setFocus()

    @Slot()
    def _on_search_requested(self) -> None:
        if self.stack.currentIndex() == 1:
            self.search.field.setFocus(Qt.FocusReason.ShortcutFocusReason)
            self.search.field.selectAll()

    @Slot()
    def _on_issues_found(self) -> None:
        self._counter.start(self._store.samples)
        if "issue:" in self.search.text():
            self.model.set_rank(self.quality.rank(self.search.text()))
            self._on_query_changed(self.search.text())

    @Slot()
    def _on_banner_action(self) -> None:
        self.operations.banner_action(self._banner_action)

    @Slot(bool)
    def _on_facets_clicked(self, shown: bool) -> None:
        self.remembered.remember(facets=shown)
        self._show_facets()

    def _show_facets(self) -> None:
        wanted = self.remembered.facets if hasattr(self, "remembered") else None
        shown = self.width() >= _WIDE if wanted is None else wanted
        self.facets.setVisible(shown)
        self.toolbar.facets_button.setChecked(shown)
