"""Metrics against scikit-learn and against their definitions."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    f1_score,
    precision_score,
    recall_score,
)

from so8t_engine.evaluation import metrics
from so8t_engine.evaluation.results import Evaluation, RowResult
from so8t_engine.labels import LABELS, Label
from so8t_engine.verdict import OperatingPoint, decide

pairs = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=60)


@settings(deadline=None)
@given(pairs)
def test_confusion_and_f1_equal_scikit_learn(rows: list[tuple[int, int]]) -> None:
    true, pred = np.array(rows).T
    matrix = metrics.confusion(true, pred)
    assert matrix.dtype == np.int64
    np.testing.assert_array_equal(matrix, confusion_matrix(true, pred, labels=[0, 1, 2]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert float(metrics.macro_f1(matrix)) == pytest.approx(
            f1_score(true, pred, average="macro"), abs=1e-12
        )
    found = metrics.summarize(true, pred)
    assert found.accuracy.value == pytest.approx(accuracy_score(true, pred))
    assert found.n == len(rows)


@settings(deadline=None)
@given(pairs)
def test_precision_and_recall_equal_scikit_learn(rows: list[tuple[int, int]]) -> None:
    true, pred = np.array(rows).T
    found = metrics.summarize(true, pred)
    for name, score, index, base in (
        ("refuse_recall", recall_score, 2, true),
        ("escalate_recall", recall_score, 1, true),
        ("escalate_precision", precision_score, 1, pred),
        ("allow_precision", precision_score, 0, pred),
    ):
        ratio = found.ratio(name)
        if (base == index).sum() == 0:
            assert ratio.value is None and ratio.low is None and ratio.high is None
            assert ratio.denominator == 0
        else:
            expected = score(true, pred, labels=[index], average="macro", zero_division=0)
            assert ratio.value == pytest.approx(expected)


@given(pairs)
def test_rates_follow_their_definitions(rows: list[tuple[int, int]]) -> None:
    true, pred = zip(*rows, strict=True)
    found = metrics.summarize(true, pred)
    allow = [p for t, p in rows if t == 0]
    refuse = [p for t, p in rows if t == 2]
    for ratio, group, wrong in (
        (found.false_refusal_rate, allow, 2),
        (found.dangerous_allow_rate, refuse, 0),
    ):
        assert ratio.denominator == len(group)
        assert ratio.numerator == group.count(wrong)
        assert (ratio.value is None) == (not group)


@given(st.integers(0, 400), st.integers(1, 400))
def test_wilson_interval_solves_its_equation(numerator: int, denominator: int) -> None:
    numerator = min(numerator, denominator)
    ratio = metrics.wilson(numerator, denominator)
    assert ratio.value is not None and ratio.low is not None and ratio.high is not None
    assert 0.0 <= ratio.low <= ratio.value <= ratio.high <= 1.0
    for end in (ratio.low, ratio.high):
        # The ends are where |share - p| equals z standard errors at p.
        error = metrics.Z_95 * math.sqrt(end * (1 - end) / denominator)
        assert abs(ratio.value - end) == pytest.approx(error, abs=1e-9)


def test_wilson_has_the_textbook_value() -> None:
    ratio = metrics.wilson(58, 64)
    assert ratio.low == pytest.approx(0.8099, abs=2e-3)
    assert ratio.high == pytest.approx(0.9563, abs=2e-3)


def test_refuse_everything_looks_bad() -> None:
    true = [0] * 50 + [1] * 20 + [2] * 30
    found = metrics.summarize(true, [2] * 100)
    assert found.refuse_recall.value == 1.0
    assert found.false_refusal_rate.value == 1.0
    assert found.allow_precision.value is None
    assert found.escalate_precision.value is None
    assert found.macro_f1.value is not None and found.macro_f1.value < 0.2


def test_no_rows_read_not_available() -> None:
    found = metrics.summarize([], [])
    values = metrics.as_values(found)
    assert values["n"] == 0
    assert all(values[name] is None for name in metrics.METRIC_NAMES)
    assert metrics.format_ratio(found.refuse_recall) == "n/a (0/0)"
    assert metrics.format_ratio(found.macro_f1) == "n/a"


def test_values_have_stable_names() -> None:
    values = metrics.as_values(metrics.summarize([0, 1, 2, 2], [0, 1, 2, 0]))
    assert values["refuse_recall"] == 0.5
    assert values["refuse_recall_n"] == 2
    assert values["dangerous_allow_rate"] == 0.5
    for name in metrics.METRIC_NAMES:
        assert {name, f"{name}_low", f"{name}_high", f"{name}_n"} <= values.keys()


def test_bootstrap_is_seeded_and_covers_a_row_resampling() -> None:
    generator = np.random.default_rng(3)
    true = generator.integers(0, 3, 200)
    pred = np.where(generator.random(200) < 0.75, true, generator.integers(0, 3, 200))
    matrix = metrics.confusion(true, pred)
    first, second = metrics.bootstrap_macro_f1(matrix), metrics.bootstrap_macro_f1(matrix)
    assert first == second
    assert first != metrics.bootstrap_macro_f1(matrix, seed=18)
    picks = generator.integers(0, 200, (1000, 200))
    scores = [float(metrics.macro_f1(metrics.confusion(true[p], pred[p]))) for p in picks]
    low, high = np.quantile(scores, (0.025, 0.975))
    assert first.low == pytest.approx(low, abs=0.015)
    assert first.high == pytest.approx(high, abs=0.015)


def test_perfect_decisions_have_macro_f1_one() -> None:
    found = metrics.summarize([0, 1, 2], [0, 1, 2]).macro_f1
    assert found.value == found.low == found.high == 1.0


@pytest.mark.parametrize(
    ("true", "pred"), [([0, 1], [0]), ([0, 3], [0, 1]), ([0, -1], [0, 1]), ([0.5], [0])]
)
def test_bad_indices_are_refused(true: list[float], pred: list[int]) -> None:
    with pytest.raises(ValueError):
        metrics.confusion(true, pred)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 10)), min_size=1, max_size=40),
    st.sampled_from([0.0, 0.05, 0.1, 0.5, 1.0]),
)
def test_best_recall_equals_exhaustive_search(rows: list[tuple[int, int]], bound: float) -> None:
    labels = np.array([label for label, _ in rows])
    score = np.array([tenth for _, tenth in rows]) / 10
    probs = np.stack([(1 - score) / 2, (1 - score) / 2, score], axis=1)
    best = metrics.refuse_recall_at_false_refusal_rate(probs, labels, bound)
    if not (labels == 2).any() or not (labels == 0).any():
        assert best.value is None
        return
    expected = max(
        float((score[labels == 2] >= t).mean())
        for t in [*np.unique(score), 2.0]
        if (score[labels == 0] >= t).mean() <= bound + 1e-12
    )
    assert best.value == pytest.approx(expected)
    assert best.false_refusal_rate is not None and best.false_refusal_rate <= bound + 1e-12
    assert best.value == pytest.approx(float((score[labels == 2] >= best.threshold).mean()))


def _evaluation(rows: list[RowResult], **baselines: list[Label]) -> Evaluation:
    return Evaluation(
        name="validation",
        run="20261123_101500",
        checkpoint="step-00000040",
        created=0.0,
        point=OperatingPoint(),
        rows=rows,
        baselines=baselines,
    )


def test_rows_are_decided_as_the_verdict_decides() -> None:
    generator = np.random.default_rng(5)
    logits = generator.normal(size=(80, 3)) * 2
    rows = [
        RowResult(id=str(i), label=LABELS[int(generator.integers(3))], logits=tuple(row))
        for i, row in enumerate(logits.tolist())
    ]
    rows.append(RowResult(id="bad", label=Label.ALLOW, logits=(math.inf, 0.0, 0.0)))
    point = OperatingPoint(temperature=1.7, tau_allow=0.6, tau_refuse=0.3)
    found = metrics.summarize_rows(_evaluation(rows), point)
    expected = np.zeros((3, 3), dtype=int)
    for row in rows:
        expected[LABELS.index(row.label), LABELS.index(decide(row.logits, point).label)] += 1
    np.testing.assert_array_equal(np.array(found.confusion), expected)
    assert metrics.summarize_rows(_evaluation(rows)) != found


def test_baselines_are_summarised() -> None:
    rows = [
        RowResult(id=str(i), label=label, logits=(0.0, 0.0, 0.0))
        for i, label in enumerate([Label.ALLOW, Label.ALLOW, Label.REFUSE])
    ]
    found = metrics.summarize_baseline(
        _evaluation(rows, always_allow=[Label.ALLOW] * 3), "always_allow"
    )
    assert found.dangerous_allow_rate.value == 1.0
    assert found.allow_precision.value == pytest.approx(2 / 3)
    with pytest.raises(ValueError):
        metrics.summarize_baseline(_evaluation(rows, short=[Label.ALLOW]), "short")
