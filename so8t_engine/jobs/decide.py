"""Verdicts for single requests or a whole file. Whatever fails decides ESCALATE, with a reason."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from so8t_engine.errors import SpecError, WorkspaceError
from so8t_engine.jobs.questions import Question
from so8t_engine.verdict import OperatingPoint, Verdict, decide, escalate_because
from so8t_engine.workspace.atomic import write_bytes

if TYPE_CHECKING:
    from so8t_engine.model.decider import Decider

_log = logging.getLogger(__name__)
OUTPUT_FORMATS = (".jsonl", ".csv")


def judge(
    decider: Decider,
    questions: Sequence[Question],
    point: OperatingPoint,
    *,
    progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> list[Verdict]:
    """Return one verdict a question, in order.

    A question that the model fails on decides ESCALATE with confidence 0 and the reason; the
    others keep their verdicts.

    Raises:
        InterruptedError: if ``cancelled`` said so.
    """
    items = [(question.context, question.request) for question in questions]
    extra: dict[str, Any] = {} if progress is None else {"progress": progress}
    try:
        logits, truncated = decider.logits(items, cancelled=cancelled, **extra)
    except InterruptedError:
        raise
    except Exception as error:  # noqa: BLE001 - a decision is a boundary: never a wrong ALLOW
        _log.exception("The model failed on %d requests.", len(items))
        if len(items) == 1:
            return [escalate_because(f"The model failed: {error}")]
        return [judge(decider, [question], point, cancelled=cancelled)[0] for question in questions]
    return [
        decide(row, point, truncated=bool(cut)) for row, cut in zip(logits, truncated, strict=True)
    ]


def verdict_row(question: Question, verdict: Verdict) -> dict[str, Any]:
    """Return a verdict under stable names, as ``--json`` and files carry it."""
    allow, escalate, refuse = verdict.probabilities
    row: dict[str, Any] = {"id": question.id} if question.id else {}
    row["request"] = question.request
    if question.context:
        row["context"] = question.context
    row.update(
        label=verdict.label.value,
        confidence=verdict.confidence,
        p_allow=allow,
        p_escalate=escalate,
        p_refuse=refuse,
        reason=verdict.reason,
        truncated=verdict.truncated,
    )
    return row


def check_output(path: Path) -> None:
    """Refuse an output file that cannot be written, before the model is loaded.

    Raises:
        SpecError: if its name ends in no known format.
        WorkspaceError: if its folder does not exist.
    """
    if path.suffix.lower() not in OUTPUT_FORMATS:
        raise SpecError(
            f"{path.name} does not name a known format.",
            next_step=f"End the name of --out in one of: {', '.join(OUTPUT_FORMATS)}.",
        )
    if not path.absolute().parent.is_dir():
        raise WorkspaceError(
            f"The folder {path.absolute().parent} does not exist.", next_step="Create it first."
        )


def write_verdicts(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write verdicts atomically as JSON Lines or CSV (with a BOM, for spreadsheets).

    Raises:
        WorkspaceError: if the file cannot be written.
    """
    if path.suffix.lower() == ".csv":
        names = list(dict.fromkeys(name for row in rows for name in row))
        stream = io.StringIO()
        writer = csv.DictWriter(stream, names, restval="", lineterminator="\r\n")
        writer.writeheader()
        writer.writerows(rows)
        data = stream.getvalue().encode("utf-8-sig")
    else:
        data = b"".join(msgspec.json.encode(row) + b"\n" for row in rows)
    try:
        write_bytes(path, data)
    except OSError as error:
        raise WorkspaceError(
            f"{path} cannot be written: {error.strerror}.",
            next_step="Choose a folder that may be written, on a disk that is not full.",
        ) from error
