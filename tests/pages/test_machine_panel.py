"""The machine panel with several GPUs, half answers, a card that vanishes, and no monitor."""

from __future__ import annotations

import os

import psutil
import pytest

from so8t_engine.events import GpuReading, Telemetry
from so8t_engine.jobs.nvml import RETRY_S, NvmlReader
from so8t_studio.jobs.telemetry import TelemetryService
from so8t_studio.pages.train.machine_panel import MachinePanel
from tests.unit.test_telemetry import Clock, ScriptedNvml

GIB = 1 << 30


@pytest.fixture
def panel(qtbot):
    made = MachinePanel()
    qtbot.addWidget(made)
    made.show()
    return made


def reading(gpus: tuple[GpuReading, ...], note: str = "", **fields) -> Telemetry:
    return Telemetry(mono=1.0, cpu=40.0, ram_used=3 * GIB, ram_total=24 * GIB, gpus=gpus,
                     gpu_note=note, **fields)  # fmt: skip


def test_every_figure_of_a_card_is_shown(panel):
    gpus, note = NvmlReader(ScriptedNvml()).read(frozenset((10,)))
    panel.show_reading(reading(gpus, note, disk_free=71 * GIB, job_pid=10, job_rss=GIB,
                               job_cpu=50.0))  # fmt: skip
    assert panel.gpu.value() == "97 %"
    assert panel.vram.value() == "2.0 GiB" and "this job 1.0 GiB" in panel.vram.detail()
    assert panel.heat.value() == "71 °C" and panel.heat.detail() == "slows down at 93 °C"
    assert panel.power.value() == "168 W" and panel.power.detail() == "limit 170 W"
    assert panel.clock.value() == "1800 MHz"
    assert "7500 MHz" in panel.clock.detail() and "power limit" in panel.clock.detail()
    assert panel.fan.value() == "64 %"
    assert panel.disk.value() == "71.0 GiB" and panel.process.value() == "10"
    panel.show_reading(reading(gpus, note, job_pid=10))
    assert panel.process.detail() == "it is gone"


def test_without_a_gpu_there_are_no_empty_tiles_but_a_sentence(panel):
    panel.show_reading(reading((), "No NVIDIA driver answers (Driver Not Loaded)."))
    assert not panel.gpu.isVisible() and panel.cpu.isVisible()
    assert "No NVIDIA driver" in panel.note.text()
    panel.show_reading(reading(()))
    assert panel.note.text() == "No GPU answers."


@pytest.mark.parametrize(
    ("silent", "tile"),
    [("nvmlDeviceGetUtilizationRates", "gpu"), ("nvmlDeviceGetMemoryInfo", "vram"),
     ("nvmlDeviceGetTemperature", "heat"), ("nvmlDeviceGetPowerUsage", "power"),
     ("nvmlDeviceGetClockInfo", "clock"), ("nvmlDeviceGetFanSpeed", "fan")],
)  # fmt: skip
def test_what_the_driver_does_not_answer_reads_na(panel, silent, tile):
    gpus, note = NvmlReader(ScriptedNvml(silent=frozenset((silent,)))).read()
    panel.show_reading(reading(gpus, note))
    for name in ("gpu", "vram", "heat", "power", "clock", "fan"):
        shown = getattr(panel, name).value()
        assert (shown == "n/a") == (name == tile), f"{name} reads {shown}"


def test_one_of_several_cards_is_chosen_and_stays_chosen(panel, qtbot):
    library = ScriptedNvml(3)
    reader = NvmlReader(library)
    panel.show_reading(reading(*reader.read()))
    assert panel.choice.isVisible() and panel.choice.count() == 3
    with qtbot.waitSignal(panel.gpu_selected):
        panel.choice.setCurrentIndex(2)
    assert panel.gpu.value() == "95 %", "at once, not at the next reading"
    panel.show_reading(reading(*reader.read()))
    assert panel.gpu.value() == "95 %" and panel.choice.currentIndex() == 2
    assert set(panel.use.keys()) == {"cpu", "gpu0", "gpu1", "gpu2"}


def test_a_card_that_vanishes_mid_run_is_named_and_comes_back(panel):
    library, clock = ScriptedNvml(2), Clock()
    reader = NvmlReader(library, clock)
    panel.show_reading(reading(*reader.read()))
    library.lost.add(0)
    panel.show_reading(reading(*reader.read()))
    assert panel.gpu.value() == "n/a" and panel.vram.value() == "n/a"
    assert "GPU 0 no longer answers" in panel.note.text()
    assert "RTX 0" in panel.gpu.detail(), "which card it was is still known"
    panel.show_reading(reading((), "No NVIDIA driver answers (GPU is lost)."))
    assert panel.gpu.isVisible() and panel.gpu.value() == "n/a"
    library.lost.clear()
    clock.now += RETRY_S + 1
    panel.show_reading(reading(*reader.read()))
    assert panel.gpu.value() == "97 %" and panel.note.text() == ""


def test_a_monitor_that_dies_is_started_again_and_watches_the_same_job(
    qtbot, tmp_path, panel, no_leaks
):
    service = TelemetryService(log_dir=tmp_path / "logs")
    service.updated.connect(panel.show_reading)
    service.failed.connect(panel.show_silence)
    service.start()
    try:
        service.watch(os.getpid())
        qtbot.waitUntil(
            lambda: service.latest is not None and service.latest.job_pid == os.getpid(),
            timeout=15_000,
        )
        assert panel.process.value() == str(os.getpid())
        monitor = service._worker._state.pid
        with qtbot.waitSignal(service.failed, timeout=10_000):
            psutil.Process(monitor).kill()
        assert "gives no figures at present" in panel.note.text()
        service.latest = None
        qtbot.waitUntil(
            lambda: service.latest is not None and service.latest.job_pid == os.getpid(),
            timeout=15_000,
        )
        assert "gives no figures" not in panel.note.text()
    finally:
        service.stop()
