"""What to run."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

ENGINE = [sys.executable, "-m", "so8t_engine"]


@dataclass(frozen=True)
class JobRequest:
    """A job of the engine.

    Attributes:
        kind: ``train``, ``eval``, ``chat``, ``figure`` …; shown and used for icons.
        args: command line after ``python -m so8t_engine``, subcommand first.
        run_dir: folder of the run if it exists already; else the job's ``hello`` names it.
        needs_gpu: holds the machine's one place for heavy jobs while it runs.
        title: what the user calls it, e.g. “Train office-assistant”.
        persona: slug of the persona it works for.
        command: program in front of ``args``; empty means the engine.
    """

    kind: str
    args: list[str]
    run_dir: Path | None = None
    needs_gpu: bool = False
    title: str = ""
    persona: str = ""
    command: list[str] = field(default_factory=list)

    @property
    def line(self) -> list[str]:
        """The whole command line."""
        return [*(self.command or ENGINE), *self.args]
