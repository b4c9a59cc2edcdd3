"""The real services of the window around one workspace, for tests of single pages."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from so8t_engine.workspace.workspace import Workspace
from so8t_studio.context import AppContext
from so8t_studio.jobs.background import wait_for_background
from so8t_studio.jobs.handle import JobHandle
from so8t_studio.jobs.request import JobRequest
from so8t_studio.jobs.service import JobService
from so8t_studio.jobs.telemetry import TelemetryService
from so8t_studio.models.dataset_store import DatasetStore
from so8t_studio.settings import Settings
from so8t_studio.theme import Theme


class ScriptedJobs(JobService):
    """Starts `eval` and `chat` as the scripted stand-in; everything else as it is."""

    def start(self, request: JobRequest) -> JobHandle:
        """Swap the program in front of the arguments."""
        if request.kind in ("eval", "chat"):
            command = [sys.executable, "-m", "tests.helpers.scripted_engine"]
            request = dataclasses.replace(request, command=command)
        return super().start(request)


@contextmanager
def page_context(
    root: Path, scratch: Path, *, theme: str = "light", scripted: bool = False
) -> Iterator[AppContext]:
    """Open the workspace in ``root``; jobs log into ``scratch`` and end with the block."""
    workspace = Workspace.open(root)
    dataset = DatasetStore()
    jobs = (ScriptedJobs if scripted else JobService)(scratch / "logs")
    colours = Theme("light" if theme == "light" else "dark")
    colours.apply()
    context = AppContext(
        workspace,
        Settings(scratch / "settings.json"),
        colours,
        jobs,
        TelemetryService(log_dir=scratch / "logs"),
        dataset,
    )
    try:
        yield context
    finally:
        jobs.shutdown(10.0)
        wait_for_background()
        dataset.close()
        workspace.close()
