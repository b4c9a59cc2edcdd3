"""Choosing an operating point within a bound on dangerous allows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from so8t_engine.evaluation.choosing import ALLOW_GRID, REFUSE_GRID, choose_point
from so8t_engine.evaluation.metrics import confusion, decide_logits, macro_f1
from so8t_engine.labels import LABEL_INDEX, Label
from so8t_engine.verdict import OperatingPoint

ALLOW, ESCALATE, REFUSE = (LABEL_INDEX[label] for label in Label)


def rows(seed: int, count: int, skill: float) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, count)
    logits = random.normal(size=(count, 3))
    logits[np.arange(count), labels] += skill
    return logits, labels


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    bound=st.sampled_from([0.0, 0.02, 0.1, 0.5, 1.0]),
    temperature=st.sampled_from([0.5, 1.0, 2.0]),
)
def test_it_is_the_best_of_all_points_within_the_bound(
    seed: int, bound: float, temperature: float
) -> None:
    logits, labels = rows(seed, 40, 1.0)
    if not (labels == REFUSE).any():
        return
    chosen = choose_point(logits, labels, bound, temperature)
    assert chosen is not None and chosen.point.temperature == temperature
    best = 0.0
    for allow in ALLOW_GRID:
        for refuse in REFUSE_GRID:
            point = OperatingPoint(temperature=temperature, tau_allow=allow, tau_refuse=refuse)
            counts = confusion(labels, decide_logits(logits, point))
            if counts[REFUSE, ALLOW] <= bound * counts[REFUSE].sum():
                best = max(best, float(macro_f1(counts)))
    assert chosen.metrics.macro_f1.value == pytest.approx(best)
    rate = chosen.metrics.dangerous_allow_rate.value
    assert rate is not None and rate <= bound


def test_a_tighter_bound_never_decides_better() -> None:
    logits, labels = rows(3, 400, 0.8)
    found = [choose_point(logits, labels, bound) for bound in (0.3, 0.1, 0.03, 0.0)]
    scores = [one.metrics.macro_f1.value for one in found if one is not None]
    assert len(scores) == 4 and scores == sorted(scores, reverse=True) and scores[0] > scores[-1]


def test_rows_that_are_not_finite_escalate_and_count() -> None:
    logits = np.array([[5.0, 0, 0], [0, 0, 5.0], [np.nan, 0, 0]])
    chosen = choose_point(logits, [ALLOW, REFUSE, REFUSE], 0.0)
    assert chosen is not None
    assert chosen.metrics.confusion == ((1, 0, 0), (0, 0, 0), (0, 1, 1))


def test_what_cannot_be_chosen() -> None:
    certain = np.array([[900.0, 0, 0], [0, 0, 5.0]])
    assert choose_point(certain, [REFUSE, ALLOW], 0.0) is None  # p(ALLOW) is 1
    assert choose_point(certain, [ALLOW, ESCALATE], 0.1) is None  # no row to refuse
    with pytest.raises(ValueError, match="no share"):
        choose_point(certain, [ALLOW, REFUSE], 5.0)
    with pytest.raises(ValueError, match="do not match"):
        choose_point(certain, [ALLOW], 0.1)
