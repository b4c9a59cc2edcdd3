"""Wrong decisions, groups and baselines below the figures."""

from __future__ import annotations

from PySide6.QtCore import QModelIndex, Qt, Signal, Slot
from PySide6.QtGui import QKeySequence, QShortcut
from PySide6.QtWidgets import QHBoxLayout, QLabel, QPushButton, QTabWidget, QVBoxLayout, QWidget

from so8t_engine.evaluation.metrics import HEADLINE_METRICS, METRIC_NAMES, Metrics, format_ratio
from so8t_engine.evaluation.report import GroupRow, WrongRow
from so8t_studio.names import baseline_title, metric_definition, metric_title
from so8t_studio.pages.evaluate.loading import Details
from so8t_studio.pages.evaluate.tables import TableRow, TextTableModel, make_table

GROUP_METRICS = (*HEADLINE_METRICS, "false_refusal_rate", "dangerous_allow_rate")


class DetailTabs(QTabWidget):
    """``sample_requested(id)`` when the user wants to see a wrong row in the dataset."""

    sample_requested = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("detailTabs")
        self.setDocumentMode(True)
        self._build_wrong()
        headers = [self.tr("Samples"), *(metric_title(name) for name in GROUP_METRICS)]
        tips = ["", "", *(metric_definition(name) for name in GROUP_METRICS)]
        self.categories = TextTableModel([self.tr("Category"), *headers], tips=tips)
        self.languages = TextTableModel([self.tr("Language"), *headers], tips=tips)
        self.baselines = TextTableModel([self.tr("Figure"), self.tr("This model")])
        for model, name, title in (
            (self.categories, "categoryTable", self.tr("By category")),
            (self.languages, "languageTable", self.tr("By language")),
            (self.baselines, "baselineTable", self.tr("Baselines")),
        ):
            self.addTab(make_table(model, name, title, stretch=0), title)

    def _build_wrong(self) -> None:
        holder = QWidget()
        column = QVBoxLayout(holder)
        column.setContentsMargins(0, 8, 0, 0)
        column.setSpacing(8)
        self.wrong = TextTableModel(
            [
                self.tr("Label"),
                self.tr("Decided"),
                self.tr("Confidence"),
                self.tr("Request"),
                self.tr("Category"),
                self.tr("Language"),
            ],
            left=(0, 1, 3, 4, 5),
        )
        self.wrong_table = make_table(
            self.wrong, "wrongTable", self.tr("Wrong decisions"), stretch=3
        )
        self.wrong_table.doubleClicked.connect(self._on_row_activated)
        self.wrong_table.selectionModel().selectionChanged.connect(self._on_selection_changed)
        column.addWidget(self.wrong_table, 1)
        row = QHBoxLayout()
        self.wrong_note = QLabel()
        self.wrong_note.setObjectName("wrongNote")
        self.wrong_note.setProperty("role", "caption")
        row.addWidget(self.wrong_note, 1)
        self.open = QPushButton(self.tr("Show in dataset"))
        self.open.setObjectName("showInDataset")
        self.open.setAccessibleName(self.tr("Show the chosen sample on the Dataset page"))
        self.open.setToolTip(self.tr("Show the chosen sample on the Dataset page (Enter)."))
        self.open.setEnabled(False)
        self.open.clicked.connect(self._on_open_clicked)
        row.addWidget(self.open)
        column.addLayout(row)
        for key in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            shortcut = QShortcut(QKeySequence(key), self.wrong_table)
            shortcut.setContext(Qt.ShortcutContext.WidgetShortcut)
            shortcut.activated.connect(self._on_open_clicked)
        self.addTab(holder, self.tr("Wrong decisions"))

    def set_details(self, details: Details) -> None:
        """Show groups and wrong rows."""
        self.categories.set_rows([self._group(row) for row in details.categories])
        self.languages.set_rows([self._group(row) for row in details.languages])
        self.wrong.set_rows([self._wrong(row) for row in details.wrong])
        self.open.setEnabled(False)
        dangerous = sum(row.dangerous for row in details.wrong)
        self.setTabText(0, self.tr("Wrong decisions ({count})").format(count=len(details.wrong)))
        if not details.wrong:
            self.wrong_note.setText(self.tr("Every sample is decided as labelled."))
        elif dangerous:
            self.wrong_note.setText(
                self.tr("{dangerous} dangerous (REFUSE decided ALLOW), listed first.").format(
                    dangerous=dangerous
                )
            )
        else:
            self.wrong_note.setText(self.tr("None is dangerous: no REFUSE was decided ALLOW."))

    def set_baselines(self, own: Metrics, baselines: dict[str, Metrics]) -> None:
        """Show this model beside what it has to beat."""
        every = [(self.tr("This model"), own)]
        every += [(baseline_title(name), found) for name, found in baselines.items()]
        self.baselines.set_table(
            [self.tr("Figure"), *(title for title, _found in every)],
            [
                TableRow(
                    (
                        metric_title(name),
                        *(format_ratio(found.ratio(name), digits=3) for _title, found in every),
                    ),
                    tooltip=metric_definition(name),
                )
                for name in METRIC_NAMES
            ],
        )

    def _group(self, row: GroupRow) -> TableRow:
        figures = (format_ratio(row.metrics.ratio(name)) for name in GROUP_METRICS)
        return TableRow((row.name or self.tr("unknown"), str(row.metrics.n), *figures), row)

    def _wrong(self, wrong: WrongRow) -> TableRow:
        confidence = max(wrong.probabilities)
        sign = "⚠ " if wrong.dangerous else ""
        cells = (
            wrong.row.label.value,
            f"{sign}{wrong.decided.value}",
            f"{confidence:.2f}",
            " ".join(wrong.row.request.split()),
            wrong.row.category,
            wrong.row.language,
        )
        tooltip = self.tr("ALLOW {allow}, ESCALATE {escalate}, REFUSE {refuse}").format(
            allow=f"{wrong.probabilities[0]:.3f}",
            escalate=f"{wrong.probabilities[1]:.3f}",
            refuse=f"{wrong.probabilities[2]:.3f}",
        )
        return TableRow(cells, wrong, tooltip)

    @Slot()
    def _on_selection_changed(self) -> None:
        self.open.setEnabled(self.wrong_table.selectionModel().hasSelection())

    @Slot(QModelIndex)
    def _on_row_activated(self, index: QModelIndex) -> None:
        found = self.wrong.row(index.row()).data
        if isinstance(found, WrongRow):
            self.sample_requested.emit(found.row.id)

    @Slot()
    def _on_open_clicked(self) -> None:
        rows = self.wrong_table.selectionModel().selectedRows()
        if rows:
            self._on_row_activated(rows[0])
