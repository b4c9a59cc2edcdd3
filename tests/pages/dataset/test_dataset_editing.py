"""Bulk edits, the locked test split, undo history, splits, snapshots and fixes by clicks."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import (
    QAbstractButton,
    QDialog,
    QMenu,
    QMessageBox,
    QPushButton,
    QTableWidget,
    QUndoView,
)
from pytestqt.qtbot import QtBot

from so8t_engine.labels import Label
from so8t_engine.samples.schema import Sample
from so8t_engine.workspace.snapshots import take_snapshot
from so8t_studio.commands import dataset as commands
from so8t_studio.commands.fixes import fix_rows
from so8t_studio.pages.dataset.diff_dialog import DiffDialog
from so8t_studio.pages.dataset.page import DatasetPage
from so8t_studio.pages.dataset.small_dialogs import FindReplaceDialog, TagDialog
from so8t_studio.pages.dataset.split_dialog import SplitDialog
from tests.helpers.dataset_page import TEXTS, click, find, in_dialog, rows

No, Yes = QMessageBox.StandardButton.No, QMessageBox.StandardButton.Yes


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Questions that were asked; all are answered with No."""
    questions: list[str] = []

    def question(_parent: object, _title: str, text: str, *_: object) -> QMessageBox.StandardButton:
        questions.append(text)
        return No

    monkeypatch.setattr(QMessageBox, "question", question)
    return questions


# Undo history


def test_the_history_lists_edits_by_name_and_goes_back(page: DatasetPage, qtbot: QtBot) -> None:
    store = page.context.dataset
    commands.relabel(store, ["s0", "s1"], Label.REFUSE)
    commands.retag(store, ["s0"], add=["seen"])
    commands.delete_samples(store, ["s5"])
    page.table.go_to("s3")
    page.focus_field("response")
    qtbot.keyClicks(page.detail.fields["response"], "typed")
    page.tabs.setCurrentWidget(page.history)  # commits what was typed
    view = find(page, QUndoView, "undoHistory")
    model = view.model()
    names = [model.index(row, 0).data() for row in range(model.rowCount())]
    assert names == ["As it was opened", "Set 2 rows to REFUSE", "Tag 1 row with seen",
                     "Delete 1 row", "Edit response"]  # fmt: skip
    expected = list(store.samples)

    def press(row: int) -> None:
        place = view.visualRect(model.index(row, 0)).center()
        qtbot.mouseClick(view.viewport(), Qt.MouseButton.LeftButton, pos=place)

    press(1)
    assert store.sample("s5") is not None and store.samples[0].tags == ()
    assert store.samples[0].label is Label.REFUSE
    press(0)
    assert list(store.samples) == rows() and not store.modified
    press(4)
    assert list(store.samples) == expected and expected[3].response == "typed"


# The test split


def with_dialog(kind: type[QDialog], act: Callable[[Any], None]) -> None:
    def drive(dialog: QDialog) -> None:
        assert isinstance(dialog, kind)
        act(dialog)
        dialog.reject()

    in_dialog(drive)


def test_every_bulk_edit_asks_before_it_touches_the_test_split(
    page: DatasetPage, qtbot: QtBot, asked: list[str]
) -> None:
    store = page.context.dataset
    taken = take_snapshot(store.persona, store.samples)  # type: ignore[arg-type]
    commands.set_split(store, ["s0", "s3"], "test")
    commands.import_samples(
        store, [Sample(id="d", request=f"{TEXTS[0]} 0!", label=Label.ALLOW, split="test"),
                Sample(id="e", request="", label=Label.ALLOW, split="test"),
                Sample(id="f", request="\u200b ", label=Label.ALLOW)],
    )  # fmt: skip
    before = list(store.samples)
    page.table.selectAll()
    page.tabs.setCurrentWidget(page.quality)
    qtbot.waitUntil(lambda: page.quality.report is not None, timeout=10_000)
    qtbot.waitUntil(lambda: page.quality._task is None, timeout=10_000)

    def tags(dialog: TagDialog) -> None:
        dialog.add.setText("x")
        dialog._on_accepted()

    def replaced(dialog: FindReplaceDialog) -> None:
        dialog.find.setText("i")
        qtbot.waitUntil(dialog.apply_button.isEnabled, timeout=5000)
        qtbot.mouseClick(dialog.apply_button, Qt.MouseButton.LeftButton)

    def restored(dialog: DiffDialog) -> None:
        qtbot.waitUntil(dialog.restore_all.isEnabled, timeout=5000)
        qtbot.mouseClick(dialog.restore_all, Qt.MouseButton.LeftButton)
        dialog.table.selectAll()
        qtbot.mouseClick(dialog.restore_rows, Qt.MouseButton.LeftButton)

    assert taken.name
    with_dialog(TagDialog, tags)
    page.actions_.tag.trigger()
    with_dialog(FindReplaceDialog, replaced)
    page.actions_.find_replace.trigger()
    commands.set_field(store, "s1", "rationale", "so that there is a difference")
    before = list(store.samples)
    with_dialog(DiffDialog, restored)
    page.actions_.snapshots.trigger()
    assert len(asked) == 4
    page.table.selectAll()
    click(qtbot, page, "button_label_REFUSE")
    click(qtbot, page, "button_delete")
    qtbot.keyClick(page.table, Qt.Key.Key_3)
    menu = page.toolbar.split_menu
    assert isinstance(menu, QMenu)
    next(a for a in menu.actions() if a.data() == "train").trigger()
    page.quality._show_cards()
    click(qtbot, page, "fix_no_rationale")
    assert len(asked) == 9 and all("belong to the test split" in text for text in asked)
    assert list(store.samples) == before


def test_a_single_row_of_the_test_split_is_edited_without_a_question(
    page: DatasetPage, qtbot: QtBot, asked: list[str]
) -> None:
    commands.set_split(page.context.dataset, ["s0"], "test")
    page.table.go_to("s0")
    qtbot.keyClick(page.table, Qt.Key.Key_3)
    assert page.context.dataset.samples[0].label is Label.REFUSE and asked == []


# Find and replace, tags


def test_find_and_replace_in_what_is_shown(page: DatasetPage, qtbot: QtBot) -> None:
    store = page.context.dataset
    page.search.set_text("lang:en")
    seen: list[str] = []

    def drive(dialog: Any) -> None:
        assert isinstance(dialog, FindReplaceDialog)
        dialog.options["regex"].setChecked(True)
        for pattern in ("(an|a)+(?<x>", "(\\w+) employee"):
            dialog.find.setText(pattern)
            dialog.replacement.setText("worker \\1")
            qtbot.waitUntil(lambda: not dialog._timer.isActive() and dialog._task is None,
                            timeout=5000)  # fmt: skip
            seen.append(dialog.outcome.text())
        assert dialog.apply_button.isEnabled()
        dialog.replacement.setText("\\7")
        qtbot.waitUntil(lambda: "not valid" in dialog.outcome.text(), timeout=5000)
        assert not dialog.apply_button.isEnabled()
        dialog.replacement.setText("worker \\1")
        qtbot.waitUntil(dialog.apply_button.isEnabled, timeout=5000)
        qtbot.mouseClick(dialog.apply_button, Qt.MouseButton.LeftButton)

    in_dialog(drive)
    page.actions_.find_replace.trigger()
    assert "not valid" in seen[0] and seen[1] == "2 rows would change."
    assert [s.request for s in store.samples if "worker" in s.request] == [
        "Dismiss worker an 2", "Dismiss worker an 8"
    ]  # fmt: skip
    assert store.undo_stack.undoText() == "Replace “(\\w+) employee” in 2 rows"
    store.undo_stack.undo()
    assert list(store.samples) == rows()


def test_find_and_replace_that_never_ends_says_so(page: DatasetPage, qtbot: QtBot) -> None:
    store = page.context.dataset
    commands.set_field(store, "s0", "request", "a" * 60 + "!")
    dialog = FindReplaceDialog(store, page.model.ids(), "", page)
    dialog.options["regex"].setChecked(True)
    dialog.find.setText("(a|aa)+$")
    qtbot.waitUntil(lambda: "takes too long" in dialog.outcome.text(), timeout=10_000)
    assert not dialog.apply_button.isEnabled()
    dialog.reject()


# Splits


def cells(table: QTableWidget) -> list[list[str]]:
    return [
        [table.item(row, column).text() for column in range(table.columnCount())]
        for row in range(table.rowCount())
    ]


def test_the_split_dialog_shows_its_result_and_applies_it_as_one_step(
    page: DatasetPage, qtbot: QtBot
) -> None:
    store = page.context.dataset
    distinct = [Sample(id=f"n{n}", request=" ".join(f"{chr(97 + (n * k) % 26) * 4}{n}"
                                                    for k in range(1, 7)),
                       label=Label.ALLOW, language="en") for n in range(40)]  # fmt: skip
    commands.import_samples(store, distinct, mode="replace")
    commands.set_split(store, ["n0"], "test")
    dialog = SplitDialog(store, page)
    dialog.show()
    for box, value in ((dialog.share, 20), (dialog.test, 10)):
        box.setValue(value)
    qtbot.waitUntil(dialog.apply_button.isEnabled, timeout=10_000)
    assert cells(dialog.table) == [
        ["✓ ALLOW", "en", "27", "8", "5", "40"], ["all", "", "27", "8", "5", "40"]
    ]  # fmt: skip
    assert dialog.summary.text().startswith("39 rows get another split.")
    qtbot.mouseClick(dialog.apply_button, Qt.MouseButton.LeftButton)
    first = {s.id: s.split for s in store.samples}
    assert first["n0"] == "test"
    assert store.undo_stack.undoText() == "Split 39 rows"
    twin = Sample(id="twin", request=distinct[0].request + "!", label=Label.ALLOW, language="en",
                  split="train")  # fmt: skip
    commands.import_samples(store, [twin])
    again = SplitDialog(store, page)
    again.again.setChecked(True)
    again.seed.setValue(99)
    qtbot.waitUntil(again.apply_button.isEnabled, timeout=10_000)
    after = {s.id: s.split for s in again._result}
    assert after["n0"] == "test" and after["twin"] == "test"  # beside its locked twin
    assert {k: v for k, v in after.items() if first.get(k) == "test"} == {
        k: v for k, v in first.items() if v == "test"
    }
    again.reject()
    kept = SplitDialog(store, page)
    qtbot.waitUntil(lambda: bool(kept._result), timeout=10_000)
    assert "▲ 1 groups" in kept.summary.text() and not kept.apply_button.isEnabled()
    kept.reject()


# Snapshots


def test_any_two_snapshots_are_compared_and_restored_whole_or_by_row(
    page: DatasetPage, qtbot: QtBot
) -> None:
    store, persona = page.context.dataset, page.context.dataset.persona
    assert persona is not None
    first = take_snapshot(persona, store.samples, now=dt.datetime(2026, 1, 1))
    commands.relabel(store, ["s0"], Label.REFUSE)
    commands.set_field(store, "s1", "request", "会議室を取り消してください 1")
    second = take_snapshot(persona, store.samples, now=dt.datetime(2026, 1, 2))
    commands.delete_samples(store, ["s2"])
    commands.add_sample(store, Sample(id="new", request="new", label=Label.ALLOW))
    dialog = DiffDialog(store, page)
    qtbot.addWidget(dialog)
    dialog.show()

    def compare(before: str, after: str) -> list[tuple[str, str]]:
        for box, name in ((dialog.before, before), (dialog.after, after)):
            box.setCurrentIndex(box.findData(name))
            box.activated.emit(box.currentIndex())
        qtbot.waitUntil(lambda: dialog._task is None, timeout=10_000)
        return [(one.kind, one.id) for one in dialog._diffs]

    assert compare(first.name, second.name) == [("relabelled", "s0"), ("edited", "s1")]
    assert "0 added, 0 removed, 1 relabelled, 1 edited · content" in dialog.summary.text()
    assert not dialog.restore_all.isEnabled()  # only the dataset as it is now can be changed
    assert compare(second.name, second.name) == []
    assert "Both are the same (12 rows, content" in dialog.summary.text()
    assert compare(first.name, "") == [
        ("removed", "s2"), ("relabelled", "s0"), ("edited", "s1"), ("added", "new")
    ]  # fmt: skip
    dialog.table.selectRow(2)
    left, right = dialog.sides.left.toPlainText(), dialog.sides.right.toPlainText()
    assert "▸ request: 会議室を予約してください 1" in left
    assert "▸ request: 会議室を取り消してください 1" in right
    click(qtbot, dialog, "restoreRows")
    qtbot.waitUntil(lambda: dialog._task is None and len(dialog._diffs) == 3, timeout=10_000)
    assert store.sample("s1") == rows()[1]
    click(qtbot, dialog, "restoreAll")
    qtbot.waitUntil(lambda: dialog._task is None and not dialog._diffs, timeout=10_000)
    assert list(store.samples) == rows()
    assert store.undo_stack.undoText() == f"Restore the snapshot {first.name}"
    click(qtbot, dialog, "takeSnapshot")
    assert dialog.before.count() == 4
    dialog.reject()


# Fixes


def sample(name: str, request: str, label: Label = Label.ALLOW, **more: Any) -> Sample:
    return Sample(id=name, request=request, label=label, **{"rationale": "r", **more})


LONG = "Please reset the password of the shared mailbox for the finance team in Osaka"
FAULTY = (
    ("duplicate", [sample("a", "same text here"), sample("b", "Same text here!")], ["a"]),
    ("duplicate", [sample("a", "same text here"), sample("b", "same text here", split="test")],
     ["b"]),
    ("near_duplicate", [sample("a", LONG), sample("b", LONG.replace("Osaka", "Kyoto"))], ["a"]),
    ("empty", [sample("a", " "), sample("b", "something to keep")], ["b"]),
)  # fmt: skip
CHANGED = (
    ("conflict", [sample("a", LONG), sample("b", LONG + "!", Label.ESCALATE)], "label",
     {"a": Label.ESCALATE, "b": Label.ESCALATE}),
    ("leak", [sample("a", LONG, split="train"), sample("b", LONG + "!", split="validation")],
     "split", {"a": "train", "b": "train"}),
    ("short", [sample("a", "ab"), sample("b", "long enough")], "tags", {"a": ("review",), "b": ()}),
    ("long", [sample("a", "long " * 900), sample("b", "fine")], "tags",
     {"a": ("review",), "b": ()}),
    ("no_rationale", [sample("a", "why is that", rationale="")], "tags", {"a": ("review",)}),
    ("control", [sample("a", "zero\u200bwidth")], "request", {"a": "zerowidth"}),
    ("mojibake", [sample("a", "CafÃ© prÃ©sident")], "request", {"a": "Café président"}),
    ("language", [sample("a", "会議室を予約して", language="en")], "language", {"a": "ja"}),
    ("personal", [sample("a", "call 03-1234-5678 now")], "tags", {"a": ("personal-data",)}),
    ("personal", [sample("a", "card 4111 1111 1111 1111")], "tags", {"a": ("personal-data",)}),
    ("personal", [sample("a", "write to jo@example.org")], "tags", {"a": ("personal-data",)}),
)  # fmt: skip


def check_and_fix(page: DatasetPage, qtbot: QtBot, kind: str, faulty: list[Sample]) -> None:
    store = page.context.dataset
    commands.import_samples(store, faulty, mode="replace")
    page.quality.run()
    qtbot.waitUntil(lambda: page.quality._task is None, timeout=10_000)
    report = page.quality.report
    assert report is not None
    found = {finding.kind: finding for finding in report.findings}
    page.tabs.setCurrentWidget(page.quality)
    click(qtbot, page, f"show_{kind}")
    assert {s.id for s in page.model.view} == set(found[kind].ids)
    click(qtbot, page, f"fix_{kind}")


@pytest.mark.parametrize(("kind", "faulty", "left"), FAULTY)
def test_fixes_that_delete(
    page: DatasetPage, qtbot: QtBot, kind: str, faulty: list[Sample], left: list[str]
) -> None:
    check_and_fix(page, qtbot, kind, faulty)
    store = page.context.dataset
    assert [s.id for s in store.samples] == left
    store.undo_stack.undo()
    assert list(store.samples) == faulty


@pytest.mark.parametrize(("kind", "faulty", "field", "expected"), CHANGED)
def test_fixes_that_change(
    page: DatasetPage, qtbot: QtBot, kind: str, faulty: list[Sample], field: str,
    expected: dict[str, object],
) -> None:  # fmt: skip
    check_and_fix(page, qtbot, kind, faulty)
    store = page.context.dataset
    assert {s.id: getattr(s, field) for s in store.samples} == expected
    store.undo_stack.undo()
    assert list(store.samples) == faulty


def test_conflicting_duplicates_are_not_deleted_and_the_panel_says_why(
    page: DatasetPage, qtbot: QtBot
) -> None:
    faulty = [sample("a", LONG), sample("b", LONG, Label.REFUSE)]
    check_and_fix(page, qtbot, "duplicate", faulty)
    assert list(page.context.dataset.samples) == faulty
    assert "settle the label conflicts first" in page.quality.state.text()
    assert not fix_rows(page.context.dataset, "duplicate", ["a", "b"])


def test_rows_of_a_conflict_stand_beside_each_other(page: DatasetPage, qtbot: QtBot) -> None:
    store = page.context.dataset
    others = [sample(f"x{n}", f"{'abcdefgh'[n] * 9} {n}") for n in range(5)]
    mixed = [sample("a", LONG), others[0], sample("b", "会議室を予約してください 1"), others[1],
             sample("c", LONG + "!", Label.REFUSE), others[2],
             sample("d", "会議室を予約してください 1", Label.REFUSE)]  # fmt: skip
    commands.import_samples(store, mixed, mode="replace")
    page.tabs.setCurrentWidget(page.quality)
    page.quality.run()
    qtbot.waitUntil(lambda: page.quality._task is None, timeout=10_000)
    click(qtbot, page, "show_conflict")
    assert [s.id for s in page.model.view] == ["a", "c", "b", "d"]
    page.search.set_text("")
    assert [s.id for s in page.model.view] == [s.id for s in mixed]


def test_a_note_about_shortcut_words_opens_its_rows(page: DatasetPage, qtbot: QtBot) -> None:
    words = ("alpha", "bravo", "charlie", "delta", "echo", "golf", "hotel")
    given = [sample(f"r{n}", f"{words[n % 7]} {words[n * 3 % 7]} refund {n}", Label.REFUSE)
             for n in range(30)]  # fmt: skip
    given += [sample(f"k{n}", f"{words[n % 7]} {words[n * 3 % 7]} {n}") for n in range(30)]
    commands.import_samples(page.context.dataset, given, mode="replace")
    page.tabs.setCurrentWidget(page.quality)
    page.quality.run()
    qtbot.waitUntil(lambda: page.quality._task is None, timeout=10_000)
    buttons = [b for b in page.quality.findChildren(QAbstractButton)
               if b.property("query") == "word:refund"]  # fmt: skip
    assert len(buttons) == 1
    assert "“refund”: 30 of 30 rows are REFUSE" in buttons[0].accessibleName()
    qtbot.mouseClick(buttons[0], Qt.MouseButton.LeftButton)
    assert [s.id for s in page.model.view] == [f"r{n}" for n in range(30)]


def test_a_long_check_shows_progress_and_can_be_cancelled(page: DatasetPage, qtbot: QtBot) -> None:
    given = [sample(f"r{n}", " ".join(f"{(n * k) % 977:x}word" for k in range(1, 20)))
             for n in range(18_000)]  # fmt: skip
    commands.import_samples(page.context.dataset, given, mode="replace")
    page.tabs.setCurrentWidget(page.quality)
    if page.quality._task is None:
        click(qtbot, page, "qualityCheck")
    assert page.quality.progress.isVisible()
    button = find(page, QPushButton, "qualityCheck")
    assert button.text() == "Cancel"
    qtbot.waitUntil(lambda: page.quality.progress.value() > 0, timeout=20_000)
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: page.quality._task is None, timeout=5000)
    assert not page.quality.progress.isVisible()
    assert page.quality.report is None and button.text() == "Check now"
