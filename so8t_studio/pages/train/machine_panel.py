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
        self._last: Telemetry | None = None
        self._columns = 4
        self._gpu = 0
        self._names: list[str] = []
        self._cards: list[str | None] = []
        self._shown_gpus = False
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
        self.clock = StatTile(self.tr("Clocks"))
        self.fan = StatTile(self.tr("Fan"), bar=True)
        self.disk = StatTile(self.tr("Disk"))
        self.process = StatTile(self.tr("Process"))
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
        own = [self.cpu, self.ram, self.disk, self.process]
        for index, tile in enumerate([*own, *self._gpu_tiles]):
            self._grid.addWidget(tile, index // self._columns, index % self._columns)
        for index in range(self._columns):
            self._grid.setColumnStretch(index, 1)

    def _show_gpu_tiles(self, on: bool) -> None:
        self._shown_gpus = on
        for tile in self._gpu_tiles:
            tile.setVisible(on)

    def show_reading(self, reading: Telemetry) -> None:
        """Show one reading and add it to the charts."""
        self._last = reading
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
        free = None if reading.disk_free is None else reading.disk_free / GIB
        self.disk.set_value(number(free, "GiB", 1), self.tr("free for runs"))
        if reading.job_pid is None:
            self.process.set_value("–", self.tr("no run is watched"))
        elif reading.job_rss is None:
            self.process.set_value(str(reading.job_pid), self.tr("it is gone"))
        else:
            self.process.set_value(str(reading.job_pid), self.tr("process id of the run"))
        self.use.append("cpu", minutes, reading.cpu)
        self.memory.append("ram", minutes, used)
        if reading.job_rss is not None:
            self.memory.append("job", minutes, reading.job_rss / GIB)
        self._show_gpus(reading, minutes)

    def _show_gpus(self, reading: Telemetry, minutes: float) -> None:
        names = [f"GPU {gpu.index}  {gpu.name or MISSING}" for gpu in reading.gpus]
        if names and names != self._names:  # a card may come back as another one
            self._names = names
            self._cards = [gpu.name for gpu in reading.gpus]
            self._show_gpu_tiles(True)
            self._gpu = min(self._gpu, len(names) - 1)
            self.choice.blockSignals(True)
            self.choice.clear()
            self.choice.addItems(names)
            self.choice.setCurrentIndex(self._gpu)
            self.choice.blockSignals(False)
            self.choice.setVisible(len(names) > 1)
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
        elif self._shown_gpus:  # there was one, and the driver no longer tells of it
            self._show_gpu(GpuReading(index=self._gpu, name=self._cards[self._gpu]))

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
            number(gpu.clock_sm, "MHz"),
            self.tr("memory {clock}, held back by: {what}").format(
                clock=number(gpu.clock_memory, "MHz"), what=held
            ),
        )
        self.fan.set_value(number(gpu.fan, "%"), "", None if gpu.fan is None else gpu.fan / 100)

    def show_silence(self, sentence: str) -> None:
        """Say that the monitor gives no figures; the last ones stay, so the note must be clear."""
        self.note.setText(
            self.tr("The monitor gives no figures at present. {why}").format(why=sentence)
        )

    @Slot(int)
    def _on_choice_changed(self, index: int) -> None:
        self._gpu = max(0, index)
        if self._last is not None and self._gpu < len(self._last.gpus):
            self._show_gpu(self._last.gpus[self._gpu])
        self.gpu_selected.emit(self._gpu)
