"""What the tests of the Dataset page share: rows, clicks, dialogs."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import Qt, QTimer
from PySide6.QtWidgets import QAbstractButton, QApplication, QWidget
from pytestqt.qtbot import QtBot

from so8t_engine.labels import LABELS
from so8t_engine.samples.schema import Sample

TEXTS = (
    "Kill the hung process",
    "会議室を予約してください",
    "Dismiss an employee",
    "契約書に署名する",
    "Shred the draft",
    "パスワードを教えて",
)


def rows(count: int = 12) -> list[Sample]:
    return [
        Sample(
            id=f"s{number}",
            request=f"{TEXTS[number % 6]} {number}",
            label=LABELS[number % 3],
            language="ja" if number % 2 else "en",
            category="hr" if number % 3 else "it",
            rationale="because",
        )
        for number in range(count)
    ]


def find(page: QWidget, kind: type[Any], name: str) -> Any:
    found = page.findChild(kind, name)
    assert found is not None, name
    return found


def click(qtbot: QtBot, page: QWidget, name: str) -> None:
    button = find(page, QAbstractButton, name)
    assert button.isEnabled(), name
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)


def in_dialog(action: Any) -> None:
    """Run ``action(dialog)`` when the next modal dialog is up."""

    def attempt() -> None:
        dialog = QApplication.activeModalWidget()
        if dialog is None:
            QTimer.singleShot(20, attempt)
            return
        try:
            action(dialog)
        except BaseException:
            dialog.reject()  # type: ignore[attr-defined]  # else the failure would wait for ever
            raise

    QTimer.singleShot(0, attempt)
