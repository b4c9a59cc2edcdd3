"""The trash of a workspace: a folder, so that a deletion can be taken back (torch-free)."""

from __future__ import annotations

import datetime as dt
import shutil
from pathlib import Path

from so8t_engine.errors import WorkspaceError

TRASH_NAME = "trash"


def move_to_trash(workspace_root: Path, victim: Path, *, now: dt.datetime | None = None) -> Path:
    """Move a persona's or run's folder to ``trash/<name>-<YYYYMMDD_HHMMSS>`` and return that.

    Raises:
        WorkspaceError: if ``victim`` lies outside of the workspace or cannot be moved.
    """
    inside = victim.resolve()
    if not inside.is_relative_to(workspace_root.resolve()) or inside == workspace_root.resolve():
        raise WorkspaceError(f"{victim} is not a part of the workspace {workspace_root}.")
    trash = workspace_root / TRASH_NAME
    trash.mkdir(exist_ok=True)
    stamp = (now or dt.datetime.now()).strftime("%Y%m%d_%H%M%S")
    target = free_path(trash / f"{victim.name}-{stamp}")
    try:
        victim.replace(target)
    except OSError as error:
        raise WorkspaceError(
            f"{victim.name} cannot be moved to the trash: {error.strerror}.",
            next_step="Close programs that use its files, then try again.",
        ) from error
    return target


def restore(trashed: Path, target: Path) -> Path:
    """Move a trashed folder back to ``target`` (or the next free name beside it)."""
    target.parent.mkdir(parents=True, exist_ok=True)
    free = free_path(target)
    trashed.replace(free)
    return free


def trashed(workspace_root: Path) -> list[Path]:
    """Return what lies in the trash, newest first."""
    trash = workspace_root / TRASH_NAME
    if not trash.is_dir():
        return []
    return sorted(trash.iterdir(), key=lambda path: path.name[-15:], reverse=True)


def empty_trash(workspace_root: Path) -> None:
    """Delete everything in the trash for good; links inside are removed, never followed."""
    for path in trashed(workspace_root):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def free_path(path: Path) -> Path:
    """Return ``path``, or ``path-2``, ``path-3`` … if that exists in any casing."""
    parent = path.parent
    taken = {other.name.casefold() for other in parent.iterdir()} if parent.is_dir() else set()
    candidate, number = path, 2
    while candidate.name.casefold() in taken:
        candidate = path.with_name(f"{path.name}-{number}")
        number += 1
    return candidate
