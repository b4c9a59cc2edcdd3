"""Read one rejected row again after somebody corrected it (torch-free)."""

from __future__ import annotations

import csv
import json
from typing import Any

from so8t_engine.errors import DataError
from so8t_engine.samples.delimited import sniff_delimiter
from so8t_engine.samples.fields import TARGETS, RowProblem, RowReader
from so8t_engine.samples.readers import ImportResult
from so8t_engine.samples.schema import Sample


def read_corrected(text: str, line: int, result: ImportResult) -> Sample:
    """Return the sample of a corrected row, read with the mapping that is in force.

    Args:
        text: the row as JSON, or as a line of the table that it came from.
        line: where it stands in the file, for messages.
        result: what the file held.

    Raises:
        DataError: if it still is no sample, with the reason.
    """
    row = _as_object(text, result)
    mapping = dict(result.mapping)
    taken = set(mapping.values())
    mapping.update({name: name for name in row if name in TARGETS and name not in taken})
    reader = RowReader("", mapping, formulas=result.format in ("csv", "tsv"))
    try:
        return reader.read(row, line)
    except RowProblem as problem:
        raise DataError(problem.reason) from problem


def _as_object(text: str, result: ImportResult) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        if result.format in ("csv", "tsv") and not text.lstrip().startswith("{"):
            return _as_table_row(text, result.columns)
        raise DataError(f"not valid JSON: {error}") from error
    if not isinstance(row, dict):
        raise DataError("the row is not an object of fields and values")
    return row


def _as_table_row(text: str, columns: list[str]) -> dict[str, Any]:
    if not text.strip():
        raise DataError("the row is empty")
    first, *others = (sniff_delimiter(text), ",", "\t", ";", "|")
    for delimiter in dict.fromkeys((first, *others)):
        try:
            cells = next(csv.reader([text], delimiter=delimiter, strict=True))
        except csv.Error as error:
            raise DataError(f"the quotes are not right: {error}") from error
        if len(cells) == len(columns):
            return dict(zip(columns, cells, strict=True))
    raise DataError(f"the header has {len(columns)} columns: {', '.join(columns)}")
