"""The Train page: set up, start, watch, stop, resume, compare."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path
from typing import Any, ClassVar

from PySide6.QtCore import QTimer, Slot
from PySide6.QtWidgets import QApplication, QTabWidget, QWidget

from so8t_engine.errors import So8tError
from so8t_engine.events import AnyEvent, Telemetry
from so8t_engine.specs import encode_spec, load_spec
from so8t_engine.workspace.atomic import write_bytes
from so8t_engine.workspace.personas import Persona
from so8t_engine.workspace.runs import RunStore
from so8t_engine.workspace.trash import move_to_trash
from so8t_studio.context import AppContext, RunChange
from so8t_studio.jobs.background import Failure, Loader
from so8t_studio.jobs.handle import JobHandle
from so8t_studio.jobs.request import JobRequest
from so8t_studio.jobs.state import JobState, Phase
from so8t_studio.pages.base import Page
from so8t_studio.pages.train.checks import Check, run_checks
from so8t_studio.pages.train.dialogs import (
    ask_open,
    ask_save,
    confirm_kill,
    show_command,
    write_spec,
)
from so8t_studio.pages.train.job_card import JobCard
from so8t_studio.pages.train.live_panel import LivePanel
from so8t_studio.pages.train.run_feed import Digest, digest
from so8t_studio.pages.train.runs_model import RunRow
from so8t_studio.pages.train.runs_panel import RunsPanel
from so8t_studio.pages.train.setup_panel import SetupPanel
from so8t_studio.widgets.banner import Banner
from so8t_studio.widgets.empty_state import EmptyState

log = logging.getLogger(__name__)
CHECK_DELAY_MS = 300
SETUP, LIVE, RUNS = range(3)


class TrainPage(Page):
    """One job card above three tabs: set up, live, runs."""

    key: ClassVar[str] = "train"

    def __init__(self, context: AppContext, parent: QWidget | None = None) -> None:
        super().__init__(context, parent)
        self._loader = Loader(self)
        self._shown_run = ""
        self._visible = False
        self._stale = True
        self._following = False
        self._check_timer = QTimer(self)
        self._check_timer.setSingleShot(True)
        self._check_timer.setInterval(CHECK_DELAY_MS)
        self._check_timer.timeout.connect(self._on_check_due)
        self._build()
        context.persona_changed.connect(self._on_persona_changed)
        context.persona_edited.connect(self._on_inputs_changed)
        context.dataset.samples_changed.connect(self._on_inputs_changed)
        context.telemetry.updated.connect(self._on_telemetry_updated)
        context.jobs.job_added.connect(self._on_job_added)
        context.jobs.job_ended.connect(self._on_job_ended)
        for reading in list(context.telemetry.history)[-600:]:
            self.live.show_reading(reading)
        self._open_persona(context.persona)

    def title(self) -> str:
        """Return the name of the page."""
        return self.tr("Train")

    def _build(self) -> None:
        self.failure = Banner()
        self.failure.setObjectName("failureCard")
        self.failure.action_triggered.connect(self._on_failure_action_triggered)
        self.orphans = Banner(dismissible=True)
        self.orphans.setObjectName("orphanCard")
        self.orphans.action_triggered.connect(self._on_orphan_action_triggered)
        self.card = JobCard()
        self.card.start_requested.connect(self._on_start_requested)
        self.card.kill_requested.connect(self._on_kill_requested)
        self.tabs = QTabWidget()
        self.tabs.setObjectName("trainTabs")
        self.tabs.setDocumentMode(True)
        self.tabs.tabBar().setDrawBase(False)
        self.setup = SetupPanel()
        self.setup.settings_changed.connect(self._on_settings_changed)
        self.setup.command_requested.connect(self._on_command_requested)
        self.setup.load_requested.connect(self._on_load_requested)
        self.setup.save_requested.connect(self._on_save_requested)
        self.live = LivePanel()
        self.runs = RunsPanel()
        self.runs.show_requested.connect(self._on_show_requested)
        self.runs.resume_requested.connect(self._on_resume_requested)
        self.runs.copy_requested.connect(self._on_copy_requested)
        self.runs.delete_requested.connect(self._on_delete_requested)
        self.runs.rows_changed.connect(self._on_rows_changed)
        self.tabs.addTab(self.setup, self.tr("Set up"))
        self.tabs.addTab(self.live, self.tr("Live"))
        self.tabs.addTab(self.runs, self.tr("Runs"))
        self.body.setSpacing(12)
        for widget in (self.failure, self.orphans, self.card):
            self.body.addWidget(widget)
        self.body.addWidget(self.tabs, 1)
        self.empty = EmptyState(
            "train",
            self.tr("No persona is open"),
            self.tr("Training needs a persona with examples."),
            self.tr("Go to Persona"),
        )
        self.empty.action_triggered.connect(self._on_empty_action_triggered)
        self.body.addWidget(self.empty, 1)

    # -- life of the page -----------------------------------------------------------------------
    def on_shown(self) -> None:
        """Refresh what became stale while hidden."""
        self._visible = True
        if self._stale:
            self._refresh()

    def on_hidden(self) -> None:
        """Remember the form."""
        self._visible = False
        self._save_form()

    def open_payload(self, payload: object) -> None:
        """Show a run (its id) or a tab (``setup``, ``live``, ``runs``)."""
        names = {"setup": SETUP, "live": LIVE, "runs": RUNS}
        if payload in names:
            self.tabs.setCurrentIndex(names[str(payload)])
        elif isinstance(payload, str) and self.context.persona is not None:
            self._show_store(RunStore(self.context.persona.runs_dir / payload))

    def _refresh(self) -> None:
        self._stale = False
        self._check_timer.start()
        persona = self.context.persona
        if persona is not None:
            self.runs.refresh(persona.runs, read_only=self.context.workspace.read_only)

    def _open_persona(self, persona: Persona | None) -> None:
        self.failure.clear()
        self.orphans.clear()
        self._shown_run = ""
        self.live.clear(self.tr("No run is shown. Start one, or choose one under “Runs”."))
        self.card.setVisible(persona is not None)
        self.tabs.setVisible(persona is not None)
        self.empty.setVisible(persona is None)
        if persona is None:
            self.header.set_subtitle("")
            return
        form = self.context.settings.form(f"train:{persona.slug}")
        changes = form.get("changes")
        self.setup.choose(str(form.get("preset", "quick")),
                          changes if isinstance(changes, dict) else None)  # fmt: skip
        self.card.set_handle(None)
        handle = self.context.jobs.find("train", persona.slug)
        if handle is not None:
            self._follow(handle)
        self._show_subtitle()
        if self._visible:
            self._refresh()
        else:
            self._stale = True

    def _show_subtitle(self) -> None:
        persona = self.context.persona
        if persona is not None:
            count = len(self.context.dataset.samples)
            self.header.set_subtitle(
                self.tr("{name}  ·  {count} rows  ·  base model {base}").format(
                    name=persona.name, count=count, base=self._base()
                )
            )

    def _base(self) -> str:
        persona = self.context.persona
        try:
            return persona.info.base_model if persona is not None else "default"
        except So8tError:
            return "default"

    def _save_form(self) -> None:
        persona = self.context.persona
        if persona is not None:
            self.context.settings.save_form(
                f"train:{persona.slug}",
                {"preset": self.setup.preset_key, "changes": self.setup.form.changes()},
            )

    # -- checks ---------------------------------------------------------------------------------
    @Slot()
    def _on_inputs_changed(self) -> None:
        self._show_subtitle()
        if self._visible:
            self._check_timer.start()
        else:
            self._stale = True

    @Slot()
    def _on_settings_changed(self) -> None:
        self._check_timer.start()
        self._update_start()

    @Slot()
    def _on_check_due(self) -> None:
        persona = self.context.persona
        if persona is None:
            return
        try:
            spec = self.setup.form.spec()
        except ValueError:
            self._update_start()
            return
        samples = list(self.context.dataset.samples)
        base = spec.base_model if spec.base_model != "default" else self._base()
        folder, reading = persona.runs_dir, self.context.telemetry.latest
        read_only = self.context.workspace.read_only

        def work() -> list[Check]:
            return run_checks(
                samples, spec, base=base, folder=folder, reading=reading, read_only=read_only
            )

        self._loader.load("checks", work, self._on_checks_ready)

    def _on_checks_ready(self, checks: object) -> None:
        if isinstance(checks, Failure):
            checks = [Check("internal", "warning", checks.text)]
        assert isinstance(checks, list)
        self.setup.show_checks(checks)
        self._update_start()

    def _update_start(self) -> None:
        errors = self.setup.form.errors()
        if errors:
            path, sentence = next(iter(errors.items()))
            self.card.set_can_start(False, f"{path}: {sentence}")
            return
        for check in self.setup.checks():
            if check.level == "error":
                self.card.set_can_start(False, f"{check.sentence} {check.next_step}".strip())
                return
        self.card.set_can_start(True)

    # -- starting -------------------------------------------------------------------------------
    @Slot()
    def _on_start_requested(self) -> None:
        try:
            persona = self.context.persona
            assert persona is not None
            arguments = ["--spec", str(write_spec(persona, self.setup.form.spec()))]
            if self.context.dataset.modified:
                self.context.dataset.save()
        except (ValueError, OSError, So8tError) as error:
            self._show_failure(str(error), "", "")
            return
        self._save_form()
        self._launch(arguments, self.tr("Train {name}"))

    def _launch(self, arguments: list[str], title: str, run_dir: Path | None = None) -> None:
        persona = self.context.persona
        assert persona is not None
        self.failure.clear()
        self.orphans.clear()
        request = JobRequest(
            "train",
            [*self._command_arguments(arguments), "--events"],
            run_dir=run_dir,
            needs_gpu=True,
            title=title.format(name=persona.name),
            persona=persona.slug,
        )
        handle = self.context.jobs.start(request)
        if self.card.handle is not handle:
            self._follow(handle)
        self.tabs.setCurrentIndex(LIVE)

    def _command_arguments(self, arguments: list[str]) -> list[str]:
        persona = self.context.persona
        slug = persona.slug if persona is not None else ""
        root = str(self.context.workspace.root)
        return ["train", "--workspace", root, "--persona", slug, *arguments]

    def _follow(self, handle: JobHandle) -> None:
        """Show a job live; what it reported before this page existed is read from its folder."""
        self._following = True
        self.live.clear(handle.request.title)
        self.card.set_handle(handle)
        handle.events.connect(self._on_events)
        handle.state_changed.connect(self._on_state_changed)
        if handle.state.run_dir is not None:
            self._load_history(RunStore(handle.state.run_dir))

    # -- following ------------------------------------------------------------------------------
    @Slot(object)
    def _on_events(self, batch: tuple[AnyEvent, ...]) -> None:
        if self.sender() is not self.card.handle or not self._following:
            return
        found = self.live.take_events(batch)
        self._after_digest(found)
        if found.validation or found.marks:
            self.context.runs_changed.emit(RunChange(self._run_id(), "moved"))

    def _after_digest(self, found: Digest) -> None:
        if found.progress is not None and found.progress.phase == "training":
            self.live.set_total_steps(int(found.progress.total))

    def _run_id(self) -> str:
        handle = self.card.handle
        folder = handle.state.run_dir if handle is not None else None
        return folder.name if folder is not None else ""

    @Slot(object)
    def _on_state_changed(self, state: JobState) -> None:
        if self.sender() is not self.card.handle:
            return
        if state.run_dir is not None and state.run_dir.name != self._shown_run and self._following:
            self._shown_run = state.run_dir.name
            self.live.set_label(self.tr("Run {run}, live").format(run=self._shown_run))
            self.context.runs_changed.emit(RunChange(self._shown_run, "added"))
            self._refresh()
        self.context.telemetry.watch(state.pid)

    @Slot(object)
    def _on_job_added(self, handle: JobHandle) -> None:
        persona = self.context.persona
        same = persona is not None and handle.request.persona == persona.slug
        if handle.request.kind == "train" and same and self.card.handle is not handle:
            current = self.card.handle
            if current is None or current.state.is_final:
                self._follow(handle)

    @Slot(object)
    def _on_job_ended(self, handle: JobHandle) -> None:
        if handle.request.kind != "train":
            return
        state = handle.state
        self._notify(handle)
        self.context.runs_changed.emit(
            RunChange(state.run_dir.name if state.run_dir is not None else "", "finished")
        )
        if handle is not self.card.handle:
            return
        self.context.telemetry.watch(0)
        if state.phase in (Phase.FAILED, Phase.CRASHED):
            self._show_failure(state.sentence, state.next_step, state.details)
        self._refresh()

    def _notify(self, handle: JobHandle) -> None:
        values = self.context.settings.values
        if values.sound:
            QApplication.beep()
        window = self.window()
        if values.notify and not window.isActiveWindow():
            QApplication.alert(window)
        kind = {Phase.DONE: "success", Phase.CANCELLED: "info"}.get(handle.state.phase)
        if kind is not None and not self._visible:
            self.context.post(kind, f"{handle.request.title}: {handle.state.sentence}")

    def _show_failure(self, sentence: str, next_step: str, details: str) -> None:
        text = " ".join(filter(None, (sentence, next_step)))
        self.failure.show_message("error", text, details=details)

    @Slot()
    def _on_failure_action_triggered(self) -> None:
        self.tabs.setCurrentIndex(RUNS)

    # -- recorded runs --------------------------------------------------------------------------
    def _show_store(self, store: RunStore) -> None:
        handle = self.card.handle
        active = handle is not None and not handle.state.is_final
        self._following = active and store.id == self._run_id()
        self._shown_run = store.id
        word = self.tr("Run {run}, live") if self._following else self.tr("Run {run}, recorded")
        self.live.clear(word.format(run=store.id))
        self._load_history(store)
        self.tabs.setCurrentIndex(LIVE)

    def _load_history(self, store: RunStore) -> None:
        self._loader.load("history", lambda: digest(store.events()), self._on_history_ready)

    def _on_history_ready(self, found: object) -> None:
        if isinstance(found, Failure):
            self._show_failure(found.text, "", found.details)
            return
        assert isinstance(found, Digest)
        self.live.take_digest(found)
        self._after_digest(found)

    @Slot(object)
    def _on_show_requested(self, row: RunRow) -> None:
        self._show_store(row.store)

    @Slot(object)
    def _on_resume_requested(self, row: RunRow) -> None:
        handle = self.card.handle
        if handle is not None and not handle.state.is_final:
            self.context.post("warning", self.tr("Another run of this persona is still going on."))
            return
        self._launch(["--resume", row.store.id], self.tr("Resume {name}"), row.store.root)

    @Slot(object)
    def _on_copy_requested(self, row: RunRow) -> None:
        if row.spec is not None:
            self.setup.load_spec(row.spec)
            self.tabs.setCurrentIndex(SETUP)

    @Slot(object)
    def _on_delete_requested(self, row: RunRow) -> None:
        try:
            move_to_trash(self.context.workspace.root, row.store.root)
        except So8tError as error:
            self._show_failure(str(error), "", "")
            return
        self.context.runs_changed.emit(RunChange(row.store.id, "removed"))
        self._refresh()

    @Slot(object)
    def _on_rows_changed(self, rows: list[RunRow]) -> None:
        handle = self.card.handle
        own = self._run_id() if handle is not None else ""
        lost = [row for row in rows if row.state.state == "crashed" and row.store.id != own]
        if not lost or self.failure.isVisible() or (handle and not handle.state.is_final):
            self.orphans.clear()
            return
        row = lost[0]
        action = self.tr("Resume") if row.resumable else ""
        self._orphan = row
        self.orphans.show_message(
            "warning",
            self.tr("The run {run} ended without a word at step {step}. Its figures are kept.")
            .format(run=row.store.id, step=row.state.step),
            action="" if self.context.workspace.read_only else action,
        )  # fmt: skip

    @Slot()
    def _on_orphan_action_triggered(self) -> None:
        self._on_resume_requested(self._orphan)

    # -- buttons of the set-up ------------------------------------------------------------------
    @Slot()
    def _on_kill_requested(self) -> None:
        if confirm_kill(self) and self.card.handle is not None:
            self.card.handle.kill()

    @Slot()
    def _on_command_requested(self) -> None:
        persona = self.context.persona
        assert persona is not None
        try:
            path = write_spec(persona, self.setup.form.spec())
        except (ValueError, OSError) as error:
            self._show_failure(str(error), "", "")
            return
        show_command(self, shlex.join(["so8t", *self._command_arguments(["--spec", str(path)])]))

    @Slot()
    def _on_load_requested(self) -> None:
        path = ask_open(self)
        if path is None:
            return
        try:
            self.setup.load_spec(load_spec(path))
        except So8tError as error:
            self._show_failure(str(error), "", "")

    @Slot()
    def _on_save_requested(self) -> None:
        path = ask_save(self)
        if path is None:
            return
        try:
            write_bytes(path, encode_spec(self.setup.form.spec()))
        except (ValueError, OSError) as error:
            self._show_failure(str(error), "", "")

    # -- others ---------------------------------------------------------------------------------
    @Slot()
    def _on_empty_action_triggered(self) -> None:
        self.context.navigate("persona")

    @Slot(object)
    def _on_persona_changed(self, persona: Any) -> None:
        self._open_persona(persona)

    @Slot(object)
    def _on_telemetry_updated(self, reading: Telemetry) -> None:
        self.live.show_reading(reading)
