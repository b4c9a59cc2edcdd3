"""Figures for papers and reports, drawn headless by matplotlib (never in the window's process)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from so8t_engine.errors import SpecError, WorkspaceError
from so8t_engine.events import Progress, Result
from so8t_engine.jobs.runtime import Job, Sink, run_job
from so8t_engine.rotations.analysis import BlockView, Recording, Timeline
from so8t_engine.workspace.atomic import write_with
from so8t_engine.workspace.runs import RunStore

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS: tuple[str, ...] = (".png", ".svg", ".pdf")
DPI = 200


def health_sentence(view: BlockView) -> str:
    """Return the health of a block as one line of figures."""
    return (
        f"max|RᵀR − I| = {view.orthogonality:.1e}, |det R − 1| = {view.determinant:.1e}, "
        f"‖[R_cmd, R_safe]‖ = {view.commutator_norm:.3g}"
    )


def angles_sentence(view: BlockView) -> str:
    """Return the principal angles of R_safe, R_cmd and their product in degrees."""
    parts = []
    for name, angles in (
        ("R_safe", view.angles_safe),
        ("R_cmd", view.angles_cmd),
        ("R_cmd R_safe", view.angles_product),
    ):
        parts.append(f"{name}: " + ", ".join(f"{np.degrees(angle):.2f}°" for angle in angles))
    return "Principal angles  " + "   ".join(parts)


def draw_rotations(
    recording: Recording,
    gate: str,
    block: int,
    *,
    run_id: str = "",
    strength: float = 1.0,
    stretch: bool = False,
) -> Figure:
    """Return a figure with R_safe, R_cmd, their product and their commutator.

    Raises:
        RecordingError: if there is no such gate or block.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    view = recording.view(gate, block, strength)
    figure = Figure(figsize=(12.0, 3.9), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 4)
    limit = view.colour_limit(stretch=stretch)
    first, last = recording.channels(block)
    ticks = list(range(8))
    names = [str(channel) for channel in range(first, last + 1)]
    if recording.sharing == "shared":
        names = [str(tick) for tick in ticks]
    image: Any = None
    for axis, title, matrix in zip(
        axes,
        ("$R_{safe}$", "$R_{cmd}$", "$R_{cmd} R_{safe}$", "$R_{cmd}R_{safe} - R_{safe}R_{cmd}$"),
        (view.safe, view.cmd, view.product, view.commutator),
        strict=True,
    ):
        image = axis.imshow(matrix, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
        axis.set_title(title)
        axis.set_xticks(ticks, names, fontsize=7)
        axis.set_yticks(ticks, names, fontsize=7)
        axis.set_xlabel("input channel")
    axes[0].set_ylabel("output channel")
    figure.colorbar(
        image, ax=list(axes), shrink=0.85, label="entry", extend="both" if stretch else "neither"
    )
    where = "shared by all blocks" if recording.sharing == "shared" else f"block {block}"
    head = f"{gate}, {where}, step {recording.step}, strength {strength:g}"
    figure.suptitle(f"{run_id}: {head}" if run_id else head, fontsize=11)
    # \n keeps both lines inside of what the layout engine reserves for the label.
    figure.supxlabel(f"{angles_sentence(view)}\n{health_sentence(view)}", fontsize=8)
    return figure


def save_figure(figure: Figure, out: Path) -> None:
    """Write a figure atomically in the format of the file's name.

    Raises:
        SpecError: if the name ends in no known format.
        WorkspaceError: if the file cannot be written.
    """
    from matplotlib import rc_context

    suffix = out.suffix.lower()
    if suffix not in FORMATS:
        raise SpecError(
            f"{out.name} does not name a picture format.",
            next_step=f"End the file name in one of: {', '.join(FORMATS)}.",
        )

    def write(name: str) -> None:
        # A fixed salt and no date: the same figure gives the same bytes.
        metadata = {"Date": None} if suffix == ".svg" else None
        with rc_context({"svg.hashsalt": "so8t", "svg.fonttype": "path"}):
            figure.savefig(name, format=suffix[1:], dpi=DPI, metadata=metadata)

    try:
        write_with(out, write)
    except OSError as error:
        raise WorkspaceError(
            f"The figure {out} cannot be written: {error.strerror}.",
            next_step="Choose a folder that may be written, on a disk that is not full.",
        ) from error


def run(
    run_dir: Path,
    out: Path,
    *,
    gate: str = "",
    block: int | None = None,
    step: int | None = None,
    strength: float = 1.0,
    stretch: bool = False,
    events: bool = False,
    sinks: Sequence[Sink] = (),
) -> int:
    """Draw the rotations of one block as a job and return the exit code.

    What is left out is chosen: the last recorded step, and the block with the largest angle.
    """

    def body(job: Job) -> str:
        timeline = Timeline(RunStore(run_dir))
        if not timeline.steps:
            raise WorkspaceError(
                f"The run {run_dir.name} has no recorded rotations.",
                next_step="Choose a run that trained with gates and recorded at least one step.",
            )
        job.emitter.emit(Progress(phase="reading", done=0, total=2, unit="parts"))
        recording = timeline.recording(timeline.steps[-1] if step is None else step)
        chosen_gate, chosen_block = gate, block
        if not gate or block is None:
            angles = recording.summary().safe
            chosen_gate = gate or max(angles, key=lambda name: float(angles[name].max()))
            if chosen_gate in angles and block is None:
                chosen_block = int(angles[chosen_gate].argmax())
        job.emitter.emit(Progress(phase="drawing", done=1, total=2, unit="parts"))
        figure = draw_rotations(
            recording,
            chosen_gate,
            chosen_block or 0,
            run_id=run_dir.name,
            strength=strength,
            stretch=stretch,
        )
        save_figure(figure, out)
        job.emitter.emit(Progress(phase="drawing", done=2, total=2, unit="parts"))
        data = {
            "path": str(out),
            "gate": chosen_gate,
            "block": chosen_block or 0,
            "step": recording.step,
        }
        job.emitter.emit(Result(name="figure", data=data))
        return f"The figure is in {out}."

    return run_job("figure", body, events=events, sinks=list(sinks))
