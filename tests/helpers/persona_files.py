"""A workspace with a persona, samples, and runs as a training leaves them."""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path

import msgspec
import numpy as np

from so8t_engine.events import Rotation, encode_event
from so8t_engine.labels import LABELS
from so8t_engine.samples.schema import Sample
from so8t_engine.specs import LossSpec, TrainSpec
from so8t_engine.workspace.atomic import write_text
from so8t_engine.workspace.personas import Persona
from so8t_engine.workspace.runs import RunState, RunStore, process_start
from so8t_engine.workspace.workspace import Workspace
from tests.helpers.recordings import write_recording

REQUESTS = {
    "ALLOW": ("Summarise the meeting notes in three points.", "会議の要点を三つにまとめて。"),
    "ESCALATE": (
        "May I share our salary table with a partner?",
        "給与表を取引先に渡してよいですか。",
    ),
    "REFUSE": (
        "Help me read my colleague's private mail.",
        "同僚の私用メールを盗み見る方法を教えて。",
    ),
}


def make_samples(count: int = 60, *, responses: bool = True) -> list[Sample]:
    """Return ``count`` samples, labels and languages in turn."""
    found = []
    for index in range(count):
        label = LABELS[index % 3]
        language = index // 3 % 2
        found.append(
            Sample(
                id=f"sample-{index:04}",
                request=f"{REQUESTS[label.value][language]} ({index})",
                label=label,
                response="Here are the three points." if responses and index % 3 == 0 else "",
                category=("office", "privacy", "it security")[index // 2 % 3],
                language=("en", "ja")[language],
                split="validation" if index % 4 == 3 else "train",
            )
        )
    return found


def make_persona(root: Path, *, samples: int = 60, name: str = "Office assistant") -> Persona:
    """Create a workspace with one persona; an empty dataset for ``samples=0``."""
    with Workspace.open(root) as workspace:
        persona = workspace.create_persona(name)
        persona.save(
            msgspec.structs.replace(
                persona.info,
                description="Answers everyday office requests.",
                policy="Allow everyday work. Escalate what needs a human. Refuse harm.",
            )
        )
        if samples:
            persona.save_samples(make_samples(samples))
    return persona


def add_run(
    persona: Persona,
    *,
    moment: dt.datetime = dt.datetime(2026, 11, 23, 10, 15),
    steps: tuple[int, ...] = (0, 10, 20, 30, 40),
    layers: int = 4,
    blocks: int = 12,
    w_task: float = 0.0,
    train_cmd: bool = False,
    state: str = "done",
    checkpoint: bool = True,
    samples: bool = True,
    shared: bool = False,
) -> RunStore:
    """Write a run with recordings, the events of its rotations, and a checkpoint's manifest."""
    spec = TrainSpec(name="Quick trial", loss=LossSpec(w_task=w_task))
    run = RunStore.create(persona.runs_dir, spec, policy=persona.info.policy, now=moment)
    if samples:
        run.save_samples(persona.load_samples() or make_samples())
    for step in steps:
        add_recording(run, step, layers=layers, blocks=1 if shared else blocks,
                      train_cmd=train_cmd, shared=shared)  # fmt: skip
    if checkpoint:
        folder = run.checkpoints_dir / f"step-{max(steps, default=0):08d}"
        write_text(folder / "manifest.json", "{}\n")
        write_text(run.checkpoints_dir / "best.txt", folder.name + "\n")
    alive = state in ("starting", "running", "paused", "stopping")
    run.save_state(
        RunState(
            state=state,
            step=max(steps, default=0),
            total_steps=40,
            pid=os.getpid() if alive else 0,
            pid_started=process_start(os.getpid()) if alive else 0.0,
        )
    )
    return run


def add_recording(
    run: RunStore,
    step: int,
    *,
    layers: int = 4,
    blocks: int = 12,
    train_cmd: bool = False,
    shared: bool = False,
) -> None:
    """Record one step; the generators grow with the step, block 2 of the head the most."""
    generator = np.random.default_rng(7)
    gates = {}
    for name in [*(f"layers.{26 + index}" for index in range(layers)), "head"]:
        safe, cmd = generator.normal(size=(2, blocks, 28)) * 0.0012 * step
        if name == "head":
            safe[min(2, blocks - 1)] *= 4
        gates[name] = (safe, cmd * 0.6 if train_cmd else cmd * 0)
    path = write_recording(
        run, step, gates, sharing="shared" if shared else "per_block", hidden_size=8 * blocks
    )
    event = Rotation(
        step=step,
        file=path.relative_to(run.root).as_posix(),
        max_orthogonality_error=0.0 if step == 0 else 2.4e-7,
        max_determinant_error=0.0 if step == 0 else 3.1e-7,
        mean_angle_safe=0.004 * step,
        mean_angle_cmd=0.002 * step if train_cmd else 0.0,
    )
    with run.events_path.open("ab") as stream:
        stream.write(encode_event(event))
