"""Grabs the states of the Train page, driven by the scripted child, into a folder of PNG files.

    python -m tests.helpers.train_screens OUT [--size 1280x800] [--theme dark]

States: ``loaded`` (the starter persona), ``running``, ``paused``, ``done``, the list of runs, their
notes, the settings and ``failed``. Look at the pictures; a machine cannot tell if they are good.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from so8t_engine.workspace.runs import RunNotes
from so8t_studio.app import make_application
from so8t_studio.jobs.state import Phase
from so8t_studio.window import MainWindow
from tests.helpers.apps import closing_context, fake_command
from tests.helpers.screens import SIZES, THEMES, settle, until


def train_states(window: MainWindow, scenario: str) -> Iterator[str]:
    """Drive the Train page and yield the name of each state when it is there."""
    page = window.page("train")
    page.card.start.click()  # type: ignore[attr-defined]
    handle = page.card.handle  # type: ignore[attr-defined]
    if scenario == "out-of-memory":
        until(lambda: handle.state.is_final and handle.worker is None)
        page.failure.toggle.click()  # type: ignore[attr-defined]
        yield "failed"
        return
    history = page.live.loss.history("train.loss")  # type: ignore[attr-defined]
    until(lambda: len(history) > 40)
    yield "running"
    handle.pause()
    until(lambda: handle.state.phase is Phase.PAUSED)
    yield "paused"
    handle.resume()
    until(lambda: handle.state.is_final and handle.worker is None)
    yield "done"
    runs = page.runs  # type: ignore[attr-defined]
    row = runs.model.rows()[0]
    row.store.save_notes(RunNotes(note="Before the audit.", tags=("baseline",), starred=True))
    page.tabs.setCurrentIndex(2)  # type: ignore[attr-defined]
    page._refresh()  # type: ignore[attr-defined]
    yield "runs"
    runs.compare.setCurrentIndex(2)
    yield "notes"
    page.tabs.setCurrentIndex(0)  # type: ignore[attr-defined]
    page.setup.advanced.setChecked(True)  # type: ignore[attr-defined]
    page.setup.verticalScrollBar().setValue(420)  # type: ignore[attr-defined]
    yield "settings"
    page.setup.advanced.setChecked(False)  # type: ignore[attr-defined]
    page.setup.verticalScrollBar().setValue(0)  # type: ignore[attr-defined]


def save(out: Path, window: MainWindow, tail: str, page: str, state: str) -> None:
    """Write one picture after background reads and redraws had time to finish."""
    settle(900)
    name = f"{page}-{state}-{tail}.png"
    window.grab().save(str(out / name))
    print(name)


def picture(out: Path, options: argparse.Namespace, scenario: str) -> None:
    """Grab the states of one scenario of the scripted child."""
    application = make_application()
    command = fake_command(scenario, "--steps", "120", "--pace", "0.02")
    with tempfile.TemporaryDirectory() as folder:
        for theme in options.theme or THEMES:
            root = Path(folder) / theme / "workspace"
            with closing_context(root, mode=theme, command=command) as context:
                context.telemetry.start()
                window = MainWindow(context)
                window.show()
                for size in options.size or SIZES:
                    width, _, height = size.partition("x")
                    window.resize(int(width), int(height))

                    grab = functools.partial(save, out, window, f"{size}-{theme}")
                    window.show_page("train")
                    if scenario == "train":
                        grab("train", "loaded")
                    for state in train_states(window, scenario):
                        grab("train", state)
                window.close()
                application.processEvents()
                window.deleteLater()


def main() -> int:
    """Grab everything that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", action="append")
    parser.add_argument("--theme", action="append", choices=THEMES)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for scenario in ("train", "out-of-memory"):
        picture(options.out, options, scenario)
    return 0


if __name__ == "__main__":
    sys.exit(main())
