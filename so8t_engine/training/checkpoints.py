"""Checkpoints that are complete or absent, verified by checksum, and free of pickle.

A checkpoint folder is written under a temporary name, synced, sealed with ``manifest.json``
(SHA-256 of every file) and then renamed. Whatever happens in between leaves the earlier ones
untouched.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import torch
from msgspec import Struct
from safetensors.torch import load_file, save_file

from so8t_engine.errors import WorkspaceError
from so8t_engine.workspace.atomic import fsync_folder, write_bytes, write_text
from so8t_engine.workspace.runs import RunStore

MANIFEST = "manifest.json"
DAMAGED_MANIFEST = "manifest.damaged.json"
BEST = "best.txt"


class Manifest(Struct, frozen=True, kw_only=True):
    """Seal of a checkpoint: its step, why it was written, and the SHA-256 of every file."""

    step: int
    total_steps: int
    reason: str
    created: float
    files: dict[str, str]
    format: int = 1


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def checkpoint_name(step: int) -> str:
    """Return the folder name of the checkpoint at ``step``."""
    return f"step-{step:08d}"


def write_checkpoint(
    run: RunStore, step: int, total_steps: int, reason: str, fill: Callable[[Path], None]
) -> Path:
    """Write a checkpoint; ``fill`` puts the files into the folder it is given.

    Raises:
        OSError: if the disk is full or not writable; earlier checkpoints are untouched.
    """
    target = run.checkpoints_dir / checkpoint_name(step)
    if (target / MANIFEST).is_file():
        return target
    run.checkpoints_dir.mkdir(parents=True, exist_ok=True)
    temporary = run.checkpoints_dir / f".{target.name}.{os.getpid()}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        fill(temporary)
        files = {}
        for path in sorted(temporary.rglob("*")):
            if path.is_file():
                with path.open("rb+") as stream:
                    os.fsync(stream.fileno())
                files[path.relative_to(temporary).as_posix()] = _sha256(path)
        manifest = Manifest(
            step=step, total_steps=total_steps, reason=reason, created=time.time(), files=files
        )
        write_bytes(temporary / MANIFEST, msgspec.json.encode(manifest) + b"\n")
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
        fsync_folder(run.checkpoints_dir)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def read_manifest(folder: Path) -> Manifest:
    """Read the seal of a checkpoint.

    Raises:
        WorkspaceError: if it is missing or damaged.
    """
    try:
        return msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    except (OSError, msgspec.DecodeError) as error:
        raise WorkspaceError(f"The checkpoint {folder.name} has no readable manifest.") from error


def verify(folder: Path) -> str:
    """Return an empty string if the checkpoint is intact, else what is wrong with it."""
    try:
        manifest = read_manifest(folder)
    except WorkspaceError as error:
        return str(error)
    for name, digest in manifest.files.items():
        path = folder / name
        if not path.is_file():
            return f"{folder.name}/{name} is missing."
        if _sha256(path) != digest:
            return f"{folder.name}/{name} is damaged (its checksum differs)."
    return ""


def latest_intact(run: RunStore) -> tuple[Path | None, list[str]]:
    """Return the newest checkpoint whose checksums hold, and what was wrong with newer ones.

    Damaged ones lose their seal (it is renamed), so that nothing takes them for a checkpoint any
    more and the resumed run writes them anew.
    """
    problems: list[str] = []
    for folder in reversed(run.checkpoints()):
        problem = verify(folder)
        if not problem:
            return folder, problems
        problems.append(problem)
        with contextlib.suppress(OSError):
            (folder / MANIFEST).replace(folder / DAMAGED_MANIFEST)
    return None, problems


def set_best(run: RunStore, folder: Path) -> None:
    """Let ``best.txt`` name this checkpoint."""
    write_text(run.checkpoints_dir / BEST, folder.name + "\n")


def prune(run: RunStore, keep: int) -> None:
    """Delete all but the newest ``keep`` checkpoints; the best one always stays."""
    best = run.best_checkpoint() if (run.checkpoints_dir / BEST).is_file() else None
    for folder in run.checkpoints()[:-keep] if keep else []:
        if folder != best:
            # The seal goes first, so that a half-deleted folder is never taken for a checkpoint.
            (folder / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
    for leftover in run.checkpoints_dir.glob(".step-*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)


def save_tree(path: Path, tree: dict[str, Any]) -> None:
    """Write a nested state dict: tensors as safetensors, everything else as JSON beside it."""
    tensors: dict[str, torch.Tensor] = {}

    def strip(value: Any, name: str) -> Any:
        if isinstance(value, torch.Tensor):
            tensors[name] = value.detach().cpu().contiguous().clone()
            return {"__tensor__": name}
        if isinstance(value, dict):
            return {
                "__dict__": [[key, strip(part, f"{name}.{key}")] for key, part in value.items()]
            }
        if isinstance(value, (list, tuple)):
            return [strip(part, f"{name}.{index}") for index, part in enumerate(value)]
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        raise TypeError(f"{name} of type {type(value).__name__} cannot be saved")

    structure = strip(tree, path.name)
    save_file(tensors, path.with_suffix(".safetensors"))
    write_bytes(path.with_suffix(".json"), msgspec.json.encode(structure) + b"\n")


def load_tree(path: Path) -> dict[str, Any]:
    """Read what :func:`save_tree` wrote; tuples come back as lists."""
    tensors = load_file(path.with_suffix(".safetensors"))

    def restore(value: Any) -> Any:
        if isinstance(value, dict) and "__tensor__" in value:
            return tensors[value["__tensor__"]]
        if isinstance(value, dict):
            return {key: restore(part) for key, part in value["__dict__"]}
        if isinstance(value, list):
            return [restore(part) for part in value]
        return value

    loaded: dict[str, Any] = restore(msgspec.json.decode(path.with_suffix(".json").read_bytes()))
    return loaded
