"""What the Rotations page shows, read from a run's folder (no Qt; called off the GUI thread)."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

import msgspec

from so8t_engine.errors import So8tError
from so8t_engine.events import Rotation
from so8t_engine.rotations.analysis import Recording, Summary, Timeline
from so8t_engine.workspace.personas import Persona
from so8t_engine.workspace.runs import ACTIVE_STATES, RunStore

IdentityReason = Literal["", "start", "no_weight", "no_texts", "unknown"]
OPEN_TIMELINES = 3


@dataclass(frozen=True)
class RunChoice:
    """One entry of the run list.

    Attributes:
        id: session id.
        name: name of its specification, e.g. ``Quick trial``.
        state: state of its process.
        recordings: number of recorded steps.
    """

    id: str
    name: str
    state: str
    recordings: int

    @property
    def active(self) -> bool:
        """True while the run may still record."""
        return self.state in ACTIVE_STATES


@dataclass(frozen=True)
class HistoryPoint:
    """The whole model at one recorded step; angles in degrees.

    Attributes:
        step: optimizer step.
        angle_safe: mean of the largest angles of R_safe over all gates and blocks.
        angle_cmd: likewise of R_cmd.
        orthogonality: worst max|RᵀR − I| as the training measured it in float32.
        determinant: worst |det R − 1|, likewise.
    """

    step: int
    angle_safe: float
    angle_cmd: float
    orthogonality: float
    determinant: float


@dataclass(frozen=True, eq=False)
class Frame:
    """One recorded step of a run."""

    run_id: str
    recording: Recording
    summary: Summary


@dataclass(frozen=True, eq=False)
class OpenedRun:
    """A run with its list of steps and the step that is shown first.

    Attributes:
        run_id: session id.
        state: state of its process.
        steps: recorded steps, ascending.
        history: the model over the steps.
        reason: why R_cmd is the identity, if it is.
        frame: the last step; None where nothing is recorded.
    """

    run_id: str
    state: str
    steps: tuple[int, ...]
    history: tuple[HistoryPoint, ...]
    reason: IdentityReason
    frame: Frame | None


class RotationReader:
    """Reads runs of one persona and keeps the last few open. Used on the background thread only."""

    def __init__(self) -> None:
        self._timelines: OrderedDict[str, Timeline] = OrderedDict()

    def choices(self, persona: Persona) -> list[RunChoice]:
        """Return all runs, newest first."""
        found = []
        for run in persona.runs():
            try:
                name = run.spec().name
            except So8tError:
                name = ""
            found.append(
                RunChoice(
                    id=run.id,
                    name=name,
                    state=run.state().state,
                    recordings=len(run.rotation_files()),
                )
            )
        return found

    def _timeline(self, run: RunStore) -> Timeline:
        key = str(run.root)
        if key in self._timelines:
            self._timelines.move_to_end(key)
            self._timelines[key].refresh()
        else:
            self._timelines[key] = Timeline(run)
            while len(self._timelines) > OPEN_TIMELINES:
                self._timelines.popitem(last=False)
        return self._timelines[key]

    def open(self, run: RunStore) -> OpenedRun:
        """Return a run with its last step.

        Raises:
            RecordingError: if the last recording cannot be read.
        """
        timeline = self._timeline(run)
        steps = tuple(timeline.steps)
        frame = self.frame(run, steps[-1]) if steps else None
        return OpenedRun(
            run_id=run.id,
            state=run.state().state,
            steps=steps,
            history=self._history(run, timeline),
            reason=identity_reason(run, frame.recording.step) if frame else "",
            frame=frame,
        )

    def frame(self, run: RunStore, step: int) -> Frame:
        """Return one step.

        Raises:
            RecordingError: if it was not recorded or cannot be read.
        """
        timeline = self._timeline(run)
        return Frame(
            run_id=run.id, recording=timeline.recording(step), summary=timeline.summary(step)
        )

    @staticmethod
    def _history(run: RunStore, timeline: Timeline) -> tuple[HistoryPoint, ...]:
        """Return what the training reported; a step without a report is measured here."""
        reported = {event.step: event for event in run.events() if isinstance(event, Rotation)}
        points = []
        for step in timeline.steps:
            event = reported.get(step)
            if event is not None:
                points.append(
                    HistoryPoint(
                        step=step,
                        angle_safe=math.degrees(event.mean_angle_safe),
                        angle_cmd=math.degrees(event.mean_angle_cmd),
                        orthogonality=event.max_orthogonality_error,
                        determinant=event.max_determinant_error,
                    )
                )
                continue
            try:
                summary = timeline.summary(step)
            except So8tError:
                continue
            points.append(
                HistoryPoint(
                    step=step,
                    angle_safe=math.degrees(summary.mean_safe),
                    angle_cmd=math.degrees(summary.mean_cmd),
                    orthogonality=summary.orthogonality,
                    determinant=summary.determinant,
                )
            )
        return tuple(points)


def identity_reason(run: RunStore, step: int) -> IdentityReason:
    """Return why R_cmd would be the identity at ``step`` of a run."""
    if step == 0:
        return "start"
    try:
        spec = run.spec()
        if spec.loss.w_task == 0:
            return "no_weight"
        target = spec.loss.task_target
        if not any(getattr(sample, target) for sample in run.samples() if sample.split == "train"):
            return "no_texts"
    except (So8tError, OSError, msgspec.DecodeError):
        return "unknown"
    return "unknown"
