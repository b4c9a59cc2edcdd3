"""Training in real processes: signals, a dead parent, no network, death, two processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from so8t_engine.events import Bye, Checkpoint, Log, Metric, decode_event
from so8t_engine.jobs.runtime import write_command
from so8t_engine.specs import LoraSpec, encode_spec
from so8t_engine.training.checkpoints import verify
from so8t_engine.workspace.personas import Persona
from tests.helpers.tiny_training import make_persona, make_samples, tiny_spec, train
from tests.unit.engine.test_checkpoints import assert_same_end

Bases = Callable[[str], Path]
ROOT = Path(__file__).parents[3]
MODULE = "tests.helpers.child_train"


@pytest.fixture
def persona(tmp_path: Path) -> Persona:
    return make_persona(tmp_path / "persona", make_samples())


class Child:
    """A training process whose events are read while it runs."""

    def __init__(self, arguments: list[str]) -> None:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", MODULE, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        )
        self.stderr = b""
        self._reader = threading.Thread(target=self._drain)
        self._reader.start()

    def _drain(self) -> None:
        assert self.process.stderr is not None
        self.stderr = self.process.stderr.read()

    def events(self) -> Iterator[Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            yield decode_event(line)

    def until_step(self, step: int) -> list[Any]:
        """Read events up to the metrics of a training step."""
        seen = []
        for event in self.events():
            seen.append(event)
            if isinstance(event, Metric) and event.split == "train" and event.step >= step:
                return seen
        raise AssertionError(self.finish())

    def finish(self) -> tuple[int, list[Any], str]:
        """Read to the end; exit code, events, what was printed."""
        rest = list(self.events())
        code = self.process.wait(timeout=60)
        self._reader.join(timeout=10)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        return code, rest, self.stderr.decode("utf-8", "replace")


def long_spec(base: Path, tmp_path: Path, **changes: Any) -> Path:
    settings: dict[str, Any] = {
        "optim_max_steps": 100_000,
        "optim_epochs": 1000.0,
        "schedule_save_every": 0.0,
        "schedule_eval_every": 0.0,
        "schedule_record_rotations_every": 0.0,
    }
    path = tmp_path / "spec.json"
    path.write_bytes(encode_spec(tiny_spec(base, **settings | changes)))
    return path


@pytest.mark.parametrize("how", ["SIGTERM", "closed_stdin"])
def test_every_way_of_stopping_saves_first(
    tiny_base: Bases, persona: Persona, tmp_path: Path, how: str
) -> None:
    spec = long_spec(tiny_base("llama"), tmp_path)
    child = Child([str(persona.root), str(spec), "--events", "--no-network"])
    child.until_step(3)
    assert child.process.stdin is not None
    if how == "SIGTERM":
        child.process.send_signal(signal.SIGTERM)
    else:
        child.process.stdin.close()
    code, events, printed = child.finish()
    assert code == 0, printed
    (run,) = persona.runs()
    assert run.state().state == "cancelled"
    assert isinstance(events[-1], Bye) and events[-1].state == "cancelled"
    saved = [event for event in events if isinstance(event, Checkpoint)]
    assert [event.reason for event in saved] == ["emergency"]
    (checkpoint,) = run.checkpoints()
    assert checkpoint.name == f"step-{saved[0].step:08d}" and verify(checkpoint) == ""
    assert saved[0].step == run.state().step >= 3
    assert "Traceback" not in printed


def test_a_detached_run_outlives_its_window_and_hears_commands_in_its_folder(
    tiny_base: Bases, persona: Persona, tmp_path: Path
) -> None:
    spec = long_spec(tiny_base("llama"), tmp_path)
    child = Child([str(persona.root), str(spec), "--events", "--no-network"])
    child.until_step(2)
    assert child.process.stdin is not None
    child.process.stdin.write(b'{"cmd":"detach"}\n')
    child.process.stdin.flush()
    child.process.stdin.close()
    child.until_step(12)
    (run,) = persona.runs()
    assert run.is_alive(run.state()) and run.state().state == "running"
    write_command(run.commands_path, {"cmd": "stop"})
    code, _, printed = child.finish()
    assert code == 0, printed
    assert run.state().state == "cancelled" and run.checkpoints()
    steps = [event.step for event in run.events() if isinstance(event, Metric)]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) >= 12
    alone = [event.message for event in run.events() if isinstance(event, Log)]
    assert any("goes on in the background" in message for message in alone)


def test_killed_run_resumes_to_the_same_end(
    tiny_base: Bases, persona: Persona, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {
        "optim_epochs": 4.0,
        "schedule_save_every": 0.1,
        "schedule_keep_checkpoints": 50,
        "model_lora": LoraSpec(rank=4, alpha=8.0, dropout=0.1),
    }
    spec = tiny_spec(tiny_base("llama"), **settings)
    path = tmp_path / "spec.json"
    path.write_bytes(encode_spec(spec))
    child = Child([str(persona.root), str(path), "--events"])
    child.until_step(7)
    child.process.kill()
    assert child.finish()[0] == -signal.SIGKILL
    (run,) = persona.runs()
    assert run.state().state == "crashed"
    assert run.checkpoints()
    code, _, resumed = train(spec, persona, resume=run)
    assert code == 0
    _, whole, plain = train(spec, persona)
    assert resumed.losses()[-1] == plain.losses()[-1]
    assert set(resumed.losses()) <= set(plain.losses())
    assert_same_end(whole, run)


def test_two_processes_equal_one_at_equal_global_batch(tiny_base: Bases, tmp_path: Path) -> None:
    # 17 rows in global batches of 4: the last batch leaves a process without any row; and some
    # micro-batches have no reply in one process only.
    samples = make_samples(23)
    alone_persona = make_persona(tmp_path / "alone", samples)
    both_persona = make_persona(tmp_path / "both", samples)
    common: dict[str, Any] = {"optim_epochs": 2.0, "optim_accumulation": 2,
                              "model_prefix_cache": "ram"}  # fmt: skip
    alone = tiny_spec(tiny_base("llama"), optim_batch_size=4, **common)
    both = tiny_spec(tiny_base("llama"), optim_batch_size=2, **common)
    path = tmp_path / "both.json"
    path.write_bytes(encode_spec(both))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    launched = _launch(environment, both_persona, path)
    assert launched[0] == 0, launched[2]
    code, one, recorder = train(alone, alone_persona)
    assert code == 0
    (run,) = both_persona.runs()  # one process makes the run folder
    events = [decode_event(line) for line in launched[1].splitlines()]
    found = [event for event in events if isinstance(event, Metric) and event.split == "train"]
    assert [event.step for event in found] == [step for step, _ in recorder.losses()]
    for name in ("loss", "verdict_loss", "danger_loss", "task_loss", "pet", "grad_norm"):
        assert [event.values[name] for event in found] == pytest.approx(
            [value for _, value in recorder.losses(name)], rel=2e-4, abs=1e-6
        ), name
    assert len([event for event in events if isinstance(event, Bye)]) == 1
    stored = [event for event in run.events() if isinstance(event, Metric)]
    assert [event.step for event in stored if event.split == "train"] == [
        event.step for event in found
    ]
    from safetensors.torch import load_file

    for file in ("gates.safetensors", "head.safetensors"):
        left, right = (load_file(store.checkpoints()[-1] / file) for store in (one, run))
        for name, value in left.items():
            assert (value - right[name]).abs().max() < 1e-3, name


def _launch(environment: dict[str, str], persona: Persona, spec: Path) -> tuple[int, bytes, str]:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
        "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
        "--main_process_port", str(port), "-m", MODULE, str(persona.root), str(spec), "--events",
    ]  # fmt: skip
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    )
    assert process.stdout is not None and process.stderr is not None and process.stdin is not None
    printed: list[bytes] = []
    reader = threading.Thread(target=lambda: printed.append(process.stderr.read()))  # type: ignore[union-attr]
    reader.start()
    out = process.stdout.read()
    code = process.wait(timeout=200)
    reader.join()
    for stream in (process.stdin, process.stdout, process.stderr):
        stream.close()
    return code, out, b"".join(printed).decode("utf-8", "replace")


def test_threads_of_a_job_do_not_spin_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment is set before torch can read it, and a user's own choice is kept."""
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    code = (
        "import os, sys; from so8t_engine.jobs.runtime import run_job;"
        "say = lambda job: print('torch' in sys.modules, os.environ['GOMP_SPINCOUNT']) or '';"
        "run_job('x', say, events=False)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}

    def ask(**more: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", code],
            env=environment | more,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout.strip()

    assert ask() == "False 10000"
    assert ask(GOMP_SPINCOUNT="7") == "False 7"
