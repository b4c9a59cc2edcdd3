"""From batches of events to columns that charts take (Qt-free)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from so8t_engine.events import (
    AnyEvent,
    Checkpoint,
    Error,
    Log,
    Metric,
    Progress,
    Result,
    Rotation,
    number_from_wire,
)

Column = tuple[list[float], list[float]]


@dataclass
class Digest:
    """What one batch (or a whole recorded run) brings.

    Attributes:
        columns: ``(split, metric name)`` to steps and values; a gap is NaN.
        bands: the same for intervals: steps, low ends, high ends.
        logs: in order.
        marks: checkpoints.
        progress: the last one, None if there was none.
        validation: values of the last evaluation on the validation split.
        epochs: first step of a pass to its number, from the second on.
        cases: verdicts of the watched cases, one entry an evaluation.
        last: time and number of the last event.
    """

    columns: dict[tuple[str, str], Column] = field(default_factory=dict)
    bands: dict[tuple[str, str], tuple[list[float], list[float], list[float]]] = field(
        default_factory=dict
    )
    logs: list[Log] = field(default_factory=list)
    marks: list[Checkpoint] = field(default_factory=list)
    progress: Progress | None = None
    validation: dict[str, float | None] = field(default_factory=dict)
    last_step: int = 0
    last_epoch: float = 0.0
    epochs: dict[int, int] = field(default_factory=dict)
    cases: list[dict[str, Any]] = field(default_factory=list)
    last: tuple[float, int] = (0.0, -1)


def _number(value: float | str | None) -> float:
    try:
        known = number_from_wire(value)
    except ValueError:
        return math.nan
    return math.nan if known is None else known


def newer(events: Iterable[AnyEvent], last: tuple[float, int]) -> list[AnyEvent]:
    """Return the events that a history ending with ``last`` does not hold yet.

    Numbers begin anew with each process and times may jump, so both must say that one is older.
    """
    return [event for event in events if event.t > last[0] or event.seq > last[1]]


def digest(events: Iterable[AnyEvent], last_epoch: float = 0.0) -> Digest:
    """Sort events into columns, one pass, no drawing.

    ``last_epoch`` is where the batch before ended, so that the begin of a pass is noticed.
    """
    out = Digest(last_epoch=last_epoch)
    columns: dict[tuple[str, str], Column] = defaultdict(lambda: ([], []))
    bands: dict[tuple[str, str], tuple[list[float], list[float], list[float]]] = defaultdict(
        lambda: ([], [], [])
    )
    for event in events:
        out.last = (event.t, event.seq)
        if isinstance(event, Metric):
            out.last_step = event.step
            _take_metric(event, columns, bands, out)
        elif isinstance(event, Rotation):
            values = {
                "mean_angle_safe": event.mean_angle_safe,
                "mean_angle_cmd": event.mean_angle_cmd,
                "max_orthogonality_error": event.max_orthogonality_error,
                "max_determinant_error": event.max_determinant_error,
            }
            for name, value in values.items():
                _append(columns["rotation", name], event.step, value)
        elif isinstance(event, Log):
            out.logs.append(event)
        elif isinstance(event, Error):
            text = " ".join(filter(None, (event.what, event.why, event.next_step)))
            out.logs.append(Log(level="error", message=text, t=event.t))
        elif isinstance(event, Checkpoint):
            out.marks.append(event)
        elif isinstance(event, Progress):
            out.progress = event
        elif isinstance(event, Result):
            _take_result(event, out)
    out.columns, out.bands = dict(columns), dict(bands)
    return out


def _append(column: Column, step: float, value: float) -> None:
    """Add a point; a resumed run repeats the steps since its checkpoint, which then count anew."""
    steps, numbers = column
    while steps and steps[-1] >= step:
        steps.pop()
        numbers.pop()
    steps.append(step)
    numbers.append(value)


def _take_result(event: Result, out: Digest) -> None:
    if event.name == "cases":
        step = int(event.data.get("step", 0))
        out.cases = [entry for entry in out.cases if entry["step"] < step]
        out.cases.append({"step": step, "cases": event.data.get("cases", [])})


def _take_metric(
    event: Metric,
    columns: dict[tuple[str, str], Column],
    bands: dict[tuple[str, str], tuple[list[float], list[float], list[float]]],
    out: Digest,
) -> None:
    split = event.split
    for name, value in event.values.items():
        if name.endswith(("_low", "_high")):
            continue
        _append(columns[split, name], event.step, _number(value))
        low, high = event.values.get(f"{name}_low"), event.values.get(f"{name}_high")
        if low is not None and high is not None:
            band = bands[split, name]
            while band[0] and band[0][-1] >= event.step:
                for edge in band:
                    edge.pop()
            band[0].append(event.step)
            band[1].append(_number(low))
            band[2].append(_number(high))
    if split == "train":
        if out.last_epoch and math.ceil(event.epoch) > math.ceil(out.last_epoch):
            out.epochs[event.step] = math.ceil(event.epoch)
        out.last_epoch = event.epoch
    if split == "validation":
        out.validation = {
            name: None if value is None else _number(value) for name, value in event.values.items()
        }
