"""What all supervisors of a process share: one thread, one process, commands and states."""

from __future__ import annotations

import dataclasses
import threading
from collections import deque
from typing import Any

from PySide6.QtCore import QObject, QThread, Signal

from so8t_studio.jobs.request import JobRequest
from so8t_studio.jobs.state import FINAL, JobState, Phase, phase_sentence

TICK = 0.1
REAP_S = 10.0
TERMINATE_S = 10.0
SLEEP_GAP = 5.0


@dataclasses.dataclass(frozen=True)
class Patience:
    """How long to wait for what, in seconds.

    Attributes:
        grace: after the stop command, until the tree is asked to terminate.
        terminate: after that, until it is killed.
        reap: after the final message, until the process must be gone.
        silence: without a sign of life, until the user is told; 0 means never.
    """

    grace: float = 120.0
    terminate: float = TERMINATE_S
    reap: float = REAP_S
    silence: float = 60.0


def final_phase(word: str) -> Phase:
    """Return the phase that a ``bye`` names; a word from another version counts as done."""
    try:
        phase = Phase(word)
    except ValueError:
        return Phase.DONE
    return phase if phase in FINAL - {Phase.DETACHED} else Phase.DONE


class Supervisor(QThread):
    """A thread that follows one process.

    ``events_read`` carries a tuple of events at most ten times a second, ``state_changed`` a
    :class:`JobState`. The final state is always the last signal.
    """

    events_read = Signal(object)
    state_changed = Signal(object)

    def __init__(
        self,
        request: JobRequest,
        state: JobState,
        patience: Patience | None = None,
        parent: QObject | None = None,
    ) -> None:
        super().__init__(parent)
        self.setObjectName(f"job-{request.kind}")
        self.request = request
        self.patience = patience or Patience()
        self._lock = threading.Lock()
        self._commands: deque[dict[str, Any]] = deque()
        self._stop_asked = False
        self._kill_asked = False
        self._leave_asked = False
        self._state = state

    # -- called from any thread -----------------------------------------------------------------
    def send(self, command: dict[str, Any]) -> None:
        """Queue a command for the process."""
        with self._lock:
            self._commands.append(dict(command))

    def ask_stop(self) -> None:
        """Ask for a clean end; repeated calls change nothing."""
        with self._lock:
            if self._stop_asked:
                return
            self._stop_asked = True
            self._commands.append({"cmd": "stop"})

    def ask_kill(self) -> None:
        """End the whole tree now."""
        with self._lock:
            self._stop_asked = True
            self._kill_asked = True

    def ask_leave(self) -> None:
        """Leave the process to itself and end this thread; a stop that was asked for wins."""
        with self._lock:
            if not self._stop_asked:
                self._leave_asked = True
                self._commands.append({"cmd": "detach"})

    # -- within the thread ----------------------------------------------------------------------
    def _take_commands(self) -> tuple[list[dict[str, Any]], bool, bool]:
        with self._lock:
            waiting = list(self._commands)
            self._commands.clear()
            return waiting, self._stop_asked, self._kill_asked

    def _publish(self, **changes: Any) -> None:
        self._state = dataclasses.replace(self._state, **changes)
        self.state_changed.emit(self._state)

    def _publish_asked(self, command: dict[str, Any]) -> None:
        """Show at once that a pause, or its end, was asked for."""
        name = command.get("cmd")
        if name == "pause" and self._state.phase is Phase.RUNNING:
            self._publish(pause_requested=True)
        elif name == "resume":
            self._publish(pause_requested=False)

    def _publish_stopping(self) -> None:
        """Show that a stop was asked for."""
        sentence = phase_sentence(Phase.STOPPING)
        self._publish(phase=Phase.STOPPING, sentence=sentence, next_step="", pause_requested=False)
