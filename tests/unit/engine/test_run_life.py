"""A run beyond its first process: more passes, commands through the folder, watched cases."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from so8t_engine.errors import SpecError, WorkspaceError
from so8t_engine.evaluation.watched_cases import watched_rows
from so8t_engine.events import Log, Metric, Progress, Result
from so8t_engine.jobs.runtime import CommandFile, Control, write_command
from so8t_engine.jobs.train import extend
from so8t_engine.model import families
from so8t_engine.rotations import so8
from so8t_engine.workspace.personas import Persona
from so8t_engine.workspace.runs import RunNotes, RunState, RunStore
from tests.helpers.tiny_training import make_persona, make_samples, tiny_spec, train

Bases = Callable[[str], Path]


@pytest.fixture
def persona(tmp_path: Path) -> Persona:
    return make_persona(tmp_path / "persona", make_samples())


def test_a_finished_run_goes_on_for_more_passes(tiny_base: Bases, persona: Persona) -> None:
    spec = tiny_spec(tiny_base("llama"))
    code, run, first = train(spec, persona)
    steps = len(first.losses())
    assert code == 0 and run.state().state == "done"
    longer = extend(run, 1.0)
    assert longer.optim.epochs == spec.optim.epochs + 1.0
    assert run.spec() == longer
    assert (run.root / "spec-before-1.json").is_file()
    seen: list[int] = []
    code, again, second = train(
        longer, persona, resume=run, on_event=lambda event: seen.append(run.state().step)
    )
    assert code == 0 and again.id == run.id
    assert min(seen) == steps, "while it loads, it is where it was"
    losses = second.losses()
    assert [step for step, _ in losses] == list(range(steps + 1, steps + steps // 2 + 1))
    state = run.state()
    assert state.state == "done" and state.step == state.total_steps == losses[-1][0]
    rates = [event.values["lr_lora"] for event in second.of(Metric) if event.split == "train"]
    assert rates[0] > 0, "the schedule was stretched; it had come to its end"


def test_a_run_that_ended_by_steps_goes_on_by_passes(tiny_base: Bases, persona: Persona) -> None:
    spec = tiny_spec(tiny_base("llama"), optim_max_steps=3, optim_epochs=50.0)
    _, run, _ = train(spec, persona)
    longer = extend(run, 1.0)
    assert longer.optim.max_steps == 0
    per_pass = -(-sum(s.split == "train" for s in run.samples()) // spec.optim.batch_size)
    assert longer.optim.epochs == pytest.approx(3 / per_pass + 1.0)
    code, _, more = train(longer, persona, resume=run)
    assert code == 0 and more.losses()[0][0] == 4
    with pytest.raises(SpecError, match="cannot go on"):
        extend(run, 0.0)


def test_what_cannot_go_on_is_refused(persona: Persona, tiny_base: Bases) -> None:
    run = RunStore.create(persona.runs_dir, tiny_spec(tiny_base("llama")), policy="")
    run.save_state(RunState(state="done"))
    with pytest.raises(WorkspaceError, match="no checkpoint"):
        extend(run, 1.0)


def test_watched_cases_are_the_same_rows_at_each_evaluation(
    tiny_base: Bases, persona: Persona
) -> None:
    code, run, recorder = train(tiny_spec(tiny_base("llama")), persona)
    assert code == 0
    found = [event for event in recorder.of(Result) if event.name == "cases"]
    evaluated = [event.step for event in recorder.of(Metric) if event.split == "validation"]
    assert [event.data["step"] for event in found] == evaluated and len(found) >= 2
    held_out = {sample.id: sample for sample in run.samples() if sample.split == "validation"}
    ids = [[case["id"] for case in event.data["cases"]] for event in found]
    assert ids[0] == ids[-1] and len(set(ids[0])) == len(ids[0]) >= 3
    for case in found[-1].data["cases"]:
        assert case["request"] == held_out[case["id"]].request
        assert case["expected"] == held_out[case["id"]].label.value
        shares = {name: case[f"p_{name.lower()}"] for name in ("ALLOW", "ESCALATE", "REFUSE")}
        assert sum(shares.values()) == pytest.approx(1.0)
        assert case["decided"] in shares
    # The best checkpoint keeps its own metrics beside those of the last evaluation.
    state = run.state()
    by_step = {event.step: event.values for event in recorder.of(Metric)
               if event.split == "validation"}  # fmt: skip
    assert state.best_metrics["macro_f1"] == by_step[state.best_step]["macro_f1"]
    assert state.metrics["macro_f1"] == by_step[max(by_step)]["macro_f1"]


def test_watched_rows_are_the_first_of_each_label() -> None:
    labels = np.array([2, 0, 2, 2, 1, 0, 0])
    assert watched_rows(labels) == [1, 5, 4, 0, 2]
    assert watched_rows(np.array([], dtype=int)) == []


def test_a_run_is_paused_and_stopped_through_its_folder(tiny_base: Bases, persona: Persona) -> None:
    control = Control()
    seen: dict[str, Any] = {}

    def drive(event: Any) -> None:
        if isinstance(event, Metric) and event.step == 3 and "paused" not in seen:
            (run,) = persona.runs()
            seen["paused"] = False
            write_command(run.commands_path, {"cmd": "pause"})
            deadline = time.monotonic() + 10
            while not control.paused and time.monotonic() < deadline:
                time.sleep(0.02)
        if isinstance(event, Progress) and event.phase == "paused":
            seen["paused"] = True
            (run,) = persona.runs()
            write_command(run.commands_path, {"cmd": "stop"})

    spec = tiny_spec(tiny_base("llama"), optim_epochs=500.0, schedule_eval_every=0.0,
                     schedule_save_every=0.0)  # fmt: skip
    code, run, recorder = train(spec, persona, control=control, on_event=drive)
    assert code == 0 and seen["paused"]
    assert run.state().state == "cancelled" and run.state().step == 3
    assert "Paused after step 3." in [event.message for event in recorder.of(Log)]
    assert run.checkpoints()


def test_the_command_file_takes_whole_lines_of_its_own_time_only(tmp_path: Path) -> None:
    path = tmp_path / "commands.jsonl"
    write_command(path, {"cmd": "stop"})  # meant for an earlier process of the run
    control = Control()
    heard: list[str] = []
    control.on_command = lambda command: heard.append(command["cmd"])
    file = CommandFile(path, control, interval=0.02)

    def soon(reached: Callable[[], bool]) -> bool:
        deadline = time.monotonic() + 5
        while not reached() and time.monotonic() < deadline:
            time.sleep(0.01)
        return reached()

    try:
        with path.open("ab") as stream:
            stream.write(b"not json\n[1]\n" + b'{"cmd":"hel')
        write_command(tmp_path / "other", {"cmd": "stop"})
        time.sleep(0.1)
        assert heard == [] and not control.stop_requested
        with path.open("ab") as stream:
            stream.write(b'lo"}\n')
        assert soon(lambda: heard == ["hello"])
        write_command(path, {"cmd": "pause"})
        assert soon(lambda: control.paused)
        write_command(path, {"cmd": "resume"})
        assert soon(lambda: not control.paused)
        write_command(path, {"cmd": "stop"})
        assert soon(lambda: control.stop_requested)
    finally:
        file.close()


def test_detaching_decides_what_the_end_of_stdin_means(tmp_path: Path) -> None:
    kept, orphaned = Control(), []
    kept.on_orphaned = lambda: orphaned.append(True)
    kept.read_commands(io.BytesIO(b'{"cmd":"detach"}\n'))
    assert not kept.stop_requested and orphaned == [True]
    changed_mind = Control()
    changed_mind.read_commands(io.BytesIO(b'{"cmd":"detach"}\n{"cmd":"attach"}\n'))
    assert changed_mind.stop_requested
    plain = Control()
    plain.read_commands(io.BytesIO(b""))
    assert plain.stop_requested and "gone" in plain.reason


def test_notes_stay_with_the_run_and_damage_reads_as_none(tmp_path: Path) -> None:
    run = RunStore(tmp_path)
    assert run.notes() == RunNotes()
    notes = RunNotes(note="vor dem Audit 監査前", tags=("a", "b"), starred=True)
    run.save_notes(notes)
    assert run.notes() == notes
    run.notes_path.write_bytes(b"{")
    assert run.notes() == RunNotes()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "x").write_bytes(b"12345")
    assert run.size() == 5 + 1


def test_the_block_size_is_said_alike_with_and_without_torch() -> None:
    assert families.DIM == so8.DIM


def test_the_measured_dry_run_of_the_command_line(
    tiny_base: Bases, persona: Persona, capsys: pytest.CaptureFixture[str]
) -> None:
    from so8t_engine.cli_train import _dry_run

    spec = tiny_spec(tiny_base("llama"))
    assert _dry_run(spec, persona, events=False, as_json=False) == 0
    text = capsys.readouterr().out
    assert "weights" in text and "measured    " in text and "Nothing was started." in text
    assert not persona.runs()
