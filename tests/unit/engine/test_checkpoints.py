"""Checkpoints: exact resume, damage, death in the middle of a write, pruning, full disks."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from so8t_engine.events import Checkpoint, Error
from so8t_engine.jobs.runtime import Control
from so8t_engine.model.identity import base_identity
from so8t_engine.specs import LoraSpec, TrainSpec
from so8t_engine.training.checkpoints import (
    latest_intact,
    load_tree,
    prune,
    save_tree,
    set_best,
    verify,
    write_checkpoint,
)
from so8t_engine.training.trainer import random_state, set_random_state
from so8t_engine.workspace.personas import Persona
from so8t_engine.workspace.runs import RunStore
from tests.helpers.tiny_models import save_tiny_base
from tests.helpers.tiny_training import (
    Recorder,
    make_persona,
    make_samples,
    stop_at,
    tiny_spec,
    train,
)

Bases = Callable[[str], Path]


@pytest.fixture
def persona(tmp_path: Path) -> Persona:
    return make_persona(tmp_path / "persona", make_samples())


def exact_spec(base: Path, **changes: Any) -> TrainSpec:
    """Everything random is on: LoRA dropout, task loss, accumulation, three epochs."""
    settings: dict[str, Any] = {
        "model_lora": LoraSpec(rank=4, alpha=8.0, dropout=0.2),
        "optim_batch_size": 2,
        "optim_accumulation": 2,
        "optim_epochs": 3.0,
        "schedule_save_every": 0.2,
        "schedule_keep_checkpoints": 9,
    }
    return tiny_spec(base, **settings | changes)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for path in ("gates.safetensors", "head.safetensors", "lora/adapter_model.safetensors"):
        found |= {f"{path}:{name}": value for name, value in load_file(folder / path).items()}
    return found


def assert_same_end(left: RunStore, right: RunStore) -> None:
    ends = [weights(run.checkpoints()[-1]) for run in (left, right)]
    assert left.checkpoints()[-1].name == right.checkpoints()[-1].name
    assert ends[0].keys() == ends[1].keys()
    for name, value in ends[0].items():
        assert torch.equal(value, ends[1][name]), name


def tail(recorder: Recorder, after: int) -> list[tuple[int, Any]]:
    return [(step, value) for step, value in recorder.losses() if step > after]


# -- exact resume -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stop", "changes"),
    [
        (3, {}),  # in the middle of an epoch of 5 steps
        (5, {"model_prefix_cache": "ram"}),  # at its end
        (8, {"schedule_late_freeze": 0.4, "loss_routing": "joint"}),
    ],
)
def test_stopped_and_resumed_equals_uninterrupted_bit_for_bit(
    tiny_base: Bases, persona: Persona, stop: int, changes: dict[str, Any]
) -> None:
    spec = exact_spec(tiny_base("llama"), **changes)
    code, whole, plain = train(spec, persona)
    assert code == 0 and len(plain.losses()) == 15
    control = Control()
    _, run, _ = train(spec, persona, control=control, on_event=stop_at(stop, control))
    assert run.checkpoints()[-1].name == f"step-{stop:08d}"
    code, _, resumed = train(spec, persona, resume=run)
    assert code == 0
    assert resumed.losses() == tail(plain, stop)
    assert_same_end(whole, run)
    assert run.state().best_step == whole.state().best_step


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
    tiny_base: Bases, persona: Persona
) -> None:
    spec = exact_spec(tiny_base("llama"), optim_epochs=2.0)
    _, whole, plain = train(spec, persona)
    control = Control()
    _, run, _ = train(spec, persona, control=control, on_event=stop_at(6, control))
    *_, before, damaged = run.checkpoints()
    assert damaged.name == "step-00000006"
    gates = damaged / "gates.safetensors"
    raw = bytearray(gates.read_bytes())
    raw[-5] ^= 1  # one bit of one number
    gates.write_bytes(raw)
    code, _, resumed = train(spec, persona, resume=run)
    assert code == 0
    assert "step-00000006/gates.safetensors is damaged" in resumed.log()
    assert f"Resuming from {before.name}." in resumed.log()
    assert resumed.losses() == tail(plain, int(before.name[5:]))
    assert_same_end(whole, run)
    assert verify(run.checkpoints_dir / "step-00000006") == ""  # written anew


def test_without_any_intact_checkpoint_the_run_is_not_resumed(
    tiny_base: Bases, persona: Persona
) -> None:
    spec = tiny_spec(tiny_base("llama"), optim_max_steps=2)
    _, run, _ = train(spec, persona)
    for folder in run.checkpoints():
        (folder / "head.safetensors").write_bytes(b"")
    code, _, recorder = train(spec, persona, resume=run)
    assert code == 5
    assert "no intact checkpoint" in recorder.of(Error)[0].what


def test_a_run_does_not_resume_on_another_base(tmp_path: Path, persona: Persona) -> None:
    folder = save_tiny_base(tmp_path / "base")
    control = Control()
    spec = tiny_spec(folder)
    _, run, _ = train(spec, persona, control=control, on_event=stop_at(2, control))
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    assert base_identity(moved) == base_identity(folder)
    save_tiny_base(folder, seed=6)
    code, _, recorder = train(spec, persona, resume=run)
    assert code == 5
    assert "has changed since the run began" in recorder.of(Error)[0].what


def test_random_state_round_trip(tmp_path: Path) -> None:
    import random

    import numpy as np

    random.gauss(0, 1)
    np.random.normal()
    save_tree(tmp_path / "random", random_state())

    def draw() -> list[float]:
        return [random.random(), random.gauss(0, 1), float(np.random.normal()),
                float(torch.rand(()))]  # fmt: skip

    first = draw()
    set_random_state(load_tree(tmp_path / "random"))
    assert draw() == first


def test_optimizer_state_round_trip(tmp_path: Path) -> None:
    parameter = torch.nn.Parameter(torch.randn(3))
    optimizer = torch.optim.AdamW([{"params": [parameter], "name": "lora"}], lr=0.1)
    parameter.grad = torch.randn(3)
    optimizer.step()
    save_tree(tmp_path / "optimizer", optimizer.state_dict())
    again = torch.optim.AdamW([{"params": [parameter], "name": "lora"}], lr=9.0)
    again.load_state_dict(load_tree(tmp_path / "optimizer"))
    wanted, found = optimizer.state_dict(), again.state_dict()
    assert found["param_groups"][0]["lr"] == 0.1
    for name, value in wanted["state"][0].items():
        assert torch.equal(found["state"][0][name], value)


# -- death in the middle of a write -----------------------------------------------------------


def fill(folder: Path) -> None:
    save_tree(folder / "optimizer", {"state": {0: {"step": torch.ones(8)}}, "lr": 0.1})
    (folder / "lora").mkdir()
    (folder / "lora" / "weights.bin").write_bytes(b"x" * 5000)


def die_at(number: int, run: RunStore) -> int:
    """Write a checkpoint in a child that kills itself at its n-th file operation; its status."""
    child = os.fork()
    if child == 0:
        left = [number]

        def watch(event: str, arguments: tuple[Any, ...]) -> None:
            watched = ("open", "os.mkdir", "os.rename", "os.remove", "shutil.rmtree", "os.rmdir")
            if event in watched and str(run.checkpoints_dir) in str(arguments[0]):
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
        try:
            write_checkpoint(run, 4, 9, "periodic", fill)
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1]


def test_death_at_any_moment_of_a_save_leaves_the_earlier_checkpoint(tmp_path: Path) -> None:
    run = RunStore(tmp_path)
    earlier = write_checkpoint(run, 2, 9, "periodic", fill)
    killed = 0
    for number in range(200):
        status = die_at(number, run)
        found, problems = latest_intact(run)
        assert problems == []
        if os.WIFSIGNALED(status):
            killed += 1
            assert found in (earlier, run.checkpoints_dir / "step-00000004")
        else:
            assert found == run.checkpoints_dir / "step-00000004"
            break
    assert killed > 10  # it did die at many places before it was let through
    assert verify(earlier) == ""
    prune(run, keep=5)
    assert not list(run.checkpoints_dir.glob(".*"))  # leftovers are swept


@pytest.mark.parametrize("damage", ["truncated", "missing", "manifest", "manifest_json"])
def test_damage_is_detected(tmp_path: Path, damage: str) -> None:
    run = RunStore(tmp_path)
    earlier = write_checkpoint(run, 2, 9, "periodic", fill)
    newest = write_checkpoint(run, 4, 9, "periodic", fill)
    victim = newest / "lora" / "weights.bin"
    if damage == "truncated":
        victim.write_bytes(victim.read_bytes()[:-1])
    elif damage == "missing":
        victim.unlink()
    elif damage == "manifest":
        raw = (newest / "manifest.json").read_bytes()
        (newest / "manifest.json").write_bytes(raw[: len(raw) // 2])
    else:
        (newest / "manifest.json").write_bytes(b"\xff\xfe")
    found, problems = latest_intact(run)
    assert found == earlier
    assert len(problems) == 1 and "step-00000004" in problems[0]
    assert write_checkpoint(run, 4, 9, "periodic", fill) == newest
    assert latest_intact(run) == (newest, [])


def test_best_and_last_stay_and_the_rest_rolls(tmp_path: Path) -> None:
    run = RunStore(tmp_path)
    for step in range(1, 8):
        folder = write_checkpoint(run, step, 9, "periodic", fill)
        if step == 2:
            set_best(run, folder)
        prune(run, keep=3)
    assert [int(path.name[5:]) for path in run.checkpoints()] == [2, 5, 6, 7]
    best = run.best_checkpoint()
    assert best is not None and best.name == "step-00000002"


def test_rolling_checkpoints_of_a_run(tiny_base: Bases, persona: Persona) -> None:
    spec = tiny_spec(
        tiny_base("llama"), schedule_save_every=0.1, schedule_keep_checkpoints=2,
        schedule_eval_every=0.1,
    )  # fmt: skip
    _, run, recorder = train(spec, persona)
    kept = {int(path.name[5:]) for path in run.checkpoints()}
    assert kept == {9, 10} | {run.state().best_step}
    assert len({event.step for event in recorder.of(Checkpoint)}) == 10


# -- no space ---------------------------------------------------------------------------------


def test_full_disk_ends_with_a_sentence_and_keeps_what_there_is(
    tiny_base: Bases, persona: Persona
) -> None:
    """A limit on file size makes writing fail as a full disk does, in the kernel."""
    spec = tiny_spec(tiny_base("llama"), schedule_eval_every=0.0, optim_epochs=4.0)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def act(event: Any) -> None:
        if isinstance(event, Checkpoint):
            resource.setrlimit(resource.RLIMIT_FSIZE, (9000, before[1]))

    try:
        code, run, recorder = train(spec, persona, on_event=act)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == 6
    error = recorder.of(Error)[0]
    assert error.kind == "ResourceError"
    assert "disk" in error.what.lower() and error.next_step
    assert run.state().state == "failed"
    assert [path.name for path in run.checkpoints()] == ["step-00000010"]
    assert not list(run.checkpoints_dir.glob(".*.tmp"))
    code, _, resumed = train(spec, persona, resume=run)
    assert code == 0
    assert next(step for step, _ in resumed.losses()) == 11
