"""The window's services on a temporary workspace."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from so8t_engine.labels import Label
from so8t_engine.workspace.workspace import Workspace
from so8t_studio.app import close_context
from so8t_studio.context import AppContext
from so8t_studio.jobs.service import JobService
from so8t_studio.jobs.telemetry import TelemetryService
from so8t_studio.jobs.worker import Patience
from so8t_studio.models.dataset_store import DatasetStore
from so8t_studio.settings import Settings
from so8t_studio.theme import Theme

FAKE_CHILD = Path(__file__).with_name("fake_child.py")


def fake_command(scenario: str, *options: str) -> list[str]:
    """Return the command line of the scripted child."""
    return [sys.executable, str(FAKE_CHILD), scenario, *options]


def make_context(root: Path, *, starter: bool = True, patience: Patience | None = None,
                 mode: str = "light", command: list[str] | None = None,
                 jobs: type[JobService] = JobService, rows: int = 0,
                 trained: bool = False) -> AppContext:  # fmt: skip
    """Open ``root`` as a workspace and make the services; telemetry is not started.

    ``rows`` keeps so many rows of each label of the starter persona; 0 keeps all. ``trained``
    keeps the run that ships with it; without, it is as a persona of the user's own begins.
    """
    workspace = Workspace.open(root)
    if starter and not workspace.read_only:
        persona = workspace.ensure_starter()
        if not trained:
            shutil.rmtree(persona.runs_dir, ignore_errors=True)
        if rows:
            keep_rows(workspace, rows)
    theme = Theme(mode)
    theme.apply()
    quick = Patience(grace=10.0, terminate=2.0, reap=2.0, silence=30.0)
    context = AppContext(
        workspace=workspace,
        settings=Settings(root.parent / "settings.json"),
        theme=theme,
        jobs=jobs(log_dir=root.parent / "logs", patience=patience or quick, command=command),
        telemetry=TelemetryService(log_dir=root.parent / "logs"),
        dataset=DatasetStore(),
    )
    personas = workspace.personas()
    if personas:
        context.open_persona(personas[0].slug)
    return context


def keep_rows(workspace: Workspace, rows: int) -> None:
    """Leave the starter persona the first ``rows`` rows of each label."""
    persona = workspace.personas()[0]
    samples = persona.load_samples()
    kept = [[sample for sample in samples if sample.label is label][:rows] for label in Label]
    persona.save_samples([sample for part in kept for sample in part])


@contextlib.contextmanager
def closing_context(root: Path, **options: object) -> Iterator[AppContext]:
    """Like :func:`make_context`, with everything ended afterwards."""
    context = make_context(root, **options)
    try:
        yield context
    finally:
        close_context(context)
        assert not context.jobs.active(), "a job outlived its context"
