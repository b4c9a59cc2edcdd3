"""The table of samples, with the keys of a labelling session."""

from __future__ import annotations

from PySide6.QtCore import QItemSelectionModel, QModelIndex, QPoint, Qt, Signal, Slot
from PySide6.QtGui import QAction, QKeyEvent, QResizeEvent
from PySide6.QtWidgets import QAbstractItemView, QHeaderView, QMenu, QTableView, QWidget

from so8t_engine.labels import LABELS, Label
from so8t_engine.samples.schema import Sample
from so8t_studio.models.sample_table import SampleTableModel
from so8t_studio.pages.dataset.delegates import (
    ROW_HEIGHT,
    LabelDelegate,
    SplitDelegate,
    TextDelegate,
)

_WIDTHS = {
    "label": 122, "request": 320, "context": 180, "response": 220, "rationale": 220,
    "category": 116, "language": 92, "tags": 110, "source": 110, "split": 90, "length": 76,
    "id": 120,
}  # fmt: skip
# Until the user chooses columns: each with the width of the table from which on it is shown.
_SHOWN_FROM = {"label": 0, "request": 0, "category": 480, "language": 580, "split": 680}
_LEAST_REQUEST = 220
_LABEL_KEYS = {Qt.Key.Key_1: LABELS[0], Qt.Key.Key_2: LABELS[1], Qt.Key.Key_3: LABELS[2]}


class SampleTableView(QTableView):
    """Rows of fixed height (so that 100,000 of them scroll smoothly), keys and column menu."""

    label_key_pressed = Signal(object)
    """Label: the user pressed 1, 2 or 3."""
    edit_requested = Signal(str)
    """Name of the field that the detail pane should focus."""
    search_requested = Signal()
    current_changed = Signal(object)
    """Sample | None."""
    columns_changed = Signal()

    def __init__(self, model: SampleTableModel, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("sampleTable")
        self.setAccessibleName(self.tr("Samples"))
        self._samples = model
        self._chosen_columns = False
        self._fitting = True
        self._widths: dict[str, int] = {}
        self.setModel(model)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.setEditTriggers(
            QAbstractItemView.EditTrigger.DoubleClicked
            | QAbstractItemView.EditTrigger.EditKeyPressed
        )
        self.setWordWrap(True)
        self.setShowGrid(False)
        self.setAlternatingRowColors(False)
        self.setTabKeyNavigation(False)
        self.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.setHorizontalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.setCornerButtonEnabled(False)
        rows = self.verticalHeader()
        rows.setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        rows.setDefaultSectionSize(ROW_HEIGHT)
        rows.hide()
        self._label_delegate = LabelDelegate(self)
        self._split_delegate = SplitDelegate(self)
        self.setItemDelegate(TextDelegate(self))
        self.setItemDelegateForColumn(model.COLUMNS.index("label"), self._label_delegate)
        self.setItemDelegateForColumn(model.COLUMNS.index("split"), self._split_delegate)
        self._prepare_header()
        self._fitting = False
        self.selectionModel().currentRowChanged.connect(self._on_current_changed)

    def _prepare_header(self) -> None:
        header = self.horizontalHeader()
        header.setObjectName("sampleTableHeader")
        header.setSectionsMovable(True)
        header.setHighlightSections(False)
        header.setSortIndicatorShown(True)
        header.setSortIndicatorClearable(True)
        header.setSortIndicator(-1, Qt.SortOrder.AscendingOrder)
        header.setDefaultAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
        header.setMinimumSectionSize(56)
        header.setToolTip(
            self.tr(
                "Click to sort; click further columns to sort by several, the last one first. "
                "Drag to move or resize; right-click to choose columns."
            )
        )
        for column, name in enumerate(self._samples.COLUMNS):
            self.setColumnWidth(column, _WIDTHS[name])
            self.setColumnHidden(column, name not in _SHOWN_FROM)
        header.sectionResized.connect(self._on_section_resized)
        header.sortIndicatorChanged.connect(self._on_sort_indicator_changed)
        header.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        header.customContextMenuRequested.connect(self._on_header_menu_requested)
        header.sectionMoved.connect(self._on_section_moved)
        # With the table's own, painting the header asks every cell of a selection for its flags.
        header.setSelectionModel(QItemSelectionModel(self._samples, header))

    # Rows

    def selected_ids(self) -> list[str]:
        """Return the identifiers of the selected rows, in the order shown."""
        rows: list[int] = []
        for part in self.selectionModel().selection():
            rows.extend(range(part.top(), part.bottom() + 1))
        samples = (self._samples.sample_at(row) for row in sorted(set(rows)))
        return [sample.id for sample in samples if sample is not None]

    def current_sample(self) -> Sample | None:
        """Return the row with the cursor."""
        return self._samples.sample_at(self.currentIndex().row())

    def go_to(self, sample_id: str) -> bool:
        """Move the cursor to a row; False if it is not shown."""
        row = self._samples.row_of(sample_id)
        if row >= 0:
            self.go_to_row(row)
        return row >= 0

    def go_to_row(self, row: int) -> None:
        """Move the cursor to a row number; beyond the ends it stops at them."""
        count = self._samples.rowCount()
        if not count:
            return
        column = max(self.currentIndex().column(), 0)
        index = self._samples.index(max(0, min(row, count - 1)), column)
        self.selectionModel().setCurrentIndex(
            index,
            QItemSelectionModel.SelectionFlag.ClearAndSelect
            | QItemSelectionModel.SelectionFlag.Rows,
        )
        self.scrollTo(index)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Handle the keys of a labelling session; everything else is Qt's."""
        if self.state() == QAbstractItemView.State.EditingState:
            super().keyPressEvent(event)  # the Enter with which an editor in a cell ends
            return
        plain = event.modifiers() in (
            Qt.KeyboardModifier.NoModifier, Qt.KeyboardModifier.KeypadModifier
        )  # fmt: skip
        key = Qt.Key(event.key())
        row = self.currentIndex().row()
        if plain and key in _LABEL_KEYS:
            self.label_key_pressed.emit(_LABEL_KEYS[key])
        elif plain and key == Qt.Key.Key_J:
            self.go_to_row(row + 1)
        elif plain and key == Qt.Key.Key_K:
            self.go_to_row(max(row - 1, 0))
        elif plain and key == Qt.Key.Key_E:
            self.edit_requested.emit("rationale")
        elif plain and key == Qt.Key.Key_Slash:
            self.search_requested.emit()
        elif plain and key in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            self.edit_requested.emit("request")
        else:
            super().keyPressEvent(event)
            return
        event.accept()

    def keyboardSearch(self, search: str) -> None:
        """Do nothing: letters are commands here."""

    @Slot(QModelIndex, QModelIndex)
    def _on_current_changed(self, current: QModelIndex, _previous: QModelIndex) -> None:
        self.current_changed.emit(self._samples.sample_at(current.row()))

    # Columns

    def column_state(self) -> dict[str, object]:
        """Return order, widths and visibility of the columns, for the settings."""
        header = self.horizontalHeader()
        names = self._samples.COLUMNS
        order = [names[header.logicalIndex(place)] for place in range(len(names))]
        return {
            "order": order,
            "hidden": [n for c, n in enumerate(names) if self.isColumnHidden(c)],
            "widths": dict(self._widths),
        }

    def restore_columns(self, state: dict[str, object]) -> None:
        """Put columns back; names that are unknown are passed over."""
        header, names = self.horizontalHeader(), self._samples.COLUMNS
        self._chosen_columns = True
        order, hidden, widths = (state.get(key) for key in ("order", "hidden", "widths"))
        if isinstance(order, list):
            for place, name in enumerate(name for name in order if name in names):
                header.moveSection(header.visualIndex(names.index(name)), place)
        if isinstance(hidden, list) and set(hidden) < set(names):
            for column, name in enumerate(names):
                self.setColumnHidden(column, name in hidden)
        if isinstance(widths, dict):
            for name, width in widths.items():
                if name in names and isinstance(width, int) and 20 <= width <= 2000:
                    self._widths[name] = width
                    self._resize(name, width)
        self._fit_request()

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Leave room for the request: narrow tables show fewer columns by default."""
        super().resizeEvent(event)
        if not self._chosen_columns:
            for column, name in enumerate(self._samples.COLUMNS):
                least = _SHOWN_FROM.get(name)
                self.setColumnHidden(column, least is None or self.width() < least)
        self._fit_request()

    def _fit_request(self) -> None:
        """Give the request what the other columns leave, until the user sizes it."""
        if "request" in self._widths:
            return
        own = self._samples.COLUMNS.index("request")
        others = sum(self.columnWidth(column) for column in range(len(self._samples.COLUMNS))
                     if column != own)  # fmt: skip
        self._resize("request", max(self.viewport().width() - others, _LEAST_REQUEST))

    def _resize(self, name: str, width: int) -> None:
        self._fitting = True
        self.setColumnWidth(self._samples.COLUMNS.index(name), width)
        self._fitting = False

    @Slot(int, int, int)
    def _on_section_resized(self, column: int, old: int, width: int) -> None:
        if self._fitting or not old or not width:  # not by the user, or shown and hidden
            return
        self._widths[self._samples.COLUMNS[column]] = width
        self._fit_request()
        self.columns_changed.emit()

    @Slot()
    def _on_section_moved(self) -> None:
        self._chosen_columns = True
        self.columns_changed.emit()

    @Slot(QPoint)
    def _on_header_menu_requested(self, place: QPoint) -> None:
        self.column_menu().popup(self.horizontalHeader().mapToGlobal(place))

    def column_menu(self) -> QMenu:
        """Return the menu that shows and hides columns."""
        menu = QMenu(self)
        menu.setObjectName("columnMenu")
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        for column, name in enumerate(self._samples.COLUMNS):
            action = QAction(self._samples.column_title(name), menu)
            action.setCheckable(True)
            action.setChecked(not self.isColumnHidden(column))
            action.setEnabled(name != "request")
            action.setData(column)
            action.toggled.connect(self._on_column_toggled)
            menu.addAction(action)
        return menu

    @Slot(bool)
    def _on_column_toggled(self, shown: bool) -> None:
        action = self.sender()
        if isinstance(action, QAction):
            self._chosen_columns = True
            self.setColumnHidden(action.data(), not shown)
            self._fit_request()
            self.columns_changed.emit()

    @Slot(int, Qt.SortOrder)
    def _on_sort_indicator_changed(self, column: int, order: Qt.SortOrder) -> None:
        current = self.current_sample()
        self._samples.sort(column, order)
        if current is not None:
            self.scrollTo(self.currentIndex())


def next_after_label(view: SampleTableView, model: SampleTableModel) -> str:
    """Return the identifier of the row after the last selected one, '' at the end."""
    parts = view.selectionModel().selection()  # selectedRows() would ask every cell of them
    last = max((part.bottom() for part in parts), default=view.currentIndex().row())
    sample = model.sample_at(last + 1)
    return sample.id if sample is not None else ""


__all__ = ["Label", "SampleTableView", "next_after_label"]
