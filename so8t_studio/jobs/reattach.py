"""Finds runs of this workspace that go on without a window, and follows them again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil
from PySide6.QtCore import QObject, Slot

from so8t_engine.workspace.runs import ACTIVE_STATES, RunState, RunStore
from so8t_engine.workspace.workspace import Workspace
from so8t_studio.jobs.background import Loader
from so8t_studio.jobs.request import JobRequest
from so8t_studio.jobs.state import Phase

if TYPE_CHECKING:
    from so8t_studio.context import AppContext
    from so8t_studio.jobs.handle import JobHandle
    from so8t_studio.jobs.service import JobService


@dataclass(frozen=True)
class Living:
    """A run whose process lives."""

    persona: str
    title: str
    run: RunStore
    state: RunState


def living_runs(workspace: Workspace) -> list[Living]:
    """Return all runs of all personas whose process lives (not on the window's thread)."""
    found = []
    for persona in workspace.personas():
        for run in persona.runs():
            state = run.state()
            if state.state in ACTIVE_STATES:
                found.append(Living(persona.slug, persona.name, run, state))
    return found


def _lineage(pid: int) -> set[int]:
    """Return a process and its ancestors; a virtual environment's Python may be a child's child."""
    try:
        process = psutil.Process(pid)
        return {pid, *(parent.pid for parent in process.parents())}
    except psutil.Error:
        return {pid}


def attach(jobs: JobService, living: Living, title: str) -> JobHandle | None:
    """Follow a run, unless a job of this window is that run already, or the window is ending."""
    if not jobs.accepting:
        return None
    known = {handle.state.run_dir for handle in jobs.handles if not handle.state.is_final}
    pids = {handle.state.pid for handle in jobs.active()} - {0}
    # A job of ours that ended a moment ago, while its folder was being read.
    ended = [handle for handle in jobs.handles if handle.state.phase is not Phase.DETACHED]
    pids |= {handle.hello.pid for handle in ended if handle.hello is not None}
    if living.run.root in known or pids & _lineage(living.state.pid):
        return None
    if not living.run.is_alive(living.state):
        return None
    request = JobRequest(
        "train", [], run_dir=living.run.root, needs_gpu=True, title=title, persona=living.persona
    )
    return jobs.attach(request, living.run, living.state)


class Reattacher(QObject):
    """Looks for such runs when the window opens, and whenever the list of runs changes."""

    def __init__(self, context: AppContext, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._context = context
        self._loader = Loader(self)
        context.persona_changed.connect(self._on_look_due)
        context.runs_changed.connect(self._on_look_due)

    def look(self) -> None:
        """Look now. A window that only reads follows nothing: it could not command it."""
        workspace = self._context.workspace
        if not workspace.read_only:
            self._loader.load("living", lambda: living_runs(workspace), self._on_found)

    def _on_found(self, found: object) -> None:
        if not isinstance(found, list):
            return
        for living in found:
            title = self.tr("Train {name}").format(name=living.title)
            if attach(self._context.jobs, living, title) is not None:
                self._context.post(
                    "info",
                    self.tr("The run {run} of {name} goes on in the background; it is shown again.")
                    .format(run=living.run.id, name=living.title),
                )  # fmt: skip

    @Slot()
    def _on_look_due(self) -> None:
        self.look()
