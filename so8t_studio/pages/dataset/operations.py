"""What the commands of the Dataset page do, dialogs included."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtCore import QObject, QTimer, Slot
from PySide6.QtGui import QAction
from PySide6.QtWidgets import QFileDialog, QMessageBox

from so8t_engine.errors import So8tError
from so8t_engine.labels import Label
from so8t_engine.samples.schema import SPLITS, Sample
from so8t_engine.samples.writers import EXPORT_FORMATS, write_samples
from so8t_studio.commands.dataset import (
    add_sample,
    delete_samples,
    import_samples,
    relabel,
    rows_text,
    set_split,
)
from so8t_studio.models.background import Reporter, Task
from so8t_studio.models.dataset_store import DatasetChangedOnDisk
from so8t_studio.pages.dataset.guard import may_touch_test
from so8t_studio.pages.dataset.import_dialog import ImportDialog
from so8t_studio.pages.dataset.small_dialogs import FindReplaceDialog, TagDialog

if TYPE_CHECKING:
    from so8t_studio.pages.dataset.page import DatasetPage

_EXPORT_SUFFIX = {"jsonl": ".jsonl", "json": ".json", "csv": ".csv", "tsv": ".tsv",
                  "parquet": ".parquet", "chat": ".chat.jsonl"}  # fmt: skip


class DatasetOperations(QObject):
    """Connects the page's actions to commands, files and dialogs."""

    def __init__(self, page: DatasetPage) -> None:
        super().__init__(page)
        self._page = page
        self._store = page.context.dataset
        self._export: Task | None = None
        acts = page.actions_
        acts.import_file.triggered.connect(self.choose_import)
        acts.add.triggered.connect(self.add_row)
        acts.delete.triggered.connect(self.delete_rows)
        acts.undo.triggered.connect(self.undo)
        acts.redo.triggered.connect(self.redo)
        acts.save.triggered.connect(self.save)
        acts.export.triggered.connect(self.choose_export)
        acts.find_replace.triggered.connect(self.find_and_replace)
        acts.tag.triggered.connect(self.change_tags)
        acts.select_all.triggered.connect(page.table.selectAll)
        acts.splits.triggered.connect(self.divide)
        acts.snapshots.triggered.connect(self.compare)
        for split in ("", *SPLITS):
            action = QAction(
                split or self.tr("automatic (each run decides)"), page.toolbar.split_menu
            )
            action.setData(split)
            action.triggered.connect(self._on_split_triggered)
            page.toolbar.split_menu.addAction(action)

    # Undo and save

    @Slot()
    def undo(self) -> None:
        """Take the last edit back."""
        self._page.detail.commit()
        self._store.undo_stack.undo()

    @Slot()
    def redo(self) -> None:
        """Do it again."""
        self._page.detail.commit()
        self._store.undo_stack.redo()

    @Slot()
    def save(self) -> bool:
        """Write the dataset; True if it is on disk now."""
        self._page.detail.commit()
        try:
            self._store.save()
        except DatasetChangedOnDisk as error:
            return self._resolve_conflict(error)
        except So8tError as error:
            self._page.show_notice("error", str(error), action="save", label=self.tr("Try again"))
            return False
        if self._page.banner.kind == "error":
            self._page.banner.clear()
        return True

    def _resolve_conflict(self, error: DatasetChangedOnDisk) -> bool:
        box = QMessageBox(self._page)
        box.setObjectName("conflictBox")
        box.setIcon(QMessageBox.Icon.Warning)
        box.setText(error.what)
        box.setInformativeText(
            self.tr("Overwrite the other program's version, or reload it and lose your edits?")
        )
        overwrite = box.addButton(self.tr("Overwrite"), QMessageBox.ButtonRole.DestructiveRole)
        reload = box.addButton(self.tr("Reload"), QMessageBox.ButtonRole.ResetRole)
        box.addButton(QMessageBox.StandardButton.Cancel)
        box.exec()
        try:
            if box.clickedButton() is overwrite:
                self._store.save(overwrite=True)
                return True
            if box.clickedButton() is reload:
                self._store.reload()
                return True
        except (So8tError, OSError) as failure:
            self._page.show_notice("error", str(failure))
        return False

    def confirm_unsaved(self) -> bool:
        """Offer to save unsaved edits; False if the user wants to stay."""
        if not self._store.modified or self._store.read_only:
            return True
        answer = QMessageBox.question(
            self._page,
            self.tr("Unsaved edits"),
            self.tr("Save the edits of this dataset before it is closed?"),
            QMessageBox.StandardButton.Save
            | QMessageBox.StandardButton.Discard
            | QMessageBox.StandardButton.Cancel,
            QMessageBox.StandardButton.Save,
        )
        if answer == QMessageBox.StandardButton.Save:
            return self.save()
        if answer == QMessageBox.StandardButton.Discard:
            self._store.reload()
            return True
        return False

    def announce_load(self) -> None:
        """Say what the user should know about the dataset that was just opened."""
        store, page = self._store, self._page
        if store.persona is None:
            return
        if store.read_only:
            page.show_notice(
                "info",
                self.tr(
                    "Another window has this workspace open, so this one only shows the data. "
                    "Close the other window and open the workspace again to edit."
                ),
            )
        elif store.recovered:
            page.show_notice(
                "warning",
                self.tr(
                    "Edits that had not been saved when the studio ended were restored. "
                    "Save to keep them."
                ),
                action="undo",
                label=self.tr("Discard them"),
            )
        elif store.set_aside:
            page.show_notice(
                "warning",
                self.tr(
                    "Unsaved edits no longer fit the dataset, because another program changed "
                    "it. They are kept in {file}."
                ).format(file=store.set_aside),
            )
        elif store.rejected:
            first = store.rejected[0]
            page.show_notice(
                "warning",
                self.tr(
                    "{rows} of the dataset file cannot be read (first: line {line}, {reason}). "
                    "The next save keeps them in dataset.rejected.jsonl."
                ).format(rows=rows_text(len(store.rejected)), line=first.line, reason=first.reason),
            )

    def announce_journal(self) -> None:
        """Say that a crash would now lose the unsaved edits, if it is so."""
        failure = self._store.journal_failure
        if failure and self._store.modified and self._page.banner.kind != "error":
            words = self.tr("{failure} A crash would lose them; save soon, or free some space.")
            self._page.show_notice(
                "error", words.format(failure=failure), action="save", label=self.tr("Save now")
            )

    def banner_action(self, name: str) -> None:
        """Do what the banner's button says."""
        self._page.banner.clear()
        if name == "save":
            self.save()
        elif name == "undo":
            self.undo()

    # Rows

    @Slot()
    def add_row(self) -> None:
        """Add an empty row below the current one and put the cursor into its request."""
        page = self._page
        page.detail.commit()
        if page.search.text():
            page.search.set_text("")
        current = page.table.current_sample()
        position = self._store.rows.index(current.id) + 1 if current is not None else None
        added = add_sample(self._store, position=position)
        if added:
            page.table.go_to(added)
            page.focus_field("request")

    @Slot()
    def delete_rows(self) -> None:
        """Delete the selected rows; undo brings them back."""
        page = self._page
        ids = page.target_ids()
        if not ids or not self._may_touch_test(ids):
            return
        row = min((page.model.row_of(one) for one in ids), default=0)
        delete_samples(self._store, ids)
        page.table.go_to_row(row)

    def relabel(self, label: Label) -> None:
        """Give the selected rows a label."""
        ids = self._page.target_ids()
        if ids and self._may_touch_test(ids):
            relabel(self._store, ids, label)

    @Slot()
    def _on_split_triggered(self) -> None:
        action = self.sender()
        if isinstance(action, QAction):
            ids = self._page.target_ids()
            if ids and self._may_touch_test(ids):
                set_split(self._store, ids, action.data())

    def _may_touch_test(self, ids: list[str]) -> bool:
        return may_touch_test(self._page, map(self._store.sample, ids))

    @Slot()
    def find_and_replace(self) -> None:
        """Replace text in the selection or in all rows shown."""
        ids = self._page.scope_ids()
        scope = self.tr("In {rows}").format(rows=rows_text(len(ids)))
        FindReplaceDialog(self._store, ids, scope, self._page).exec()

    @Slot()
    def change_tags(self) -> None:
        """Add and remove tags of the selected rows."""
        samples = [self._store.sample(one) for one in self._page.target_ids()]
        present: list[Sample] = [sample for sample in samples if sample is not None]
        if present:
            TagDialog(self._store, present, self._page).exec()

    @Slot()
    def divide(self) -> None:
        """Divide the data into splits."""
        from so8t_studio.pages.dataset.split_dialog import SplitDialog

        SplitDialog(self._store, self._page).exec()

    @Slot()
    def compare(self) -> None:
        """Compare with snapshots, and restore."""
        from so8t_studio.pages.dataset.diff_dialog import DiffDialog

        DiffDialog(self._store, self._page).exec()

    # Files

    @Slot()
    def choose_import(self) -> None:
        """Ask for a file and import it."""
        name, _ = QFileDialog.getOpenFileName(
            self._page,
            self.tr("Import rows"),
            "",
            self.tr(
                "Datasets (*.jsonl *.ndjson *.json *.csv *.tsv *.txt *.parquet);;All files (*)"
            ),
        )
        if name:
            self.import_path(Path(name))

    def import_later(self, names: list[str]) -> None:
        """Import after a drop has ended: a dialog inside of the drop would block the source."""
        QTimer.singleShot(0, self, lambda: self._import_all(names))

    def _import_all(self, names: list[str]) -> None:
        for name in names:
            self.import_path(Path(name))

    def import_path(self, path: Path) -> None:
        """Show what a file holds and import it if the user agrees."""
        self._page.detail.commit()
        dialog = ImportDialog(path, len(self._store), self._page)
        if dialog.exec() != ImportDialog.DialogCode.Accepted:
            return
        edit = import_samples(self._store, dialog.samples(), mode=dialog.mode, source=path.name)
        if edit.inserted:
            self._page.table.go_to(edit.inserted[0][1].id)
        self._page.context.post(
            "success",
            self.tr("{rows} were imported from {file}.").format(
                rows=rows_text(len(edit.inserted) + len(edit.changed)), file=path.name
            ),
        )

    @Slot()
    def choose_export(self) -> None:
        """Ask for a file and write the selection, or all rows that are shown."""
        page = self._page
        page.detail.commit()
        ids = page.scope_ids()
        persona = self._store.persona
        filters = ";;".join(
            f"{title} (*{_EXPORT_SUFFIX[kind]})" for kind, title in EXPORT_FORMATS.items()
        )
        suggested = f"{persona.slug}.jsonl" if persona is not None else "dataset.jsonl"
        name, chosen = QFileDialog.getSaveFileName(
            page,
            self.tr("Export {rows}").format(rows=rows_text(len(ids))),
            suggested,
            filters,
        )
        if not name:
            return
        kind = next(
            (one for one, title in EXPORT_FORMATS.items() if chosen.startswith(f"{title} (")), ""
        )
        path = Path(name)
        if not path.suffix and kind:
            path = path.with_name(path.name + _EXPORT_SUFFIX[kind])
        self.export_to(path, ids, kind)

    def export_to(self, path: Path, ids: list[str], kind: str = "") -> None:
        """Write rows to a file off the GUI thread and say how it went."""
        found = (self._store.sample(one) for one in ids)
        samples = [sample for sample in found if sample is not None]
        if path.suffix.casefold() in (".csv", ".tsv", ".json", ".parquet"):
            kind = ""  # the name that was typed says more than the filter

        def work(_reporter: Reporter) -> tuple[Path, int]:
            write_samples(path, samples, format=kind)
            return path, len(samples)

        self.finish()
        self._export = Task(work, self)
        self._export.succeeded.connect(self._on_exported)
        self._export.failed.connect(self._on_export_failed)
        self._export.start()

    def finish(self) -> None:
        """Wait for an export that is still going on."""
        if self._export is not None:
            self._export.stop()
            self._export.deleteLater()
            self._export = None

    @Slot(object)
    def _on_exported(self, result: tuple[Path, int]) -> None:
        path, count = result
        words = self.tr("{rows} were written to {file}.")
        self._page.context.post("success", words.format(rows=rows_text(count), file=path.name))

    @Slot(object)
    def _on_export_failed(self, error: Exception) -> None:
        self._page.show_notice("error", str(error))
