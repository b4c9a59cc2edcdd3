"""A few fixed validation cases whose verdicts are reported after each evaluation (torch-free)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from so8t_engine.events import Result
from so8t_engine.labels import LABELS
from so8t_engine.verdict import OperatingPoint, decide
from so8t_engine.workspace.runs import RunStore

PER_LABEL = 2
TEXT = 160
NAME = "cases"


def watched_rows(labels: NDArray[np.integer], per_label: int = PER_LABEL) -> list[int]:
    """Return the rows that are watched: the first ``per_label`` of each label.

    Validation rows keep their order through a run, so these are the same cases every time.

    Args:
        labels: ``[N]`` label indices.
        per_label: how many of each label.
    """
    found: list[int] = []
    for index in range(len(LABELS)):
        found += np.flatnonzero(labels == index)[:per_label].tolist()
    return found


def case_verdicts(
    run: RunStore,
    labels: NDArray[np.integer],
    logits: NDArray[np.floating],
    point: OperatingPoint,
    step: int,
) -> Result:
    """Return ``Result(name="cases")``: ``step`` and for each case what was decided.

    A case has ``id``, ``request`` (shortened), ``expected``, ``decided`` and ``p_allow``,
    ``p_escalate``, ``p_refuse``.

    Args:
        run: the run, whose frozen validation rows are in the order of ``labels``.
        labels: ``[N]`` label indices.
        logits: ``[N, 3]``.
        point: temperature and thresholds of the persona.
        step: optimizer step of this evaluation.
    """
    texts = [sample for sample in run.samples() if sample.split == "validation"]
    cases = []
    for row in watched_rows(labels):
        sample, verdict = texts[row], decide(logits[row], point)
        shares = verdict.probabilities
        cases.append(
            {
                "id": sample.id,
                "request": sample.request[:TEXT],
                "expected": sample.label.value,
                "decided": verdict.label.value,
                "p_allow": shares[0],
                "p_escalate": shares[1],
                "p_refuse": shares[2],
            }
        )
    return Result(name=NAME, data={"step": step, "cases": cases})
