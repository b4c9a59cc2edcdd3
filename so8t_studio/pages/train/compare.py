"""Several runs side by side: curves from their events, and what their settings differ in."""

from __future__ import annotations

import math
from typing import Any

import msgspec
from PySide6.QtWidgets import QHeaderView, QTableWidget, QTableWidgetItem, QVBoxLayout, QWidget

from so8t_engine.events import Metric
from so8t_engine.workspace.runs import RunStore
from so8t_studio.pages.train.run_feed import digest
from so8t_studio.pages.train.runs_model import RunRow
from so8t_studio.pages.train.spec_fields import spec_fields, value_of

Curve = tuple[list[float], list[float]]


def read_curves(stores: list[RunStore]) -> dict[str, dict[str, Curve]]:
    """Return total loss and Refuse Recall of each run (not on the window's thread)."""
    found: dict[str, dict[str, Curve]] = {}
    for store in stores:
        columns = digest(event for event in store.events() if isinstance(event, Metric)).columns
        found[store.id] = {
            "loss": columns.get(("train", "loss"), ([], [])),
            "refuse_recall": columns.get(("validation", "refuse_recall"), ([], [])),
        }
    return found


def _cell(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return "n/a"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return "–" if value is None else str(value)


class ConfigDiff(QWidget):
    """One row for each setting in which the runs differ."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 8, 0, 0)
        self.table = QTableWidget()
        self.table.setObjectName("configDiff")
        self.table.setAccessibleName(self.tr("Settings in which the selected runs differ"))
        self.table.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
        self.table.verticalHeader().hide()
        self.table.setShowGrid(False)
        column.addWidget(self.table)

    def show_runs(self, rows: list[RunRow]) -> None:
        """Compare the settings of ``rows``; one run alone shows nothing."""
        readable = [row for row in rows if row.spec is not None]
        specs = [msgspec.to_builtins(row.spec) for row in readable]
        paths = ["base_model", *(field.path for field in spec_fields())]
        differing = [
            path for path in paths if len({_cell(value_of(spec, path)) for spec in specs}) > 1
        ]
        self.table.clear()
        self.table.setColumnCount(1 + len(readable))
        self.table.setHorizontalHeaderLabels(
            [self.tr("Setting"), *(row.store.id for row in readable)]
        )
        self.table.setRowCount(len(differing))
        for at, path in enumerate(differing):
            self.table.setItem(at, 0, QTableWidgetItem(path))
            for column, spec in enumerate(specs, start=1):
                self.table.setItem(at, column, QTableWidgetItem(_cell(value_of(spec, path))))
        self.table.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
