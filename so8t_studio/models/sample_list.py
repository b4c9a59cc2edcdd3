"""The samples of an open dataset, without Qt: an ordered list with identifiers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter, itemgetter
from typing import TypeVar

from so8t_engine.samples.query import searchable
from so8t_engine.samples.schema import Sample

T = TypeVar("T")
Placed = tuple[int, Sample]
_TEXT_FIELDS = frozenset(
    ("request", "context", "response", "rationale", "category", "source", "tags", "id")
)


_old, _new, _swapped = itemgetter(0), itemgetter(1), itemgetter(1, 0)
_id_of = attrgetter("id")


@dataclass(frozen=True)
class Edit:
    """One reversible change of a dataset; applied in the order removed, changed, inserted.

    Attributes:
        removed: rows with their positions before the edit, ascending.
        changed: (old, new) of rows that stay; the identifier never changes.
        inserted: rows with their positions after the edit, ascending.
        fields: the only fields in which ``changed`` may differ; empty where any may.
    """

    removed: tuple[Placed, ...] = ()
    changed: tuple[tuple[Sample, Sample], ...] = ()
    inserted: tuple[Placed, ...] = ()
    fields: tuple[str, ...] = ()

    def inverse(self) -> Edit:
        """Return the edit that takes this one back."""
        return Edit(
            removed=self.inserted,
            changed=tuple(map(_swapped, self.changed)),
            inserted=self.removed,
            fields=self.fields,
        )

    @property
    def size(self) -> int:
        """How many rows it concerns."""
        return len(self.removed) + len(self.changed) + len(self.inserted)

    @property
    def keeps_text(self) -> bool:
        """True if it is known that no text that is searched differs in ``changed``."""
        return bool(self.fields) and _TEXT_FIELDS.isdisjoint(self.fields)

    @property
    def is_empty(self) -> bool:
        """True if nothing would change."""
        return not (self.removed or self.changed or self.inserted)


@dataclass
class SampleList:
    """Rows in file order, found by identifier; knows a folded search text for each."""

    rows: list[Sample] = field(default_factory=list)
    _texts: list[str | None] = field(default_factory=list)
    _warm: int = 0
    _row_of: dict[str, int] | None = None

    @classmethod
    def of(cls, samples: Iterable[Sample]) -> SampleList:
        """Return a list of ``samples``, whose identifiers must be unique."""
        rows = list(samples)
        return cls(rows, [None] * len(rows))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def texts(self) -> list[str]:
        """The folded search text of each row; do not change the list."""
        while self.warm(len(self.rows)):
            pass
        return self._texts  # type: ignore[return-value]  # no None is left

    def warm(self, count: int) -> bool:
        """Fold the texts of up to ``count`` more rows; False when all are ready."""
        end = min(self._warm + count, len(self.rows))
        for row in range(self._warm, end):
            if self._texts[row] is None:
                self._texts[row] = searchable(self.rows[row])
        self._warm = end
        return end < len(self.rows)

    def index(self, sample_id: str) -> int:
        """Return the row number of an identifier.

        Raises:
            KeyError: if there is none.
        """
        return self.positions()[sample_id]

    def positions(self) -> dict[str, int]:
        """Return row numbers by identifier; do not change the dictionary."""
        if self._row_of is None:
            self._row_of = {sample.id: row for row, sample in enumerate(self.rows)}
        return self._row_of

    def get(self, sample_id: str) -> Sample | None:
        """Return the sample of an identifier."""
        try:
            return self.rows[self.index(sample_id)]
        except KeyError:
            return None

    def __contains__(self, sample_id: object) -> bool:
        return isinstance(sample_id, str) and self.get(sample_id) is not None

    def apply(self, edit: Edit) -> None:
        """Carry out an edit.

        Raises:
            KeyError, ValueError: if it does not fit the rows; nothing is changed then.
        """
        self._check(edit)
        if edit.removed:
            gone = {position for position, _ in edit.removed}
            self.rows = [sample for row, sample in enumerate(self.rows) if row not in gone]
            self._texts = [text for row, text in enumerate(self._texts) if row not in gone]
            self._row_of, self._warm = None, 0
        positions = self.positions() if edit.changed else {}
        if edit.keeps_text:
            for _, new in edit.changed:
                self.rows[positions[new.id]] = new
        else:
            for old, new in edit.changed:
                row = positions[new.id]
                self.rows[row] = new
                if not _same_text(old, new):
                    self._texts[row] = searchable(new)
        if edit.inserted:
            self.rows = _merge(self.rows, edit.inserted)
            self._texts = _merge(self._texts, [(row, None) for row, _ in edit.inserted])
            self._row_of, self._warm = None, min(self._warm, edit.inserted[0][0])

    def _check(self, edit: Edit) -> None:
        for position, sample in edit.removed:
            if self.rows[position].id != sample.id:
                raise ValueError(f"row {position} is not {sample.id}")
        positions = self.positions() if edit.changed else {}
        before = list(map(_id_of, map(_old, edit.changed)))
        if before != list(map(_id_of, map(_new, edit.changed))):
            raise ValueError("an identifier may not change")
        if not all(map(positions.__contains__, before)):
            raise KeyError(next(one for one in before if one not in positions))
        size = len(self.rows) - len(edit.removed) + len(edit.inserted)
        if edit.inserted and not 0 <= edit.inserted[-1][0] < size:
            raise ValueError(f"row {edit.inserted[-1][0]} is beyond the end")
        fresh = set(map(_id_of, map(_new, edit.inserted)))
        fresh.difference_update(map(_id_of, map(_new, edit.removed)))
        if used := fresh & self.positions().keys():
            raise ValueError(f"the identifier {min(used)} is used already")

    def removal(self, ids: Iterable[str]) -> Edit:
        """Return the edit that removes rows."""
        rows = sorted({self.index(sample_id) for sample_id in ids})
        return Edit(removed=tuple((row, self.rows[row]) for row in rows))

    def insertion(self, samples: Sequence[Sample], position: int | None = None) -> Edit:
        """Return the edit that puts rows at ``position``; None appends."""
        start = len(self.rows) if position is None else position
        return Edit(inserted=tuple((start + n, sample) for n, sample in enumerate(samples)))


def _same_text(old: Sample, new: Sample) -> bool:
    """Tell whether no text that is searched differs (``is`` first: replaced rows share them)."""
    return (
        old.request == new.request
        and old.context == new.context
        and old.response == new.response
        and old.rationale == new.rationale
        and old.category == new.category
        and old.source == new.source
        and old.tags == new.tags
    )


def _merge(rows: list[T], placed: Sequence[tuple[int, T]]) -> list[T]:
    """Return ``rows`` with values put so that each ends up at its position."""
    if placed[0][0] == len(rows):  # all of them at the end
        return [*rows, *(value for _, value in placed)]
    result: list[T] = []
    taken = 0
    for position, value in placed:
        missing = position - len(result)
        result.extend(rows[taken : taken + missing])
        taken += missing
        result.append(value)
    result.extend(rows[taken:])
    return result
