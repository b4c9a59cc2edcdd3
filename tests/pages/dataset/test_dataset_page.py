"""The Dataset page through real clicks and keys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PySide6.QtCore import QMimeData, QPointF, Qt, QUrl
from PySide6.QtGui import QDropEvent
from PySide6.QtWidgets import (
    QAbstractButton,
    QApplication,
    QComboBox,
    QFileDialog,
    QLineEdit,
    QMessageBox,
    QPushButton,
    QTableView,
    QToolButton,
    QWidget,
)
from pytestqt.qtbot import QtBot

from so8t_engine.labels import LABELS, Label
from so8t_engine.samples.readers import read_samples
from so8t_engine.samples.schema import Sample
from so8t_studio.app import build_context, close_context
from so8t_studio.context import AppContext
from so8t_studio.pages.dataset.import_dialog import ImportDialog
from so8t_studio.pages.dataset.page import DatasetPage
from tests.helpers.dataset_page import TEXTS, click, find, in_dialog, rows


def test_numbers_of_rows_and_labels_are_always_visible(page: DatasetPage, qtbot: QtBot) -> None:
    assert page.counts.total.text() == "12 rows"
    for label in LABELS:
        assert "4 · 33%" in find(page, QToolButton, f"count_{label.value}").text()
    click(qtbot, page, "count_REFUSE")
    assert page.model.rowCount() == 4
    assert page.counts.shown.text() == "4 of 12 shown"
    assert page.counts.isVisible()
    click(qtbot, page, "count_REFUSE")
    assert page.model.rowCount() == 12


def test_a_labelling_session_by_keyboard_alone(page: DatasetPage, qtbot: QtBot) -> None:
    page.table.setFocus()
    qtbot.keyClick(page.table, Qt.Key.Key_Slash)
    assert page.search.field.hasFocus()
    qtbot.keyClicks(page.search.field, "lang:ja label:ESCALATE")
    qtbot.keyClick(page.search.field, Qt.Key.Key_Return)
    assert page.table.hasFocus()
    assert [s.id for s in page.model.view] == ["s1", "s7"]
    qtbot.keyClick(page.table, Qt.Key.Key_3)  # the row leaves the filter, the cursor moves on
    assert page.context.dataset.sample("s1").label is Label.REFUSE  # type: ignore[union-attr]
    assert page.table.current_sample().id == "s7"  # type: ignore[union-attr]
    qtbot.keyClick(page.table, Qt.Key.Key_E)
    field = page.detail.fields["rationale"]
    assert field.hasFocus()
    qtbot.keyClicks(field, "A person decides.")
    qtbot.keyClick(field, Qt.Key.Key_Escape)
    assert page.table.hasFocus()
    assert page.context.dataset.sample("s7").rationale == "A person decides."  # type: ignore[union-attr]
    qtbot.keyClick(page.table, Qt.Key.Key_Escape)
    assert page.model.rowCount() == 12
    page.table.go_to_row(0)
    qtbot.keyClick(page.table, Qt.Key.Key_J)
    qtbot.keyClick(page.table, Qt.Key.Key_J)
    qtbot.keyClick(page.table, Qt.Key.Key_K)
    assert page.table.currentIndex().row() == 1
    qtbot.keyClick(page.table, Qt.Key.Key_1)
    assert page.context.dataset.sample("s1").label is Label.ALLOW  # type: ignore[union-attr]
    assert page.table.currentIndex().row() == 2
    qtbot.keyClick(page.table, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert page.context.dataset.sample("s1").label is Label.REFUSE  # type: ignore[union-attr]
    assert page.context.dataset.modified
    qtbot.keyClick(page.table, Qt.Key.Key_S, Qt.KeyboardModifier.ControlModifier)
    assert not page.context.dataset.modified
    saved = {s.id: s for s in page.context.persona.load_samples()}  # type: ignore[union-attr]
    assert saved["s1"].label is Label.REFUSE
    assert saved["s7"].rationale == "A person decides."


def test_bulk_relabel_delete_undo_and_redo_by_clicks(page: DatasetPage, qtbot: QtBot) -> None:
    store = page.context.dataset
    before = list(store.samples)
    page.search.set_text("lang:ja")
    page.table.selectAll()
    click(qtbot, page, "button_label_REFUSE")
    assert store.label_counts()[Label.REFUSE] == 8
    assert store.undo_stack.undoText() == "Set 4 rows to REFUSE"
    assert "Set 4 rows to REFUSE" in find(page, QToolButton, "button_undo").toolTip()
    page.table.selectAll()
    click(qtbot, page, "button_delete")
    assert len(store) == 6
    click(qtbot, page, "button_undo")
    click(qtbot, page, "button_undo")
    assert list(store.samples) == before
    click(qtbot, page, "button_redo")
    click(qtbot, page, "button_redo")
    assert len(store) == 6
    assert "unsaved" in page.header.subtitle.text()
    click(qtbot, page, "button_save")
    assert "saved" in page.header.subtitle.text()
    assert not find(page, QToolButton, "button_save").isEnabled()


def test_add_a_row_and_fill_it_in(page: DatasetPage, qtbot: QtBot) -> None:
    store = page.context.dataset
    page.table.go_to("s3")
    click(qtbot, page, "button_add")
    request = page.detail.fields["request"]
    assert request.hasFocus()
    qtbot.keyClicks(request, "Delete the old backups")
    click(qtbot, page, "detailLabel_ALLOW")
    added = store.samples[4]
    assert (added.request, added.label) == ("Delete the old backups", Label.ALLOW)
    line = page.detail.lines["tags"]
    line.setFocus()
    qtbot.keyClicks(line, "it, new")
    qtbot.keyClick(line, Qt.Key.Key_Return)
    assert store.samples[4].tags == ("it", "new")


def test_typing_is_committed_without_leaving_the_field(page: DatasetPage, qtbot: QtBot) -> None:
    page.focus_field("response")
    qtbot.keyClicks(page.detail.fields["response"], "Sure")
    qtbot.waitUntil(lambda: page.context.dataset.samples[0].response == "Sure", timeout=3000)
    assert page.detail.fields["response"].hasFocus()


def test_a_wrong_query_is_explained_and_keeps_the_rows(page: DatasetPage, qtbot: QtBot) -> None:
    page.search.field.setFocus()
    qtbot.keyClicks(page.search.field, "/[/")
    qtbot.keyClick(page.search.field, Qt.Key.Key_Return)
    assert page.search.problem.isVisible()
    assert "regular expression" in page.search.problem.text()
    assert page.model.rowCount() == 12


def test_import_with_bad_rows_corrected_in_place(
    page: DatasetPage, qtbot: QtBot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "外部.csv"
    path.write_bytes(
        "\ufeffprompt,decision\r\nNew row,deny\r\nBad row,MAYBE\r\nOther,comply\r\n".encode()
    )
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *a, **k: (str(path), ""))
    seen: dict[str, Any] = {}

    def drive(dialog: QWidget) -> None:
        assert isinstance(dialog, ImportDialog)
        qtbot.waitUntil(dialog.import_button.isEnabled, timeout=5000)
        seen["summary"] = dialog.summary.text()
        seen["details"] = dialog.details.text()
        table = find(dialog, QTableView, "importRejected")
        model = table.model()
        seen["rejected"] = [model.index(0, column).data() for column in range(5)]
        row = json.loads(model.index(0, 5).data())
        dialog.tabs.setCurrentIndex(1)
        place = table.visualRect(model.index(0, 5)).center()
        qtbot.mouseClick(table.viewport(), Qt.MouseButton.LeftButton, pos=place)
        qtbot.mouseDClick(table.viewport(), Qt.MouseButton.LeftButton, pos=place)
        editor = table.viewport().findChildren(QLineEdit)[-1]
        editor.setText(json.dumps({**row, "decision": "escalate"}))
        qtbot.keyClick(editor, Qt.Key.Key_Return)
        qtbot.waitUntil(lambda: "corrected" in model.index(0, 4).data(), timeout=3000)
        seen["button"] = dialog.import_button.text()
        qtbot.mouseClick(dialog.import_button, Qt.MouseButton.LeftButton)

    in_dialog(drive)
    click(qtbot, page, "button_import")
    assert seen["summary"] == "2 rows can be imported. 1 row cannot; see “Rejected”."
    assert "CSV" in seen["details"] and "utf-8 (with BOM)" in seen["details"]
    assert seen["rejected"][:4] == ["外部.csv", "3", "label", "MAYBE"]
    assert "MAYBE" in seen["rejected"][4]
    assert seen["button"] == "Import 3 rows"
    store = page.context.dataset
    assert [(s.request, s.label) for s in store.samples[12:]] == [
        ("New row", Label.REFUSE), ("Other", Label.ALLOW), ("Bad row", Label.ESCALATE)
    ]  # fmt: skip
    assert store.undo_stack.undoText() == "Import 3 rows from 外部.csv"
    click(qtbot, page, "button_undo")
    assert list(store.samples) == rows()


def test_the_mapping_can_be_changed_in_the_dialog(
    page: DatasetPage, qtbot: QtBot, tmp_path: Path
) -> None:
    path = tmp_path / "x.csv"
    path.write_text("frage,urteil\nWer bist du?,ALLOW\n", "utf-8")

    def drive(dialog: QWidget) -> None:
        assert isinstance(dialog, ImportDialog)
        qtbot.waitUntil(lambda: dialog.columns.rowCount() == 2, timeout=5000)
        assert not dialog.import_button.isEnabled()
        for row, target in ((0, "request"), (1, "label")):
            box: Any = dialog.columns.cellWidget(row, 1)
            box.setCurrentIndex(box.findData(target))
            box.activated.emit(box.currentIndex())
            qtbot.waitUntil(lambda: not dialog.progress.isVisible(), timeout=5000)
        assert dialog.import_button.isEnabled()
        qtbot.mouseClick(dialog.import_button, Qt.MouseButton.LeftButton)

    in_dialog(drive)
    page.operations.import_path(path)
    assert page.context.dataset.samples[-1].request == "Wer bist du?"


def test_a_file_that_is_no_dataset_changes_nothing(
    page: DatasetPage, qtbot: QtBot, tmp_path: Path
) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(b"\x89PNG\r\n" + bytes(100))
    words: list[str] = []

    def drive(dialog: QWidget) -> None:
        assert isinstance(dialog, ImportDialog)
        qtbot.waitUntil(lambda: "not a dataset" in dialog.details.text(), timeout=5000)
        words.append(dialog.summary.text())
        dialog.reject()

    in_dialog(drive)
    page.operations.import_path(path)
    assert words == ["Nothing was imported."]
    assert not page.context.dataset.modified


def test_files_can_be_dropped(page: DatasetPage, qtbot: QtBot, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"request":"dropped","label":"ALLOW"}\n', "utf-8")
    mime = QMimeData()
    mime.setUrls([QUrl.fromLocalFile(str(path))])
    event = QDropEvent(
        QPointF(10, 10), Qt.DropAction.CopyAction, mime,
        Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier,
    )  # fmt: skip

    def drive(dialog: QWidget) -> None:
        assert isinstance(dialog, ImportDialog)
        qtbot.waitUntil(dialog.import_button.isEnabled, timeout=5000)
        qtbot.mouseClick(dialog.import_button, Qt.MouseButton.LeftButton)

    in_dialog(drive)
    page.dropEvent(event)
    qtbot.waitUntil(lambda: len(page.context.dataset) == 13, timeout=5000)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_export_of_what_is_shown_reads_back(
    page: DatasetPage, qtbot: QtBot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    path = tmp_path / f"out{suffix}"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *a, **k: (str(path), ""))
    page.search.set_text("label:REFUSE")
    click(qtbot, page, "button_export")
    qtbot.waitUntil(path.exists, timeout=5000)
    qtbot.wait(50)
    assert read_samples(path).samples == list(page.model.view)


def test_the_empty_state_has_one_button(page: DatasetPage, qtbot: QtBot) -> None:
    page.context.open_persona("empty")
    assert page.stack.currentWidget() is page.empty
    assert page.empty.button.isVisible()
    assert page.counts.total.text() == "0 rows"
    buttons = [b for b in page.empty.findChildren(QPushButton) if b.isVisible()]
    assert len(buttons) == 1


def test_a_second_window_only_reads(context: AppContext, qtbot: QtBot, tmp_path: Path) -> None:
    other = build_context(context.workspace.root)
    assert other.workspace.read_only
    other.open_persona("tester")
    page = DatasetPage(other)
    qtbot.addWidget(page)
    page.show()
    assert page.banner.isVisible()
    assert "Another window" in page.banner.text()
    for name in ("import", "add", "delete", "label_ALLOW", "save"):
        assert not find(page, QToolButton, f"button_{name}").isEnabled()
    assert page.detail.fields["request"].isReadOnly()
    qtbot.keyClick(page.table, Qt.Key.Key_3)
    assert list(other.dataset.samples) == rows()
    other.dataset.close()
    close_context(other)


def test_closing_with_unsaved_edits_asks(
    page: DatasetPage, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = page.context.dataset
    qtbot.keyClick(page.table, Qt.Key.Key_3)
    answers = [QMessageBox.StandardButton.Cancel, QMessageBox.StandardButton.Discard]
    monkeypatch.setattr(QMessageBox, "question", lambda *a, **k: answers.pop(0))
    assert not page.can_close()
    assert store.modified
    assert page.can_close()
    assert list(store.samples) == rows()
    assert page.can_close()  # nothing to ask any more


def test_quality_finds_conflicts_and_fixes_duplicates(page: DatasetPage, qtbot: QtBot) -> None:
    from so8t_studio.commands.dataset import import_samples

    store = page.context.dataset
    twin = Sample(id="d1", request=f"{TEXTS[0]}  0!", label=Label.ALLOW, language="en")
    clash = Sample(id="d2", request=f"{TEXTS[1]} 1", label=Label.REFUSE, language="ja")
    import_samples(store, [twin, clash])
    page.tabs.setCurrentWidget(page.quality)
    qtbot.waitUntil(lambda: page.quality.report is not None, timeout=20_000)
    assert page.quality.issue_counts()["conflict"] == 3
    qtbot.waitUntil(lambda: page.quality.findChild(QPushButton, "show_conflict") is not None)
    click(qtbot, page, "show_conflict")
    assert {s.id for s in page.model.view} == {"s1", "s7", "d2"}
    click(qtbot, page, "fix_duplicate")
    assert store.sample("d1") is None
    assert store.sample("d2") is not None
    assert store.undo_stack.undoText() == "Delete repetitions (1 row)"


def test_columns_are_remembered(page: DatasetPage, qtbot: QtBot) -> None:
    column = page.model.COLUMNS.index("tags")
    action = next(a for a in page.table.column_menu().actions() if a.data() == column)
    action.trigger()
    assert not page.table.isColumnHidden(column)
    qtbot.waitUntil(lambda: "columns" in page.context.settings.form("dataset"), timeout=3000)
    again = DatasetPage(page.context)
    qtbot.addWidget(again)
    assert not again.table.isColumnHidden(column)


def test_every_interactive_widget_has_a_name(page: DatasetPage) -> None:
    from PySide6.QtWidgets import QComboBox, QLineEdit, QPlainTextEdit

    nameless = [
        widget.objectName() or type(widget).__name__
        for kind in (QAbstractButton, QComboBox, QLineEdit, QPlainTextEdit)
        for widget in page.findChildren(kind)
        if widget.isVisibleTo(page)
        and (not widget.accessibleName() or not widget.objectName())
        and not widget.objectName().startswith(("qt_", "ScrollLeft", "ScrollRight"))
        and type(widget.parent()).__name__ not in ("QTabBar", "QLineEdit", "SampleTableView")
        and type(widget).__name__ != "QTableCornerButton"
    ]
    assert nameless == []


def test_a_journal_that_cannot_be_written_is_announced(page: DatasetPage, qtbot: QtBot) -> None:
    persona = page.context.persona
    assert persona is not None
    persona.journal_path.mkdir()  # as on a disk that refuses the file
    qtbot.keyClick(page.table, Qt.Key.Key_3)
    qtbot.waitUntil(lambda: "A crash would lose them" in page.banner.text(), timeout=5000)
    persona.journal_path.rmdir()
    click(qtbot, page.banner, "bannerAction")
    assert not page.context.dataset.modified and not page.banner.isVisible()
    assert persona.load_samples()[0].label is Label.REFUSE


def test_cells_are_edited_in_place(page: DatasetPage, qtbot: QtBot) -> None:
    store = page.context.dataset

    def edit(row: int, name: str) -> QWidget:
        index = page.model.index(row, page.model.COLUMNS.index(name))
        page.table.setCurrentIndex(index)
        page.table.setFocus()
        qtbot.waitUntil(lambda: not page.table.findChildren(QComboBox), timeout=2000)
        qtbot.keyClick(page.table, Qt.Key.Key_F2)
        editor = QApplication.focusWidget()
        assert editor is not None and editor is not page.table
        return editor

    label = edit(0, "label")
    assert isinstance(label, QComboBox) and label.currentData() == "ALLOW"
    qtbot.keyClick(label, Qt.Key.Key_Down)
    qtbot.keyClick(label, Qt.Key.Key_Return)
    qtbot.waitUntil(page.table.hasFocus, timeout=2000)
    qtbot.waitUntil(lambda: store.samples[0].label is Label.ESCALATE, timeout=2000)
    split = edit(1, "split")
    qtbot.keyClick(split, Qt.Key.Key_End)
    qtbot.keyClick(split, Qt.Key.Key_Return)
    qtbot.waitUntil(page.table.hasFocus, timeout=2000)
    qtbot.waitUntil(lambda: store.samples[1].split == "test", timeout=2000)
    text = edit(2, "category")
    assert isinstance(text, QLineEdit)
    text.selectAll()
    qtbot.keyClicks(text, "travel")
    qtbot.keyClick(text, Qt.Key.Key_Return)
    qtbot.waitUntil(page.table.hasFocus, timeout=2000)
    qtbot.waitUntil(lambda: store.samples[2].category == "travel", timeout=2000)
    assert store.undo_stack.count() == 3
