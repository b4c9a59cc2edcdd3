"""The machine while it trains: GPU, memory, temperature, power, CPU, RAM."""

from __future__ import annotations

from PySide6.QtCore import Signal, Slot
from PySide6.QtWidgets import QComboBox, QGridLayout, QHBoxLayout, QLabel, QVBoxLayout, QWidget

from so8t_engine.events import GpuReading, Telemetry
from so8t_studio.widgets.live_plot import LivePlot
from so8t_studio.widgets.stat_tile import StatTile

GIB = 1 << 30
MISSING = "n/a"


def number(value: float | None, unit: str, digits: int = 0) -> str:
    """Return a figure with its unit, ``n/a`` where the driver does not answer."""
    return MISSING if value is None else f"{value:.{digits}f} {unit}"


class MachinePanel(QWidget):
    """Tiles of the moment. The charts :attr:`use` and :attr:`memory` are placed by the page."""

    gpu_selected = Signal(int)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("machinePanel")
        self._first: float | None = None
        self._columns = 4
        self._gpu = 0
        self._count = -1
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(8)
        head = QHBoxLayout()
        title = QLabel(self.tr("Machine"))
        title.setProperty("role", "h3")
        head.addWidget(title)
        self.note = QLabel()
        self.note.setObjectName("gpuNote")
        self.note.setProperty("role", "caption")
        head.addWidget(self.note, 1)
        self.choice = QComboBox()
        self.choice.setObjectName("gpuChoice")
        self.choice.setAccessibleName(self.tr("GPU that is shown"))
        self.choice.currentIndexChanged.connect(self._on_choice_changed)
        self.choice.hide()
        head.addWidget(self.choice)
        column.addLayout(head)
        self._grid = QGridLayout()
        self._grid.setSpacing(12)
        column.addLayout(self._grid)
        self.cpu = StatTile(self.tr("CPU"), bar=True)
        self.ram = StatTile(self.tr("RAM"), bar=True)
        self.gpu = StatTile(self.tr("GPU utilisation"), bar=True)
        self.vram = StatTile(self.tr("GPU memory"), bar=True)
        self.heat = StatTile(self.tr("Temperature"), bar=True)
        self.power = StatTile(self.tr("Power"), bar=True)
        self.clock = StatTile(self.tr("Clock"))
        self.fan = StatTile(self.tr("Fan"), bar=True)
        self._gpu_tiles = [self.gpu, self.vram, self.heat, self.power, self.clock, self.fan]
        self._arrange()
        self.use = LivePlot(
            self.tr("Utilisation"), self.tr("minutes"), self.tr("share"), "%", y_range=(0, 100)
        )
        self.use.add_series("cpu", self.tr("CPU"), 0)
        self.memory = LivePlot(self.tr("Memory"), self.tr("minutes"), self.tr("memory"), "GiB")
        self.memory.add_series("ram", self.tr("RAM"), 0)
        self.memory.add_series("job", self.tr("this job"), 3)
        self._show_gpu_tiles(False)

    def _arrange(self) -> None:
        for index, tile in enumerate([self.cpu, self.ram, *self._gpu_tiles]):
            self._grid.addWidget(tile, index // self._columns, index % self._columns)
        for index in range(self._columns):
            self._grid.setColumnStretch(index, 1)

    def _show_gpu_tiles(self, on: bool) -> None:
        for tile in self._gpu_tiles:
            tile.setVisible(on)

    def show_reading(self, reading: Telemetry) -> None:
        """Show one reading and add it to the charts."""
        if self._first is None:
            self._first = reading.mono
        minutes = (reading.mono - self._first) / 60
        job = "" if reading.job_cpu is None else self.tr("this job {cpu} %").format(
            cpu=f"{reading.job_cpu:.0f}"
        )  # fmt: skip
        self.cpu.set_value(number(reading.cpu, "%"), job, reading.cpu / 100)
        used, total = reading.ram_used / GIB, reading.ram_total / GIB
        detail = self.tr("of {total} GiB").format(total=f"{total:.0f}")
        if reading.job_rss is not None:
            size = f"{reading.job_rss / GIB:.1f}"
            detail += ", " + self.tr("this job {size} GiB").format(size=size)
        self.ram.set_value(f"{used:.1f} GiB", detail, used / max(total, 1e-9))
        self.use.append("cpu", minutes, reading.cpu)
        self.memory.append("ram", minutes, used)
        if reading.job_rss is not None:
            self.memory.append("job", minutes, reading.job_rss / GIB)
        self._show_gpus(reading, minutes)

    def _show_gpus(self, reading: Telemetry, minutes: float) -> None:
        if len(reading.gpus) != self._count:
            self._count = len(reading.gpus)
            self._show_gpu_tiles(bool(reading.gpus))
            self.choice.blockSignals(True)
            self.choice.clear()
            for gpu in reading.gpus:
                self.choice.addItem(f"GPU {gpu.index}  {gpu.name or MISSING}", gpu.index)
            self.choice.blockSignals(False)
            self.choice.setVisible(self._count > 1)
            self._gpu = min(self._gpu, max(0, self._count - 1))
        note = reading.gpu_note
        if not reading.gpus and not note:
            note = self.tr("No GPU answers.")
        self.note.setText(note)
        for gpu in reading.gpus:
            key = f"gpu{gpu.index}"
            self.use.add_series(key, f"GPU {gpu.index}", 1 + gpu.index)
            self.use.append(key, minutes, gpu.utilization)
            self.memory.add_series(key, f"GPU {gpu.index}", 1 + gpu.index)
            used = None if gpu.memory_used is None else gpu.memory_used / GIB
            self.memory.append(key, minutes, used)
        if self._gpu < len(reading.gpus):
            self._show_gpu(reading.gpus[self._gpu])

    def _show_gpu(self, gpu: GpuReading) -> None:
        name = gpu.name or MISSING
        share = None if gpu.utilization is None else gpu.utilization / 100
        self.gpu.set_value(number(gpu.utilization, "%"), f"GPU {gpu.index}, {name}", share)
        used = None if gpu.memory_used is None else gpu.memory_used / GIB
        detail, share = "", None
        if gpu.memory_total and used is not None:
            total = gpu.memory_total / GIB
            detail = self.tr("of {total} GiB on the device").format(total=f"{total:.0f}")
            share = used / total
        if gpu.job_memory is not None:
            size = f"{gpu.job_memory / GIB:.1f}"
            detail += ", " + self.tr("this job {size} GiB").format(size=size)
        self.vram.set_value(number(used, "GiB", 1), detail, share)
        limit = gpu.temperature_slowdown
        detail, share = self.tr("slowdown limit unknown"), None
        if limit is not None:
            detail = self.tr("slows down at {limit} °C").format(limit=f"{limit:.0f}")
            share = None if gpu.temperature is None else gpu.temperature / limit
        self.heat.set_value(number(gpu.temperature, "°C"), detail, share)
        detail, share = "", None
        if gpu.power_limit:
            detail = self.tr("limit {limit} W").format(limit=f"{gpu.power_limit:.0f}")
            share = None if gpu.power is None else gpu.power / gpu.power_limit
        self.power.set_value(number(gpu.power, "W"), detail, share)
        held = gpu.throttle or MISSING
        self.clock.set_value(
            number(gpu.clock_sm, "MHz"), self.tr("held back by: {what}").format(what=held)
        )
        self.fan.set_value(number(gpu.fan, "%"), "", None if gpu.fan is None else gpu.fan / 100)

    @Slot(int)
    def _on_choice_changed(self, index: int) -> None:
        self._gpu = max(0, index)
        self.gpu_selected.emit(self._gpu)
