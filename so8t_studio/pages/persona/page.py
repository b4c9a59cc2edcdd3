"""The persona: what it is to do, how far it has come, and the one step that comes next."""

from __future__ import annotations

import dataclasses
from functools import partial

from PySide6.QtCore import Qt, QTimer, Slot
from PySide6.QtGui import QAction, QKeySequence
from PySide6.QtWidgets import (
    QMenu,
    QMessageBox,
    QPushButton,
    QScrollArea,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from so8t_engine.errors import So8tError
from so8t_engine.workspace.personas import Persona
from so8t_studio.context import AppContext, RunChange
from so8t_studio.jobs.background import Failure, Loader
from so8t_studio.pages.base import Page
from so8t_studio.pages.persona.form import PersonaForm
from so8t_studio.pages.persona.name_dialog import NameDialog
from so8t_studio.pages.persona.progress import Facts, gather, newest_state
from so8t_studio.pages.persona.stepper import Stepper
from so8t_studio.pages.persona.steps import Step, build_steps
from so8t_studio.widgets.banner import Banner
from so8t_studio.widgets.empty_state import EmptyState
from so8t_studio.widgets.side_by_side import SideBySide

REFRESH_MS = 400
WATCH_MS = 2000
FORM_WIDTH = 400


class PersonaPage(Page):
    """Stepper on the left, policy and settings on the right."""

    key = "persona"

    def __init__(self, context: AppContext, parent: QWidget | None = None) -> None:
        super().__init__(context, parent)
        self._loader = Loader(self)
        self._facts: Facts | None = None
        self._stale = True
        self._refresh = QTimer(self)
        self._refresh.setSingleShot(True)
        self._refresh.setInterval(REFRESH_MS)
        self._refresh.timeout.connect(self._reload)
        self._watch = QTimer(self)
        self._watch.setInterval(WATCH_MS)
        self._watch.timeout.connect(self._on_watch_timeout)
        self._build()
        context.persona_changed.connect(self._on_persona_changed)
        context.persona_edited.connect(self._on_persona_edited)
        context.runs_changed.connect(self._on_runs_changed)
        context.dataset.saved.connect(self._on_facts_changed)
        context.dataset.modified_changed.connect(self._on_modified_changed)
        self._show_persona()

    def title(self) -> str:
        """Return the name of the page."""
        return self.tr("Persona")

    # -- construction ---------------------------------------------------------------------------
    def _build(self) -> None:
        self.new = QPushButton(self.tr("New persona…"))
        self.new.setObjectName("newPersona")
        self.new.setAccessibleName(self.tr("Create a persona"))
        self.new.setToolTip(self.tr("Create a persona, empty or with the starter's examples."))
        self.new.clicked.connect(self._on_new_clicked)
        self.header.add_action(self.new)
        self.more = QPushButton(self.tr("More"))
        self.more.setObjectName("morePersona")
        self.more.setAccessibleName(self.tr("More actions on this persona"))
        self.more.setToolTip(self.tr("Rename, duplicate or delete this persona."))
        self.more.setMenu(self._menu())
        self.header.add_action(self.more)
        self.banner = Banner(dismissible=True)
        self.body.addWidget(self.banner)
        self.stack = QStackedWidget()
        self.empty = EmptyState(
            "persona",
            self.tr("No persona is open"),
            self.tr(
                "A persona is a policy with examples, and the local model that learns from them. "
                "The starter persona is trained already and ready to be asked."
            ),
            self.tr("Open the starter persona"),
        )
        self.empty.action_triggered.connect(self._on_starter_requested)
        self.stack.addWidget(self.empty)
        content = QWidget()
        content.setObjectName("scrollBody")
        column = QVBoxLayout(content)
        column.setContentsMargins(0, 0, 4, 0)
        self.stepper = Stepper()
        self.stepper.step_triggered.connect(self._on_step_triggered)
        self.form = PersonaForm()
        self.form.saved.connect(self._on_form_saved)
        self.form.failed.connect(self._on_form_failed)
        column.addWidget(
            SideBySide(self.stepper, self.form, side_width=FORM_WIDTH, stack_below=840), 1
        )
        area = QScrollArea()
        area.setWidgetResizable(True)
        area.setWidget(content)
        area.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.stack.addWidget(area)
        self.body.addWidget(self.stack, 1)

    def _menu(self) -> QMenu:
        menu = QMenu(self)
        menu.setObjectName("personaMenu")
        self.rename_action = QAction(self.tr("Rename…"), self)
        self.rename_action.setShortcut(QKeySequence(Qt.Key.Key_F2))
        self.rename_action.triggered.connect(self._on_rename_triggered)
        self.duplicate_action = QAction(self.tr("Duplicate…"), self)
        self.duplicate_action.triggered.connect(self._on_duplicate_triggered)
        self.delete_action = QAction(self.tr("Delete…"), self)
        self.delete_action.triggered.connect(self._on_delete_triggered)
        for name, action in (
            ("renamePersona", self.rename_action),
            ("duplicatePersona", self.duplicate_action),
            ("deletePersona", self.delete_action),
        ):
            action.setObjectName(name)
            action.setShortcutContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
            menu.addAction(action)
        self.addAction(self.rename_action)
        return menu

    # -- what to show ---------------------------------------------------------------------------
    def on_shown(self) -> None:
        """Read the state of all steps again."""
        self._reload()

    def on_hidden(self) -> None:
        """Write what is typed."""
        self._watch.stop()
        self.form.commit()

    def can_close(self) -> bool:
        """Write what is typed; the page never holds the window open."""
        self.form.commit()
        return True

    @Slot(object)
    def _on_persona_changed(self, _persona: object) -> None:
        self._facts = None
        self.banner.clear()
        self._show_persona()
        self._reload()

    @Slot(object)
    def _on_persona_edited(self, _persona: object) -> None:
        if not self.form.pending:
            self._show_persona()
        self._on_facts_changed()

    @Slot(object)
    def _on_runs_changed(self, _change: RunChange) -> None:
        self._on_facts_changed()

    @Slot(bool)
    def _on_modified_changed(self, _modified: bool) -> None:
        self._show_steps()

    @Slot()
    def _on_facts_changed(self) -> None:
        self._stale = True
        if self.isVisible() and not self._refresh.isActive():
            self._refresh.start()

    def _show_persona(self) -> None:
        persona = self.context.persona
        writable = not self.context.workspace.read_only
        self.new.setEnabled(writable)
        self.empty.button.setEnabled(writable)
        self.more.setVisible(persona is not None)
        for action in (self.rename_action, self.duplicate_action, self.delete_action):
            action.setEnabled(persona is not None and writable)
        self.stack.setCurrentIndex(0 if persona is None else 1)
        try:
            self.form.set_persona(persona)
        except So8tError as error:
            self.banner.show_message("error", str(error))
        name = persona.name if persona is not None else ""
        self.header.title.setText(name or self.title())
        self.header.set_subtitle(self._subtitle(persona))

    def _subtitle(self, persona: Persona | None) -> str:
        if persona is None:
            return ""
        try:
            return persona.info.description
        except So8tError:
            return str(persona.root)

    @Slot()
    def _reload(self) -> None:
        self._stale = False
        persona = self.context.persona
        if persona is not None:
            self._loader.load("facts", partial(gather, persona), self._take_facts)

    def _take_facts(self, value: object) -> None:
        if isinstance(value, Failure):
            self.banner.show_message("error", value.text, details=value.details)
            return
        assert isinstance(value, Facts)
        self._facts = value
        self._show_steps()
        if value.training and self.isVisible():
            self._watch.start()
        else:
            self._watch.stop()

    @Slot()
    def _on_watch_timeout(self) -> None:
        """Follow a run that goes on: its step is on disk, nothing announces it."""
        persona = self.context.persona
        if persona is not None and self._facts is not None:
            self._loader.load("watch", partial(newest_state, persona), self._take_newest)

    def _take_newest(self, value: object) -> None:
        if self._facts is None or isinstance(value, Failure):
            return
        newest, state = value  # type: ignore[misc]
        before = self._facts
        self._facts = dataclasses.replace(before, newest=newest, newest_state=state)
        if newest != before.newest or not self._facts.training:
            self._reload()
        else:
            self._show_steps()

    def _show_steps(self) -> None:
        if self._facts is not None:
            self.stepper.set_steps(build_steps(self._facts, unsaved=self.context.dataset.modified))

    @Slot(object)
    def _on_step_triggered(self, step: Step) -> None:
        self.form.commit()
        self.context.navigate(step.page, step.payload)

    # -- form -----------------------------------------------------------------------------------
    @Slot(object)
    def _on_form_saved(self, persona: Persona) -> None:
        if self.banner.kind == "error":
            self.banner.clear()
        if persona == self.context.persona:
            self.header.title.setText(persona.name)
            self.header.set_subtitle(self._subtitle(persona))
            self.context.persona_edited.emit(persona)
            self.context.personas_changed.emit()

    @Slot(str)
    def _on_form_failed(self, text: str) -> None:
        self.banner.show_message("error", text)

    # -- create, rename, duplicate, delete ------------------------------------------------------
    @Slot()
    def _on_starter_requested(self) -> None:
        self._attempt(lambda: self.context.workspace.ensure_starter().slug)

    @Slot()
    def _on_new_clicked(self) -> None:
        if not self.context.may_switch():
            return
        dialog = NameDialog(
            self.tr("New persona"),
            self.tr("Create"),
            option=self.tr("Start with policy and examples of the open persona"),
            parent=self,
        )
        dialog.option.setVisible(self.context.persona is not None)
        self._ask(dialog, self._create)

    def _create(self, dialog: NameDialog) -> None:
        persona = self.context.persona
        template = persona.root if persona is not None and dialog.option.isChecked() else None
        self._attempt(
            lambda: self.context.workspace.create_persona(dialog.name, template=template).slug
        )

    @Slot()
    def _on_duplicate_triggered(self) -> None:
        persona = self.context.persona
        # The copy is made from the files: edits are saved, or knowingly left out, before.
        if persona is None or not self.context.may_switch():
            return
        dialog = NameDialog(
            self.tr("Duplicate persona"),
            self.tr("Duplicate"),
            name=self.tr("{name} (copy)").format(name=persona.name),
            parent=self,
        )
        self._ask(
            dialog,
            lambda asked: self._attempt(
                lambda: self.context.workspace.duplicate(persona.slug, asked.name).slug
            ),
        )

    @Slot()
    def _on_rename_triggered(self) -> None:
        persona = self.context.persona
        if persona is None:
            return
        dialog = NameDialog(
            self.tr("Rename persona"), self.tr("Rename"), name=persona.name, parent=self
        )
        self._ask(dialog, partial(self._rename, persona))

    def _rename(self, persona: Persona, dialog: NameDialog) -> None:
        self.form.commit()
        try:
            self.context.workspace.rename(persona.slug, dialog.name)
        except (So8tError, OSError) as error:
            self.banner.show_message("error", str(error))
            return
        self._show_persona()
        self.context.persona_edited.emit(persona)
        self.context.personas_changed.emit()

    @staticmethod
    def _ask(dialog: NameDialog, receive: object) -> None:
        dialog.accepted.connect(partial(receive, dialog))  # type: ignore[arg-type]
        dialog.finished.connect(dialog.deleteLater)
        dialog.open()

    def _attempt(self, make: object) -> None:
        """Make a persona and open it; say what went wrong otherwise."""
        self.form.commit()
        try:
            slug = make()  # type: ignore[operator]
            self.context.personas_changed.emit()
            self.context.open_persona(slug)
        except (So8tError, OSError) as error:
            self.banner.show_message("error", str(error))

    @Slot()
    def _on_delete_triggered(self) -> None:
        persona = self.context.persona
        if persona is None:
            return
        box = QMessageBox(
            QMessageBox.Icon.Warning,
            self.tr("Delete persona"),
            self.tr("Delete {name} with its dataset and all its runs?").format(name=persona.name),
            parent=self,
        )
        box.setObjectName("deleteDialog")
        box.setInformativeText(
            self.tr("It is moved to the folder “trash” of the workspace, not erased.")
        )
        delete = box.addButton(self.tr("Delete"), QMessageBox.ButtonRole.DestructiveRole)
        delete.setObjectName("confirmDelete")
        box.setDefaultButton(box.addButton(QMessageBox.StandardButton.Cancel))
        delete.clicked.connect(partial(self._delete, persona))
        box.finished.connect(box.deleteLater)
        box.open()

    def _delete(self, persona: Persona) -> None:
        self.form.commit()
        workspace = self.context.workspace
        active = [run.id for run in persona.runs() if run.state().state in ("running", "starting")]
        if active:
            self.banner.show_message(
                "error",
                self.tr("{name} is being trained (run {run}). Stop the run first.").format(
                    name=persona.name, run=active[0]
                ),
            )
            return
        others = [other.slug for other in workspace.personas() if other != persona]
        try:
            # The dataset's files are let go first: open files cannot be moved on Windows.
            if others:
                self.context.open_persona(others[0])
            else:
                self.context.dataset.close()
                self.context.close_persona()
            place = workspace.delete(persona.slug)
        except (So8tError, OSError) as error:
            self.banner.show_message("error", str(error))
            return
        self.context.personas_changed.emit()
        self.banner.show_message(
            "info", self.tr("Moved to {place}.").format(place=place), details=str(place)
        )
