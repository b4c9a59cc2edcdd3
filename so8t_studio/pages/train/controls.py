"""Which button does what in which state, and times in words (Qt-free)."""

from __future__ import annotations

from dataclasses import dataclass

from so8t_studio.jobs.state import JobState, Phase


@dataclass(frozen=True)
class Buttons:
    """Which controls are enabled."""

    start: bool
    pause: bool
    resume: bool
    stop: bool
    kill: bool


def buttons_for(state: JobState | None) -> Buttons:
    """Derive the controls from the state of the process, and from nothing else."""
    if state is None or state.is_final:
        return Buttons(start=True, pause=False, resume=False, stop=False, kill=False)
    phase = state.phase
    return Buttons(
        start=False,
        pause=phase is Phase.RUNNING and not state.pause_requested,
        resume=phase is Phase.PAUSED,
        stop=phase in (Phase.QUEUED, Phase.STARTING, Phase.RUNNING, Phase.PAUSED),
        kill=phase is not Phase.QUEUED,
    )


def duration(seconds: float) -> str:
    """Return a time span as people say it: ``45 s``, ``3 min 20 s``, ``2 h 5 min``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes < 10 and rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"
