"""All runs of the persona: list, comparison, notes; resume, continue, run again, delete."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import QItemSelectionModel, QSortFilterProxyModel, Qt, QUrl, Signal, Slot
from PySide6.QtGui import QAction, QDesktopServices
from PySide6.QtWidgets import (
    QAbstractItemView,
    QHBoxLayout,
    QHeaderView,
    QMenu,
    QMessageBox,
    QPushButton,
    QSplitter,
    QStackedWidget,
    QTableView,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)

from so8t_engine.workspace.runs import RunNotes, RunStore
from so8t_studio.jobs.background import Failure, Loader
from so8t_studio.pages.train.compare import ConfigDiff, Overlay, read_curves
from so8t_studio.pages.train.run_details import RunDetails
from so8t_studio.pages.train.runs_model import NOTES, RUN, STAR, RunRow, RunsModel, read_row
from so8t_studio.widgets.empty_state import EmptyState

OVERLAY_LIMIT = 8


class RunsPanel(QWidget):
    """``show_requested``, ``resume_requested``, ``continue_requested``, ``copy_requested``,
    ``delete_requested`` carry a RunRow, ``again_requested`` also whether a new seed is wanted,
    ``notes_edited`` also the notes; ``rows_changed(list)`` after each read.
    """

    show_requested = Signal(object)
    resume_requested = Signal(object)
    continue_requested = Signal(object)
    again_requested = Signal(object, bool)
    copy_requested = Signal(object)
    begin_requested = Signal(object)
    notes_edited = Signal(object, object)
    delete_requested = Signal(object)
    rows_changed = Signal(object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("runsPanel")
        self._loader = Loader(self)
        self._read_only = False
        self._stores: Callable[[], list[RunStore]] | None = None
        self._persona = ""
        self.model = RunsModel(self)
        self._proxy = QSortFilterProxyModel(self)
        self._proxy.setSourceModel(self.model)
        self._proxy.setSortRole(Qt.ItemDataRole.UserRole)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 16, 0, 0)
        column.setSpacing(8)
        self._stack = QStackedWidget()
        self._empty = EmptyState(
            "train",
            self.tr("No runs yet"),
            self.tr("Choose a preset under “Set up” and press Start. Every run is kept here."),
        )
        self._stack.addWidget(self._empty)
        self._stack.addWidget(self._make_content())
        column.addWidget(self._stack)
        self._update_buttons()

    # -- construction ---------------------------------------------------------------------------
    def _make_content(self) -> QWidget:
        holder = QWidget()
        column = QVBoxLayout(holder)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(8)
        row = QHBoxLayout()
        row.setSpacing(8)
        self.show_button = self._button("runShow", self.tr("Show charts"), self._on_show_clicked)
        self.resume_button = self._button("runResume", self.tr("Resume"), self._on_resume_clicked)
        self.copy_button = self._button("runCopy", self.tr("Use settings"), self._on_copy_clicked)
        self.begin_button = self._button(
            "runBegin", self.tr("Train on from it"), self._on_begin_clicked
        )
        self.begin_button.setToolTip(
            self.tr("Set up a new run that begins with the weights of this one.")
        )
        self.folder_button = self._button("runFolder", self.tr("Folder"), self._on_folder_clicked)
        self.delete_button = self._button(
            "runDelete", self.tr("To trash…"), self._on_delete_clicked
        )
        self.delete_button.setProperty("kind", "danger")
        self.continue_button = self._button(
            "runContinue", self.tr("Continue…"), self._on_continue_clicked
        )
        self.again_button = self._button("runAgain", self.tr("Run again"), None)
        menu = QMenu(self.again_button)
        for text, new_seed in (
            (self.tr("With the same seed"), False),
            (self.tr("With a new seed"), True),
        ):
            action = menu.addAction(text)
            action.setData(new_seed)
            action.setObjectName("runAgainNew" if new_seed else "runAgainSame")
            action.triggered.connect(self._on_again_triggered)
        self.again_button.setMenu(menu)
        self.again_button.setToolTip(
            self.tr("Repeat the run with its own settings, frozen data and policy.")
        )
        for button in (self.show_button, self.resume_button, self.continue_button,
                       self.again_button, self.begin_button, self.copy_button,
                       self.folder_button):  # fmt: skip
            row.addWidget(button)
        row.addStretch(1)
        row.addWidget(self.delete_button)
        column.addLayout(row)
        splitter = QSplitter(Qt.Orientation.Vertical)
        splitter.setChildrenCollapsible(False)
        self.table = QTableView()
        self.table.setObjectName("runsTable")
        self.table.setAccessibleName(self.tr("Runs"))
        self.table.setModel(self._proxy)
        self.table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.table.setSortingEnabled(True)
        self.table.sortByColumn(RUN, Qt.SortOrder.DescendingOrder)
        self.table.setShowGrid(False)
        self.table.setAlternatingRowColors(False)
        self.table.setWordWrap(False)
        self.table.setTabKeyNavigation(False)
        self.table.verticalHeader().hide()
        self.table.verticalHeader().setDefaultSectionSize(34)
        header = self.table.horizontalHeader()
        header.setHighlightSections(False)
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(NOTES, QHeaderView.ResizeMode.Stretch)
        header.setMinimumSectionSize(28)
        header.setSectionResizeMode(STAR, QHeaderView.ResizeMode.Fixed)
        self.table.setColumnWidth(STAR, 36)
        self.table.setMinimumHeight(84)
        self.table.doubleClicked.connect(self._on_show_clicked)
        self.table.selectionModel().selectionChanged.connect(self._on_selection_changed)
        splitter.addWidget(self.table)
        self.compare = QTabWidget()
        self.compare.setObjectName("runsCompare")
        self.compare.tabBar().setDrawBase(False)
        self.compare.setToolTip(self.tr("Select several runs to lay them over each other."))
        self.overlay = Overlay()
        self.diff = ConfigDiff()
        self.details = RunDetails()
        self.details.edited.connect(self._on_notes_edited)
        self.compare.addTab(self.overlay, self.tr("Curves"))
        self.compare.addTab(self.diff, self.tr("Differences of settings"))
        self.compare.addTab(self.details, self.tr("Details and notes"))
        splitter.addWidget(self.compare)
        self.compare.setMinimumHeight(176)
        splitter.setSizes([240, 300])
        column.addWidget(splitter, 1)
        return holder

    def _button(self, name: str, text: str, slot: Callable[[], None] | None) -> QPushButton:
        button = QPushButton(text)
        button.setObjectName(name)
        button.setAccessibleName(text)
        if slot is not None:
            button.clicked.connect(slot)
        return button

    # -- data -----------------------------------------------------------------------------------
    def refresh(
        self, stores: Callable[[], list[RunStore]], *, persona: str = "", read_only: bool = False
    ) -> None:
        """Read the runs again, off the window's thread."""
        self._read_only = read_only
        self._stores, self._persona = stores, persona
        self._loader.load(
            "runs", lambda: [read_row(store, persona) for store in stores()], self._on_rows
        )

    def _on_rows(self, rows: object) -> None:
        if isinstance(rows, Failure) or not isinstance(rows, list):
            return
        had = bool(self.model.rows())
        chosen = {row.store.root for row in self.selected()}
        self.model.set_rows(rows)
        if chosen and not self.selected():  # the list was made anew
            flags = QItemSelectionModel.SelectionFlag
            for position, row in enumerate(rows):
                if row.store.root in chosen:
                    index = self._proxy.mapFromSource(self.model.index(position, 0))
                    self.table.selectionModel().select(index, flags.Select | flags.Rows)
        self._stack.setCurrentIndex(1 if rows else 0)
        if rows and not had:
            self.table.selectRow(0)
        self._on_selection_changed()
        self.rows_changed.emit(rows)

    def select(self, run_id: str) -> None:
        """Select one run."""
        for position, row in enumerate(self.model.rows()):
            if row.store.id == run_id:
                index = self._proxy.mapFromSource(self.model.index(position, 0))
                flags = QItemSelectionModel.SelectionFlag
                self.table.selectionModel().select(index, flags.ClearAndSelect | flags.Rows)

    def selected(self) -> list[RunRow]:
        """Return the selected runs in the order of the table."""
        found = []
        for index in self.table.selectionModel().selectedRows():
            row = self.model.row(self._proxy.mapToSource(index).row())
            if row is not None:
                found.append(row)
        return found

    # -- slots ----------------------------------------------------------------------------------
    @Slot()
    def _on_selection_changed(self) -> None:
        self._update_buttons()
        chosen = self.selected()[:OVERLAY_LIMIT]
        self.diff.show_runs(chosen)
        self.details.show_run(self._one(), read_only=self._read_only)
        stores = [row.store for row in chosen]
        self._loader.load("curves", lambda: read_curves(stores), self._on_curves)

    def _on_curves(self, curves: object) -> None:
        if not isinstance(curves, Failure) and isinstance(curves, dict):
            self.overlay.show_curves(curves)

    @Slot(object, object)
    def _on_notes_edited(self, row: RunRow, notes: RunNotes) -> None:
        self.notes_edited.emit(row, notes)
        if self._stores is not None:
            self.refresh(self._stores, persona=self._persona, read_only=self._read_only)

    def _update_buttons(self) -> None:
        chosen = self.selected()
        one = chosen[0] if len(chosen) == 1 else None
        self.show_button.setEnabled(one is not None)
        self.folder_button.setEnabled(one is not None)
        self.copy_button.setEnabled(one is not None and one.spec is not None)
        self.begin_button.setEnabled(one is not None and one.usable and not self._read_only)
        self.resume_button.setEnabled(one is not None and one.resumable and not self._read_only)
        self.resume_button.setToolTip(
            self.tr("Go on from the last checkpoint.")
            if one is not None and one.resumable
            else self.tr("Only a run that stopped before its end and has a checkpoint can go on.")
        )
        can_go_on = one is not None and one.continuable and not self._read_only
        self.continue_button.setEnabled(can_go_on)
        self.continue_button.setToolTip(
            self.tr("Go on from the last checkpoint for more passes than were planned.")
        )
        self.again_button.setEnabled(
            one is not None and one.spec is not None and not self._read_only
        )
        self.delete_button.setEnabled(one is not None and not one.active and not self._read_only)

    def _one(self) -> RunRow | None:
        chosen = self.selected()
        return chosen[0] if len(chosen) == 1 else None

    @Slot()
    def _on_show_clicked(self) -> None:
        row = self._one()
        if row is not None:
            self.show_requested.emit(row)

    @Slot()
    def _on_resume_clicked(self) -> None:
        row = self._one()
        if row is not None and row.resumable:
            self.resume_requested.emit(row)

    @Slot()
    def _on_continue_clicked(self) -> None:
        row = self._one()
        if row is not None and row.continuable:
            self.continue_requested.emit(row)

    @Slot()
    def _on_again_triggered(self) -> None:
        row, action = self._one(), self.sender()
        if row is not None and isinstance(action, QAction):
            self.again_requested.emit(row, bool(action.data()))

    @Slot()
    def _on_copy_clicked(self) -> None:
        row = self._one()
        if row is not None:
            self.copy_requested.emit(row)

    @Slot()
    def _on_begin_clicked(self) -> None:
        row = self._one()
        if row is not None and row.usable:
            self.begin_requested.emit(row)

    @Slot()
    def _on_folder_clicked(self) -> None:
        row = self._one()
        if row is not None:
            QDesktopServices.openUrl(QUrl.fromLocalFile(str(row.store.root)))

    @Slot()
    def _on_delete_clicked(self) -> None:
        row = self._one()
        if row is not None and not row.active:
            self._loader.load("size", lambda: (row, row.store.size()), self._on_size_known)

    def _on_size_known(self, found: object) -> None:
        if not isinstance(found, tuple):
            return
        row, size = found
        box = QMessageBox(self)
        box.setObjectName("deleteRunQuestion")
        box.setIcon(QMessageBox.Icon.Question)
        box.setWindowTitle(self.tr("Move the run to the trash"))
        box.setText(
            self.tr("Move the run {run} ({size} MB) to the workspace's trash?").format(
                run=row.store.id, size=f"{size / 1e6:.0f}"
            )
        )
        yes = box.addButton(self.tr("Move to trash"), QMessageBox.ButtonRole.DestructiveRole)
        no = box.addButton(self.tr("Keep the run"), QMessageBox.ButtonRole.RejectRole)
        box.setDefaultButton(no)
        box.setEscapeButton(no)
        box.exec()
        if box.clickedButton() is yes:
            self.delete_requested.emit(row)
