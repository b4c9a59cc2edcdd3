"""Finds the weights that a specification begins with, and checks that they fit (torch-free)."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from so8t_engine.errors import DataError, SpecError, WorkspaceError
from so8t_engine.jobs.selection import checkpoint_of, find_run
from so8t_engine.model.header import HEADER, AdapterHeader, read_header
from so8t_engine.samples.schema import Sample
from so8t_engine.specs import ModelSpec, TrainSpec
from so8t_engine.workspace.personas import Persona
from so8t_engine.workspace.runs import RunStore
from so8t_engine.workspace.starts import Start, read_seen, row_key, trained_on
from so8t_engine.workspace.workspace import shipped_persona, shipped_run

STARTER_WEIGHTS = "starter"
# What decides which learned numbers there are and what they mean.
SHAPING = ("adapt_layers", "gates", "sharing", "lora")


def find_start(spec: TrainSpec, persona: Persona) -> Start | None:
    """Return the weights that ``spec`` begins with; None if it begins with nothing learned.

    ``starter`` stands for the weights that ship; they fit the default base model, and with any
    other one a run begins with nothing learned.

    Raises:
        WorkspaceError: if there are no such weights.
        SpecError: if the model settings of ``spec`` are not those they were trained with.
    """
    folder = locate_start(spec, persona)
    if folder is None:
        return None
    if spec.start_from == STARTER_WEIGHTS:
        return Start(folder, trained_on(shipped_persona().load_samples()))
    return Start(folder, _seen_of_checkpoint(folder))


def locate_start(spec: TrainSpec, persona: Persona) -> Path | None:
    """Return the folder of :func:`find_start`, without reading which rows it has seen.

    Raises:
        WorkspaceError, SpecError: as there.
    """
    name = spec.start_from
    if not name or (name == STARTER_WEIGHTS and spec.base_model != "default"):
        return None
    folder = Path(name).expanduser()
    if name == STARTER_WEIGHTS:
        folder = checkpoint_of(shipped_run())
    elif not (folder / HEADER).is_file():
        folder = checkpoint_of(find_run(persona, name))
    require_fit(spec.model, read_header(folder), name)
    return folder


def require_fit(model: ModelSpec, header: AdapterHeader, name: str) -> None:
    """Check that weights have the shapes that a specification asks for.

    Raises:
        SpecError: naming every setting that differs, with the value to set.
    """
    wanted = differing(model, header.model)
    if wanted:
        settings = ", ".join(
            f"model.{key} = {msgspec.json.encode(value).decode()}" for key, value in wanted.items()
        )
        raise SpecError(
            f"The weights {name!r} do not fit the model settings of this run.",
            why=f"They were trained with {settings}.",
            next_step="Use these settings, or clear start_from to begin with nothing learned.",
        )


def differing(model: ModelSpec, trained: ModelSpec) -> dict[str, Any]:
    """Return the settings of ``trained`` that ``model`` would have to take over, by name."""
    ours, theirs = msgspec.to_builtins(model), msgspec.to_builtins(trained)
    found = {key: theirs[key] for key in SHAPING if ours[key] != theirs[key]}
    lora = found.get("lora")
    if lora is not None and ours["lora"] is not None and _same_shape(ours["lora"], lora):
        found.pop("lora")
    return found


def _same_shape(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    """Compare two LoRA settings; dropout may change from run to run."""
    return all(ours[key] == theirs[key] for key in ours if key != "dropout")


def training_rows(
    run: RunStore, persona: Persona, frozen: Sequence[Sample]
) -> tuple[list[Sample], frozenset[str]]:
    """Return what the weights of ``run`` have learned from, so that a baseline learns from it too.

    Args:
        run: an ended run.
        persona: whose dataset still has the rows that earlier runs were trained on.
        frozen: the data of the run.

    Returns:
        The rows, each once, with those of the weights that it began with as far as they are at
        hand; and the keys of all of them.
    """
    train = [sample for sample in frozen if sample.split == "train"]
    before = read_seen(run.start_dir)
    if not before:
        return train, trained_on(train)
    found: dict[str, Sample] = {}  # also makes one row of those that were read several times
    for sample in train:
        found.setdefault(row_key(sample), sample)
    sources = [persona]
    if run.spec().start_from == STARTER_WEIGHTS:
        sources.append(shipped_persona())
    for source in sources:
        missing = before - found.keys()
        if not missing:
            break
        with contextlib.suppress(DataError):  # a damaged dataset holds nothing up here
            for sample in source.load_samples():
                key = row_key(sample)
                if key in missing:
                    found.setdefault(key, sample)
    return list(found.values()), before | found.keys()


def _seen_of_run(run: RunStore) -> frozenset[str] | None:
    """Return what a run was trained on, and before it the weights that it began with."""
    try:
        seen = trained_on(run.samples())
    except (OSError, msgspec.DecodeError) as error:
        raise WorkspaceError(
            f"The data of run {run.id} cannot be read: {error}.",
            why="Without it nobody knows which rows its weights have seen.",
            next_step="Begin with another run.",
        ) from error
    if not run.start_dir.is_dir():
        return seen
    before = read_seen(run.start_dir)
    return None if before is None else seen | before


def _seen_of_checkpoint(folder: Path) -> frozenset[str] | None:
    """Return what a checkpoint inside a run was trained on; None of a folder from elsewhere."""
    frozen = read_seen(folder)
    if frozen is not None:
        return frozen
    run = RunStore(folder.resolve().parent.parent)
    return _seen_of_run(run) if run.samples_path.is_file() else None
