"""What can be measured: the held-out splits, a test file, the base model."""

from __future__ import annotations

from dataclasses import dataclass

from PySide6.QtCore import Signal, Slot
from PySide6.QtGui import QAction
from PySide6.QtWidgets import QFileDialog, QMenu, QWidget

DATA_FILES = "*.jsonl *.json *.csv *.tsv *.parquet"


@dataclass(frozen=True)
class EvaluationWish:
    """What to measure: ``validation``, ``test`` or a file, by ``trained`` or ``base``."""

    data: str
    arm: str = "trained"


class StartMenu(QMenu):
    """``wished(EvaluationWish)`` when an entry was chosen (and a file, where one is needed)."""

    wished = Signal(object)

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self.setObjectName("evaluateMenu")
        for name, text, wish in (
            ("evaluateValidation", self.tr("Validation split"), EvaluationWish("validation")),
            ("evaluateTest", self.tr("Test split"), EvaluationWish("test")),
            ("evaluateFile", self.tr("Test file…"), EvaluationWish("")),
            (
                "evaluateBase",
                self.tr("Base model, validation split"),
                EvaluationWish("validation", "base"),
            ),
        ):
            action = QAction(text, self)
            action.setObjectName(name)
            action.setData(wish)
            action.triggered.connect(self._on_triggered)
            self.addAction(action)

    @Slot()
    def _on_triggered(self) -> None:
        action = self.sender()
        wish = action.data() if isinstance(action, QAction) else None
        if not isinstance(wish, EvaluationWish):
            return
        if not wish.data:
            file, _filter = QFileDialog.getOpenFileName(
                self.parentWidget(),
                self.tr("Choose a file with requests and labels"),
                "",
                self.tr("Datasets ({patterns});;All files (*)").format(patterns=DATA_FILES),
            )
            wish = EvaluationWish(file, wish.arm)
        if wish.data:
            self.wished.emit(wish)
