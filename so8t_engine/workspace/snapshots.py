"""Frozen states of a dataset and what changed between two of them (torch-free)."""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from so8t_engine.errors import WorkspaceError
from so8t_engine.samples.schema import SAMPLE_FIELDS, Sample, decode_sample, encode_sample
from so8t_engine.workspace.atomic import write_lines
from so8t_engine.workspace.personas import Persona

_NAME = re.compile(r"\d{8}_\d{6}(?:_\d+)?")


class Snapshot(Struct, frozen=True, kw_only=True):
    """A frozen dataset.

    Attributes:
        name: session id of the run that froze it, or the time it was taken.
        kind: ``run`` or ``manual``.
        path: its JSON Lines file.
    """

    name: str
    kind: str
    path: Path

    def load(self) -> list[Sample]:
        """Return its rows.

        Raises:
            WorkspaceError: if the file is damaged.
        """
        try:
            with self.path.open("rb") as stream:
                return [decode_sample(line) for line in stream if line.strip()]
        except (OSError, msgspec.DecodeError) as error:
            raise WorkspaceError(f"The snapshot {self.name} cannot be read: {error}.") from error


class RowDiff(Struct, frozen=True, kw_only=True):
    """A row that differs: ``added``, ``removed``, ``relabelled`` or ``edited``."""

    kind: str
    id: str
    before: Sample | None = None
    after: Sample | None = None
    fields: tuple[str, ...] = ()


def content_hash(samples: Sequence[Sample], *, splits: bool = False) -> str:
    """Return a SHA-256 of the rows that does not depend on their order.

    Args:
        samples: the rows.
        splits: whether the split belongs to the content. A run fills empty splits in.
    """
    lines = [
        encode_sample(sample if splits else msgspec.structs.replace(sample, split=""))
        for sample in samples
    ]
    digest = hashlib.sha256()
    for line in sorted(lines):
        digest.update(line)
    return digest.hexdigest()


def list_snapshots(persona: Persona) -> list[Snapshot]:
    """Return the data of all runs and the snapshots taken by hand, newest first."""
    found = [
        Snapshot(name=run.id, kind="run", path=run.samples_path)
        for run in persona.runs()
        if run.samples_path.is_file()
    ]
    if persona.snapshots_dir.is_dir():
        found += [
            Snapshot(name=path.stem, kind="manual", path=path)
            for path in persona.snapshots_dir.glob("*.jsonl")
            if _NAME.fullmatch(path.stem)
        ]
    return sorted(found, key=lambda snapshot: snapshot.name, reverse=True)


def take_snapshot(
    persona: Persona, samples: Sequence[Sample], *, now: dt.datetime | None = None
) -> Snapshot:
    """Freeze ``samples`` under the present time."""
    if persona.read_only:
        raise WorkspaceError("The workspace is open in another window, so this one only reads.")
    stem = (now or dt.datetime.now()).strftime("%Y%m%d_%H%M%S")
    path, number = persona.snapshots_dir / f"{stem}.jsonl", 2
    while path.exists():
        path, number = persona.snapshots_dir / f"{stem}_{number}.jsonl", number + 1
    write_lines(path, (encode_sample(sample) for sample in samples))
    return Snapshot(name=path.stem, kind="manual", path=path)


def diff(
    before: Sequence[Sample], after: Sequence[Sample], *, splits: bool = False
) -> list[RowDiff]:
    """Return the rows that differ, in the order removed, relabelled, edited, added.

    Rows are paired by identifier, then by equal context and request.
    """
    old = {sample.id: sample for sample in before}
    new = {sample.id: sample for sample in after}
    pairs = [(old[one], new[one]) for one in old if one in new]
    left = [sample for sample in before if sample.id not in new]
    right = [sample for sample in after if sample.id not in old]
    by_text: dict[tuple[str, str], list[Sample]] = {}
    for sample in right:
        by_text.setdefault((sample.context, sample.request), []).append(sample)
    removed, matched = [], set()
    for sample in left:
        twins = by_text.get((sample.context, sample.request))
        if twins:
            twin = twins.pop(0)
            matched.add(twin.id)
            pairs.append((sample, twin))
        else:
            removed.append(RowDiff(kind="removed", id=sample.id, before=sample))
    changed = [one for one in (_compare(a, b, splits) for a, b in pairs) if one is not None]
    added = [
        RowDiff(kind="added", id=sample.id, after=sample)
        for sample in right
        if sample.id not in matched
    ]
    relabelled = [one for one in changed if one.kind == "relabelled"]
    edited = [one for one in changed if one.kind == "edited"]
    return [*removed, *relabelled, *edited, *added]


def _compare(before: Sample, after: Sample, splits: bool) -> RowDiff | None:
    ignored = {"id"} if splits else {"id", "split"}
    fields = tuple(
        name
        for name in SAMPLE_FIELDS
        if name not in ignored and getattr(before, name) != getattr(after, name)
    )
    if not fields:
        return None
    kind = "relabelled" if "label" in fields else "edited"
    return RowDiff(kind=kind, id=after.id, before=before, after=after, fields=fields)
