"""Divide samples into training and validation without leaks (torch-free)."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence

import msgspec

from so8t_engine.samples.duplicates import Groups, near_groups
from so8t_engine.samples.schema import Sample

CONTRAST_TAG = "group:"


def assign_splits(
    samples: Sequence[Sample],
    *,
    validation_fraction: float,
    seed: int,
    test_fraction: float = 0.0,
    groups: Sequence[Sequence[int]] | None = None,
    progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> list[Sample]:
    """Return the samples with every empty split filled by ``train``, ``validation`` or ``test``.

    Splits that are given stay. Near-duplicates never straddle, nor do the rows of one contrast
    group (those that share a tag ``group:…``: a model that trained on the harmless twin of a
    held-out request has seen half of the question). Rows without a split follow the rows of their
    group that have one (``train`` wins over ``validation``, and a neighbour of a
    ``test`` row follows it only if no other split claims the group). The rest is drawn per label
    and language, seeded; the result does not depend on the order of rows.

    Args:
        samples: in any order.
        validation_fraction: share of the rows to hold out, in (0, 1).
        seed: of the draw.
        test_fraction: share of the rows without a split to put into ``test``, in [0, 1).
        groups: row numbers of near-duplicates where they are known (contrast groups come on top);
            None looks for them.
        progress: rows compared and in all.
        cancelled: asked now and then; :class:`~so8t_engine.samples.duplicates.ScanCancelled`.
    """
    result = list(samples)
    if all(sample.split for sample in result):
        return result
    if groups is None:
        groups = near_groups(result, progress=progress, cancelled=cancelled)
    together = Groups(len(result))
    for group in [*groups, *contrast_groups(result)]:
        for row in group[1:]:
            together.join(group[0], row)
    members: dict[int, list[int]] = defaultdict(list)
    for row in range(len(result)):
        members[together.find(row)].append(row)
    free: dict[tuple[str, str], list[list[int]]] = defaultdict(list)
    for rows in members.values():
        given = {result[row].split for row in rows} - {""}
        if given:
            chosen = next(split for split in ("train", "validation", "test") if split in given)
            _fill(result, rows, chosen)
        else:
            # A group whose rows differ in label counts for the label that most of them have.
            strata = [(result[row].label.value, result[row].language) for row in rows]
            free[max(sorted(set(strata)), key=strata.count)].append(rows)
    for stratum in sorted(free):
        left, name, share = free[stratum], f"{seed}|{'|'.join(stratum)}", validation_fraction
        if test_fraction:
            left = _draw(result, left, test_fraction, f"test|{name}", "test")
            share = min(validation_fraction / (1 - test_fraction), 1.0)
        for rows in _draw(result, left, share, name, "validation"):
            _fill(result, rows, "train")
    return result


def contrast_groups(samples: Sequence[Sample]) -> list[list[int]]:
    """Return the row numbers of every contrast group: the rows that share a tag ``group:…``."""
    rows: dict[str, list[int]] = defaultdict(list)
    for row, sample in enumerate(samples):
        for tag in sample.tags:
            if tag.startswith(CONTRAST_TAG):
                rows[tag].append(row)
    return [group for group in rows.values() if len(group) > 1]


def straddling(samples: Sequence[Sample], groups: Sequence[Sequence[int]]) -> int:
    """Return how many groups of row numbers are in more than one split."""
    return sum(len({samples[row].split for row in group} - {""}) > 1 for group in groups)


def _draw(
    result: list[Sample], groups: list[list[int]], fraction: float, seed: str, split: str
) -> list[list[int]]:
    """Give whole groups to a split until its share is reached best; return the other groups."""
    groups = sorted(groups, key=lambda rows: min(result[row].id for row in rows))
    random.Random(seed).shuffle(groups)
    total = sum(len(rows) for rows in groups)
    target = round(total * fraction)
    if total >= 2 and len(groups) >= 2:
        target = min(max(target, 1), total - 1)  # both sides see every stratum that can be cut
    taken, others = 0, []
    for rows in groups:
        if target > 0 and taken + len(rows) <= target:
            taken += len(rows)
            _fill(result, rows, split)
        else:
            others.append(rows)
    return others


def _fill(result: list[Sample], rows: list[int], split: str) -> None:
    for row in rows:
        if not result[row].split:
            result[row] = msgspec.structs.replace(result[row], split=split)


def split_table(samples: Sequence[Sample]) -> dict[tuple[str, str], dict[str, int]]:
    """Return counts per (label, language) and split; the empty split is ``auto``."""
    table: dict[tuple[str, str], dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for sample in samples:
        table[(sample.label.value, sample.language)][sample.split or "auto"] += 1
    return {key: dict(counts) for key, counts in sorted(table.items())}
