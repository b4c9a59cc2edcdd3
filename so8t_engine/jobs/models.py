"""Which base models are on this machine, and getting the default one."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from so8t_engine.events import Hello, Result
from so8t_engine.jobs.runtime import Job, Sink, run_job
from so8t_engine.model.base_cache import (
    DEFAULT_SOURCE,
    convert_gguf,
    default_folder,
    folder_problem,
    go_offline,
    prepare_default,
)


def default_state(*, deep: bool = False) -> tuple[str, str]:
    """Return ``ready``, ``missing`` or ``damaged`` for the default base model, and why."""
    folder = default_folder()
    if not folder.is_dir():
        return "missing", "not prepared yet"
    problem = folder_problem(folder, deep=deep)
    return ("damaged", problem) if problem else ("ready", "")


def default_model(*, deep: bool = False) -> dict[str, Any]:
    """Return what is known of the default base model, under stable names.

    Args:
        deep: compute its SHA-256 sums again.
    """
    state, reason = default_state(deep=deep)
    return {
        "reference": "default",
        "title": DEFAULT_SOURCE.title,
        "licence": DEFAULT_SOURCE.licence,
        "state": state,
        "reason": reason,
        "path": str(default_folder()),
        "bytes": folder_bytes(default_folder()),
    }


def list_models(*, deep: bool = False) -> list[dict[str, Any]]:
    """Return the default base model and the models in the local hub cache, without a network.

    Args:
        deep: compute the SHA-256 sums of the default base model again.
    """
    return [default_model(deep=deep), *_hub_models()]


def folder_bytes(folder: Path) -> int:
    """Return how much disk space the files of a folder take."""
    if not folder.is_dir():
        return 0
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _hub_models() -> list[dict[str, Any]]:
    go_offline()
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repos = scan_cache_dir().repos
    except CacheNotFound:
        return []
    models = []
    for repo in sorted(repos, key=lambda repo: repo.repo_id):
        if repo.repo_type != "model":
            continue
        newest = max(repo.revisions, key=lambda revision: revision.last_modified, default=None)
        if newest is None or not _is_causal_lm(newest.snapshot_path):
            continue
        models.append(
            {
                "reference": repo.repo_id,
                "title": repo.repo_id,
                "licence": "",
                "state": "ready",
                "reason": "",
                "path": str(newest.snapshot_path),
                "bytes": repo.size_on_disk,
            }
        )
    return models


def _is_causal_lm(folder: Path) -> bool:
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        names = config.get("architectures") or []
    except (OSError, ValueError, AttributeError):
        return False
    return any(str(name).endswith("ForCausalLM") for name in names)


def convert(gguf: Path, folder: Path, *, sinks: Sequence[Sink] = ()) -> int:
    """Convert a GGUF file as this process's job and return the exit code."""

    def body(job: Job) -> str:
        convert_gguf(gguf, folder, job.emitter.emit)
        return f"The base model is ready in {folder}."

    return run_job("models", body, events=False, sinks=list(sinks))


def prepare(*, events: bool, sinks: Sequence[Sink] = ()) -> int:
    """Get the default base model as this process's job and return the exit code."""

    def body(job: Job) -> str:
        job.emitter.emit(Hello(kind="models", pid=os.getpid()))
        folder = prepare_default(job.emitter.emit, cancelled=lambda: job.control.stop_requested)
        data = {"reference": "default", "path": str(folder), "title": DEFAULT_SOURCE.title}
        job.emitter.emit(Result(name="base_model", data=data))
        return f"{DEFAULT_SOURCE.title} is ready in {folder}."

    return run_job("models", body, events=events, sinks=list(sinks))
