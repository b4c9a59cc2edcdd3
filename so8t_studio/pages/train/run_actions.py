"""What can be asked of a recorded run: go on, again, trash, notes."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from PySide6.QtCore import QObject, Signal, Slot
from PySide6.QtWidgets import QInputDialog, QWidget

from so8t_engine.errors import So8tError
from so8t_engine.jobs.starting import differing
from so8t_engine.specs import TrainSpec, preset
from so8t_engine.workspace.runs import RunNotes
from so8t_engine.workspace.trash import move_to_trash
from so8t_studio.context import AppContext, RunChange
from so8t_studio.jobs.background import Failure, Loader
from so8t_studio.pages.train.dialogs import write_spec
from so8t_studio.pages.train.runs_model import RunRow
from so8t_studio.pages.train.runs_panel import RunsPanel

REFINING = "quick"  # the preset whose rates are meant for weights that are learned already
Launch = Callable[[list[str], str, Path | None], None]


def again(row: RunRow, seed: int | None) -> TrainSpec:
    """Return the settings that repeat a run: its frozen data and policy, its seed or another."""
    assert row.spec is not None
    spec = row.spec
    frozen = msgspec.structs.replace(
        spec.data, dataset=str(row.store.samples_path.resolve()), extra=(), limit=0
    )
    start = row.store.start_dir
    return msgspec.structs.replace(
        spec,
        data=frozen,
        policy=row.store.policy(),
        start_from=str(start.resolve()) if start.is_dir() else "",
        seed=spec.seed if seed is None else seed,
    )


def begun_with(row: RunRow) -> tuple[str, dict[str, Any]]:
    """Return preset and changes for a run that begins with the weights of ``row``."""
    assert row.spec is not None
    changes: dict[str, Any] = {"start_from": row.store.id}
    model = preset(REFINING).model
    for name, value in differing(model, row.spec.model).items():
        if isinstance(value, dict):
            changes |= {f"model.{name}.{part}": inner for part, inner in value.items()}
        else:
            changes[f"model.{name}"] = value
    if row.spec.base_model != "default":
        changes["base_model"] = row.spec.base_model
    return REFINING, changes


class RunActions(QObject):
    """Acts for the list of runs. ``failed(sentence)``; ``deleted()`` when the list is stale."""

    failed = Signal(str)
    deleted = Signal()

    def __init__(
        self, context: AppContext, panel: RunsPanel, launch: Launch, parent: QWidget
    ) -> None:
        super().__init__(parent)
        self._context = context
        self._launch = launch
        self._window = parent
        self._loader = Loader(self)
        panel.resume_requested.connect(self._on_resume_requested)
        panel.continue_requested.connect(self._on_continue_requested)
        panel.again_requested.connect(self._on_again_requested)
        panel.delete_requested.connect(self._on_delete_requested)
        panel.notes_edited.connect(self._on_notes_edited)

    def resume(self, row: RunRow) -> None:
        """Go on from the last checkpoint, now or when the running job has ended."""
        if self._is_on_its_way(row):
            return
        self._launch(["--resume", row.store.id], self.tr("Resume {name}"), row.store.root)

    def _is_on_its_way(self, row: RunRow) -> bool:
        """Tell the user if the run goes on or waits for its turn already."""
        for handle in self._context.jobs.handles:
            known = handle.state.run_dir or handle.request.run_dir
            if not handle.state.is_final and known == row.store.root:
                self._context.post(
                    "warning",
                    self.tr("The run {run} goes on already, or waits for its turn.").format(
                        run=row.store.id
                    ),
                )
                return True
        return False

    @Slot(object)
    def _on_resume_requested(self, row: RunRow) -> None:
        self.resume(row)

    @Slot(object)
    def _on_continue_requested(self, row: RunRow) -> None:
        if self._is_on_its_way(row):
            return
        passes, chosen = QInputDialog.getDouble(
            self._window,
            self.tr("Continue the run"),
            self.tr(
                "Go on for how many passes more? The learning rates follow their schedule over "
                "the new length; the settings as they were are kept beside it."
            ),
            1.0, 0.1, 100.0, 1,
        )  # fmt: skip
        if chosen:
            self._launch(
                ["--resume", row.store.id, "--more", f"{passes:g}"],
                self.tr("Continue {name}"),
                row.store.root,
            )

    @Slot(object, bool)
    def _on_again_requested(self, row: RunRow, new_seed: bool) -> None:
        persona = self._context.persona
        if row.spec is None or persona is None:
            return
        seed = random.SystemRandom().randrange(2**31) if new_seed else None
        try:
            path = write_spec(persona, again(row, seed))
        except OSError as error:
            self.failed.emit(
                self.tr("The settings cannot be written: {why}.").format(why=error.strerror)
            )
            return
        self._launch(["--spec", str(path)], self.tr("Train {name}"), None)

    @Slot(object)
    def _on_delete_requested(self, row: RunRow) -> None:
        root = self._context.workspace.root

        def work() -> str:
            move_to_trash(root, row.store.root)
            return row.store.id

        self._loader.load("delete", work, self._on_deleted)

    def _on_deleted(self, found: object) -> None:
        if isinstance(found, Failure):
            self.failed.emit(found.text)
            return
        self._context.runs_changed.emit(RunChange(str(found), "removed"))
        self.deleted.emit()

    @Slot(object, object)
    def _on_notes_edited(self, row: RunRow, notes: RunNotes) -> None:
        try:
            row.store.save_notes(notes)
        except (OSError, So8tError) as error:
            self.failed.emit(self.tr("The note cannot be saved: {why}.").format(why=error))
