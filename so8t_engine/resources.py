"""Where the files live that ship with the program: icons, style, starter personas (torch-free)."""

from __future__ import annotations

import importlib.util
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
    # A folder of data without __init__.py: a namespace package, whose place the spec knows.
    spec = importlib.util.find_spec("so8t_resources")
    for place in spec.submodule_search_locations or () if spec is not None else ():
        if (Path(place) / "personas").is_dir():
            return Path(place)
    raise So8tError(
        "The files that ship with SO8T Studio are missing.",
        next_step="Install the package again.",
    )
