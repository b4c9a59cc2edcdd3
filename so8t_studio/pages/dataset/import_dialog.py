"""Import with a preview: read off the GUI thread, map columns, see and correct bad rows."""

from __future__ import annotations

from pathlib import Path

import msgspec
from PySide6.QtCore import Qt, Slot
from PySide6.QtWidgets import (
    QAbstractItemView,
    QComboBox,
    QDialogButtonBox,
    QFileDialog,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QProgressBar,
    QPushButton,
    QSplitter,
    QTableView,
    QTableWidget,
    QTableWidgetItem,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)

from so8t_engine.errors import So8tError
from so8t_engine.samples.combine import ImportMode
from so8t_engine.samples.encodings import ENCODINGS
from so8t_engine.samples.readers import ImportResult, ReadCancelled, read_samples
from so8t_engine.samples.schema import Sample
from so8t_engine.workspace.atomic import write_lines
from so8t_studio.commands.dataset import rows_text
from so8t_studio.models.background import Reporter, Task
from so8t_studio.models.rejected_rows import COLUMNS, RejectedRowsModel
from so8t_studio.pages.dataset.mapping_table import MappingTable
from so8t_studio.pages.dataset.task_dialog import TaskDialog
from so8t_studio.widgets.label_chip import SIGNS

PREVIEW_ROWS = 50
_ENCODING_NAMES = {
    "cp1252": "cp1252 (Latin-1)", "cp932": "cp932 (Shift_JIS)", "utf-8-sig": "utf-8 (with BOM)",
    "utf-16": "utf-16 (with BOM)",
}  # fmt: skip
_PREVIEW_FIELDS = ("label", "request", "context", "response", "rationale", "category", "language",
                   "tags", "split")  # fmt: skip
_KINDS = {"jsonl": "JSON Lines", "json": "JSON", "csv": "CSV", "tsv": "TSV", "parquet": "Parquet"}


class ImportDialog(TaskDialog):
    """Reads ``path`` and offers what it found. After ``accept``: :meth:`samples`, :attr:`mode`."""

    def __init__(self, path: Path, rows_now: int, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.path = path
        self.result_rows: ImportResult | None = None
        self._mapping: dict[str, str] | None = None
        self.setObjectName("importDialog")
        self.setWindowTitle(self.tr("Import {file}").format(file=path.name))
        self.resize(960, 620)
        column = QVBoxLayout(self)
        column.setContentsMargins(20, 16, 20, 16)
        column.setSpacing(10)
        self.summary = self._label("importSummary", "h3")
        column.addWidget(self.summary)
        self.details = self._label("importDetails", "muted")
        column.addWidget(self.details)
        self.progress = QProgressBar()
        self.progress.setObjectName("importProgress")
        self.progress.setAccessibleName(self.tr("Progress of the import"))
        self.progress.setTextVisible(False)
        column.addWidget(self.progress)
        self.tabs = QTabWidget()
        self.tabs.setObjectName("importTabs")
        self.preview = QTableWidget()
        self._prepare(self.preview, "importPreview", self.tr("First rows"))
        self.columns = MappingTable()
        self._prepare(self.columns, "importColumns", self.tr("Columns"))
        self.columns.mapping_changed.connect(self._on_mapping_changed)
        self._rejected_page = self._make_rejected_page()
        self.both = QSplitter(Qt.Orientation.Vertical)
        self.both.setObjectName("importSplitter")
        self.both.setChildrenCollapsible(False)
        self.both.addWidget(self.columns)
        self.both.addWidget(self.preview)
        self.both.setSizes([190, 210])
        self.tabs.addTab(self.both, self.tr("Columns and first rows"))
        self.tabs.addTab(self._rejected_page, self.tr("Rejected"))
        column.addWidget(self.tabs, 1)
        column.addStretch()  # room below the sentence that stands alone when a file is refused
        column.addLayout(self._make_bottom(rows_now))
        self._start()

    def _label(self, name: str, role: str) -> QLabel:
        label = QLabel()
        label.setObjectName(name)
        label.setWordWrap(True)
        label.setProperty("role", role)
        return label

    def _prepare(self, table: QTableView, name: str, title: str) -> None:
        table.setObjectName(name)
        table.setAccessibleName(title)
        table.verticalHeader().hide()
        table.horizontalHeader().setDefaultAlignment(
            Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter
        )
        table.setShowGrid(False)
        table.setWordWrap(False)
        table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)

    def _make_rejected_page(self) -> QWidget:
        page = QWidget()
        column = QVBoxLayout(page)
        column.setContentsMargins(0, 8, 0, 0)
        words = self._label("rejectedHint", "muted")
        words.setText(
            self.tr(
                "Correct the last column of a row to import it too; good rows are not affected."
            )
        )
        column.addWidget(words)
        self.rejected_rows = RejectedRowsModel(self)
        self.rejected_rows.corrected_changed.connect(self._refresh)
        self.rejected = QTableView()
        self._prepare(self.rejected, "importRejected", self.tr("Rows that cannot be imported"))
        self.rejected.setModel(self.rejected_rows)
        self.rejected.setEditTriggers(
            QAbstractItemView.EditTrigger.DoubleClicked
            | QAbstractItemView.EditTrigger.EditKeyPressed
            | QAbstractItemView.EditTrigger.AnyKeyPressed
        )
        for number, width in enumerate((120, 56, 80, 110, 290)):
            self.rejected.setColumnWidth(number, width)
        self.rejected.horizontalHeader().setSectionResizeMode(
            COLUMNS.index("raw"), QHeaderView.ResizeMode.Stretch
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
        self.mode_box = QComboBox()
        self.mode_box.setObjectName("importMode")
        self.mode_box.setAccessibleName(self.tr("How to import"))
        self.mode_box.addItem(self.tr("Add to the rows that are there"), "append")
        self.mode_box.addItem(self.tr("Update rows with the same id, add the others"), "merge")
        self.mode_box.addItem(
            self.tr("Replace all {rows}").format(rows=rows_text(rows_now)), "replace"
        )
        self.mode_box.setVisible(rows_now > 0)
        row.addWidget(self.mode_box)
        self.encoding_box = QComboBox()
        self.encoding_box.setObjectName("importEncoding")
        self.encoding_box.setAccessibleName(self.tr("Encoding of the file"))
        self.encoding_box.setToolTip(
            self.tr("Choose another encoding if the preview shows wrong characters")
        )
        self.encoding_box.addItem(self.tr("Encoding: found by itself"), "")
        for name in ENCODINGS:
            self.encoding_box.addItem(_ENCODING_NAMES.get(name, name), name)
        self.encoding_box.activated.connect(self._start)
        row.addWidget(self.encoding_box)
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
        for sample in self.rejected_rows.corrected:
            fresh, suffix = sample.id, 2
            while fresh in used:
                fresh, suffix = f"{sample.id}-{suffix}", suffix + 1
            used.add(fresh)
            rows.append(msgspec.structs.replace(sample, id=fresh))
        return rows

    # Reading: the first rows at once, then all of them

    @Slot()
    def _start(self) -> None:
        self.import_button.setEnabled(False)
        self.progress.setRange(0, 0)
        self.progress.show()
        self.summary.setText(self.tr("Reading {file}…").format(file=self.path.name))
        self._read(PREVIEW_ROWS)

    def _read(self, limit: int) -> None:
        self._stop()
        path, mapping = self.path, self._mapping
        encoding = str(self.encoding_box.currentData())

        def work(reporter: Reporter) -> ImportResult:
            return read_samples(
                path, mapping=mapping, encoding=encoding, limit=limit,
                progress=None if limit else reporter.progress, cancelled=reporter.cancelled,
            )  # fmt: skip

        self._task = Task(work, self)
        self._task.progressed.connect(self._on_progressed)
        self._task.succeeded.connect(self._on_previewed if limit else self._on_read)
        self._task.failed.connect(self._on_failed)
        self._task.start()

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
        self.result_rows = None
        self.summary.setText(self.tr("Nothing was imported."))
        self.details.setText(text)
        self.tabs.hide()

    @Slot(object)
    def _on_previewed(self, result: ImportResult) -> None:
        self.tabs.show()
        self._show_preview(result.samples)
        self.columns.show_mapping(result.columns, result.mapping)
        self._read(0)

    @Slot(object)
    def _on_read(self, result: ImportResult) -> None:
        self._stop()
        self.result_rows = result
        self.progress.hide()
        self.columns.show_mapping(result.columns, result.mapping)
        self.rejected_rows.show_result(result)
        self._refresh()
        if not result.samples:
            mapped = {"request", "messages"} & set(result.mapping.values())
            known = bool(mapped) and "label" in result.mapping.values()
            self.tabs.setCurrentWidget(self._rejected_page if known else self.both)

    @Slot(object)
    def _on_mapping_changed(self, mapping: dict[str, str]) -> None:
        self._mapping = mapping
        self._start()

    # Showing

    @Slot()
    def _refresh(self) -> None:
        result = self.result_rows
        if result is None:
            return
        good = len(result.samples) + len(self.rejected_rows.corrected)
        bad = self.rejected_rows.left
        parts = [self.tr("{rows} can be imported.").format(rows=rows_text(good))]
        if bad:
            parts.append(self.tr("{rows} cannot; see “Rejected”.").format(rows=rows_text(bad)))
        self.summary.setText(" ".join(parts))
        words = [_KINDS.get(result.format, result.format)]
        if result.encoding != "binary":
            name = _ENCODING_NAMES.get(result.encoding, result.encoding)
            words.append(self.tr("encoding {name}").format(name=name))
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
        self.encoding_box.setVisible(result.encoding != "binary")
        self.tabs.setTabText(1, self.tr("Rejected ({count})").format(count=f"{bad:,}"))
        self.tabs.setTabEnabled(1, bool(result.rejected))
        self.import_button.setEnabled(good > 0)
        self.import_button.setText(self.tr("Import {rows}").format(rows=rows_text(good)))

    def _show_preview(self, samples: list[Sample]) -> None:
        shown = samples[:PREVIEW_ROWS]
        names = ["label", "request"]
        names += [name for name in _PREVIEW_FIELDS[2:] if any(getattr(s, name) for s in shown)]
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

    @Slot()
    def _on_save_rejected_clicked(self) -> None:
        suggested = str(self.path.with_name(f"{self.path.stem}.rejected.jsonl"))
        name, _ = QFileDialog.getSaveFileName(
            self, self.tr("Save rejected rows"), suggested, "JSON Lines (*.jsonl)"
        )
        if not name:
            return
        rows = [msgspec.json.encode(row) + b"\n" for row in self.rejected_rows.remaining()]
        try:
            write_lines(Path(name), rows)
        except OSError as error:
            self.details.setText(
                self.tr("The rows cannot be saved: {error}.").format(error=error.strerror)
            )
        else:
            self.details.setText(
                self.tr("{rows} were saved to {file}.").format(
                    rows=rows_text(len(rows)), file=Path(name).name
                )
            )
