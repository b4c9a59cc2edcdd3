"""Runs the training job as a process of its own, as the window and accelerate do.

``python -m tests.helpers.child_train PERSONA SPEC [--events] [--no-network] [--resume RUN]``
"""

from __future__ import annotations

import argparse
import socket
import sys
from pathlib import Path
from typing import Any


def _refuse(*_arguments: Any, **_options: Any) -> Any:
    raise OSError("the network is blocked by this test")


def main() -> int:
    """Train and return the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("persona", type=Path)
    parser.add_argument("spec", type=Path)
    parser.add_argument("--events", action="store_true")
    parser.add_argument("--no-network", action="store_true")
    parser.add_argument("--resume", type=Path)
    options = parser.parse_args()
    if options.no_network:
        socket.socket.connect = socket.socket.connect_ex = _refuse  # type: ignore[method-assign]
        socket.getaddrinfo = socket.create_connection = _refuse  # type: ignore[assignment]

    import torch

    from so8t_engine.jobs.train import run
    from so8t_engine.specs import load_spec
    from so8t_engine.workspace.personas import Persona
    from so8t_engine.workspace.runs import RunStore

    torch.set_num_threads(1)
    resume = RunStore(options.resume) if options.resume else None
    code, _ = run(
        load_spec(options.spec), Persona(options.persona), events=options.events, resume=resume
    )
    return code


if __name__ == "__main__":
    sys.exit(main())
