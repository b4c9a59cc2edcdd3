"""The command line of the engine, ``so8t`` and ``python -m so8t_engine``.

Commands live in ``cli_*.py`` and are imported when they are called, so ``so8t --help`` is quick and
never loads torch.
"""

from __future__ import annotations

import errno
import importlib
import logging
import os
import sys
import warnings
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from so8t_engine import __version__
from so8t_engine.errors import So8tError

# name: (module:attribute, one line of help). An attribute is a function or a Typer application.
COMMANDS: dict[str, tuple[str, str]] = {
    "quickstart": (
        "so8t_engine.cli_quickstart:quickstart",
        "Train, evaluate and inspect the starter persona.",
    ),
    "train": ("so8t_engine.cli_train:train", "Train a persona."),
    "eval": ("so8t_engine.cli_judge:evaluate", "Measure a run: metrics, confusion, baselines."),
    "decide": ("so8t_engine.cli_judge:decide", "Decide requests: ALLOW, ESCALATE or REFUSE."),
    "chat": ("so8t_engine.cli_judge:chat", "Talk to the trained persona."),
    "data": ("so8t_engine.cli_data:data_app", "Import, check, convert and split datasets."),
    "rotations": ("so8t_engine.cli_tools:rotations", "Show and draw the rotations of a run."),
    "figure": ("so8t_engine.cli_tools:figure_app", "Draw figures to files."),
    "monitor": ("so8t_engine.jobs.telemetry:monitor", "Watch GPU, CPU and memory."),
    "doctor": ("so8t_engine.cli_tools:doctor", "Report what this machine has and lacks."),
    "models": ("so8t_engine.cli_tools:models_app", "List base models, get the default one."),
}
EXIT_UNEXPECTED = 70
EXIT_INTERRUPTED = 130


class LazyGroup(TyperGroup):
    """Lists the commands without importing them and loads the one that is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names in the order in which a newcomer meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a stand-in with name and help, enough for ``--help``."""
        if cmd_name not in COMMANDS:
            return None

        def stand_in() -> None:
            """Never called: :meth:`resolve_command` loads the real one."""

        app = typer.Typer(add_completion=False)
        app.command(cmd_name, help=COMMANDS[cmd_name][1])(stand_in)
        return typer.main.get_command(app)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Return the real command that ``args`` begins with."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, load_command(name) if name in COMMANDS else command, rest


def load_command(name: str) -> Any:
    """Import a command and return it as the parser wants it."""
    target, help_text = COMMANDS[name]
    module_name, attribute = target.split(":")
    found = getattr(importlib.import_module(module_name), attribute)
    if not isinstance(found, typer.Typer):
        application = typer.Typer(add_completion=False, rich_markup_mode=None)
        application.command(name)(found)
        found = application
    command = typer.main.get_command(found)
    command.name = name
    command.help = command.help or help_text
    return command


app = typer.Typer(
    cls=LazyGroup,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"so8t {__version__}\n")
        raise typer.Exit


def _smoke(wanted: bool) -> None:
    """Check that the installation is complete, without loading a model."""
    if not wanted:
        return
    from importlib.util import find_spec

    from so8t_engine.resources import resource_root
    from so8t_engine.samples.readers import read_samples
    from so8t_engine.workspace.personas import Persona
    from so8t_engine.workspace.workspace import STARTER

    starter = Persona(resource_root() / "personas" / STARTER)
    rows = len(read_samples(starter.dataset_path).samples)
    missing = [name for name in ("torch", "transformers", "peft") if find_spec(name) is None]
    if missing:
        raise So8tError(
            f"The library {missing[0]} is not installed.", next_step="Install the package again."
        )
    sys.stdout.write(f"so8t {__version__}: {starter.name}, {rows} samples, ready\n")
    raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
    ] = False,
    smoke: Annotated[
        bool,
        typer.Option("--smoke", callback=_smoke, is_eager=True, help="Check the installation."),
    ] = False,
) -> None:
    """Raise, inspect and trust a local safety persona: ALLOW, ESCALATE or REFUSE."""


def _explain(error: BaseException) -> tuple[So8tError, int]:
    """Return a sentence and an exit code for whatever a command let through."""
    if isinstance(error, So8tError):
        return error, error.exit_code
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f" ({error.filename})" if error.filename else ""
        return So8tError(f"The disk is full{where}.", next_step="Free some space, try again."), 6
    if isinstance(error, OSError) and error.filename:
        reason = error.strerror or error
        return So8tError(f"{error.filename} cannot be used: {reason}."), 1
    return (
        So8tError(
            f"An unexpected error occurred: {type(error).__name__}: {error}.",
            next_step="Set SO8T_DEBUG=1 and run the command again for a report.",
        ),
        EXIT_UNEXPECTED,
    )


def _report(error: So8tError, *, as_events: bool) -> None:
    if as_events:
        from so8t_engine.events import Bye, Error, encode_event

        event = Error(
            what=error.what, why=error.why, next_step=error.next_step, kind=type(error).__name__
        )
        bye = Bye(seq=1, state="failed", message=error.what)
        os.write(1, encode_event(event) + encode_event(bye))
        return
    sys.stderr.write("Error: " + " ".join(filter(None, str(error).split("\n"))) + "\n")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    from so8t_engine.jobs.runtime import utf8_console
    from so8t_engine.model.base_cache import go_offline

    utf8_console()
    go_offline()
    given = sys.argv[1:] if arguments is None else arguments
    debug = bool(os.environ.get("SO8T_DEBUG"))
    if not debug:
        # Notes of libraries to their programmers mean nothing to the person at the terminal.
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        if "--events" not in given:
            logging.getLogger().addHandler(logging.NullHandler())
    try:
        result = app(args=given, prog_name="so8t", standalone_mode=False)
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except Exception as error:
        if hasattr(error, "exit_code") and hasattr(error, "format_message"):
            return _usage_error(error)
        if debug:
            raise
        said, code = _explain(error)
        _report(said, as_events="--events" in given)
        return code
    return result if isinstance(result, int) else 0


def _usage_error(error: Any) -> int:
    """Show a wrong option or argument as one sentence."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "so8t"
    sys.stderr.write(f"Error: {error.format_message()} See `{path} --help`.\n")
    return int(error.exit_code)
