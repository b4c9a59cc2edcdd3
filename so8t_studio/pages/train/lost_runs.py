"""The newest run, where it ended without a word: offered for resume until that is dismissed."""

from __future__ import annotations

from PySide6.QtCore import QObject, Signal, Slot

from so8t_studio.context import AppContext
from so8t_studio.jobs.reattach import Living, attach
from so8t_studio.pages.train.runs_model import RunRow
from so8t_studio.widgets.banner import Banner

FORM = "train:orphans"
REMEMBERED = 20


class LostRuns(QObject):
    """Looks through each list of runs: follows what lives, offers what was lost.

    ``resume_requested(RunRow)`` when the user takes the offer.
    """

    resume_requested = Signal(object)

    def __init__(self, context: AppContext, banner: Banner, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._context = context
        self._banner = banner
        self._row: RunRow | None = None
        banner.action_triggered.connect(self._on_action_triggered)
        banner.dismissed.connect(self._on_dismissed)

    def follow_living(self, rows: list[RunRow]) -> None:
        """Follow a run that goes on outside of this window: left behind, or begun in a terminal."""
        persona = self._context.persona
        if persona is None or self._context.workspace.read_only:
            return
        for row in rows:
            if row.active:
                living = Living(persona.slug, persona.name, row.store, row.state)
                title = self.tr("Train {name}").format(name=persona.name)
                attach(self._context.jobs, living, title)

    def offer(self, rows: list[RunRow], own: str) -> None:
        """Offer the newest run if it was lost; ``own`` is the run that the page shows anyway.

        Older ones are left alone: whoever began another run since then has moved on.
        """
        newest = [row for row in rows[:1] if row.store.id not in (own, *self._dismissed())]
        lost = [row for row in newest if row.state.state == "crashed"]
        if not lost:
            self._banner.clear()
            return
        self._row = row = lost[0]
        action = self.tr("Resume") if row.resumable else ""
        self._banner.show_message(
            "warning",
            self.tr("The run {run} ended without a word at step {step}. Its figures are kept.")
            .format(run=row.store.id, step=row.state.step),
            action="" if self._context.workspace.read_only else action,
        )  # fmt: skip

    def _dismissed(self) -> list[str]:
        found = self._context.settings.form(FORM).get("dismissed")
        return [str(name) for name in found] if isinstance(found, list) else []

    @Slot()
    def _on_dismissed(self) -> None:
        """Do not speak of this run again, not at the next start either."""
        if self._row is not None:
            kept = [*self._dismissed(), self._row.store.id][-REMEMBERED:]
            self._context.settings.save_form(FORM, {"dismissed": kept})

    @Slot()
    def _on_action_triggered(self) -> None:
        self._banner.clear()
        if self._row is not None:
            self.resume_requested.emit(self._row)
