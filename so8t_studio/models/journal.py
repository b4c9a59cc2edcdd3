"""What was edited and not saved yet, on disk within a second (no Qt).

A journal is JSON Lines: ``{"base": sha256}`` says which file the edits after it start from; an edit
is ``{"removed": …, "changed": …, "inserted": …}``. Before a save replaces the dataset, the new
file's hash is written as another base, so that a crash at any moment leaves either the old file
with all edits or the new file with the edits after it.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import logging
import os
import queue
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
from msgspec import Struct

from so8t_engine.samples.schema import Sample
from so8t_studio.models.sample_list import Edit

log = logging.getLogger(__name__)
_STOP = object()


class _Line(Struct, kw_only=True, omit_defaults=True):
    base: str = ""
    removed: tuple[tuple[int, Sample], ...] = ()
    changed: tuple[tuple[Sample, Sample], ...] = ()
    inserted: tuple[tuple[int, Sample], ...] = ()


_decoder = msgspec.json.Decoder(_Line)


def content_hash(lines: Iterable[bytes]) -> str:
    """Return the SHA-256 of the concatenated lines."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line)
    return digest.hexdigest()


def read_journal(path: Path, base: str) -> list[Edit] | None:
    """Return the edits that belong on top of the dataset whose hash is ``base``.

    Returns:
        The edits, oldest first; None if it holds edits of another file only. A torn last line, as
        a crash leaves it, is passed over.
    """
    edits: list[Edit] | None = None
    strangers = False
    with path.open("rb") as stream:
        for line in stream:
            try:
                found = _decoder.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError):
                break
            if found.base:
                edits = [] if found.base == base else edits
            elif edits is None:
                strangers = True
            else:
                edits.append(Edit(found.removed, found.changed, found.inserted))
    return [] if edits is None and not strangers else edits


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

    def append(self, edit: Edit) -> None:
        """Queue an edit; it is on disk within a second."""
        self._put(_Line(removed=edit.removed, changed=edit.changed, inserted=edit.inserted))

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
        self._queue.put(done)
        done.wait(timeout=30)

    def close(self) -> None:
        """Write what is queued and end the thread."""
        if self._thread is not None:
            self._queue.put(_STOP)
            self._thread.join(timeout=30)
            self._thread = None

    def _put(self, line: _Line) -> None:
        if self._thread is None:
            if not line.base and not self.path.exists():
                self._queue.put(_Line(base=self._base))
            self._thread = threading.Thread(target=self._write, name="journal", daemon=True)
            self._thread.start()
        self._queue.put(line)

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
        """Write everything that is queued, sync once, then answer the waiting."""
        items = [self._queue.get()]
        with contextlib.suppress(queue.Empty):
            while True:
                items.append(self._queue.get_nowait())
        stream.writelines(
            msgspec.json.encode(item) + b"\n" for item in items if isinstance(item, _Line)
        )
        stream.flush()
        os.fsync(stream.fileno())
        for item in items:
            if isinstance(item, threading.Event):
                item.set()
        return _STOP not in items

    def _drain(self) -> None:
        """After a failure: answer everybody who waits, until the end."""
        while (item := self._queue.get()) is not _STOP:
            if isinstance(item, threading.Event):
                item.set()
