"""kill -9 at any moment loses no saved row and at most the last second of edits."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pytestqt.qtbot import QtBot

from so8t_engine.labels import Label
from so8t_engine.samples.schema import Sample
from so8t_engine.workspace.workspace import Workspace
from so8t_studio.commands import dataset as commands
from so8t_studio.models.dataset_store import DatasetChangedOnDisk, DatasetStore

CHILD = """
import sys
from pathlib import Path
from PySide6.QtCore import QCoreApplication
from so8t_engine.labels import LABELS, Label
from so8t_engine.samples.schema import Sample
from so8t_engine.workspace.workspace import Workspace
from so8t_studio.commands import dataset as commands
from so8t_studio.models.dataset_store import DatasetStore
app = QCoreApplication([])
workspace = Workspace.open(Path(sys.argv[1]))
store = DatasetStore()
store.load(workspace.persona("x"))
start = int(sys.argv[2])
print("ready", flush=True)
for n in range(start, start + 100000):
    row = Sample(id=f"n{n}", request=f"row {n} " + "x" * 200, label=Label.ALLOW)
    commands.add_sample(store, row)
    commands.relabel(store, [f"n{n}"], LABELS[n % 3])
    print(f"writing {n}", flush=True)
    if n % 3 == 0:
        store.save()
    else:
        store.flush_journal()
    print(f"written {n}", flush=True)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize(
    "kills",
    [
        pytest.param(6, id="6"),
        # python -m pytest -m slow tests/models/test_dataset_crash.py: three minutes
        pytest.param(200, id="200", marks=[pytest.mark.slow, pytest.mark.timeout(1800)]),
    ],
)
def test_kill_during_saves_and_journal_writes_loses_nothing(
    tmp_path: Path, qtbot: QtBot, kills: int
) -> None:
    random.seed(7)
    with Workspace.open(tmp_path) as workspace:
        workspace.create_persona("x").save_samples(
            [Sample(id=f"base{n}", request=f"base {n}", label=Label.REFUSE) for n in range(500)]
        )
    child_file = tmp_path / "child.py"
    child_file.write_text(CHILD)
    acknowledged = -1
    writes = in_the_middle = 0
    for _round in range(kills):
        child = subprocess.Popen(
            [sys.executable, str(child_file), str(tmp_path), str(acknowledged + 1)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        time.sleep(random.uniform(0.05, 0.6))
        child.kill()
        lines = child.stdout.read().split(b"\n")
        child.stdout.close()
        child.wait()
        whole = [line.split() for line in lines[:-1]]  # a last line without its end does not count
        numbers = [int(number) for word, number in whole if word == b"written"]
        writes += len(numbers)
        in_the_middle += bool(whole) and whole[-1][0] == b"writing"
        if numbers:
            acknowledged = numbers[-1]
        with Workspace.open(tmp_path) as workspace:
            assert not workspace.read_only
            store = DatasetStore()
            store.load(workspace.persona("x"))
            found = {s.id: s for s in store.samples}
            assert len(found) == len(store) >= 500
            for number in range(acknowledged + 1):
                assert f"n{number}" in found, f"row {number} of {acknowledged} is lost"
            assert all(f"base{n}" in found for n in range(500))
            assert store.set_aside == ""
            # What was written but not acknowledged may be there too; go on after it.
            acknowledged = max(
                [int(one[1:]) for one in found if one.startswith("n")], default=acknowledged
            )
            store.save()
            store.close()
    assert writes >= min(200, 20 * kills)
    assert in_the_middle >= kills // 2, "most kills should fall into a save or journal write"
    leftovers = [p.name for p in (tmp_path / "personas" / "x").iterdir() if "journal-" in p.name]
    assert leftovers == []


def test_unsaved_edits_come_back_as_one_undoable_step(tmp_path: Path, qtbot: QtBot) -> None:
    with Workspace.open(tmp_path) as workspace:
        persona = workspace.create_persona("x")
        persona.save_samples([Sample(id="a", request="a", label=Label.ALLOW)])
        store = DatasetStore()
        store.load(persona)
        commands.relabel(store, ["a"], Label.REFUSE)
        commands.add_sample(store, Sample(id="b", request="b", label=Label.ALLOW))
        store.undo_stack.undo()
        store.flush_journal()
        store.close()  # as if the process ended here
        with persona.journal_path.open("ab") as stream:
            stream.write(b'{"removed":[[0,{"id"')  # torn by the crash
        again = DatasetStore()
        again.load(persona)
        assert again.modified and again.recovered == 3
        assert [(s.id, s.label) for s in again.samples] == [("a", Label.REFUSE)]
        again.undo_stack.undo()
        assert [(s.id, s.label) for s in again.samples] == [("a", Label.ALLOW)]
        again.undo_stack.redo()
        again.save()
        assert not persona.journal_path.exists()
        again.close()
        third = DatasetStore()
        third.load(persona)
        assert not third.modified and third.samples[0].label is Label.REFUSE
        third.close()


def test_a_journal_of_another_file_is_kept_aside(tmp_path: Path, qtbot: QtBot) -> None:
    with Workspace.open(tmp_path) as workspace:
        persona = workspace.create_persona("x")
        persona.save_samples([Sample(id="a", request="a", label=Label.ALLOW)])
        store = DatasetStore()
        store.load(persona)
        commands.relabel(store, ["a"], Label.REFUSE)
        store.flush_journal()
        store.close()
        persona.save_samples([Sample(id="c", request="c", label=Label.ALLOW)])
        again = DatasetStore()
        again.load(persona)
        assert [s.id for s in again.samples] == ["c"] and not again.modified
        assert (persona.root / again.set_aside).exists()
        again.close()


def test_a_file_that_changed_outside_is_not_overwritten(tmp_path: Path, qtbot: QtBot) -> None:
    with Workspace.open(tmp_path) as workspace:
        persona = workspace.create_persona("x")
        persona.save_samples([Sample(id="a", request="a", label=Label.ALLOW)])
        store = DatasetStore()
        store.load(persona)
        commands.relabel(store, ["a"], Label.REFUSE)
        persona.save_samples([Sample(id="other", request="o", label=Label.ALLOW)])
        with pytest.raises(DatasetChangedOnDisk):
            store.save()
        assert store.modified and persona.load_samples()[0].id == "other"
        store.save(overwrite=True)
        assert persona.load_samples()[0].label is Label.REFUSE
        store.close()


def test_damaged_lines_survive_a_save_in_their_own_file(tmp_path: Path, qtbot: QtBot) -> None:
    with Workspace.open(tmp_path) as workspace:
        persona = workspace.create_persona("x")
        persona.dataset_path.write_text(
            '{"id":"a","request":"a","label":"ALLOW"}\n{"id":"b","request":"b","label":"MAYBE"}\n'
        )
        store = DatasetStore()
        store.load(persona)
        assert len(store) == 1 and store.rejected[0].line == 2
        store.save()
        kept = (persona.root / "dataset.rejected.jsonl").read_text("utf-8")
        assert "MAYBE" in kept
        assert [s.id for s in persona.load_samples()] == ["a"]
        store.close()


def test_a_full_disk_loses_nothing(tmp_path: Path, qtbot: QtBot) -> None:
    from so8t_engine.errors import WorkspaceError

    with Workspace.open(tmp_path) as workspace:
        persona = workspace.create_persona("x")
        persona.save_samples([Sample(id="a", request="a", label=Label.ALLOW)])
        store = DatasetStore()
        store.load(persona)
        commands.relabel(store, ["a"], Label.REFUSE)
        store.flush_journal()
        before = persona.dataset_path.read_bytes()
        import resource

        old = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (8, old[1]))
        try:
            start = time.monotonic()
            with pytest.raises(WorkspaceError, match="cannot be saved"):
                store.save()
            assert time.monotonic() - start < 10  # nobody waits for a journal that cannot write
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, old)
            signal.signal(signal.SIGXFSZ, handler)
        assert persona.dataset_path.read_bytes() == before
        assert store.modified
        store.save()
        assert persona.load_samples()[0].label is Label.REFUSE
        store.close()
