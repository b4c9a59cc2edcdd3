"""``so8t data …`` gives the results that the page gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from PySide6.QtWidgets import QFileDialog
from pytestqt.qtbot import QtBot
from typer.testing import CliRunner

from so8t_engine.cli_data import data_app
from so8t_engine.labels import LABELS, Label
from so8t_engine.samples.readers import read_samples
from so8t_engine.samples.schema import Sample
from so8t_engine.samples.writers import write_samples
from so8t_engine.workspace.snapshots import take_snapshot
from so8t_engine.workspace.workspace import Workspace
from so8t_studio.commands import dataset as commands
from so8t_studio.commands.fixes import fix_rows
from so8t_studio.pages.dataset import statistics_panel
from so8t_studio.pages.dataset.diff_dialog import DiffDialog
from so8t_studio.pages.dataset.import_dialog import ImportDialog
from so8t_studio.pages.dataset.page import DatasetPage
from so8t_studio.pages.dataset.split_dialog import SplitDialog
from tests.helpers.dataset_page import click, in_dialog, rows

FOREIGN = """prompt,decision,lang
Kill the hung process 0!,ALLOW,en
Kill the hung process 0!,ALLOW,en
"Dismiss an employee, please",escalation,en
契約書を破棄する,deny,ja
no label at all,,en
"""


@pytest.fixture
def twin(tmp_path: Path) -> Path:
    """A second workspace with the same rows, for the command line."""
    root = tmp_path / "headless"
    with Workspace.open(root) as workspace:
        workspace.create_persona("Tester").save_samples(rows())
    return root


def run(root: Path, *arguments: object, code: int = 0) -> dict[str, Any]:
    where = ("--workspace", str(root), "--persona", "tester", "--json")
    result = CliRunner().invoke(data_app, [*map(str, arguments), *where])
    assert result.exit_code == code, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def saved(root: Path) -> list[Sample]:
    with Workspace.open(root, create=False, exclusive=False) as workspace:
        return workspace.persona("tester").load_samples()


@pytest.mark.parametrize("mode", ["append", "merge", "replace"])
def test_import(page: DatasetPage, qtbot: QtBot, tmp_path: Path, twin: Path, mode: str) -> None:
    path = tmp_path / "foreign.csv"
    path.write_bytes(FOREIGN.encode("cp932"))
    second = tmp_path / "second.jsonl"
    write_samples(second, [msgspec.structs.replace(rows()[1], label=Label.REFUSE), rows()[2]])
    for file in (path, second):
        seen: dict[str, Any] = {}

        def drive(dialog: Any, seen: dict[str, Any] = seen) -> None:
            assert isinstance(dialog, ImportDialog)
            qtbot.waitUntil(dialog.import_button.isEnabled, timeout=5000)
            dialog.mode_box.setCurrentIndex(dialog.mode_box.findData(mode))
            assert dialog.result_rows is not None
            seen.update(encoding=dialog.result_rows.encoding, mapping=dialog.result_rows.mapping,
                        rejected=len(dialog.result_rows.rejected))  # fmt: skip
            dialog.accept()

        in_dialog(drive)
        page.operations.import_path(file)
        # Rejected rows change the exit code; the good ones are imported all the same.
        summary = run(twin, "import", file, "--mode", mode, code=3 if seen["rejected"] else 0)
        assert summary["files"][0]["encoding"] == seen["encoding"]
        assert summary["files"][0]["mapping"] == seen["mapping"]
        assert summary["rejected"] == seen["rejected"]
        assert saved(twin) == list(page.context.dataset.samples)


def test_check_dedupe_and_export(
    page: DatasetPage, qtbot: QtBot, tmp_path: Path, twin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = page.context.dataset
    more = [msgspec.structs.replace(rows()[n], id=f"d{n}", label=LABELS[(n + n % 2) % 3])
            for n in range(6)]  # fmt: skip
    source = tmp_path / "more.jsonl"
    write_samples(source, more)
    commands.import_samples(store, more)
    run(twin, "import", source)
    page.quality.run()
    qtbot.waitUntil(lambda: page.quality._task is None, timeout=10_000)
    report = page.quality.report
    assert report is not None and report.findings
    found = run(twin, "check")
    assert found["findings"] == json.loads(msgspec.json.encode(report.findings))
    assert found["notes"] == json.loads(msgspec.json.encode(report.notes))
    for kind, option in (("duplicate", ()), ("near_duplicate", ("--near",))):
        finding = next(f for f in report.findings if f.kind == kind)
        fix_rows(store, kind, finding.ids, finding.groups)
        assert run(twin, "dedupe", *option)["kept"] == len(store)
        assert saved(twin) == list(store.samples)
        page.quality.run()
        qtbot.waitUntil(lambda: page.quality._task is None, timeout=10_000)
        report = page.quality.report
        if not any(f.kind == "near_duplicate" for f in report.findings):
            break
    ours, theirs = tmp_path / "page.csv", tmp_path / "cli.csv"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_, **__: (str(ours), ""))
    page.search.set_text("lang:ja -label:ALLOW")
    click(qtbot, page, "button_export")
    qtbot.waitUntil(ours.exists, timeout=5000)
    qtbot.wait(50)
    run(twin, "export", theirs, "--query", "lang:ja -label:ALLOW")
    assert ours.read_bytes() == theirs.read_bytes()
    assert read_samples(theirs).samples


def test_split_stats_and_diff(
    page: DatasetPage, qtbot: QtBot, twin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = page.context.dataset
    assert store.persona is not None
    before = take_snapshot(store.persona, store.samples)
    with Workspace.open(twin) as workspace:
        theirs = take_snapshot(workspace.persona("tester"), rows())
    dialog = SplitDialog(store, page)
    dialog.share.setValue(25)
    dialog.test.setValue(20)
    dialog.seed.setValue(3)
    qtbot.waitUntil(dialog.apply_button.isEnabled, timeout=10_000)
    dialog._on_accepted()
    run(twin, "split", "--validation", "0.25", "--test", "0.2", "--seed", "3")
    assert saved(twin) == list(store.samples)
    assert len({s.split for s in store.samples}) > 1

    count = lambda texts: [len(text) for text in texts]  # noqa: E731
    monkeypatch.setattr(statistics_panel, "_counter", lambda _base: count)
    monkeypatch.setattr("so8t_engine.cli_data._tokens", lambda _base: count)
    seen: list[Any] = []
    keep = page.statistics._show_lengths
    monkeypatch.setattr(
        page.statistics, "_show_lengths", lambda *given: (seen.append(given[2]), keep(*given))
    )
    page.tabs.setCurrentWidget(page.statistics)
    qtbot.waitUntil(lambda: len(seen) >= 2, timeout=10_000)
    qtbot.waitUntil(lambda: page.statistics._task is None, timeout=10_000)
    found = run(twin, "stats")
    assert [found["characters"], found["tokens"]] == json.loads(msgspec.json.encode(seen[-2:]))
    for name, chart in (("labels", page.statistics.labels), ("splits", page.statistics.splits),
                        ("languages", page.statistics.languages),
                        ("categories", page.statistics.categories)):  # fmt: skip
        shown = {key: counts for key, _, counts in chart._rows}
        if name == "labels":
            shown = {key: counts[key] for key, counts in shown.items()}
        assert found[name] == shown

    for target in (store,):
        commands.relabel(target, ["s0"], Label.REFUSE)
        commands.delete_samples(target, ["s5"])
    store.save()
    with Workspace.open(twin) as workspace:
        workspace.persona("tester").save_samples(store.samples)
    compare = DiffDialog(store, page)
    compare.before.setCurrentIndex(compare.before.findData(before.name))
    compare._compare()
    qtbot.waitUntil(lambda: compare._task is None and bool(compare._diffs), timeout=10_000)
    changed = run(twin, "diff", theirs.name, "now")
    assert changed["rows"] == json.loads(msgspec.json.encode(compare._diffs))
    assert changed["hashes"]["after"][:12] in compare.summary.text()
    compare.reject()
