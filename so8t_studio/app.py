"""The entry point of the window: arguments, application, services, window."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

    from PySide6.QtWidgets import QApplication

    from so8t_studio.context import AppContext
    from so8t_studio.window import MainWindow

log = logging.getLogger(__name__)


def parser() -> argparse.ArgumentParser:
    """Return the command line; it needs neither Qt nor a display."""
    made = argparse.ArgumentParser(
        prog="so8t-studio",
        description="Raise, inspect and trust a local safety persona: ALLOW, ESCALATE or REFUSE.",
    )
    made.add_argument("--workspace", type=Path, help="folder of personas; made if absent")
    made.add_argument("--persona", help="slug of the persona to open")
    made.add_argument("--page", help="page to show first, such as train")
    made.add_argument(
        "--smoke", action="store_true", help="open the window, show every page, close"
    )
    return made


def make_application() -> QApplication:
    """Return the one QApplication with the names that settings and the desktop use."""
    from PySide6.QtCore import QCoreApplication
    from PySide6.QtWidgets import QApplication

    found = QCoreApplication.instance()
    app = found if isinstance(found, QApplication) else QApplication(sys.argv[:1])
    app.setApplicationName("so8t-studio")
    app.setApplicationDisplayName("SO8T Studio")
    app.setDesktopFileName("so8t-studio")
    return app


def build_context(root: Path | None, persona: str | None = None) -> AppContext:
    """Open the workspace and make the services around it.

    Raises:
        So8tError: if the workspace cannot be opened.
    """
    from PySide6.QtCore import QCoreApplication

    from so8t_engine.workspace.workspace import Workspace, default_workspace
    from so8t_studio.context import AppContext
    from so8t_studio.jobs.service import JobService
    from so8t_studio.jobs.telemetry import TelemetryService
    from so8t_studio.jobs.worker import Patience
    from so8t_studio.models.dataset_store import DatasetStore
    from so8t_studio.settings import Settings
    from so8t_studio.theme import Theme
    from so8t_studio.translation import install

    settings = Settings()
    values = settings.values
    application = QCoreApplication.instance()
    if application is not None:
        install(values.language, application)
    if root is None:
        remembered = Path(values.workspace) if values.workspace else None
        root = remembered if remembered and remembered.is_dir() else default_workspace()
    workspace = Workspace.open(root)
    if not workspace.read_only and not workspace.personas():
        workspace.ensure_starter()
    settings.update(workspace=str(workspace.root), persona=persona or values.persona)
    theme = Theme(values.theme)
    theme.apply()
    patience = Patience(grace=values.stop_grace_s, silence=values.silence_s)
    jobs = JobService(patience=patience)
    jobs.set_keep_running(values.keep_running)
    return AppContext(
        workspace=workspace,
        settings=settings,
        theme=theme,
        jobs=jobs,
        telemetry=TelemetryService(),
        dataset=DatasetStore(),
    )


def close_context(context: AppContext) -> None:
    """End every process and thread of the context and free the workspace."""
    from so8t_studio.jobs.background import wait_for_background

    wait_for_background()  # its tasks answer to objects that go away with the application
    context.telemetry.stop()
    context.jobs.shutdown()
    context.dataset.close()
    context.workspace.close()


def _smoke(window: MainWindow, app: QApplication) -> int:
    """Show each page once; a page that cannot be opened is a failure."""
    from so8t_studio.pages.placeholder import PlaceholderPage
    from so8t_studio.pages.registry import PAGES

    failures = 0
    for entry in PAGES:
        window.show_page(entry.key)
        app.processEvents()
        page = window.page(entry.key)
        failed = isinstance(page, PlaceholderPage)
        failures += failed
        state = "failed" if failed else "ok"
        sys.stdout.write(f"{entry.key}: {state}\n")
    window.close()
    app.processEvents()
    return 1 if failures else 0


def close_on_signals(window: MainWindow) -> None:
    """Let Ctrl-C and a polite kill close the window as its owner would, without questions.

    Python runs the handler at the next Python code of the event loop, which the collector's timer
    brings within half a second.
    """

    def close(_number: int, _frame: FrameType | None) -> None:
        window.close_unattended()

    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, close)


def main(arguments: list[str] | None = None) -> int:
    """Start the studio; return the exit code."""
    options = parser().parse_args(arguments)
    logging.basicConfig(level=os.environ.get("SO8T_LOG", "WARNING").upper())
    from so8t_engine.errors import ResourceError, So8tError
    from so8t_studio.screen_check import why_no_window

    reason = why_no_window()
    if reason:
        sys.stderr.write(f"so8t-studio: {reason}\n")
        return ResourceError.exit_code
    from so8t_studio.crash import CrashHooks

    app = make_application()
    try:
        context = build_context(options.workspace, options.persona)
    except So8tError as error:
        return _refuse(str(error), error.exit_code, headless=options.smoke)
    crash = CrashHooks()
    crash.install()
    from so8t_studio.garbage import GuiGarbageCollector
    from so8t_studio.window import MainWindow

    window = MainWindow(context, crash=crash)
    collector = GuiGarbageCollector(window)
    try:
        window.open_startup_persona()
        window.show_page(options.page or context.settings.values.page or "persona")
        window.show()
        context.telemetry.start()
        if options.smoke:
            return _smoke(window, app)
        close_on_signals(window)
        window.offer_crash_reports(crash)
        return int(app.exec())
    finally:
        collector.stop()
        close_context(context)
        crash.remove()


def _refuse(sentence: str, code: int, *, headless: bool) -> int:
    """Say why the studio cannot open, in a dialog and on stderr."""
    from PySide6.QtWidgets import QMessageBox

    sys.stderr.write(f"so8t-studio: {sentence}\n")
    if not headless and os.environ.get("QT_QPA_PLATFORM") != "offscreen":
        QMessageBox.critical(None, "SO8T Studio", sentence)
    return code


if __name__ == "__main__":
    sys.exit(main())
