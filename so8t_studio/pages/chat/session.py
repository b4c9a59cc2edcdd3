"""The conversation's process as the page sees it: load, ask, cancel, unload."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec
from PySide6.QtCore import QObject, Signal, Slot

from so8t_engine.events import AnyEvent, Progress, Result, Token
from so8t_engine.verdict import Verdict, escalate_because
from so8t_studio.jobs.handle import JobHandle
from so8t_studio.jobs.request import JobRequest
from so8t_studio.jobs.service import JobService
from so8t_studio.jobs.state import JobState, Phase

BASE, TRAINED = "base", "trained"


class ModelState(StrEnum):
    """What can be done with the model now."""

    UNLOADED = "unloaded"
    WAITING = "waiting"
    LOADING = "loading"
    READY = "ready"
    ANSWERING = "answering"
    UNLOADING = "unloading"


@dataclass
class Answer:
    """What one arm said; None where it has not said it yet."""

    verdict: Verdict | None = None
    text: str = ""
    reply_verdict: Verdict | None = None
    seconds: float = 0.0
    done: bool = False


@dataclass
class Exchange:
    """One question with its answers.

    Attributes:
        id: number within this window.
        request: what was typed.
        context: the situation.
        strength: of the rotations.
        run_id: the run that answered as ``trained``.
        arms: who was asked, in order.
        answers: by arm.
        cancelled: True if the user stopped it.
        finished: True once nothing more comes.
        asked: seconds since the epoch.
    """

    id: str
    request: str
    context: str
    strength: float
    run_id: str
    arms: tuple[str, ...]
    answers: dict[str, Answer] = field(default_factory=dict)
    cancelled: bool = False
    finished: bool = False
    asked: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        for arm in self.arms:
            self.answers.setdefault(arm, Answer())


class ChatSession(QObject):
    """Owns at most one `chat` process. Questions asked before it is ready wait for it.

    Signals: ``state_changed(ModelState)``, ``exchange_changed(Exchange)`` for anything new in it,
    ``exchange_finished(Exchange)``, ``failed(JobState)`` when the process ended badly.
    """

    state_changed = Signal(object)
    exchange_changed = Signal(object)
    exchange_finished = Signal(object)
    failed = Signal(object)

    def __init__(self, jobs: JobService, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._jobs = jobs
        self._handle: JobHandle | None = None
        self._state = ModelState.UNLOADED
        self._numbers = itertools.count(1)
        self._open: dict[str, Exchange] = {}
        self._unsent: list[Exchange] = []
        self._reload: tuple[Path, str, str] | None = None
        self.run_id = ""
        self.note = ""
        self.loading_arm = ""
        jobs.job_added.connect(self._on_job_added)

    @property
    def state(self) -> ModelState:
        """What can be done with the model now."""
        return self._state

    @property
    def loaded(self) -> bool:
        """True if a process exists or is on its way."""
        return self._handle is not None

    @property
    def current(self) -> Exchange | None:
        """The question that is being answered."""
        return next(iter(self._open.values()), None)

    # -- process --------------------------------------------------------------------------------
    def load(self, workspace: Path, persona: str, run_id: str) -> None:
        """Start the process for a run; another one that is loaded is unloaded first."""
        if self._handle is not None:
            if self.run_id == run_id and self._state is not ModelState.UNLOADING:
                return
            self._reload = (workspace, persona, run_id)
            self.unload()
            return
        self.run_id, self.note, self.loading_arm = run_id, "", ""
        args = ["chat", "--workspace", str(workspace), "--persona", persona]
        args += ["--run", run_id] if run_id else []
        args.append("--events")
        handle = self._jobs.start(
            JobRequest(
                kind="chat",
                args=args,
                needs_gpu=True,
                title=self.tr("Chat with {run}").format(run=run_id or self.tr("the base model")),
                persona=persona,
            )
        )
        self._handle = handle
        handle.events.connect(self._on_events)
        handle.state_changed.connect(self._on_job_state_changed)
        handle.ended.connect(self._on_ended)
        self._set_state(ModelState.WAITING)

    def unload(self) -> None:
        """End the process; an answer that is being written ends with it."""
        if self._handle is None:
            return
        self._set_state(ModelState.UNLOADING)
        self._handle.stop()

    def kill(self) -> None:
        """End the process now."""
        if self._handle is not None:
            self._handle.kill()

    # -- questions ------------------------------------------------------------------------------
    def ask(
        self, request: str, context: str, *, arms: tuple[str, ...], strength: float, run_id: str
    ) -> Exchange:
        """Send a question, or keep it until the model is ready."""
        exchange = Exchange(
            id=str(next(self._numbers)),
            request=request,
            context=context,
            strength=strength,
            run_id=run_id,
            arms=arms,
        )
        self._open[exchange.id] = exchange
        if self._state in (ModelState.READY, ModelState.ANSWERING):
            self._send(exchange)
        else:
            self._unsent.append(exchange)
        return exchange

    def cancel(self) -> None:
        """Stop the answer that is being written."""
        exchange = self.current
        if exchange is None:
            return
        exchange.cancelled = True
        if exchange in self._unsent:
            self._unsent.remove(exchange)
            self._finish(exchange, escalate_because(self.tr("Stopped before it was asked.")))
        elif self._handle is not None:
            self._handle.send({"cmd": "cancel", "id": exchange.id})

    def _send(self, exchange: Exchange) -> None:
        assert self._handle is not None
        self._handle.send(
            {
                "cmd": "ask",
                "id": exchange.id,
                "context": exchange.context,
                "request": exchange.request,
                "arms": list(exchange.arms),
                "strength": exchange.strength,
                "reply": True,
            }
        )
        self._set_state(ModelState.ANSWERING)

    # -- events ---------------------------------------------------------------------------------
    @Slot(object)
    def _on_events(self, batch: tuple[AnyEvent, ...]) -> None:
        changed: dict[str, Exchange] = {}
        for event in batch:
            if isinstance(event, Token):
                exchange = self._open.get(event.request_id)
                if exchange is not None and event.arm in exchange.answers:
                    exchange.answers[event.arm].text += event.text
                    changed[exchange.id] = exchange
            elif isinstance(event, Result):
                self._on_result(event, changed)
            elif isinstance(event, Progress) and event.phase == "loading base":
                self.loading_arm = event.message if event.done < event.total else ""
                self.state_changed.emit(self._state)
        for exchange in changed.values():
            self.exchange_changed.emit(exchange)

    def _on_result(self, event: Result, changed: dict[str, Exchange]) -> None:
        if event.name == "ready":
            self._set_state(ModelState.READY)
            waiting, self._unsent = self._unsent, []
            for exchange in waiting:
                self._send(exchange)
            return
        exchange = self._open.get(event.request_id)
        if exchange is None:
            return
        arm = str(event.data.get("arm", ""))
        answer = exchange.answers.get(arm)
        if event.name == "decision" and answer is not None:
            answer.verdict = read_verdict(event.data.get("verdict"))
            changed[exchange.id] = exchange
        elif event.name == "reply" and answer is not None:
            answer.text = str(event.data.get("text", answer.text))
            answer.seconds = float(event.data.get("seconds", 0.0))
            answer.reply_verdict = read_verdict(event.data.get("verdict"))
            answer.done = True
            changed[exchange.id] = exchange
        elif event.name == "finished":
            changed.pop(exchange.id, None)
            reason = str(event.data.get("message", "")) or (
                self.tr("Stopped on request.")
                if exchange.cancelled
                else self.tr("The model gave no decision.")
            )
            self._finish(exchange, escalate_because(reason))

    def _finish(self, exchange: Exchange, otherwise: Verdict) -> None:
        """Close an exchange; an arm that said nothing decides ``otherwise``."""
        self._open.pop(exchange.id, None)
        exchange.finished = True
        for answer in exchange.answers.values():
            if answer.verdict is None:
                answer.verdict = otherwise
            elif answer.text and answer.reply_verdict is None:
                answer.reply_verdict = otherwise
            answer.done = True
        if self._state is ModelState.ANSWERING and not self._open:
            self._set_state(ModelState.READY)
        self.exchange_changed.emit(exchange)
        self.exchange_finished.emit(exchange)
        self._give_way()

    @Slot(object)
    def _on_job_state_changed(self, state: JobState) -> None:
        if state.phase is Phase.STARTING or (
            state.phase is Phase.RUNNING and self._state is ModelState.WAITING
        ):
            self._set_state(ModelState.LOADING)
        elif state.phase is Phase.QUEUED:
            self._set_state(ModelState.WAITING)
        elif state.phase is Phase.STOPPING:
            self._set_state(ModelState.UNLOADING)

    @Slot(object)
    def _on_ended(self, state: JobState) -> None:
        self._handle = None
        self._unsent.clear()
        bad = state.phase in (Phase.FAILED, Phase.CRASHED)
        reason = state.sentence if bad else self.tr("The model was unloaded.")
        self._set_state(ModelState.UNLOADED)
        for exchange in list(self._open.values()):
            self._finish(exchange, escalate_because(reason))
        if bad:
            self.failed.emit(state)
        if self._reload is not None:
            wanted, self._reload = self._reload, None
            self.load(*wanted)

    # -- making room ----------------------------------------------------------------------------
    @Slot(object)
    def _on_job_added(self, handle: JobHandle) -> None:
        if handle.request.needs_gpu and handle is not self._handle:
            self._give_way()

    def _give_way(self) -> None:
        """Unload an idle model when another heavy job waits for its place."""
        if self._state is not ModelState.READY:
            return
        if any(job is not self._handle and job.request.needs_gpu for job in self._jobs.queued()):
            self.note = self.tr("Unloaded to make room for another job.")
            self.unload()

    def _set_state(self, state: ModelState) -> None:
        if state is not self._state:
            self._state = state
            self.state_changed.emit(state)


def read_verdict(value: Any) -> Verdict:
    """Return the verdict that an event carries; anything else decides ESCALATE."""
    try:
        return msgspec.convert(value, Verdict)
    except msgspec.ValidationError as error:
        return escalate_because(f"The answer could not be read: {error}.")
