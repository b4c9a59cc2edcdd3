"""Divide the data: stratified, seeded, near-duplicates together, with a table of the result."""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter, ne

import msgspec
from PySide6.QtCore import Qt, QTimer, Slot
from PySide6.QtWidgets import (
    QCheckBox,
    QDialogButtonBox,
    QFormLayout,
    QHeaderView,
    QLabel,
    QProgressBar,
    QPushButton,
    QSpinBox,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from so8t_engine.labels import Label
from so8t_engine.samples.duplicates import ScanCancelled, near_groups
from so8t_engine.samples.schema import SPLITS, Sample
from so8t_engine.samples.split import assign_splits, split_table, straddling
from so8t_studio.commands.dataset import assign_all_splits, rows_text
from so8t_studio.models.background import Reporter, Task
from so8t_studio.models.dataset_store import DatasetStore
from so8t_studio.pages.dataset.task_dialog import TaskDialog
from so8t_studio.widgets.label_chip import SIGNS

_split_of = attrgetter("split")


@dataclass(frozen=True)
class _Divided:
    samples: list[Sample]
    groups: list[list[int]]
    straddling: int


class SplitDialog(TaskDialog):
    """Shows what a split would be; applies it as one undo step. The test split stays locked."""

    def __init__(self, store: DatasetStore, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._store = store
        self._result: list[Sample] = []
        self._groups: list[list[int]] | None = None
        self.setObjectName("splitDialog")
        self.setWindowTitle(self.tr("Split the data"))
        self.resize(600, 600)
        column = QVBoxLayout(self)
        column.setContentsMargins(20, 16, 20, 16)
        column.setSpacing(12)
        words = QLabel(
            self.tr(
                "Labels and languages are divided in the same proportion, and rows that say "
                "almost the same always stay together. Rows of the test split are never moved."
            )
        )
        words.setWordWrap(True)
        words.setProperty("role", "muted")
        column.addWidget(words)
        form = QFormLayout()
        self.share = QSpinBox()
        self.share.setObjectName("splitShare")
        self.share.setAccessibleName(self.tr("Validation share in percent"))
        self.share.setRange(1, 50)
        self.share.setValue(15)
        self.share.setSuffix(" %")
        form.addRow(self.tr("Held out for validation"), self.share)
        self.test = QSpinBox()
        self.test.setObjectName("splitTest")
        self.test.setAccessibleName(self.tr("Test share in percent"))
        self.test.setRange(0, 40)
        self.test.setSuffix(" %")
        self.test.setToolTip(
            self.tr("Rows that are kept away from training and tuning, and then locked")
        )
        form.addRow(self.tr("Put aside for the final test"), self.test)
        self.seed = QSpinBox()
        self.seed.setObjectName("splitSeed")
        self.seed.setAccessibleName(self.tr("Seed"))
        self.seed.setRange(0, 2**31 - 1)
        self.seed.setValue(17)
        form.addRow(self.tr("Seed"), self.seed)
        self.again = QCheckBox(self.tr("Divide rows again that have a split already"))
        self.again.setObjectName("splitAgain")
        self.again.setAccessibleName(self.again.text())
        form.addRow("", self.again)
        column.addLayout(form)
        self.progress = QProgressBar()
        self.progress.setObjectName("splitProgress")
        self.progress.setAccessibleName(self.tr("Progress of the split"))
        self.progress.setTextVisible(False)
        column.addWidget(self.progress)
        self.summary = QLabel()
        self.summary.setObjectName("splitSummary")
        self.summary.setWordWrap(True)
        column.addWidget(self.summary)
        self.table = QTableWidget()
        self.table.setObjectName("splitTable")
        self.table.setAccessibleName(self.tr("Rows by label, language and split"))
        self.table.verticalHeader().hide()
        self.table.horizontalHeader().setDefaultAlignment(
            Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter
        )
        self.table.setShowGrid(False)
        self.table.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
        column.addWidget(self.table, 1)
        buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Cancel)
        self.apply_button = QPushButton(self.tr("Apply"))
        self.apply_button.setObjectName("splitApply")
        self.apply_button.setAccessibleName(self.tr("Apply the split"))
        self.apply_button.setProperty("kind", "primary")
        buttons.addButton(self.apply_button, QDialogButtonBox.ButtonRole.AcceptRole)
        buttons.accepted.connect(self._on_accepted)
        buttons.rejected.connect(self.reject)
        column.addWidget(buttons)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(250)
        self._timer.timeout.connect(self._run)
        self.share.valueChanged.connect(self._on_changed)
        self.test.valueChanged.connect(self._on_changed)
        self.seed.valueChanged.connect(self._on_changed)
        self.again.toggled.connect(self._on_changed)
        self._run()

    @Slot()
    def _on_changed(self) -> None:
        self._stop()  # its result would be that of the old choice
        self.apply_button.setEnabled(False)
        self._timer.start()

    @Slot()
    def _run(self) -> None:
        self._stop()
        self.apply_button.setEnabled(False)
        self.progress.setRange(0, 0)
        self.progress.setVisible(True)
        samples = list(self._store.samples)
        if self.again.isChecked():
            samples = [
                s if s.split == "test" else msgspec.structs.replace(s, split="") for s in samples
            ]
        fraction, seed = self.share.value() / 100, self.seed.value()
        test, known = self.test.value() / 100, self._groups

        def work(reporter: Reporter) -> _Divided:
            # Which rows say almost the same does not depend on how they are divided.
            groups = known if known is not None else near_groups(
                samples, progress=reporter.progress, cancelled=reporter.cancelled
            )  # fmt: skip
            result = assign_splits(
                samples, validation_fraction=fraction, test_fraction=test, seed=seed, groups=groups
            )
            return _Divided(result, groups, straddling(result, groups))

        self._task = Task(work, self)
        self._task.progressed.connect(self._on_progressed)
        self._task.succeeded.connect(self._on_succeeded)
        self._task.failed.connect(self._on_failed)
        self._task.start()

    def done(self, code: int) -> None:
        """Close; nothing is begun any more."""
        self._timer.stop()
        super().done(code)

    @Slot(object)
    def _on_progressed(self, value: tuple[int, int]) -> None:
        self.progress.setRange(0, max(value[1], 1))
        self.progress.setValue(value[0])

    @Slot(object)
    def _on_failed(self, error: Exception) -> None:
        self.progress.setVisible(False)
        if not isinstance(error, ScanCancelled):
            self.summary.setText(
                self.tr("The rows cannot be divided: {error}.").format(error=error)
            )

    @Slot(object)
    def _on_succeeded(self, divided: _Divided) -> None:
        self._result, self._groups = divided.samples, divided.groups
        self.progress.setVisible(False)
        moved = sum(map(ne, map(_split_of, divided.samples), map(_split_of, self._store.samples)))
        self.apply_button.setEnabled(moved > 0)
        words = self.tr("{rows} get another split.").format(rows=rows_text(moved))
        if divided.straddling:
            words += " ▲ " + self.tr(
                "{count} groups of near-duplicates were already in more than one split and stay; "
                "see the Quality panel."
            ).format(count=f"{divided.straddling:,}")
        elif divided.groups:
            words += " " + self.tr("{count} groups of near-duplicates stay together.").format(
                count=f"{len(divided.groups):,}"
            )
        self.summary.setText(words)
        self._show_table(split_table(divided.samples))

    def _show_table(self, rows: dict[tuple[str, str], dict[str, int]]) -> None:
        columns = [self.tr("Label"), self.tr("Language"), *SPLITS, self.tr("all")]
        self.table.setColumnCount(len(columns))
        self.table.setHorizontalHeaderLabels(columns)
        header = self.table.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.ResizeToContents)
        self.table.setRowCount(len(rows) + 1)
        totals = dict.fromkeys(SPLITS, 0)
        for number, ((label, language), counts) in enumerate(rows.items()):
            numbers = [counts.get(split, 0) for split in SPLITS]
            totals = {split: totals[split] + counts.get(split, 0) for split in SPLITS}
            head = f"{SIGNS[Label(label)]} {label}"
            self._fill_row(number, [head, language or self.tr("(none)")], numbers)
        self._fill_row(len(rows), [self.tr("all"), ""], list(totals.values()))

    def _fill_row(self, row: int, heads: list[str], numbers: list[int]) -> None:
        for place, text in enumerate([*heads, *(f"{n:,}" for n in (*numbers, sum(numbers)))]):
            item = QTableWidgetItem(text)
            if place >= len(heads):
                item.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
            self.table.setItem(row, place, item)

    @Slot()
    def _on_accepted(self) -> None:
        assign_all_splits(self._store, self._result)
        self.accept()
