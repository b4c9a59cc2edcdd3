"""Real traces of NVIDIA drivers through our reader: ``tests/fixtures/nvml_*.jsonl``.

A trace is recorded by ``benchmarks/nvml_trace.py``; any such file is taken.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import nvml_trace
from so8t_engine.events import GpuReading, Telemetry, decode_event, encode_event
from so8t_engine.jobs.nvml import LIMITS_S, NvmlReader, throttle_words
from so8t_engine.jobs.telemetry_view import render
from tests.helpers.nvml_trace import TraceLibrary
from tests.unit.test_telemetry import Clock, ScriptedNvml

FIXTURES = Path(__file__).parents[1] / "fixtures"
TRACES = sorted(FIXTURES.glob("nvml_*.jsonl"))


def read_all(library: TraceLibrary) -> list[tuple[GpuReading, ...]]:
    """Return the readings of every sample, one second apart."""
    clock = Clock()
    reader = NvmlReader(library, clock)
    readings = []
    for index, sample in enumerate(library.samples):
        library.seek(index)
        clock.now += library.header["interval"]
        pids = frozenset((sample["load_pid"],)) if sample["load_pid"] else frozenset()
        found, note = reader.read(pids)
        assert note == ""
        readings.append(found)
    return readings


def raw(library: TraceLibrary, gpu: int, question: str):
    answer = library.answer(gpu, question)
    return None if answer is None else answer.get("value")


def check_against_raw(library: TraceLibrary, gpu: GpuReading) -> None:
    """Every figure is the driver's, in our unit; what it did not answer is None."""
    index = gpu.index
    memory = raw(library, index, "nvmlDeviceGetMemoryInfo()")
    assert gpu.memory_used == (memory and memory["used"])
    assert gpu.memory_total == (memory and memory["total"])
    rates = raw(library, index, "nvmlDeviceGetUtilizationRates()")
    assert gpu.utilization == (rates and float(rates["gpu"]))
    assert gpu.temperature == raw(library, index, "nvmlDeviceGetTemperature(NVML_TEMPERATURE_GPU)")
    power = raw(library, index, "nvmlDeviceGetPowerUsage()")
    assert gpu.power == (None if power is None else pytest.approx(power / 1000))
    assert gpu.clock_sm == raw(library, index, "nvmlDeviceGetClockInfo(NVML_CLOCK_SM)")
    assert gpu.clock_memory == raw(library, index, "nvmlDeviceGetClockInfo(NVML_CLOCK_MEM)")
    mask = raw(library, index, "nvmlDeviceGetCurrentClocksEventReasons()")
    if mask is None:
        mask = raw(library, index, "nvmlDeviceGetCurrentClocksThrottleReasons()")
    assert gpu.throttle == (None if mask is None else throttle_words(mask))
    assert gpu.fan == raw(library, index, "nvmlDeviceGetFanSpeed()")


@pytest.mark.parametrize("path", TRACES, ids=[path.stem for path in TRACES])
def test_a_real_trace_is_read_as_the_driver_meant_it(path: Path):
    library = TraceLibrary(path)
    assert len(library.samples) > 10
    readings = read_all(library)
    for index, found in enumerate(readings):
        library.seek(index)
        assert len(found) == library.header["gpus"]
        for gpu in found:
            check_against_raw(library, gpu)
    first = readings[0][0]
    assert first.name and first.memory_total and first.memory_total > 1 << 30
    assert first.temperature is not None and first.temperature > 0
    if first.temperature_slowdown is not None:
        assert first.temperature < first.temperature_slowdown < 130
    if first.power_limit is not None:
        assert all(gpus[0].power < 1.3 * gpus[0].power_limit for gpus in readings)


@pytest.mark.parametrize("path", TRACES, ids=[path.stem for path in TRACES])
def test_a_real_trace_shows_the_load_that_was_put_on(path: Path):
    library = TraceLibrary(path)
    readings = read_all(library)
    loaded = [gpus[0] for gpus, sample in zip(readings, library.samples, strict=True)
              if sample["load_pid"]]  # fmt: skip
    idle = [gpus[0] for gpus, sample in zip(readings, library.samples, strict=True)
            if not sample["load_pid"]]  # fmt: skip
    if not loaded:
        pytest.skip("the trace was recorded without a load")
    assert max(gpu.memory_used for gpu in loaded) > min(gpu.memory_used for gpu in idle)
    if any(gpu.utilization is not None for gpu in loaded):
        assert max(gpu.utilization for gpu in loaded if gpu.utilization is not None) > 50


@pytest.mark.parametrize("path", TRACES, ids=[path.stem for path in TRACES])
def test_a_real_trace_travels_and_is_shown(path: Path, qtbot):
    from rich.console import Console

    from so8t_studio.pages.train.machine_panel import MachinePanel

    panel = MachinePanel()
    qtbot.addWidget(panel)
    last = None
    for number, gpus in enumerate(read_all(TraceLibrary(path))):
        sent = Telemetry(mono=float(number), cpu=10.0, ram_used=1 << 30, ram_total=8 << 30,
                         gpus=gpus)  # fmt: skip
        last = decode_event(encode_event(sent))
        assert last == sent
        panel.show_reading(last)
    assert last is not None
    gpu = last.gpus[0]
    assert f"{gpu.memory_used / 2**30:.1f} GiB" in panel.vram.value()
    assert panel.fan.value() == ("n/a" if gpu.fan is None else f"{gpu.fan:.0f} %")
    console = Console(width=140)
    with console.capture() as capture:
        console.print(render(last))
    assert gpu.name in capture.get()


def test_what_the_recorder_writes_replays_to_what_the_reader_reads(tmp_path: Path):
    silent = frozenset(("nvmlDeviceGetFanSpeed", "nvmlDeviceGetTemperatureThreshold"))
    library = ScriptedNvml(2, silent=silent)
    out = tmp_path / "nvml_scripted.jsonl"
    sleeper = [sys.executable, "-c", "import time; time.sleep(0.5)"]
    written = nvml_trace.record(
        library, out, seconds=20, interval=0.1, margin=0.2, load=nvml_trace.Load(sleeper)
    )
    replayed = TraceLibrary(out)
    assert len(replayed.samples) == written > 4
    pids = [sample["load_pid"] for sample in replayed.samples]
    assert not pids[0] and not pids[-1] and any(pids)
    direct, _ = NvmlReader(library).read(frozenset((10,)))
    again, _ = NvmlReader(replayed).read(frozenset((10,)))
    for one, other in zip(direct, again, strict=True):
        for name in ("name", "utilization", "memory_used", "memory_total", "temperature", "power",
                     "clock_sm", "clock_memory", "throttle", "fan", "temperature_slowdown",
                     "job_memory"):  # fmt: skip
            assert getattr(one, name) == getattr(other, name), name
    assert again[0].fan is None and again[0].uuid == "masked"


def test_a_card_that_tells_only_the_distance_to_its_slowdown():
    library = ScriptedNvml(silent=frozenset(("nvmlDeviceGetTemperatureThreshold",)))
    library.nvmlDeviceGetMarginTemperature = lambda handle: 16
    assert NvmlReader(library).read()[0][0].temperature_slowdown == 71 + 16


def test_a_power_limit_that_is_lowered_meanwhile_is_noticed():
    library, clock = ScriptedNvml(), Clock()
    reader = NvmlReader(library, clock)
    assert reader.read()[0][0].power_limit == 170.0
    library.nvmlDeviceGetEnforcedPowerLimit = lambda handle: 120_000
    assert reader.read()[0][0].power_limit == 170.0
    clock.now += LIMITS_S + 1
    assert reader.read()[0][0].power_limit == 120.0


def test_an_old_driver_without_the_new_name_still_tells_what_throttles():
    library = ScriptedNvml(silent=frozenset(("nvmlDeviceGetCurrentClocksEventReasons",)))
    library.nvmlDeviceGetCurrentClocksThrottleReasons = lambda handle: 0x4
    assert NvmlReader(library).read()[0][0].throttle == "power limit"


def test_who_holds_the_card_is_told_the_largest_first():
    library = ScriptedNvml()
    library.nvmlDeviceGetComputeRunningProcesses = lambda handle: [
        SimpleNamespace(pid=2**22 + 9, usedGpuMemory=1 << 30),
        SimpleNamespace(pid=os.getpid(), usedGpuMemory=3 << 30),
        SimpleNamespace(pid=2**22 + 10, usedGpuMemory=None),
    ]
    gpu = NvmlReader(library).read(frozenset((os.getpid(),)))[0][0]
    assert [holder.memory for holder in gpu.holders] == [3 << 30, 1 << 30, None]
    assert gpu.holders[0].name and gpu.holders[1].name == ""
    assert gpu.job_memory == 3 << 30


def test_a_card_that_comes_back_as_another_one_is_not_called_by_the_old_name():
    library, clock = ScriptedNvml(), Clock()
    reader = NvmlReader(library, clock)
    assert reader.read()[0][0].name == "RTX 0"
    library.lost.add(0)
    assert "no longer answers" in reader.read()[1]
    library.lost.clear()
    library.nvmlDeviceGetName = lambda handle: "H100"
    clock.now += 16
    assert reader.read()[0][0].name == "H100"
