"""The Train page: set up, start, watch, stop, resume, compare."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, ClassVar

from PySide6.QtCore import Slot
from PySide6.QtWidgets import QTabWidget, QWidget

from so8t_engine.errors import So8tError
from so8t_engine.events import Telemetry
from so8t_engine.workspace.personas import Persona
from so8t_engine.workspace.runs import RunStore
from so8t_studio.context import AppContext, RunChange
from so8t_studio.jobs.background import Failure
from so8t_studio.jobs.handle import JobHandle
from so8t_studio.jobs.request import JobRequest
from so8t_studio.jobs.state import Phase
from so8t_studio.pages.base import Page
from so8t_studio.pages.train.dialogs import confirm_kill
from so8t_studio.pages.train.failure_card import FailureCard
from so8t_studio.pages.train.follower import Follower
from so8t_studio.pages.train.job_card import JobCard
from so8t_studio.pages.train.live_panel import LivePanel
from so8t_studio.pages.train.lost_runs import LostRuns
from so8t_studio.pages.train.queue_panel import QueuePanel
from so8t_studio.pages.train.run_actions import RunActions, begun_with
from so8t_studio.pages.train.runs_model import RunRow
from so8t_studio.pages.train.runs_panel import RunsPanel
from so8t_studio.pages.train.setup_actions import SetupActions, with_changes
from so8t_studio.pages.train.setup_panel import SetupPanel
from so8t_studio.widgets.banner import Banner
from so8t_studio.widgets.empty_state import EmptyState

log = logging.getLogger(__name__)
READINGS_PER_CHECK = 15
SETUP, LIVE, RUNS = range(3)


class TrainPage(Page):
    """One job card above three tabs: set up, live, runs."""

    key: ClassVar[str] = "train"

    def __init__(self, context: AppContext, parent: QWidget | None = None) -> None:
        super().__init__(context, parent)
        self._failed_run = ""
        self._readings = 0
        self._visible = False
        self._stale = True
        self._build()
        context.persona_changed.connect(self._on_persona_changed)
        context.persona_edited.connect(self._on_inputs_changed)
        context.dataset.samples_changed.connect(self._on_inputs_changed)
        context.telemetry.updated.connect(self._on_telemetry_updated)
        context.jobs.job_added.connect(self._on_job_added)
        context.telemetry.failed.connect(self._on_telemetry_failed)
        context.jobs.job_changed.connect(self._on_job_changed)
        context.jobs.job_ended.connect(self._on_job_ended)
        for reading in list(context.telemetry.history)[-600:]:
            self.live.show_reading(reading)
        self._open_persona(context.persona)

    def title(self) -> str:
        """Return the name of the page."""
        return self.tr("Train")

    def _build(self) -> None:
        self.failure = FailureCard()
        self.failure.resume_requested.connect(self._on_resume_failed_requested)
        self.failure.offer_chosen.connect(self._on_offer_chosen)
        self.orphans = Banner(dismissible=True)
        self.orphans.setObjectName("orphanCard")
        self.lost = LostRuns(self.context, self.orphans, self)
        self.card = JobCard()
        self.card.start_requested.connect(self._on_start_requested)
        self.card.kill_requested.connect(self._on_kill_requested)
        self.tabs = QTabWidget()
        self.tabs.setObjectName("trainTabs")
        self.tabs.setDocumentMode(True)
        self.tabs.tabBar().setDrawBase(False)
        self.setup = SetupPanel()
        self.setup.settings_changed.connect(self._on_settings_changed)
        self.setup.queue_requested.connect(self._on_queue_requested)
        self.queue = QueuePanel(self.context.jobs)
        self.live = LivePanel()
        self.follower = Follower(self.live, self)
        self.follower.moved.connect(self._on_run_moved)
        self.follower.run_known.connect(self._on_run_known)
        self.follower.failed.connect(self._on_history_failed)
        self.preparing = SetupActions(self.context, self.setup, self._command_arguments, self)
        self.preparing.checked.connect(self._on_checked)
        self.preparing.failed.connect(self._on_action_failed)
        self.preparing.dry_run_failed.connect(self._on_dry_run_failed)
        self.runs = RunsPanel()
        self.runs.show_requested.connect(self._on_show_requested)
        self.runs.copy_requested.connect(self._on_copy_requested)
        self.runs.begin_requested.connect(self._on_begin_requested)
        self.runs.rows_changed.connect(self._on_rows_changed)
        self.actions_of_runs = RunActions(self.context, self.runs, self._launch, self)
        self.actions_of_runs.failed.connect(self._on_action_failed)
        self.lost.resume_requested.connect(self.actions_of_runs.resume)
        self.actions_of_runs.deleted.connect(self._on_run_deleted)
        self.tabs.addTab(self.setup, self.tr("Set up"))
        self.tabs.addTab(self.live, self.tr("Live"))
        self.tabs.addTab(self.runs, self.tr("Runs"))
        self.body.setSpacing(12)
        for widget in (self.failure, self.orphans, self.card, self.queue):
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
        self.runs.details.flush()
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
        self.preparing.check_soon()
        persona = self.context.persona
        if persona is not None:
            self.runs.refresh(
                persona.runs, persona=persona.name, read_only=self.context.workspace.read_only
            )

    def _open_persona(self, persona: Persona | None) -> None:
        self.failure.clear()
        self.orphans.clear()
        self.follower.clear(self.tr("No run is shown. Start one, or choose one under “Runs”."))
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
                    name=persona.name, count=f"{count:,}", base=self.preparing.base()
                )
            )

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
            self.preparing.check_soon()
        else:
            self._stale = True

    @Slot()
    def _on_settings_changed(self) -> None:
        self.preparing.check_soon()
        self._update_start()

    @Slot()
    def _on_checked(self) -> None:
        self._update_start()

    def _update_start(self) -> None:
        why_not = self.preparing.reason_against_start()
        self.card.set_can_start(not why_not, why_not)
        handle = self.card.handle
        self.setup.queue.setVisible(handle is not None and not handle.state.is_final)
        self.setup.queue.setEnabled(not why_not)
        self.setup.memory.button.setEnabled(not self.context.workspace.read_only)

    # -- starting -------------------------------------------------------------------------------
    @Slot()
    def _on_start_requested(self) -> None:
        try:
            arguments = self.preparing.write()
        except (ValueError, OSError, So8tError) as error:
            self.failure.show_failure(str(error))
            return
        self._save_form()
        self.failure.clear()
        self.orphans.clear()
        self._launch(arguments, self.tr("Train {name}"))

    @Slot()
    def _on_queue_requested(self) -> None:
        self._on_start_requested()

    def _launch(self, arguments: list[str], title: str, run_dir: Path | None = None) -> None:
        persona = self.context.persona
        assert persona is not None
        request = JobRequest(
            "train",
            [*self._command_arguments(arguments), "--events"],
            run_dir=run_dir,
            needs_gpu=True,
            title=title.format(name=persona.name),
            persona=persona.slug,
        )
        current = self.card.handle
        waits = current is not None and not current.state.is_final
        handle = self.context.jobs.start(request)
        if waits:  # it is followed when its turn comes
            self.context.post(
                "info",
                self.tr("“{title}” waits until the current run has ended.").format(
                    title=request.title
                ),
            )
            return
        if self.card.handle is not handle:
            self._follow(handle)
        self.tabs.setCurrentIndex(LIVE)

    def _command_arguments(self, arguments: list[str]) -> list[str]:
        persona = self.context.persona
        slug = persona.slug if persona is not None else ""
        root = str(self.context.workspace.root)
        return ["train", "--workspace", root, "--persona", slug, *arguments]

    def _follow(self, handle: JobHandle) -> None:
        self.card.set_handle(handle)
        self.follower.follow(handle)
        self.context.telemetry.watch(handle.state.pid)
        self._update_start()

    # -- following ------------------------------------------------------------------------------
    def _run_id(self) -> str:
        handle = self.card.handle
        folder = handle.state.run_dir if handle is not None else None
        return folder.name if folder is not None else ""

    @Slot()
    def _on_run_moved(self) -> None:
        self.context.runs_changed.emit(RunChange(self._run_id(), "moved"))

    @Slot(str)
    def _on_run_known(self, run_id: str) -> None:
        self.context.runs_changed.emit(RunChange(run_id, "added"))
        self._refresh()

    @Slot(object)
    def _on_history_failed(self, failure: Failure) -> None:
        self.failure.show_failure(failure.text, details=failure.details)

    @Slot(object)
    def _on_job_changed(self, handle: JobHandle) -> None:
        if handle is self.card.handle:
            self.context.telemetry.watch(handle.state.pid)

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
        kind = {Phase.DONE: "success", Phase.CANCELLED: "info"}.get(state.phase)
        if kind is not None and not self._visible:
            self.context.post(kind, f"{handle.request.title}: {state.sentence}")
        self.context.runs_changed.emit(
            RunChange(state.run_dir.name if state.run_dir is not None else "", "finished")
        )
        if handle is not self.card.handle:
            return
        self.context.telemetry.watch(0)
        following = self.context.jobs.find("train", handle.request.persona)
        if state.phase in (Phase.FAILED, Phase.CRASHED):
            self._show_end(handle)
        if following is not None:
            self._follow(following)
        self._update_start()
        self._refresh()

    def _show_end(self, handle: JobHandle) -> None:
        """Show the failure of a run with the end of its log and what would fit."""
        state = handle.state
        lines = [f"{line.level:<8}{line.message}" for line in handle.last_words]
        if state.stderr_tail:
            lines += ["", *state.stderr_tail.splitlines()]
        folder = state.run_dir
        self._failed_run = folder.name if folder is not None else ""
        resumable = folder is not None and any(folder.glob("checkpoints/*/manifest.json"))
        self.failure.show_failure(
            state.sentence,
            state.next_step,
            details="\n".join([state.details, "", *lines]),
            excerpt="\n".join(lines),
            offers=handle.offers,
            resumable=resumable and not self.context.workspace.read_only,
        )

    @Slot()
    def _on_resume_failed_requested(self) -> None:
        persona = self.context.persona
        if persona is not None and self._failed_run:
            store = RunStore(persona.runs_dir / self._failed_run)
            self.failure.clear()
            self._launch(["--resume", store.id], self.tr("Resume {name}"), store.root)

    @Slot(object)
    def _on_offer_chosen(self, changes: dict[str, Any]) -> None:
        """Put settings that would fit into the form; Start is then one press away."""
        base = self.setup.form.spec() if not self.setup.form.errors() else None
        persona = self.context.persona
        if persona is not None and self._failed_run:
            base = RunStore(persona.runs_dir / self._failed_run).spec()
        if base is None:
            return
        self.setup.load_spec(with_changes(base, changes))
        self.failure.clear()
        self.tabs.setCurrentIndex(SETUP)
        self.context.post("info", self.tr("The settings were changed. Press Start to try them."))

    @Slot(object)
    def _on_dry_run_failed(self, handle: JobHandle) -> None:
        self._show_end(handle)
        self._failed_run = ""

    # -- recorded runs --------------------------------------------------------------------------
    def _show_store(self, store: RunStore) -> None:
        self.follower.show_store(store, self.card.handle)
        self.tabs.setCurrentIndex(LIVE)

    @Slot(object)
    def _on_show_requested(self, row: RunRow) -> None:
        self._show_store(row.store)

    @Slot(object)
    def _on_copy_requested(self, row: RunRow) -> None:
        if row.spec is not None:
            self.setup.load_spec(row.spec)
            self.tabs.setCurrentIndex(SETUP)

    @Slot(object)
    def _on_begin_requested(self, row: RunRow) -> None:
        preset_key, changes = begun_with(row)
        self.setup.choose(preset_key, changes)
        self.tabs.setCurrentIndex(SETUP)

    @Slot(str)
    def _on_action_failed(self, sentence: str) -> None:
        self.failure.show_failure(sentence)

    @Slot()
    def _on_run_deleted(self) -> None:
        self._refresh()

    @Slot(object)
    def _on_rows_changed(self, rows: list[RunRow]) -> None:
        self.lost.follow_living(rows)
        handle = self.card.handle
        if self.failure.isVisible() or (handle is not None and not handle.state.is_final):
            self.orphans.clear()
        else:
            self.lost.offer(rows, self._run_id())

    # -- buttons of the set-up ------------------------------------------------------------------
    @Slot()
    def _on_kill_requested(self) -> None:
        if confirm_kill(self) and self.card.handle is not None:
            self.card.handle.kill()

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
        self._readings += 1
        # What is free changes without the user.
        due = self._readings % READINGS_PER_CHECK == 0 and self.tabs.currentIndex() == SETUP
        if self._visible and due:
            self.preparing.check_soon()

    @Slot(str)
    def _on_telemetry_failed(self, sentence: str) -> None:
        self.live.machine.show_silence(sentence)
