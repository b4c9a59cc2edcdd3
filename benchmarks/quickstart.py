"""Times ``so8t quickstart`` from a cold process and measures its peak memory.

    python benchmarks/quickstart.py [--repeat N] [--keep DIR] [--set key=value …]

Each run uses a fresh workspace and the base model that is already in the cache. The peak is the
largest sum of resident memory over the process tree, sampled ten times a second.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
LIMIT_SECONDS = 360.0
LIMIT_BYTES = 4 << 30


def tree_rss(process: psutil.Process) -> int:
    """Return the resident memory of a process and its children, in bytes."""
    total = 0
    try:
        members = [process, *process.children(recursive=True)]
    except psutil.Error:
        return 0
    for member in members:
        try:
            total += member.memory_info().rss
        except psutil.Error:
            continue
    return total


def measure(settings: list[str], keep: Path | None) -> dict[str, Any]:
    """Run the command once in a fresh workspace; return seconds, peak bytes and its report."""
    with contextlib.ExitStack() as stack:
        folder = str(keep) if keep else stack.enter_context(tempfile.TemporaryDirectory())
        command = [sys.executable, "-m", "so8t_engine", "quickstart", "--json", "-w", folder]
        for setting in settings:
            command += ["--set", setting]
        started = time.perf_counter()
        with tempfile.TemporaryFile() as output:
            process = subprocess.Popen(command, cwd=ROOT, stdout=output)
            watched = psutil.Process(process.pid)
            peak = 0
            while process.poll() is None:
                peak = max(peak, tree_rss(watched))
                time.sleep(0.1)
            seconds = time.perf_counter() - started
            output.seek(0)
            text = output.read()
        if process.returncode:
            raise SystemExit(f"quickstart ended with exit code {process.returncode}")
        return {"seconds": seconds, "peak": peak, "report": json.loads(text)}


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="a folder in which the workspace stays")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    options = parser.parse_args()
    found = [measure(options.settings, options.keep) for _ in range(options.repeat)]
    seconds = statistics.median(run["seconds"] for run in found)
    peak = max(run["peak"] for run in found)
    metrics = found[-1]["report"]["metrics"]
    baselines = found[-1]["report"]["baselines"]
    print(f"{'what':<28}{'measured':>12}{'limit':>10}{'ratio':>8}")
    print(f"{'time, median [s]':<28}{seconds:>12.1f}{LIMIT_SECONDS:>10.0f}", end="")
    print(f"{seconds / LIMIT_SECONDS:>8.2f}")
    print(f"{'peak memory [GiB]':<28}{peak / 2**30:>12.2f}{LIMIT_BYTES / 2**30:>10.1f}", end="")
    print(f"{peak / LIMIT_BYTES:>8.2f}")
    for name in ("refuse_recall", "escalate_precision", "allow_precision", "macro_f1"):
        value, other = metrics[name], baselines["tfidf"][name]
        shown = "n/a" if value is None else f"{value:.3f}"
        against = "n/a" if other is None else f"{other:.3f}"
        print(f"{name:<28}{shown:>12}   (TF-IDF baseline {against})")


if __name__ == "__main__":
    main()
