"""The same figures as the window's, in a terminal."""

from __future__ import annotations

import time

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from so8t_engine.events import GpuReading, Telemetry
from so8t_engine.jobs.telemetry import Sampler

GIB = 1 << 30
MISSING = "n/a"


def figure(value: float | None, unit: str, digits: int = 0) -> str:
    """Return a number with its unit, ``n/a`` where there is none."""
    return MISSING if value is None else f"{value:.{digits}f} {unit}"


def memory(used: float | None, total: float | None) -> str:
    """Return ``used / total GiB``."""
    if used is None:
        return MISSING
    if total is None:
        return f"{used / GIB:.1f} GiB"
    return f"{used / GIB:.1f} / {total / GIB:.1f} GiB"


def _row(table: Table, name: str, share: float | None, text: str) -> None:
    bar: RenderableType = Text("")
    if share is not None:
        bar = ProgressBar(total=100, completed=max(0.0, min(100.0, share)), width=30)
    table.add_row(name, bar, text)


def _gpu_rows(table: Table, gpu: GpuReading) -> None:
    table.add_row(Text(f"GPU {gpu.index}  {gpu.name or MISSING}", style="bold"), "", "")
    _row(table, "  utilisation", gpu.utilization, figure(gpu.utilization, "%"))
    share = None
    if gpu.memory_used is not None and gpu.memory_total:
        share = 100 * gpu.memory_used / gpu.memory_total
    _row(table, "  memory", share, memory(gpu.memory_used, gpu.memory_total))
    if gpu.job_memory is not None:
        table.add_row("  … of this job", "", memory(gpu.job_memory, None))
    limit = gpu.temperature_slowdown
    heat = figure(gpu.temperature, "°C")
    table.add_row(
        "  temperature", "", heat if limit is None else f"{heat} (slows down at {limit:.0f} °C)"
    )
    share = None
    if gpu.power is not None and gpu.power_limit:
        share = 100 * gpu.power / gpu.power_limit
    _row(table, "  power", share, f"{figure(gpu.power, 'W')} of {figure(gpu.power_limit, 'W')}")
    table.add_row(
        "  clocks",
        "",
        f"{figure(gpu.clock_sm, 'MHz')} SM, {figure(gpu.clock_memory, 'MHz')} memory",
    )
    table.add_row("  held back by", "", gpu.throttle or MISSING)
    table.add_row("  fan", "", figure(gpu.fan, "%"))
    for holder in gpu.holders:
        name = holder.name or "another process"
        table.add_row(f"  held by {holder.pid}", "", f"{name}, {memory(holder.memory, None)}")


def render(reading: Telemetry) -> RenderableType:
    """Return what the terminal shows for one reading."""
    table = Table.grid(padding=(0, 2))
    _row(table, "CPU", reading.cpu, figure(reading.cpu, "%"))
    _row(
        table, "RAM", 100 * reading.ram_used / max(1, reading.ram_total),
        memory(reading.ram_used, reading.ram_total),
    )  # fmt: skip
    table.add_row("Disk free", "", memory(reading.disk_free, None))
    if reading.job_pid:
        table.add_row(
            f"Job {reading.job_pid}", "",
            f"{figure(reading.job_cpu, '%')} CPU, {memory(reading.job_rss, None)}",
        )  # fmt: skip
    for gpu in reading.gpus:
        _gpu_rows(table, gpu)
    note = Text(reading.gpu_note, style="yellow") if reading.gpu_note else Text("")
    return Group(table, note)


def show(
    pid: int | None, interval: float, *, seconds: float = 0.0, console: Console | None = None
) -> int:
    """Draw readings until Ctrl+C, or for so many seconds; return the exit code."""
    sampler = Sampler()
    if pid:
        sampler.job.watch(pid)
    try:
        with Live(render(sampler.read()), console=console, auto_refresh=False) as live:
            ends = time.monotonic() + seconds if seconds else float("inf")
            while time.monotonic() + interval <= ends:
                time.sleep(interval)
                live.update(render(sampler.read()), refresh=True)
        return 0
    except KeyboardInterrupt:
        return 0
    finally:
        sampler.gpus.close()
