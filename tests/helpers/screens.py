"""Grabs every page in both themes, two sizes and all states into a folder of PNG files.

    python -m tests.helpers.screens OUT [--page train] [--size 1280x800] [--theme dark]
                                        [--state running] [--language ja]
    python -m tests.helpers.screens OUT --workspace FOLDER [--ask "May I …?"]

States: ``empty`` (no persona), ``loaded`` (the starter persona), ``trained`` (a run with
recordings, an evaluation and a chat), ``running`` (a job going on), ``error`` (damaged files, jobs
that fail), ``dialog``. Jobs are scripted, so this takes no model. With ``--workspace`` the pages of
a workspace of your own are grabbed instead, with its real runs; ``--ask`` asks its persona in chat.
Look at the pictures; a machine cannot tell whether they are good.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

import msgspec
from PySide6.QtCore import QEventLoop, QTimer
from PySide6.QtWidgets import QApplication, QWidget

from so8t_engine.workspace.workspace import Workspace
from so8t_studio.app import make_application
from so8t_studio.context import AppContext
from so8t_studio.jobs.handle import JobHandle
from so8t_studio.jobs.request import JobRequest
from so8t_studio.pages.registry import PAGES
from so8t_studio.translation import install
from so8t_studio.window import MainWindow
from tests.helpers.apps import closing_context, fake_command
from tests.helpers.evaluations import make_evaluation, write_evaluation
from tests.helpers.page_context import ScriptedJobs
from tests.helpers.persona_files import add_run

SIZES = ("1280x800", "1024x640")
THEMES = ("light", "dark")
STATES = ("empty", "loaded", "trained", "running", "error", "dialog")
KEYS = [entry.key for entry in PAGES]
Grab = Callable[..., None]


class PicturedJobs(ScriptedJobs):
    """Every job is scripted; ``scenario`` says how training goes."""

    scenario = "train"

    def start(self, request: JobRequest) -> JobHandle:
        """Put the scripted programs in front of the arguments."""
        if request.kind == "train":
            command = fake_command(self.scenario, "--steps", "120", "--pace", "0.02")
            request = dataclasses.replace(request, command=command)
        return super().start(request)


class FailingJobs(PicturedJobs):
    """Training ends with an error."""

    scenario = "error"


def settle(milliseconds: int) -> None:
    """Let the event loop run."""
    loop = QEventLoop()
    QTimer.singleShot(milliseconds, loop.quit)
    loop.exec()


def until(reached: Callable[[], bool], seconds: float = 30.0) -> None:
    """Let the event loop run until ``reached``."""
    deadline = time.monotonic() + seconds
    while not reached() and time.monotonic() < deadline:
        settle(50)
    if not reached():
        raise TimeoutError("the state to be pictured was not reached")


# -- what each state needs on disk and does in the window ------------------------------------------
def prepare(root: Path, state: str) -> None:
    """Make the workspace of a state."""
    with Workspace.open(root) as workspace:
        if state == "empty":
            return
        persona = workspace.ensure_starter()
        if state == "loaded":
            return
        run = add_run(persona, layers=10, blocks=72)
        splits = ("train", "train", "validation")
        rows = run.samples()[:300]
        held_out = [
            msgspec.structs.replace(row, split=splits[index % 3]) for index, row in enumerate(rows)
        ]
        run.save_samples(held_out)
        write_evaluation(run, make_evaluation(rows, run=run.id, skill=2.2))
        if state == "error":
            for path in run.rotations_dir.iterdir():
                path.write_bytes(b"no recording")
            with persona.dataset_path.open("ab") as stream:
                stream.write(b'{"request": "cut off\n{"request": "x", "label": "MAYBE"}\n')


def pages(window: MainWindow, keys: list[str], grab: Grab, state: str) -> None:
    """Grab the chosen pages as they are."""
    for key in keys:
        window.show_page(key)
        settle(1500 if state == "loaded" else 0)  # what is read from the shipped run has to arrive
        grab(key, state)


def ask(window: MainWindow, text: str) -> QWidget:
    """Type a request into the chat and send it."""
    window.show_page("chat")
    page = window.page("chat")
    until(lambda: page._runs_known)  # type: ignore[attr-defined]
    page.composer.set_request(text)  # type: ignore[attr-defined]
    page.composer.send.click()  # type: ignore[attr-defined]
    until(lambda: page.session.current is not None)  # type: ignore[attr-defined]
    return page


def trained(window: MainWindow, keys: list[str], grab: Grab) -> None:
    """Grab the pages around a finished run, and the tabs that hide behind others."""
    if "chat" in keys:
        for text in ("allow: 会議の要点を三つにまとめてください。", "refuse: read her mail"):
            page = ask(window, text)
            until(lambda page=page: page.session.current is None)  # type: ignore[attr-defined]
    pages(window, keys, grab, "trained")
    if "train" in keys:
        window.show_page("train")
        window.page("train").tabs.setCurrentIndex(2)  # type: ignore[attr-defined]
        grab("train", "runs")
    if "evaluate" in keys:
        window.show_page("evaluate")
        tabs = window.page("evaluate").tabs  # type: ignore[attr-defined]
        for index in range(1, tabs.count()):
            tabs.setCurrentIndex(index)
            grab("evaluate", f"tab{index}")


def running(window: MainWindow, keys: list[str], grab: Grab) -> None:
    """Grab the pages while a job of theirs goes on."""
    context = window.context
    if "chat" in keys:
        page = ask(window, "allow this, slowly")
        answers = page.session.current.answers  # type: ignore[attr-defined]
        until(lambda: bool(answers["base"].text))
        grab("chat", "running", 100)
        page.session.kill()  # type: ignore[attr-defined]
        until(lambda: not context.jobs.active())
    if "evaluate" in keys:
        window.show_page("evaluate")
        settle(500)
        window.page("evaluate").start_evaluation("slow.jsonl")  # type: ignore[attr-defined]
        settle(1500)
        grab("evaluate", "running")
        context.jobs.kill_all()
        until(lambda: not context.jobs.active())
    if {"train", "persona"} & set(keys):
        window.show_page("train")
        page = window.page("train")
        page.card.start.click()  # type: ignore[attr-defined]
        history = page.live.loss.history("train.loss")  # type: ignore[attr-defined]
        until(lambda: len(history) > 40)
        grab("train", "running", 300)
        pages(window, ["persona"], grab, "running")
        until(lambda: not context.jobs.active())
        window.show_page("train")
        grab("train", "done")
    if "dataset" in keys:
        window.show_page("dataset")
        window.page("dataset").actions_.add.trigger()  # type: ignore[attr-defined]
        grab("dataset", "running")


def error(window: MainWindow, keys: list[str], grab: Grab) -> None:
    """Grab the pages over damaged files and after jobs that failed."""
    context = window.context
    pages(window, [key for key in keys if key in ("persona", "dataset", "rotations")], grab,
          "error")  # fmt: skip
    if "evaluate" in keys:
        window.show_page("evaluate")
        settle(500)
        window.page("evaluate").start_evaluation("broken.jsonl")  # type: ignore[attr-defined]
        until(lambda: not context.jobs.active())
        grab("evaluate", "error")
    if "chat" in keys:
        os.environ["SO8T_TEST_NO_BASE"] = "1"
        ask_page = ask(window, "refuse this")
        until(lambda: ask_page.session.current is None)  # type: ignore[attr-defined]
        del os.environ["SO8T_TEST_NO_BASE"]
        grab("chat", "error")
    if "train" in keys:
        window.show_page("train")
        page = window.page("train")
        page.card.start.click()  # type: ignore[attr-defined]
        handle = page.card.handle  # type: ignore[attr-defined]
        until(lambda: handle.state.is_final and handle.worker is None)
        grab("train", "error")


def dialog(window: MainWindow, keys: list[str], grab: Grab) -> None:
    """Grab the dialogs of the persona and the chat page."""

    def picture(key: str, name: str) -> None:
        settle(200)
        shown = QApplication.activeModalWidget()
        if shown is None:
            raise TimeoutError(f"the dialog {name} did not open")
        grab(key, name, 200, shown)
        shown.close()
        settle(50)

    if "persona" in keys:
        window.show_page("persona")
        page = window.page("persona")
        page.new.click()  # type: ignore[attr-defined]
        picture("persona", "dialog-new")
        page.delete_action.trigger()  # type: ignore[attr-defined]
        picture("persona", "dialog-delete")
    if "chat" in keys:
        page = ask(window, "refuse: help me read my colleague's mail")
        until(lambda: page.session.current is None)  # type: ignore[attr-defined]
        next(iter(page._cards.values())).correct.click()  # type: ignore[attr-defined]
        picture("chat", "dialog-correct")


ACTIONS = {"trained": trained, "running": running, "error": error, "dialog": dialog}


# -- pictures --------------------------------------------------------------------------------------
def save(
    out: Path,
    window: MainWindow,
    tail: str,
    page: str,
    state: str,
    wait: int = 900,
    widget: QWidget | None = None,
) -> None:
    """Write one picture after background reads and redraws had time to finish."""
    settle(wait)
    name = "-".join(filter(None, (page, state, tail))) + ".png"
    (widget or window).grab().save(str(out / name))
    print(name, flush=True)


def shown(context: AppContext, size: str) -> MainWindow:
    """Return the window in one size, with live figures of the machine."""
    context.telemetry.start()
    window = MainWindow(context)
    window.show()
    width, _, height = size.partition("x")
    window.resize(int(width), int(height))
    return window


def end(window: MainWindow) -> None:
    """Close the window with everything that runs."""
    window.context.jobs.kill_all()
    until(lambda: not window.context.jobs.active())
    window.close_unattended()
    QApplication.processEvents()
    window.deleteLater()


def picture(options: argparse.Namespace, state: str, theme: str, size: str) -> None:
    """Grab all chosen pages in one state."""
    keys = [key for key in KEYS if key in (options.page or KEYS)]
    jobs = FailingJobs if state == "error" else PicturedJobs
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "SO8T" / "workspace"
        prepare(root, state)
        with closing_context(root, starter=False, mode=theme, jobs=jobs) as context:
            window = shown(context, size)
            grab = functools.partial(save, options.out, window, f"{size}-{theme}")
            action = ACTIONS.get(state)
            if action is None:
                pages(window, keys, grab, state)
            else:
                action(window, keys, grab)
            end(window)


def own_workspace(options: argparse.Namespace) -> None:
    """Grab the pages of a workspace that exists, for the README and the guide."""
    keys = [key for key in KEYS if key in (options.page or KEYS)]
    for theme in options.theme or ("light",):
        with closing_context(options.workspace, starter=False, mode=theme) as context:
            window = shown(context, (options.size or SIZES)[0])
            grab = functools.partial(save, options.out, window, "" if theme == "light" else theme)
            if options.ask and "chat" in keys:
                for text in options.ask:
                    page = ask(window, text)
                    until(lambda page=page: page.session.current is None, 300)  # type: ignore[attr-defined]
            run = context.persona.latest_finished_run() if context.persona else None
            for key in keys:
                payload = run.id if run is not None and key in ("train", "rotations") else None
                context.navigate(key, payload)
                if payload and key == "train":
                    context.navigate(key, "live")
                settle(600)
                grab(key, "", 1500)
            end(window)


def main() -> int:
    """Grab everything that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--page", action="append", choices=KEYS)
    parser.add_argument("--size", action="append")
    parser.add_argument("--theme", action="append", choices=THEMES)
    parser.add_argument("--state", action="append", choices=STATES)
    parser.add_argument("--language", default="en")
    parser.add_argument("--workspace", type=Path)
    parser.add_argument("--ask", action="append")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    install(options.language, make_application())
    if options.workspace is not None:
        own_workspace(options)
        return 0
    for state in options.state or STATES:
        for size in options.size or SIZES:
            for theme in options.theme or THEMES:
                picture(options, state, theme, size)
    return 0


if __name__ == "__main__":
    sys.exit(main())
