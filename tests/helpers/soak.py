"""Three days of telemetry and a million metric points through the real window."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import psutil
from PySide6.QtCore import QCoreApplication

from so8t_engine.events import (
    AnyEvent,
    GpuReading,
    Log,
    Metric,
    Progress,
    Telemetry,
    decode_event,
    encode_event,
)
from so8t_studio.pages.train.live_panel import LivePanel

DAYS_S = 3 * 24 * 3600
POINTS = 1_000_000
NAMES = ("loss", "verdict_loss", "danger_loss", "pet", "lr_lora", "lr_gates", "lr_head",
         "grad_norm", "samples_per_s", "pet_weight")  # fmt: skip
STEPS = POINTS // len(NAMES)
GIB = 1 << 30


@dataclass
class Soaked:
    """What was measured.

    Attributes:
        memory: resident bytes of the process at the end.
        frames: milliseconds of the window's thread for all visible charts that changed.
    """

    memory: int = 0
    frames: list[float] = field(default_factory=list)


def metric(step: int) -> Metric:
    """Return a training step with ten figures."""
    values = {name: math.exp(-step / 4e4) + 0.01 * math.sin(step + number)
              for number, name in enumerate(NAMES)}  # fmt: skip
    return Metric(step=step, epoch=step / 1000, split="train", values=dict(values))


def reading(second: int) -> Telemetry:
    """Return the machine at a second, with one GPU."""
    gpu = GpuReading(
        index=0, name="RTX 3060", utilization=50 + 40 * math.sin(second / 60),
        memory_used=5 * GIB, memory_total=12 * GIB, temperature=70.0, power=150.0,
    )  # fmt: skip
    return Telemetry(
        mono=float(second), cpu=30 + 20 * math.sin(second), ram_used=6 * GIB, ram_total=32 * GIB,
        gpus=(gpu,), job_pid=1, job_rss=GIB, job_cpu=40.0,
    )  # fmt: skip


def batches(size: int = 500) -> Iterator[tuple[AnyEvent, ...]]:
    """Yield the events of all steps as the worker hands them over, decoded from their lines."""
    batch: list[AnyEvent] = []
    for step in range(1, STEPS + 1):
        event = decode_event(encode_event(metric(step)))
        assert event is not None
        batch.append(event)
        if step % 100 == 0:
            batch.append(Log(level="info", message=f"Step {step} of {STEPS}."))
            batch.append(Progress(phase="training", done=step, total=STEPS))
        if len(batch) >= size:
            yield tuple(batch)
            batch = []
    if batch:
        yield tuple(batch)


def soak(panel: LivePanel, *, frames: int = 60) -> Soaked:
    """Feed everything, drawing as the window does, then time further frames with all of it."""
    per_batch = max(1, DAYS_S * 500 // STEPS)
    second = 0
    panel.set_total_steps(STEPS)
    for batch in batches():
        panel.take_digest(panel.digest(batch))
        for _ in range(min(per_batch, DAYS_S - second)):
            panel.show_reading(reading(second))
            second += 1
        QCoreApplication.processEvents()
    while second < DAYS_S:
        panel.show_reading(reading(second))
        second += 1
    found = Soaked()
    visible = [plot for plot in [*panel.charts, panel.machine.use, panel.machine.memory]
               if not plot.visibleRegion().isEmpty()]  # fmt: skip
    assert visible, "no chart is in sight"
    for number in range(frames):
        panel.take_digest(panel.digest([metric(STEPS + 1 + number)]))
        panel.show_reading(reading(second + number))
        began = time.thread_time()
        for plot in visible:
            if plot._dirty:  # as the window does: what did not change is not drawn
                plot.redraw()
                plot._widget.viewport().repaint()
        found.frames.append(1000 * (time.thread_time() - began))
    found.memory = psutil.Process().memory_info().rss
    return found
