"""One writer a workspace: a lock of the operating system, which a crash gives back (torch-free)."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec
from filelock import FileLock, Timeout
from msgspec import Struct

LOCK_NAME = ".lock"
OWNER_NAME = ".lock-owner.json"


class Owner(Struct, frozen=True, kw_only=True):
    """Who holds the lock; for the message only, the lock itself is the operating system's."""

    pid: int
    host: str
    since: float


class WriterLock:
    """The writer's lock of one folder. A second holder, in this process or another, is refused."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = FileLock(
            folder / LOCK_NAME,
            timeout=0,
            thread_local=False,
            fallback_to_soft=False,
            preserve_lock_file=True,
        )

    @property
    def held(self) -> bool:
        """True while this object holds the lock."""
        return bool(self._lock.is_locked)

    def acquire(self, owner: Owner) -> bool:
        """Take the lock without waiting; False if somebody else has it or the folder is not
        writable."""
        try:
            self._lock.acquire(timeout=0)
        except (Timeout, OSError):
            return False
        # Without the file the message loses the owner's name; the lock stands all the same.
        with contextlib.suppress(OSError):
            (self._folder / OWNER_NAME).write_bytes(msgspec.json.encode(owner))
        return True

    def release(self) -> None:
        """Give the lock back; harmless when it is not held."""
        if self.held:
            with contextlib.suppress(OSError):
                (self._folder / OWNER_NAME).unlink(missing_ok=True)
            self._lock.release()

    def owner(self) -> Owner | None:
        """Return who holds it, as far as that is known."""
        try:
            return msgspec.json.decode((self._folder / OWNER_NAME).read_bytes(), type=Owner)
        except (OSError, msgspec.DecodeError):
            return None
