"""From batches of events to columns that charts take (Qt-free)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from so8t_engine.events import (
    AnyEvent,
    Checkpoint,
    Error,
    Log,
    Metric,
    Progress,
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
        epochs: steps at which a new epoch began.
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


def _number(value: float | str | None) -> float:
    try:
        known = number_from_wire(value)
    except ValueError:
        return math.nan
    return math.nan if known is None else known


def digest(events: Iterable[AnyEvent]) -> Digest:
    """Sort events into columns, one pass, no drawing."""
    out = Digest()
    columns: dict[tuple[str, str], Column] = defaultdict(lambda: ([], []))
    bands: dict[tuple[str, str], tuple[list[float], list[float], list[float]]] = defaultdict(
        lambda: ([], [], [])
    )
    for event in events:
        if isinstance(event, Metric):
            out.last_step = event.step
            _take_metric(event, columns, bands, out)
        elif isinstance(event, Rotation):
            values = {
                "mean_angle_safe": event.mean_angle_safe,
                "mean_angle_cmd": event.mean_angle_cmd,
                "max_orthogonality_error": event.max_orthogonality_error,
            }
            for name, value in values.items():
                steps, numbers = columns["rotation", name]
                steps.append(event.step)
                numbers.append(value)
        elif isinstance(event, Log):
            out.logs.append(event)
        elif isinstance(event, Error):
            text = " ".join(filter(None, (event.what, event.why, event.next_step)))
            out.logs.append(Log(level="error", message=text, t=event.t))
        elif isinstance(event, Checkpoint):
            out.marks.append(event)
        elif isinstance(event, Progress):
            out.progress = event
    out.columns, out.bands = dict(columns), dict(bands)
    return out


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
        number = _number(value)
        steps, numbers = columns[split, name]
        if (
            steps and event.step <= steps[-1]
        ):  # a resumed run repeats the steps since its checkpoint
            while steps and steps[-1] >= event.step:
                steps.pop()
                numbers.pop()
        steps.append(event.step)
        numbers.append(number)
        low, high = event.values.get(f"{name}_low"), event.values.get(f"{name}_high")
        if low is not None and high is not None:
            band = bands[split, name]
            band[0].append(event.step)
            band[1].append(_number(low))
            band[2].append(_number(high))
    if split == "validation":
        out.validation = {
            name: None if value is None else _number(value) for name, value in event.values.items()
        }
