"""What the commands share: common options, results on stdout, everything else on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from so8t_engine.errors import SpecError
from so8t_engine.specs import TrainSpec

if TYPE_CHECKING:
    from so8t_engine.jobs.console import ConsoleSink
    from so8t_engine.workspace.personas import Persona

WorkspaceOption = Annotated[
    Path | None,
    typer.Option("--workspace", "-w", help="Folder of the workspace.", show_default="yours"),
]
PersonaOption = Annotated[
    str | None,
    typer.Option("--persona", "-p", help="Folder name of the persona.", show_default="starter"),
]
RunOption = Annotated[
    str | None,
    typer.Option("--run", help="Session id of the run.", show_default="latest finished"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
EventsOption = Annotated[
    bool,
    typer.Option("--events", help="Speak the event protocol on stdout and stdin."),
]


def print_json(data: Any) -> None:
    """Write ``data`` to stdout as indented JSON."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(data), indent=2).decode() + "\n")
    sys.stdout.flush()


def print_line(text: str = "") -> None:
    """Write one line to stdout."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def is_main_process() -> bool:
    """Tell whether this process speaks for all, where `accelerate launch` started several."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def console_sinks(events: bool, *, logs: bool = True) -> Iterator[list[ConsoleSink]]:
    """Yield the sinks of a job: a progress display, or nothing where events go out."""
    if events or not is_main_process():
        yield []
        return
    from so8t_engine.jobs.console import ConsoleSink

    with ConsoleSink(logs=logs) as sink:
        yield [sink]


def persona_of(workspace: Path | None, persona: str | None) -> Persona:
    """Return the persona that the two common options mean."""
    from so8t_engine.jobs.selection import open_persona

    return open_persona(workspace, persona)


def finish(code: int) -> None:
    """End the command with an exit code."""
    if code:
        raise typer.Exit(code)


def apply_settings(spec: TrainSpec, settings: list[str]) -> TrainSpec:
    """Return ``spec`` with ``key=value`` settings applied; keys are dotted, values are JSON.

    A value that is no JSON is taken as text, so ``--set device=cpu`` needs no quotes.

    Raises:
        SpecError: naming the key that is unknown or the value that does not fit.
    """
    tree: dict[str, Any] = msgspec.to_builtins(spec)
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise SpecError(
                f"--set {setting} is not of the form key=value.",
                next_step="Write for example --set optim.epochs=3.",
            )
        _assign(tree, key.strip(), _value(text.strip()))
    try:
        return msgspec.convert(tree, TrainSpec)
    except msgspec.ValidationError as error:
        raise SpecError(
            f"The settings do not give a valid specification: {error}.",
            next_step="Correct the named field; `so8t train --show-spec` prints all of them.",
        ) from error


def _value(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def _assign(tree: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    place: Any = tree
    for name in parents:
        if isinstance(place, dict) and place.get(name) is None and name in place:
            place[name] = {}
        place = place.get(name) if isinstance(place, dict) else None
    if not isinstance(place, dict) or (last not in place and place):
        raise SpecError(
            f"There is no setting {key!r}.",
            next_step="`so8t train --show-spec` prints all settings with their values.",
        )
    place[last] = value
