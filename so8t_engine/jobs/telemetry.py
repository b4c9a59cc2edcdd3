"""The machine at one moment: GPU, CPU, memory, disk, and one job's process tree (torch-free).

``python -m so8t_engine monitor`` shows it in the terminal, ``--json`` streams ``telemetry`` events,
``--record FILE`` appends them to a file. Only with ``--attached``, as the window starts it, does
the end of stdin end it. The process stays small: nothing heavy is imported here.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from so8t_engine.events import Hello, Telemetry
from so8t_engine.jobs.nvml import NvmlReader
from so8t_engine.jobs.runtime import Control, Job, LineSink, run_job

TREE_S = 5.0
DISK_S = 10.0


class JobWatcher:
    """CPU and memory of a process and everything it started."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.pid = 0
        self._members: dict[int, psutil.Process] = {}
        self._due = 0.0

    def watch(self, pid: int) -> None:
        """Watch another process; 0 watches none."""
        self.pid = pid
        self._members.clear()
        self._due = 0.0

    @property
    def pids(self) -> frozenset[int]:
        """Process ids of the tree as last listed."""
        return frozenset(self._members)

    def read(self) -> tuple[float | None, int | None]:
        """Return CPU in % of the whole machine and resident memory in bytes, None when gone."""
        if not self.pid:
            return None, None
        now = self._clock()
        if now >= self._due:
            self._due = now + TREE_S
            self._list()
        cpu, rss, alive = 0.0, 0, False
        for pid, process in list(self._members.items()):
            try:
                with process.oneshot():
                    cpu += process.cpu_percent(None)
                    rss += process.memory_info().rss
                    alive = True
            except psutil.Error:
                del self._members[pid]
        if not alive:
            return None, None
        return cpu / (psutil.cpu_count() or 1), rss

    def _list(self) -> None:
        with contextlib.suppress(psutil.Error):
            root = psutil.Process(self.pid)
            for process in [root, *root.children(recursive=True)]:
                self._members.setdefault(process.pid, process)


class Sampler:
    """Makes :class:`Telemetry` readings."""

    def __init__(self, nvml: NvmlReader | None = None, disk: Path | None = None) -> None:
        self.gpus = nvml or NvmlReader()
        self.job = JobWatcher()
        self._disk = disk or Path.home()
        self._disk_free: int | None = None
        self._disk_due = 0.0
        psutil.cpu_percent(None)

    def read(self) -> Telemetry:
        """Return the machine now."""
        now = time.monotonic()
        if now >= self._disk_due:
            self._disk_due = now + DISK_S
            try:
                self._disk_free = shutil.disk_usage(self._disk).free
            except OSError:
                self._disk_free = None
        job_cpu, job_rss = self.job.read()
        gpus, note = self.gpus.read(self.job.pids)
        memory = psutil.virtual_memory()
        return Telemetry(
            mono=now,
            cpu=float(psutil.cpu_percent(None)),
            ram_used=int(memory.total - memory.available),
            ram_total=int(memory.total),
            disk_free=self._disk_free,
            gpus=gpus,
            gpu_note=note,
            job_pid=self.job.pid or None,
            job_cpu=job_cpu,
            job_rss=job_rss,
        )


class _Steady:
    """Readings at a fixed pace until told to end."""

    def __init__(self, source: Sampler, interval: float, seconds: float) -> None:
        self.source = source
        self.wake = threading.Event()
        self._interval = interval
        self._seconds = seconds

    def run(self, job: Job) -> None:
        """Emit a reading at once and then every ``interval`` seconds, by a monotonic clock."""
        begin = due = time.monotonic()
        while not job.control.stop_requested:
            job.emitter.emit(self.source.read())
            due = max(due + self._interval, time.monotonic())
            if self._seconds and due - begin > self._seconds:
                break
            self.wake.wait(due - time.monotonic())
        self.source.gpus.close()


class _MonitorControl(Control):
    """Wakes the pace on a stop, and hears which job to watch."""

    def __init__(self, steady: _Steady) -> None:
        super().__init__(self._on_other_command)
        self._steady = steady

    def _on_other_command(self, command: dict[str, Any]) -> None:
        if command.get("cmd") == "watch" and isinstance(command.get("pid"), int):
            self._steady.source.job.watch(int(command["pid"]))

    def request_stop(self, reason: str) -> None:
        """End now rather than at the next reading."""
        super().request_stop(reason)
        self._steady.wake.set()


class _PipeSink(LineSink):
    """Ends the monitor when nobody reads its output any more."""

    def __init__(self, stream: Any, control: Control) -> None:
        super().__init__(stream)
        self._control = control

    def __call__(self, event: Any) -> None:
        super().__call__(event)
        if self.broken:
            self._control.request_stop("nobody reads the output any more")


def stream(
    pid: int | None,
    interval: float,
    sampler: Sampler | None = None,
    *,
    seconds: float = 0.0,
    record: Path | None = None,
    attached: bool = False,
) -> int:
    """Write ``telemetry`` events; return the exit code.

    The command ``{"cmd": "watch", "pid": N}`` on stdin changes the watched job.

    Args:
        pid: a job to watch.
        interval: seconds between readings.
        sampler: makes the readings.
        seconds: how long; 0 means until a stop command, a signal, or that nobody reads.
        record: append to this file instead of writing to stdout.
        attached: end with stdin, which is how a child notices that its parent is gone.
    """
    steady = _Steady(sampler or Sampler(), interval, seconds)
    control = _MonitorControl(steady)

    def body(job: Job) -> str:
        job.emitter.emit(Hello(kind="monitor", pid=os.getpid()))
        if pid:
            steady.source.job.watch(pid)
        steady.run(job)
        return "The monitor ended."

    if attached:
        return run_job("monitor", body, events=True, control=control)
    with contextlib.ExitStack() as stack:
        target = sys.stdout.buffer if record is None else stack.enter_context(record.open("ab"))
        return run_job(
            "monitor", body, events=False, sinks=[_PipeSink(target, control)], control=control
        )


def monitor(
    json: bool = False,
    pid: int | None = None,
    interval: float = 1.0,
    seconds: float = 0.0,
    record: Path | None = None,
    attached: bool = False,
) -> int:
    """Show GPU, CPU, memory, disk and a job in the terminal, or stream them as JSON Lines.

    Args:
        json: write events on stdout instead of drawing.
        pid: a job to watch.
        interval: seconds between readings.
        seconds: end after so long; 0 goes on until Ctrl-C.
        record: append the events to this file.
        attached: take commands on stdin and end with it.
    """
    if json or record is not None or attached:
        return stream(pid, interval, seconds=seconds, record=record, attached=attached)
    from so8t_engine.jobs.telemetry_view import show

    return show(pid, interval, seconds=seconds)


def main(arguments: list[str] | None = None) -> int:
    """Command line of the small process behind the window's figures."""
    parser = argparse.ArgumentParser(prog="so8t monitor", description=monitor.__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--pid", type=int, default=None)
    parser.add_argument("--interval", type=float, default=1.0)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--record", type=Path, default=None)
    parser.add_argument("--attached", action="store_true")
    return monitor(**vars(parser.parse_args(arguments)))


if __name__ == "__main__":
    sys.exit(main())
