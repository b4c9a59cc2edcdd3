"""What is looked at before a run starts, each with a sentence (Qt-free, torch-free)."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from so8t_engine.errors import So8tError
from so8t_engine.events import Telemetry
from so8t_engine.labels import LABELS
from so8t_engine.model.base_cache import resolve_base
from so8t_engine.samples.duplicates import comparison_key, exact_groups
from so8t_engine.samples.schema import Sample
from so8t_engine.specs import TrainSpec

GIB = 1 << 30
FEW_ROWS = 20
NEEDED_DISK = GIB // 2
# Rows a second on two CPU cores with the default base model (SmolLM2-135M, bf16).
ROWS_PER_S_TOP = 16.0
ROWS_PER_S_ALL = 4.0


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
                                f"({folder.name}).")]  # fmt: skip


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


def device_check(
    samples: Sequence[Sample], spec: TrainSpec, reading: Telemetry | None
) -> list[Check]:
    """Say where it trains and about how long that takes."""
    gpus = reading.gpus if reading is not None else ()
    rows = len(samples) * (1 - spec.data.validation_fraction) * spec.optim.epochs
    if spec.data.limit:
        rows = min(rows, spec.data.limit * spec.optim.epochs)
    if gpus and spec.device != "cpu":
        gpu = gpus[0]
        free = ""
        if gpu.memory_total is not None and gpu.memory_used is not None:
            left = (gpu.memory_total - gpu.memory_used) / GIB
            free = f" with {left:.1f} GiB of {gpu.memory_total / GIB:.0f} GiB free"
        return [Check("device", "ok", f"Trains on {gpu.name or 'GPU 0'}{free}.")]
    if spec.device == "cuda":
        return [Check("device", "error", "The settings ask for a GPU and there is none.",
                      "Set the device to auto.")]  # fmt: skip
    speed = ROWS_PER_S_ALL if spec.model.adapt_layers == "all" else ROWS_PER_S_TOP
    minutes = max(1, round(rows / speed / 60))
    text = f"Trains on the CPU. With the default base model that takes about {minutes} min"
    return [Check("device", "info", f"{text} on two cores.")]


def run_checks(
    samples: Sequence[Sample],
    spec: TrainSpec,
    *,
    base: str,
    folder: Path,
    reading: Telemetry | None,
    read_only: bool = False,
) -> list[Check]:
    """Return all findings in the order in which they are shown.

    Args:
        samples: the rows that would be trained on.
        spec: the settings.
        base: reference of the base model.
        folder: where runs are written.
        reading: the machine now, if it is known.
        read_only: True if another window holds the workspace.
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
    found += base_check(base)
    found += disk_check(folder)
    found += device_check(samples, spec, reading)
    return found
