"""The services that pages receive, and the few announcements that concern all of them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PySide6.QtCore import QObject, Signal

from so8t_engine.errors import So8tError, WorkspaceError

if TYPE_CHECKING:
    from so8t_engine.workspace.personas import Persona
    from so8t_engine.workspace.workspace import Workspace
    from so8t_studio.jobs.service import JobService
    from so8t_studio.jobs.telemetry import TelemetryService
    from so8t_studio.models.dataset_store import DatasetStore
    from so8t_studio.settings import Settings
    from so8t_studio.theme import Theme

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunChange:
    """A run of the open persona changed.

    Attributes:
        run_id: session id, empty when the list as a whole changed.
        reason: ``added``, ``moved`` (state or metrics), ``finished`` or ``removed``.
    """

    run_id: str
    reason: str


@dataclass(frozen=True)
class Navigation:
    """A wish to show a page, with something for the page to act on."""

    page: str
    payload: object = None


class AppContext(QObject):
    """What is open, and the services around it. Created once by the application."""

    persona_changed = Signal(object)
    """Persona | None: another persona was opened."""
    persona_edited = Signal(object)
    """Persona: name, policy, base model or operating point of the open persona changed."""
    personas_changed = Signal()
    """Personas were created, renamed or deleted."""
    runs_changed = Signal(object)
    """RunChange."""
    navigation_requested = Signal(object)
    """Navigation."""
    message_posted = Signal(str, str)
    """Kind (info, success, warning, error) and one sentence for the user."""

    def __init__(
        self,
        workspace: Workspace,
        settings: Settings,
        theme: Theme,
        jobs: JobService,
        telemetry: TelemetryService,
        dataset: DatasetStore,
        parent: QObject | None = None,
    ) -> None:
        super().__init__(parent)
        self.workspace = workspace
        self.settings = settings
        self.theme = theme
        self.jobs = jobs
        self.telemetry = telemetry
        self.dataset = dataset
        self.persona: Persona | None = None
        self._switch_guards: list[Callable[[], bool]] = []

    def open_persona(self, slug: str) -> None:
        """Open a persona and its dataset.

        Raises:
            WorkspaceError: if there is no such persona or its files cannot be read; the persona
                that was open stays open.
        """
        persona = self.workspace.persona(slug)
        try:
            self.dataset.load(persona)
        except So8tError:
            raise
        except OSError as error:
            raise WorkspaceError(
                f"The dataset of {slug} cannot be read: {error.strerror}.",
                next_step="Check that the file exists and may be read.",
            ) from error
        self.persona = persona
        self.settings.update(persona=slug)
        self.persona_changed.emit(persona)

    def request_persona(self, slug: str) -> bool:
        """Open a persona as the user asked, unless a guard refuses; errors become a message.

        Guards are asked in turn, so that a page can offer to save first.
        """
        if not self.may_switch():
            return False
        try:
            self.open_persona(slug)
        except So8tError as error:
            log.warning("The persona %s cannot be opened: %s", slug, error)
            self.post("error", str(error))
            return False
        return True

    def may_switch(self) -> bool:
        """Ask the guards whether the open persona may be left, e.g. to save edits first."""
        return all(guard() for guard in self._switch_guards)

    def add_switch_guard(self, guard: Callable[[], bool]) -> None:
        """Ask ``guard`` before another persona is opened by the user; False keeps this one."""
        self._switch_guards.append(guard)

    def close_persona(self) -> None:
        """Leave no persona open."""
        self.persona = None
        self.persona_changed.emit(None)

    def navigate(self, page: str, payload: object = None) -> None:
        """Ask the window to show ``page``."""
        self.navigation_requested.emit(Navigation(page, payload))

    def post(self, kind: str, sentence: str) -> None:
        """Show one sentence to the user for a while."""
        self.message_posted.emit(kind, sentence)
