"""Reads a child's event channel on a thread of its own and hands over bounded batches (no Qt)."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import IO

from so8t_engine.events import AnyEvent, decode_event

CHUNK = 1 << 16
BATCH = 4_000
BACKLOG = 40_000
LONGEST_LINE = 1 << 24


class EventChannel:
    """Lines in, events out. It slows the child down rather than growing without bound.

    Attributes:
        garbage: lines that were no events.
        last_sign: monotonic time of the last line of any kind.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._events: deque[AnyEvent] = deque()
        self._ready = threading.Condition()
        self._closed = False
        self._ended = False
        self._abandoned = False
        self.garbage = 0
        self.garbage_sample = ""
        self.last_sign = time.monotonic()
        self._thread = threading.Thread(target=self._read, name="event-channel", daemon=True)
        self._thread.start()

    @property
    def ended(self) -> bool:
        """True once the child's end is closed and every event was taken."""
        with self._ready:
            return self._ended and not self._events

    def take(self, timeout: float) -> tuple[AnyEvent, ...]:
        """Wait up to ``timeout`` seconds for events and return the next batch."""
        with self._ready:
            if not self._events and not self._ended:
                self._ready.wait(timeout)
            batch = tuple(self._events.popleft() for _ in range(min(BATCH, len(self._events))))
            self._ready.notify_all()
        return batch

    def close(self, timeout: float = 5.0) -> bool:
        """Stop reading; return False if the reader still hangs on the pipe."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()
        self._thread.join(timeout)
        if self._thread.is_alive():
            return False
        self._stream.close()
        return True

    def abandon(self) -> None:
        """Let the reader end with the pipe's other end or with this process, whichever is first.

        The child goes on: its event file keeps everything, and what it writes here is read and
        dropped, so that it never waits for us.
        """
        with self._ready:
            self._abandoned = True
            self._ready.notify_all()

    def _read(self) -> None:
        rest = b""
        try:
            while not self._closed:
                chunk = self._stream.read(CHUNK)
                if not chunk:
                    break
                lines = (rest + chunk).split(b"\n")
                rest = lines.pop()
                if len(rest) > LONGEST_LINE:
                    lines.append(rest[:200])
                    rest = b""
                self._accept(lines)
        except (OSError, ValueError):  # the pipe was closed under the reader
            pass
        finally:
            self._accept([rest] if rest else [])
            with self._ready:
                self._ended = True
                self._ready.notify_all()
            if self._abandoned:  # nobody else will
                self._stream.close()

    def _accept(self, lines: list[bytes]) -> None:
        events = []
        for line in lines:
            if not line.strip():
                continue
            try:
                event = decode_event(line)
            except ValueError:
                self.garbage += 1
                self.garbage_sample = line[:200].decode("utf-8", "replace")
            else:
                if event is not None:
                    events.append(event)
        with self._ready:
            if lines:
                self.last_sign = time.monotonic()
            if self._abandoned:
                self._events.clear()
                return
            self._events.extend(events)
            self._ready.notify_all()
            while len(self._events) > BACKLOG and not (self._closed or self._abandoned):
                self._ready.wait(0.5)
