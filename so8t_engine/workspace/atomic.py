"""Writes that are either complete or did not happen, also across a power cut (torch-free)."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

_FULL = frozenset(
    getattr(errno, name) for name in ("ENOSPC", "EFBIG", "EDQUOT") if hasattr(errno, name)
)


def is_disk_full(error: BaseException) -> bool:
    """Tell whether an error means that no more can be written, also inside safetensors."""
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    # safetensors reports errors of the system as text: "… No space left on device (os error 28)".
    return any(f"(os error {number})" in str(error) for number in _FULL)


def fsync_folder(folder: Path) -> None:
    """Make a rename inside ``folder`` durable; does nothing where folders cannot be synced."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:  # some network file systems refuse; the rename is still atomic
        pass
    finally:
        os.close(handle)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that takes the place of ``path`` when the block ends well.

    Raises:
        OSError: if the folder cannot be written or the disk is full; ``path`` is then untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
        fsync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` atomically."""
    with replacing(path) as stream:
        stream.write(data)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically, UTF-8, line ends as given."""
    write_bytes(path, text.encode("utf-8"))


def write_lines(path: Path, lines: Iterable[bytes]) -> None:
    """Write already encoded lines to ``path`` atomically."""
    with replacing(path) as stream:
        stream.writelines(lines)


def write_with(path: Path, writer: Callable[[str], object]) -> None:
    """Let ``writer`` write a file of its own (it gets the name), then put it in place durably."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        writer(name)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
        fsync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
