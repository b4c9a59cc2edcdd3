"""One thread that owns one child process from its start until its pid is verified gone."""

from __future__ import annotations

import logging
import subprocess
import time
from pathlib import Path
from typing import Any

import msgspec
from PySide6.QtCore import QObject

from so8t_engine.events import AnyEvent, Bye, Error, Hello, Log, Metric, Progress
from so8t_studio.jobs.attached import STDERR
from so8t_studio.jobs.channel import EventChannel
from so8t_studio.jobs.process import kill_tree, spawn, terminate_tree, tree
from so8t_studio.jobs.request import JobRequest
from so8t_studio.jobs.state import JobState, Phase, exit_sentence, phase_sentence
from so8t_studio.jobs.supervisor import SLEEP_GAP, TICK, Patience, Supervisor, final_phase

__all__ = ["JobWorker", "Patience"]

log = logging.getLogger(__name__)
# Children that were left to themselves; kept, so that nobody warns of a process still running.
_left: list[subprocess.Popen[bytes]] = []


class JobWorker(Supervisor):
    """Starts the child, reads it, commands it and ends it (or, asked to, leaves it running)."""

    def __init__(
        self,
        request: JobRequest,
        log_path: Path,
        patience: Patience | None = None,
        parent: QObject | None = None,
    ) -> None:
        state = JobState(Phase.STARTING, phase_sentence(Phase.STARTING))
        super().__init__(request, state, patience, parent)
        self.log_path = log_path
        self._bye: Bye | None = None
        self._error: Error | None = None
        self._forced = False
        self._deadline: float | None = None
        self._escalation = 0

    # -- the thread -----------------------------------------------------------------------------
    def run(self) -> None:
        """Live with the child until it is gone."""
        try:
            self.log_path.parent.mkdir(parents=True, exist_ok=True)
            with self.log_path.open("ab") as stderr:
                child = spawn(self.request.line, stderr)
        except OSError as error:
            self._publish(
                phase=Phase.FAILED,
                sentence=f"{phase_sentence(Phase.FAILED)} {error.strerror}: {error.filename}",
                next_step="",
                error=Error(what="The process could not be started.", why=str(error)),
            )
            return
        try:
            self._live(child)
        except Exception:  # the thread boundary: a bug here must not leave the child behind
            log.exception("The supervisor of %s failed", self.request.title)
            kill_tree(child.pid)
            child.wait()
            self._publish(
                phase=Phase.CRASHED, sentence=phase_sentence(Phase.CRASHED), pid=0, exit_code=-1
            )

    def _live(self, child: subprocess.Popen[bytes]) -> None:
        assert child.stdout is not None
        channel = EventChannel(child.stdout)
        self._publish(pid=child.pid)
        before = time.monotonic()
        exited_at: float | None = None
        while True:
            started = time.monotonic()
            batch = channel.take(TICK)
            if batch:
                self._digest(batch)
                self.events_read.emit(batch)
            now = time.monotonic()
            if now - before > SLEEP_GAP:  # the machine slept; nobody is to blame for that time
                gap = now - before
                channel.last_sign += gap
                self._deadline = None if self._deadline is None else self._deadline + gap
            before = now
            self._write_commands(child)
            if self._leave_asked and not self._stop_asked and child.poll() is None:
                self._leave(child, channel)
                return
            self._watch(channel, now)
            if child.poll() is None:
                self._escalate(child, now)
            else:
                exited_at = exited_at or now
                # A grandchild may hold the pipe open: the process decides, not the pipe.
                if channel.ended or (not batch and now - exited_at > 1.0):
                    break
            spent = time.monotonic() - started
            if (
                batch and spent < TICK
            ):  # collect, so that the window hears at most ten times a second
                time.sleep(TICK - spent)
        self._finish(child, channel)

    def _digest(self, batch: tuple[AnyEvent, ...]) -> None:
        changes: dict[str, Any] = {}
        for event in batch:
            if isinstance(event, Hello):
                changes["run_dir"] = Path(event.run_dir) if event.run_dir else self.request.run_dir
                if self._state.phase is Phase.STARTING and "phase" not in changes:
                    changes["phase"] = Phase.RUNNING
            elif isinstance(event, Error) and not event.request_id:
                self._error = event
                changes["error"] = event
            elif isinstance(event, Bye):
                self._bye = event
                self._arm(self.patience.reap)
            elif isinstance(event, Progress):
                phase = changes.get("phase", self._state.phase)
                if event.phase == "paused" and phase is Phase.RUNNING:
                    changes.update(phase=Phase.PAUSED, pause_requested=False)
                elif event.phase != "paused" and phase in (Phase.PAUSED, Phase.STARTING):
                    changes["phase"] = Phase.RUNNING
            elif isinstance(event, Metric) and self._state.phase is Phase.PAUSED:
                changes.setdefault("phase", Phase.RUNNING)
        if self._state.silent_s:
            changes.setdefault("silent_s", 0.0)
        if "run_dir" in changes:
            self._share_log(changes["run_dir"])
        if "phase" in changes or "silent_s" in changes:
            phase = changes.get("phase", self._state.phase)
            changes.update(sentence=phase_sentence(phase), next_step="")
        if changes:
            self._publish(**changes)

    def _write_commands(self, child: subprocess.Popen[bytes]) -> None:
        waiting, stop, kill = self._take_commands()
        for command in waiting:
            self._publish_asked(command)
            try:
                assert child.stdin is not None
                child.stdin.write(msgspec.json.encode(command) + b"\n")
            except (OSError, ValueError):  # it is gone; its exit tells the rest
                break
        if stop and self._state.phase is not Phase.STOPPING:
            self._publish_stopping()
            self._arm(self.patience.grace)
        if kill and self._escalation < 2:
            self._escalation = 2
            self._deadline = time.monotonic()

    def _arm(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        self._deadline = deadline if self._deadline is None else min(self._deadline, deadline)

    def _watch(self, channel: EventChannel, now: float) -> None:
        if channel.garbage != self._state.garbage:
            self._publish(garbage=channel.garbage)
        silent = now - channel.last_sign
        limit = self.patience.silence
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

    def _escalate(self, child: subprocess.Popen[bytes], now: float) -> None:
        if self._deadline is None or now < self._deadline:
            return
        if self._escalation == 0:
            self._escalation = 1
            self._forced = self._bye is None
            terminate_tree(child.pid)
            self._deadline = now + self.patience.terminate
            return
        self._forced = self._bye is None
        survivors = kill_tree(child.pid)
        self._deadline = now + 2.0
        if survivors:
            self._publish(survivors=survivors)

    def _leave(self, child: subprocess.Popen[bytes], channel: EventChannel) -> None:
        """Close our ends of the pipes; the child was told that it goes on without them."""
        for earlier in list(_left):
            if earlier.poll() is not None:
                _left.remove(earlier)
        _left.append(child)
        if child.stdin is not None:
            try:
                child.stdin.close()
            except OSError:
                log.debug("The command channel was closed already.")
        channel.abandon()
        sentence = phase_sentence(Phase.DETACHED)
        self._publish(phase=Phase.DETACHED, sentence=sentence, next_step="", pause_requested=False)

    # -- the end --------------------------------------------------------------------------------
    def _finish(self, child: subprocess.Popen[bytes], channel: EventChannel) -> None:
        code = child.wait()
        survivors = kill_tree(child.pid) if tree(child.pid) else ()
        if child.stdin is not None:
            try:
                child.stdin.close()
            except OSError:
                log.debug("The command channel was closed already.")
        channel.close()
        rest = channel.take(0)
        if rest:
            self._digest(rest)
            self.events_read.emit(rest)
        if channel.garbage:
            self.events_read.emit(
                (Log(level="warning", t=time.time(), message=self.tr(
                    "{count} lines on the event channel were not events; the last one: {line}"
                ).format(count=channel.garbage, line=channel.garbage_sample)),)
            )  # fmt: skip
        tail = self._keep_log()
        phase, sentence, next_step = self._verdict(code)
        self._publish(
            phase=phase, sentence=sentence, next_step=next_step, exit_code=code, pid=0,
            garbage=channel.garbage, survivors=survivors, silent_s=0.0, pause_requested=False,
            stderr_tail=tail if phase in (Phase.FAILED, Phase.CRASHED) else "",
        )  # fmt: skip

    def _verdict(self, code: int) -> tuple[Phase, str, str]:
        if self._bye is not None:
            phase = final_phase(self._bye.state)
            error = self._error
            if phase is Phase.FAILED and error is not None:
                return phase, " ".join(filter(None, (error.what, error.why))), error.next_step
            return phase, self._bye.message or phase_sentence(phase), ""
        if self._kill_asked:
            return Phase.CANCELLED, self.tr("Ended at once, as you asked."), self.tr(
                "What was saved before is kept; the run can be resumed from its last checkpoint."
            )  # fmt: skip
        if self._forced:
            return Phase.CANCELLED, self.tr("It did not stop in time and was ended."), self.tr(
                "What was saved before is kept; the run can be resumed from its last checkpoint."
            )  # fmt: skip
        if self._error is not None:
            error = self._error
            words = " ".join(filter(None, (error.what, error.why)))
            return Phase.FAILED, words, error.next_step
        sentence, next_step = exit_sentence(code)
        failed = code > 0 and code < 0x80000000
        return (Phase.FAILED if failed else Phase.CRASHED), sentence, next_step

    def _share_log(self, folder: Path | None) -> None:
        """Let the run's folder name what the process prints, in case this window does not live."""
        if folder is None or not folder.is_dir():
            return
        try:
            (folder / STDERR).unlink(missing_ok=True)
            (folder / STDERR).hardlink_to(self.log_path)
        except OSError as error:  # another disk; then only the studio's own log folder has it
            log.debug("No second name for %s: %s", self.log_path, error)

    def _keep_log(self) -> str:
        """Append what the process printed to the run's log; return its last lines."""
        try:
            text = self.log_path.read_bytes()[-200_000:].decode("utf-8", "replace")
            folder = self._state.run_dir
            if folder is not None and folder.is_dir() and text:
                with (folder / "log.txt").open("a", encoding="utf-8") as stream:
                    stream.write(text)
            if folder is not None:
                (folder / STDERR).unlink(missing_ok=True)
            if folder is not None or not text:
                self.log_path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("The log of %s cannot be kept: %s", self.request.title, error)
            return ""
        return "\n".join(text.splitlines()[-40:])
