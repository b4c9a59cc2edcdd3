"""Measures starts: the window until it is shown, and the command line until its help is out.

    python benchmarks/startup.py [--repeat N]

A child builds the application that ``so8t-studio`` builds (offscreen unless QT_QPA_PLATFORM says
otherwise) and reports when the window is painted and the event loop answers.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIMITS = {"window": 1.0, "so8t --help": 1.0, "bootstrap.py run, second start": 2.0}

_WINDOW = """
import sys, time
from pathlib import Path
from PySide6.QtCore import QTimer
from so8t_studio.app import build_context, close_context, make_application
app = make_application()
context = build_context(Path(sys.argv[1]))
from so8t_studio.window import MainWindow
window = MainWindow(context)
window.open_startup_persona()
window.show_page("persona")
window.show()
context.telemetry.start()
QTimer.singleShot(0, app.quit)
app.exec()
for _ in range(3):
    app.processEvents()
print(time.time(), "torch" in sys.modules, flush=True)
window.close()
close_context(context)
"""


def time_window(workspace: Path) -> float:
    """Return seconds from starting the process to a painted window that answers."""
    started = time.time()
    done = subprocess.run(
        [sys.executable, "-c", _WINDOW, str(workspace)],
        cwd=ROOT,
        env={**os.environ, "QT_QPA_PLATFORM": os.environ.get("QT_QPA_PLATFORM", "offscreen")},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stdout.split()
    if len(lines) < 2:
        raise SystemExit(f"The window did not start:\n{done.stderr}")
    if lines[1] != "False":
        raise SystemExit("The window's process imported torch.")
    return float(lines[0]) - started


def time_help() -> float:
    """Return seconds that ``so8t --help`` takes."""
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "so8t_engine", "--help"], cwd=ROOT, capture_output=True, check=True
    )
    return time.perf_counter() - started


def time_second_start() -> float | None:
    """Return seconds that bootstrap.py takes before it starts the window; None if not set up."""
    sys.path.insert(0, str(ROOT))
    import bootstrap

    setup = bootstrap.Setup(ROOT, ROOT / ".venv")
    if "project" not in setup.done_steps():
        return None
    started = time.perf_counter()
    script = "import bootstrap as b; s = b.Setup(b.ROOT, b.ROOT / '.venv'); "
    script += "s.install(with_tests=False); raise SystemExit(b.prepare_model(s))"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, check=True)
    return time.perf_counter() - started


def main() -> None:
    """Measure and print a table of medians."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--repeat", type=int, default=5)
    repeat = options.parse_args().repeat
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SO8T_SETTINGS"] = str(Path(folder) / "settings.json")
        workspace = Path(folder) / "ws"
        time_window(workspace)  # warms the disk and makes the starter persona
        found = {
            "window": [time_window(workspace) for _ in range(repeat)],
            "so8t --help": [time_help() for _ in range(repeat)],
        }
    second = time_second_start()
    if second is not None:
        found["bootstrap.py run, second start"] = [second]
    print(f"{'what':<34}{'median s':>10}{'best s':>9}{'limit':>8}{'ratio':>8}")
    for name, times in found.items():
        middle, limit = statistics.median(times), LIMITS[name]
        print(f"{name:<34}{middle:>10.2f}{min(times):>9.2f}{limit:>8.1f}{middle / limit:>8.2f}")


if __name__ == "__main__":
    main()
