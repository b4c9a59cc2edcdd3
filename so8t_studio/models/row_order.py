"""Which rows the table shows and in what order: filter, sort keys, groups (no item model)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import compress
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from so8t_engine.samples.query import Query, searchable
from so8t_engine.samples.schema import Sample
from so8t_studio.models.dataset_store import DatasetStore
from so8t_studio.models.sample_cells import sort_key
from so8t_studio.models.sample_list import Edit

_MAX_KEPT = 64
_id_of = attrgetter("id")


class RowOrder:
    """Selects and orders the rows of a store; keeps what the next keystroke needs again.

    Attributes:
        query: the filter.
    """

    def __init__(self, store: DatasetStore) -> None:
        self._store = store
        self.query = Query()
        self._sort: tuple[tuple[str, bool], ...] = ()
        self._rank: Mapping[str, int] = {}
        self._kept: dict[str, bytes] = {}
        self._ordered: tuple[list[Sample], NDArray[np.int64]] | None = None

    @property
    def sort(self) -> tuple[tuple[str, bool], ...]:
        """Sort keys as (column name, descending), the first one first."""
        return self._sort

    @sort.setter
    def sort(self, keys: tuple[tuple[str, bool], ...]) -> None:
        self._sort, self._ordered = keys, None

    @property
    def rank(self) -> Mapping[str, int]:
        """Identifier → group; rows of a group stand together, groups in this order."""
        return self._rank

    @rank.setter
    def rank(self, rank: Mapping[str, int]) -> None:
        if rank != self._rank:
            self._rank, self._ordered = rank, None

    def rows_changed(self) -> None:
        """Forget everything that was known about the rows."""
        self._kept.clear()
        self._ordered = None

    @property
    def name(self) -> tuple[object, ...]:
        """Something that differs for different orders."""
        return (self._sort, id(self._rank) if self._rank else 0)

    @property
    def is_ordered(self) -> bool:
        """True while the rows stand in another order than that of the file."""
        return bool(self._sort or self._rank)

    def _in_order(self) -> tuple[list[Sample], NDArray[np.int64]]:
        """Return all rows in the order to show and their places in the file.

        They are kept until the rows or the order change, so that typing does not sort again.
        """
        if self._ordered is None:
            samples = self._store.samples
            order = list(range(len(samples)))
            if self._rank:
                last = len(self._rank)
                ranks = [self._rank.get(sample.id, last) for sample in samples]
                order.sort(key=ranks.__getitem__)
            for name, descending in reversed(self._sort):
                order.sort(key=self._keys(name).__getitem__, reverse=descending)
            self._ordered = (list(map(samples.__getitem__, order)), np.array(order, np.int64))
        return self._ordered

    def _keys(self, name: str) -> list[Any]:
        """Return what each row is sorted by; a request stands folded in its search text."""
        samples = self._store.samples
        key = sort_key(name)
        if name != "request":
            return list(map(key, samples))
        return [
            text[: text.index("\n")] if "\n" not in sample.request else key(sample)
            for sample, text in zip(samples, self._store.texts, strict=True)
        ]

    def wanted(self) -> list[Sample]:
        """Return the rows of the filter in the order to show."""
        if len(self._kept) > _MAX_KEPT:
            self._kept.clear()
        store, query = self._store, self.query
        if query.is_empty:  # search texts may not be folded yet; do not ask for them in vain
            return list(self._in_order()[0] if self.is_ordered else store.samples)
        if query.slow or not self.is_ordered:
            return self.sorted(query.select(store.samples, store.texts, kept=self._kept))
        mask = query.mask(store.samples, store.texts, kept=self._kept)
        rows, places = self._in_order()
        chosen = np.frombuffer(mask or b"", np.uint8)[places]
        return list(compress(rows, chosen.tobytes()))

    def wanted_after(self, edit: Edit, shown: Sequence[Sample]) -> list[Sample]:
        """Return the rows of the filter; a slow one looks at the rows of the edit only."""
        if not self.query.slow:
            return self.wanted()
        touched = [new for _, new in (*edit.changed, *edit.inserted)]
        found = self.query.select(touched, [searchable(sample) for sample in touched])
        members = set(map(_id_of, shown))
        members.difference_update(map(_id_of, touched))
        members.update(map(_id_of, found))
        rows = self._store.samples
        return self.sorted(list(compress(rows, map(members.__contains__, map(_id_of, rows)))))

    def sorted(self, rows: list[Sample]) -> list[Sample]:
        """Return rows, which are in file order, in the order to show; sorts the list itself."""
        if self._rank:
            last = len(self._rank)
            rows.sort(key=lambda sample: self._rank.get(sample.id, last))
        for name, descending in reversed(self._sort):
            rows.sort(key=sort_key(name), reverse=descending)
        return rows

    def place_of(self, sample: Sample, rows: Sequence[Sample]) -> int:
        """Return where a row belongs among rows that stand in the order to show, by halving."""
        positions = self._store.rows.positions()
        last = len(self._rank)
        keys: list[tuple[Callable[[Sample], Any], bool]] = [
            (sort_key(name), descending) for name, descending in self._sort
        ]
        if self._rank:
            keys.append((lambda one: self._rank.get(one.id, last), False))
        keys.append((lambda one: positions[one.id], False))
        own = [key(sample) for key, _ in keys]
        low, high = 0, len(rows)
        while low < high:
            middle = (low + high) // 2
            before = False
            for (key, descending), value in zip(keys, own, strict=True):
                other = key(rows[middle])
                if other != value:
                    before = (other > value) if descending else (other < value)
                    break
            low, high = (middle + 1, high) if before else (low, middle)
        return low
