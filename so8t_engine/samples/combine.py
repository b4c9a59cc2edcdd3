"""How imported rows join a dataset: the same for the window and the command line (torch-free)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec
from msgspec import Struct

from so8t_engine.samples.schema import Sample

ImportMode = Literal["append", "merge", "replace"]
IMPORT_MODES: tuple[ImportMode, ...] = ("append", "merge", "replace")


class ImportPlan(Struct, frozen=True):
    """What an import does to the rows that are there.

    Attributes:
        changed: (old, new) of rows with the same identifier.
        fresh: rows to put at the end, with identifiers that nobody has.
    """

    changed: list[tuple[Sample, Sample]]
    fresh: list[Sample]


def plan_import(
    known: Mapping[str, Sample], samples: Sequence[Sample], mode: ImportMode
) -> ImportPlan:
    """Decide what becomes of each imported row.

    ``append`` adds all (where the identifier ``a`` is known, the new row becomes ``a-2``),
    ``merge`` updates rows with the same identifier and adds the others, ``replace`` takes the new
    rows only.

    Args:
        known: the rows that are there by identifier; ignored by ``replace``.
        samples: the new rows; repeated identifiers get a number.
        mode: see above.
    """
    if mode == "replace":
        known = {}
    changed: list[tuple[Sample, Sample]] = []
    fresh: dict[str, Sample] = {}
    wanted = {sample.id for sample in samples}
    numbers: dict[str, int] = {}
    for sample in samples:
        old = known.get(sample.id)
        if old is not None and mode == "merge":
            if old != sample:
                changed.append((old, sample))
            continue
        if old is not None or sample.id in fresh:
            number = numbers.get(sample.id, 2)
            while (name := f"{sample.id}-{number}") in known or name in fresh or name in wanted:
                number += 1
            numbers[sample.id] = number + 1
            fresh[name] = msgspec.structs.replace(sample, id=name)
        else:
            fresh[sample.id] = sample
    return ImportPlan(changed, list(fresh.values()))


def carry_out(rows: Sequence[Sample], plan: ImportPlan, mode: ImportMode) -> list[Sample]:
    """Return the rows after an import."""
    if mode == "replace":
        return plan.fresh
    new = {sample.id: sample for _, sample in plan.changed}
    return [*(new.get(sample.id, sample) for sample in rows), *plan.fresh]
