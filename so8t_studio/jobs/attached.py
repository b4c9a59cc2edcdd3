"""Follows a run that somebody else started: through its folder, not through pipes."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

from PySide6.QtCore import QObject

from so8t_engine.events import AnyEvent, Bye, Error, Hello, Metric, Progress, Result, decode_event
from so8t_engine.jobs.runtime import write_command
from so8t_engine.workspace.runs import FINAL_STATES, RunState, RunStore
from so8t_studio.jobs.process import kill_tree, terminate_tree
from so8t_studio.jobs.request import JobRequest
from so8t_studio.jobs.state import JobState, Phase, phase_of, phase_sentence
from so8t_studio.jobs.supervisor import SLEEP_GAP, Patience, Supervisor, final_phase

log = logging.getLogger(__name__)
POLL = 0.2
CHUNK = 1 << 20
STDERR = "stderr.txt"
LIFE_EVERY = 0.6
OVERLAP = 1.0  # seconds


class Tail:
    """Reads the whole lines that are appended to an event file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._rest = b""
        self.garbage = 0

    def read(self) -> list[AnyEvent]:
        """Return what is new, at most about 1 MiB of it; a file that shrank is read anew."""
        try:
            size = self._path.stat().st_size
            if size < self._offset:
                self._offset, self._rest = 0, b""
            if size == self._offset:
                return []
            with self._path.open("rb") as stream:
                stream.seek(self._offset)
                raw = stream.read(CHUNK)
        except OSError:
            return []
        self._offset += len(raw)
        lines = (self._rest + raw).split(b"\n")
        self._rest = lines.pop()
        found = []
        for line in lines:
            if not line.strip():
                continue
            try:
                event = decode_event(line)
            except ValueError:
                self.garbage += 1
                continue
            if event is not None:
                found.append(event)
        return found


class AttachedWorker(Supervisor):
    """Stands in for :class:`JobWorker` where the process is not our child.

    Its identity is process id *and* start time, so that a number used again is never taken for it.
    What the file held before is not announced again, apart from the last hello, progress and
    result: whoever shows the run reads its history from the folder. That may happen at any time
    from here on, so what is written from here on (and a second before, for lines on their way to
    the file) is announced in any case; a reader drops what it has.
    """

    def __init__(
        self,
        request: JobRequest,
        run: RunStore,
        found: RunState,
        patience: Patience | None = None,
        parent: QObject | None = None,
    ) -> None:
        phase = phase_of(found.state)
        state = JobState(
            phase, phase_sentence(phase), pid=found.pid, run_dir=run.root, adopted=True
        )
        super().__init__(request, state, patience, parent)
        self._run = run
        self._found = found
        self._tail = Tail(run.events_path)
        self._bye: Bye | None = None
        self._error: Error | None = None
        self._deadline: float | None = None
        self._escalation = 0
        self._last_sign = time.monotonic()
        self._made = time.time()

    # -- the thread -----------------------------------------------------------------------------
    def run(self) -> None:
        """Follow the run until its process is gone, or until asked to leave it."""
        try:
            self._catch_up()
            self._follow()
        except Exception:  # the thread boundary
            log.exception("Following %s failed", self.request.title)
            self._publish(phase=Phase.CRASHED, sentence=phase_sentence(Phase.CRASHED), pid=0)

    def _catch_up(self) -> None:
        """Read what is there; announce what is fresh, and the newest of what the window keeps."""
        newest: dict[type, AnyEvent] = {}
        fresh: list[AnyEvent] = []
        while batch := self._tail.read():
            for event in batch:
                if isinstance(event, Hello):  # a new process: what the one before said is over
                    newest.clear()
                    self._bye = self._error = None
                if event.t >= self._made - OVERLAP:
                    fresh.append(event)
                elif isinstance(event, (Hello, Progress, Result)):
                    newest[type(event)] = event
                self._note(event)
        kept = (*newest.values(), *fresh)
        if kept:
            self.events_read.emit(kept)
        self._publish()

    def _follow(self) -> None:
        before = time.monotonic()
        looked = 0.0
        alive = True
        while alive:
            time.sleep(POLL)
            now = time.monotonic()
            if now - before > SLEEP_GAP:  # the machine slept
                gap = now - before
                self._last_sign += gap
                self._deadline = None if self._deadline is None else self._deadline + gap
            before = now
            self._act()
            if self._leave_asked and not self._stop_asked:
                sentence = phase_sentence(Phase.DETACHED)
                self._publish(phase=Phase.DETACHED, sentence=sentence, pause_requested=False)
                return
            if now - looked >= LIFE_EVERY:
                looked = now
                alive = self._run.is_alive(self._found)
            self._read()
            self._watch(now)
            self._escalate(now)
        while self._read():
            pass
        self._finish()

    def _read(self) -> bool:
        batch = tuple(self._tail.read())
        if not batch:
            return False
        self._last_sign = time.monotonic()
        changes: dict[str, Any] = {}
        for event in batch:
            self._note(event)
            changes |= self._phase_change(event, changes.get("phase", self._state.phase))
        if self._state.silent_s:
            changes.setdefault("silent_s", 0.0)
        if changes:
            phase = changes.get("phase", self._state.phase)
            self._publish(**changes, sentence=phase_sentence(phase), next_step="")
        self.events_read.emit(batch)
        return True

    @staticmethod
    def _phase_change(event: AnyEvent, phase: Phase) -> dict[str, Any]:
        if isinstance(event, Progress) and event.phase == "paused":
            return {"phase": Phase.PAUSED, "pause_requested": False} if phase in (
                Phase.RUNNING, Phase.STARTING,
            ) else {}  # fmt: skip
        if isinstance(event, (Progress, Metric)) and phase in (Phase.PAUSED, Phase.STARTING):
            return {"phase": Phase.RUNNING, "pause_requested": False}
        return {}

    def _note(self, event: AnyEvent) -> None:
        if isinstance(event, Bye):
            self._bye = event
        elif isinstance(event, Error) and not event.request_id:
            self._error = event

    # -- asking and ending ----------------------------------------------------------------------
    def _act(self) -> None:
        waiting, stop, kill = self._take_commands()
        for command in waiting:
            name = command.get("cmd")
            self._publish_asked(command)
            try:
                write_command(self._run.commands_path, command)
            except OSError as error:
                log.warning("The run %s cannot be told %s: %s", self._run.id, name, error)
                if name == "stop":
                    terminate_tree(self._found.pid)
        if stop and self._state.phase is not Phase.STOPPING:
            self._publish_stopping()
            self._deadline = time.monotonic() + self.patience.grace
        if kill and self._escalation < 2:
            self._escalation = 2
            self._deadline = time.monotonic()

    def _escalate(self, now: float) -> None:
        if self._deadline is None or now < self._deadline or not self._run.is_alive(self._found):
            return
        if self._escalation == 0:
            self._escalation = 1
            terminate_tree(self._found.pid)
            self._deadline = now + self.patience.terminate
            return
        survivors = kill_tree(self._found.pid)
        self._deadline = now + 2.0
        if survivors:
            self._publish(survivors=survivors)

    def _watch(self, now: float) -> None:
        silent, limit = now - self._last_sign, self.patience.silence
        if not limit or silent < limit or self._state.phase is Phase.PAUSED:
            return
        if silent - self._state.silent_s >= limit / 2:
            self._publish(
                silent_s=silent,
                sentence=self.tr("No sign of life for {seconds} s.").format(seconds=int(silent)),
                next_step=self.tr(
                    "It may be busy with something long, or stuck. Wait, stop and save, or end it."
                ),
            )

    def _finish(self) -> None:
        phase, sentence, next_step = self._verdict()
        bad = phase in (Phase.FAILED, Phase.CRASHED)
        self._publish(
            phase=phase, sentence=sentence, next_step=next_step, pid=0, silent_s=0.0,
            pause_requested=False, error=self._error, garbage=self._tail.garbage,
            stderr_tail=stderr_tail(self._run.root) if bad else "",
        )  # fmt: skip

    def _verdict(self) -> tuple[Phase, str, str]:
        resume = self.tr("Resume the run from its last checkpoint.")
        error = self._error
        if self._bye is not None:
            phase = final_phase(self._bye.state)
            if phase is Phase.FAILED and error is not None:
                return phase, " ".join(filter(None, (error.what, error.why))), error.next_step
            return phase, self._bye.message or phase_sentence(phase), ""
        written = self._run.state()
        if written.state in FINAL_STATES and written.state != "crashed":
            phase = Phase(written.state)
            return phase, written.message or phase_sentence(phase), ""
        if self._kill_asked:
            return Phase.CANCELLED, self.tr("Ended at once, as you asked."), resume
        if self._escalation:
            return Phase.CANCELLED, self.tr("It did not stop in time and was ended."), resume
        return Phase.CRASHED, phase_sentence(Phase.CRASHED), resume


def stderr_tail(folder: Path, lines: int = 40) -> str:
    """Return the last lines that the process of a run printed."""
    for name in (STDERR, "log.txt"):
        try:
            with (folder / name).open("rb") as stream:
                stream.seek(0, os.SEEK_END)
                stream.seek(max(0, stream.tell() - 200_000))
                text = stream.read().decode("utf-8", "replace")
        except OSError:
            continue
        if text.strip():
            return "\n".join(text.splitlines()[-lines:])
    return ""
