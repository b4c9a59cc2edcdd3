"""What was edited and not saved yet, on disk within a second (no Qt).

A journal is JSON Lines: ``{"base": sha256}`` says which file the edits after it start from; an edit
is one or several lines with ``removed``, ``changed`` and ``inserted``, all but the last of which
say ``"more": true``. Before a save replaces the dataset, the new file's hash is written as another
base, so that a crash at any moment leaves either the old file with all edits or the new file with
the edits after it.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import logging
import os
import queue
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
from msgspec import Struct

from so8t_engine.samples.schema import SAMPLE_FIELDS, Sample
from so8t_studio.models.sample_list import Edit, SampleList

log = logging.getLogger(__name__)
_STOP = object()
_PIECE = 2000
_LARGE = 5000
_AFTER_REPAINT_S = 0.25


class _Line(Struct, kw_only=True, omit_defaults=True):
    """A base, or a part of an edit; ``more`` says that the next line goes on with it."""

    base: str = ""
    removed: list[tuple[int, Sample]] = msgspec.field(default_factory=list)
    changed: list[tuple[str, dict[str, Any]]] = msgspec.field(default_factory=list)
    inserted: list[tuple[int, Sample]] = msgspec.field(default_factory=list)
    more: bool = False


_decoder = msgspec.json.Decoder(_Line)


@dataclass(frozen=True)
class Recorded:
    """An edit as the journal holds it: of changed rows, the identifier and the new values."""

    removed: tuple[tuple[int, Sample], ...]
    changed: tuple[tuple[str, dict[str, Any]], ...]
    inserted: tuple[tuple[int, Sample], ...]

    def edit(self, rows: SampleList) -> Edit:
        """Return the edit for the rows as they were when it was made.

        Raises:
            KeyError, msgspec.ValidationError: if it does not fit them.
        """
        pairs = []
        for sample_id, values in self.changed:
            old = rows.rows[rows.index(sample_id)]
            fields = {name: getattr(old, name) for name in SAMPLE_FIELDS} | values
            pairs.append((old, msgspec.convert(fields, Sample)))
        return Edit(self.removed, tuple(pairs), self.inserted)


def _values(old: Sample, new: Sample, fields: tuple[str, ...]) -> dict[str, Any]:
    """Return the fields, out of those that may differ, in which two versions of a row do."""
    return {
        name: getattr(new, name) for name in fields if getattr(new, name) is not getattr(old, name)
    }


def _lines(edit: Edit) -> Iterator[_Line]:
    """Yield an edit in pieces, so that a bulk edit never stands in memory twice as a whole."""
    fields = edit.fields or SAMPLE_FIELDS
    for start in range(0, len(edit.removed), _PIECE):
        yield _Line(removed=list(edit.removed[start : start + _PIECE]), more=True)
    for start in range(0, len(edit.changed), _PIECE):
        part = edit.changed[start : start + _PIECE]
        yield _Line(changed=[(new.id, _values(old, new, fields)) for old, new in part], more=True)
    for start in range(0, len(edit.inserted), _PIECE):
        yield _Line(inserted=list(edit.inserted[start : start + _PIECE]), more=True)
    yield _Line()


def content_hash(lines: Iterable[bytes]) -> str:
    """Return the SHA-256 of the concatenated lines."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line)
    return digest.hexdigest()


def read_journal(path: Path, base: str) -> list[Recorded] | None:
    """Return the edits that belong on top of the dataset whose hash is ``base``.

    Returns:
        The edits, oldest first; None if it holds edits of another file only. A torn last line, as
        a crash leaves it, is passed over.
    """
    edits: list[Recorded] | None = None
    strangers = False
    parts: list[_Line] = []
    with path.open("rb") as stream:
        for line in stream:
            try:
                found = _decoder.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError):
                break
            if found.base:
                edits, parts = ([] if found.base == base else edits), []
                continue
            parts.append(found)
            if found.more:
                continue
            strangers = strangers or edits is None
            if edits is not None:
                edits.append(_joined(parts))
            parts = []
    return [] if edits is None and not strangers else edits


def _joined(parts: list[_Line]) -> Recorded:
    return Recorded(
        removed=tuple(row for part in parts for row in part.removed),
        changed=tuple(row for part in parts for row in part.changed),
        inserted=tuple(row for part in parts for row in part.inserted),
    )


def set_aside(path: Path) -> Path:
    """Keep a journal that fits no file under another name and return that."""
    stamp = dt.datetime.now().strftime("%Y%m%d_%H%M%S")
    target = path.with_name(f"{path.name.removesuffix('.jsonl')}-{stamp}.jsonl")
    path.replace(target)
    return target


class Journal:
    """Writes edits behind the window's back: one thread, in order, synced to disk."""

    def __init__(self, path: Path, base: str) -> None:
        self.path = path
        self.failure = ""
        self._base = base
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._ended = False
        self._hurry = threading.Event()

    def append(self, edit: Edit) -> None:
        """Queue an edit; it is on disk within a second."""
        self._put(edit)

    def rebase(self, base: str) -> None:
        """Say that the dataset is about to become the file with this hash; waits for the disk."""
        self._base = base
        if self.path.exists() or self._thread is not None:
            self._put(_Line(base=base))
            self.flush()

    def clear(self) -> None:
        """Forget everything: the dataset on disk is what the window shows."""
        self.close()
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()

    def flush(self) -> None:
        """Wait until everything that was appended is on disk."""
        if self._thread is None or not self._thread.is_alive():
            return
        done = threading.Event()
        self._hurry.set()
        self._queue.put(done)
        done.wait(timeout=30)

    def close(self) -> None:
        """Write what is queued and end the thread."""
        if self._thread is not None:
            self._hurry.set()
            self._queue.put(_STOP)
            self._thread.join(timeout=30)
            self._thread = None

    def _put(self, item: _Line | Edit) -> None:
        if self._thread is None:
            if isinstance(item, Edit) and not self.path.exists():
                self._queue.put(_Line(base=self._base))
            self._ended = False
            self._thread = threading.Thread(target=self._write, name="journal", daemon=True)
            self._thread.start()
        self._queue.put(item)

    def _write(self) -> None:
        try:
            with self.path.open("ab") as stream:
                while self._write_batch(stream):
                    pass
        except OSError as error:
            # Editing goes on; the page shows that a crash would now lose the unsaved edits.
            self.failure = f"Unsaved edits cannot be kept in {self.path}: {error.strerror}."
            log.warning("%s", self.failure)
            self._drain()

    def _write_batch(self, stream: BinaryIO) -> bool:
        """Write everything that is queued, sync once, then answer those who wait, also on failure.

        Returns:
            False when the journal is to end.
        """
        items = [self._queue.get()]
        if isinstance(items[0], Edit) and items[0].size > _LARGE:
            # The window repaints first; encoding many rows at the same time would slow it down.
            self._hurry.wait(_AFTER_REPAINT_S)
        self._hurry.clear()
        with contextlib.suppress(queue.Empty):
            while True:
                items.append(self._queue.get_nowait())
        self._ended = _STOP in items
        try:
            for item in items:
                lines: Iterable[_Line] = _lines(item) if isinstance(item, Edit) else ()
                if isinstance(item, _Line):
                    lines = (item,)
                stream.writelines(msgspec.json.encode(line) + b"\n" for line in lines)
            stream.flush()
            os.fsync(stream.fileno())
        finally:
            _answer(items)
        return not self._ended

    def _drain(self) -> None:
        """After a failure: answer everybody who waits, until the end."""
        while not self._ended:
            item = self._queue.get()
            self._ended = item is _STOP
            _answer([item])


def _answer(items: Iterable[Any]) -> None:
    for item in items:
        if isinstance(item, threading.Event):
            item.set()
