"""Import with a preview: read off the GUI thread, map columns, see and correct bad rows."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import msgspec
from PySide6.QtCore import Qt, Slot
from PySide6.QtWidgets import (
    QComboBox,
    QDialog,
    QDialogButtonBox,
    QFileDialog,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QProgressBar,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)

from so8t_engine.errors import So8tError
from so8t_engine.samples.fields import TARGETS
from so8t_engine.samples.readers import ImportResult, ReadCancelled, Rejected, read_samples
from so8t_engine.samples.schema import Sample
from so8t_engine.workspace.atomic import write_lines
from so8t_studio.commands.dataset import ImportMode, rows_text
from so8t_studio.models.background import Reporter, Task
from so8t_studio.widgets.label_chip import SIGNS

MAX_LISTED = 2000
_PREVIEW = 50


class ImportDialog(QDialog):
    """Reads ``path`` and offers what it found. After ``accept``: :meth:`samples`, :attr:`mode`."""

    def __init__(self, path: Path, rows_now: int, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.path = path
        self.result_rows: ImportResult | None = None
        self._corrected: dict[int, Sample] = {}
        self._task: Task | None = None
        self.setObjectName("importDialog")
        self.setWindowTitle(self.tr("Import {file}").format(file=path.name))
        self.resize(960, 600)
        column = QVBoxLayout(self)
        column.setContentsMargins(20, 16, 20, 16)
        column.setSpacing(10)
        self.summary = QLabel()
        self.summary.setObjectName("importSummary")
        self.summary.setWordWrap(True)
        self.summary.setProperty("role", "h3")
        column.addWidget(self.summary)
        self.details = QLabel()
        self.details.setProperty("role", "muted")
        self.details.setWordWrap(True)
        column.addWidget(self.details)
        self.progress = QProgressBar()
        self.progress.setObjectName("importProgress")
        self.progress.setAccessibleName(self.tr("Progress of the import"))
        self.progress.setTextVisible(False)
        column.addWidget(self.progress)
        self.tabs = QTabWidget()
        self.tabs.setObjectName("importTabs")
        self.preview = self._table("importPreview", self.tr("First rows"))
        self.columns = self._table("importColumns", self.tr("Columns"))
        self.rejected = self._table("importRejected", self.tr("Rows that cannot be imported"))
        self.rejected.itemChanged.connect(self._on_rejected_edited)
        self._rejected_page = self._make_rejected_page()
        self.tabs.addTab(self.preview, self.tr("Preview"))
        self.tabs.addTab(self.columns, self.tr("Columns"))
        self.tabs.addTab(self._rejected_page, self.tr("Rejected"))
        column.addWidget(self.tabs, 1)
        column.addLayout(self._make_bottom(rows_now))
        self._start(None)

    def _table(self, name: str, title: str) -> QTableWidget:
        table = QTableWidget()
        table.setObjectName(name)
        table.setAccessibleName(title)
        table.verticalHeader().hide()
        table.horizontalHeader().setDefaultAlignment(
            Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter
        )
        table.setShowGrid(False)
        table.setWordWrap(False)
        table.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
        table.setSelectionBehavior(QTableWidget.SelectionBehavior.SelectRows)
        return table

    def _make_rejected_page(self) -> QWidget:
        page = QWidget()
        column = QVBoxLayout(page)
        column.setContentsMargins(0, 8, 0, 0)
        words = QLabel(
            self.tr(
                "Correct the last column of a row to import it too; good rows are not affected."
            )
        )
        words.setProperty("role", "muted")
        words.setWordWrap(True)
        column.addWidget(words)
        self.rejected.setEditTriggers(
            QTableWidget.EditTrigger.DoubleClicked
            | QTableWidget.EditTrigger.EditKeyPressed
            | QTableWidget.EditTrigger.AnyKeyPressed
        )
        column.addWidget(self.rejected, 1)
        row = QHBoxLayout()
        self.save_rejected = QPushButton(self.tr("Save these rows to a file…"))
        self.save_rejected.setObjectName("saveRejected")
        self.save_rejected.setAccessibleName(self.save_rejected.text())
        self.save_rejected.clicked.connect(self._on_save_rejected_clicked)
        row.addWidget(self.save_rejected)
        row.addStretch(1)
        column.addLayout(row)
        return page

    def _make_bottom(self, rows_now: int) -> QHBoxLayout:
        row = QHBoxLayout()
        self._mode_label = QLabel(self.tr("How"))
        self.mode_box = QComboBox()
        self.mode_box.setObjectName("importMode")
        self.mode_box.setAccessibleName(self.tr("How to import"))
        self.mode_box.addItem(self.tr("Add to the rows that are there"), "append")
        self.mode_box.addItem(self.tr("Update rows with the same id, add the others"), "merge")
        self.mode_box.addItem(
            self.tr("Replace all {rows}").format(rows=rows_text(rows_now)), "replace"
        )
        self._mode_label.setVisible(rows_now > 0)
        self.mode_box.setVisible(rows_now > 0)
        row.addWidget(self._mode_label)
        row.addWidget(self.mode_box)
        row.addStretch(1)
        self.buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Cancel)
        self.buttons.setObjectName("importButtons")
        self.import_button = QPushButton(self.tr("Import"))
        self.import_button.setObjectName("importConfirm")
        self.import_button.setProperty("kind", "primary")
        self.import_button.setAccessibleName(self.tr("Import"))
        self.buttons.addButton(self.import_button, QDialogButtonBox.ButtonRole.AcceptRole)
        self.buttons.accepted.connect(self.accept)
        self.buttons.rejected.connect(self.reject)
        row.addWidget(self.buttons)
        return row

    # What the page reads

    @property
    def mode(self) -> ImportMode:
        """append, merge or replace."""
        value: ImportMode = self.mode_box.currentData()
        return value

    def samples(self) -> list[Sample]:
        """Return the good rows and those that were corrected, identifiers unique."""
        rows = list(self.result_rows.samples) if self.result_rows else []
        used = {sample.id for sample in rows}
        for number in sorted(self._corrected):
            sample = self._corrected[number]
            fresh, suffix = sample.id, 2
            while fresh in used:
                fresh, suffix = f"{sample.id}-{suffix}", suffix + 1
            used.add(fresh)
            rows.append(msgspec.structs.replace(sample, id=fresh))
        return rows

    # Reading

    def _start(self, mapping: dict[str, str] | None) -> None:
        self._stop()
        self.import_button.setEnabled(False)
        self.progress.setRange(0, 0)
        self.progress.show()
        self.summary.setText(self.tr("Reading {file}…").format(file=self.path.name))
        path = self.path

        def work(reporter: Reporter) -> ImportResult:
            return read_samples(
                path, mapping=mapping, progress=reporter.progress, cancelled=reporter.cancelled
            )

        self._task = Task(work, self)
        self._task.progressed.connect(self._on_progressed)
        self._task.succeeded.connect(self._on_read)
        self._task.failed.connect(self._on_failed)
        self._task.start()

    def _stop(self) -> None:
        if self._task is not None:
            self._task.stop()
            self._task.deleteLater()
            self._task = None

    def done(self, code: int) -> None:
        """Close; a read that still goes on is ended first."""
        self._stop()
        super().done(code)

    @Slot(object)
    def _on_progressed(self, value: tuple[int, int]) -> None:
        done, total = value
        self.progress.setRange(0, 1000)
        self.progress.setValue(int(1000 * done / total) if total else 0)

    @Slot(object)
    def _on_failed(self, error: Exception) -> None:
        self.progress.hide()
        if isinstance(error, ReadCancelled):
            self.reject()
            return
        text = str(error) if isinstance(error, So8tError) else self.tr(
            "The file cannot be read: {error}."
        ).format(error=error)  # fmt: skip
        self.summary.setText(self.tr("Nothing was imported."))
        self.details.setText(text)
        self.tabs.hide()

    @Slot(object)
    def _on_read(self, result: ImportResult) -> None:
        self.result_rows = result
        self._corrected = {}
        self.progress.hide()
        self._show_preview(result.samples)
        self._show_columns(result)
        self._show_rejected(result.rejected)
        self._refresh()
        if result.rejected and not result.samples:
            self.tabs.setCurrentWidget(self._rejected_page)

    def _refresh(self) -> None:
        result = self.result_rows
        if result is None:
            return
        good = len(result.samples) + len(self._corrected)
        bad = len(result.rejected) - len(self._corrected)
        parts = [self.tr("{rows} can be imported.").format(rows=rows_text(good))]
        if bad:
            parts.append(self.tr("{rows} cannot; see “Rejected”.").format(rows=rows_text(bad)))
        self.summary.setText(" ".join(parts))
        kinds = {"jsonl": "JSON Lines", "json": "JSON", "csv": "CSV", "tsv": "TSV",
                 "parquet": "Parquet"}  # fmt: skip
        words = [kinds.get(result.format, result.format)]
        if result.encoding != "binary":
            words.append(self.tr("encoding {name}").format(name=result.encoding))
        if result.repaired:
            first = result.repaired[0]
            words.append(
                self.tr("{rows} repaired, e.g. line {line}: {reason}").format(
                    rows=rows_text(len({item.line for item in result.repaired})),
                    line=first.line,
                    reason=first.reason,
                )
            )
        self.details.setText(" · ".join(words))
        self.tabs.setTabText(2, self.tr("Rejected ({count})").format(count=f"{bad:,}"))
        self.tabs.setTabEnabled(2, bool(result.rejected))
        self.import_button.setEnabled(good > 0)
        self.import_button.setText(self.tr("Import {rows}").format(rows=rows_text(good)))

    def _show_preview(self, samples: list[Sample]) -> None:
        shown = samples[:_PREVIEW]
        names = [n for n in ("label", "request", "context", "response", "rationale", "category",
                             "language", "tags", "split") if n in ("label", "request")
                 or any(getattr(s, n) for s in shown)]  # fmt: skip
        self.preview.setColumnCount(len(names))
        self.preview.setHorizontalHeaderLabels([name.capitalize() for name in names])
        self.preview.setRowCount(len(shown))
        for row, sample in enumerate(shown):
            for number, name in enumerate(names):
                value = getattr(sample, name)
                text = ", ".join(value) if isinstance(value, tuple) else str(value)
                if name == "label":
                    text = f"{SIGNS[sample.label]} {sample.label.value}"
                self.preview.setItem(row, number, QTableWidgetItem(text[:200]))
        self.preview.setColumnWidth(names.index("request"), 360)

    def _show_columns(self, result: ImportResult) -> None:
        self.columns.setColumnCount(2)
        self.columns.setHorizontalHeaderLabels([self.tr("Column in the file"), self.tr("Feeds")])
        names = result.columns[:200]
        self.columns.setRowCount(len(names))
        for row, name in enumerate(names):
            self.columns.setItem(row, 0, QTableWidgetItem(name))
            box = QComboBox()
            box.setObjectName(f"mapping_{row}")
            box.setAccessibleName(self.tr("Field for the column {name}").format(name=name))
            box.addItem(self.tr("(ignored)"), "")
            for target in TARGETS:
                box.addItem(target, target)
            box.setCurrentIndex(max(box.findData(result.mapping.get(name, "")), 0))
            box.activated.connect(self._on_mapping_activated)
            self.columns.setCellWidget(row, 1, box)
        self.columns.verticalHeader().setDefaultSectionSize(42)
        self.columns.setColumnWidth(0, 300)
        self.columns.setColumnWidth(1, 260)

    def _show_rejected(self, rows: list[Rejected]) -> None:
        table = self.rejected
        table.blockSignals(True)
        table.setColumnCount(5)
        table.setHorizontalHeaderLabels(
            [self.tr("Line"), self.tr("Field"), self.tr("Value"), self.tr("Reason"),
             self.tr("Row (edit to correct)")]
        )  # fmt: skip
        table.setRowCount(min(len(rows), MAX_LISTED))
        for number, rejected in enumerate(rows[:MAX_LISTED]):
            cells = (f"{rejected.line:,}", rejected.field, rejected.value, rejected.reason)
            for column, text in enumerate(cells):
                item = QTableWidgetItem(text)
                item.setFlags(item.flags() & ~Qt.ItemFlag.ItemIsEditable)
                item.setToolTip(text)
                table.setItem(number, column, item)
            table.setItem(number, 4, QTableWidgetItem(rejected.raw))
        table.blockSignals(False)
        for column, width in enumerate((60, 80, 120, 360)):
            table.setColumnWidth(column, width)
        table.horizontalHeader().setSectionResizeMode(4, QHeaderView.ResizeMode.Stretch)

    @Slot(int)
    def _on_mapping_activated(self, _index: int) -> None:
        mapping: dict[str, str] = {}
        for row in range(self.columns.rowCount()):
            box, item = self.columns.cellWidget(row, 1), self.columns.item(row, 0)
            if isinstance(box, QComboBox) and item is not None:
                mapping[item.text()] = str(box.currentData())
        self._start(mapping)

    @Slot(QTableWidgetItem)
    def _on_rejected_edited(self, item: QTableWidgetItem) -> None:
        number = item.row()
        if item.column() != 4 or self.result_rows is None:
            return
        try:
            sample = self._read_corrected(item.text())
            reason = self.tr("✓ corrected")
        except So8tError as error:
            sample, reason = None, str(error)
        if sample is None:
            self._corrected.pop(number, None)
        else:
            self._corrected[number] = sample
        cell = self.rejected.item(number, 3)
        if cell is not None:
            self.rejected.blockSignals(True)
            cell.setText(reason)
            cell.setToolTip(reason)
            self.rejected.blockSignals(False)
        self._refresh()

    def _read_corrected(self, text: str) -> Sample:
        """Read one corrected row the way a file is read, with the mapping in force."""
        result = self.result_rows
        assert result is not None
        mapping = dict(result.mapping)
        row: Any = None
        try:
            row = json.loads(text)
        except ValueError:
            row = None
        if isinstance(row, dict):
            mapping.update({name: name for name in row if name in TARGETS and name not in mapping})
        suffix = ".jsonl" if isinstance(row, dict) or result.format in ("jsonl", "json") else ".csv"
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"row{suffix}"
            header = "" if suffix == ".jsonl" else ",".join(
                json.dumps(name, ensure_ascii=False) for name in result.columns
            ) + "\n"  # fmt: skip
            one_line = json.dumps(row, ensure_ascii=False) if suffix == ".jsonl" and row else text
            path.write_text(header + one_line + "\n", "utf-8")
            found = read_samples(path, mapping=mapping, encoding="utf-8")
        if found.samples:
            return found.samples[0]
        reason = found.rejected[0].reason if found.rejected else self.tr("the row is empty")
        raise So8tError(reason)

    @Slot()
    def _on_save_rejected_clicked(self) -> None:
        suggested = str(self.path.with_name(f"{self.path.stem}.rejected.jsonl"))
        name, _ = QFileDialog.getSaveFileName(
            self, self.tr("Save rejected rows"), suggested, "JSON Lines (*.jsonl)"
        )
        if name and self.result_rows is not None:
            rows = [msgspec.json.encode(row) + b"\n" for row in self.result_rows.rejected]
            try:
                write_lines(Path(name), rows)
            except OSError as error:
                self.details.setText(
                    self.tr("The rows cannot be saved: {error}.").format(error=error.strerror)
                )
