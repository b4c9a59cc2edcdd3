"""The training job: makes or reopens a run folder and trains in this process."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from so8t_engine.errors import DataError, ResourceError, SpecError, WorkspaceError
from so8t_engine.events import Result
from so8t_engine.jobs.runtime import CommandFile, Control, Job, LineSink, Sink, run_job
from so8t_engine.jobs.starting import find_start
from so8t_engine.samples.readers import read_samples
from so8t_engine.samples.schema import Sample
from so8t_engine.samples.split import assign_splits
from so8t_engine.specs import DataSpec, TrainSpec, encode_spec
from so8t_engine.workspace.atomic import write_bytes
from so8t_engine.workspace.personas import Persona
from so8t_engine.workspace.runs import ACTIVE_STATES, RunState, RunStore, process_start
from so8t_engine.workspace.starts import Start

MIN_FREE_BYTES = 512 * 1024**2


def gather_samples(spec: TrainSpec, persona: Persona, start: Start | None = None) -> list[Sample]:
    """Return the data of a run with splits decided: the persona's rows, then the extra files.

    Rows that the weights to begin with were trained on are training rows. With a limit these fill
    what new rows leave free: what is new is learned, what is old keeps it from being forgotten. Few
    new rows among many known ones are read several times (``repeat_new``), as rows of their own
    with ``~2``, ``~3`` … behind their id.

    Raises:
        DataError: if a file cannot be read or holds no usable row.
    """
    samples = _read(Path(spec.data.dataset)) if spec.data.dataset else persona.load_samples()
    if not samples:
        raise DataError(
            "The dataset is empty.", next_step="Import or add samples on the Dataset page first."
        )
    if start is not None:
        samples = start.claim(samples)
    decided = assign_splits(
        samples, validation_fraction=spec.data.validation_fraction, seed=spec.seed
    )
    for name in spec.data.extra:
        decided += [_as_extra(sample) for sample in _read(Path(name))]
    new: set[str] = set()
    if start is not None and start.seen:
        new = {row.id for row in decided if row.split == "train" and not start.knows(row)}
    copies = _copies(len(new), spec.data)
    if spec.data.limit:
        decided = _limited(decided, spec.data.limit - len(new) * (copies - 1), spec.seed, new)
    return decided + [
        msgspec.structs.replace(row, id=f"{row.id}~{number}")
        for number in range(2, copies + 1)
        for row in decided
        if row.id in new
    ]


def _copies(new: int, data: DataSpec) -> int:
    """Return how often each of ``new`` rows is read: at most so often that half is left."""
    if not new or data.repeat_new == 1:
        return 1
    return max(1, min(data.repeat_new, data.limit // (2 * new))) if data.limit else data.repeat_new


def _read(path: Path) -> list[Sample]:
    found = read_samples(path)
    if not found.samples:
        raise DataError(
            f"{path} holds no usable row.",
            next_step=f"`so8t data check {path}` lists what is wrong with each row.",
        )
    return list(found.samples)


def _as_extra(sample: Sample) -> Sample:
    return msgspec.structs.replace(sample, split="train", id=f"extra-{sample.id}")


def _limited(samples: list[Sample], limit: int, seed: int, first: set[str]) -> list[Sample]:
    """Draw ``limit`` training rows; those whose id is in ``first`` come before the others."""
    import random

    train = [sample for sample in samples if sample.split == "train"]
    if len(train) <= limit:
        return samples
    preferred = [sample for sample in train if sample.id in first]
    others = [sample for sample in train if sample.id not in first]
    draw = random.Random(seed)
    chosen = draw.sample(preferred, min(limit, len(preferred)))
    chosen += draw.sample(others, limit - len(chosen))
    kept = {sample.id for sample in chosen}
    return [sample for sample in samples if sample.split != "train" or sample.id in kept]


def prepare_run(spec: TrainSpec, persona: Persona) -> RunStore:
    """Freeze specification, policy and data in a new run folder.

    Raises:
        So8tError: if the data or the disk do not allow it; no folder is then left behind.
    """
    start = find_start(spec, persona)
    samples = gather_samples(spec, persona, start)
    _require_space(persona.runs_dir)
    policy = spec.policy or persona.info.policy
    return RunStore.create(persona.runs_dir, spec, policy=policy, samples=samples, start=start)


def _require_space(folder: Path) -> None:
    existing = folder
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if free < MIN_FREE_BYTES:
        raise ResourceError(
            f"Only {free // 1024**2} MiB are free on the disk of this workspace.",
            why=f"A run needs at least {MIN_FREE_BYTES // 1024**2} MiB for its checkpoints.",
            next_step="Free some disk space, or move the workspace.",
        )


def extend(run: RunStore, epochs: float) -> TrainSpec:
    """Let a run go on for more passes: its frozen specification gets them, the old one is kept.

    The schedule of the learning rates is stretched over the new length, so they rise again where
    they had decayed.

    Args:
        run: a run that ended and left a checkpoint.
        epochs: passes to add.

    Raises:
        WorkspaceError: if it still goes on, or has no checkpoint to go on from.
        SpecError: if the sum is out of range.
    """
    if run.state().state in ACTIVE_STATES:
        raise WorkspaceError(
            f"Run {run.id} is still going on.", next_step="Stop it first, or wait for its end."
        )
    if not run.checkpoints():
        raise WorkspaceError(
            f"Run {run.id} has no checkpoint to go on from.",
            next_step="Start a new run with the same settings.",
        )
    if not run.keeps_progress():
        raise WorkspaceError(
            f"Run {run.id} holds learned weights, but not the optimizer's state to go on with.",
            next_step=f"Begin a new run with its weights: --set start_from={run.id}.",
        )
    spec = run.spec()
    passed = spec.optim.epochs
    if spec.optim.max_steps:  # it ended by a limit of steps; from now on passes count
        passed = min(passed, _passes(run, spec))
    wanted = passed + epochs
    if not (epochs > 0 and wanted <= 1000):
        raise SpecError(
            f"A run cannot go on for {epochs:g} passes after {passed:g}.",
            next_step="Add more than 0 passes, up to 1000 in all.",
        )
    optim = msgspec.structs.replace(spec.optim, epochs=wanted, max_steps=0)
    longer = msgspec.structs.replace(spec, optim=optim)
    number = len(list(run.root.glob("spec-before-*.json"))) + 1
    write_bytes(run.root / f"spec-before-{number}.json", encode_spec(spec))
    write_bytes(run.spec_path, encode_spec(longer))
    return longer


def _passes(run: RunStore, spec: TrainSpec) -> float:
    """Return how many passes a run took until its last reported step."""
    rows = sum(sample.split == "train" for sample in run.samples())
    per_pass = math.ceil(math.ceil(rows / spec.optim.batch_size) / spec.optim.accumulation)
    return run.state().step / max(1, per_pass)


def run(
    spec: TrainSpec,
    persona: Persona,
    *,
    events: bool,
    resume: RunStore | None = None,
    sinks: Sequence[Sink] = (),
    control: Control | None = None,
) -> tuple[int, RunStore | None]:
    """Train in this process.

    Args:
        spec: what to train; ignored with ``resume``, whose frozen specification counts.
        persona: whose data and policy are used.
        events: speak the event protocol on fd 1 and stdin.
        resume: continue this run from its last intact checkpoint.
        sinks: more receivers of events, such as a progress bar.
        control: asks for stop or pause from within this process.

    Returns:
        The exit code and the run (None if none could be made).
    """
    box: list[RunStore] = [resume] if resume is not None else []
    closers: list[Any] = []
    all_sinks = list(sinks)

    def body(job: Job) -> str:
        store = _shared_run(box, spec, persona, resume)
        main = _rank() == 0
        job.emitter.job = store.id
        if main:
            stream = store.events_path.open("ab")
            closers.append(stream)
            job.emitter.sinks.append(LineSink(stream))
            closers.append(CommandFile(store.commands_path, job.control))
            job.control.on_orphaned = lambda: job.emitter.log(
                "The window that started this run is gone; it goes on in the background."
            )
        return _train(job, store, persona, resume=resume is not None, main=main)

    try:
        code = run_job(
            resume.id if resume else "train",
            body,
            events=events and _rank() == 0,
            sinks=all_sinks,
            control=control,
            log_file=None,
        )
    finally:
        for item in closers:
            with contextlib.suppress(OSError):  # a full disk was reported when it was met
                item.close()
    return code, box[0] if box else None


def dry_run(spec: TrainSpec, persona: Persona, *, events: bool, sinks: Sequence[Sink] = ()) -> int:
    """Measure what a run would need, in this process; nothing of it is kept.

    Emits ``Result(name="dry_run")`` with the fields of ``TrainingSession.dry_run``.

    Returns:
        The exit code.
    """

    def body(job: Job) -> str:
        from so8t_engine.training.out_of_memory import human
        from so8t_engine.training.session import TrainingSession

        samples = gather_samples(spec, persona, find_start(spec, persona))
        with tempfile.TemporaryDirectory(prefix="so8t-dry-run-") as folder:
            store = RunStore.create(Path(folder), spec, policy=spec.policy or persona.info.policy)
            store.save_samples(samples)
            state = RunState(state="starting")
            found = TrainingSession(job, store, state, point=persona.info.point).dry_run()
        job.emitter.emit(Result(name="dry_run", data=found))
        return (
            f"One step with the longest sample ({found['tokens']} tokens) peaks at"
            f" {human(found['peak'])}; the estimate was {human(found['estimated'])}."
        )

    return run_job("dry run", body, events=events, sinks=list(sinks))


def _train(job: Job, store: RunStore, persona: Persona, *, resume: bool, main: bool) -> str:
    before = store.state()
    if resume and before.state in ACTIVE_STATES:
        raise WorkspaceError(
            f"Run {store.id} is still going on in process {before.pid}.",
            next_step="Stop it first, or wait for its end.",
        )
    pid = os.getpid()
    state = RunState(
        state="starting",
        pid=pid,
        pid_started=process_start(pid),
        started=before.started or time.time(),
        step=before.step,  # of a resumed run, until it reports the next one
        best_step=before.best_step,
        metrics=before.metrics,
        best_metrics=before.best_metrics,
    )
    if main:
        store.save_state(state)
    try:
        from so8t_engine.training.session import TrainingSession

        session = TrainingSession(job, store, state, point=persona.info.point, main=main)
        message = session.execute(resume=resume)
    except BaseException as error:
        state.state, state.message, state.ended = "failed", str(error), time.time()
        if main:
            with contextlib.suppress(OSError):  # on a full disk; the run then reads as crashed
                store.save_state(state)
        raise
    state.state = "cancelled" if job.control.stop_requested else "done"
    state.message, state.ended = message, time.time()
    if main:
        store.save_state(state)
    return message


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


def _shared_run(
    box: list[RunStore], spec: TrainSpec, persona: Persona, resume: RunStore | None
) -> RunStore:
    """Make the run folder; under several processes the first makes it and tells the others."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        if resume is None:
            box.append(prepare_run(spec, persona))
        return box[0]
    import torch.distributed as dist
    from accelerate import PartialState

    PartialState(cpu=spec.device == "cpu")
    told: list[Any] = [None]
    if _rank() == 0:
        try:
            made = resume or prepare_run(spec, persona)
            told = [(str(made.root), None)]
        except Exception as error:  # noqa: BLE001 - handed on to every process, then raised
            told = [(None, error)]
    dist.broadcast_object_list(told, src=0)
    root, failure = told[0]
    if failure is not None:
        raise failure
    box[:] = [RunStore(Path(root))]
    return box[0]
