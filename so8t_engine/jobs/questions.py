"""Requests to decide, read from a file: like a dataset, but nobody has labelled it yet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from so8t_engine.errors import DataError
from so8t_engine.samples import delimited, jsonrows
from so8t_engine.samples.encodings import detect_encoding, iter_lines
from so8t_engine.samples.fields import clean_text, guess_mapping

_Row = tuple[int, Any, str]


@dataclass(frozen=True)
class Question:
    """A request to decide, with its situation and the identity it came with."""

    request: str
    context: str = ""
    id: str = ""


def read_questions(path: Path) -> tuple[list[Question], list[str]]:
    """Read the requests of a file; labels are not needed.

    ``.txt`` has one request a line. ``.jsonl``, ``.json``, ``.csv`` and ``.tsv`` are read by the
    same field names and in the same encodings as datasets.

    Returns:
        The questions and one sentence for every row that was left out.

    Raises:
        DataError: if the file is missing, unreadable or has no request.
    """
    if not path.is_file():
        raise DataError(f"There is no file {path}.", next_step="Correct the path.")
    questions: list[Question] = []
    notes: list[str] = []
    try:
        for line, value, problem in _rows(path):
            question = None if problem else _question(value)
            if question is not None:
                questions.append(question)
            else:
                reason = problem or "no field holds a request"
                notes.append(f"{path.name}, row {line}, request: {reason}")
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror or error}.",
            next_step="Check the path and the permissions.",
        ) from error
    if not questions:
        raise DataError(
            f"{path} has no request to decide.",
            why=f"{notes[0]}." if notes else "",
            next_step="Use one request a line (.txt), or rows with a field named request.",
        )
    return questions, notes


def _rows(path: Path) -> Iterator[_Row]:
    """Yield line, value (text or a mapping) and problem of every row that is not blank."""
    if path.stat().st_size == 0:
        return
    suffix = path.suffix.casefold()
    encoding = detect_encoding(path)
    if suffix in (".csv", ".tsv", ".tab"):
        separator = "" if suffix == ".csv" else "\t"
        for cells in delimited.iter_rows(path, encoding, delimiter=separator):
            yield cells.line, cells.cells, cells.problem
    elif suffix == ".json" and jsonrows.is_array(path, encoding):
        for element in jsonrows.iter_document(path, encoding):
            yield element.line, element.value, element.problem
    else:
        plain = suffix not in (".jsonl", ".ndjson", ".json")
        for line in iter_lines(path, encoding):
            if line.text is None:
                yield line.number, None, line.problem
            elif line.text.strip():
                yield (line.number, line.text, "") if plain else _json(line.number, line.text)


def _json(number: int, text: str) -> _Row:
    try:
        return number, json.loads(text), ""
    except (ValueError, RecursionError) as error:
        return number, None, f"not valid JSON ({error})"


def _question(value: Any) -> Question | None:
    """Return the question in a row, or None if it holds none."""
    if isinstance(value, str):
        text = clean_text(value)[0].strip()
        return Question(request=text) if text else None
    if not isinstance(value, dict):
        return None
    found: dict[str, str] = {}
    for column, field in guess_mapping(value).items():
        if field in ("request", "context", "id") and isinstance(value[column], (str, int)):
            found[field] = clean_text(str(value[column]))[0]
    if not found.get("request", "").strip():
        return None
    return Question(
        request=found["request"], context=found.get("context", ""), id=found.get("id", "")
    )
