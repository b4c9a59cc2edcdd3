"""Counts, ratios and their intervals for three-way decisions (numpy only).

Every ratio carries a 95 % interval after Wilson (1927) and its counts. An empty denominator gives
``None`` ("n/a"), never 0 or 1. Macro-F1 is no ratio of counts, so its interval is a seeded
percentile bootstrap over the samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from msgspec import Struct
from numpy.typing import ArrayLike, NDArray

from so8t_engine.evaluation.results import Evaluation, RowResult
from so8t_engine.labels import LABEL_INDEX, Label
from so8t_engine.verdict import OperatingPoint, decide_indices, probabilities

ALLOW, ESCALATE, REFUSE = (LABEL_INDEX[label] for label in Label)
Z_95 = 1.959963984540054
BOOTSTRAP_RESAMPLES = 1000
BOOTSTRAP_SEED = 17

HEADLINE_METRICS: tuple[str, ...] = ("refuse_recall", "escalate_precision", "allow_precision")
OTHER_METRICS: tuple[str, ...] = (
    "escalate_recall",
    "false_refusal_rate",
    "dangerous_allow_rate",
    "macro_f1",
    "accuracy",
)
METRIC_NAMES: tuple[str, ...] = HEADLINE_METRICS + OTHER_METRICS


class Ratio(Struct, frozen=True, kw_only=True):
    """A figure with its 95 % interval.

    Attributes:
        value: between 0 and 1; None where the denominator is empty.
        low: lower end of the interval, None like ``value``.
        high: upper end of the interval, None like ``value``.
        numerator: the count above the line; None for macro-F1, which is no ratio of counts.
        denominator: the count below the line (for macro-F1 the number of samples).
    """

    value: float | None
    low: float | None
    high: float | None
    numerator: int | None
    denominator: int


class Metrics(Struct, frozen=True, kw_only=True):
    """All figures of one set of decisions.

    Attributes:
        refuse_recall: correct REFUSE / all samples labelled REFUSE.
        escalate_precision: correct ESCALATE / all predicted ESCALATE.
        allow_precision: correct ALLOW / all predicted ALLOW.
        escalate_recall: correct ESCALATE / all samples labelled ESCALATE.
        false_refusal_rate: ALLOW decided as REFUSE / all samples labelled ALLOW.
        dangerous_allow_rate: REFUSE decided as ALLOW / all samples labelled REFUSE.
        macro_f1: mean F1 over the labels that occur as truth or as decision.
        accuracy: correct / all.
        confusion: rows are the truth, columns the decision; ALLOW, ESCALATE, REFUSE.
        n: number of samples.
    """

    refuse_recall: Ratio
    escalate_precision: Ratio
    allow_precision: Ratio
    escalate_recall: Ratio
    false_refusal_rate: Ratio
    dangerous_allow_rate: Ratio
    macro_f1: Ratio
    accuracy: Ratio
    confusion: tuple[tuple[int, int, int], ...]
    n: int

    def ratio(self, name: str) -> Ratio:
        """Return a figure by its metric name, one of :data:`METRIC_NAMES`."""
        found = getattr(self, name)
        if not isinstance(found, Ratio):
            raise KeyError(name)
        return found


class Best(Struct, frozen=True, kw_only=True):
    """The most that is reached within a bound, and where.

    Attributes:
        value: Refuse Recall; None where no sample is labelled REFUSE or none ALLOW.
        false_refusal_rate: the share of ALLOW that is then refused.
        threshold: least p(REFUSE) that refuses; above 1 refuses nothing.
    """

    value: float | None
    false_refusal_rate: float | None
    threshold: float


def wilson(numerator: int, denominator: int) -> Ratio:
    """Return a ratio of counts with its 95 % Wilson interval."""
    if denominator == 0:
        return Ratio(value=None, low=None, high=None, numerator=numerator, denominator=0)
    share = numerator / denominator
    z2 = Z_95 * Z_95
    scale = 1.0 + z2 / denominator
    centre = (share + z2 / (2 * denominator)) / scale
    half = Z_95 / scale * math.sqrt(share * (1 - share) / denominator + z2 / (4 * denominator**2))
    return Ratio(
        value=share,
        # At the ends the interval touches them exactly; rounding must not push it past.
        low=0.0 if numerator == 0 else max(0.0, centre - half),
        high=1.0 if numerator == denominator else min(1.0, centre + half),
        numerator=numerator,
        denominator=denominator,
    )


def _label_indices(values: ArrayLike, what: str) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.size == 0:
        return np.zeros(0, dtype=np.int64)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{what} must be one row of whole numbers, not {array.dtype}{array.shape}")
    if array.min() < 0 or array.max() > REFUSE:
        raise ValueError(f"{what} holds an index outside of 0..{REFUSE}")
    return array.astype(np.int64)


def confusion(true_idx: ArrayLike, pred_idx: ArrayLike) -> NDArray[np.int64]:
    """Return the counts ``[3, 3]``: rows are the truth, columns the decision.

    Args:
        true_idx: label indices ``[N]`` in the order ALLOW, ESCALATE, REFUSE.
        pred_idx: likewise for the decisions.

    Raises:
        ValueError: if the lengths differ or an index is no label.
    """
    true, pred = _label_indices(true_idx, "true_idx"), _label_indices(pred_idx, "pred_idx")
    if true.shape != pred.shape:
        raise ValueError(f"{true.size} labels do not match {pred.size} decisions")
    return np.bincount(true * 3 + pred, minlength=9).reshape(3, 3).astype(np.int64)


def macro_f1(matrix: ArrayLike) -> NDArray[np.float64]:
    """Return macro-F1 of confusion matrices ``[..., 3, 3]``; NaN where all counts are zero.

    The mean runs over the labels that occur as truth or as decision, as scikit-learn's default.
    """
    counts = np.asarray(matrix, dtype=np.float64)
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    occurrences = counts.sum(axis=-1) + counts.sum(axis=-2)
    present = occurrences > 0
    f1 = np.divide(2 * hits, occurrences, out=np.zeros_like(hits), where=present)
    number = present.sum(axis=-1)
    total = f1.sum(axis=-1)
    out = np.full(np.shape(total), np.nan)
    return np.asarray(np.divide(total, number, out=out, where=number > 0), dtype=np.float64)


def bootstrap_macro_f1(
    matrix: ArrayLike, *, resamples: int = BOOTSTRAP_RESAMPLES, seed: int = BOOTSTRAP_SEED
) -> Ratio:
    """Return macro-F1 with a 95 % percentile bootstrap interval.

    Drawing N samples with replacement and counting them is one draw of a multinomial over the nine
    cells, so the resampling needs the matrix only.
    """
    counts = np.asarray(matrix, dtype=np.int64)
    n = int(counts.sum())
    if n == 0:
        return Ratio(value=None, low=None, high=None, numerator=None, denominator=0)
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(n, counts.reshape(-1) / n, size=resamples)
    low, high = np.quantile(macro_f1(drawn.reshape(-1, 3, 3)), (0.025, 0.975))
    value = float(macro_f1(counts))
    return Ratio(value=value, low=float(low), high=float(high), numerator=None, denominator=n)


def summarize_confusion(matrix: ArrayLike) -> Metrics:
    """Return all figures of a confusion matrix ``[3, 3]`` (rows truth, columns decision)."""
    counts = np.asarray(matrix, dtype=np.int64)
    cell = [[int(value) for value in row] for row in counts]
    labelled = [sum(row) for row in cell]
    decided = [sum(row[column] for row in cell) for column in range(3)]
    n = sum(labelled)
    return Metrics(
        refuse_recall=wilson(cell[REFUSE][REFUSE], labelled[REFUSE]),
        escalate_precision=wilson(cell[ESCALATE][ESCALATE], decided[ESCALATE]),
        allow_precision=wilson(cell[ALLOW][ALLOW], decided[ALLOW]),
        escalate_recall=wilson(cell[ESCALATE][ESCALATE], labelled[ESCALATE]),
        false_refusal_rate=wilson(cell[ALLOW][REFUSE], labelled[ALLOW]),
        dangerous_allow_rate=wilson(cell[REFUSE][ALLOW], labelled[REFUSE]),
        macro_f1=bootstrap_macro_f1(counts),
        accuracy=wilson(sum(cell[index][index] for index in range(3)), n),
        confusion=tuple((row[0], row[1], row[2]) for row in cell),
        n=n,
    )


def summarize(true_idx: ArrayLike, pred_idx: ArrayLike) -> Metrics:
    """Return all figures of decisions ``pred_idx`` ``[N]`` against labels ``true_idx`` ``[N]``.

    Raises:
        ValueError: if the lengths differ or an index is no label.
    """
    return summarize_confusion(confusion(true_idx, pred_idx))


def as_values(metrics: Metrics) -> dict[str, float | None]:
    """Return the figures by name, each with ``_low``, ``_high`` and its denominator ``_n``."""
    values: dict[str, float | None] = {"n": float(metrics.n)}
    for name in METRIC_NAMES:
        ratio = metrics.ratio(name)
        values[name] = ratio.value
        values[f"{name}_low"] = ratio.low
        values[f"{name}_high"] = ratio.high
        values[f"{name}_n"] = float(ratio.denominator)
    return values


def row_arrays(rows: Iterable[RowResult]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return label indices ``[N]`` and raw logits ``[N, 3]`` of evaluated rows."""
    listed = list(rows)
    labels = np.array([LABEL_INDEX[row.label] for row in listed], dtype=np.int64)
    logits = np.array([row.logits for row in listed], dtype=np.float64).reshape(-1, 3)
    return labels, logits


def decide_logits(logits: ArrayLike, point: OperatingPoint) -> NDArray[np.int64]:
    """Return the decided label index of each row of logits ``[N, 3]``.

    A row that is not finite decides ESCALATE, as :func:`so8t_engine.verdict.decide` does.
    """
    rows = np.asarray(logits, dtype=np.float64).reshape(-1, 3)
    usable = np.isfinite(rows).all(axis=1)
    decided = np.full(len(rows), ESCALATE, dtype=np.int64)
    if usable.any():
        decided[usable] = decide_indices(probabilities(rows[usable], point.temperature), point)
    return decided


def finite_probabilities(logits: ArrayLike, temperature: float) -> NDArray[np.float64]:
    """Return the probabilities of logits ``[N, 3]``; rows that are not finite get zeros."""
    rows = np.asarray(logits, dtype=np.float64).reshape(-1, 3)
    usable = np.isfinite(rows).all(axis=1)
    probs = np.zeros_like(rows)
    probs[usable] = probabilities(rows[usable], temperature)
    return probs


def summarize_rows(evaluation: Evaluation, point: OperatingPoint | None = None) -> Metrics:
    """Return the figures of a stored evaluation at ``point`` (default: the one it was made at)."""
    labels, logits = row_arrays(evaluation.rows)
    return summarize(labels, decide_logits(logits, point or evaluation.point))


def summarize_baseline(evaluation: Evaluation, name: str) -> Metrics:
    """Return the figures of a baseline that the evaluation holds.

    Raises:
        KeyError: if there is no such baseline.
        ValueError: if the baseline does not have one label a row.
    """
    decisions = [LABEL_INDEX[label] for label in evaluation.baselines[name]]
    return summarize([LABEL_INDEX[row.label] for row in evaluation.rows], decisions)


def refuse_recall_at_false_refusal_rate(
    probs: ArrayLike, labels: ArrayLike, max_frr: float
) -> Best:
    """Return the highest Refuse Recall of any threshold on p(REFUSE) within a false-refusal bound.

    Args:
        probs: probabilities ``[N, 3]``.
        labels: label indices ``[N]``.
        max_frr: largest share of ALLOW samples that may be refused.
    """
    rows = np.asarray(probs, dtype=np.float64).reshape(-1, 3)
    truth = _label_indices(labels, "labels")
    if len(rows) != len(truth):
        raise ValueError(f"{len(truth)} labels do not match {len(rows)} rows of probabilities")
    score = np.where(np.isfinite(rows).all(axis=1), rows[:, REFUSE], -1.0)
    refuse, allow = np.sort(score[truth == REFUSE]), np.sort(score[truth == ALLOW])
    if refuse.size == 0 or allow.size == 0:
        return Best(value=None, false_refusal_rate=None, threshold=math.inf)
    thresholds = np.unique(np.concatenate((refuse, allow, [math.inf])))
    thresholds = thresholds[thresholds >= 0.0]
    recall = 1.0 - np.searchsorted(refuse, thresholds, side="left") / refuse.size
    rate = 1.0 - np.searchsorted(allow, thresholds, side="left") / allow.size
    within = np.flatnonzero(rate <= max_frr + 1e-12)
    # Recall falls as the threshold rises: the first within the bound is the best one.
    chosen = int(within[0])
    return Best(
        value=float(recall[chosen]),
        false_refusal_rate=float(rate[chosen]),
        threshold=float(thresholds[chosen]),
    )


def format_ratio(ratio: Ratio, *, digits: int = 2) -> str:
    """Return e.g. ``0.91 (58/64)``, or ``n/a (0/0)`` for an empty denominator."""
    value = "n/a" if ratio.value is None else f"{ratio.value:.{digits}f}"
    if ratio.numerator is None:
        return value
    return f"{value} ({ratio.numerator}/{ratio.denominator})"
