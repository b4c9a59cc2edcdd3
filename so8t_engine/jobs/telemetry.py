"""The machine at one moment: GPU, CPU, memory, disk, and one job's process tree (torch-free).

``python -m so8t_engine monitor`` shows it in the terminal, ``--json`` streams ``telemetry`` events
for the window. The process stays small: nothing heavy is imported here.
"""

from __future__ import annotations

import argparse
import contextlib
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
from so8t_engine.jobs.runtime import Control, Job, run_job

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


def stream(pid: int | None, interval: float, sampler: Sampler | None = None) -> int:
    """Write ``telemetry`` events until a stop command or the end of stdin; return the exit code.

    The command ``{"cmd": "watch", "pid": N}`` changes the watched job.
    """
    source = sampler or Sampler()
    wake = threading.Event()

    def on_command(command: dict[str, Any]) -> None:
        if command.get("cmd") == "watch" and isinstance(command.get("pid"), int):
            source.job.watch(int(command["pid"]))

    class MonitorControl(Control):
        def request_stop(self, reason: str) -> None:
            super().request_stop(reason)
            wake.set()

    control = MonitorControl(on_command)

    def body(job: Job) -> str:
        job.emitter.emit(Hello(kind="monitor", pid=psutil.Process().pid))
        if pid:
            source.job.watch(pid)
        due = time.monotonic()
        while not control.stop_requested:
            job.emitter.emit(source.read())
            due = max(due + interval, time.monotonic())
            wake.wait(due - time.monotonic())
        source.gpus.close()
        return "The monitor ended."

    return run_job("monitor", body, events=True, control=control)


def monitor(json: bool = False, pid: int | None = None, interval: float = 1.0) -> int:
    """Show the machine in the terminal, or stream it as JSON Lines; return the exit code.

    Args:
        json: stream events on stdout instead of drawing.
        pid: a job to watch.
        interval: seconds between readings.
    """
    if json:
        return stream(pid, interval)
    from so8t_engine.jobs.telemetry_view import show

    return show(pid, interval)


def main(arguments: list[str] | None = None) -> int:
    """Command line of the small process behind the window's figures."""
    parser = argparse.ArgumentParser(prog="so8t monitor", description=monitor.__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--pid", type=int, default=None)
    parser.add_argument("--interval", type=float, default=1.0)
    options = parser.parse_args(arguments)
    return monitor(options.json, options.pid, options.interval)


if __name__ == "__main__":
    sys.exit(main())
