"""``so8t train``."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from so8t_engine.cli_common import (
    EventsOption,
    JsonOption,
    PersonaOption,
    WorkspaceOption,
    apply_settings,
    console_sinks,
    finish,
    is_main_process,
    persona_of,
    print_json,
    print_line,
)
from so8t_engine.errors import SpecError, WorkspaceError
from so8t_engine.specs import PRESETS, TrainSpec, encode_spec, load_spec, preset

if TYPE_CHECKING:
    from so8t_engine.workspace.personas import Persona
    from so8t_engine.workspace.runs import RunStore


def train(
    workspace: WorkspaceOption = None,
    persona: PersonaOption = None,
    spec: Annotated[Path | None, typer.Option(help="A specification file (JSON).")] = None,
    preset_name: Annotated[
        str | None, typer.Option("--preset", help=f"One of: {', '.join(PRESETS)}.")
    ] = None,
    resume: Annotated[
        str | None, typer.Option(help="Continue this run from its last checkpoint.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change one setting, e.g. --set optim.epochs=3."),
    ] = None,
    show_spec: Annotated[
        bool, typer.Option("--show-spec", help="Print the specification and end.")
    ] = False,
    more: Annotated[
        float | None,
        typer.Option("--more", help="With --resume: go on for this many passes more."),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Check everything and measure one step; nothing is kept."),
    ] = False,
    events: EventsOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a persona from a preset or a specification, or resume a run.

    Ctrl-C finishes the step, saves a checkpoint and ends; --resume goes on from there.
    """
    if sum(choice is not None for choice in (spec, preset_name, resume)) > 1:
        raise SpecError("--spec, --preset and --resume exclude each other.")
    if more is not None and (resume is None or dry_run):
        raise SpecError("--more needs --resume, and no --dry-run.")
    if resume is not None and (settings or show_spec):
        raise SpecError(
            "A resumed run keeps its own specification.",
            next_step="Leave --set and --show-spec out, or start a new run.",
        )
    chosen = apply_settings(
        load_spec(spec) if spec is not None else preset(preset_name or "balanced"), settings or []
    )
    if show_spec:
        sys.stdout.write(encode_spec(chosen).decode())
        return
    owner = persona_of(workspace, persona)
    store = _run_to_resume(owner, resume) if resume is not None else None
    if spec is None and store is None and not _sets_base(settings or []):
        chosen = msgspec.structs.replace(chosen, base_model=owner.info.base_model)
    if dry_run:
        wanted = store.spec() if store is not None else chosen
        finish(_dry_run(wanted, owner, events=events, as_json=as_json))
        return
    from so8t_engine.jobs.train import extend, run

    if store is not None and more is not None:
        extend(store, more)

    with console_sinks(events) as sinks:
        code, finished = run(chosen, owner, events=events, resume=store, sinks=sinks)
    if finished is not None and not events and is_main_process():
        _show_outcome(finished, as_json=as_json)
    finish(code)


def _sets_base(settings: list[str]) -> bool:
    return any(setting.partition("=")[0].strip() == "base_model" for setting in settings)


def _run_to_resume(persona: Persona, run_id: str) -> RunStore:
    found = next((run for run in persona.runs() if run.id == run_id), None)
    if found is None:
        known = ", ".join(run.id for run in persona.runs()[:5])
        raise WorkspaceError(
            f"The persona {persona.slug} has no run {run_id!r}.",
            next_step=f"Use one of: {known}." if known else "Start a new run.",
        )
    return found


def plan(spec: TrainSpec, persona: Persona) -> dict[str, Any]:
    """Return what a run would do, after checking data and base model; nothing is written.

    Raises:
        So8tError: for the first thing that would stop the run.
    """
    from so8t_engine.jobs.starting import find_start
    from so8t_engine.jobs.train import gather_samples
    from so8t_engine.model.base_cache import resolve_base

    base = resolve_base(spec.base_model)
    samples = gather_samples(spec, persona, find_start(spec, persona))
    train_rows = [sample for sample in samples if sample.split == "train"]
    batch = spec.optim.batch_size * spec.optim.accumulation
    steps = math.ceil(spec.optim.epochs * math.ceil(len(train_rows) / batch))
    if spec.optim.max_steps:
        steps = min(steps, spec.optim.max_steps)
    counts = {
        split: {
            label: sum(s.split == split and s.label.value == label for s in samples)
            for label in ("ALLOW", "ESCALATE", "REFUSE")
        }
        for split in ("train", "validation", "test")
    }
    return {
        "persona": persona.slug,
        "base_model": spec.base_model,
        "base_path": str(base),
        "rows": counts,
        "steps": steps,
        "spec": msgspec.to_builtins(spec),
    }


def _dry_run(spec: TrainSpec, persona: Persona, *, events: bool, as_json: bool) -> int:
    """Say what a run would do, then take one step with the longest samples and keep nothing."""
    from so8t_engine.events import Event, Result
    from so8t_engine.jobs.train import dry_run

    planned = plan(spec, persona)
    measured: dict[str, Any] = {}

    def keep(event: Event) -> None:
        if isinstance(event, Result) and event.name == "dry_run":
            measured.update(event.data)

    with console_sinks(events) as sinks:
        code = dry_run(spec, persona, events=events, sinks=[*sinks, keep])
    if events:
        return code
    if as_json:
        print_json(planned | {"memory": measured or None})
    else:
        _show_plan(planned)
        if measured:
            _show_memory(measured)
        print_line("Nothing was started.")
    return code


def _show_memory(found: dict[str, Any]) -> None:
    mib = 1 << 20
    for name, size in found["estimate"].items():
        print_line(f"memory      {name:<18} about {size / mib:8.0f} MiB")
    for name, size in found["host"].items():
        print_line(f"CPU memory  {name:<18} about {size / mib:8.0f} MiB")
    print_line(f"memory      {'all of a step':<18} about {found['estimated'] / mib:8.0f} MiB")
    print_line(
        f"measured    {found['peak'] / mib:.0f} MiB at the peak of one step on {found['device']},"
        f" with {found['tokens']} tokens in the longest sample"
    )


def _show_plan(found: dict[str, Any]) -> None:
    print_line(f"persona     {found['persona']}")
    print_line(f"base model  {found['base_model']} ({found['base_path']})")
    for split, labels in found["rows"].items():
        parts = ", ".join(f"{label} {count}" for label, count in labels.items())
        print_line(f"{split:<11} {sum(labels.values())} rows ({parts})")
    print_line(f"steps       about {found['steps']}")


def _show_outcome(store: RunStore, *, as_json: bool) -> None:
    state = store.state()
    best = store.best_checkpoint()
    if as_json:
        print_json(
            {
                "run": store.id,
                "path": str(store.root),
                "state": state.state,
                "message": state.message,
                "step": state.step,
                "total_steps": state.total_steps,
                "checkpoint": best.name if best is not None else "",
                "metrics": state.metrics,
            }
        )
        return
    # Why a run failed was said when it did.
    message = "" if state.state == "failed" else f" {state.message}"
    print_line(f"Run {store.id}: {state.state}.{message}")
    print_line(f"Folder: {store.root}")
