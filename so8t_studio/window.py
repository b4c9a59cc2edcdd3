"""The main window: rail of pages, persona switcher, status bar, menus."""

from __future__ import annotations

import base64
import binascii
import logging

from PySide6.QtCore import QByteArray, QSize, Qt, QUrl, Slot
from PySide6.QtGui import QAction, QActionGroup, QCloseEvent, QDesktopServices, QKeySequence
from PySide6.QtWidgets import (
    QHBoxLayout,
    QMainWindow,
    QMenu,
    QMessageBox,
    QProgressDialog,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from so8t_engine.errors import So8tError
from so8t_studio.context import AppContext, Navigation
from so8t_studio.crash import CrashHooks
from so8t_studio.jobs.reattach import Reattacher
from so8t_studio.notifications import Notifier
from so8t_studio.pages.base import Page
from so8t_studio.pages.placeholder import PlaceholderPage
from so8t_studio.pages.registry import PAGES, PageEntry
from so8t_studio.rail import Rail
from so8t_studio.status import StatusBar
from so8t_studio.translation import available
from so8t_studio.widgets.banner import Banner
from so8t_studio.widgets.banner_stack import BannerStack

log = logging.getLogger(__name__)
MINIMUM = QSize(960, 600)
USUAL = QSize(1280, 800)
STOP, LEAVE = "stop", "leave"


class MainWindow(QMainWindow):
    """Shows one page at a time; pages are made when first shown."""

    def __init__(
        self,
        context: AppContext,
        entries: tuple[PageEntry, ...] = PAGES,
        crash: CrashHooks | None = None,
    ) -> None:
        super().__init__()
        self.context = context
        self._entries = entries
        self._pages: dict[str, Page] = {}
        self._current: str = ""
        self._closing = False
        self._unattended = False
        self._stopping: QProgressDialog | None = None
        self.setObjectName("mainWindow")
        self.setWindowTitle("SO8T Studio")
        self.setWindowIcon(context.theme.icon("app"))
        self.setMinimumSize(MINIMUM)
        self._build()
        self._build_menus()
        self.resize(self._fitting(USUAL))
        self._restore_geometry()
        context.navigation_requested.connect(self._on_navigation_requested)
        context.message_posted.connect(self._on_message_posted)
        context.persona_changed.connect(self._on_persona_changed)
        context.persona_edited.connect(self._on_persona_changed)
        context.theme.changed.connect(self._on_theme_changed)
        self.notifier = Notifier(context, self)
        self.reattacher = Reattacher(context, self)
        if crash is not None:
            crash.reported.connect(self._on_crash_reported)
        if context.workspace.read_only:
            self.workspace_banner.show_message(
                "warning",
                self.tr(
                    "Another SO8T Studio has this workspace open. You can look at everything, but "
                    "changes and new runs are only possible in the other window."
                ),
            )

    # -- construction ---------------------------------------------------------------------------
    def _build(self) -> None:
        central = QWidget()
        row = QHBoxLayout(central)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(0)
        self.rail = Rail(self.context, self._entries)
        self.rail.page_selected.connect(self.show_page)
        row.addWidget(self.rail)
        column = QVBoxLayout()
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(0)
        self.workspace_banner = Banner()
        self.message_banner = Banner(dismissible=True)
        self.message_banner.setObjectName("messageBanner")
        column.addWidget(
            BannerStack([self.workspace_banner, self.message_banner], margin=24, gap=12)
        )
        self.stack = QStackedWidget()
        self.stack.setObjectName("pages")
        column.addWidget(self.stack, 1)
        row.addLayout(column, 1)
        self.setCentralWidget(central)
        self.status = StatusBar(self.context)
        self.setStatusBar(self.status)
        self.status.job_clicked.connect(self._on_status_job_clicked)

    def _build_menus(self) -> None:
        bar = self.menuBar()
        bar.setAccessibleName(self.tr("Menus"))
        file_menu = bar.addMenu(self.tr("&File"))
        self.open_folder_action = self._action(
            self.tr("Open workspace folder"), self._on_open_folder_triggered
        )
        file_menu.addAction(self.open_folder_action)
        file_menu.addSeparator()
        values = self.context.settings.values
        for name, text, on in (
            ("notify", self.tr("Notify when a job ends"), values.notify),
            ("sound", self.tr("Sound when a job ends"), values.sound),
            (
                "keep_running",
                self.tr("Training goes on if the window is gone"),
                values.keep_running,
            ),
        ):
            action = self._action(text, None)
            action.setCheckable(True)
            action.setChecked(on)
            action.setData(name)
            action.setObjectName(f"action_{name}")
            action.toggled.connect(self._on_preference_toggled)
            file_menu.addAction(action)
        file_menu.addSeparator()
        self.quit_action = self._action(
            self.tr("&Quit"), self.close, QKeySequence(QKeySequence.StandardKey.Quit)
        )
        if self.quit_action.shortcut().isEmpty():
            self.quit_action.setShortcut(QKeySequence("Ctrl+Q"))
        file_menu.addAction(self.quit_action)
        # Undo and redo belong to the dataset, whichever page is shown.
        edit_menu = bar.addMenu(self.tr("&Edit"))
        stack = getattr(self.context.dataset, "undo_stack", None)
        if stack is not None:
            undo = stack.createUndoAction(self, self.tr("Undo"))
            undo.setShortcut(QKeySequence(QKeySequence.StandardKey.Undo))
            undo.setObjectName("actionUndo")
            redo = stack.createRedoAction(self, self.tr("Redo"))
            redo.setShortcut(QKeySequence(QKeySequence.StandardKey.Redo))
            redo.setObjectName("actionRedo")
            edit_menu.addActions([undo, redo])
        view_menu = bar.addMenu(self.tr("&View"))
        for number, entry in enumerate(self._entries, start=1):
            action = self._action(entry.text(), None, QKeySequence(f"Ctrl+{number}"))
            action.setData(entry.key)
            action.setObjectName(f"actionPage_{entry.key}")
            action.triggered.connect(self._on_page_action_triggered)
            view_menu.addAction(action)
        view_menu.addSeparator()
        theme_menu = view_menu.addMenu(self.tr("Theme"))
        self._theme_actions = QActionGroup(self)
        for mode, text in (
            ("system", self.tr("As the system")),
            ("light", self.tr("Light")),
            ("dark", self.tr("Dark")),
        ):
            action = self._action(text, None)
            action.setCheckable(True)
            action.setChecked(self.context.theme.mode == mode)
            action.setData(mode)
            action.setObjectName(f"actionTheme_{mode}")
            self._theme_actions.addAction(action)
            theme_menu.addAction(action)
        self._theme_actions.triggered.connect(self._on_theme_action_triggered)
        self._build_languages(view_menu)
        help_menu = bar.addMenu(self.tr("&Help"))
        help_menu.addAction(self._action(self.tr("About SO8T Studio"), self._on_about_triggered))

    def _build_languages(self, menu: QMenu) -> None:
        languages = menu.addMenu(self.tr("Language"))
        self._language_actions = QActionGroup(self)
        for code, text in {"system": self.tr("As the system"), **available()}.items():
            action = self._action(text, None)
            action.setCheckable(True)
            action.setChecked(self.context.settings.values.language == code)
            action.setData(code)
            action.setObjectName(f"actionLanguage_{code}")
            self._language_actions.addAction(action)
            languages.addAction(action)
        self._language_actions.triggered.connect(self._on_language_action_triggered)

    def _action(
        self, text: str, slot: object | None, shortcut: QKeySequence | None = None
    ) -> QAction:
        action = QAction(text, self)
        if shortcut is not None:
            action.setShortcut(shortcut)
        if slot is not None:
            action.triggered.connect(slot)
        return action

    def _restore_geometry(self) -> None:
        saved = self.context.settings.values.geometry
        if not saved:
            return
        try:
            self.restoreGeometry(QByteArray(base64.b64decode(saved, validate=True)))
        except binascii.Error:
            log.warning("The saved place of the window cannot be read.")

    def _fitting(self, wanted: QSize) -> QSize:
        """Return ``wanted``, or what of it the screen has room for."""
        return wanted.boundedTo(self.screen().availableGeometry().size()).expandedTo(MINIMUM)

    # -- pages ----------------------------------------------------------------------------------
    def page(self, key: str) -> Page:
        """Return the page ``key``; it is made on first use."""
        if key not in self._pages:
            entry = next(item for item in self._entries if item.key == key)
            self._pages[key] = self._make_page(entry)
            self.stack.addWidget(self._pages[key])
        return self._pages[key]

    def _make_page(self, entry: PageEntry) -> Page:
        if not entry.exists():
            return PlaceholderPage(self.context, entry)
        try:
            return entry.load()(self.context)
        except Exception as error:  # a broken page must not take the others down
            log.exception("The page %s cannot be opened", entry.key)
            return PlaceholderPage(self.context, entry, error)

    @Slot(str)
    def show_page(self, key: str) -> None:
        """Show a page by its key."""
        if key not in {entry.key for entry in self._entries}:
            key = self._entries[0].key
        page = self.page(key)
        if key != self._current:
            if self._current:
                self._pages[self._current].on_hidden()
            self._current = key
            self.stack.setCurrentWidget(page)
            self.rail.select(key)
            page.on_shown()
            self.context.settings.update(page=key)

    @property
    def current_page(self) -> str:
        """Key of the page that is shown."""
        return self._current

    # -- slots ----------------------------------------------------------------------------------
    @Slot(object)
    def _on_navigation_requested(self, navigation: Navigation) -> None:
        self.show_page(navigation.page)
        if navigation.payload is not None:
            self.page(navigation.page).open_payload(navigation.payload)

    @Slot(str, str)
    def _on_message_posted(self, kind: str, sentence: str) -> None:
        self.message_banner.show_message(kind, sentence)

    @Slot(object, str)
    def _on_crash_reported(self, _path: object, text: str) -> None:
        self.message_banner.show_message(
            "error",
            self.tr(
                "Something unexpected went wrong, and it was written down. Your data is safe; if "
                "it happens again, copy the details into a bug report."
            ),
            details=text,
        )

    @Slot(object)
    def _on_persona_changed(self, persona: object) -> None:
        name = getattr(getattr(persona, "info", None), "name", "")
        self.setWindowTitle(f"{name} – SO8T Studio" if name else "SO8T Studio")

    @Slot()
    def _on_theme_changed(self) -> None:
        self.rail.restyle()

    @Slot()
    def _on_page_action_triggered(self) -> None:
        action = self.sender()
        if isinstance(action, QAction):
            self.show_page(str(action.data()))

    @Slot(QAction)
    def _on_theme_action_triggered(self, action: QAction) -> None:
        self.context.theme.set_mode(action.data())
        self.context.settings.update(theme=action.data())

    @Slot(QAction)
    def _on_language_action_triggered(self, action: QAction) -> None:
        self.context.settings.update(language=action.data())
        self.context.post(
            "info", self.tr("The window speaks the other language from the next start on.")
        )

    @Slot(bool)
    def _on_preference_toggled(self, on: bool) -> None:
        action = self.sender()
        if isinstance(action, QAction):
            self.context.settings.update(**{str(action.data()): on})
            self.context.jobs.set_keep_running(self.context.settings.values.keep_running)

    @Slot()
    def _on_open_folder_triggered(self) -> None:
        QDesktopServices.openUrl(QUrl.fromLocalFile(str(self.context.workspace.root)))

    @Slot()
    def _on_status_job_clicked(self) -> None:
        self.show_page("train")

    @Slot()
    def _on_about_triggered(self) -> None:
        QMessageBox.about(
            self,
            self.tr("About SO8T Studio"),
            self.tr(
                "SO8T Studio raises, inspects and proves a local safety persona: ALLOW, ESCALATE "
                "or REFUSE. Nothing leaves this machine."
            ),
        )

    # -- end ------------------------------------------------------------------------------------
    def closeEvent(self, event: QCloseEvent) -> None:
        """Ask while jobs run or something is unsaved; then end every job and save the place."""
        if self._unattended:
            self.context.dataset.flush_journal()
        elif not all(page.can_close() for page in self._pages.values()):
            event.ignore()
            return
        running = self.context.jobs.running_titles()
        if running:
            event.ignore()
            if not self._closing:
                unasked = LEAVE if self.context.settings.values.keep_running else STOP
                choice = unasked if self._unattended else self._confirm_close(running)
                if choice:
                    self._wait_for_jobs(leave=choice == LEAVE)
            return
        geometry = base64.b64encode(self.saveGeometry().data()).decode()
        self.context.settings.update(geometry=geometry)
        self._closing = True
        if self._current:
            self._pages[self._current].on_hidden()
            self._current = ""
        event.accept()

    def close_unattended(self) -> None:
        """Close when nobody can be asked; unsaved edits stay in the journal.

        Jobs save and stop, or train on where the preference says so.
        """
        self._unattended = True
        self.close()

    def _wait_for_jobs(self, *, leave: bool) -> None:
        """Let jobs save and end (or go on alone) while the window stays alive; then close."""
        self._closing = True
        self.context.jobs.became_idle.connect(self._on_jobs_idle)
        if leave and all(handle.can_leave for handle in self.context.jobs.active()):
            self.context.jobs.leave_all()
            return
        dialog = QProgressDialog(
            self.tr("Saving a checkpoint and stopping. This takes one training step."),
            self.tr("End now without saving"),
            0,
            0,
            self,
        )
        dialog.setObjectName("stoppingDialog")
        dialog.setWindowTitle(self.tr("Stopping"))
        dialog.setWindowModality(Qt.WindowModality.WindowModal)
        dialog.setMinimumDuration(0)
        dialog.canceled.connect(self.context.jobs.kill_all)
        self._stopping = dialog
        dialog.show()
        if leave:
            self.context.jobs.leave_all()
        else:
            self.context.jobs.stop_all()

    @Slot()
    def _on_jobs_idle(self) -> None:
        if self._closing and not self.context.jobs.active():
            if self._stopping is not None:
                self._stopping.canceled.disconnect(self.context.jobs.kill_all)
                self._stopping.close()
                self._stopping = None
            self.close()

    def offer_crash_reports(self, crash: CrashHooks) -> None:
        """Tell the user if the studio crashed at its last start."""
        found = crash.left_behind()
        if not found:
            return
        details = found[-1].read_text("utf-8", "replace")
        self.message_banner.show_message(
            "warning",
            self.tr(
                "SO8T Studio ended unexpectedly last time. Saved data and checkpoints are intact."
            ),
            details=details,
        )

    def _confirm_close(self, running: list[str]) -> str:
        """Return ``stop``, ``leave``, or nothing if the window stays."""
        box = QMessageBox(self)
        box.setObjectName("closeQuestion")
        box.setIcon(QMessageBox.Icon.Question)
        box.setWindowTitle(self.tr("A job is running"))
        box.setText(self.tr("“{title}” is still running.").format(title=running[0]))
        box.setInformativeText(
            self.tr(
                "If you close now, it saves a checkpoint and stops; you can resume it at the next "
                "start. A training run can also go on without the window; it is found again at "
                "the next start. Jobs that wait in the queue are not started."
            )
        )
        leave = None
        if any(handle.can_leave for handle in self.context.jobs.active()):
            leave = box.addButton(self.tr("Close and train on"), QMessageBox.ButtonRole.AcceptRole)
        stop = box.addButton(self.tr("Save, stop and close"), QMessageBox.ButtonRole.AcceptRole)
        keep = box.addButton(self.tr("Keep running"), QMessageBox.ButtonRole.RejectRole)
        box.setDefaultButton(keep)
        box.setEscapeButton(keep)
        box.exec()
        clicked = box.clickedButton()
        if clicked is stop:
            return STOP
        return LEAVE if leave is not None and clicked is leave else ""

    def open_startup_persona(self) -> None:
        """Open the persona of last time, else the first one; say so if neither can be opened."""
        wanted = self.context.settings.values.persona
        try:
            slugs = [persona.slug for persona in self.context.workspace.personas()]
            slug = wanted if wanted in slugs else (slugs[0] if slugs else "")
            if slug:
                self.context.open_persona(slug)
            else:
                self.reattacher.look()
        except So8tError as error:
            self.message_banner.show_message("error", str(error))
