"""Notification, sound, and what closing the window does to a run."""

from __future__ import annotations

import subprocess
import sys

import psutil
import pytest
from PySide6.QtWidgets import QApplication, QMessageBox, QSystemTrayIcon

from so8t_engine.workspace.runs import RunStore
from so8t_studio import notifications
from so8t_studio.jobs.request import JobRequest
from so8t_studio.jobs.state import Phase
from so8t_studio.window import MainWindow
from tests.helpers.apps import fake_command

pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.fixture
def window(qtbot, app_context):
    made = MainWindow(app_context)
    qtbot.addWidget(made)
    made.show()
    return made


def run(qtbot, window: MainWindow, scenario: str, kind: str = "train"):
    handle = window.context.jobs.start(
        JobRequest(kind, [], title="Train X", command=fake_command(scenario, "--steps", "2"))
    )
    qtbot.waitUntil(lambda: handle.state.is_final and handle.worker is None, timeout=20_000)
    return handle


@pytest.mark.qt_log_ignore("systemTrayWindowChanged")  # the offscreen platform has no tray
def test_the_end_and_a_failure_are_notified_though_no_train_page_exists(qtbot, window, monkeypatch):
    told, alerts, played = [], [], []
    monkeypatch.setattr(QSystemTrayIcon, "isSystemTrayAvailable", staticmethod(lambda: True))
    monkeypatch.setattr(QSystemTrayIcon, "showMessage", lambda self, *a: told.append(a))
    monkeypatch.setattr(QApplication, "alert", staticmethod(lambda *a: alerts.append(a)))
    monkeypatch.setattr(notifications, "play", lambda *, good: played.append(good))
    monkeypatch.setattr(window, "isActiveWindow", lambda: False)
    window.context.settings.update(sound=True)
    assert "train" not in window._pages
    run(qtbot, window, "train")
    run(qtbot, window, "error")
    run(qtbot, window, "train", kind="chat")
    icons = QSystemTrayIcon.MessageIcon
    assert [(entry[0], entry[2]) for entry in told] == [
        ("Train X: finished", icons.Information), ("Train X: failed", icons.Critical),
    ]  # fmt: skip
    assert told[0][1] == "Trained 2 of 2 steps."
    assert "Add rows labelled REFUSE." in told[1][1], "it says what to do next"
    assert played == [True, False] and len(alerts) == 2
    monkeypatch.setattr(window, "isActiveWindow", lambda: True)
    run(qtbot, window, "train")
    assert len(told) == 2, "who looks at the window needs no notification"
    window.context.settings.update(notify=False, sound=False)
    monkeypatch.setattr(window, "isActiveWindow", lambda: False)
    run(qtbot, window, "train")
    assert len(told) == 2 and played == [True, False, True]


def test_a_desktop_without_a_tray_still_gets_the_task_bar(qtbot, window, monkeypatch):
    alerts = []
    monkeypatch.setattr(QSystemTrayIcon, "isSystemTrayAvailable", staticmethod(lambda: False))
    monkeypatch.setattr(QApplication, "alert", staticmethod(lambda *a: alerts.append(a)))
    monkeypatch.setattr(window, "isActiveWindow", lambda: False)
    run(qtbot, window, "train")
    assert len(alerts) == 1


def test_the_sound_falls_back_to_a_beep(qapp, monkeypatch):
    beeps, started = [], []
    monkeypatch.setattr(QApplication, "beep", staticmethod(lambda: beeps.append(1)))
    monkeypatch.setattr(notifications.sys, "platform", "linux")
    monkeypatch.setattr(notifications.shutil, "which", lambda name: None)
    notifications.play(good=True)
    assert beeps == [1]
    monkeypatch.setattr(notifications.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(notifications.QProcess, "startDetached",
                        staticmethod(lambda *line: bool(started.append(line) or True)))  # fmt: skip
    notifications.play(good=False)
    assert started == [("/usr/bin/canberra-gtk-play", ["-i", "dialog-error"])] and beeps == [1]


def answer(monkeypatch, text: str) -> list[str]:
    asked: list[str] = []

    def exec_(box: QMessageBox) -> int:
        asked.append(box.text())
        next(item for item in box.buttons() if item.text() == text).click()
        return 0

    monkeypatch.setattr(QMessageBox, "exec", exec_)
    return asked


def test_closing_can_leave_a_run_that_the_next_window_finds(qtbot, app_context, monkeypatch):
    context = app_context
    first = MainWindow(context)
    qtbot.addWidget(first)
    first.show()
    store = RunStore(context.persona.runs_dir / "20260101_120000")
    command = [sys.executable, "-m", "tests.helpers.detachable_child", str(store.root), "--events"]
    handle = context.jobs.start(
        JobRequest("train", [], title="Train X", persona=context.persona.slug, command=command)
    )
    qtbot.waitUntil(lambda: handle.state.phase is Phase.RUNNING, timeout=20_000)
    pid = handle.state.pid
    asked = answer(monkeypatch, "Close and train on")
    first.close()
    qtbot.waitUntil(lambda: not first.isVisible(), timeout=10_000)
    assert "Train X" in asked[0] and handle.state.phase is Phase.DETACHED
    assert psutil.pid_exists(pid) and store.state().state == "running"
    context.jobs._accepting = True  # a new window of a new process accepts jobs
    second = MainWindow(context)
    qtbot.addWidget(second)
    second.open_startup_persona()
    second.show()
    qtbot.waitUntil(lambda: context.jobs.find("train") is not None, timeout=10_000)
    again = context.jobs.find("train")
    assert again.state.adopted and again.state.run_dir == store.root
    assert "goes on in the background" in second.message_banner.text()
    page = second.page("train")
    assert page.card.handle is again
    asked = answer(monkeypatch, "Save, stop and close")
    second.close()
    qtbot.waitUntil(lambda: not second.isVisible(), timeout=20_000)
    assert store.state().state == "cancelled" and not context.jobs.active()


def test_the_setting_reaches_the_running_job(qtbot, window):
    context = window.context
    sent = []
    store = RunStore(context.persona.runs_dir / "20260101_120001")
    command = [sys.executable, "-m", "tests.helpers.detachable_child", str(store.root), "--events"]
    handle = context.jobs.start(JobRequest("train", [], title="T", command=command))
    qtbot.waitUntil(lambda: handle.state.phase is Phase.RUNNING, timeout=20_000)
    handle.send = lambda command: sent.append(command["cmd"])
    action = next(item for item in window.findChildren(type(window.quit_action))
                  if item.objectName() == "action_keep_running")  # fmt: skip
    action.trigger()
    assert context.settings.values.keep_running and sent == ["detach"]
    action.trigger()
    assert not context.settings.values.keep_running and sent == ["detach", "attach"]
    del handle.send
    handle.stop()
    qtbot.waitUntil(lambda: handle.worker is None, timeout=10_000)


def test_nothing_is_followed_in_a_window_that_only_reads(qtbot, tmp_path, app_context):
    store = RunStore(app_context.persona.runs_dir / "20260101_120002")
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.helpers.detachable_child", str(store.root)],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        from tests.helpers.apps import closing_context

        qtbot.waitUntil(lambda: store.state().state == "running", timeout=20_000)
        with closing_context(app_context.workspace.root) as reader:
            assert reader.workspace.read_only
            window = MainWindow(reader)
            qtbot.addWidget(window)
            window.open_startup_persona()
            window.reattacher.look()
            qtbot.wait(400)
            assert reader.jobs.active() == []
            window.close()
    finally:
        child.kill()
        child.wait()
