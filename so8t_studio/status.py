"""The status bar: what runs, and how the machine is doing."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal, Slot
from PySide6.QtWidgets import QLabel, QProgressBar, QStatusBar, QToolButton

from so8t_engine.events import Telemetry
from so8t_studio.context import AppContext
from so8t_studio.jobs.handle import JobHandle
from so8t_studio.jobs.state import phase_word

GIB = 1 << 30


def machine_text(reading: Telemetry) -> str:
    """Return CPU, RAM and the first GPUs in one line."""
    parts = [
        f"CPU {reading.cpu:.0f} %",
        f"RAM {reading.ram_used / GIB:.1f} / {reading.ram_total / GIB:.0f} GiB",
    ]
    for gpu in reading.gpus[:2]:
        use = "n/a" if gpu.utilization is None else f"{gpu.utilization:.0f} %"
        text = f"GPU {gpu.index} {use}"
        if gpu.memory_used is not None and gpu.memory_total:
            text += f", {gpu.memory_used / GIB:.1f} / {gpu.memory_total / GIB:.0f} GiB"
        if gpu.temperature is not None:
            text += f", {gpu.temperature:.0f} °C"
        parts.append(text)
    return "   ·   ".join(parts)


class StatusBar(QStatusBar):
    """``job_clicked`` when the user presses the job on the left."""

    job_clicked = Signal()

    def __init__(self, context: AppContext) -> None:
        super().__init__()
        self._context = context
        self.setSizeGripEnabled(False)
        self.setMinimumHeight(32)
        self.job = QToolButton()
        self.job.setObjectName("statusJob")
        self.job.setAccessibleName(self.tr("Running job"))
        self.job.setToolTip(self.tr("Show the Train page."))
        self.job.clicked.connect(self.job_clicked)
        self.addWidget(self.job)
        self.progress = QProgressBar()
        self.progress.setObjectName("statusProgress")
        self.progress.setAccessibleName(self.tr("Progress of the running job"))
        self.progress.setTextVisible(False)
        self.progress.setFixedSize(140, 8)
        self.progress.hide()
        self.addWidget(self.progress)
        self.machine = QLabel()
        self.machine.setObjectName("statusMachine")
        self.machine.setAccessibleName(self.tr("State of the machine"))
        self.machine.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        self.addPermanentWidget(self.machine)
        context.jobs.job_added.connect(self._on_job_added)
        context.jobs.job_changed.connect(self._on_jobs_changed)
        context.jobs.queue_changed.connect(self._on_jobs_changed)
        context.telemetry.updated.connect(self._on_telemetry_updated)
        context.telemetry.failed.connect(self._on_telemetry_failed)
        self.machine.setText(self.tr("Reading the machine…"))
        self._refresh()

    def _current(self) -> JobHandle | None:
        active = [
            handle
            for handle in self._context.jobs.active()
            if handle.request.kind not in ("monitor", "chat")
        ]
        return active[0] if active else None

    def _refresh(self) -> None:
        handle = self._current()
        waiting = len(self._context.jobs.queued())
        if handle is None:
            self.job.setText(self.tr("No job is running"))
            self.progress.hide()
            return
        title = handle.request.title or handle.request.kind
        text = f"{title}: {phase_word(handle.state.phase)}"
        if waiting:
            text += "   " + self.tr("({count} waiting)").format(count=waiting)
        self.job.setText(text)
        self.job.setToolTip(handle.state.sentence)
        progress = handle.progress
        known = progress is not None and progress.total > 0
        self.progress.setVisible(known)
        if known and progress is not None:
            self.progress.setRange(0, 1000)
            self.progress.setValue(round(1000 * min(1.0, progress.done / progress.total)))

    @Slot(object)
    def _on_job_added(self, handle: JobHandle) -> None:
        handle.events.connect(self._on_jobs_changed)
        self._refresh()

    @Slot()
    def _on_jobs_changed(self) -> None:
        self._refresh()

    @Slot(object)
    def _on_telemetry_updated(self, reading: Telemetry) -> None:
        text = machine_text(reading)
        if not reading.gpus:
            text += "   ·   " + self.tr("no GPU")
        self.machine.setText(text)
        self.machine.setToolTip(reading.gpu_note)

    @Slot(str)
    def _on_telemetry_failed(self, sentence: str) -> None:
        self.machine.setText(self.tr("No figures of the machine"))
        self.machine.setToolTip(sentence)
