"""Rows of JSON Lines and JSON files, read piece by piece (torch-free)."""

from __future__ import annotations

import codecs
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
from msgspec import Struct

from so8t_engine.errors import DataError
from so8t_engine.samples.encodings import MAX_LINE_BYTES, Progress

MAX_DOCUMENT_BYTES = 256 * 1024 * 1024
_NEXT_OBJECT = re.compile(r"[}\]]\s*,\s*(?=\{)")
_SPACE = re.compile(r"[\s,]*")
_CHUNK = 1024 * 1024


class JsonRow(Struct, frozen=True, array_like=True):
    """One element and the line where it begins, or the problem that it has."""

    line: int
    value: Any
    problem: str = ""
    raw: str = ""


def is_array(path: Path, encoding: str) -> bool:
    """Tell whether the file is one JSON value over several lines instead of one a line."""
    with path.open("rb") as binary:
        stream = io.TextIOWrapper(binary, encoding=encoding, errors="replace", newline="")
        head = stream.read(_CHUNK).lstrip("\ufeff \t\r\n")
    if head.startswith("["):
        return True
    first = head.split("\n", 1)[0].strip()
    if not head.startswith("{") or not first:
        return False
    try:
        json.loads(first)
    except ValueError:
        # `{` alone, or `{"data": [`: the object goes on in the next lines.
        return first.endswith(("{", "[", ",", ":")) and "\n" in head
    except RecursionError:
        return False
    # One line that is a whole object: a list inside of it may hold the rows.
    return _wraps_rows(first)


def _wraps_rows(line: str) -> bool:
    if len(line) >= _CHUNK:
        return False
    value = json.loads(line)
    return len(value) <= 8 and any(
        isinstance(inner, list) and inner and isinstance(inner[0], dict) and name not in
        ("messages", "conversations")
        for name, inner in value.items()
    )  # fmt: skip


def iter_document(path: Path, encoding: str, progress: Progress | None = None) -> Iterator[JsonRow]:
    """Yield the elements of a JSON array (or of the array inside an object).

    Raises:
        DataError: if the file is an object without an array of rows, or not JSON at all.
    """
    with path.open("rb") as binary:
        stream = io.TextIOWrapper(binary, encoding=encoding, errors="replace", newline="")
        head = stream.read(1)
        while head and head in "\ufeff \t\r\n":
            head = stream.read(1)
        if head == "[":
            with path.open("rb") as again:
                yield from _array(again, encoding, progress)
            return
    yield from _wrapped(path, encoding)


def _wrapped(path: Path, encoding: str) -> Iterator[JsonRow]:
    if path.stat().st_size > MAX_DOCUMENT_BYTES:
        raise DataError(
            f"{path.name} is one JSON object of more than {MAX_DOCUMENT_BYTES >> 20} MiB.",
            next_step="Save the rows as JSON Lines and import that.",
        )
    raw = path.read_bytes()
    if not encoding.startswith("utf-8"):
        raw = raw.decode(encoding, "replace").lstrip("\ufeff").encode("utf-8", "replace")
    try:
        document = msgspec.json.decode(raw.removeprefix(codecs.BOM_UTF8), type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(
            f"{path.name} is not valid JSON: {error}.",
            next_step="Correct it, or save the rows as JSON Lines.",
        ) from error
    for name, inner in document.items():
        if name in ("messages", "conversations"):
            continue
        if isinstance(inner, list) and inner and isinstance(inner[0], dict):
            for value in inner:
                yield JsonRow(0, value)
            return
    yield JsonRow(1, document)


class _Window:
    """The part of the text that is being parsed, and where its line numbers stand."""

    def __init__(self, binary: BinaryIO, encoding: str, progress: Progress | None) -> None:
        self._total = binary.seek(0, 2)
        binary.seek(0)
        self._binary = binary
        self._stream = io.TextIOWrapper(binary, encoding=encoding, errors="replace", newline="")
        self._progress = progress
        self.text = ""
        self.position = 0
        self.ended = False
        self._line = 1
        self._counted = 0

    def line(self) -> int:
        """Return the line number at the position."""
        self._line += self.text.count("\n", self._counted, self.position)
        self._counted = self.position
        return self._line

    def trim(self) -> None:
        """Drop everything before the position."""
        self.line()
        self.text = self.text[self.position :]
        self.position = self._counted = 0

    def more(self) -> bool:
        """Read another piece; False at the end of the file."""
        self.trim()
        piece = self._stream.read(max(_CHUNK, len(self.text)))
        if not piece:
            self.ended = True
            return False
        self.text += piece
        if self._progress is not None:
            self._progress(min(self._binary.tell(), self._total), self._total)
        return True

    def close(self) -> None:
        """Let go of the file, which its owner closes."""
        self._stream.detach()

    def skip_space(self) -> None:
        """Move over white space and commas."""
        match = _SPACE.match(self.text, self.position)
        assert match is not None  # the pattern matches the empty string
        self.position = match.end()


def _array(binary: BinaryIO, encoding: str, progress: Progress | None) -> Iterator[JsonRow]:
    window = _Window(binary, encoding, progress)
    try:
        yield from _elements(window)
    finally:
        window.close()


def _elements(window: _Window) -> Iterator[JsonRow]:
    decoder = json.JSONDecoder()
    window.more()
    window.position = window.text.index("[") + 1
    damaged_to_the_end = False
    while True:
        window.skip_space()
        if window.position >= len(window.text):
            if not window.more():
                if not damaged_to_the_end:
                    yield JsonRow(window.line(), None, "the file ends inside of the list", "")
                return
            continue
        if window.text[window.position] == "]":
            return
        line = window.line()
        try:
            value, end = decoder.raw_decode(window.text, window.position)
        except (ValueError, RecursionError) as error:
            if _may_be_cut(window, error) and window.more():
                continue
            yield _resync(window, line, error)
            damaged_to_the_end = window.ended and window.position >= len(window.text)
            continue
        if end >= len(window.text) and not isinstance(value, (dict, list)) and window.more():
            continue  # a number may go on in the next piece
        yield JsonRow(line, value)
        window.position = end
        if window.position > _CHUNK:
            window.trim()


def _may_be_cut(window: _Window, error: Exception) -> bool:
    """Tell whether the element may just go on beyond what was read so far."""
    if window.ended or not isinstance(error, json.JSONDecodeError) or _is_too_long(window):
        return False
    return "Unterminated" in error.msg or len(window.text) - error.pos < 32


def _is_too_long(window: _Window) -> bool:
    return len(window.text) - window.position > MAX_LINE_BYTES


def _resync(window: _Window, line: int, error: Exception) -> JsonRow:
    """Report the damaged element and move to the next one that looks like an object."""
    if not isinstance(error, json.JSONDecodeError):
        reason = "the row is nested too deeply"
    elif _is_too_long(window) and len(window.text) - error.pos < 32:
        reason = f"the row is longer than {MAX_LINE_BYTES >> 20} MiB"
    else:
        reason = f"not valid JSON: {error.msg}"
    raw = window.text[window.position : window.position + 2000]
    start = max(getattr(error, "pos", 0) - 1, window.position)
    if isinstance(error, json.JSONDecodeError) and "Unterminated" in error.msg:
        start = window.position
    while True:
        match = _NEXT_OBJECT.search(window.text, start)
        if match is not None:
            raw = window.text[window.position : match.start() + 1][: 64 * 1024] or raw
            window.position = match.end()
            break
        window.position = max(len(window.text) - 64, window.position)
        if not window.more():
            window.position = len(window.text)
            break
        start = 0
    return JsonRow(line, None, reason, raw)
