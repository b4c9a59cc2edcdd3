"""A child process in a group of its own, and the certain end of its whole tree (no Qt)."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import psutil

NICE = 5
ROOT = Path(__file__).resolve().parents[2]


def child_environment() -> dict[str, str]:
    """Return the environment of jobs: UTF-8, unbuffered, able to import this checkout."""
    env = dict(os.environ)
    env["PYTHONUTF8"] = "1"
    env["PYTHONUNBUFFERED"] = "1"
    paths = [str(ROOT), *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    env["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    return env


def spawn(line: Sequence[str], stderr: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start ``line`` with pipes for stdin and stdout, in a group that can be ended as one.

    Raises:
        OSError: if the program cannot be started.
    """
    options: dict[str, Any] = {}
    if sys.platform == "win32":
        options["creationflags"] = subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW
    else:
        options["start_new_session"] = True
    child = subprocess.Popen(
        list(line),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        bufsize=0,
        env=child_environment(),
        **options,
    )
    _be_polite(child.pid)
    return child


def _be_polite(pid: int) -> None:
    """Let the window go first where a job saturates every core; alone it loses nothing."""
    with contextlib.suppress(psutil.Error, OSError):
        polite = psutil.BELOW_NORMAL_PRIORITY_CLASS if sys.platform == "win32" else NICE
        psutil.Process(pid).nice(polite)


def tree(pid: int) -> list[psutil.Process]:
    """Return the process and all its living descendants, and what shares its session."""
    found: dict[int, psutil.Process] = {}
    with contextlib.suppress(psutil.Error):
        root = psutil.Process(pid)
        found[pid] = root
        for child in root.children(recursive=True):
            found[child.pid] = child
    if sys.platform != "win32":
        # A grandchild whose parent is gone belongs to init, but still to the session.
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.pid not in found and os.getsid(process.pid) == pid:
                    found[process.pid] = process
    return list(found.values())


def terminate_tree(pid: int) -> None:
    """Ask every process of the tree to end."""
    for process in tree(pid):
        with contextlib.suppress(psutil.Error):
            process.terminate()


def kill_tree(pid: int, timeout: float = 5.0) -> tuple[int, ...]:
    """Kill the tree and return the ids that are still alive after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        members = [process for process in tree(pid) if _alive(process)]
        if not members or time.monotonic() > deadline:
            return tuple(process.pid for process in members)
        for process in members:
            with contextlib.suppress(psutil.Error):
                process.kill()
        if sys.platform != "win32":
            with contextlib.suppress(OSError):
                os.killpg(pid, signal.SIGKILL)
        psutil.wait_procs(members, timeout=0.2)


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
