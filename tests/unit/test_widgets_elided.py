"""The label that shortens its text."""

from __future__ import annotations

from pytestqt.qtbot import QtBot

from so8t_studio.widgets.elided_label import ElidedLabel

TEXT = "300 samples, best checkpoint step-00000040, 2026-11-23 10:15"


def test_it_ends_in_an_ellipsis_and_the_tooltip_has_it_all(qtbot: QtBot) -> None:
    label = ElidedLabel(TEXT)
    qtbot.addWidget(label)
    label.resize(120, 20)
    label.show()
    assert label.shown_text().endswith("…") and label.shown_text() != TEXT
    assert label.toolTip() == TEXT and label.minimumSizeHint().width() == 0
    narrow = label.grab().toImage()
    label.resize(900, 20)
    assert label.shown_text() == TEXT
    assert label.grab().toImage().copy(0, 0, 120, 20) != narrow  # painted anew, without it
