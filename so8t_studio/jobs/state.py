"""What a job is doing, in words: phases, exit codes and signals as sentences."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from PySide6.QtCore import QCoreApplication

from so8t_engine.events import Error


class Phase(StrEnum):
    """Where a job is in its life. The first five are active, the others final.

    ``DETACHED`` ends only this window's part in it: the process goes on.
    """

    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPING = "stopping"
    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"
    CRASHED = "crashed"
    DETACHED = "detached"


FINAL = frozenset((Phase.DONE, Phase.CANCELLED, Phase.FAILED, Phase.CRASHED, Phase.DETACHED))


def _tr(text: str) -> str:
    return QCoreApplication.translate("JobState", text)


@dataclass(frozen=True)
class JobState:
    """A job at one moment.

    Attributes:
        phase: where it is in its life.
        sentence: what that means, for the user.
        next_step: what the user can do now; may be empty.
        pid: process id while there is a process, else 0.
        exit_code: of the process once it ended; negative for a signal.
        error: the last error that the job reported.
        garbage: lines on the event channel that were not events.
        silent_s: seconds without a sign of life, 0 while it is lively.
        run_dir: folder of the run once it is known.
        pause_requested: a pause was asked for and is not confirmed yet.
        stderr_tail: last lines that the process printed, once it ended badly.
        survivors: process ids that could not be ended.
        adopted: it was not started by this window, but found running.
    """

    phase: Phase
    sentence: str = ""
    next_step: str = ""
    pid: int = 0
    exit_code: int | None = None
    error: Error | None = None
    garbage: int = 0
    silent_s: float = 0.0
    run_dir: Path | None = None
    pause_requested: bool = False
    stderr_tail: str = ""
    survivors: tuple[int, ...] = ()
    adopted: bool = False

    @property
    def is_final(self) -> bool:
        """True once the process is gone, or was left to itself."""
        return self.phase in FINAL

    @property
    def details(self) -> str:
        """Everything a bug report needs, as plain text."""
        lines = [f"state: {self.phase.value}", self.sentence]
        if self.exit_code is not None:
            lines.append(f"exit code: {self.exit_code}")
        if self.run_dir is not None:
            lines.append(f"run folder: {self.run_dir}")
        if self.garbage:
            lines.append(f"lines that were not events: {self.garbage}")
        if self.error is not None:
            lines += [f"error: {self.error.kind}: {self.error.what}", self.error.why]
            lines += [self.error.next_step, self.error.details]
        if self.stderr_tail:
            lines += ["", "last output:", self.stderr_tail]
        return "\n".join(line for line in lines if line is not None)


def phase_of(word: str) -> Phase:
    """Return the phase of a run's state on disk; an unknown word counts as running."""
    try:
        return Phase(word)
    except ValueError:
        return Phase.RUNNING


def phase_word(phase: Phase) -> str:
    """Return the one word for a phase, the same wherever a job or run is shown."""
    return {
        Phase.QUEUED: _tr("waiting"),
        Phase.STARTING: _tr("starting"),
        Phase.RUNNING: _tr("running"),
        Phase.PAUSED: _tr("paused"),
        Phase.STOPPING: _tr("stopping"),
        Phase.DONE: _tr("done"),
        Phase.CANCELLED: _tr("stopped"),
        Phase.FAILED: _tr("failed"),
        Phase.CRASHED: _tr("crashed"),
        Phase.DETACHED: _tr("in the background"),
    }[phase]


def phase_sentence(phase: Phase) -> str:
    """Return the sentence of a phase that needs no further facts."""
    return {
        Phase.QUEUED: _tr("Waiting for its turn."),
        Phase.STARTING: _tr("Starting the process and loading the libraries."),
        Phase.RUNNING: _tr("Running."),
        Phase.PAUSED: _tr("Paused. The model stays in memory."),
        Phase.STOPPING: _tr("Finishing the current step and saving a checkpoint."),
        Phase.DONE: _tr("Finished."),
        Phase.CANCELLED: _tr("Stopped on request."),
        Phase.FAILED: _tr("Ended with an error."),
        Phase.CRASHED: _tr("The process ended without saying why."),
        Phase.DETACHED: _tr("Goes on in the background; it is found again at the next start."),
    }[phase]


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def exit_sentence(code: int) -> tuple[str, str]:
    """Return what an exit code means and what to do next.

    Negative codes are signals (POSIX); large ones are NTSTATUS values (Windows).
    """
    resume = _tr("Resume the run from its last checkpoint.")
    if code < 0:
        name = _signal_name(-code)
        if name == "SIGKILL":
            return (
                _tr("The process was killed from outside, most often because memory ran out."),
                _tr("Close other programs or choose a smaller batch, then resume the run."),
            )
        if name in ("SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE", "SIGABRT"):
            return (
                _tr("A native library crashed ({name}).").format(name=name),
                _tr("Resume the run; if it happens again, copy the details into a bug report."),
            )
        return _tr("The process was ended by {name}.").format(name=name), resume
    if code & 0xFFFFFFFF == 0xC0000005:
        return (_tr("A native library crashed (access violation)."), resume)
    if code & 0xFFFFFFFF == 0xC000013A:
        return (_tr("The process was interrupted."), resume)
    known = {
        0: _tr("The process ended without its final message."),
        1: _tr("The job failed."),
        2: _tr("The job did not accept its settings."),
        3: _tr("The job could not use the data."),
        4: _tr("The job could not use the base model."),
        5: _tr("The job could not use the workspace."),
        6: _tr("The machine has too little memory, disk space or GPU for the job."),
        70: _tr("The job ended with an unexpected error."),
    }
    sentence = known.get(code, _tr("The process ended with code {code}.").format(code=code))
    return sentence, _tr("Read the log, correct the cause and start again.")
