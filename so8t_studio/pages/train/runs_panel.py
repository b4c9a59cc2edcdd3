"""All runs of the persona: list, comparison, resume, delete."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import QItemSelectionModel, QSortFilterProxyModel, Qt, QUrl, Signal, Slot
from PySide6.QtGui import QDesktopServices
from PySide6.QtWidgets import (
    QAbstractItemView,
    QHBoxLayout,
    QHeaderView,
    QMessageBox,
    QPushButton,
    QSplitter,
    QStackedWidget,
    QTableView,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)

from so8t_engine.workspace.runs import RunStore
from so8t_studio.jobs.background import Failure, Loader
from so8t_studio.pages.train.compare import ConfigDiff, read_curves
from so8t_studio.pages.train.runs_model import RunRow, RunsModel, read_row
from so8t_studio.widgets.empty_state import EmptyState
from so8t_studio.widgets.live_plot import LivePlot

OVERLAY_LIMIT = 8


class RunsPanel(QWidget):
    """``show_requested(RunRow)``, ``resume_requested(RunRow)``, ``copy_requested(RunRow)``,
    ``delete_requested(RunRow)``; ``rows_changed(list)`` after each read.
    """

    show_requested = Signal(object)
    resume_requested = Signal(object)
    copy_requested = Signal(object)
    delete_requested = Signal(object)
    rows_changed = Signal(object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("runsPanel")
        self._loader = Loader(self)
        self._read_only = False
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
        self.copy_button = self._button(
            "runCopy", self.tr("Use these settings"), self._on_copy_clicked
        )
        self.folder_button = self._button(
            "runFolder", self.tr("Open folder"), self._on_folder_clicked
        )
        self.delete_button = self._button(
            "runDelete", self.tr("Move to trash…"), self._on_delete_clicked
        )
        self.delete_button.setProperty("kind", "danger")
        for button in (self.show_button, self.resume_button, self.copy_button,
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
        self.table.sortByColumn(1, Qt.SortOrder.DescendingOrder)
        self.table.setShowGrid(False)
        self.table.setAlternatingRowColors(False)
        self.table.setWordWrap(False)
        self.table.setTabKeyNavigation(False)
        self.table.verticalHeader().hide()
        self.table.verticalHeader().setDefaultSectionSize(34)
        header = self.table.horizontalHeader()
        header.setHighlightSections(False)
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(2, QHeaderView.ResizeMode.Stretch)
        self.table.setMinimumHeight(84)
        self.table.doubleClicked.connect(self._on_show_clicked)
        self.table.selectionModel().selectionChanged.connect(self._on_selection_changed)
        splitter.addWidget(self.table)
        self.compare = QTabWidget()
        self.compare.setObjectName("runsCompare")
        self.compare.tabBar().setDrawBase(False)
        self.compare.setToolTip(self.tr("Select several runs to lay them over each other."))
        self.overlay = LivePlot(
            self.tr("Total loss of the selected runs"), self.tr("step"), self.tr("loss"),
            log_button=True,
        )  # fmt: skip
        self.overlay_recall = LivePlot(
            self.tr("Refuse Recall of the selected runs"), self.tr("step"), self.tr("share"),
            y_range=(0, 1),
        )  # fmt: skip
        self.diff = ConfigDiff()
        self.compare.addTab(self.overlay, self.tr("Loss"))
        self.compare.addTab(self.overlay_recall, self.tr("Refuse Recall"))
        self.compare.addTab(self.diff, self.tr("Differences of settings"))
        splitter.addWidget(self.compare)
        self.compare.setMinimumHeight(176)
        splitter.setSizes([240, 300])
        column.addWidget(splitter, 1)
        return holder

    def _button(self, name: str, text: str, slot: Callable[[], None]) -> QPushButton:
        button = QPushButton(text)
        button.setObjectName(name)
        button.setAccessibleName(text)
        button.clicked.connect(slot)
        return button

    # -- data -----------------------------------------------------------------------------------
    def refresh(self, stores: Callable[[], list[RunStore]], *, read_only: bool = False) -> None:
        """Read the runs again, off the window's thread."""
        self._read_only = read_only
        self._loader.load("runs", lambda: [read_row(store) for store in stores()], self._on_rows)

    def _on_rows(self, rows: object) -> None:
        if isinstance(rows, Failure) or not isinstance(rows, list):
            return
        had = bool(self.model.rows())
        self.model.set_rows(rows)
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
        stores = [row.store for row in chosen]
        self._loader.load("curves", lambda: read_curves(stores), self._on_curves)

    def _on_curves(self, curves: object) -> None:
        if isinstance(curves, Failure) or not isinstance(curves, dict):
            return
        for plot, name in ((self.overlay, "loss"), (self.overlay_recall, "refuse_recall")):
            plot.remove_series()
            for index, (run_id, found) in enumerate(curves.items()):
                plot.add_series(run_id, run_id, index)
                steps, values = found[name]
                plot.extend(run_id, steps, values)

    def _update_buttons(self) -> None:
        chosen = self.selected()
        one = chosen[0] if len(chosen) == 1 else None
        self.show_button.setEnabled(one is not None)
        self.folder_button.setEnabled(one is not None)
        self.copy_button.setEnabled(one is not None and one.spec is not None)
        self.resume_button.setEnabled(one is not None and one.resumable and not self._read_only)
        self.resume_button.setToolTip(
            self.tr("Go on from the last checkpoint.")
            if one is not None and one.resumable
            else self.tr("Only a run that stopped before its end and has a checkpoint can go on.")
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
    def _on_copy_clicked(self) -> None:
        row = self._one()
        if row is not None:
            self.copy_requested.emit(row)

    @Slot()
    def _on_folder_clicked(self) -> None:
        row = self._one()
        if row is not None:
            QDesktopServices.openUrl(QUrl.fromLocalFile(str(row.store.root)))

    @Slot()
    def _on_delete_clicked(self) -> None:
        row = self._one()
        if row is None or row.active:
            return
        size = sum(path.stat().st_size for path in row.store.root.rglob("*") if path.is_file())
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
