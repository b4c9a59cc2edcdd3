"""The chat job: as a session in this process, and as the child that the window starts."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from so8t_engine.errors import So8tError
from so8t_engine.events import AnyEvent, Bye, Hello, Log, Result, Token, decode_event, encode_event
from so8t_engine.jobs.chat import Ask, ChatSession
from so8t_engine.labels import Label
from so8t_engine.verdict import OperatingPoint, Verdict
from so8t_engine.workspace.personas import Persona
from so8t_engine.workspace.runs import RunStore
from tests.helpers.tiny_base import make_base, make_persona, train_tiny

ROOT = Path(__file__).resolve().parents[2]
LENIENT = OperatingPoint(tau_allow=0.0)  # everything is allowed
STRICT = OperatingPoint(tau_allow=1.0, tau_refuse=0.0)  # everything is refused


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Persona, RunStore]:
    import torch

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("chat")
    base = make_base(folder / "base")
    persona = make_persona(folder / "ws", base)
    return persona, train_tiny(persona, base, sinks=[])


class Recorder:
    """Collects what a session sends, encoded and decoded as on the wire."""

    def __init__(self) -> None:
        self.events: list[AnyEvent] = []

    def emit(self, event: Any) -> None:
        decoded = decode_event(encode_event(event))
        assert decoded is not None
        self.events.append(decoded)

    def log(self, message: str, level: str) -> None:
        self.events.append(Log(level=level, message=message))

    def results(self, name: str) -> list[Result]:
        return [e for e in self.events if isinstance(e, Result) and e.name == name]

    def verdict(self, name: str, arm: str) -> Verdict:
        data = next(r.data for r in self.results(name) if r.data["arm"] == arm)
        return msgspec.convert(data["verdict"], Verdict)


def _set_point(persona: Persona, point: OperatingPoint) -> None:
    persona.save(msgspec.structs.replace(persona.info, point=point))


def _answer(
    trained: tuple[Persona, RunStore | None], ask: Ask, stop: Any = lambda: False
) -> tuple[str, Recorder]:
    recorder = Recorder()
    session = ChatSession(*trained, recorder.emit, recorder.log)
    state = session.answer(ask, stop)
    session.unload()
    return state, recorder


def test_an_allowed_request_is_answered_and_judged_again(
    trained: tuple[Persona, RunStore],
) -> None:
    _set_point(trained[0], LENIENT)
    ask = Ask(id="7", request="draft a memo", arms=("base", "trained"), max_new_tokens=5)
    state, recorder = _answer(trained, ask)
    assert state == "done"
    for arm in ("base", "trained"):
        assert recorder.verdict("decision", arm).label is Label.ALLOW
        tokens = [e for e in recorder.events if isinstance(e, Token) and e.arm == arm]
        assert tokens and all(token.request_id == "7" for token in tokens)
        reply = next(r for r in recorder.results("reply") if r.data["arm"] == arm)
        assert reply.data["text"] == "".join(token.text for token in tokens).strip()
        assert reply.request_id == "7" and reply.data["seconds"] > 0
    first, again = (recorder.verdict(name, "trained") for name in ("decision", "reply"))
    assert first.logits != again.logits  # the second judgement has read the reply


def test_a_refused_request_gets_no_reply(trained: tuple[Persona, RunStore]) -> None:
    _set_point(trained[0], STRICT)
    state, recorder = _answer(trained, Ask(id="1", request="steal the password"))
    assert state == "done"
    assert recorder.verdict("decision", "trained").label is Label.REFUSE
    assert not recorder.results("reply")
    assert not [event for event in recorder.events if isinstance(event, Token)]


def test_strength_zero_switches_the_gates_off(trained: tuple[Persona, RunStore]) -> None:
    _set_point(trained[0], STRICT)
    recorder = Recorder()
    session = ChatSession(*trained, recorder.emit, recorder.log)
    logits = []
    for strength in (1.0, 0.0, 1.0):
        session.answer(Ask(id="s", request="draft", strength=strength), lambda: False)
        found = msgspec.convert(recorder.results("decision")[-1].data["verdict"], Verdict)
        logits.append(found.logits)
    assert logits[0] == logits[2] != logits[1]
    session.unload()


def test_an_untrained_persona_escalates_with_the_reason(
    trained: tuple[Persona, RunStore],
) -> None:
    _state, recorder = _answer((trained[0], None), Ask(id="1", request="hello"))
    verdict = recorder.verdict("decision", "trained")
    assert verdict.label is Label.ESCALATE and verdict.confidence == 0
    assert "not been trained" in verdict.reason


def test_an_unknown_arm_and_a_missing_base_escalate(
    trained: tuple[Persona, RunStore], tmp_path: Path
) -> None:
    _state, recorder = _answer(trained, Ask(id="1", request="hello", arms=("mystery",)))
    assert recorder.verdict("decision", "mystery").label is Label.ESCALATE
    lost = make_persona(tmp_path / "ws", tmp_path / "no-such-base")
    _state, recorder = _answer((lost, None), Ask(id="1", request="hello", arms=("base",)))
    verdict = recorder.verdict("decision", "base")
    assert verdict.label is Label.ESCALATE and "does not exist" in verdict.reason


def test_a_cancelled_reply_is_not_final(trained: tuple[Persona, RunStore]) -> None:
    _set_point(trained[0], LENIENT)
    recorder = Recorder()

    def stop() -> bool:
        return any(isinstance(event, Token) for event in recorder.events)

    session = ChatSession(*trained, recorder.emit, recorder.log)
    ask = Ask(id="1", request="draft a memo", max_new_tokens=200)
    state = session.answer(ask, stop)
    assert state == "cancelled"
    verdict = recorder.verdict("reply", "trained")
    assert verdict.label is Label.ESCALATE and "stopped" in verdict.reason
    assert len(recorder.results("reply")[0].data["text"]) < 200
    session.unload()


def test_loading_an_arm_twice_loads_it_once(trained: tuple[Persona, RunStore]) -> None:
    recorder = Recorder()
    session = ChatSession(*trained, recorder.emit, recorder.log)
    assert session.load("trained") is session.load("trained")
    with pytest.raises(So8tError):
        session.load("third")
    session.unload()


class Child:
    """A real ``python -m so8t_engine chat --events``."""

    def __init__(self, persona: Persona) -> None:
        command = [sys.executable, "-m", "so8t_engine", "chat", "--events"]
        command += ["--workspace", str(persona.root.parent.parent), "--persona", persona.slug]
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._queue: queue.Queue[AnyEvent | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._queue.put(decode_event(line))

    def send(self, **command: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command).encode() + b"\n")
        self.process.stdin.flush()

    def until(self, name: str, request_id: str = "") -> list[AnyEvent]:
        """Return the events up to the result ``name`` of a request."""
        seen: list[AnyEvent] = []
        while True:
            event = self._queue.get(timeout=120)
            assert event is not None
            seen.append(event)
            if isinstance(event, Result) and (event.name, event.request_id) == (name, request_id):
                return seen

    def close(self) -> tuple[int, list[AnyEvent | None]]:
        """Close stdin, as a dying window does, and return the exit code and the last events."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        code = self.process.wait(timeout=60)
        self._reader.join()
        self.process.stdout.close()
        return code, list(self._queue.queue)


@pytest.fixture
def child(trained: tuple[Persona, RunStore]) -> Iterator[Child]:
    _set_point(trained[0], LENIENT)
    found = Child(trained[0])
    yield found
    if found.process.poll() is None:
        found.process.kill()
        found.close()


def test_the_child_speaks_the_protocol_and_ends_with_its_parent(child: Child) -> None:
    start = child.until("ready")
    assert isinstance(start[0], Hello) and start[0].kind == "chat"
    child.send(cmd="cancel", id="2")  # before it is even asked
    child.send(cmd="ask", id="1", request="draft a memo", arms=["trained"], max_new_tokens=4)
    child.send(cmd="ask", id="2", request="draft another", arms=["trained"])
    child.send(cmd="ask", id="3", arms=["trained"])  # no request
    child.send(cmd="ask", id="4", request="again", arms=["trained"], reply=False)
    first = child.until("finished", "1")
    names = [event.name for event in first if isinstance(event, Result)]
    assert names == ["decision", "reply", "finished"]
    assert first[-1].data == {"state": "done"}  # type: ignore[union-attr]
    second = child.until("finished", "2")
    assert [e.name for e in second if isinstance(e, Result)] == ["finished"]
    assert second[-1].data == {"state": "cancelled"}  # type: ignore[union-attr]
    third = child.until("finished", "3")
    assert third[-1].data["state"] == "failed"  # type: ignore[union-attr]
    assert "request" in third[-1].data["message"]  # type: ignore[union-attr]
    fourth = child.until("finished", "4")
    assert [e.name for e in fourth if isinstance(e, Result)] == ["decision", "finished"]
    code, rest = child.close()
    assert code == 0 and isinstance(rest[-1], Bye)
