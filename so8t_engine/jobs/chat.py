"""A conversation with the trained persona and its base model, in a process of its own.

Commands come on stdin: ``{"cmd": "ask", "id", "context", "request", "arms", "strength",
"reply"}`` and ``{"cmd": "cancel", "id"}``. For each arm a ``decision`` is sent, then, on ALLOW,
``token`` events and a ``reply`` with the verdict on the request *and* that reply. A question ends
with a result ``finished``. End of file unloads the models and ends the process.
"""

from __future__ import annotations

import gc
import os
import queue
import time
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Struct

from so8t_engine.errors import So8tError
from so8t_engine.events import Hello, Progress, Result, Token
from so8t_engine.jobs.decide import judge
from so8t_engine.jobs.questions import Question
from so8t_engine.jobs.runtime import Control, Job, run_job
from so8t_engine.jobs.selection import build_decider
from so8t_engine.labels import Label
from so8t_engine.verdict import Verdict, escalate_because
from so8t_engine.workspace.personas import Persona
from so8t_engine.workspace.runs import RunStore

ARMS = ("base", "trained")
MAX_NEW_TOKENS = 256
_POLL_SECONDS = 0.2


class Ask(Struct, frozen=True, kw_only=True):
    """One question to one or both arms.

    Attributes:
        id: comes back as ``request_id`` of every event.
        request: what the user typed.
        context: the situation, if it matters.
        arms: ``base``, ``trained`` or both, in the order of the answers.
        strength: 0 switches the gates off, 1 is as trained.
        reply: write an answer after ALLOW.
        max_new_tokens: longest answer.
    """

    id: str
    request: str
    context: str = ""
    arms: tuple[str, ...] = ("trained",)
    strength: float = 1.0
    reply: bool = True
    max_new_tokens: int = MAX_NEW_TOKENS


class ChatSession:
    """Answers questions one after the other; models are loaded when an arm is first asked.

    Args:
        persona: whose operating point decides (read anew for every question).
        run: the trained run; None while there is none.
        emit: receives ``Result``, ``Token`` and ``Progress`` events.
        log: receives (message, level).
    """

    def __init__(
        self,
        persona: Persona,
        run: RunStore | None,
        emit: Callable[[Any], None],
        log: Callable[[str, str], None],
    ) -> None:
        self._persona = persona
        self._run = run
        self._emit = emit
        self._log = log
        self._deciders: dict[str, Any] = {}

    def load(self, arm: str) -> Any:
        """Return the model of an arm, loading it the first time.

        Raises:
            So8tError: if it cannot be loaded.
        """
        if arm not in ARMS:
            raise So8tError(f"There is no arm {arm!r}.", next_step=f"Use {' or '.join(ARMS)}.")
        if arm not in self._deciders:
            self._emit(Progress(phase="loading base", done=0, total=1, message=arm))
            self._deciders[arm] = build_decider(
                self._persona, self._run, arm, lambda message: self._log(message, "info")
            )
            self._emit(Progress(phase="loading base", done=1, total=1, message=arm))
        return self._deciders[arm]

    def unload(self) -> None:
        """Drop the models and give their memory back."""
        self._deciders.clear()
        gc.collect()

    def answer(self, ask: Ask, stop: Callable[[], bool]) -> str:
        """Answer with every arm; return ``done`` or ``cancelled``."""
        for arm in ask.arms:
            if stop():
                return "cancelled"
            self._answer_arm(ask, arm, stop)
        return "cancelled" if stop() else "done"

    def _answer_arm(self, ask: Ask, arm: str, stop: Callable[[], bool]) -> None:
        question = Question(request=ask.request, context=ask.context)
        point = self._persona.info.point
        try:
            decider = self.load(arm)
            if arm == "trained":
                decider.strength = ask.strength
            verdict = judge(decider, [question], point, cancelled=stop)[0]
        except InterruptedError:
            return
        except Exception as error:  # noqa: BLE001 - whatever fails decides ESCALATE
            self._log(f"The {arm} model cannot answer: {error}", "error")
            self._send("decision", ask.id, arm, verdict=escalate_because(str(error)))
            return
        self._send("decision", ask.id, arm, verdict=verdict)
        if verdict.label is Label.ALLOW and ask.reply:
            self._reply(ask, arm, decider, stop)

    def _reply(self, ask: Ask, arm: str, decider: Any, stop: Callable[[], bool]) -> None:
        started = time.perf_counter()
        pieces: list[str] = []
        failure = ""
        try:
            for piece in decider.stream_reply(
                ask.context, ask.request, max_new_tokens=ask.max_new_tokens, stop=stop
            ):
                pieces.append(piece)
                self._emit(Token(request_id=ask.id, arm=arm, text=piece))
        except Exception as error:  # noqa: BLE001 - whatever fails decides ESCALATE
            failure = f"The reply failed: {error}"
            self._log(failure, "error")
        text = "".join(pieces).strip()
        if stop():
            failure = "The reply was stopped before it was complete."
        if failure:
            verdict = escalate_because(failure)
        elif not text:
            verdict = escalate_because("The model gave no reply.")
        else:
            point = self._persona.info.point
            again = Question(decider.reply_request(ask.request, text), context=ask.context)
            verdict = judge(decider, [again], point)[0]
        seconds = time.perf_counter() - started
        self._send("reply", ask.id, arm, text=text, seconds=seconds, verdict=verdict)

    def _send(self, name: str, request_id: str, arm: str, *, verdict: Verdict, **more: Any) -> None:
        data = {"arm": arm, **more, "verdict": msgspec.to_builtins(verdict)}
        self._emit(Result(name=name, request_id=request_id, data=data))


class _Inbox:
    """Commands from the reader thread: questions to answer and questions to stop."""

    def __init__(self) -> None:
        self.asks: queue.Queue[dict[str, Any]] = queue.Queue()
        self._cancelled: set[str] = set()

    def receive(self, command: dict[str, Any]) -> None:
        """Take one decoded command; called on the reader thread."""
        if command.get("cmd") == "ask":
            self.asks.put(command)
        elif command.get("cmd") == "cancel":
            self._cancelled.add(str(command.get("id", "")))

    def is_cancelled(self, request_id: str) -> bool:
        """Tell whether a question is not wanted any more."""
        return request_id in self._cancelled

    def forget(self, request_id: str) -> None:
        """Let the id of an answered question be used again."""
        self._cancelled.discard(request_id)


def _serve(job: Job, session: ChatSession, inbox: _Inbox) -> None:
    """Answer until the parent closes stdin or asks to stop."""
    while not job.control.stop_requested:
        try:
            command = inbox.asks.get(timeout=_POLL_SECONDS)
        except queue.Empty:
            continue
        command.pop("cmd")
        try:
            ask = msgspec.convert(command, Ask)
        except msgspec.ValidationError as error:
            bad = str(command.get("id", ""))
            job.emitter.log(f"A question could not be read: {error}", "error")
            data = {"state": "failed", "message": str(error)}
            job.emitter.emit(Result(name="finished", request_id=bad, data=data))
            continue

        def stop(wanted: str = ask.id) -> bool:
            return job.control.stop_requested or inbox.is_cancelled(wanted)

        state = session.answer(ask, stop)
        inbox.forget(ask.id)
        job.emitter.emit(Result(name="finished", request_id=ask.id, data={"state": state}))


def run(persona: Persona, store: RunStore | None) -> int:
    """Serve questions on stdin as this process's job and return the exit code."""
    inbox = _Inbox()
    control = Control(on_command=inbox.receive)

    def body(job: Job) -> str:
        run_dir = str(store.root) if store is not None else ""
        job.emitter.emit(Hello(kind="chat", pid=os.getpid(), run_dir=run_dir))
        session = ChatSession(persona, store, job.emitter.emit, job.emitter.log)
        try:
            session.load("trained" if store is not None else "base")
            job.emitter.emit(Result(name="ready", data={}))
            _serve(job, session, inbox)
        finally:
            session.unload()
        return "The chat ended."

    return run_job("chat", body, events=True, control=control)
