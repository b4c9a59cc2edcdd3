"""What the Dataset page remembers in the settings: columns, saved filters, the facet list."""

from __future__ import annotations

from PySide6.QtCore import QObject, QTimer, Slot

from so8t_studio.pages.dataset.search_bar import SearchBar
from so8t_studio.pages.dataset.table_view import SampleTableView
from so8t_studio.settings import Settings

_FORM = "dataset"
_SAVE_AFTER_MS = 500


class Remembered(QObject):
    """Restores the form when it is made and saves it when something in it changes."""

    def __init__(
        self, settings: Settings, table: SampleTableView, search: SearchBar, parent: QObject
    ) -> None:
        super().__init__(parent)
        self._settings, self._table, self._search = settings, table, search
        form = settings.form(_FORM)
        if isinstance(form.get("columns"), dict):
            table.restore_columns(form["columns"])
        search.set_filters(self._filters())
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_SAVE_AFTER_MS)
        self._timer.timeout.connect(self._save_columns)
        table.columns_changed.connect(self._timer.start)
        search.filter_saved.connect(self._on_filter_saved)
        search.filter_removed.connect(self._on_filter_removed)

    @property
    def facets(self) -> bool | None:
        """Whether the user wants the list of values; None leaves it to the width."""
        wanted = self._settings.form(_FORM).get("facets")
        return wanted if isinstance(wanted, bool) else None

    def remember(self, **values: object) -> None:
        """Save values beside the others of the form."""
        self._settings.save_form(_FORM, {**self._settings.form(_FORM), **values})

    def flush(self) -> None:
        """Save at once what would be saved soon."""
        if self._timer.isActive():
            self._timer.stop()
            self._save_columns()

    def _filters(self) -> list[str]:
        filters = self._settings.form(_FORM).get("filters") or []
        return [one for one in filters if isinstance(one, str)]

    @Slot()
    def _save_columns(self) -> None:
        self.remember(columns=self._table.column_state())

    @Slot(str)
    def _on_filter_saved(self, text: str) -> None:
        filters = [*self._filters(), text]
        self.remember(filters=filters)
        self._search.set_filters(filters)

    @Slot(str)
    def _on_filter_removed(self, text: str) -> None:
        filters = [one for one in self._filters() if one != text]
        self.remember(filters=filters)
        self._search.set_filters(filters)
