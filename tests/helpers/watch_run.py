"""Watches a whole run on the default base model through the real window, as a person would.

    python -m tests.helpers.watch_run OUT --minutes 30

Start, a stop-and-save in the middle, resume, pause, and the end, with a picture of each. Every two
seconds what the page shows is held against what the process and the run's folder say; every
disagreement that lasts is printed and makes the exit code 1. The window's timer, memory, threads
and file handles are measured all along. ``report.json`` in OUT has the figures.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

import numpy as np
import psutil
from PySide6.QtCore import QTimer
from PySide6.QtWidgets import QLineEdit

from so8t_engine.workspace.runs import RunStore
from so8t_studio.app import build_context, close_context, make_application
from so8t_studio.garbage import GuiGarbageCollector
from so8t_studio.jobs.state import Phase
from so8t_studio.window import MainWindow
from tests.helpers.screens import settle, until

LASTS = 3.0
TICK_MS = 10
EXPECTED = {
    Phase.RUNNING: ("starting", "running"), Phase.PAUSED: ("paused",),
    Phase.STOPPING: ("running", "stopping", "cancelled", "done"), Phase.DONE: ("done",),
    Phase.CANCELLED: ("cancelled",),
}  # fmt: skip


class Watcher:
    """Compares page and process, and takes the window's pulse."""

    def __init__(self, window: MainWindow, out: Path) -> None:
        self.window = window
        self.page: Any = window.page("train")
        self.out = out
        self.began = time.monotonic()
        self.disagreements: list[str] = []
        self.pulse: list[tuple[float, int, int, int]] = []
        self.late: list[float] = []
        self._pending: dict[str, float] = {}
        self._process = psutil.Process()
        self._before = time.perf_counter()
        self._ticker = QTimer()
        self._ticker.setInterval(TICK_MS)
        self._ticker.timeout.connect(self._tick)
        self._ticker.start()
        self._looker = QTimer()
        self._looker.setInterval(2000)
        self._looker.timeout.connect(self.look)
        self._looker.start()

    def _tick(self) -> None:
        now = time.perf_counter()
        self.late.append(max(0.0, 1000 * (now - self._before) - TICK_MS))
        self._before = now

    def look(self) -> None:
        """Hold page and process against each other."""
        minutes = (time.monotonic() - self.began) / 60
        memory = self._process.memory_info().rss
        handles = self._process.num_fds() if hasattr(self._process, "num_fds") else 0
        self.pulse.append((minutes, memory, self._process.num_threads(), handles))
        found = set(self._disagreements())
        now = time.monotonic()
        for sentence in list(self._pending):
            if sentence not in found:
                del self._pending[sentence]
        for sentence in found:
            first = self._pending.setdefault(sentence, now)
            if now - first >= LASTS and sentence not in self.disagreements:
                self.disagreements.append(sentence)
                print(f"{minutes:6.1f} min  DISAGREES: {sentence}", flush=True)

    def _disagreements(self) -> list[str]:
        card = self.page.card
        handle = card.handle
        if handle is None:
            return []
        state, found = handle.state, []
        alive = bool(state.pid) and psutil.pid_exists(state.pid)
        if state.is_final and alive:
            found.append(f"shown as {state.phase.value} while process {state.pid} lives")
        if not state.is_final and state.pid and not alive:
            found.append(f"shown as {state.phase.value} while its process is gone")
        if card.start.isVisibleTo(card) != state.is_final:
            found.append(f"Start does not fit {state.phase.value}")
        if state.run_dir is not None:
            written = RunStore(state.run_dir).state()
            wanted = EXPECTED.get(state.phase)
            if wanted is not None and written.state not in wanted:
                found.append(f"shown as {state.phase.value}, written as {written.state}")
            shown = self.page.live.loss.history("train.loss")
            if len(shown) and abs(shown.x[-1] - written.step) > 40:
                found.append(f"chart at step {shown.x[-1]:g}, run at step {written.step}")
        return found

    def picture(self, name: str, *, tab: int = 1, scroll: int = 0) -> None:
        """Grab the window after its redraws."""
        self.page.tabs.setCurrentIndex(tab)
        self.page.live._scroll.verticalScrollBar().setValue(scroll)
        settle(1500)
        path = self.out / f"watched-{name}.png"
        self.window.grab().save(str(path))
        minutes = (time.monotonic() - self.began) / 60
        print(f"{minutes:6.1f} min  {name}: {self.page.card.sentence.text()} "
              f"{self.page.card.detail.text()}", flush=True)  # fmt: skip

    def report(self) -> dict[str, Any]:
        """Return the figures."""
        late = np.percentile(self.late[200:], [50, 99, 100])
        settled = self.pulse[len(self.pulse) // 5 :]
        return {
            "minutes": round((time.monotonic() - self.began) / 60, 1),
            "disagreements": self.disagreements,
            "looks": len(self.pulse),
            "timer_late_ms": {"p50": late[0], "p99": late[1], "worst": late[2]},
            "window_mib": {"first": settled[0][1] >> 20, "last": settled[-1][1] >> 20,
                           "most": max(row[1] for row in self.pulse) >> 20},
            "threads": {"first": settled[0][2], "last": settled[-1][2]},
            "file_handles": {"first": settled[0][3], "last": settled[-1][3]},
        }  # fmt: skip


def wait(page: Any, phases: set[Phase], seconds: float) -> None:
    """Let the window live until the run is in one of ``phases``."""
    until(lambda: page.card.handle is not None and page.card.handle.state.phase in phases, seconds)


def drive(watcher: Watcher, minutes: float, steps: int) -> None:
    """Start, watch, pause, stop, resume, watch to the end."""
    page = watcher.page
    watcher.picture("00-setup", tab=0)
    page.setup.advanced.click()
    page.findChild(QLineEdit, "field_optim.max_steps").setText(str(steps))
    page.findChild(QLineEdit, "field_optim.epochs").setText("1000")
    until(page.card.start.isEnabled, 60)
    page.card.start.click()
    wait(page, {Phase.RUNNING}, 120)
    watcher.picture("01-start")
    history = page.live.loss.history("train.loss")
    until(lambda: len(history) > min(60, steps // 20), 900)
    watcher.picture("02-first-steps")
    settle(int(60_000 * minutes * 0.25))
    watcher.picture("03-quarter")
    watcher.picture("04-quarter-charts", scroll=520)
    page.card.pause.click()
    wait(page, {Phase.PAUSED}, 120)
    watcher.picture("05-paused")
    settle(20_000)
    page.card.pause.click()
    wait(page, {Phase.RUNNING}, 120)
    settle(int(60_000 * minutes * 0.15))
    page.card.stop.click()
    wait(page, {Phase.STOPPING, Phase.CANCELLED}, 10)
    watcher.picture("06-stopping")
    wait(page, {Phase.CANCELLED}, 300)
    until(lambda: page.card.handle.worker is None, 60)
    watcher.picture("07-stopped")
    watcher.picture("08-stopped-runs", tab=2)
    until(lambda: bool(page.runs.model.rows()) and page.runs.model.rows()[0].resumable, 60)
    page.runs.select(page.runs.model.rows()[0].store.id)
    page.runs.resume_button.click()
    wait(page, {Phase.RUNNING}, 120)
    until(lambda: page.card.handle.progress is not None
          and page.card.handle.progress.phase == "training", 600)  # fmt: skip
    watcher.picture("09-resumed")
    settle(int(60_000 * minutes * 0.25))
    watcher.picture("10-late")
    watcher.picture("11-machine", scroll=100_000)
    deadline = watcher.began + 60 * minutes
    while time.monotonic() < deadline and not page.card.handle.state.is_final:
        settle(2000)
    if not page.card.handle.state.is_final:
        print("the time is over before the steps: stopping", flush=True)
        page.card.stop.click()
    until(lambda: page.card.handle.worker is None, 300)
    watcher.picture("12-end")
    watcher.picture("13-end-runs", tab=2)


def main() -> int:
    """Watch one run; return 1 if page and process ever disagreed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--workspace", type=Path)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    folder = options.workspace or Path(tempfile.mkdtemp(prefix="so8t-watch-"))
    os.environ["SO8T_SETTINGS"] = str(folder / "settings.json")
    make_application()
    context = build_context(folder / "workspace")
    window = MainWindow(context)
    collector = GuiGarbageCollector(window)
    window.open_startup_persona()
    window.resize(1280, 800)
    window.show()
    window.show_page("train")
    context.telemetry.start()
    settle(2500)
    watcher = Watcher(window, options.out)
    try:
        drive(watcher, options.minutes, options.steps)
    finally:
        report = watcher.report()
        (options.out / "report.json").write_text(json.dumps(report, indent=2), encoding="utf-8")
        print(json.dumps(report, indent=2), flush=True)
        collector.stop()
        window.hide()
        close_context(context)
    return 1 if watcher.disagreements else 0


if __name__ == "__main__":
    sys.exit(main())
