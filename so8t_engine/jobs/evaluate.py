"""Measure a trained persona, or its base model, on rows with known labels."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from so8t_engine.errors import DataError
from so8t_engine.evaluation.baselines import compute_baselines
from so8t_engine.evaluation.metrics import (
    Metrics,
    as_values,
    summarize_baseline,
    summarize_rows,
)
from so8t_engine.evaluation.results import Evaluation, RowResult, save_evaluation
from so8t_engine.events import Hello, Metric, Progress, Result, number_to_wire
from so8t_engine.jobs.runtime import Job, Sink, run_job
from so8t_engine.jobs.selection import build_decider, checkpoint_of
from so8t_engine.jobs.starting import training_rows
from so8t_engine.samples.schema import SPLITS, Sample
from so8t_engine.workspace.personas import Persona
from so8t_engine.workspace.runs import RunStore
from so8t_engine.workspace.starts import row_key

BATCH_SIZE = 16
_SHOWN_REJECTS = 20


@dataclass(frozen=True)
class EvaluationRequest:
    """What to measure.

    Attributes:
        data: ``validation``, ``test``, ``train`` (rows that the run froze) or a file.
        name: name of the result; empty: the split, or the file's stem.
        arm: ``trained``, or ``base`` for the model before training.
    """

    data: str = "validation"
    name: str = ""
    arm: str = "trained"

    @property
    def result_name(self) -> str:
        """File stem under ``evaluations/``, safe on every file system."""
        wanted = self.name or (self.data if self.data in SPLITS else Path(self.data).stem)
        plain = re.sub(r"[^\w.-]+", "-", wanted).strip("-.") or "evaluation"
        return f"base-{plain}" if self.arm == "base" and not self.name else plain


def rows_to_evaluate(
    run: RunStore, persona: Persona, data: str, warn: Callable[[str], None]
) -> tuple[list[Sample], list[Sample], int]:
    """Return the rows to measure, what the weights were trained on (for the baselines), and how
    many rows of a file could not be read. Rows that are both are announced.

    Raises:
        DataError: if the run has no such rows, or the file none that can be used.
    """
    try:
        frozen = run.samples()
    except OSError as error:
        raise DataError(
            f"The data of run {run.id} cannot be read: {error.strerror}.",
            next_step="Choose another run.",
        ) from error
    train, seen = training_rows(run, persona, frozen)
    if data in SPLITS:
        rows = [sample for sample in frozen if sample.split == data]
        if not rows:
            raise DataError(
                f"The run {run.id} has no rows in its {data} split.",
                next_step="Name another split or a file with --data.",
            )
        return rows, train, 0
    found, rejected = _read_file(Path(data).expanduser(), warn)
    known = sum(row_key(row) in seen for row in found)
    if known:
        warn(
            f"{known} of these {len(found)} rows were trained on; the figures say less about"
            " requests that are new."
        )
    return found, train, rejected


def _read_file(path: Path, warn: Callable[[str], None]) -> tuple[list[Sample], int]:
    from so8t_engine.samples.readers import read_samples

    if not path.is_file():
        raise DataError(
            f"There is no file {path}.",
            next_step="Use validation, test, or the path of a dataset file.",
        )
    found = read_samples(path)
    for reject in found.rejected[:_SHOWN_REJECTS]:
        warn(f"{reject.file}, row {reject.line}, {reject.field}: {reject.reason}")
    if len(found.rejected) > _SHOWN_REJECTS:
        warn(f"… and {len(found.rejected) - _SHOWN_REJECTS} more rows were left out.")
    if not found.samples:
        first = f" The first: {found.rejected[0].reason}." if found.rejected else ""
        raise DataError(
            f"{path} has no row that can be evaluated.{first}",
            next_step="Each row needs a request and a label (ALLOW, ESCALATE or REFUSE).",
        )
    return found.samples, len(found.rejected)


@dataclass(frozen=True)
class Measured:
    """What an evaluation left behind.

    Attributes:
        path: the saved result.
        evaluation: its content.
        metrics: its figures at the persona's operating point.
        rejected: rows of the file that could not be read and were not measured.
    """

    path: Path
    evaluation: Evaluation
    metrics: Metrics
    rejected: int


def evaluation_report(evaluation: Evaluation, path: Path | None) -> dict[str, Any]:
    """Return the figures under stable names, as ``--json`` prints them."""
    metrics = summarize_rows(evaluation, evaluation.point)
    return {
        "name": evaluation.name,
        "run": evaluation.run,
        "checkpoint": evaluation.checkpoint,
        "path": str(path) if path is not None else "",
        "rows": metrics.n,
        "seconds": evaluation.seconds,
        "metrics": as_values(metrics),
        "confusion": [list(row) for row in metrics.confusion],
        "baselines": {
            name: as_values(summarize_baseline(evaluation, name)) for name in evaluation.baselines
        },
    }


def measure(
    job: Job, persona: Persona, run: RunStore, request: EvaluationRequest
) -> Measured | None:
    """Load the model, decide every row, save and announce the result; None if it was stopped.

    Raises:
        So8tError: if the data or the model cannot be used; nothing is then written.
    """

    def warn(message: str) -> None:
        job.emitter.log(message, "warning")

    rows, train, rejected = rows_to_evaluate(run, persona, request.data, warn)
    checkpoint = checkpoint_of(run).name if request.arm == "trained" else ""
    job.emitter.emit(Progress(phase="loading base", done=0, total=1))
    decider = build_decider(persona, run, request.arm, job.emitter.log)
    job.emitter.emit(Progress(phase="loading base", done=1, total=1))
    started = time.perf_counter()
    try:
        logits, truncated = decider.logits(
            [(row.context, row.request) for row in rows],
            batch_size=BATCH_SIZE,
            progress=_evaluation_progress(job, started),
            cancelled=lambda: job.control.stop_requested,
        )
    except InterruptedError:
        return None
    seconds = time.perf_counter() - started
    if truncated.any():
        warn(f"{int(truncated.sum())} requests were longer than the model reads and were cut.")
    baselines, notes = compute_baselines(train, rows)
    for note in notes:
        warn(note)
    evaluation = Evaluation(
        name=request.result_name,
        run="base" if request.arm == "base" else run.id,
        checkpoint=checkpoint,
        created=time.time(),
        point=persona.info.point,
        rows=_row_results(rows, logits),
        baselines=baselines,
        seconds=seconds,
    )
    path = run.evaluations_dir / f"{request.result_name}.json"
    save_evaluation(path, evaluation)
    metrics = summarize_rows(evaluation, evaluation.point)
    values = as_values(metrics)
    wire = {name: number_to_wire(value) for name, value in values.items()}
    job.emitter.emit(Metric(step=0, epoch=0.0, split=request.result_name, values=wire))
    data = evaluation_report(evaluation, path)
    job.emitter.emit(Result(name="evaluation", data=data))
    return Measured(path, evaluation, metrics, rejected)


def _evaluation_progress(job: Job, started: float) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        spent = time.perf_counter() - started
        eta = spent / done * (total - done) if done else None
        job.emitter.emit(
            Progress(phase="evaluating", done=done, total=total, unit="rows", eta_s=eta)
        )

    return progress


def _row_results(rows: Sequence[Sample], logits: Any) -> list[RowResult]:
    return [
        RowResult(
            id=row.id,
            label=row.label,
            logits=(float(values[0]), float(values[1]), float(values[2])),
            request=row.request,
            category=row.category,
            language=row.language,
        )
        for row, values in zip(rows, logits, strict=True)
    ]


def run(
    persona: Persona,
    store: RunStore,
    request: EvaluationRequest,
    *,
    events: bool,
    sinks: Sequence[Sink] = (),
) -> tuple[int, Path | None, Evaluation | None]:
    """Evaluate as this process's job; return the exit code and what was saved.

    Rows of a file that cannot be read are named and left out. The result is kept, but the exit code
    says so to a script; the window (``events``) shows the warnings instead.
    """
    outcome: list[Measured] = []

    def body(job: Job) -> str:
        job.emitter.emit(Hello(kind="eval", pid=os.getpid(), run_dir=str(store.root)))
        measured = measure(job, persona, store, request)
        if measured is None:
            return "The evaluation was stopped; nothing was saved."
        outcome.append(measured)
        left_out = f", {measured.rejected} could not be read" if measured.rejected else ""
        return f"{len(measured.evaluation.rows)} rows evaluated{left_out}."

    code = run_job(store.id, body, events=events, sinks=list(sinks))
    if not outcome:
        return code, None, None
    if not code and outcome[0].rejected and not events:
        code = DataError.exit_code
    return code, outcome[0].path, outcome[0].evaluation
