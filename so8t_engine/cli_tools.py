"""``so8t doctor``, ``models``, ``rotations`` and ``figure``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from so8t_engine.cli_common import (
    EventsOption,
    JsonOption,
    PersonaOption,
    RunOption,
    WorkspaceOption,
    console_sinks,
    finish,
    persona_of,
    print_json,
    print_line,
)

models_app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="List base models, get the default one, convert your own.",
)
figure_app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Draw figures to files.",
)

GateOption = Annotated[str, typer.Option(help="layers.<i> or head.", show_default="largest")]
BlockOption = Annotated[int | None, typer.Option(help="From 0.", show_default="largest")]
StepOption = Annotated[int | None, typer.Option(help="A recorded step.", show_default="last")]


@models_app.callback()
def _models() -> None:
    """List base models, get the default one, convert your own."""


@models_app.command("list")
def list_command(
    verify: Annotated[bool, typer.Option("--verify", help="Compute all sums again.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List the base models that are on this machine."""
    from so8t_engine.jobs.models import list_models

    found = list_models(deep=verify)
    if as_json:
        print_json(found)
        return
    for model in found:
        size = f"{model['bytes'] / 1e6:.0f} MB" if model["bytes"] else ""
        reason = f" ({model['reason']})" if model["reason"] else ""
        print_line(f"{model['reference']:<40} {model['state']}{reason}  {size}")
        print_line(f"    {model['path']}")


@models_app.command("prepare")
def prepare_command(events: EventsOption = False, as_json: JsonOption = False) -> None:
    """Get the default base model: fetch, check, convert. Continues where it stopped."""
    from so8t_engine.jobs.models import default_model, prepare

    with console_sinks(events) as sinks:
        code = prepare(events=events, sinks=sinks)
    if not code and not events:
        default = default_model()
        if as_json:
            print_json(default)
        else:
            print_line(f"Base model: {default['title']} in {default['path']}")
    finish(code)


@models_app.command("convert")
def convert_command(
    gguf: Annotated[Path, typer.Argument(help="A GGUF file with its tokenizer inside.")],
    folder: Annotated[Path, typer.Argument(help="Where to put the model; must not exist yet.")],
) -> None:
    """Turn a GGUF file into a folder that can be named as a persona's base model."""
    from so8t_engine.jobs.models import convert

    with console_sinks(False) as sinks:
        code = convert(gguf, folder, sinks=sinks)
    if not code:
        print_line(f"Base model: {folder}")
    finish(code)


def doctor(as_json: JsonOption = False) -> None:
    """Report GPU, driver, NF4, memory, versions, base model, and what is missing."""
    from so8t_engine.jobs.doctor import examine

    report = examine()
    if as_json:
        print_json(report)
    else:
        _show_doctor(report)
    finish(0 if report["ready"] else 1)


def _show_doctor(report: dict[str, Any]) -> None:
    gib = 1 << 30
    for name, version in report["versions"].items():
        print_line(f"{name:<20} {version or 'not installed'}")
    system, memory = report["system"], report["memory"]
    print_line(f"{'system':<20} {system['platform']}, {system['cpus_usable']} CPUs")
    free = f"{memory['available'] / gib:.1f} of {memory['total'] / gib:.1f} GiB free"
    print_line(f"{'memory':<20} {free}")
    for name, place in report["disk"].items():
        print_line(f"{name:<20} {place['path']} ({place['free'] / gib:.1f} GiB free)")
    for gpu in report["gpus"]:
        total = f", {gpu['memory_total'] / gib:.1f} GiB" if gpu["memory_total"] else ""
        print_line(f"{'GPU ' + str(gpu['index']):<20} {gpu['name'] or 'n/a'}{total}")
    if report["gpu_note"]:
        print_line(f"{'GPU':<20} {report['gpu_note']}")
    print_line(f"{'driver':<20} {report['driver'] or 'n/a'}")
    cuda = report["cuda"]
    print_line(f"{'CUDA in PyTorch':<20} {cuda['version'] or 'no'}, usable: {cuda['available']}")
    nf4 = report["nf4"]
    print_line(f"{'NF4':<20} {'works' if nf4['usable'] else nf4['reason']}")
    base = report["base_model"]
    print_line(f"{'base model':<20} {base['title']}: {base['state']} ({base['path']})")
    print_line(f"{'display':<20} {'yes' if report['display'] else 'no (headless commands work)'}")
    for problem in report["problems"]:
        print_line()
        print_line(f"{'Missing' if problem['blocking'] else 'Note'}: {problem['what']}")
        print_line(f"  {problem['next_step']}")
    print_line()
    print_line("Ready to train." if report["ready"] else "Not ready to train yet.")


def rotations(
    workspace: WorkspaceOption = None,
    persona: PersonaOption = None,
    run: RunOption = None,
    gate: GateOption = "",
    block: BlockOption = None,
    step: StepOption = None,
    out: Annotated[
        Path | None, typer.Option(help="Draw to .png, .svg or .pdf.", show_default="figures only")
    ] = None,
    strength: Annotated[float, typer.Option(help="exp(strength A).")] = 1.0,
    as_json: JsonOption = False,
) -> None:
    """Show the health and angles of a run's rotations, and draw one block with --out."""
    from so8t_engine.jobs.quickstart import rotation_health
    from so8t_engine.jobs.selection import find_run

    store = find_run(persona_of(workspace, persona), run)
    if out is not None:
        _draw(store.root, out, gate, block, step, strength, events=False)
    health = rotation_health(store, None)
    if as_json:
        print_json({"run": store.id, **health})
    elif not health:
        print_line(f"The run {store.id} recorded no rotations.")
    else:
        for name, value in health.items():
            if value is not None:
                print_line(f"{name:<30} {value:.3e}" if isinstance(value, float) else
                           f"{name:<30} {value}")  # fmt: skip


@figure_app.callback()
def _figure() -> None:
    """Draw figures to files."""


@figure_app.command("rotations")
def figure_rotations(
    run_dir: Annotated[Path, typer.Option(help="Folder of the run.")],
    out: Annotated[Path, typer.Option(help="A .png, .svg or .pdf file.")],
    gate: GateOption = "",
    block: BlockOption = None,
    step: StepOption = None,
    strength: Annotated[float, typer.Option(help="exp(strength A).")] = 1.0,
    stretch: Annotated[
        bool, typer.Option("--stretch", help="Scale the colours to the largest turn.")
    ] = False,
    events: EventsOption = False,
) -> None:
    """Draw R_safe, R_cmd, their product and commutator of one block."""
    _draw(run_dir, out, gate, block, step, strength, stretch=stretch, events=events)


def _draw(
    run_dir: Path,
    out: Path,
    gate: str,
    block: int | None,
    step: int | None,
    strength: float,
    *,
    events: bool,
    stretch: bool = False,
) -> None:
    from so8t_engine.jobs import figures

    with console_sinks(events, logs=False) as sinks:
        code = figures.run(
            run_dir,
            out,
            gate=gate,
            block=block,
            step=step,
            strength=strength,
            stretch=stretch,
            events=events,
            sinks=sinks,
        )
    finish(code)
