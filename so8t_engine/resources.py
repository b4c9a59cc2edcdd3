"""Where the files live that ship with the program: icons, style, starter personas (torch-free)."""

from __future__ import annotations

import importlib.resources
from functools import cache
from pathlib import Path

from so8t_engine.errors import So8tError


@cache
def resource_root() -> Path:
    """Return the folder of shipped files: ``resources/`` of a checkout, else ``so8t_resources``.

    Raises:
        So8tError: if neither exists, which means that the installation is incomplete.
    """
    checkout = Path(__file__).resolve().parent.parent / "resources"
    if (checkout / "personas").is_dir():
        return checkout
    try:
        installed = Path(str(importlib.resources.files("so8t_resources")))
    except ModuleNotFoundError:
        installed = Path()
    if (installed / "personas").is_dir():
        return installed
    raise So8tError(
        "The files that ship with SO8T Studio are missing.",
        next_step="Install the package again.",
    )
