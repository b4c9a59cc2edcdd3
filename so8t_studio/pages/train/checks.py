"""What is looked at before a run starts, each with a sentence (Qt-free, torch-free)."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from so8t_engine.errors import So8tError
from so8t_engine.events import GpuReading, Hello, Telemetry
from so8t_engine.jobs.starting import STARTER_WEIGHTS, locate_start
from so8t_engine.labels import LABELS
from so8t_engine.model.base_cache import resolve_base
from so8t_engine.samples.duplicates import comparison_key, exact_groups
from so8t_engine.samples.schema import Sample
from so8t_engine.specs import TrainSpec
from so8t_engine.workspace.personas import Persona
from so8t_engine.workspace.runs import RunStore
from so8t_studio.pages.train.memory_plan import MemoryPlan, training_gpu

GIB = 1 << 30
FEW_ROWS = 20
NEEDED_DISK = GIB // 2
# Rows a second on two CPU cores with the default base model (SmolLM2-135M, bf16).
ROWS_PER_S_TOP = 16.0
ROWS_PER_S_ALL = 4.0


@dataclass(frozen=True)
class Pace:
    """How fast an earlier run was, everything from start to end counted.

    Attributes:
        run: its session id.
        rows_per_s: rows trained a second.
        on_gpu: where it trained.
    """

    run: str
    rows_per_s: float
    on_gpu: bool


@dataclass(frozen=True)
class Check:
    """One finding. ``level`` is ``ok``, ``info``, ``warning`` or ``error``; errors block."""

    key: str
    level: str
    sentence: str
    next_step: str = ""


def rows_check(samples: Sequence[Sample]) -> list[Check]:
    """Count the rows per label; every label is needed."""
    counts = Counter(sample.label for sample in samples)
    if not samples:
        return [Check("rows", "error", "The dataset has no rows.",
                      "Add or import examples on the Dataset page.")]  # fmt: skip
    parts = ", ".join(f"{counts.get(label, 0)} {label.value}" for label in LABELS)
    missing = [label.value for label in LABELS if not counts.get(label)]
    if missing:
        return [Check("rows", "error", f"No row is labelled {' or '.join(missing)} ({parts}).",
                      "Add examples of every label on the Dataset page.")]  # fmt: skip
    few = [label.value for label in LABELS if counts[label] < FEW_ROWS]
    if few:
        return [Check("rows", "warning",
                      f"{len(samples)} rows: {parts}. Few are {', '.join(few)}.",
                      f"About {FEW_ROWS} rows a label are the least to learn from.")]  # fmt: skip
    return [Check("rows", "ok", f"{len(samples)} rows: {parts}.")]


def split_check(samples: Sequence[Sample], spec: TrainSpec) -> list[Check]:
    """Say what is trained on and what is measured on."""
    counts = Counter(sample.split for sample in samples)
    free, held = counts.get("", 0), counts.get("validation", 0)
    trained = {sample.label for sample in samples if sample.split in ("train", "")}
    absent = [label.value for label in LABELS if label not in trained]
    if trained and absent:
        return [Check("split", "error",
                      f"No row labelled {' or '.join(absent)} belongs to the training split.",
                      "Give such rows the split train, or none.")]  # fmt: skip
    if not counts.get("train") and not free:
        return [Check("split", "error", "No row belongs to the training split.",
                      "Set the split of some rows to train, or leave it empty.")]  # fmt: skip
    if not free:
        if not held:
            return [Check("split", "error", "No row belongs to the validation split.",
                          "Set some rows to validation, or leave splits empty.")]  # fmt: skip
        return [Check("split", "ok",
                      f"Splits are set: {counts['train']} train, {held} validation.")]  # fmt: skip
    share = spec.data.validation_fraction
    return [Check("split", "ok",
                  f"{share:.0%} of the {free} rows without a split are held out for validation; "
                  "near-duplicates stay together.")]  # fmt: skip


def conflict_check(samples: Sequence[Sample]) -> list[Check]:
    """Find the same request with different labels."""
    groups = [
        group
        for group in exact_groups(samples)
        if len({samples[index].label for index in group}) > 1
    ]
    if not groups:
        return []
    conflicts, first = len(groups), samples[groups[0][0]]
    return [Check("conflicts", "warning",
                  f"{conflicts} requests appear with different labels, for example "
                  f"“{comparison_key(first)[:60]}”.",
                  "Resolve the label conflicts on the Dataset page.")]  # fmt: skip


def start_check(spec: TrainSpec, persona: Persona) -> list[Check]:
    """Say which learned weights the run begins with."""
    if not spec.start_from:
        return []
    try:
        folder = locate_start(spec, persona)
    except So8tError as error:
        return [Check("start", "error", " ".join(filter(None, (error.what, error.why))),
                      error.next_step)]  # fmt: skip
    if folder is None:
        return [Check("start", "warning", "The weights that ship fit the default base model only, "
                                          "so this run begins with nothing learned.",
                      "Choose Balanced: the few rows and small rates of Quick trial are meant for "
                      "weights that know the task.")]  # fmt: skip
    name = "that ship with the studio" if spec.start_from == STARTER_WEIGHTS else (
        f"of {spec.start_from}"
    )  # fmt: skip
    return [
        Check(
            "start",
            "ok",
            f"Begins with the learned weights {name}. New rows come first; "
            "rows they know fill the rest and are never measured on.",
        )
    ]


def task_check(samples: Sequence[Sample], spec: TrainSpec) -> list[Check]:
    """Say what happens to R_cmd."""
    if spec.loss.w_task <= 0:
        return []
    target = spec.loss.task_target
    rows = sum(1 for sample in samples if getattr(sample, target))
    if rows:
        return [Check("task", "ok", f"{rows} rows have a {target} for the task loss.")]
    return [Check("task", "warning",
                  f"No row has a {target}, so the task loss has nothing to learn from and R_cmd "
                  "stays the identity.",
                  "Add the texts, or set the weight of the task loss to 0.")]  # fmt: skip


def base_check(reference: str) -> list[Check]:
    """Look whether the base model is complete on this machine."""
    try:
        folder = resolve_base(reference)
    except So8tError as error:
        return [Check("base", "error", " ".join(filter(None, (error.what, error.why))),
                      error.next_step)]  # fmt: skip
    return [Check("base", "ok", f"The base model “{reference}” is complete on this machine "
                                f"({folder.name}); no network is needed.")]  # fmt: skip


def disk_check(folder: Path) -> list[Check]:
    """Look whether checkpoints will fit."""
    existing = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    try:
        free = shutil.disk_usage(existing).free
    except OSError as error:
        return [Check("disk", "warning", f"The free disk space is unknown: {error.strerror}.")]
    text = f"{free / GIB:.1f} GiB are free for checkpoints."
    if free < NEEDED_DISK:
        return [Check("disk", "error", text, "Free at least half a GiB.")]
    return [Check("disk", "ok", text)]


def holders_words(gpu: GpuReading) -> str:
    """Say who holds memory of a card, as far as the driver tells; empty if nobody does."""
    parts = []
    for holder in gpu.holders:
        name = holder.name or "a process that cannot be named"
        size = "" if holder.memory is None else f", {holder.memory / GIB:.1f} GiB"
        parts.append(f"{name} (process {holder.pid}{size})")
    return "; ".join(parts)


def device_check(
    samples: Sequence[Sample],
    spec: TrainSpec,
    reading: Telemetry | None,
    pace: Pace | None = None,
) -> list[Check]:
    """Say where it trains, who else is there, and about how long it takes."""
    gpu = training_gpu(spec, reading)
    if gpu is None and spec.device == "cuda":
        return [Check("device", "error", "The settings ask for a GPU and there is none.",
                      "Set the device to auto.")]  # fmt: skip
    rows = len(samples) * (1 - spec.data.validation_fraction) * spec.optim.epochs
    if spec.data.limit:
        rows = min(rows, spec.data.limit * spec.optim.epochs)
    if spec.optim.max_steps:
        rows = min(rows, spec.optim.max_steps * spec.optim.batch_size * spec.optim.accumulation)
    if pace is not None and pace.on_gpu == (gpu is not None):
        time = f"about {_span(rows / pace.rows_per_s)}, as fast as run {pace.run}"
    elif gpu is None:
        speed = ROWS_PER_S_ALL if spec.model.adapt_layers == "all" else ROWS_PER_S_TOP
        time = f"with the default base model about {_span(rows / speed)} on two cores"
    else:
        time = "how long is known after the first run"
    if gpu is None:
        return [Check("device", "info", f"Trains on the CPU: {time}.")]
    free = ""
    if gpu.memory_total is not None and gpu.memory_used is not None:
        left = (gpu.memory_total - gpu.memory_used) / GIB
        free = f" with {left:.1f} GiB of {gpu.memory_total / GIB:.0f} GiB free"
    found = [Check("device", "ok", f"Trains on {gpu.name or 'GPU 0'}{free}: {time}.")]
    who = holders_words(gpu)
    if who:
        found.append(Check("holders", "info", f"Memory of this GPU is held by {who}."))
    return found


def _span(seconds: float) -> str:
    minutes = max(1, round(seconds / 60))
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def memory_check(plan: MemoryPlan | None) -> list[Check]:
    """Say whether the estimate fits into what is free; an estimate never blocks the start."""
    if plan is None or plan.problem:
        return []
    text = f"A step needs about {plan.needed / GIB:.1f} GiB"
    if plan.free is None or plan.total is None:
        return [Check("memory", "info", f"{text}; how much is free is not known.")]
    if plan.needed > plan.total:
        return [Check("memory", "warning",
                      f"{text}, and {plan.device} has {plan.total / GIB:.1f}.",
                      "Choose a preset for a smaller card, or make a dry run.")]  # fmt: skip
    if not plan.fits:
        return [Check("memory", "warning",
                      f"{text}, and {max(0, plan.free) / GIB:.1f} GiB are free.",
                      "Close what holds the rest, or measure with a dry run.")]  # fmt: skip
    return [Check("memory", "ok", f"{text}; {plan.free / GIB:.1f} GiB are free.")]


def last_pace(runs: Sequence[RunStore], spec: TrainSpec) -> Pace | None:
    """Return how fast the newest run with as many adapted layers was (reads few small files)."""
    for run in runs[:20]:
        try:
            state, own = run.state(), run.spec()
        except So8tError:
            continue
        seconds = state.ended - state.started
        if state.step < 5 or state.ended <= 0 or seconds <= 0:
            continue
        if not state.pid:  # it ships with the studio: another machine trained it
            continue
        if (own.model.adapt_layers, own.base_model) != (spec.model.adapt_layers, spec.base_model):
            continue
        rows = state.step * own.optim.batch_size * own.optim.accumulation
        return Pace(run.id, rows / seconds, _was_on_gpu(run))
    return None


def _was_on_gpu(run: RunStore) -> bool:
    hello = next((event for event in run.events() if isinstance(event, Hello)), None)
    return hello is not None and hello.device.startswith("cuda")


def run_checks(
    samples: Sequence[Sample],
    spec: TrainSpec,
    *,
    base: str,
    folder: Path,
    reading: Telemetry | None,
    read_only: bool = False,
    persona: Persona | None = None,
    plan: MemoryPlan | None = None,
    pace: Pace | None = None,
) -> list[Check]:
    """Return all findings in the order in which they are shown.

    Args:
        samples: the rows that would be trained on.
        spec: the settings.
        base: reference of the base model.
        folder: where runs are written.
        reading: the machine now, if it is known.
        read_only: True if another window holds the workspace.
        persona: whose runs the settings may name as a start.
        plan: what it would need, if that is known.
        pace: how fast an earlier run was.
    """
    found: list[Check] = []
    if read_only:
        found.append(
            Check("lock", "error", "Another window has this workspace open.",
                  "Start the run there, or close that window.")
        )  # fmt: skip
    found += rows_check(samples)
    if samples:
        found += split_check(samples, spec)
        found += conflict_check(samples)
        found += task_check(samples, spec)
    if persona is not None:
        found += start_check(spec, persona)
    found += base_check(base)
    found += disk_check(folder)
    found += device_check(samples, spec, reading, pace)
    found += memory_check(plan)
    return found
