"""Exact and near duplicates: groups of rows that say almost the same (torch-free)."""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from so8t_engine.samples.schema import Sample

THRESHOLD = 0.8
_SHINGLE = 4
_BANDS, _ROWS = 12, 5
_PERMUTATIONS = _BANDS * _ROWS
_SEED = 17
_CHUNK = 1000
_MAX_COMPARED = 64
_JUNK = re.compile(r"[\W_]+")
Progress = Callable[[int, int], None]
Cancelled = Callable[[], bool]


class ScanCancelled(Exception):
    """The user cancelled the scan."""


class Groups:
    """Union-find over row numbers."""

    def __init__(self, size: int) -> None:
        self._parent = list(range(size))

    def find(self, item: int) -> int:
        """Return the representative of a row's group: the smallest row number in it."""
        root = item
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[item] != root:
            self._parent[item], item = root, self._parent[item]
        return root

    def join(self, left: int, right: int) -> None:
        """Put two rows in one group."""
        a, b = self.find(left), self.find(right)
        if a != b:
            self._parent[max(a, b)] = min(a, b)

    def lists(self) -> list[list[int]]:
        """Return the groups of more than one row, each sorted, in order of their first row."""
        members: dict[int, list[int]] = defaultdict(list)
        for item in range(len(self._parent)):
            members[self.find(item)].append(item)
        return [rows for _, rows in sorted(members.items()) if len(rows) > 1]


def normalise(text: str) -> str:
    """Return ``text`` without case, width, punctuation and spacing, for comparisons only."""
    return _JUNK.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def comparison_key(sample: Sample) -> str:
    """Return what makes two samples the same question: context and request, normalised."""
    request = normalise(sample.request) or sample.request.strip()
    return f"{normalise(sample.context)}\n{request}" if sample.context else request


def exact_groups(samples: Sequence[Sample]) -> list[list[int]]:
    """Return groups of rows whose context and request are equal after normalisation."""
    rows: dict[str, list[int]] = defaultdict(list)
    for index, sample in enumerate(samples):
        rows[comparison_key(sample)].append(index)
    return [group for group in rows.values() if len(group) > 1]


def shingles(key: str) -> frozenset[bytes]:
    """Return the set of four-character pieces of a comparison key, as UTF-32."""
    data = key.replace(" ", "").encode("utf-32-le", "replace")
    width = 4 * _SHINGLE
    return frozenset([data[at : at + width] for at in range(0, max(len(data) - width, 0) + 1, 4)])


def jaccard(left: frozenset[bytes], right: frozenset[bytes]) -> float:
    """Return |A ∩ B| / |A ∪ B|."""
    common = len(left & right)
    return common / (len(left) + len(right) - common) if common else 0.0


def near_groups(
    samples: Sequence[Sample],
    *,
    threshold: float = THRESHOLD,
    progress: Progress | None = None,
    cancelled: Cancelled | None = None,
) -> list[list[int]]:
    """Return groups of rows that are linked by a Jaccard similarity of at least ``threshold``.

    Candidates come from MinHash (Broder 1997) with locality-sensitive hashing (Indyk and Motwani
    1998): with 12 bands of 5 rows a pair of similarity 0.8 is missed with probability 0.009, of 0.9
    with 2e-5. Each candidate is then verified exactly. Groups are the connected components.

    Raises:
        ScanCancelled: if ``cancelled`` said so.
    """
    first_with: dict[str, int] = {}
    groups = Groups(len(samples))
    for index, sample in enumerate(samples):
        groups.join(first_with.setdefault(comparison_key(sample), index), index)
    rows = list(first_with.values())
    total = len(rows)

    def step(done: int) -> None:
        if progress is not None:
            progress(done, total)
        if cancelled is not None and cancelled():
            raise ScanCancelled

    sets: list[frozenset[bytes]] = []
    signatures = np.empty((total, _PERMUTATIONS), dtype=np.uint32)
    keys = list(first_with)
    for start in range(0, total, _CHUNK):
        step(start * 9 // 10)
        chunk = [shingles(key) for key in keys[start : start + _CHUNK]]
        signatures[start : start + len(chunk)] = sketch(chunk)
        sets += chunk
    for band in range(_BANDS):
        step(total * 9 // 10 + total * band // (10 * _BANDS))
        part = np.ascontiguousarray(signatures[:, band * _ROWS : (band + 1) * _ROWS])
        for bucket in _buckets(part):
            _link(bucket, sets, rows, groups, threshold)
    step(total)
    return groups.lists()


def sketch(sets: Sequence[frozenset[bytes]]) -> NDArray[np.uint32]:
    """Return the MinHash signatures ``[N, 60]`` of non-empty sets.

    The hash family is multiply-add-shift on 64 bits (Dietzfelbinger 1996) over CRC-32 of the
    pieces; in numpy it is several times faster than one MinHash object a row.
    """
    sizes = np.fromiter((len(one) for one in sets), dtype=np.int64, count=len(sets))
    pieces = np.fromiter(
        (zlib.crc32(piece) for one in sets for piece in one), np.uint64, int(sizes.sum())
    )
    starts = np.concatenate(([0], np.cumsum(sizes)[:-1]))
    draw = np.random.default_rng(_SEED)
    factors = draw.integers(0, 2**63, _PERMUTATIONS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    offsets = draw.integers(0, 2**63, _PERMUTATIONS, dtype=np.uint64)
    result = np.empty((len(sets), _PERMUTATIONS), dtype=np.uint32)
    for number in range(_PERMUTATIONS):
        hashed = (pieces * factors[number] + offsets[number]) >> np.uint64(32)
        result[:, number] = np.minimum.reduceat(hashed, starts)
    return result


def _buckets(part: NDArray[np.uint32]) -> Iterator[list[int]]:
    """Yield the row numbers that share one band of the signature, ascending."""
    if not len(part):
        return
    # One number a band: a rare collision only makes a candidate, which is verified anyway.
    key = np.zeros(len(part), dtype=np.uint64)
    for column in part.T:
        key = (key ^ column.astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
    _, inverse, counts = np.unique(key, return_inverse=True, return_counts=True)
    order = np.argsort(inverse, kind="stable")
    ends = np.cumsum(counts)
    for bucket in np.flatnonzero(counts > 1):
        yield order[ends[bucket] - counts[bucket] : ends[bucket]].tolist()


def _link(
    bucket: list[int],
    sets: list[frozenset[bytes]],
    rows: list[int],
    groups: Groups,
    threshold: float,
) -> None:
    """Join the rows of a bucket that really are similar.

    In a crowded bucket each row is compared with a limited number of the others before it, so that
    a dataset made from one template cannot make the scan quadratic.
    """
    for position, index in enumerate(bucket):
        own = sets[index]
        for other in bucket[max(0, position - _MAX_COMPARED) : position]:
            if groups.find(rows[other]) == groups.find(rows[index]):
                continue
            small, large = sorted((len(own), len(sets[other])))
            if small >= threshold * large and jaccard(own, sets[other]) >= threshold:
                groups.join(rows[other], rows[index])


def group_numbers(size: int, groups: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """Return for each row the smallest row number of its group; itself where it has none."""
    numbers = np.arange(size, dtype=np.int64)
    for group in groups:
        numbers[list(group)] = min(group)
    return numbers
