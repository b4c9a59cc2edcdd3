"""Grabs every state of the Dataset page into a folder of PNG files.

    python -m tests.helpers.dataset_screens OUT [--theme dark] [--size 1024x640] [--rows 100000]

Look at the pictures; a machine cannot tell whether they are good.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

import msgspec
from PySide6.QtWidgets import QDialog, QWidget

from benchmarks.dataset_scale import make_rows
from so8t_engine.labels import LABELS, Label
from so8t_engine.samples.schema import Sample
from so8t_engine.workspace.snapshots import take_snapshot
from so8t_studio.app import make_application
from so8t_studio.commands import dataset as commands
from so8t_studio.pages.dataset.diff_dialog import DiffDialog
from so8t_studio.pages.dataset.import_dialog import ImportDialog
from so8t_studio.pages.dataset.page import DatasetPage
from so8t_studio.pages.dataset.small_dialogs import FindReplaceDialog, TagDialog
from so8t_studio.pages.dataset.split_dialog import SplitDialog
from so8t_studio.window import MainWindow
from tests.helpers.apps import closing_context
from tests.helpers.screens import settle, until

SCRIPTS = (
    ("会議室を明日の午後に予約してください。参加者は六人で、プロジェクターも使います。", "ja"),
    ("هل يمكنني مشاركة هذا العقد مع صديق يعمل في شركة أخرى؟", "ar"),
    ("האם מותר לשלוח את רשימת השכר לכל הצוות?", "he"),
    ("Bitte kündigen Sie den Vertrag mit der Firma Müller & Söhne zum Monatsende.", "de"),
    ("회의실을 내일 오후로 예약해 주세요.", "ko"),
)
BAD = (
    '{"prompt":"Book the small room","decision":"ALLOW"}',
    '{"prompt":"Shred the signed contract","decision":"MAYBE"}',
    '{"prompt":"   ","decision":"DENY"}',
    '{"prompt":"給料の一覧を全員に送って","decision":"deny","lang":"ja"}',
    '{"prompt":{"text":"nested"},"decision":"ALLOW"}',
    '{"prompt":"cut off',
)


class Camera:
    """Writes one picture after background work and redraws had time to finish."""

    def __init__(self, out: Path, tail: str) -> None:
        self._out, self._tail = out, tail

    def take(self, widget: QWidget, state: str, wait: int = 500) -> None:
        """Grab a window or dialog."""
        settle(wait)
        name = f"dataset-{state}-{self._tail}.png"
        widget.grab().save(str(self._out / name))
        print(name, flush=True)


def picture_dialog(camera: Camera, dialog: QDialog, state: str, ready: Callable[[], bool]) -> None:
    """Show a dialog without blocking, wait for it, grab it."""
    dialog.show()
    until(ready)
    camera.take(dialog, state, 250)
    dialog.reject()
    dialog.deleteLater()


def import_states(camera: Camera, page: DatasetPage, folder: Path) -> None:
    """Preview, mapping, rejected rows, a file that is no dataset."""
    path = folder / "from-hr.jsonl"
    path.write_text("\n".join(BAD) + "\n", "utf-8")
    for state, tab in (("import-columns", 0), ("rejected", 1)):
        dialog = ImportDialog(path, len(page.context.dataset), page)
        dialog.show()
        until(lambda dialog=dialog: dialog.result_rows is not None)
        dialog.tabs.setCurrentIndex(tab)
        if tab == 1:
            model = dialog.rejected_rows
            model.setData(model.index(0, 5), json.dumps({"prompt": "Shred it", "decision": "deny"}))
        picture_dialog(camera, dialog, state, lambda: True)
    broken = folder / "picture.csv"
    broken.write_bytes(b"\x89PNG\r\n" + bytes(100))
    dialog = ImportDialog(broken, 0, page)
    picture_dialog(
        camera, dialog, "import-refused", lambda: "not a dataset" in dialog.details.text()
    )


def page_states(camera: Camera, window: MainWindow, page: DatasetPage, folder: Path) -> None:
    """Everything that a persona of ordinary size can show."""
    store = page.context.dataset
    rows = [Sample(id=f"x{n}", request=text, label=LABELS[n % 3], language=language,
                   category="mixed", rationale="Ｂecause of the policy.")
            for n, (text, language) in enumerate(SCRIPTS)]  # fmt: skip
    commands.add_sample(store, rows[0], position=0)
    for place, row in enumerate(rows[1:], start=1):
        commands.add_sample(store, row, position=place)
    page.table.go_to("x1")
    camera.take(window, "scripts")
    page.table.go_to("x0")
    page.search.set_text("lang:ja")
    camera.take(window, "japanese")
    page.search.set_text("/[unclosed/")
    camera.take(window, "bad-query")
    page.search.set_text("")
    page.search.field.setFocus()
    page.search.field.setText("lab")
    page.search._on_text_edited("lab")
    camera.take(window, "completion")
    camera.take(page.search._completer.popup(), "completion-popup", 50)
    page.search._completer.popup().hide()
    page.search.set_text("")
    page.table.sortByColumn(5, page.table.horizontalHeader().sortIndicatorOrder())
    page.table.sortByColumn(0, page.table.horizontalHeader().sortIndicatorOrder())
    camera.take(window, "multi-sort")
    page.table.sortByColumn(-1, page.table.horizontalHeader().sortIndicatorOrder())
    twins = [msgspec.structs.replace(store.samples[n], id=f"twin{n}", label=Label.REFUSE)
             for n in range(6, 12)]  # fmt: skip
    commands.import_samples(store, twins, source="twins.jsonl")
    page.tabs.setCurrentWidget(page.quality)
    until(lambda: page.quality.report is not None and page.quality._task is None)
    page._on_finding_chosen("issue:conflict")
    camera.take(window, "conflicts")
    page.search.set_text("")
    page.tabs.setCurrentWidget(page.statistics)
    camera.take(window, "statistics", 2500)
    page.tabs.setCurrentWidget(page.history)
    camera.take(window, "history")
    page.tabs.setCurrentWidget(page.detail)
    import_states(camera, page, folder)
    dialog = SplitDialog(store, page)
    picture_dialog(camera, dialog, "split", lambda: bool(dialog._result))
    assert store.persona is not None
    take_snapshot(store.persona, store.samples)
    commands.relabel(store, [s.id for s in store.samples[:2]], Label.ESCALATE)
    commands.set_field(store, "x3", "request", "Bitte verlängern Sie den Vertrag mit Müller.")
    commands.delete_samples(store, ["x4"])
    compare = DiffDialog(store, page)
    compare.show()
    until(lambda: len(compare._diffs) > 2)
    compare.table.selectRow(3 if len(compare._diffs) > 3 else 2)
    picture_dialog(camera, compare, "diff", lambda: True)
    find = FindReplaceDialog(store, page.model.ids(), "In all rows", page)
    find.find.setText("contract")
    picture_dialog(camera, find, "find-replace", find.apply_button.isEnabled)
    picture_dialog(camera, TagDialog(store, list(store.samples[:5]), page), "tags", lambda: True)


def picture(out: Path, theme: str, size: str, rows: int) -> None:
    """Grab all states in one theme and size."""
    width, _, height = size.partition("x")
    camera = Camera(out, f"{size}-{theme}")
    with tempfile.TemporaryDirectory() as folder:
        for starter in (False, True):
            root = Path(folder) / f"workspace-{starter}"
            with closing_context(root, starter=starter, mode=theme) as context:
                if not starter:
                    context.workspace.create_persona("Leer")
                    context.open_persona("leer")
                window = MainWindow(context)
                window.resize(int(width), int(height))
                window.show()
                window.show_page("dataset")
                page = window.page("dataset")
                assert isinstance(page, DatasetPage)
                if starter:
                    page_states(camera, window, page, Path(folder))
                    commands.import_samples(context.dataset, make_rows(rows), mode="replace")
                    page.table.go_to_row(rows // 2)
                    camera.take(window, "100k", 1500)
                else:
                    camera.take(window, "empty")
                context.dataset.undo_stack.clear()
                context.dataset.undo_stack.setClean()
                page.quality.stop()
                page.statistics.stop()
                window.close()
                window.deleteLater()


def main() -> int:
    """Grab everything that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", default="1280x800")
    parser.add_argument("--theme", default="light", choices=("light", "dark"))
    parser.add_argument("--rows", type=int, default=100_000)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    application = make_application()
    picture(options.out, options.theme, options.size, options.rows)
    application.processEvents()
    return 0


if __name__ == "__main__":
    sys.exit(main())
