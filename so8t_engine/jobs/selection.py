"""Which persona, which run, which model: how a job finds what a command line names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from so8t_engine.errors import WorkspaceError
from so8t_engine.specs import TrainSpec
from so8t_engine.workspace.personas import Persona
from so8t_engine.workspace.runs import RunStore
from so8t_engine.workspace.workspace import STARTER, Workspace, default_workspace

if TYPE_CHECKING:
    from collections.abc import Callable

    from so8t_engine.model.decider import Decider


def open_persona(root: Path | None, slug: str | None) -> Persona:
    """Return the persona that a command means.

    Args:
        root: the workspace; None is the default one.
        slug: folder name of the persona; None is the only one, or else the starter persona.

    Raises:
        WorkspaceError: if there is no such workspace or persona, or the choice is not clear.
    """
    workspace = Workspace.open(root or default_workspace(), create=False, exclusive=False)
    return choose_persona(workspace, slug)


def choose_persona(workspace: Workspace, slug: str | None) -> Persona:
    """Return the persona ``slug`` of an open workspace; None is the only one, or the starter.

    Raises:
        WorkspaceError: if there is no such persona, or the choice is not clear.
    """
    if slug is not None:
        return workspace.persona(slug)
    personas = workspace.personas()
    if not personas:
        raise WorkspaceError(
            f"The workspace {workspace.root} has no persona.",
            next_step="Create one in the studio, or run `so8t quickstart`.",
        )
    starter = next((persona for persona in personas if persona.slug == STARTER), None)
    if len(personas) > 1 and starter is None:
        names = ", ".join(persona.slug for persona in personas)
        raise WorkspaceError(
            f"The workspace {workspace.root} has {len(personas)} personas.",
            next_step=f"Say which one with --persona: {names}.",
        )
    return starter or personas[0]


def find_run(persona: Persona, run_id: str | None) -> RunStore:
    """Return the run ``run_id``, or the latest one with a complete checkpoint.

    Raises:
        WorkspaceError: if there is no such run, or it has no checkpoint yet.
    """
    if run_id is None:
        latest = persona.latest_finished_run()
        if latest is None:
            raise WorkspaceError(
                f"The persona {persona.slug} has no finished run yet.",
                next_step=f"Train it first: so8t train --persona {persona.slug} --preset quick.",
            )
        return latest
    found = next((run for run in persona.runs() if run.id == run_id), None)
    if found is None:
        known = ", ".join(run.id for run in persona.runs()[:5])
        raise WorkspaceError(
            f"The persona {persona.slug} has no run {run_id!r}.",
            next_step=f"Use one of: {known}." if known else "Train it first.",
        )
    return found


def checkpoint_of(run: RunStore) -> Path:
    """Return the best checkpoint of a run.

    Raises:
        WorkspaceError: if it has none that is complete.
    """
    checkpoint = run.best_checkpoint()
    if checkpoint is None:
        raise WorkspaceError(
            f"The run {run.id} has no complete checkpoint.",
            next_step=f"Resume it: so8t train --resume {run.id}, or choose another run.",
        )
    return checkpoint


def policy_text(spec: TrainSpec, policy: str) -> str:
    """Return the system turn that the model was trained with."""
    return policy if spec.data.include_policy else ""


def build_decider(
    persona: Persona, run: RunStore | None, arm: str, log: Callable[[str], None]
) -> Decider:
    """Load the model of one arm: ``trained`` (the run's best checkpoint) or ``base``.

    Raises:
        BaseModelError, ResourceError, WorkspaceError: if it cannot be loaded.
    """
    from so8t_engine.model.decider import Decider

    if run is None:
        info = persona.info
        spec, policy = TrainSpec(base_model=info.base_model), info.policy
    else:
        spec = run.spec()
        policy = policy_text(spec, run.policy())
    if arm == "trained" and run is None:
        raise WorkspaceError(
            "This persona has not been trained yet.", next_step="Start a training run first."
        )
    checkpoint = checkpoint_of(run) if run is not None and arm == "trained" else None
    return Decider(
        spec.base_model,
        checkpoint,
        policy=policy,
        device=spec.device,
        dtype=spec.model.dtype,
        max_tokens=spec.data.max_tokens,
        log=log,
    )
