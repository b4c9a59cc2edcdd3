"""The pyramid behind charts keeps every spike, and the moving average is the textbook's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from so8t_studio.widgets.history import History, smooth


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 6000),
    columns=st.integers(8, 300),
    seed=st.integers(0, 99),
    cuts=st.lists(st.integers(1, 997), max_size=8),
)
def test_a_view_has_the_extremes_of_the_data(count, columns, seed, cuts):
    rng = np.random.default_rng(seed)
    y = rng.normal(size=count).astype(np.float32)
    x = np.arange(count, dtype=float)
    history = History()
    start = 0
    for cut in [*cuts, count]:
        history.extend(x[start : start + cut], y[start : start + cut])
        start = min(count, start + cut)
    assert len(history) == count
    first, last = sorted(rng.uniform(0, count, size=2))
    seen_x, seen_y = history.visible(first, last, columns)
    inside = (x >= first) & (x <= last)
    if inside.any():
        assert np.nanmin(seen_y) <= y[inside].min()
        assert np.nanmax(seen_y) >= y[inside].max()
    assert len(seen_x) == len(seen_y) <= 2 * columns + 40
    assert (np.diff(seen_x) >= 0).all()


def test_few_points_are_exact_and_gaps_stay_gaps():
    history = History()
    history.append(1, 0.5)
    history.append(2, None)
    history.append(3, float("inf"))
    history.append(4, 2.0)
    x, y = history.visible(0, 10, 100)
    assert x.tolist() == [1, 2, 3, 4]
    assert np.isnan(y[1:3]).all() and y[0] == 0.5 and y[3] == 2.0
    assert history.nearest(3.9) == (4.0, 2.0)


def test_a_resumed_run_replaces_the_steps_after_its_checkpoint():
    history = History()
    history.extend(np.arange(1, 1001), np.ones(1000))
    history.extend(np.arange(501, 701), np.full(200, 2.0))
    assert len(history) == 700
    x, y = history.visible(0, 2000, 10)
    assert y.max() == 2.0 and x.max() == 700
    assert (np.asarray(history.y[:500]) == 1).all()


def test_a_spike_in_a_million_points_is_seen():
    y = np.zeros(1_000_000)
    y[777_777] = 9.0
    history = History()
    history.extend(np.arange(1_000_000), y)
    x, seen = history.visible(0, 1e6, 800)
    assert seen.max() == 9.0
    assert len(x) < 4000


def test_unequal_columns_are_refused():
    with pytest.raises(ValueError, match="2 points"):
        History().extend([1, 2], [1])


@given(
    y=st.lists(st.floats(-100, 100), min_size=1, max_size=1500),
    factor=st.sampled_from([0.05, 0.5, 0.9, 0.98]),
)
@settings(max_examples=40, deadline=None)
def test_the_average_equals_the_recursion(y, factor):
    expected = [y[0]]
    for value in y[1:]:
        expected.append(factor * expected[-1] + (1 - factor) * value)
    assert np.allclose(smooth(y, factor), expected, atol=1e-6)


def test_the_average_passes_over_gaps():
    found = smooth([1.0, np.nan, 3.0], 0.5)
    assert np.allclose(found, [1.0, 1.0, 2.0])
