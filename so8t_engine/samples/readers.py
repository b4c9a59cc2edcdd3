"""Read samples from the files that people have: any format, any encoding (torch-free)."""

from __future__ import annotations

import codecs
import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from so8t_engine.errors import DataError
from so8t_engine.samples import delimited, jsonrows
from so8t_engine.samples.encodings import ENCODINGS, Progress, detect_encoding, iter_lines
from so8t_engine.samples.fields import (
    Repaired,
    RowProblem,
    RowReader,
    clean_tags,
    clean_text,
    shorten,
)
from so8t_engine.samples.schema import SPLITS, Sample

FORMATS: tuple[str, ...] = ("jsonl", "json", "csv", "tsv", "parquet")
MAX_RAW_CHARS = 64 * 1024
_MAX_RAW_TOTAL = 64 * 1024 * 1024
_GIVE_UP_AFTER = 20_000
MAX_TEXT_TOTAL = 1 << 30
_FIELDS = frozenset(Sample.__struct_fields__)
_REQUIRED = frozenset(("id", "request", "label"))
_SPLITS = frozenset((*SPLITS, ""))
_row_decoder = msgspec.json.Decoder(dict[str, Any])
_sample_decoder = msgspec.json.Decoder(Sample)
Cancelled = Callable[[], bool]


class ReadCancelled(DataError):
    """The user cancelled; nothing was changed."""


class Rejected(Struct, frozen=True, kw_only=True):
    """A row that is no sample.

    Attributes:
        file: name of the file.
        line: line (text files) or row (Parquet) where it begins, from 1.
        field: the field that is wrong, empty if the row as a whole is.
        value: that field's value, shortened.
        reason: a sentence without its full stop.
        raw: the row as JSON where it could be read, else the text of the line.
    """

    file: str
    line: int
    field: str
    value: str
    reason: str
    raw: str = ""


class ImportResult(Struct, frozen=True, kw_only=True):
    """What a file held.

    Attributes:
        samples: the good rows, in file order.
        rejected: the rows that are no samples.
        encoding: as detected; ``binary`` for Parquet.
        format: one of :data:`FORMATS`.
        repaired: what was put right in rows that were imported.
        columns: the file's own names of columns, in order.
        mapping: column → field that was used.
    """

    samples: list[Sample]
    rejected: list[Rejected]
    encoding: str
    format: str
    repaired: list[Repaired] = msgspec.field(default_factory=list)
    columns: list[str] = msgspec.field(default_factory=list)
    mapping: dict[str, str] = msgspec.field(default_factory=dict)


def read_samples(
    path: Path,
    *,
    mapping: Mapping[str, str] | None = None,
    progress: Progress | None = None,
    cancelled: Cancelled | None = None,
    limit: int = 0,
    encoding: str = "",
) -> ImportResult:
    """Read a dataset.

    Args:
        path: JSON Lines, JSON, CSV, TSV or Parquet; decided by content, then by name.
        mapping: column → field, ``""`` ignores a column; None guesses by name.
        progress: called now and then with bytes (rows for Parquet) done and in all.
        cancelled: asked after every few hundred rows.
        limit: stop after this many rows, good or bad; 0 reads all (a preview sets it).
        encoding: overrules the detection.

    Raises:
        DataError: if the file is no dataset at all; single bad rows are in ``rejected`` instead.
        ReadCancelled: if ``cancelled`` said so.
    """
    path = Path(path)
    try:
        codecs.lookup(encoding or "utf-8")
    except LookupError as error:
        raise DataError(
            f"{encoding!r} is not an encoding.", next_step=f"Use one of: {', '.join(ENCODINGS)}."
        ) from error
    try:
        return _read(path, mapping, progress, cancelled, limit, encoding)
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror or error}.",
            next_step="Check the path and the permissions.",
        ) from error


def _read(
    path: Path,
    mapping: Mapping[str, str] | None,
    progress: Progress | None,
    cancelled: Cancelled | None,
    limit: int,
    encoding: str,
) -> ImportResult:
    if path.is_dir():
        raise DataError(f"{path} is a folder.", next_step="Choose a file.")
    with path.open("rb") as stream:
        magic = stream.read(4)
    if magic == b"PAR1":
        from so8t_engine.samples.parquet import iter_parquet

        found = _Collector(path, mapping, cancelled, limit)
        found.collect_rows(iter_parquet(path, progress))
        return found.result("binary", "parquet")
    if not magic:
        raise DataError(f"{path.name} is empty.", next_step="Choose another file.")
    encoding = encoding or detect_encoding(path)
    kind = _text_format(path, encoding)
    found = _Collector(path, mapping, cancelled, limit, formulas=kind in ("csv", "tsv"))
    if kind == "jsonl":
        found.collect_lines(path, encoding, progress)
    elif kind == "json":
        rows = jsonrows.iter_document(path, encoding, progress)
        found.collect_rows((row.line, row.value, row.problem, row.raw) for row in rows)
    else:
        delimiter = "\t" if kind == "tsv" else ""
        table = delimited.iter_rows(path, encoding, delimiter=delimiter, progress=progress)
        found.collect_rows((row.line, row.cells, row.problem, row.raw) for row in table)
    return found.result(encoding, kind)


def _text_format(path: Path, encoding: str) -> str:
    suffix = path.suffix.casefold()
    if suffix in (".csv", ".tsv", ".tab"):
        return "csv" if suffix == ".csv" else "tsv"
    if suffix in (".jsonl", ".ndjson"):
        return "jsonl"
    head = ""
    with contextlib.closing(iter_lines(path, encoding)) as lines:
        for line in lines:
            # A whole array may stand in one line that is too long for a row.
            text = line.text if line.text is not None else line.raw.decode("utf-8", "replace")
            head = text.strip()
            if head:
                break
    if head.startswith(("[", "{")):
        return "json" if jsonrows.is_array(path, encoding) else "jsonl"
    if suffix == ".json":
        return "jsonl"
    return "csv"


class _Collector:
    """Gathers samples and rejected rows with bounds on the memory that bad rows may take."""

    def __init__(
        self,
        path: Path,
        mapping: Mapping[str, str] | None,
        cancelled: Cancelled | None,
        limit: int,
        *,
        formulas: bool = False,
    ) -> None:
        self._file = path.name
        self._reader = RowReader(path.name, mapping, formulas=formulas)
        self._plain = mapping is None
        self._cancelled = cancelled
        self._limit = limit
        self._raw_total = 0
        self._rows = 0
        self._text_total = 0
        self.samples: list[Sample] = []
        self.rejected: list[Rejected] = []

    def collect_lines(self, path: Path, encoding: str, progress: Progress | None) -> None:
        """Read JSON Lines."""
        for line in iter_lines(path, encoding, progress):
            text = line.text
            if text is None:
                self._reject(line.number, "", "", line.problem, line.raw.decode("utf-8", "replace"))
            elif not text or text.isspace():
                continue
            elif not self._fast(text, line.number):
                self._slow(text, line.number)
            if self._count_row():
                return

    def collect_rows(self, rows: Iterator[tuple[int, Any, str, str]]) -> None:
        """Read rows of ``(line, value, problem, raw)``."""
        for line, value, problem, raw in rows:
            if problem:
                self._reject(line, "", "", problem, raw)
            else:
                self._convert(value, line, raw)
            if self._count_row():
                return

    def _count_row(self) -> bool:
        """Return True when the limit is reached."""
        self._rows += 1
        if self._rows % 256 == 0:
            if self._cancelled is not None and self._cancelled():
                raise ReadCancelled("The import was cancelled; nothing was changed.")
            if not self.samples and len(self.rejected) >= _GIVE_UP_AFTER:
                first = self.rejected[0]
                raise DataError(
                    f"None of the first {_GIVE_UP_AFTER:,} rows of {self._file} is a sample; "
                    f"line {first.line}: {first.reason}.",
                    next_step="Check that the file is a dataset, or map its columns.",
                )
        return bool(self._limit) and self._rows >= self._limit

    def _fast(self, text: str, number: int) -> bool:
        """Take a row that this program wrote; False sends it the careful way."""
        if not self._plain:
            return False
        try:
            row = _row_decoder.decode(text)
            if not (row.keys() <= _FIELDS and row.keys() >= _REQUIRED):
                return False
            sample = _sample_decoder.decode(text)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return False
        if not sample.request.strip() or sample.split not in _SPLITS:
            return False
        if sample.id != sample.id.strip() or not sample.id or len(text) > 500_000:
            return False
        if (not text.isascii() or "\\u" in text) and not _is_clean(sample):
            return False
        if sample.tags and clean_tags(sample.tags) != sample.tags:
            return False
        if sample.language != sample.language.strip():
            return False
        claimed = self._reader.claim_id(sample.id, number)
        if claimed != sample.id:
            sample = msgspec.structs.replace(sample, id=claimed)
        self._reader.columns.update(dict.fromkeys(row))
        self._accept(sample, len(text))
        return True

    def _accept(self, sample: Sample, size: int) -> None:
        self._text_total += size
        if self._text_total > MAX_TEXT_TOTAL:
            raise DataError(
                f"{self._file} holds more than {MAX_TEXT_TOTAL >> 30} GiB of text.",
                next_step="Split the file, or take a part of it.",
            )
        self.samples.append(sample)

    def _slow(self, text: str, number: int) -> None:
        try:
            value = json.loads(text)
        except json.JSONDecodeError as error:
            reason = f"not valid JSON at character {error.pos + 1}: {error.msg}"
            self._reject(number, "", "", reason, text)
        except RecursionError:
            self._reject(number, "", "", "the row is nested too deeply", text)
        except ValueError as error:
            self._reject(number, "", "", f"not valid JSON: {error}", text)
        else:
            self._convert(value, number, text)

    def _convert(self, value: Any, line: int, raw: str) -> None:
        if not isinstance(value, dict):
            kind = "list" if isinstance(value, list) else type(value).__name__
            self._reject(line, "", shorten(value), f"the row is a {kind}, not an object", raw)
            return
        try:
            sample = self._reader.read(value, line)
            self._accept(sample, len(sample.request) + len(sample.context) + len(sample.response))
        except RowProblem as problem:
            self._reject(line, problem.field, problem.value, problem.reason, _as_json(value, raw))

    def _reject(self, line: int, field: str, value: str, reason: str, raw: str) -> None:
        raw = clean_text(raw[:MAX_RAW_CHARS])[0]
        self._raw_total += len(raw)
        if self._raw_total > _MAX_RAW_TOTAL:
            raw = ""
        self.rejected.append(
            Rejected(file=self._file, line=line, field=field, value=value, reason=reason, raw=raw)
        )

    def result(self, encoding: str, kind: str) -> ImportResult:
        """Return everything that was gathered."""
        return ImportResult(
            samples=self.samples,
            rejected=self.rejected,
            encoding=encoding,
            format=kind,
            repaired=self._reader.repaired,
            columns=list(self._reader.columns),
            mapping=self._reader.mapping(),
        )


def _is_clean(sample: Sample) -> bool:
    """Tell whether every text of the row is what :func:`clean_text` would return."""
    texts = (sample.id, sample.request, sample.context, sample.response, sample.rationale,
             sample.category, sample.language, sample.source, *sample.tags)  # fmt: skip
    return all((text.isascii() and "\0" not in text) or clean_text(text) == (text, "")
               for text in texts)  # fmt: skip


def _as_json(value: dict[str, Any], raw: str) -> str:
    """Return a row as JSON, so that it can be corrected whatever format it came from."""
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (TypeError, ValueError, RecursionError):
        return raw
