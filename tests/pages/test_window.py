"""The window itself: rail, keyboard, theme, messages, closing during a run, start-up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from PySide6.QtCore import QCoreApplication, QPoint, QSize, Qt
from PySide6.QtWidgets import QMessageBox, QToolButton

from so8t_engine.labels import Label
from so8t_engine.samples.schema import Sample
from so8t_studio import screen_check
from so8t_studio.app import close_on_signals
from so8t_studio.commands.dataset import add_sample
from so8t_studio.crash import CrashHooks
from so8t_studio.jobs.background import Loader
from so8t_studio.jobs.request import JobRequest
from so8t_studio.jobs.state import Phase
from so8t_studio.pages.placeholder import PlaceholderPage
from so8t_studio.pages.registry import PAGES, PageEntry
from so8t_studio.settings import Preferences, Settings
from so8t_studio.theme import DARK, LIGHT, contrast
from so8t_studio.window import MINIMUM, MainWindow
from tests.helpers.apps import closing_context, fake_command

pytestmark = pytest.mark.usefixtures("no_leaks")
LEFT = Qt.MouseButton.LeftButton


@pytest.fixture
def window(qtbot, app_context):
    made = MainWindow(app_context)
    qtbot.addWidget(made)
    made.show()
    made.show_page("train")
    return made


def test_rail_and_shortcuts_show_pages(qtbot, window):
    qtbot.mouseClick(window.findChild(QToolButton, "rail_dataset"), LEFT)
    assert window.current_page == "dataset"
    window.activateWindow()
    qtbot.waitUntil(window.isActiveWindow, timeout=5000)
    for number, entry in enumerate(PAGES, start=1):
        qtbot.keyClick(
            window, getattr(Qt.Key, f"Key_{number}"), Qt.KeyboardModifier.ControlModifier
        )
        assert window.current_page == entry.key
        assert window.findChild(QToolButton, f"rail_{entry.key}").isChecked()
    assert window.context.settings.values.page == PAGES[-1].key


def test_pages_are_made_when_first_shown(window):
    assert list(window._pages) == ["train"]


def test_a_page_that_fails_to_load_does_not_take_the_window_down(qtbot, app_context, caplog):
    entries = (
        PageEntry("gone", "Gone", "chat", "so8t_studio.pages.nowhere.page:Nothing"),
        PageEntry("broken", "Broken", "chat", "so8t_studio.pages.base:NoSuchClass"),
    )
    window = MainWindow(app_context, entries)
    qtbot.addWidget(window)
    window.show()
    for key in ("gone", "broken"):
        window.show_page(key)
        assert isinstance(window.page(key), PlaceholderPage)
    assert "cannot be opened" in caplog.text


def test_switching_the_theme_repaints_and_is_remembered(qtbot, window):
    before = window.grab().toImage().pixelColor(600, 5)
    action = next(a for a in window._theme_actions.actions() if a.data() == "dark")
    action.trigger()
    assert window.context.theme.tokens is DARK
    assert window.grab().toImage().pixelColor(600, 5).lightness() < before.lightness()
    assert Settings(window.context.settings.path).values.theme == "dark"


@pytest.mark.parametrize("tokens", [LIGHT, DARK], ids=["light", "dark"])
def test_every_text_colour_is_readable(tokens):
    grounds = ("background", "surface", "surface_raised", "sunken")
    words = ("text", "text_muted", "accent", "allow", "escalate", "refuse", "info", "success",
             "warning", "error")  # fmt: skip
    for ground in grounds:
        for word in words:
            found = contrast(getattr(tokens, word), getattr(tokens, ground))
            assert found >= 4.5, f"{word} on {ground}: {found:.2f}"
    for word in ("allow", "escalate", "refuse", "info", "success", "warning", "error"):
        assert contrast(getattr(tokens, word), getattr(tokens, f"{word}_soft")) >= 4.5, word
    for ground in ("accent_soft", "hover", "info_soft", "success_soft", "warning_soft",
                   "error_soft"):  # fmt: skip
        assert contrast(tokens.text, getattr(tokens, ground)) >= 4.5, ground
    assert contrast(tokens.on_accent, tokens.accent) >= 4.5
    assert contrast(tokens.on_accent, tokens.accent_hover) >= 4.5
    assert contrast(tokens.text_muted, tokens.hover) >= 4.5
    for color in tokens.series:  # lines need 3:1 (WCAG 1.4.11)
        assert contrast(color, tokens.surface) >= 3.0, color


def test_closing_during_a_run_asks_and_saves(qtbot, tmp_path, monkeypatch):
    command = fake_command("train", "--steps", "100000")
    with closing_context(tmp_path / "workspace", command=command) as context:
        window = MainWindow(context)
        qtbot.addWidget(window)
        window.show()
        window.show_page("persona")
        run_dir = tmp_path / "run"
        handle = context.jobs.start(
            JobRequest("train", ["--run-dir", str(run_dir)], title="Train X")
        )
        qtbot.waitUntil(lambda: handle.state.phase is Phase.RUNNING, timeout=10_000)
        asked: list[str] = []

        def answer(words: str):
            def exec_(box: QMessageBox) -> int:
                asked.append(box.text())
                next(item for item in box.buttons() if words in item.text()).click()
                return 0

            return exec_

        monkeypatch.setattr(QMessageBox, "exec", answer("Keep running"))
        assert not window.close()
        assert window.isVisible() and handle.state.phase is Phase.RUNNING
        monkeypatch.setattr(QMessageBox, "exec", answer("Save, stop and close"))
        window.close()
        qtbot.waitUntil(lambda: not window.isVisible(), timeout=10_000)
        assert handle.state.phase is Phase.CANCELLED
        assert list((run_dir / "checkpoints").iterdir())
        assert len(asked) == 2 and "Train X" in asked[0]


def test_a_signal_saves_and_closes_without_questions(qtbot, tmp_path, monkeypatch):
    command = fake_command("train", "--steps", "500", "--pace", "0.02")
    with closing_context(tmp_path / "workspace", command=command) as context:
        window = MainWindow(context)
        qtbot.addWidget(window)
        window.show()
        window.show_page("dataset")
        add_sample(context.dataset, Sample(id="new", request="May I?", label=Label.ALLOW))
        run_dir = tmp_path / "run"
        handle = context.jobs.start(JobRequest("train", ["--run-dir", str(run_dir)]))
        qtbot.waitUntil(lambda: handle.state.phase is Phase.RUNNING, timeout=10_000)
        monkeypatch.setattr(QMessageBox, "exec", lambda _box: pytest.fail("somebody was asked"))
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            close_on_signals(window)
            os.kill(os.getpid(), signal.SIGTERM)
            qtbot.waitUntil(lambda: not window.isVisible(), timeout=10_000)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        assert handle.state.phase is Phase.CANCELLED
        assert list((run_dir / "checkpoints").iterdir())
        persona = context.persona
        assert persona is not None and b"May I?" in persona.journal_path.read_bytes()


def test_notices_take_room_only_while_there_are_some(qtbot, window):
    assert not window.message_banner.isVisible()
    before = window.stack.geometry()
    window.context.post("success", "Done.")
    qtbot.waitUntil(lambda: window.stack.geometry().top() > before.top() + 30)
    banner = window.message_banner
    assert banner.isVisible() and banner.mapTo(window.centralWidget(), QPoint(0, 0)).y() >= 12
    qtbot.mouseClick(banner.findChild(QToolButton, "bannerDismiss"), LEFT)
    qtbot.waitUntil(lambda: window.stack.geometry() == before)


def test_the_window_fits_a_small_screen(window):
    room = window.screen().availableGeometry().size()
    assert window._fitting(room + QSize(300, 300)) == room.expandedTo(MINIMUM)
    assert window._fitting(QSize(100, 100)) == MINIMUM


def test_an_unexpected_error_is_written_down_and_shown(qtbot, app_context, tmp_path, monkeypatch):
    hooks = CrashHooks(tmp_path / "crashes")
    window = MainWindow(app_context, crash=hooks)
    qtbot.addWidget(window)
    window.show()
    window.show_page("train")
    try:
        raise RuntimeError("it broke")
    except RuntimeError as error:
        hooks._on_exception(type(error), error, error.__traceback__)
    qtbot.waitUntil(window.message_banner.isVisible, timeout=5000)
    assert "written down" in window.message_banner.text()
    assert "it broke" in next((tmp_path / "crashes").glob("error-*.txt")).read_text("utf-8")


def test_a_crash_of_the_interpreter_is_offered_once(tmp_path):
    code = (
        "from PySide6.QtCore import QCoreApplication; app = QCoreApplication([]);"
        "from pathlib import Path; import sys, faulthandler;"
        "from so8t_studio.crash import CrashHooks;"
        "CrashHooks(Path(sys.argv[1])).install(); faulthandler._sigsegv()"
    )
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True)
    assert result.returncode != 0
    hooks = CrashHooks(tmp_path)
    found = hooks.left_behind()
    assert len(found) == 1 and "Segmentation fault" in found[0].read_text("utf-8")
    assert hooks.left_behind() == []


def test_settings_survive_damage_and_unknown_keys(tmp_path, caplog):
    path = tmp_path / "settings.json"
    path.write_text('{"theme": "dark", "from_the_future": 1}', "utf-8")
    assert Settings(path).values.theme == "dark"
    path.write_text("{broken", "utf-8")
    assert Settings(path).values == Preferences()
    assert "cannot be read" in caplog.text


def run_studio(tmp_path, *options: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "SO8T_SETTINGS": str(tmp_path / "s.json"), "XDG_STATE_HOME": str(tmp_path)}
    return subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "so8t_studio.app", *options],
        capture_output=True, text=True, env=env, timeout=120,
    )  # fmt: skip


def test_smoke_shows_every_page_without_torch_and_ends_cleanly(tmp_path):
    result = run_studio(tmp_path, "--workspace", str(tmp_path / "ws"), "--smoke")
    assert result.returncode == 0, result.stderr[-2000:]
    assert [line.split(":")[0] for line in result.stdout.splitlines()] == [e.key for e in PAGES]
    assert "failed" not in result.stdout
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    for name in ("torch", "transformers", "peft", "matplotlib.pyplot"):
        assert name not in imported


def test_closing_waits_for_what_is_read_in_the_background(qtbot, tmp_path):
    read = []
    loader = Loader()
    with closing_context(tmp_path):
        loader.load("slow", lambda: time.sleep(0.3) or read.append("all"), lambda _value: None)
        assert not read
    assert read == ["all"]


def test_help_needs_no_qt(tmp_path):
    result = run_studio(tmp_path, "--help")
    assert result.returncode == 0 and "--workspace" in result.stdout
    assert "PySide6" not in result.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems have a display")
def test_without_a_display_it_says_so_instead_of_aborting(tmp_path):
    gone = {"DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"}
    environment = {key: value for key, value in os.environ.items() if key not in gone}
    result = subprocess.run(
        [sys.executable, "-m", "so8t_studio.app", "--workspace", str(tmp_path / "ws")],
        capture_output=True, text=True, env=environment, timeout=60,
    )  # fmt: skip
    assert result.returncode == 6
    assert "no display" in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "ws").exists()


def test_missing_system_libraries_are_named_with_their_packages(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(screen_check, "X11_LIBRARIES", {"libno-such.so.9": "libno-such9"})
    monkeypatch.setattr(screen_check, "BASE_LIBRARIES", {})
    said = screen_check.why_no_window({"DISPLAY": ":0"})
    assert "apt-get install -y libno-such9." in said
    assert screen_check.why_no_window({"WAYLAND_DISPLAY": "wayland-0"}) == ""
    assert screen_check.why_no_window({"QT_QPA_PLATFORM": "offscreen"}) == ""


def test_a_workspace_that_cannot_be_opened_is_one_sentence(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("", "utf-8")
    result = run_studio(tmp_path, "--workspace", str(blocked / "ws"), "--smoke")
    assert result.returncode == 5
    assert "cannot be created" in result.stderr.splitlines()[-1]


def test_a_second_window_is_read_only_and_says_so(qtbot, app_context, tmp_path):
    with closing_context(tmp_path / "workspace") as second:
        assert second.workspace.read_only
        window = MainWindow(second)
        qtbot.addWidget(window)
        window.show()
        window.show_page("train")
        QCoreApplication.processEvents()
        assert "Another SO8T Studio" in window.workspace_banner.text()
        page = window.page("train")
        qtbot.waitUntil(lambda: bool(page.setup.checks()), timeout=10_000)
        assert not page.card.start.isEnabled()
