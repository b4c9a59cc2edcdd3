"""The protocol between a job and whoever watches it: JSON Lines, UTF-8, versioned (torch-free).

A job process writes events on its original fd 1 (or only into ``events.jsonl``) and reads commands
on stdin: ``{"cmd": "stop"}``, ``{"cmd": "pause"}``, ``{"cmd": "resume"}``. Whoever reads ignores
unknown types and counts lines that are not events.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
from msgspec import Struct, field

EVENT_VERSION = 1
Number = float | str | None


class Event(Struct, frozen=True, kw_only=True, tag_field="type", omit_defaults=False):
    """Envelope of every event.

    Attributes:
        v: version of the protocol.
        seq: number of the event within its job process, from 0.
        t: seconds since the epoch (UTC) when it was emitted.
        job: session id of the run, or the name of the job.
    """

    v: int = EVENT_VERSION
    seq: int = 0
    t: float = 0.0
    job: str = ""


class Hello(Event, frozen=True, kw_only=True, tag="hello"):
    """First event of a process: what it is and where it writes."""

    kind: str
    pid: int
    run_dir: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    device: str = ""


class Progress(Event, frozen=True, kw_only=True, tag="progress"):
    """Position within a phase, e.g. ``loading``, ``caching``, ``training``, ``evaluating``."""

    phase: str
    done: float
    total: float
    unit: str = "steps"
    eta_s: float | None = None
    message: str = ""


class Metric(Event, frozen=True, kw_only=True, tag="metric"):
    """Numbers at an optimizer step. ``split`` is ``train``, ``validation`` or a dataset's name.

    Values that are not finite travel as the strings ``NaN``, ``Infinity``, ``-Infinity``; a metric
    with an empty denominator is ``None``.
    """

    step: int
    epoch: float
    split: str
    values: dict[str, Number]


class Rotation(Event, frozen=True, kw_only=True, tag="rotation"):
    """A recording of all generators was written to ``file`` (relative to the run folder)."""

    step: int
    file: str
    max_orthogonality_error: float
    max_determinant_error: float
    mean_angle_safe: float
    mean_angle_cmd: float


class Log(Event, frozen=True, kw_only=True, tag="log"):
    """A line for the log; ``level`` is ``debug``, ``info``, ``warning`` or ``error``."""

    level: str
    message: str


class Checkpoint(Event, frozen=True, kw_only=True, tag="checkpoint"):
    """A complete checkpoint exists; ``reason``: ``periodic``, ``best``, ``last``, ``emergency``."""

    step: int
    path: str
    reason: str


class Token(Event, frozen=True, kw_only=True, tag="token"):
    """A piece of streamed text that answers request ``request_id`` by model ``arm``."""

    request_id: str
    arm: str
    text: str


class Result(Event, frozen=True, kw_only=True, tag="result"):
    """An answer: ``name`` says which (``evaluation``, ``decision``, ``reply``, ``train`` …)."""

    name: str
    data: dict[str, Any]
    request_id: str = ""


class Error(Event, frozen=True, kw_only=True, tag="error"):
    """What failed, why, and what to do next; ``details`` is for a bug report."""

    what: str
    why: str = ""
    next_step: str = ""
    details: str = ""
    kind: str = ""
    request_id: str = ""


class Bye(Event, frozen=True, kw_only=True, tag="bye"):
    """Last event of a process; ``state`` is ``done``, ``cancelled`` or ``failed``."""

    state: str
    message: str = ""


class GpuHolder(Struct, frozen=True, kw_only=True):
    """A process that holds memory of a GPU; ``memory`` in bytes, None where the driver is silent.

    ``name`` is empty where the process belongs to somebody else or to another container.
    """

    pid: int
    name: str = ""
    memory: int | None = None


class GpuReading(Struct, frozen=True, kw_only=True):
    """One GPU at one moment; a field is None where the driver does not answer.

    Units: utilisation in %, memory in bytes, temperature in degrees Celsius, power in watts,
    clocks in MHz, fan in %. ``temperature_slowdown`` is where the card slows itself down;
    ``holders`` are the processes that hold its memory, the largest first.
    """

    index: int
    name: str | None = None
    uuid: str | None = None
    utilization: float | None = None
    memory_used: int | None = None
    memory_total: int | None = None
    temperature: float | None = None
    temperature_slowdown: float | None = None
    power: float | None = None
    power_limit: float | None = None
    clock_sm: int | None = None
    clock_memory: int | None = None
    throttle: str | None = None
    fan: float | None = None
    job_memory: int | None = None
    holders: tuple[GpuHolder, ...] = ()


class Telemetry(Event, frozen=True, kw_only=True, tag="telemetry"):
    """The machine at one moment; ``mono`` is a monotonic clock in seconds.

    Memory in bytes, CPU in % of the whole machine; ``job_*`` describe the watched process tree.
    """

    mono: float
    cpu: float
    ram_used: int
    ram_total: int
    disk_free: int | None = None
    gpus: tuple[GpuReading, ...] = ()
    gpu_note: str = ""
    job_pid: int | None = None
    job_cpu: float | None = None
    job_rss: int | None = None


AnyEvent = (
    Hello
    | Progress
    | Metric
    | Rotation
    | Log
    | Checkpoint
    | Token
    | Result
    | Error
    | Bye
    | Telemetry
)

EVENT_TYPES: frozenset[str] = frozenset(
    (
        "hello",
        "progress",
        "metric",
        "rotation",
        "log",
        "checkpoint",
        "token",
        "result",
        "error",
        "bye",
        "telemetry",
    )
)
TERMINAL_TYPES: frozenset[str] = frozenset(("error", "bye"))

_decoder: msgspec.json.Decoder[AnyEvent] = msgspec.json.Decoder(AnyEvent)
_type_decoder = msgspec.json.Decoder(dict[str, Any])
_encoder = msgspec.json.Encoder()


def number_to_wire(value: float | int | None) -> Number:
    """Return ``value`` as JSON can carry it: non-finite floats become strings."""
    if value is None:
        return None
    number = float(value)
    if math.isnan(number):
        return "NaN"
    if math.isinf(number):
        return "Infinity" if number > 0 else "-Infinity"
    return number


def number_from_wire(value: Number) -> float | None:
    """Undo :func:`number_to_wire`; None stays None."""
    return None if value is None else float(value)


def encode_event(event: Event) -> bytes:
    """Return one line of JSON, newline included."""
    return _encoder.encode(event) + b"\n"


def decode_event(line: bytes) -> AnyEvent | None:
    """Read one line; None for an event of a type that this version does not know.

    Raises:
        ValueError: if the line is not an event at all.
    """
    try:
        return _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        try:
            raw = _type_decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise ValueError(f"not an event: {error}") from error
        if isinstance(raw.get("type"), str) and "v" in raw and raw["type"] not in EVENT_TYPES:
            return None
        raise ValueError(f"not an event: {error}") from error
