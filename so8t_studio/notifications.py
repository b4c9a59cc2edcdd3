"""Tells the user that a job ended while they looked elsewhere: notification, sound, task bar."""

from __future__ import annotations

import logging
import shutil
import sys

from PySide6.QtCore import QObject, QProcess, Signal, Slot
from PySide6.QtWidgets import QApplication, QSystemTrayIcon, QWidget

from so8t_studio.context import AppContext
from so8t_studio.jobs.handle import JobHandle
from so8t_studio.jobs.state import Phase

log = logging.getLogger(__name__)
SHOWN_MS = 10_000
QUIET_KINDS = ("chat", "monitor", "figure")
# Programs that play a sound of the desktop's theme, with their arguments for good and bad news.
PLAYERS: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("canberra-gtk-play", ("-i", "complete"), ("-i", "dialog-error")),
    (
        "pw-play",
        ("/usr/share/sounds/freedesktop/stereo/complete.oga",),
        ("/usr/share/sounds/freedesktop/stereo/dialog-error.oga",),
    ),
    (
        "paplay",
        ("/usr/share/sounds/freedesktop/stereo/complete.oga",),
        ("/usr/share/sounds/freedesktop/stereo/dialog-error.oga",),
    ),
)


def play(*, good: bool) -> None:
    """Play the system's sound for good or bad news; at least beep."""
    if sys.platform == "win32":
        import winsound

        winsound.MessageBeep(winsound.MB_OK if good else winsound.MB_ICONHAND)
        return
    for program, fine, bad in PLAYERS:
        found = shutil.which(program)
        if found is not None and QProcess.startDetached(found, list(fine if good else bad)):
            return
    QApplication.beep()


class Notifier(QObject):
    """Listens to every job of the window, whichever page is shown.

    ``notified(title, sentence, good)`` is emitted with what the user is told.
    """

    notified = Signal(str, str, bool)

    def __init__(self, context: AppContext, window: QWidget) -> None:
        super().__init__(window)
        self._context = context
        self._window = window
        self._tray: QSystemTrayIcon | None = None
        context.jobs.job_ended.connect(self._on_job_ended)

    def words(self, handle: JobHandle) -> tuple[str, str, bool]:
        """Return title, sentence, and whether it is good news."""
        state = handle.state
        good = state.phase in (Phase.DONE, Phase.CANCELLED)
        outcome = {
            Phase.DONE: self.tr("finished"),
            Phase.CANCELLED: self.tr("stopped"),
            Phase.FAILED: self.tr("failed"),
            Phase.CRASHED: self.tr("crashed"),
        }.get(state.phase, state.phase.value)
        title = f"{handle.request.title or handle.request.kind}: {outcome}"
        return title, " ".join(filter(None, (state.sentence, state.next_step))), good

    @Slot(object)
    def _on_job_ended(self, handle: JobHandle) -> None:
        if handle.request.kind in QUIET_KINDS or handle.state.phase is Phase.DETACHED:
            return
        if not handle.started_mono:
            return  # it was taken out of the queue; the user just did that
        title, sentence, good = self.words(handle)
        values = self._context.settings.values
        if values.sound:
            play(good=good)
        if values.notify and not self._window.isActiveWindow():
            self._show(title, sentence, good=good)
        self.notified.emit(title, sentence, good)

    def _show(self, title: str, sentence: str, *, good: bool) -> None:
        QApplication.alert(self._window)
        if not QSystemTrayIcon.isSystemTrayAvailable():
            return
        if self._tray is None:
            self._tray = QSystemTrayIcon(self._window.windowIcon(), self)
            self._tray.setToolTip("SO8T Studio")
            self._tray.activated.connect(self._on_tray_used)
            self._tray.messageClicked.connect(self._on_tray_used)
        self._tray.show()
        icons = QSystemTrayIcon.MessageIcon
        icon = icons.Information if good else icons.Critical
        self._tray.showMessage(title, sentence, icon, SHOWN_MS)

    @Slot()
    def _on_tray_used(self) -> None:
        self._window.showNormal() if self._window.isMinimized() else self._window.show()
        self._window.raise_()
        self._window.activateWindow()
        if self._tray is not None:
            self._tray.hide()
