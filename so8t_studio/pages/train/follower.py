"""Feeds the live panel: a running job, or a recorded run, with its whole history."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import QObject, Signal, Slot

from so8t_engine.events import AnyEvent
from so8t_engine.workspace.runs import RunStore
from so8t_studio.jobs.background import Failure, Loader
from so8t_studio.jobs.handle import JobHandle
from so8t_studio.jobs.state import JobState
from so8t_studio.pages.train.live_panel import LivePanel
from so8t_studio.pages.train.run_feed import Digest, digest, newer


class Follower(QObject):
    """``moved()`` after metrics or checkpoints, ``run_known(str)`` when a job names its run,
    ``failed(Failure)`` if a history cannot be read.
    """

    moved = Signal()
    run_known = Signal(str)
    failed = Signal(object)

    def __init__(self, panel: LivePanel, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._panel = panel
        self._loader = Loader(self)
        self._handle: JobHandle | None = None
        self._shown = ""
        self._live = False
        self._waiting: list[AnyEvent] | None = None
        self._last = Digest().last  # where the history ended that was read

    @property
    def shown(self) -> str:
        """Session id of the run that is shown, empty for none."""
        return self._shown

    def clear(self, label: str) -> None:
        """Show nothing."""
        self._let_go()
        self._shown = ""
        self._panel.clear(label)

    def follow(self, handle: JobHandle) -> None:
        """Show a job live; what it reported before is read from its folder."""
        self._let_go()
        self._handle = handle
        self._live = True
        self._panel.clear(handle.request.title)
        handle.events.connect(self._on_events)
        handle.state_changed.connect(self._on_state_changed)
        folder = handle.state.run_dir
        self._shown = folder.name if folder is not None else ""
        if folder is not None:
            self._label(live=not handle.state.is_final)
            self._load(RunStore(folder))

    def show_store(self, store: RunStore, handle: JobHandle | None) -> None:
        """Show a run from its folder, live if it is the run of ``handle``."""
        if handle is not None and not handle.state.is_final and handle.state.run_dir == store.root:
            self.follow(handle)
            return
        self._live = False
        self._shown = store.id
        self._panel.clear("")
        self._label(live=False)
        self._load(store)

    def _let_go(self) -> None:
        if self._handle is not None:
            self._handle.events.disconnect(self._on_events)
            self._handle.state_changed.disconnect(self._on_state_changed)
        self._handle = None
        self._live = False
        self._waiting = None
        self._last = Digest().last
        self._loader.cancel("history")

    def _label(self, *, live: bool) -> None:
        word = self.tr("Run {run}, live") if live else self.tr("Run {run}, recorded")
        self._panel.set_label(word.format(run=self._shown))

    def _load(self, store: RunStore) -> None:
        # What the job says meanwhile waits, so that no point is lost and none counts twice.
        self._waiting = []
        self._loader.load("history", lambda: digest(store.events()), self._on_history_ready)

    def _on_history_ready(self, found: object) -> None:
        waiting, self._waiting = self._waiting or [], None
        if isinstance(found, Digest):
            self._take(found)
            self._last = found.last
        elif isinstance(found, Failure):
            self.failed.emit(found)
        waiting = self._unread(waiting)
        if waiting and self._live:
            self._take(self._panel.digest(waiting))

    def _unread(self, events: Sequence[AnyEvent]) -> list[AnyEvent]:
        """Return what the history did not hold; from the first such event on, all that comes."""
        found = newer(events, self._last)
        if found:
            self._last = Digest().last
        return found

    def _take(self, found: Digest) -> None:
        self._panel.take_digest(found)
        if found.progress is not None and found.progress.phase == "training":
            self._panel.set_total_steps(int(found.progress.total))

    @Slot(object)
    def _on_events(self, batch: tuple[AnyEvent, ...]) -> None:
        if not self._live:
            return
        if self._waiting is not None:
            self._waiting.extend(batch)
            return
        found = self._panel.digest(self._unread(batch))
        self._take(found)
        if found.validation or found.marks:
            self.moved.emit()

    @Slot(object)
    def _on_state_changed(self, state: JobState) -> None:
        if self._live and state.run_dir is not None and state.run_dir.name != self._shown:
            self._shown = state.run_dir.name
            self._label(live=True)
            self.run_known.emit(self._shown)
        if self._live and state.is_final and self._shown:
            self._panel.set_label(self.tr("Run {run}, as it ended").format(run=self._shown))
