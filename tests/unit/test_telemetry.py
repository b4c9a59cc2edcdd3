"""Telemetry with a scripted NVML and as a real process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from rich.console import Console

from so8t_engine.events import Telemetry, decode_event
from so8t_engine.jobs.nvml import RETRY_S, NvmlReader, throttle_words
from so8t_engine.jobs.telemetry import JobWatcher, Sampler
from so8t_engine.jobs.telemetry_view import render


class NvmlError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__({3: "Not Supported", 9: "Driver Not Loaded", 15: "GPU is lost"}[value])
        self.value = value


class ScriptedNvml:
    """Acts like the module ``pynvml`` for ``count`` cards."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM = 1, 2
    NVML_TEMPERATURE_GPU, NVML_TEMPERATURE_THRESHOLD_SLOWDOWN = 0, 1
    NVML_ERROR_GPU_IS_LOST, NVML_ERROR_UNINITIALIZED, NVML_ERROR_UNKNOWN = 15, 1, 999

    def __init__(
        self, count: int = 1, *, driver: bool = True, silent: frozenset[str] = frozenset()
    ):
        self.count, self.driver, self.silent = count, driver, silent
        self.lost: set[int] = set()
        self.calls: list[str] = []

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("nvml") and name in object.__getattribute__(self, "silent"):

            def refuse(*_: object) -> None:
                raise NvmlError(3)

            return refuse
        return object.__getattribute__(self, name)

    def nvmlInit(self) -> None:
        if not self.driver:
            raise NvmlError(9)
        self.calls.append("init")

    def nvmlShutdown(self) -> None:
        self.calls.append("shutdown")

    def nvmlDeviceGetCount(self) -> int:
        return self.count

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def _check(self, handle: int) -> None:
        if handle in self.lost:
            raise NvmlError(15)

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:
        self._check(handle)
        return SimpleNamespace(used=(2 + handle) << 30, total=12 << 30)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> SimpleNamespace:
        self._check(handle)
        return SimpleNamespace(gpu=97 - handle)

    def nvmlDeviceGetName(self, handle: int) -> bytes:
        return f"RTX {handle}".encode()

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return f"GPU-{handle}"

    def nvmlDeviceGetTemperature(self, handle: int, _sensor: int) -> int:
        return 71

    def nvmlDeviceGetTemperatureThreshold(self, handle: int, _which: int) -> int:
        return 93

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:
        return 168_500

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: int) -> int:
        return 170_000

    def nvmlDeviceGetClockInfo(self, handle: int, which: int) -> int:
        return 1_800 if which == 1 else 7_500

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: int) -> int:
        return 0x4 | 0x40

    def nvmlDeviceGetFanSpeed(self, handle: int) -> int:
        return 64

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[SimpleNamespace]:
        self.calls.append("processes")
        return [SimpleNamespace(pid=10, usedGpuMemory=1 << 30),
                SimpleNamespace(pid=11, usedGpuMemory=None)]  # fmt: skip


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_card_that_answers_everything():
    readings, note = NvmlReader(ScriptedNvml()).read(frozenset((10,)))
    gpu = readings[0]
    assert note == ""
    assert (gpu.name, gpu.utilization, gpu.memory_used, gpu.memory_total) == (
        "RTX 0", 97.0, 2 << 30, 12 << 30,
    )  # fmt: skip
    assert (gpu.temperature, gpu.temperature_slowdown) == (71.0, 93.0)
    assert (gpu.power, gpu.power_limit) == (168.5, 170.0)
    assert (gpu.clock_sm, gpu.clock_memory, gpu.fan) == (1800, 7500, 64.0)
    assert gpu.throttle == "power limit, temperature (hardware)"
    assert gpu.job_memory == 1 << 30


def test_no_driver_is_a_note_and_is_tried_again_later():
    library, clock = ScriptedNvml(driver=False), Clock()
    reader = NvmlReader(library, clock)
    assert reader.read() == ((), "No NVIDIA driver answers (Driver Not Loaded).")
    library.driver = True
    assert reader.read()[0] == ()
    clock.now += RETRY_S + 1
    assert len(reader.read()[0]) == 1


@pytest.mark.parametrize(
    ("silent", "field"),
    [("nvmlDeviceGetUtilizationRates", "utilization"), ("nvmlDeviceGetFanSpeed", "fan"),
     ("nvmlDeviceGetPowerUsage", "power"), ("nvmlDeviceGetTemperature", "temperature"),
     ("nvmlDeviceGetTemperatureThreshold", "temperature_slowdown"),
     ("nvmlDeviceGetEnforcedPowerLimit", "power_limit"), ("nvmlDeviceGetName", "name"),
     ("nvmlDeviceGetMemoryInfo", "memory_used"), ("nvmlDeviceGetClockInfo", "clock_sm"),
     ("nvmlDeviceGetCurrentClocksEventReasons", "throttle")],
)  # fmt: skip
def test_a_driver_that_half_answers_loses_only_that_field(silent, field):
    whole = NvmlReader(ScriptedNvml()).read()[0][0]
    readings, note = NvmlReader(ScriptedNvml(silent=frozenset((silent,)))).read()
    assert note == ""
    assert getattr(readings[0], field) is None
    answered = sum(getattr(readings[0], name) is not None for name in whole.__struct_fields__)
    expected = sum(getattr(whole, name) is not None for name in whole.__struct_fields__)
    assert answered >= expected - 2


def test_a_card_that_vanishes_is_named_and_the_other_goes_on():
    library, clock = ScriptedNvml(2), Clock()
    reader = NvmlReader(library, clock)
    assert [gpu.index for gpu in reader.read()[0]] == [0, 1]
    library.lost.add(1)
    readings, note = reader.read()
    assert readings[0].utilization == 97.0
    assert readings[1].utilization is None and readings[1].name == "RTX 1"
    assert note == "GPU 1 no longer answers (GPU is lost)"
    library.lost.clear()
    clock.now += RETRY_S + 1
    readings, note = reader.read()
    assert note == "" and readings[1].utilization == 96.0
    assert library.calls.count("init") == 2


def test_processes_are_not_listed_in_the_hot_path():
    library, clock = ScriptedNvml(), Clock()
    reader = NvmlReader(library, clock)
    for _ in range(10):
        reader.read(frozenset((10,)))
        clock.now += 0.1
    assert library.calls.count("processes") == 1


def test_throttle_words():
    assert throttle_words(0) == "none"
    assert throttle_words(1) == "none"  # idle is no throttling
    assert throttle_words(0x20) == "temperature (software)"


def test_the_watched_job_is_measured_with_its_children():
    code = "import subprocess,sys,time; subprocess.Popen([sys.executable,'-c','x=bytearray(60<<20)\\nwhile 1: pass']); time.sleep(60)"  # noqa: E501
    parent = subprocess.Popen([sys.executable, "-c", code])
    try:
        clock = Clock()
        watcher = JobWatcher(clock)
        watcher.watch(parent.pid)
        deadline = time.monotonic() + 15
        cpu, rss = watcher.read()
        while time.monotonic() < deadline and ((rss or 0) < 60 << 20 or not cpu):
            clock.now += 6
            time.sleep(0.2)
            cpu, rss = watcher.read()
        assert rss is not None and rss > 60 << 20
        assert cpu is not None and 0 < cpu <= 100
    finally:
        for child in psutil.Process(parent.pid).children(recursive=True):
            child.kill()
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + 5
    while watcher.read() != (None, None) and time.monotonic() < deadline:
        time.sleep(0.05)  # the grandchild is reaped by init
    assert watcher.read() == (None, None)


def test_the_terminal_view_shows_the_same_figures():
    reading = Telemetry(mono=1.0, cpu=41.0, ram_used=3 << 30, ram_total=24 << 30,
                        gpus=NvmlReader(ScriptedNvml()).read()[0])  # fmt: skip
    console = Console(width=120, record=True, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    console.print(render(reading))
    text = console.export_text()
    console.file.close()
    for part in ("41 %", "3.0 / 24.0 GiB", "RTX 0", "97 %", "71 °C", "168 W of 170 W", "64 %"):
        assert part in text
    silent = frozenset(("nvmlDeviceGetFanSpeed",))
    half = NvmlReader(ScriptedNvml(silent=silent)).read()[0]
    console = Console(width=120, record=True, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    console.print(render(Telemetry(mono=1.0, cpu=1.0, ram_used=1, ram_total=2, gpus=half)))
    assert "n/a" in console.export_text()
    console.file.close()


def test_the_monitor_process_is_small_imports_no_torch_and_ends_with_its_parent():
    monitor = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "so8t_engine.jobs.telemetry", "--attached",
         "--interval", "0.1"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert monitor.stdout is not None and monitor.stdin is not None
    lines = [monitor.stdout.readline() for _ in range(6)]
    process = psutil.Process(monitor.pid)
    rss = process.memory_info().rss
    monitor.stdin.write(json.dumps({"cmd": "watch", "pid": os.getpid()}).encode() + b"\n")
    monitor.stdin.flush()
    lines += [monitor.stdout.readline() for _ in range(4)]
    _out, trace = monitor.communicate(timeout=10)  # closes stdin
    assert monitor.returncode == 0
    events = [decode_event(line) for line in lines]
    assert isinstance(events[1], Telemetry)
    assert events[1].ram_total > 0
    assert events[-1].job_pid == os.getpid() and events[-1].job_rss > 0
    assert b"torch" not in trace and b"PySide6" not in trace and b"numpy" not in trace
    assert rss < 40 << 20, f"{rss >> 20} MiB"


def test_the_sampler_reads_this_machine():
    sampler = Sampler(NvmlReader(ScriptedNvml(2)))
    reading = sampler.read()
    assert len(reading.gpus) == 2
    assert 0 < reading.ram_used <= reading.ram_total
    assert reading.disk_free is not None and reading.disk_free > 0


def monitor_lines(*options: str) -> list[bytes]:
    done = subprocess.run(
        [sys.executable, "-m", "so8t_engine", "monitor", "--interval", "0.2", *options],
        stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=True,
    )  # fmt: skip
    return done.stdout.splitlines()


def test_without_a_stdin_the_monitor_streams_for_as_long_as_it_was_told(tmp_path):
    kinds = [decode_event(line).__class__.__name__ for line in
             monitor_lines("--json", "--seconds", "0.5")]  # fmt: skip
    assert kinds == ["Hello", "Telemetry", "Telemetry", "Telemetry", "Bye"]
    out = tmp_path / "telemetry.jsonl"
    assert monitor_lines("--record", str(out), "--seconds", "0.3") == []
    events = [decode_event(line) for line in out.read_bytes().splitlines()]
    assert [type(event).__name__ for event in events] == ["Hello", "Telemetry", "Telemetry", "Bye"]
    assert events[1].mono < events[2].mono


@pytest.mark.skipif(sys.platform == "win32", reason="pipes of POSIX")
def test_the_monitor_ends_when_nobody_reads_it_any_more():
    monitor = subprocess.Popen(
        [sys.executable, "-m", "so8t_engine.jobs.telemetry", "--json", "--interval", "0.05"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert monitor.stdout is not None and monitor.stderr is not None
    monitor.stdout.readline()
    monitor.stdout.close()
    assert monitor.wait(10) == 0
    assert b"Traceback" not in monitor.stderr.read()
    monitor.stderr.close()
