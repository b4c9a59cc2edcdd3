"""Find and replace, and tags, over the rows that the user chose."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from PySide6.QtCore import QTimer, Slot
from PySide6.QtWidgets import (
    QCheckBox,
    QDialog,
    QDialogButtonBox,
    QFormLayout,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from so8t_engine.samples.query import SearchCancelled
from so8t_engine.samples.schema import Sample
from so8t_studio.commands.dataset import find_replace_edit, push, replace_title, retag, rows_text
from so8t_studio.models.background import Reporter, Task
from so8t_studio.models.dataset_store import DatasetStore
from so8t_studio.models.sample_list import Edit
from so8t_studio.pages.dataset.guard import may_touch_test, rows_of
from so8t_studio.pages.dataset.task_dialog import TaskDialog

_COUNT_AFTER_MS = 150
FIELDS = ("request", "context", "response", "rationale", "category", "source")


class FindReplaceDialog(TaskDialog):
    """Counts what would change while the user types; one undo step."""

    def __init__(
        self, store: DatasetStore, ids: Sequence[str], scope: str, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self._store = store
        self._samples = [s for s in map(store.sample, ids) if s is not None]
        self._edit = Edit()
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_COUNT_AFTER_MS)
        self._timer.timeout.connect(self._refresh)
        self.setObjectName("findReplaceDialog")
        self.setWindowTitle(self.tr("Find and replace"))
        self.setMinimumWidth(480)
        column = QVBoxLayout(self)
        column.setContentsMargins(20, 16, 20, 16)
        column.setSpacing(12)
        column.addWidget(QLabel(scope))
        form = QFormLayout()
        self.find = QLineEdit()
        self.replacement = QLineEdit()
        for editor, name, title in (
            (self.find, "findText", self.tr("Find")),
            (self.replacement, "replaceText", self.tr("Replace with")),
        ):
            editor.setObjectName(name)
            editor.setAccessibleName(title)
            editor.textChanged.connect(self._on_changed)
            form.addRow(title, editor)
        column.addLayout(form)
        self.options: dict[str, QCheckBox] = {}
        row = QHBoxLayout()
        for name, title in (
            ("case_sensitive", self.tr("Match case")),
            ("whole_word", self.tr("Whole words")),
            ("regex", self.tr("Regular expression")),
        ):
            row.addWidget(self._check(name, title, False))
        row.addStretch(1)
        column.addLayout(row)
        column.addWidget(QLabel(self.tr("In these fields:")))
        grid = QGridLayout()
        for number, name in enumerate(FIELDS):
            box = self._check(name, name.capitalize(), name == "request")
            grid.addWidget(box, number // 3, number % 3)
        column.addLayout(grid)
        self.outcome = QLabel()
        self.outcome.setObjectName("findReplaceOutcome")
        self.outcome.setWordWrap(True)
        self.outcome.setProperty("role", "muted")
        column.addWidget(self.outcome)
        buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Cancel)
        self.apply_button = QPushButton(self.tr("Replace all"))
        self.apply_button.setObjectName("replaceAll")
        self.apply_button.setAccessibleName(self.tr("Replace all"))
        self.apply_button.setProperty("kind", "primary")
        buttons.addButton(self.apply_button, QDialogButtonBox.ButtonRole.AcceptRole)
        buttons.accepted.connect(self._on_accepted)
        buttons.rejected.connect(self.reject)
        column.addWidget(buttons)
        self._refresh()

    def _check(self, name: str, title: str, checked: bool) -> QCheckBox:
        box = QCheckBox(title)
        box.setObjectName(f"findOption_{name}")
        box.setAccessibleName(title)
        box.setChecked(checked)
        box.toggled.connect(self._on_changed)
        self.options[name] = box
        return box

    def _fields(self) -> list[str]:
        return [name for name in FIELDS if self.options[name].isChecked()]

    @Slot()
    def _on_changed(self) -> None:
        self._stop()  # its result would be that of the old choice
        self.apply_button.setEnabled(False)
        self._timer.start()

    @Slot()
    def _refresh(self) -> None:
        """Count in the background what would change: there may be 100,000 rows."""
        self._stop()
        self._edit = Edit()
        samples, find, replacement = self._samples, self.find.text(), self.replacement.text()
        fields = self._fields()
        options = {name: self.options[name].isChecked()
                   for name in ("regex", "case_sensitive", "whole_word")}  # fmt: skip

        def work(reporter: Reporter) -> Edit:
            return find_replace_edit(
                samples, find, replacement, fields=fields, cancelled=reporter.cancelled, **options
            )

        self._task = Task(work, self)
        self._task.succeeded.connect(self._on_counted)
        self._task.failed.connect(self._on_failed)
        self._task.start()

    def done(self, code: int) -> None:
        """Close; nothing is begun any more."""
        self._timer.stop()
        super().done(code)

    @Slot(object)
    def _on_counted(self, edit: Edit) -> None:
        self._stop()
        self._edit = edit
        count = len(edit.changed)
        self.outcome.setText(self.tr("{rows} would change.").format(rows=rows_text(count)))
        self.apply_button.setEnabled(count > 0)

    @Slot(object)
    def _on_failed(self, error: Exception) -> None:
        self._stop()
        if not isinstance(error, SearchCancelled):
            self.outcome.setText(str(error))

    @Slot()
    def _on_accepted(self) -> None:
        if may_touch_test(self, rows_of(self._edit)):
            push(self._store, replace_title(self.find.text(), self._edit), self._edit)
            self.accept()


class TagDialog(QDialog):
    """Adds tags to rows and takes tags away."""

    def __init__(
        self, store: DatasetStore, samples: Sequence[Sample], parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self._store = store
        self._ids = [sample.id for sample in samples]
        counts = Counter(tag for sample in samples for tag in sample.tags)
        self.setObjectName("tagDialog")
        self.setWindowTitle(self.tr("Tags of {rows}").format(rows=rows_text(len(samples))))
        self.setMinimumWidth(420)
        column = QVBoxLayout(self)
        column.setContentsMargins(20, 16, 20, 16)
        column.setSpacing(12)
        form = QFormLayout()
        self.add = QLineEdit()
        self.add.setObjectName("tagsToAdd")
        self.add.setAccessibleName(self.tr("Tags to add"))
        self.add.setPlaceholderText(self.tr("separated by commas"))
        form.addRow(self.tr("Add"), self.add)
        column.addLayout(form)
        self.present: dict[str, QCheckBox] = {}
        if counts:
            column.addWidget(QLabel(self.tr("Keep these tags (uncheck to remove):")))
        for tag, count in counts.most_common(20):
            box = QCheckBox(f"{tag} ({count:,})")
            box.setObjectName(f"keepTag_{tag}")
            box.setAccessibleName(tag)
            box.setChecked(True)
            self.present[tag] = box
            column.addWidget(box)
        buttons = QDialogButtonBox(
            QDialogButtonBox.StandardButton.Ok | QDialogButtonBox.StandardButton.Cancel
        )
        buttons.accepted.connect(self._on_accepted)
        buttons.rejected.connect(self.reject)
        column.addWidget(buttons)

    @Slot()
    def _on_accepted(self) -> None:
        removed = [tag for tag, box in self.present.items() if not box.isChecked()]
        if not may_touch_test(self, map(self._store.sample, self._ids)):
            return
        retag(self._store, self._ids, add=self.add.text().split(","), remove=removed)
        self.accept()
