"""Stored evaluations of a persona's runs (no Qt; called off the GUI thread)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from so8t_engine.errors import So8tError, WorkspaceError
from so8t_engine.evaluation.report import GroupRow, Scored, WrongRow
from so8t_engine.evaluation.results import load_evaluation
from so8t_engine.verdict import OperatingPoint
from so8t_engine.workspace.personas import Persona
from so8t_engine.workspace.runs import RunStore


@dataclass(frozen=True)
class RunEntry:
    """A run that can be evaluated.

    Attributes:
        id: session id.
        name: name of its specification.
        checkpoint: folder name of the best checkpoint.
        evaluations: names of the stored evaluations, newest first.
    """

    id: str
    name: str
    checkpoint: str
    evaluations: tuple[str, ...]


@dataclass(frozen=True)
class Details:
    """What depends on the operating point and takes longer: groups and wrong rows."""

    point: OperatingPoint
    categories: tuple[GroupRow, ...]
    languages: tuple[GroupRow, ...]
    wrong: tuple[WrongRow, ...]


def list_entries(persona: Persona) -> list[RunEntry]:
    """Return the runs with a complete checkpoint, newest first."""
    entries = []
    for run in persona.runs():
        checkpoint = run.best_checkpoint()
        if checkpoint is None:
            continue
        try:
            name = run.spec().name
        except So8tError:
            name = ""
        entries.append(RunEntry(run.id, name, checkpoint.name, evaluation_names(run)))
    return entries


def evaluation_names(run: RunStore) -> tuple[str, ...]:
    """Return the names of the stored evaluations, newest first."""
    if not run.evaluations_dir.is_dir():
        return ()
    files = [path for path in run.evaluations_dir.glob("*.json") if path.is_file()]
    return tuple(
        path.stem for path in sorted(files, key=lambda path: path.stat().st_mtime, reverse=True)
    )


def open_evaluation(path: Path) -> Scored:
    """Read one evaluation.

    Raises:
        WorkspaceError: if the file is missing or damaged.
    """
    try:
        return Scored(load_evaluation(path))
    except (OSError, msgspec.DecodeError) as error:
        raise WorkspaceError(
            f"The evaluation {path.name} cannot be read: {error}.",
            next_step="Evaluate again; the file is then replaced.",
        ) from error


def details(scored: Scored, point: OperatingPoint) -> Details:
    """Return groups and wrong rows at an operating point."""
    return Details(
        point=point,
        categories=tuple(scored.groups("category", point)),
        languages=tuple(scored.groups("language", point)),
        wrong=tuple(scored.wrong(point)),
    )
