"""Import by clicks and drops: modes, encodings, mapping, rejected rows, cancel, bad files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from PySide6.QtCore import QMimeData, QPointF, Qt, QUrl
from PySide6.QtGui import QDropEvent
from PySide6.QtTest import QAbstractItemModelTester
from PySide6.QtWidgets import QDialogButtonBox, QFileDialog, QPushButton
from pytestqt.qtbot import QtBot

from so8t_engine.labels import Label
from so8t_engine.samples.readers import read_samples
from so8t_engine.samples.schema import Sample
from so8t_engine.samples.writers import write_samples
from so8t_studio.pages.dataset.import_dialog import ImportDialog
from so8t_studio.pages.dataset.page import DatasetPage
from tests.helpers.dataset_page import click, find, in_dialog, rows


def import_file(
    page: DatasetPage, qtbot: QtBot, path: Path, act: Callable[[ImportDialog], None]
) -> None:
    """Open the dialog on a file, wait until all of it is read, ``act``."""

    def drive(dialog: Any) -> None:
        assert isinstance(dialog, ImportDialog)
        fatal = QAbstractItemModelTester.FailureReportingMode.Fatal
        QAbstractItemModelTester(dialog.rejected_rows, fatal, dialog)
        qtbot.waitUntil(lambda: not dialog.progress.isVisible(), timeout=20_000)
        act(dialog)

    in_dialog(drive)
    page.operations.import_path(path)


def confirm(qtbot: QtBot) -> Callable[[ImportDialog], None]:
    return lambda dialog: qtbot.mouseClick(dialog.import_button, Qt.MouseButton.LeftButton)


@pytest.mark.parametrize("mode", ["append", "merge", "replace"])
def test_append_merge_and_replace(
    page: DatasetPage, qtbot: QtBot, tmp_path: Path, mode: str
) -> None:
    path = tmp_path / "x.jsonl"
    new = [Sample(id="s1", request="other", label=Label.REFUSE),
           Sample(id="z", request="new", label=Label.ALLOW)]  # fmt: skip
    write_samples(path, new)

    def act(dialog: ImportDialog) -> None:
        dialog.mode_box.setCurrentIndex(dialog.mode_box.findData(mode))
        confirm(qtbot)(dialog)

    import_file(page, qtbot, path, act)
    store = page.context.dataset
    found = [(s.id, s.request) for s in store.samples]
    old = [(s.id, s.request) for s in rows()]
    assert (
        found
        == {
            "append": [*old, ("s1-2", "other"), ("z", "new")],
            "merge": [old[0], ("s1", "other"), *old[2:], ("z", "new")],
            "replace": [("s1", "other"), ("z", "new")],
        }[mode]
    )
    store.undo_stack.undo()
    assert list(store.samples) == rows()


def test_another_encoding_can_be_chosen(page: DatasetPage, qtbot: QtBot, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    # Valid in Japan's and in Western encodings; nothing tells which it is but a reader's eye.
    path.write_bytes("request,label\nà côté d'été,ALLOW\n".encode("cp1252"))
    seen: dict[str, str] = {}

    def act(dialog: ImportDialog) -> None:
        for name in ("cp932", "cp1252"):
            dialog.encoding_box.setCurrentIndex(dialog.encoding_box.findData(name))
            dialog.encoding_box.activated.emit(dialog.encoding_box.currentIndex())
            qtbot.waitUntil(lambda: not dialog.progress.isVisible(), timeout=5000)
            cell = dialog.preview.item(0, 1)
            seen[name] = cell.text() if cell is not None else ""
            assert f"encoding {name} (" in dialog.details.text()
        confirm(qtbot)(dialog)

    import_file(page, qtbot, path, act)
    assert seen["cp1252"] == "à côté d'été" != seen["cp932"]
    assert page.context.dataset.samples[-1].request == "à côté d'été"


def test_a_mapping_shows_its_rows_at_once_and_no_field_is_fed_twice(
    page: DatasetPage, qtbot: QtBot, tmp_path: Path
) -> None:
    path = tmp_path / "x.csv"
    path.write_text("prompt,frage,decision\nEnglish,Deutsch,ALLOW\n", "utf-8")

    def act(dialog: ImportDialog) -> None:
        assert dialog.preview.item(0, 1).text() == "English"
        box: Any = dialog.columns.cellWidget(1, 1)
        box.setCurrentIndex(box.findData("request"))
        box.activated.emit(box.currentIndex())
        qtbot.waitUntil(lambda: not dialog.progress.isVisible(), timeout=5000)
        assert dialog.preview.item(0, 1).text() == "Deutsch"
        first: Any = dialog.columns.cellWidget(0, 1)
        assert first.currentData() == ""  # ignored now
        confirm(qtbot)(dialog)

    import_file(page, qtbot, path, act)
    assert page.context.dataset.samples[-1].request == "Deutsch"


def test_rejected_rows_keep_their_corrections_and_can_be_saved(
    page: DatasetPage, qtbot: QtBot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, saved = tmp_path / "x.csv", tmp_path / "left.jsonl"
    path.write_text('request,label,why\na,ALLOW,x\nb,NO,y\n"c,ALLOW,z\nd,,\n', "utf-8")
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_, **__: (str(saved), ""))

    def act(dialog: ImportDialog) -> None:
        model = dialog.rejected_rows
        assert [one.line for one in model.rows] == [3, 4, 5]
        assert [model.index(0, column).data() for column in range(4)] == [
            "x.csv",
            "3",
            "label",
            "NO",
        ]
        row = json.loads(model.index(0, 5).data())
        assert not model.setData(model.index(0, 4), "not this column")
        assert model.setData(model.index(0, 5), json.dumps({**row, "label": "deny"}))
        assert model.setData(model.index(1, 5), "c,ALLOW,z")
        assert model.setData(model.index(2, 5), "d,PERHAPS,")
        assert "not a label" in model.index(2, 4).data()
        assert dialog.summary.text() == "3 rows can be imported. 1 row cannot; see “Rejected”."
        box: Any = dialog.columns.cellWidget(2, 1)
        box.setCurrentIndex(box.findData("rationale"))
        box.activated.emit(box.currentIndex())
        qtbot.waitUntil(lambda: not dialog.progress.isVisible(), timeout=5000)
        assert model.left == 1  # the corrections were read again with the new mapping
        dialog.tabs.setCurrentIndex(1)
        qtbot.mouseClick(dialog.save_rejected, Qt.MouseButton.LeftButton)
        assert dialog.details.text() == "1 row were saved to left.jsonl." or saved.exists()
        confirm(qtbot)(dialog)

    import_file(page, qtbot, path, act)
    assert [(s.request, s.label, s.rationale) for s in page.context.dataset.samples[12:]] == [
        ("a", Label.ALLOW, "x"), ("b", Label.REFUSE, "y"), ("c", Label.ALLOW, "z")
    ]  # fmt: skip
    left = [json.loads(line) for line in saved.read_text("utf-8").splitlines()]
    assert [(one["line"], one["field"]) for one in left] == [(5, "label")]


def test_all_of_many_rejected_rows_are_listed(
    page: DatasetPage, qtbot: QtBot, tmp_path: Path
) -> None:
    path = tmp_path / "x.jsonl"
    good = json.dumps({"request": "good", "label": "ALLOW"})
    path.write_text("\n".join([good, *("{broken" for _ in range(5000))]), "utf-8")

    def act(dialog: ImportDialog) -> None:
        assert dialog.rejected.model().rowCount() == 5000
        assert dialog.rejected_rows.index(4999, 1).data() == "5,001"
        confirm(qtbot)(dialog)

    import_file(page, qtbot, path, act)
    assert page.context.dataset.samples[-1].request == "good"


def test_several_dropped_files_come_one_after_the_other(
    page: DatasetPage, qtbot: QtBot, tmp_path: Path
) -> None:
    mime = QMimeData()
    urls = []
    for name in ("one", "two"):
        path = tmp_path / f"{name}.jsonl"
        path.write_text(json.dumps({"request": name, "label": "ALLOW"}), "utf-8")
        urls.append(QUrl.fromLocalFile(str(path)))
    mime.setUrls(urls)
    event = QDropEvent(
        QPointF(10, 10), Qt.DropAction.CopyAction, mime,
        Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier,
    )  # fmt: skip

    def drive(dialog: Any) -> None:
        qtbot.waitUntil(dialog.import_button.isEnabled, timeout=5000)
        if dialog.path.name == "one.jsonl":
            in_dialog(drive)
        qtbot.mouseClick(dialog.import_button, Qt.MouseButton.LeftButton)

    in_dialog(drive)
    page.dropEvent(event)
    qtbot.waitUntil(lambda: len(page.context.dataset) == 14, timeout=5000)
    assert [s.request for s in page.context.dataset.samples[12:]] == ["one", "two"]


def test_a_long_import_shows_progress_and_can_be_cancelled(
    page: DatasetPage, qtbot: QtBot, tmp_path: Path
) -> None:
    path = tmp_path / "x.csv"
    path.write_text("request,label\n" + "a long question,ALLOW\n" * 200_000, "utf-8")

    def drive(dialog: Any) -> None:
        qtbot.waitUntil(lambda: dialog.progress.value() > 0, timeout=10_000)
        assert not dialog.import_button.isEnabled()
        assert dialog.preview.rowCount() == 50  # the first rows are there long before the last
        buttons = find(dialog, QDialogButtonBox, "importButtons")
        cancel = buttons.button(QDialogButtonBox.StandardButton.Cancel)
        assert isinstance(cancel, QPushButton)
        qtbot.mouseClick(cancel, Qt.MouseButton.LeftButton)

    in_dialog(drive)
    page.operations.import_path(path)
    assert list(page.context.dataset.samples) == rows() and not page.context.dataset.modified


def wide(path: Path) -> None:
    path.write_bytes(b",".join(b"c%d" % n for n in range(10**6)) + b"\n")


def truncated(path: Path) -> None:
    pl.DataFrame({"request": ["a"] * 99, "label": ["ALLOW"] * 99}).write_parquet(path)
    path.write_bytes(path.read_bytes()[:-50])


REFUSED = (
    ("binary.csv", lambda path: path.write_bytes(bytes(range(256)) * 40), "binary file"),
    ("picture.jsonl", lambda path: path.write_bytes(b"\x89PNG" + bytes(50)), "a picture"),
    ("book.csv", lambda path: path.write_bytes(b"PK\x03\x04" + bytes(50)), "Office document"),
    ("wide.csv", wide, "columns; the limit is 1,024"),
    ("cut.parquet", truncated, "damaged"),
    ("empty.csv", lambda path: path.write_bytes(b""), "is empty"),
    ("header.csv", lambda path: path.write_text('"a,b\n', "utf-8"), "quotes in the first line"),
)


@pytest.mark.parametrize(("name", "make", "words"), REFUSED, ids=[one[0] for one in REFUSED])
def test_bad_files_are_refused_with_a_sentence_and_change_nothing(
    page: DatasetPage, qtbot: QtBot, tmp_path: Path, name: str, make: Callable[[Path], object],
    words: str,
) -> None:  # fmt: skip
    path = tmp_path / name
    make(path)

    def act(dialog: ImportDialog) -> None:
        assert dialog.summary.text() == "Nothing was imported."
        assert words in dialog.details.text() and dialog.details.text().endswith(".")
        assert not dialog.import_button.isEnabled()
        dialog.reject()

    import_file(page, qtbot, path, act)
    assert list(page.context.dataset.samples) == rows() and not page.context.dataset.modified


def test_formulas_are_neutralised_on_export_and_come_back_whole(
    page: DatasetPage, qtbot: QtBot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from so8t_studio.commands import dataset as commands

    formula = "=cmd|'/c calc'!A0"
    commands.set_field(page.context.dataset, "s0", "request", formula)
    path = tmp_path / "out.csv"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_, **__: (str(path), ""))
    click(qtbot, page, "button_export")
    qtbot.waitUntil(path.exists, timeout=5000)
    qtbot.wait(50)
    assert f"'{formula}" in path.read_text("utf-8-sig")
    assert not any(cell.startswith(("=", "+", "-", "@"))
                   for cell in pl.read_csv(path)["request"])  # fmt: skip
    assert read_samples(path).samples == list(page.context.dataset.samples)
