"""Rows of Parquet files through polars, in slices, with bounds checked first (torch-free)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from so8t_engine.errors import DataError
from so8t_engine.samples.delimited import MAX_COLUMNS
from so8t_engine.samples.encodings import Progress
from so8t_engine.samples.fields import MAX_TEXT_CHARS

if TYPE_CHECKING:
    import polars as pl

MAX_ROWS = 5_000_000
MAX_UNCOMPRESSED = 2 * 1024 * 1024 * 1024
_SLICE = 10_000
_BYTES_AT_ONCE = 32 * 1024 * 1024


def iter_parquet(
    path: Path, progress: Progress | None = None
) -> Iterator[tuple[int, Any, str, str]]:
    """Yield ``(row number, column → value, problem, raw)``.

    Raises:
        DataError: if the file is damaged, or would unpack to more than the limits.
    """
    import polars as pl
    from polars.exceptions import PolarsError

    size = uncompressed_size(path)
    if size > MAX_UNCOMPRESSED:
        raise DataError(
            f"{path.name} would unpack to {size / 2**30:.1f} GiB; "
            f"the limit is {MAX_UNCOMPRESSED >> 30} GiB.",
            next_step="Choose a table with one sample a row, or split the file.",
        )
    try:
        lazy = pl.scan_parquet(path)
        schema = lazy.collect_schema()
        if len(schema) > MAX_COLUMNS:
            raise DataError(
                f"{path.name} has {len(schema):,} columns; the limit is {MAX_COLUMNS:,}.",
                next_step="Choose a table with one sample a row.",
            )
        total = int(lazy.select(pl.len()).collect().item())
        if total > MAX_ROWS:
            raise DataError(
                f"{path.name} has {total:,} rows; the limit is {MAX_ROWS:,}.",
                next_step="Split the file.",
            )
        texts = [name for name, kind in schema.items() if kind == pl.String]
        huge = [
            pl.when(pl.col(name).str.len_bytes() <= 4 * MAX_TEXT_CHARS)
            .then(pl.col(name))
            .otherwise(pl.col(name).str.slice(0, MAX_TEXT_CHARS + 1))
            for name in texts
        ]
        for start in range(0, total, _SLICE):
            frame = lazy.slice(start, _SLICE).with_columns(huge).collect()
            for offset, row in enumerate(_rows(frame), start=1):
                yield start + offset, row, "", ""
            if progress is not None:
                progress(min(start + _SLICE, total), total)
    except (PolarsError, OSError) as error:
        raise DataError(
            f"{path.name} is not a readable Parquet file: {error}.",
            next_step="Write it again, or export it as JSON Lines.",
        ) from error


def _rows(frame: pl.DataFrame) -> Iterator[dict[str, Any]]:
    """Yield the rows; few at a time become Python objects where they are large."""
    step = max(1, int(_BYTES_AT_ONCE * max(frame.height, 1) / max(_text_bytes(frame), 1)))
    for start in range(0, frame.height, step):
        yield from frame.slice(start, step).iter_rows(named=True)


def _text_bytes(frame: pl.DataFrame) -> int:
    """Return what the texts of the frame take when they no longer share memory."""
    import polars as pl

    texts = [name for name, kind in frame.schema.items() if kind == pl.String]
    sums = frame.select(pl.col(name).str.len_bytes().sum() for name in texts) if texts else None
    return sum(value or 0 for value in sums.row(0)) if sums is not None else 0


def uncompressed_size(path: Path) -> int:
    """Return the bytes that the row groups unpack to, as the file's footer states them.

    Raises:
        DataError: if the footer is damaged. The footer is Thrift's compact protocol:
            https://github.com/apache/parquet-format (FileMetaData field 4, RowGroup field 2).
    """
    with path.open("rb") as stream:
        end = stream.seek(0, 2)
        stream.seek(max(end - 8, 0))
        tail = stream.read(8)
        length = int.from_bytes(tail[:4], "little")
        if end < 12 or tail[4:] != b"PAR1" or length > end - 12 or length > 256 * 1024 * 1024:
            raise _damaged(path)
        stream.seek(end - 8 - length)
        footer = stream.read(length)
    try:
        return _Thrift(footer).row_group_bytes()
    except (IndexError, ValueError, RecursionError) as error:
        raise _damaged(path) from error


def _damaged(path: Path) -> DataError:
    return DataError(
        f"{path.name} is cut off or damaged.",
        next_step="Copy or write the file again.",
    )


class _Thrift:
    """As much of Thrift's compact protocol as reading two fields of a footer needs."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def row_group_bytes(self) -> int:
        """Return the sum of RowGroup.total_byte_size over FileMetaData.row_groups."""
        total = 0
        for field, kind in self._fields():
            if field == 4 and kind == 9:
                count, inner = self._list()
                for _ in range(count):
                    if inner != 12:
                        raise ValueError("row groups must be structs")
                    for number, type_ in self._fields():
                        if number == 2 and type_ == 6:
                            total += self._zigzag()
                        else:
                            self._skip(type_, 0)
            else:
                self._skip(kind, 0)
        return total

    def _fields(self) -> Iterator[tuple[int, int]]:
        field = 0
        while True:
            head = self._data[self._at]
            self._at += 1
            if head == 0:
                return
            field = field + (head >> 4) if head >> 4 else self._zigzag()
            yield field, head & 15

    def _list(self) -> tuple[int, int]:
        head = self._data[self._at]
        self._at += 1
        count = head >> 4
        return (self._varint() if count == 15 else count), head & 15

    def _varint(self) -> int:
        value, shift = 0, 0
        while True:
            byte = self._data[self._at]
            self._at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("a number is too long")

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def _skip(self, kind: int, depth: int) -> None:
        if depth > 32:
            raise ValueError("nested too deeply")
        if kind in (1, 2):
            return
        if kind == 3:
            self._at += 1
        elif kind in (4, 5, 6):
            self._varint()
        elif kind == 7:
            self._at += 8
        elif kind == 8:
            length = self._varint()  # moves the position itself
            self._at += length
        elif kind in (9, 10):
            count, inner = self._list()
            for _ in range(count):
                self._at += inner in (1, 2)
                self._skip(inner, depth + 1)
        elif kind == 11:
            count = self._varint()
            if count:
                types = self._data[self._at]
                self._at += 1
                for _ in range(count):
                    self._skip(types >> 4, depth + 1)
                    self._skip(types & 15, depth + 1)
        elif kind == 12:
            for _, inner in self._fields():
                self._skip(inner, depth + 1)
        else:
            raise ValueError("an unknown type")
        if self._at > len(self._data):
            raise IndexError("the footer ends early")
