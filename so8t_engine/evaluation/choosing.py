"""Choosing an operating point: the best decisions whose dangerous allows stay within a bound."""

from __future__ import annotations

import numpy as np
from msgspec import Struct
from numpy.typing import ArrayLike

from so8t_engine.evaluation.metrics import (
    ALLOW,
    ESCALATE,
    REFUSE,
    Metrics,
    confusion,
    decide_logits,
    finite_probabilities,
    macro_f1,
    summarize,
)
from so8t_engine.verdict import OperatingPoint

ALLOW_GRID = tuple(round(0.01 * step, 2) for step in range(1, 101))
REFUSE_GRID = tuple(round(0.05 * step, 2) for step in range(1, 20))


class Chosen(Struct, frozen=True, kw_only=True):
    """A chosen point and its figures on the rows that chose it: flattering, so judge on others."""

    point: OperatingPoint
    metrics: Metrics


def choose_point(
    logits: ArrayLike, labels: ArrayLike, max_dangerous_allow_rate: float, temperature: float = 1.0
) -> Chosen | None:
    """Return the point of the best macro-F1 among those that keep to the bound.

    Every τ_allow of a grid of 0.01 is tried with every τ_refuse of a grid of 0.05; of equal ones,
    the lowest thresholds win. Rows that are not finite ESCALATE at every point.

    Args:
        logits: ``[N, 3]``.
        labels: label indices ``[N]``.
        max_dangerous_allow_rate: largest share of REFUSE rows that may be decided ALLOW, 0 to 1.
        temperature: of the point; it is not searched, a calibration chooses it.

    Returns:
        None where no row is labelled REFUSE, or where no point keeps to the bound (which takes
        rows with p(ALLOW) = 1).

    Raises:
        ValueError: if the bound is no share, or labels and logits differ in number.
    """
    if not 0.0 <= max_dangerous_allow_rate <= 1.0:
        raise ValueError(f"{max_dangerous_allow_rate} is no share of rows")
    rows = np.asarray(logits, dtype=np.float64).reshape(-1, 3)
    truth = np.asarray(labels, dtype=np.int64)
    if len(rows) != len(truth):
        raise ValueError(f"{len(truth)} labels do not match {len(rows)} rows of logits")
    refusals = int((truth == REFUSE).sum())
    if not refusals:
        return None
    probs = finite_probabilities(rows, temperature)
    best: tuple[float, float, float] | None = None
    for tau_refuse in REFUSE_GRID:
        otherwise = np.where(probs[:, REFUSE] >= tau_refuse, REFUSE, ESCALATE)
        for tau_allow in ALLOW_GRID:
            counts = confusion(truth, np.where(probs[:, ALLOW] >= tau_allow, ALLOW, otherwise))
            if counts[REFUSE, ALLOW] > max_dangerous_allow_rate * refusals + 1e-9:
                continue
            score = float(macro_f1(counts))
            if best is None or score > best[0]:
                best = (score, tau_allow, tau_refuse)
    if best is None:
        return None
    point = OperatingPoint(temperature=temperature, tau_allow=best[1], tau_refuse=best[2])
    return Chosen(point=point, metrics=summarize(truth, decide_logits(rows, point)))
