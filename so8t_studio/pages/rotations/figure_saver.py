"""Saves what the page shows as a figure; the drawing is a job of the engine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PySide6.QtCore import QObject, Signal, Slot
from PySide6.QtWidgets import QFileDialog, QWidget

from so8t_studio.jobs.handle import JobHandle
from so8t_studio.jobs.request import JobRequest
from so8t_studio.jobs.service import JobService
from so8t_studio.jobs.state import JobState, Phase


@dataclass(frozen=True)
class FigureWish:
    """What is to be drawn: a block of a recorded step, at a strength, with colours stretched."""

    run_dir: Path
    gate: str
    block: int
    step: int
    strength: float
    stretch: bool

    @property
    def file_name(self) -> str:
        """A name that says what the figure shows."""
        return f"rotations_{self.run_dir.name}_{self.gate}_{self.block}_step{self.step}.png"

    def arguments(self, out: Path) -> list[str]:
        """Return the command line of the job."""
        args = ["figure", "rotations", "--run-dir", str(self.run_dir), "--gate", self.gate]
        args += ["--block", str(self.block), "--step", str(self.step), "--out", str(out)]
        args += ["--strength", str(self.strength), "--events"]
        return [*args, "--stretch"] if self.stretch else args


class FigureSaver(QObject):
    """``saved(Path)`` or ``failed(JobState)`` when the job has ended."""

    saved = Signal(object)
    failed = Signal(object)

    def __init__(self, jobs: JobService, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._jobs = jobs
        self._out = Path()

    def choose_and_save(self, wish: FigureWish, parent: QWidget) -> JobHandle | None:
        """Ask for a file and start; None if the user thought better of it."""
        chosen, _filter = QFileDialog.getSaveFileName(
            parent,
            self.tr("Save figure"),
            str(Path.home() / wish.file_name),
            self.tr("Pictures (*.png);;Vector graphics (*.svg);;PDF (*.pdf)"),
        )
        if not chosen:
            return None
        out = Path(chosen)
        return self.save(wish, out if out.suffix else out.with_suffix(".png"))

    def save(self, wish: FigureWish, out: Path) -> JobHandle:
        """Start the job that draws ``wish`` into ``out``."""
        self._out = out
        handle = self._jobs.start(
            JobRequest(
                kind="figure",
                args=wish.arguments(out),
                title=self.tr("Figure {name}").format(name=out.name),
            )
        )
        handle.ended.connect(self._on_ended)
        return handle

    @Slot(object)
    def _on_ended(self, state: JobState) -> None:
        if state.phase is Phase.DONE:
            self.saved.emit(self._out)
        else:
            self.failed.emit(state)
