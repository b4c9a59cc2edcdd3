"""What every job process shares: events out, commands in, a clean end (torch-free).

Two doors lead to the same job body. With ``--events`` (the window's door) file descriptor 1 is
moved aside for events, so that a stray print goes to stderr and cannot corrupt them, and commands
come in on stdin; end of file there means that the parent died. Without it, events drive a progress
bar on the console.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from so8t_engine.errors import So8tError
from so8t_engine.events import Bye, Error, Event, Log, encode_event

Sink = Callable[[Event], None]


class Emitter:
    """Stamps events with number, time and job and hands them to its sinks; thread-safe."""

    def __init__(self, job: str, sinks: list[Sink]) -> None:
        self.job = job
        self.sinks = sinks
        self._lock = threading.Lock()
        self._seq = 0

    def emit(self, event: Event) -> None:
        """Send ``event``; its envelope fields are filled in here."""
        with self._lock:
            stamped = msgspec.structs.replace(event, seq=self._seq, t=time.time(), job=self.job)
            self._seq += 1
            for sink in self.sinks:
                sink(stamped)

    def log(self, message: str, level: str = "info") -> None:
        """Send a line for the log."""
        self.emit(Log(level=level, message=message))


class LineSink:
    """Writes events as JSON Lines and flushes each, so that a crash loses none that were sent."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.broken = False

    def __call__(self, event: Event) -> None:
        if self.broken:
            return
        try:
            self._stream.write(encode_event(event))
            self._stream.flush()
        except OSError:  # the reader is gone; the job's own files still get everything
            self.broken = True


class Control:
    """What the outside asks of a job. Set from a reader thread or a signal handler, polled by it.

    ``on_command`` receives every command that is not known here. After ``detach`` the end of stdin
    no longer ends the job (``on_orphaned`` is then called once); ``attach`` takes that back.
    """

    def __init__(self, on_command: Callable[[dict[str, Any]], None] | None = None) -> None:
        self._stop = threading.Event()
        self._running = threading.Event()
        self._running.set()
        self.reason = ""
        self.detached = False
        self.on_command = on_command
        self.on_orphaned: Callable[[], None] | None = None

    @property
    def stop_requested(self) -> bool:
        """True once the job should finish its step, save and end."""
        return self._stop.is_set()

    def request_stop(self, reason: str) -> None:
        """Ask for a clean end; the first reason is kept."""
        if not self._stop.is_set():
            self.reason = reason
            self._stop.set()
        self._running.set()

    def wait_while_paused(self) -> bool:
        """Block while paused; return True if it had to wait."""
        if self._running.is_set():
            return False
        self._running.wait()
        return True

    @property
    def paused(self) -> bool:
        """True while a pause is asked for."""
        return not self._running.is_set()

    def handle(self, command: dict[str, Any]) -> None:
        """Act on one decoded command."""
        name = command.get("cmd")
        if name == "stop":
            self.request_stop("stopped by the user")
        elif name == "pause":
            self._running.clear()
        elif name == "resume":
            self._running.set()
        elif name in ("detach", "attach"):
            self.detached = name == "detach"
        elif self.on_command is not None:
            self.on_command(command)

    def read_commands(self, stream: BinaryIO) -> None:
        """Read commands until end of file; runs on a daemon thread."""
        for line in stream:
            try:
                command = msgspec.json.decode(line, type=dict[str, Any])
            except msgspec.DecodeError:
                continue
            self.handle(command)
        if not self.detached:
            self.request_stop("the studio that started this job is gone")
        elif self.on_orphaned is not None:
            self.on_orphaned()


class CommandFile:
    """Commands for a job whose stdin nobody holds: lines appended to a file beside its events.

    So a run that goes on after the window was closed, or that was started in a terminal, can be
    stopped and paused by whoever finds it. Only lines that are written while it runs count.
    """

    def __init__(self, path: Path, control: Control, interval: float = 0.5) -> None:
        self._path = path
        self._control = control
        self._interval = interval
        self._offset = path.stat().st_size if path.is_file() else 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="command-file", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop looking."""
        self._ended.set()
        self._thread.join(5.0)

    def _run(self) -> None:
        while not self._ended.wait(self._interval):
            with contextlib.suppress(OSError):
                self._look()

    def _look(self) -> None:
        if not self._path.is_file() or self._path.stat().st_size <= self._offset:
            return
        with self._path.open("rb") as stream:
            stream.seek(self._offset)
            for line in stream:
                if not line.endswith(b"\n"):
                    return  # still being written
                self._offset += len(line)
                with contextlib.suppress(msgspec.DecodeError):
                    self._control.handle(msgspec.json.decode(line, type=dict[str, Any]))


def write_command(path: Path, command: dict[str, Any]) -> None:
    """Append a command for the job that watches ``path``.

    Raises:
        OSError: if the file cannot be written.
    """
    with path.open("ab") as stream:
        stream.write(msgspec.json.encode(command) + b"\n")


class Job:
    """One job process: its emitter, its control and its exit code."""

    def __init__(self, emitter: Emitter, control: Control) -> None:
        self.emitter = emitter
        self.control = control


def _take_over_stdout() -> BinaryIO:
    """Keep the original fd 1 for events and let everything printed go to stderr."""
    sys.stdout.flush()
    events = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return io.BufferedWriter(events, buffer_size=1 << 16)


def _command_stream() -> BinaryIO:
    """Return an unbuffered reader of fd 0.

    At exit the interpreter locks ``sys.stdin``'s buffer; a daemon thread that still waits in it
    makes that a fatal error (SIGABRT) after a job that ended well.
    """
    return os.fdopen(os.dup(0), "rb", buffering=0)


@contextlib.contextmanager
def _signals(control: Control) -> Iterator[None]:
    """Turn SIGINT and SIGTERM into a stop request while the block runs (main thread only)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    names = [name for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name)]
    before = {}
    for name in names:
        number = getattr(signal, name)
        before[number] = signal.signal(
            number, lambda got, _frame: control.request_stop(signal.Signals(got).name)
        )
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def utf8_console() -> None:
    """Make the console UTF-8 on Windows, where it is cp932 or cp1252 by default."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def quiet_libraries() -> None:
    """Keep libraries off the network, and keep notices that no user can act on out of the log."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # How long OpenMP threads spin before they sleep; read when torch is imported. By default they
    # spin so long that, with other programs on the same cores, a step of the default base on two
    # threads took 2 to 26 s; so it takes 0.4 s, as it does on an idle machine.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    # An optional CPU kernel package of bitsandbytes; nothing here needs it.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    # transformers asks itself by a name that it deprecates.
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")


def run_job(
    job_id: str,
    body: Callable[[Job], str],
    *,
    events: bool,
    sinks: list[Sink] | None = None,
    control: Control | None = None,
    log_file: Path | None = None,
) -> int:
    """Run ``body`` as this process's job and return the exit code.

    ``body`` returns the sentence of the final ``bye``; a stop request that it honoured makes that
    ``cancelled``. A :class:`So8tError` becomes one clear ``error`` event and its exit code; any
    other exception becomes exit code 70 with its traceback as details. With ``events`` the wire
    protocol runs on fd 1 and stdin.
    """
    quiet_libraries()
    control = control or Control()
    all_sinks = list(sinks or [])
    if events:
        all_sinks.append(LineSink(_take_over_stdout()))
        reader = threading.Thread(
            target=control.read_commands, args=(_command_stream(),), name="commands", daemon=True
        )
        reader.start()
    job = Job(Emitter(job_id, all_sinks), control)
    with _signals(control):
        try:
            message = body(job)
        except So8tError as error:
            job.emitter.emit(
                Error(
                    what=error.what,
                    why=error.why,
                    next_step=error.next_step,
                    kind=type(error).__name__,
                )
            )
            job.emitter.emit(Bye(state="failed", message=error.what))
            return error.exit_code
        except Exception as error:  # noqa: BLE001 - the process boundary
            details = traceback.format_exc()
            job.emitter.emit(
                Error(
                    what=f"The job ended with an unexpected error: {error}.",
                    next_step="Copy the details into a bug report.",
                    details=details,
                    kind=type(error).__name__,
                )
            )
            job.emitter.emit(Bye(state="failed", message=str(error)))
            if log_file is not None:
                with contextlib.suppress(OSError), log_file.open("a", encoding="utf-8") as stream:
                    stream.write(details)
            return 70
    state = "cancelled" if control.stop_requested else "done"
    job.emitter.emit(Bye(state=state, message=message))
    return 0
