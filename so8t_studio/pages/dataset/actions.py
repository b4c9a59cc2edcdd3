"""One QAction a command of the Dataset page; menus, toolbar and keys share them."""

from __future__ import annotations

from PySide6.QtCore import QObject, Qt, Slot
from PySide6.QtGui import QAction, QKeySequence
from PySide6.QtWidgets import QWidget

from so8t_engine.labels import LABELS, Label
from so8t_studio.theme import Theme
from so8t_studio.widgets.label_chip import SIGNS, TOKENS


class DatasetActions(QObject):
    """The commands by name; the page connects them."""

    def __init__(self, owner: QWidget) -> None:
        super().__init__(owner)
        self._owner = owner
        self._icons: dict[QAction, tuple[str, str]] = {}
        tr = self.tr
        key = QKeySequence.StandardKey
        self.import_file = self._add(
            "import", tr("Import…"), tr("Bring rows in from a file (or drop one here)"),
            QKeySequence("Ctrl+I"), "import",
        )  # fmt: skip
        self.add = self._add("add", tr("Add row"), tr("Add an empty row"), key.New, "plus")
        self.delete = self._add(
            "delete", tr("Delete"), tr("Delete the selected rows"), key.Delete, "trash"
        )
        self.undo = self._add("undo", tr("Undo"), tr("Take the last edit back"), key.Undo, "undo")
        self.redo = self._add("redo", tr("Redo"), tr("Do the edit again"), key.Redo, "redo")
        self.save = self._add("save", tr("Save"), tr("Write all edits to disk"), key.Save, "save")
        self.export = self._add(
            "export", tr("Export…"), tr("Write the selection or all rows shown to a file"),
            QKeySequence("Ctrl+E"), "export",
        )  # fmt: skip
        self.find_replace = self._add(
            "findReplace", tr("Find and replace…"), tr("Replace text in many rows"),
            QKeySequence("Ctrl+H"), "search",
        )  # fmt: skip
        self.tag = self._add(
            "tag", tr("Add or remove tags…"), tr("Change the tags of the selected rows"),
            QKeySequence("Ctrl+T"), "",
        )  # fmt: skip
        self.search = self._add(
            "search", tr("Search"), tr("Go to the search field"), key.Find, "search"
        )
        self.select_all = self._add("selectAll", tr("Select all rows shown"), "", key.SelectAll, "")
        self.splits = self._add(
            "splits", tr("Split the data…"),
            tr("Divide rows into training and validation without leaks"), None, "",
        )  # fmt: skip
        self.snapshots = self._add(
            "snapshots", tr("Snapshots and differences…"),
            tr("Compare with the data of earlier runs, and restore"), None, "",
        )  # fmt: skip
        self.labels: dict[Label, QAction] = {}
        for number, label in enumerate(LABELS, start=1):
            self.labels[label] = self._add(
                f"label_{label.value}", f"{SIGNS[label]} {label.value}",
                tr("Give the selected rows the label {label} (key {number})").format(
                    label=label.value, number=number
                ),
                None, "",
            )  # fmt: skip
            self._icons[self.labels[label]] = ("", TOKENS[label])
        Theme.instance().changed.connect(self._on_theme_changed)
        self._on_theme_changed()

    def _add(
        self,
        name: str,
        text: str,
        tip: str,
        keys: QKeySequence | QKeySequence.StandardKey | None,
        icon: str,
    ) -> QAction:
        action = QAction(text, self._owner)
        action.setObjectName(f"action_{name}")
        if keys is not None:
            if isinstance(keys, QKeySequence):
                action.setShortcut(keys)
            else:
                action.setShortcuts(keys)
            action.setShortcutContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
        shown = action.shortcut().toString(QKeySequence.SequenceFormat.NativeText)
        words = tip or text
        action.setToolTip(f"{words} ({shown})" if shown else words)
        self._owner.addAction(action)
        if icon:
            self._icons[action] = (icon, "text")
        return action

    @Slot()
    def _on_theme_changed(self) -> None:
        theme = Theme.instance()
        for action, (icon, token) in self._icons.items():
            if icon:
                action.setIcon(theme.icon(icon, token))
