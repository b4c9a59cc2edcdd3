"""Compare the dataset with what earlier runs were trained on, and restore."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from PySide6.QtCore import Qt, Slot
from PySide6.QtWidgets import (
    QComboBox,
    QDialogButtonBox,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QProgressBar,
    QPushButton,
    QSplitter,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from so8t_engine.errors import So8tError
from so8t_engine.samples.schema import Sample
from so8t_engine.workspace.snapshots import (
    RowDiff,
    Snapshot,
    content_hash,
    diff,
    list_snapshots,
    take_snapshot,
)
from so8t_studio.commands.dataset import (
    push,
    restore_edit,
    restore_rows,
    restore_title,
    rows_text,
)
from so8t_studio.models.background import Reporter, Task
from so8t_studio.models.dataset_store import DatasetStore
from so8t_studio.pages.dataset.diff_view import DiffView
from so8t_studio.pages.dataset.guard import may_touch_test, rows_of
from so8t_studio.pages.dataset.task_dialog import TaskDialog

_MAX_LISTED = 5000
_SIGN = {"added": "+", "removed": "−", "relabelled": "⇄", "edited": "✎"}


@dataclass(frozen=True)
class _Comparison:
    rows: dict[str, list[Sample]]
    diffs: list[RowDiff]
    hashes: tuple[str, str]


class DiffDialog(TaskDialog):
    """Two states side by side; the right one may be the dataset as it is now."""

    def __init__(self, store: DatasetStore, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._store = store
        self._diffs: list[RowDiff] = []
        self._snapshots: list[Snapshot] = []
        self._cache: dict[str, list[Sample]] = {}
        self._before: list[Sample] = []
        self.setObjectName("diffDialog")
        self.setWindowTitle(self.tr("Snapshots and differences"))
        self.resize(960, 620)
        column = QVBoxLayout(self)
        column.setContentsMargins(20, 16, 20, 16)
        column.setSpacing(10)
        row = QHBoxLayout()
        self.before = self._chooser("diffBefore", self.tr("Before"))
        self.after = self._chooser("diffAfter", self.tr("After"))
        row.addWidget(QLabel(self.tr("From")))
        row.addWidget(self.before, 1)
        row.addWidget(QLabel(self.tr("to")))
        row.addWidget(self.after, 1)
        self.take = QPushButton(self.tr("Take a snapshot"))
        self.take.setObjectName("takeSnapshot")
        self.take.setAccessibleName(self.tr("Take a snapshot of the dataset as it is now"))
        self.take.setEnabled(not store.read_only)
        self.take.clicked.connect(self._on_take_clicked)
        row.addWidget(self.take)
        column.addLayout(row)
        self.summary = QLabel()
        self.summary.setObjectName("diffSummary")
        self.summary.setProperty("role", "h3")
        self.summary.setWordWrap(True)
        column.addWidget(self.summary)
        self.progress = QProgressBar()
        self.progress.setObjectName("diffProgress")
        self.progress.setAccessibleName(self.tr("Progress of the comparison"))
        self.progress.setTextVisible(False)
        self.progress.setRange(0, 0)
        column.addWidget(self.progress)
        splitter = QSplitter(Qt.Orientation.Vertical)
        splitter.setChildrenCollapsible(False)
        self.table = self._make_table()
        splitter.addWidget(self.table)
        self.sides = DiffView()
        splitter.addWidget(self.sides)
        splitter.setSizes([230, 250])
        column.addWidget(splitter, 1)
        row = QHBoxLayout()
        self.restore_all = QPushButton(self.tr("Restore the left state"))
        self.restore_all.setObjectName("restoreAll")
        self.restore_all.setAccessibleName(self.tr("Make the dataset what the left state is"))
        self.restore_all.clicked.connect(self._on_restore_all_clicked)
        self.restore_rows = QPushButton(self.tr("Restore selected rows"))
        self.restore_rows.setObjectName("restoreRows")
        self.restore_rows.setAccessibleName(self.tr("Restore the selected rows"))
        self.restore_rows.clicked.connect(self._on_restore_rows_clicked)
        row.addWidget(self.restore_rows)
        row.addWidget(self.restore_all)
        row.addStretch(1)
        buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Close)
        buttons.rejected.connect(self.reject)
        row.addWidget(buttons)
        column.addLayout(row)
        self._fill()

    def _chooser(self, name: str, title: str) -> QComboBox:
        box = QComboBox()
        box.setObjectName(name)
        box.setAccessibleName(title)
        box.activated.connect(self._compare)
        return box

    def _make_table(self) -> QTableWidget:
        table = QTableWidget()
        table.setObjectName("diffTable")
        table.setAccessibleName(self.tr("Rows that differ"))
        table.verticalHeader().hide()
        table.horizontalHeader().setDefaultAlignment(
            Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter
        )
        table.setShowGrid(False)
        table.setWordWrap(False)
        table.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
        table.setSelectionBehavior(QTableWidget.SelectionBehavior.SelectRows)
        table.itemSelectionChanged.connect(self._on_selection_changed)
        return table

    def _fill(self, before: str = "") -> None:
        persona = self._store.persona
        self._snapshots = list_snapshots(persona) if persona is not None else []
        for box in (self.before, self.after):
            box.clear()
        for snapshot in self._snapshots:
            words = self.tr("Run {name}") if snapshot.kind == "run" else self.tr("Snapshot {name}")
            for box in (self.before, self.after):
                box.addItem(words.format(name=snapshot.name), snapshot.name)
        for box in (self.before, self.after):
            box.addItem(self.tr("The dataset now"), "")
        self.after.setCurrentIndex(self.after.count() - 1)
        self.before.setCurrentIndex(max(self.before.findData(before), 0) if before else 0)
        self._compare()

    def _source(self, box: QComboBox) -> tuple[str, Callable[[], list[Sample]]]:
        """Return the name of a state and what loads it; snapshots stay loaded."""
        name = str(box.currentData())
        if not name:
            now = list(self._store.samples)
            return "", lambda: now
        if name in self._cache:
            return name, lambda: self._cache[name]
        return name, next(one for one in self._snapshots if one.name == name).load

    @Slot()
    def _compare(self) -> None:
        """Compare in the background: two times 100,000 rows take a second."""
        self._stop()
        self._show([])
        if not self._snapshots:
            self.summary.setText(
                self.tr(
                    "There is no snapshot yet. Each training run takes one; so does the button."
                )
            )
            return
        (before, load_before), (after, load_after) = map(self._source, (self.before, self.after))

        def work(_reporter: Reporter) -> _Comparison:
            old, new = load_before(), load_after()
            hashes = (content_hash(old), content_hash(new))
            return _Comparison({before: old, after: new}, diff(old, new), hashes)

        self.summary.setText(self.tr("Comparing…"))
        self.progress.show()
        self._task = Task(work, self)
        self._task.succeeded.connect(self._on_compared)
        self._task.failed.connect(self._on_failed)
        self._task.start()

    def _stop(self) -> None:
        self.progress.hide()
        super()._stop()

    @Slot(object)
    def _on_failed(self, error: Exception) -> None:
        self._stop()
        self.summary.setText(str(error))

    @Slot(object)
    def _on_compared(self, found: _Comparison) -> None:
        self._stop()
        self._cache.update({name: rows for name, rows in found.rows.items() if name})
        self._before = found.rows[str(self.before.currentData())]
        self.summary.setText(self._words(found))
        self._show(found.diffs)

    def _words(self, found: _Comparison) -> str:
        left, right = (one[:12] for one in found.hashes)
        if found.diffs:
            counts = Counter(one.kind for one in found.diffs)
            words = self.tr(
                "{added} added, {removed} removed, {relabelled} relabelled, {edited} edited"
            ).format(**{kind: f"{counts[kind]:,}" for kind in _SIGN})
            if len(found.diffs) > _MAX_LISTED:
                words += self.tr("; the first {count} are listed").format(count=f"{_MAX_LISTED:,}")
            return words + self.tr(" · content {left} → {right}").format(left=left, right=right)
        if left == right:
            return self.tr("Both are the same ({rows}, content {hash}).").format(
                rows=rows_text(len(self._before)), hash=left
            )
        return self.tr("The same rows under other identifiers.")

    def _show(self, found: list[RowDiff]) -> None:
        self._diffs = found[:_MAX_LISTED]
        titles = {"added": self.tr("added"), "removed": self.tr("removed"),
                  "relabelled": self.tr("relabelled"), "edited": self.tr("edited")}  # fmt: skip
        table = self.table
        table.setColumnCount(3)
        table.setHorizontalHeaderLabels([self.tr("Change"), self.tr("Label"), self.tr("Request")])
        table.setRowCount(len(self._diffs))
        for number, one in enumerate(self._diffs):
            sample = one.after or one.before
            assert sample is not None
            label = sample.label.value
            if one.before and one.after and one.before.label is not one.after.label:
                label = f"{one.before.label.value} → {one.after.label.value}"
            cells = (f"{_SIGN[one.kind]} {titles[one.kind]}", label, sample.request[:200])
            for place, text in enumerate(cells):
                table.setItem(number, place, QTableWidgetItem(" ".join(text.split())))
        table.setColumnWidth(0, 120)
        table.setColumnWidth(1, 170)
        table.horizontalHeader().setSectionResizeMode(2, QHeaderView.ResizeMode.Stretch)
        now = not self.after.currentData() and bool(self.before.currentData())
        writable = not self._store.read_only and now and bool(found)
        self.restore_all.setEnabled(writable)
        self.restore_rows.setEnabled(False)
        if self._diffs:
            table.selectRow(0)
        else:
            self.sides.clear()

    @Slot()
    def _on_selection_changed(self) -> None:
        chosen = self._chosen()
        self.restore_rows.setEnabled(bool(chosen) and self.restore_all.isEnabled())
        if chosen:
            self.sides.show_rows(chosen[0].before, chosen[0].after)

    def _chosen(self) -> list[RowDiff]:
        rows = sorted({index.row() for index in self.table.selectedIndexes()})
        return [self._diffs[row] for row in rows if row < len(self._diffs)]

    @Slot()
    def _on_take_clicked(self) -> None:
        if self._store.persona is None:
            return
        try:
            taken = take_snapshot(self._store.persona, self._store.samples)
        except (So8tError, OSError) as error:
            self.summary.setText(str(error))
            return
        self._fill(taken.name)

    @Slot()
    def _on_restore_all_clicked(self) -> None:
        edit = restore_edit(self._store.rows, self._before)
        if may_touch_test(self, rows_of(edit)):
            push(self._store, restore_title(str(self.before.currentData())), edit)
            self._compare()

    @Slot()
    def _on_restore_rows_clicked(self) -> None:
        chosen = self._chosen()
        if may_touch_test(self, [one.after for one in chosen]):
            restore_rows(self._store, [(one.before, one.after) for one in chosen])
            self._compare()
