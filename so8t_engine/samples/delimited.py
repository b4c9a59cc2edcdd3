"""Rows of CSV and TSV files, with recovery after damaged quotes (torch-free)."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct

from so8t_engine.errors import DataError
from so8t_engine.samples.encodings import Progress

MAX_COLUMNS = 1024
MAX_ROW_CHARS = 4 * 1024 * 1024
MAX_ROW_LINES = 20_000


class Row(Struct, frozen=True, array_like=True):
    """One row as column → cell, or the problem that it has."""

    line: int
    cells: dict[str, str] | None
    problem: str = ""
    raw: str = ""


class _Lines:
    """Feeds the parser and can give back all lines but the first of a record that failed."""

    def __init__(self, binary: BinaryIO, encoding: str, progress: Progress | None) -> None:
        self._total = binary.seek(0, 2)
        binary.seek(0)
        self._binary = binary
        self._stream = io.TextIOWrapper(binary, encoding=encoding, errors="replace", newline="")
        self._progress = progress
        self._again: list[str] = []
        self.record: list[str] = []
        self.number = 0
        self._chars = 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._again.pop() if self._again else self._stream.readline(MAX_ROW_CHARS)
        if not line:
            raise StopIteration
        self.record.append(line)
        self.number += 1
        self._chars += len(line)
        if self._chars > MAX_ROW_CHARS or len(self.record) > MAX_ROW_LINES:
            raise csv.Error(f"the row is longer than {MAX_ROW_CHARS // 1024 // 1024} MiB")
        if self._progress is not None and self.number % 512 == 1:
            self._progress(min(self._binary.tell(), self._total), self._total)
        return line

    def close(self) -> None:
        """Let go of the file, which its owner closes."""
        self._stream.detach()

    def next_record(self) -> None:
        """Forget the lines of the record that was read."""
        self.record = []
        self._chars = 0

    def retry_after_first(self) -> str:
        """Return the first line of the record and queue the others to be read again."""
        first = self.record[0] if self.record else ""
        if len(first) >= MAX_ROW_CHARS and not first.endswith(("\n", "\r")):
            self._skip_line()
        self._again.extend(reversed(self.record[1:]))
        self.number -= max(len(self.record) - 1, 0)
        self.next_record()
        return first

    def _skip_line(self) -> None:
        while (more := self._stream.readline(1024 * 1024)) and not more.endswith(("\n", "\r")):
            pass


def sniff_delimiter(header: str) -> str:
    """Return the delimiter that occurs most often outside of quotes in the header line."""
    outside = "".join(header.split('"')[0::2])
    return max(",\t;|", key=lambda sign: (outside.count(sign), -",\t;|".index(sign)))


def iter_rows(
    path: Path, encoding: str, *, delimiter: str = "", progress: Progress | None = None
) -> Iterator[Row]:
    """Yield the rows of a delimited file below its header.

    A row with damaged quotes is reported alone; reading goes on at the line after it.

    Raises:
        DataError: if there is no usable header.
    """
    with path.open("rb") as binary:
        lines = _Lines(binary, encoding, progress)
        previous = csv.field_size_limit(MAX_ROW_CHARS)
        try:
            header = _header(path, lines)
            delimiter = delimiter or sniff_delimiter(header)
            columns = _columns(path, header, delimiter)
            yield from _rows(lines, columns, delimiter)
        finally:
            csv.field_size_limit(previous)
            lines.close()


def _header(path: Path, lines: _Lines) -> str:
    """Return the first line that is not blank."""
    try:
        for line in lines:
            lines.next_record()
            if line.strip("\ufeff\r\n\t ,;"):
                return line.removeprefix("\ufeff")
    except csv.Error as error:
        raise DataError(
            f"{path.name} has a header of more than {MAX_ROW_CHARS // 1024 // 1024} MiB.",
            next_step="Choose a table with one sample a row.",
        ) from error
    raise DataError(f"{path.name} has no rows.", next_step="Choose another file.")


def _columns(path: Path, header: str, delimiter: str) -> list[str]:
    if header.count(delimiter) >= MAX_COLUMNS:
        cut = "more than " if len(header) >= MAX_ROW_CHARS - 1 else ""
        raise DataError(
            f"{path.name} has {cut}{header.count(delimiter) + 1:,} columns; "
            f"the limit is {MAX_COLUMNS:,}.",
            next_step="Choose a table with one sample a row.",
        )
    try:
        names = next(csv.reader([header], delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise DataError(
            f"{path.name}, line 1: the header cannot be read ({error}).",
            next_step="Correct the quotes in the first line.",
        ) from error
    unique: list[str] = []
    for index, name in enumerate(names, start=1):
        label = name.strip() or f"column {index}"
        unique.append(label if label not in unique else f"{label} ({index})")
    return unique


def _rows(lines: _Lines, columns: list[str], delimiter: str) -> Iterator[Row]:
    width = len(columns)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        start = lines.number + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            first = lines.retry_after_first()
            yield Row(start, None, _explain(error), first[: 64 * 1024])
            reader = csv.reader(lines, delimiter=delimiter, strict=True)
            continue
        raw_lines = lines.record
        lines.next_record()
        if not any(cells):
            continue
        if len(cells) > width and any(cells[width:]):
            problem = f"the row has {len(cells)} cells, the header has {width}"
            yield Row(start, None, problem, "".join(raw_lines)[: 64 * 1024])
            continue
        yield Row(start, dict(zip(columns, cells, strict=False)), "", "".join(raw_lines))


def _explain(error: csv.Error) -> str:
    text = str(error)
    if "unexpected end of data" in text:
        return "a quotation mark opens in this line and never closes"
    if "expected after" in text:
        return "text follows a closing quotation mark"
    if "field larger" in text:
        return f"a cell is larger than {MAX_ROW_CHARS // 1024 // 1024} MiB"
    return text
