"""The way out when memory does not suffice: what was asked, what was free, what would fit."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import torch

from so8t_engine.errors import ResourceError
from so8t_engine.events import Result
from so8t_engine.model.families import adapted_layers
from so8t_engine.model.loading import LoadedBase
from so8t_engine.specs import TrainSpec
from so8t_engine.training.data import EncodedSample
from so8t_engine.training.memory import MemoryEstimate, Workload, estimate, workload


@dataclass(frozen=True)
class Suggestion:
    """A change of the specification that would fit.

    Attributes:
        text: what it does, for the user.
        changes: dotted field names and new values.
        total: estimated bytes afterwards.
    """

    text: str
    changes: dict[str, Any]
    total: int


_ASKED = re.compile(r"[Tt]ried to allocate ([\d.]+) ?(bytes|KiB|MiB|GiB)")
_FREE = re.compile(r"([\d.]+) ?(bytes|KiB|MiB|GiB) is free")
_UNITS = {"bytes": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that memory did not suffice, on the GPU or the CPU."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def asked_and_free(error: BaseException) -> tuple[int | None, int | None]:
    """Return how many bytes were asked for and how many were free, where the error says so."""

    def read(pattern: re.Pattern[str]) -> int | None:
        found = pattern.search(str(error).replace("you tried", "Tried"))
        return round(float(found[1]) * _UNITS[found[2]]) if found else None

    return read(_ASKED), read(_FREE)


def capacity(device: str) -> int:
    """Return how many bytes a run may use: 92 % of the GPU, or what the host can give."""
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[1] * 0.92)
    import psutil

    own = psutil.Process().memory_info().rss
    return int(psutil.virtual_memory().available + own)


def human(size: int) -> str:
    """Return a size in MiB or GiB."""
    return f"{size / 1024**3:.1f} GiB" if size >= 1024**3 else f"{size / 1024**2:.0f} MiB"


def apply_changes(spec: TrainSpec, changes: dict[str, Any]) -> TrainSpec:
    """Return ``spec`` with dotted fields such as ``optim.batch_size`` replaced."""
    for name, value in changes.items():
        group, _, key = name.partition(".")
        inner = msgspec.structs.replace(getattr(spec, group), **{key: value})
        spec = msgspec.structs.replace(spec, **{group: inner})
    return spec


def suggestions(
    spec: TrainSpec,
    config: Any,
    work: Workload,
    *,
    device: str,
    width: int,
    quantization: str,
    limit: int,
    count: int = 2,
) -> list[Suggestion]:
    """Return changes of the specification whose estimate stays below ``limit`` bytes.

    The mildest come first: those that change how a step is computed, then those that change what
    is learned. The last resort is everything at once; it is offered even if it may not fit.
    """
    found: list[Suggestion] = []
    last: Suggestion | None = None
    for text, changes in _candidates(spec, work, config):
        changed = apply_changes(spec, changes)
        smaller = _workload(work, changed)
        total = estimate(
            changed, config, smaller, device=device, width=width, quantization=quantization
        ).total
        last = Suggestion(text, changes, total)
        if total <= limit and len(found) < count:
            found.append(last)
    return found or ([last] if last is not None else [])


def _workload(work: Workload, spec: TrainSpec) -> Workload:
    room = max(8, spec.data.max_tokens - work.head)
    return replace(
        work,
        rows=min(work.rows, spec.optim.batch_size),
        longest=min(work.longest, room + work.reply),
        reply=work.reply if spec.loss.w_task else 0,
    )


def _candidates(
    spec: TrainSpec, work: Workload, config: Any
) -> Iterator[tuple[str, dict[str, Any]]]:
    batch, accumulation = spec.optim.batch_size, spec.optim.accumulation
    smaller = batch
    everything: dict[str, Any] = {}
    while smaller > 1:
        smaller //= 2
        factor = math.ceil(batch / smaller)
        everything |= {
            "optim.batch_size": smaller,
            "optim.accumulation": accumulation * factor,
        }
        yield (
            f"{smaller} samples a pass, {accumulation * factor} passes a step (same result)",
            dict(everything),
        )
    if spec.model.gradient_checkpointing != "on":
        everything["model.gradient_checkpointing"] = "on"
        yield (
            "recompute activations (same result, about a third slower)",
            {"model.gradient_checkpointing": "on"},
        )
    layers = len(adapted_layers(spec.model.adapt_layers, config.num_hidden_layers))
    fewer = layers // 2
    while fewer >= 1:
        everything["model.adapt_layers"] = fewer
        yield f"adapt the top {fewer} layers only", {"model.adapt_layers": fewer}
        fewer //= 2
    shorter = max(64, work.head + 32, spec.data.max_tokens // 2)
    if shorter < spec.data.max_tokens:
        everything["data.max_tokens"] = shorter
        yield f"read {shorter} tokens of a request at most", {"data.max_tokens": shorter}
    if everything:
        yield "all of these together", everything


class MemoryWatch:
    """Knows the shapes of a run, so that running out of memory ends with an offer."""

    def __init__(self, spec: TrainSpec) -> None:
        self.spec = spec
        self._config: Any = None
        self._work: Workload | None = None
        self._held: dict[str, Any] = {}

    def note(self, base: LoadedBase, rows: Sequence[EncodedSample], head: int) -> None:
        """Remember the base and the largest forward pass."""
        self._config = base.model.config
        self._work = workload(self.spec, [(len(row.ids), row.prompt) for row in rows], head)
        self._held = {
            "device": base.device.type,
            "width": base.dtype.itemsize,
            "quantization": base.quantization,
        }

    def estimate(self) -> MemoryEstimate:
        """Return the estimate of the noted run."""
        assert self._work is not None
        return estimate(self.spec, self._config, self._work, **self._held)

    def explain(self, error: BaseException) -> tuple[ResourceError, Result | None]:
        """Return what to raise, and the event with the settings that would fit.

        The event is ``Result(name="out_of_memory")`` with ``asked``, ``free``, ``estimated`` in
        bytes (or None) and ``suggestions``: ``text``, ``changes`` (dotted fields), ``estimated``.
        """
        asked, free = asked_and_free(error)
        what = "Out of memory"
        if asked is not None:
            what += f": {human(asked)} were asked for"
            what += f" and {human(free)} were free" if free is not None else ""
        if self._work is None:
            next_step = "Use NF4 quantisation, a smaller base model, or another device."
            return ResourceError(
                f"{what}, while the base model was loaded.", next_step=next_step
            ), None
        now = self.estimate().total
        limit = min(capacity(self._held["device"]), int(0.9 * now))
        offered = suggestions(self.spec, self._config, self._work, limit=limit, **self._held)
        data = {
            "asked": asked,
            "free": free,
            "estimated": now,
            "suggestions": [
                {"text": one.text, "changes": one.changes, "estimated": one.total}
                for one in offered
            ],
        }
        failure = ResourceError(
            f"{what}.",
            why=f"A step of this run needs about {human(now)}.",
            next_step=f"This would fit: {'; or '.join(one.text for one in offered)}.",
        )
        return failure, Result(name="out_of_memory", data=data)
