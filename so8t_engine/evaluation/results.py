"""What an evaluation leaves on disk: every row's logits, so that any figure can be recomputed."""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct

from so8t_engine.labels import Label
from so8t_engine.verdict import OperatingPoint
from so8t_engine.workspace.atomic import write_bytes


class RowResult(Struct, frozen=True, kw_only=True):
    """One evaluated sample. ``logits`` are raw, in the order ALLOW, ESCALATE, REFUSE."""

    id: str
    label: Label
    logits: tuple[float, float, float]
    request: str = ""
    category: str = ""
    language: str = ""


class Evaluation(Struct, frozen=True, kw_only=True):
    """A finished evaluation, ``runs/<id>/evaluations/<name>.json``.

    Attributes:
        name: ``validation``, ``test`` or the stem of an imported file.
        run: session id, or ``base`` for the untrained base model.
        checkpoint: folder name of the checkpoint, or empty for the base model.
        created: seconds since the epoch.
        point: the operating point that was in force.
        rows: every sample with its logits.
        baselines: rows (same order) of label names by baseline, e.g. ``always_allow``, ``tfidf``.
        seconds: time the model took.
    """

    name: str
    run: str
    checkpoint: str
    created: float
    point: OperatingPoint
    rows: list[RowResult]
    baselines: dict[str, list[Label]] = msgspec.field(default_factory=dict)
    seconds: float = 0.0
    version: int = 1


def save_evaluation(path: Path, evaluation: Evaluation) -> None:
    """Write the evaluation atomically."""
    write_bytes(path, msgspec.json.encode(evaluation) + b"\n")


def load_evaluation(path: Path) -> Evaluation:
    """Read an evaluation.

    Raises:
        OSError, msgspec.DecodeError: if the file is missing or damaged.
    """
    return msgspec.json.decode(path.read_bytes(), type=Evaluation)
