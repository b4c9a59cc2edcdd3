"""``so8t quickstart``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from so8t_engine.cli_common import (
    JsonOption,
    PersonaOption,
    apply_settings,
    console_sinks,
    finish,
    print_json,
)
from so8t_engine.specs import preset


def quickstart(
    workspace: Annotated[
        Path | None,
        typer.Option(
            "--workspace",
            "-w",
            help="Folder of the workspace.",
            show_default="SO8T-quickstart in your documents",
        ),
    ] = None,
    persona: PersonaOption = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change one setting, e.g. --set optim.max_steps=20."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Do the whole main job on the starter persona, in a workspace of its own.

    Gets the base model if needed, trains the preset Quick trial, evaluates on held-out rows and
    prints metrics, baselines, confusion matrix, rotation health and three decisions.
    """
    from so8t_engine.jobs.console import stderr_console
    from so8t_engine.jobs.quickstart import quickstart_workspace, run

    root = (workspace or quickstart_workspace()).expanduser().absolute()
    console = stderr_console()
    console.print(f"Workspace: {root}", markup=False, soft_wrap=True)
    changes = settings or []
    apply_settings(preset("quick"), changes)  # a wrong setting is said before anything is made
    with console_sinks(False) as sinks:
        outcome = run(
            root,
            slug=persona,
            adjust=lambda spec: apply_settings(spec, changes),
            sinks=list(sinks),
        )
    if outcome.report:
        if as_json:
            print_json(outcome.report)
        else:
            _show(outcome.report)
    finish(outcome.code)


def _show(report: dict[str, Any]) -> None:
    from so8t_engine.jobs.console import (
        confusion_table,
        metrics_table,
        stdout_console,
        verdict_line,
    )

    console = stdout_console()
    console.print()
    console.print(metrics_table(report))
    console.print(confusion_table(report["confusion"]))
    _show_rotations(console, report["rotations"])
    console.print("\n[bold]Decisions on held-out rows[/]")
    for row in report["decisions"]:
        console.print(f"  {row['request']}", markup=False)
        console.print(f"    {verdict_line(row)}  [dim]expected {row['expected']}[/]")
    console.print(f"\nWorkspace: {report['workspace']}", markup=False, soft_wrap=True)
    console.print(f"Run {report['run']}, {report['total_seconds']:.0f} s in all.", markup=False)


def _show_rotations(console: Any, health: dict[str, Any]) -> None:
    if not health:
        console.print("This run recorded no rotations (gates are switched off).")
        return
    gate, block = health["largest_gate_safe"], health["largest_block_safe"]
    console.print(f"[bold]Rotations[/] after step {health['step']}, {health['gates']} gates")
    console.print(
        f"  mean angle     R_safe {health['mean_angle_safe']:.4f} rad, "
        f"R_cmd {health['mean_angle_cmd']:.4f} rad"
    )
    console.print(
        f"  largest        {health['largest_angle_safe']:.4f} rad in {gate} block {block}"
    )
    if health["orthogonality_error_float32"] is not None:
        console.print(
            f"  health         max|RᵀR−I| {health['orthogonality_error_float32']:.1e}, "
            f"max|det R−1| {health['determinant_error_float32']:.1e} (float32, as used)"
        )
    if health["mean_angle_cmd"] == 0.0:
        console.print("  R_cmd is the identity: it only moves when the task loss is on.")
