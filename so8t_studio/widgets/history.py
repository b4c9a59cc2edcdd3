"""Append-only curves of any length, drawn at the cost of the screen's width (Qt-free).

A pyramid keeps the minimum and maximum of groups of 8, 64, 512 … points, so that a view of a
million points reads a few thousand numbers and never loses a spike.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

GROUP = 8
Floats = NDArray[np.float64]


class _Buffer:
    """A float array that doubles when full."""

    def __init__(self, dtype: type = np.float64) -> None:
        self._data = np.empty(256, dtype=dtype)
        self.size = 0

    def extend(self, values: Floats) -> None:
        needed = self.size + len(values)
        if needed > len(self._data):
            grown = np.empty(max(needed, 2 * len(self._data)), dtype=self._data.dtype)
            grown[: self.size] = self._data[: self.size]
            self._data = grown
        self._data[self.size : needed] = values
        self.size = needed

    def truncate(self, size: int) -> None:
        self.size = min(self.size, size)

    @property
    def view(self) -> NDArray[np.floating]:
        return self._data[: self.size]


class _Level:
    def __init__(self) -> None:
        self.low = _Buffer(np.float32)
        self.high = _Buffer(np.float32)


class History:
    """One curve: x never decreases; a smaller x replaces everything from there on.

    That is what a resumed run means: the steps after its checkpoint happen again.
    """

    def __init__(self) -> None:
        self._x = _Buffer()
        self._y = _Buffer(np.float32)
        self._levels: list[_Level] = []

    def __len__(self) -> int:
        return self._x.size

    @property
    def x(self) -> Floats:
        """All x, ``[N]``; a view."""
        return np.asarray(self._x.view)

    @property
    def y(self) -> NDArray[np.floating]:
        """All y, ``[N]`` float32; a view. A gap is NaN."""
        return self._y.view

    def append(self, x: float, y: float | None) -> None:
        """Add one point; None is a gap."""
        self.extend([x], [np.nan if y is None else y])

    def extend(self, x: ArrayLike, y: ArrayLike) -> None:
        """Add points with non-decreasing x, ``[M]`` each."""
        xs = np.asarray(x, dtype=np.float64)
        ys = np.asarray(y, dtype=np.float64)
        if len(xs) != len(ys):
            raise ValueError(f"x has {len(xs)} points and y has {len(ys)}")
        if not len(xs):
            return
        ys = np.where(np.isfinite(ys), ys, np.nan)
        if self._x.size and xs[0] <= self._x.view[-1]:
            self._truncate(int(np.searchsorted(self._x.view, xs[0], side="left")))
        self._x.extend(xs)
        self._y.extend(ys)
        self._grow()

    def clear(self) -> None:
        """Forget all points."""
        self._truncate(0)

    def _truncate(self, size: int) -> None:
        self._x.truncate(size)
        self._y.truncate(size)
        for number, level in enumerate(self._levels, start=1):
            keep = size // GROUP**number
            level.low.truncate(keep)
            level.high.truncate(keep)

    def _grow(self) -> None:
        low_below: NDArray[np.floating] = self._y.view
        high_below: NDArray[np.floating] = self._y.view
        number = 0
        while len(low_below) >= GROUP:
            if number == len(self._levels):
                self._levels.append(_Level())
            level = self._levels[number]
            start, stop = level.low.size, len(low_below) // GROUP
            if stop > start:
                rows = slice(start * GROUP, stop * GROUP)
                # fmin and fmax pass over gaps and stay NaN only where all is a gap.
                level.low.extend(np.fmin.reduce(low_below[rows].reshape(-1, GROUP), axis=1))
                level.high.extend(np.fmax.reduce(high_below[rows].reshape(-1, GROUP), axis=1))
            low_below, high_below = level.low.view, level.high.view
            number += 1

    def visible(self, first: float, last: float, columns: int) -> tuple[Floats, Floats]:
        """Return at most about ``2 * columns`` points that look like the curve in a range of x.

        Points are exact while there are fewer than ``2 * columns`` in the range; otherwise each
        group gives its minimum and maximum.
        """
        xs = self._x.view
        begin = max(0, int(np.searchsorted(xs, first, side="left")) - 1)
        end = min(len(xs), int(np.searchsorted(xs, last, side="right")) + 1)
        count = end - begin
        if count <= 2 * columns:
            return np.array(xs[begin:end]), np.array(self._y.view[begin:end], dtype=np.float64)
        number = 0
        while number < len(self._levels) and count // GROUP ** (number + 1) >= columns:
            number += 1
        if number == 0:
            low = high = self._y.view
        else:
            level = self._levels[number - 1]
            low, high = level.low.view, level.high.view
        size = GROUP**number
        stride = max(1, -(-(count // size) // columns))
        left, right = begin // size, min(len(low), -(-end // size))
        rows = (right - left) // stride
        lows = np.fmin.reduce(low[left : left + rows * stride].reshape(rows, stride), axis=1)
        highs = np.fmax.reduce(high[left : left + rows * stride].reshape(rows, stride), axis=1)
        at = xs[np.minimum((left + np.arange(rows) * stride) * size, len(xs) - 1)]
        out_x = np.repeat(at, 2)
        out_y = np.empty(2 * rows, dtype=np.float64)
        out_y[0::2], out_y[1::2] = lows, highs
        tail = (left + rows * stride) * size
        if tail < end:  # the points that fill no group yet, and the newest one exactly
            rest = self._y.view[tail:end]
            ends = [np.fmin.reduce(rest), np.fmax.reduce(rest), rest[-1]]
            out_x = np.concatenate([out_x, [xs[tail], xs[tail], xs[end - 1]]])
            out_y = np.concatenate([out_y, ends])
        return out_x, out_y

    def nearest(self, x: float) -> tuple[float, float] | None:
        """Return the point whose x is nearest, None if there is none."""
        xs = self._x.view
        if not len(xs):
            return None
        right = int(np.searchsorted(xs, x))
        best = min(
            (index for index in (right - 1, right) if 0 <= index < len(xs)),
            key=lambda index: abs(xs[index] - x),
        )
        return float(xs[best]), float(self._y.view[best])


def smooth(y: ArrayLike, factor: float, before: float | None = None) -> Floats:
    """Return the exponential moving average of ``y`` ``[N]``; ``factor`` in [0, 1) is the memory.

    Gaps keep the last average. It goes on from ``before``; without that the start is unbiased: the
    first value counts in full.
    """
    values = np.array(y, dtype=np.float64)
    if not len(values) or factor <= 0:
        return values
    known = np.isfinite(values)
    filled = values[known]
    if not len(filled):
        return values if before is None else np.full_like(values, before)
    # Within a block the average is a weighted cumulative sum; blocks keep the weights in range.
    block = max(1, min(512, int(200 / -np.log10(factor))))
    out = np.empty_like(filled)
    last = filled[0] if before is None else before
    for start in range(0, len(filled), block):
        part = filled[start : start + block]
        powers = factor ** np.arange(1, len(part) + 1)
        out[start : start + len(part)] = powers * (last + (1 - factor) * np.cumsum(part / powers))
        last = out[start + len(part) - 1]
    # Every place takes the average of the last known value up to it.
    place = np.cumsum(known) - 1
    return np.where(place >= 0, out[np.maximum(place, 0)], out[0] if before is None else before)
