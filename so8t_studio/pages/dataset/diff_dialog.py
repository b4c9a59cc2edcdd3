"""Compare the dataset with what earlier runs were trained on, and restore."""

from __future__ import annotations

from collections import Counter

from PySide6.QtCore import Qt, Slot
from PySide6.QtWidgets import (
    QComboBox,
    QDialog,
    QDialogButtonBox,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QPlainTextEdit,
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
from so8t_studio.commands.dataset import restore_rows, restore_snapshot, rows_text
from so8t_studio.models.dataset_store import DatasetStore
from so8t_studio.widgets.label_chip import SIGNS

_MAX_LISTED = 5000
_SIGN = {"added": "+", "removed": "−", "relabelled": "⇄", "edited": "✎"}


class DiffDialog(QDialog):
    """Two states side by side; the right one may be the dataset as it is now."""

    def __init__(self, store: DatasetStore, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._store = store
        self._diffs: list[RowDiff] = []
        self._snapshots: list[Snapshot] = []
        self._cache: dict[str, list[Sample]] = {}
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
        splitter = QSplitter()
        self.table = QTableWidget()
        self.table.setObjectName("diffTable")
        self.table.setAccessibleName(self.tr("Rows that differ"))
        self.table.verticalHeader().hide()
        self.table.horizontalHeader().setDefaultAlignment(
            Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter
        )
        self.table.setShowGrid(False)
        self.table.setWordWrap(False)
        self.table.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
        self.table.setSelectionBehavior(QTableWidget.SelectionBehavior.SelectRows)
        self.table.itemSelectionChanged.connect(self._on_selection_changed)
        splitter.addWidget(self.table)
        sides = QWidget()
        both = QVBoxLayout(sides)
        both.setContentsMargins(0, 0, 0, 0)
        self.left = self._text("diffLeft", self.tr("Before"), both)
        self.right = self._text("diffRight", self.tr("After"), both)
        splitter.addWidget(sides)
        splitter.setSizes([560, 380])
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

    def _text(self, name: str, title: str, column: QVBoxLayout) -> QPlainTextEdit:
        head = QLabel(title)
        head.setProperty("role", "h3")
        editor = QPlainTextEdit()
        editor.setObjectName(name)
        editor.setAccessibleName(title)
        editor.setReadOnly(True)
        column.addWidget(head)
        column.addWidget(editor, 1)
        return editor

    def _fill(self) -> None:
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
        self.before.setCurrentIndex(0)
        self._compare()

    def _rows(self, box: QComboBox) -> list[Sample]:
        name = box.currentData()
        if not name:
            return list(self._store.samples)
        if name not in self._cache:
            snapshot = next(one for one in self._snapshots if one.name == name)
            self._cache[name] = snapshot.load()
        return self._cache[name]

    @Slot()
    def _compare(self) -> None:
        if not self._snapshots:
            self.summary.setText(
                self.tr(
                    "There is no snapshot yet. Each training run takes one; so does the button."
                )
            )
            self._show([])
            return
        try:
            before, after = self._rows(self.before), self._rows(self.after)
        except So8tError as error:
            self.summary.setText(str(error))
            self._show([])
            return
        found = diff(before, after)
        counts = Counter(one.kind for one in found)
        if not found:
            same = content_hash(before) == content_hash(after)
            self.summary.setText(
                self.tr("Both are the same ({rows}, content {hash}).").format(
                    rows=rows_text(len(before)), hash=content_hash(before)[:12]
                )
                if same
                else self.tr("The same rows under other identifiers.")
            )
        else:
            self.summary.setText(
                self.tr(
                    "{added} added, {removed} removed, {relabelled} relabelled, {edited} edited"
                ).format(**{kind: f"{counts[kind]:,}" for kind in _SIGN})
            )
        self._show(found)

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
            self.left.clear()
            self.right.clear()

    @Slot()
    def _on_selection_changed(self) -> None:
        chosen = self._chosen()
        self.restore_rows.setEnabled(bool(chosen) and self.restore_all.isEnabled())
        if chosen:
            self.left.setPlainText(self._describe(chosen[0].before, chosen[0].fields))
            self.right.setPlainText(self._describe(chosen[0].after, chosen[0].fields))

    def _chosen(self) -> list[RowDiff]:
        rows = sorted({index.row() for index in self.table.selectedIndexes()})
        return [self._diffs[row] for row in rows if row < len(self._diffs)]

    def _describe(self, sample: Sample | None, fields: tuple[str, ...]) -> str:
        if sample is None:
            return self.tr("(not there)")
        lines = []
        names = ("label", "request", "context", "rationale", "response", "category", "language",
                 "tags", "source", "split")  # fmt: skip
        for name in names:
            value = getattr(sample, name)
            text = ", ".join(value) if isinstance(value, tuple) else str(value)
            if name == "label":
                text = f"{SIGNS[sample.label]} {text}"
            if text:
                lines.append(f"{'▸ ' if name in fields else ''}{name}: {text}")
        return "\n".join(lines)

    @Slot()
    def _on_take_clicked(self) -> None:
        if self._store.persona is None:
            return
        try:
            taken = take_snapshot(self._store.persona, self._store.samples)
        except (So8tError, OSError) as error:
            self.summary.setText(str(error))
            return
        self._fill()
        self.before.setCurrentIndex(self.before.findData(taken.name))
        self._compare()

    @Slot()
    def _on_restore_all_clicked(self) -> None:
        name = str(self.before.currentData())
        restore_snapshot(self._store, self._rows(self.before), name)
        self._compare()

    @Slot()
    def _on_restore_rows_clicked(self) -> None:
        restore_rows(self._store, [(one.before, one.after) for one in self._chosen()])
        self._compare()
