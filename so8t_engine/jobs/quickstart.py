"""The whole main job without a window: starter persona, training, evaluation, figures."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import platformdirs

from so8t_engine.evaluation.results import Evaluation
from so8t_engine.events import Event, Rotation
from so8t_engine.jobs import evaluate, models, train
from so8t_engine.jobs.decide import verdict_row
from so8t_engine.jobs.evaluate import EvaluationRequest, evaluation_report
from so8t_engine.jobs.questions import Question
from so8t_engine.jobs.runtime import Control, Sink
from so8t_engine.labels import LABELS
from so8t_engine.rotations.analysis import Timeline
from so8t_engine.specs import TrainSpec, preset
from so8t_engine.verdict import decide
from so8t_engine.workspace.personas import Persona
from so8t_engine.workspace.runs import RunStore
from so8t_engine.workspace.workspace import Workspace


def quickstart_workspace() -> Path:
    """Return the folder that a quickstart uses, apart from the user's own workspace."""
    return Path(platformdirs.user_documents_dir()) / "SO8T-quickstart"


@dataclass(frozen=True)
class Outcome:
    """What came of a quickstart: the exit code and, if it is 0, the report."""

    code: int
    report: dict[str, Any]


class _LastRotation:
    """Keeps the newest recording's figures, as the training job measured them in float32."""

    def __init__(self) -> None:
        self.event: Rotation | None = None

    def __call__(self, event: Event) -> None:
        if isinstance(event, Rotation):
            self.event = event


def rotation_health(store: RunStore, last: Rotation | None) -> dict[str, Any]:
    """Return how far the rotations moved and how exactly they stay in SO(8).

    ``*_error_float32`` is what the training job measured on the rotations it used;
    ``*_error_float64`` is computed anew from the recorded generators. Angles in radians.
    """
    timeline = Timeline(store)
    if not timeline.steps:
        return {}
    summary = timeline.summary(timeline.steps[-1])
    gate, block, angle = summary.largest("safe")
    return {
        "step": summary.step,
        "gates": len(summary.gates),
        "mean_angle_safe": summary.mean_safe,
        "mean_angle_cmd": summary.mean_cmd,
        "largest_angle_safe": angle,
        "largest_gate_safe": gate,
        "largest_block_safe": block,
        "orthogonality_error_float64": summary.orthogonality,
        "determinant_error_float64": summary.determinant,
        "orthogonality_error_float32": last.max_orthogonality_error if last else None,
        "determinant_error_float32": last.max_determinant_error if last else None,
    }


def sample_decisions(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Return the decision on the first held-out row of each label, with the right label."""
    shown = []
    for label in LABELS:
        row = next((row for row in evaluation.rows if row.label is label), None)
        if row is None:
            continue
        verdict = decide(row.logits, evaluation.point)
        shown.append(
            {**verdict_row(Question(request=row.request), verdict), "expected": label.value}
        )
    return shown


def run(
    root: Path,
    *,
    slug: str | None = None,
    adjust: Callable[[TrainSpec], TrainSpec] = lambda spec: spec,
    sinks: list[Sink],
    control: Control | None = None,
) -> Outcome:
    """Do the main job in the workspace ``root`` (made if absent) and return what came of it.

    Args:
        root: folder of the workspace.
        slug: persona; None is the starter persona.
        adjust: changes the preset Quick trial on the persona's base model.
        sinks: receivers of every event of the three jobs.
        control: asks for a stop from within this process.

    Raises:
        So8tError: if the workspace or the persona cannot be used.
    """
    started = time.monotonic()
    workspace = Workspace.open(root, exclusive=False)
    persona: Persona = workspace.ensure_starter() if slug is None else workspace.persona(slug)
    quick = msgspec.structs.replace(preset("quick"), base_model=persona.info.base_model)
    chosen = adjust(quick)
    if chosen.base_model == "default":
        code = models.prepare(events=False, sinks=sinks)
        if code:
            return Outcome(code, {})
    rotations = _LastRotation()
    control = control or Control()
    code, store = train.run(
        chosen,
        persona,
        events=False,
        sinks=[*sinks, rotations],
        control=control,
    )
    if code or store is None:
        return Outcome(code or 1, {})
    if control.stop_requested:
        return Outcome(130, {})
    trained = time.monotonic()
    code, path, evaluation = evaluate.run(
        persona, store, EvaluationRequest(), events=False, sinks=sinks
    )
    if code or evaluation is None:
        return Outcome(code or 130, {})
    report = evaluation_report(evaluation, path)
    report.update(
        workspace=str(workspace.root),
        persona=persona.slug,
        rotations=rotation_health(store, rotations.event),
        decisions=sample_decisions(evaluation),
        training_seconds=trained - started,
        total_seconds=time.monotonic() - started,
    )
    return Outcome(0, report)
