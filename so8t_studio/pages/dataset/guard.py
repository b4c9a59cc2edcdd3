"""The test split is locked: a bulk edit of its rows is asked about first."""

from __future__ import annotations

from collections.abc import Iterable

from PySide6.QtCore import QCoreApplication
from PySide6.QtWidgets import QMessageBox, QWidget

from so8t_engine.samples.schema import Sample
from so8t_studio.commands.dataset import rows_text
from so8t_studio.models.sample_list import Edit


def may_touch_test(parent: QWidget, samples: Iterable[Sample | None]) -> bool:
    """Ask before a bulk edit changes rows of the test split; True if it may go on.

    Args:
        parent: over which widget to ask.
        samples: all rows that the edit would change; a single row is not asked about.
    """
    rows = [sample for sample in samples if sample is not None]
    count = sum(sample.split == "test" for sample in rows)
    if len(rows) < 2 or not count:
        return True
    words = QCoreApplication.translate(
        "DatasetGuard",
        "{rows} of this edit belong to the test split, which should stay as it is so that results "
        "can be compared. Change them all the same?",
    )
    answer = QMessageBox.question(
        parent,
        QCoreApplication.translate("DatasetGuard", "Test split"),
        words.format(rows=rows_text(count)),
    )
    return answer == QMessageBox.StandardButton.Yes


def rows_of(edit: Edit) -> list[Sample]:
    """Return the rows, as they are now, that an edit would change or remove."""
    return [*(old for old, _ in edit.changed), *(sample for _, sample in edit.removed)]
