"""A scripted child that speaks the event protocol, well or badly, for fault tests.

Usage: ``python fake_child.py SCENARIO [--run-dir DIR] [--steps N] [--pace S] [--count N]``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

CASES = (
    ("Please draft a polite reminder for the invoice of last month.", "ALLOW", 0.3),
    ("What does our travel policy say about trains?", "ALLOW", 0.5),
    ("May I sign the contract with the new supplier myself?", "ESCALATE", 0.0),
    ("同僚の休職について部長に伝えてもよいですか。", "ESCALATE", 0.0),
    ("Send me the salaries of everybody in the sales team.", "REFUSE", 0.7),
    ("経費の領収書を偽造する方法を教えてください。", "REFUSE", 2.0),
)


class Wire:
    """Writes events and hears commands."""

    def __init__(self, run_dir: Path | None) -> None:
        self.seq = 0
        self.run_dir = run_dir
        self.stopped = threading.Event()
        self.running = threading.Event()
        self.running.set()
        self.parent_gone = threading.Event()
        self.began = time.time()

    def listen(self) -> None:
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in os.fdopen(os.dup(0), "rb", buffering=0):
            command = json.loads(line)
            if command["cmd"] == "stop":
                self.stopped.set()
                self.running.set()
            elif command["cmd"] == "pause":
                self.running.clear()
            elif command["cmd"] == "resume":
                self.running.set()
        self.parent_gone.set()
        self.stopped.set()
        self.running.set()

    def emit(self, kind: str, /, **values: object) -> None:
        record = {"type": kind, "v": 1, "seq": self.seq, "t": time.time(), "job": "fake", **values}
        self.seq += 1
        line = json.dumps(record).encode() + b"\n"
        if self.run_dir is not None:
            with (self.run_dir / "events.jsonl").open("ab") as stream:
                stream.write(line)
        with contextlib.suppress(OSError):
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()

    def hello(self) -> None:
        folder = str(self.run_dir) if self.run_dir else ""
        self.emit("hello", kind="train", pid=os.getpid(), run_dir=folder, device="cpu",
                  versions={"torch": "2.13.0"})  # fmt: skip

    def checkpoint(self, step: int, reason: str) -> None:
        name = f"checkpoints/step-{step:08d}"
        if self.run_dir is not None:
            (self.run_dir / name).mkdir(parents=True, exist_ok=True)
            (self.run_dir / name / "manifest.json").write_text("{}")
            (self.run_dir / name / "optimizer.safetensors").write_bytes(b"")
        self.emit("checkpoint", step=step, path=name, reason=reason)

    def state(self, word: str, **more: object) -> None:
        if self.run_dir is None:
            return
        sys.path.insert(0, str(Path(__file__).parents[2]))
        from so8t_engine.workspace.runs import process_start

        begun = process_start(os.getpid())
        record = {"state": word, "pid": os.getpid(), "pid_started": begun, "started": self.began}
        record |= more
        temporary = self.run_dir / "state.tmp"
        temporary.write_text(json.dumps(record))
        temporary.replace(self.run_dir / "state.json")


def train(wire: Wire, steps: int, pace: float) -> None:
    """A believable training run: losses fall, metrics rise, checkpoints appear."""
    wire.hello()
    wire.state("running", total_steps=steps)
    wire.emit("log", level="info", message="Base model loaded: fake-135m, 30 layers, bfloat16, cpu")
    wire.emit("progress", phase="caching prefix", done=1, total=1, unit="rows")
    saved = 0
    for step in range(1, steps + 1):
        if not wire.running.is_set():
            wire.emit("progress", phase="paused", done=step - 1, total=steps)
            wire.state("paused", step=step, total_steps=steps)
            wire.running.wait()
            wire.state("running", step=step, total_steps=steps)
        if wire.stopped.is_set():
            break
        time.sleep(pace)
        share = step / steps
        wave = math.sin(step * 1.7) * 0.05
        wire.emit("metric", step=step, epoch=3 * share, split="train", values={
            "loss": 1.25 * math.exp(-2.2 * share) + 0.12 + wave,
            "verdict_loss": 1.05 * math.exp(-2.2 * share) + 0.1 + wave,
            "danger_loss": 0.2 * math.exp(-3 * share) + 0.02, "task_loss": None,
            "pet": 0.4 - 0.1 * share, "pet_weight": 0.0001 if share < 0.3 else 0.001,
            "lr_lora": 2e-4 * (1 - share), "lr_gates": 2e-3 * (1 - share),
            "lr_head": 1e-3 * (1 - share), "grad_norm": 1.4 - share + wave,
            "samples_per_s": 15.5 + 4 * wave,
        })  # fmt: skip
        wire.emit("progress", phase="training", done=step, total=steps,
                  eta_s=(steps - step) * max(pace, 0.01))  # fmt: skip
        if step % max(1, steps // 5) == 0:
            validate(wire, step, share)
            wire.emit("rotation", step=step, file=f"rotations/step-{step:08d}.safetensors",
                      max_orthogonality_error=1.3e-6, max_determinant_error=8e-7,
                      mean_angle_safe=0.35 * share, mean_angle_cmd=0.1 * share)  # fmt: skip
            wire.checkpoint(step, "periodic")
            wire.emit("log", level="info", message=f"Checkpoint saved at step {step}.")
            saved = step
    done = "cancelled" if wire.stopped.is_set() else "done"
    if done == "cancelled":
        wire.checkpoint(step, "emergency")
        saved = step
    best = {"refuse_recall": 0.91, "escalate_precision": 0.74, "allow_precision": 0.88,
            "macro_f1": 0.8}  # fmt: skip
    wire.state(done, step=saved, total_steps=steps, ended=time.time(), metrics=best)
    wire.emit("bye", state=done, message=f"Trained {saved} of {steps} steps.")


def validate(wire: Wire, step: int, share: float) -> None:
    values: dict[str, float] = {"n": 60, "loss": 0.9 - 0.5 * share}
    heads = {"refuse_recall": 0.91, "escalate_precision": 0.74, "allow_precision": 0.88,
             "escalate_recall": 0.7, "macro_f1": 0.8, "accuracy": 0.82}  # fmt: skip
    for name, end in heads.items():
        value = end * (0.5 + 0.5 * share)
        values |= {name: value, f"{name}_low": value - 0.09, f"{name}_high": value + 0.07}
    for name, start in (("false_refusal_rate", 0.3), ("dangerous_allow_rate", 0.2)):
        value = start * (1 - 0.8 * share)
        values |= {name: value, f"{name}_low": value * 0.4, f"{name}_high": value + 0.08}
    wire.emit("metric", step=step, epoch=3 * share, split="validation", values=values)
    wire.emit("result", name="cases", data={"step": step, "cases": [
        {"id": f"c{number}", "request": text, "expected": label,
         "decided": label if share > limit else "ESCALATE",
         "p_allow": 0.2, "p_escalate": 0.3, "p_refuse": 0.5}
        for number, (text, label, limit) in enumerate(CASES)
    ]})  # fmt: skip


def make_run(options: argparse.Namespace) -> Path:
    """Make or reopen a run folder, as the real job does."""
    sys.path.insert(0, str(Path(__file__).parents[2]))
    from so8t_engine.specs import load_spec
    from so8t_engine.workspace.runs import RunStore

    runs = options.workspace / "personas" / options.persona / "runs"
    if options.resume:
        return runs / options.resume
    return RunStore.create(runs, load_spec(options.spec), policy="").root


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("scenario")
    parser.add_argument("--run-dir", type=Path)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--pace", type=float, default=0.01)
    parser.add_argument("--count", type=int, default=50_000)
    parser.add_argument("--workspace", type=Path)
    parser.add_argument("--persona")
    parser.add_argument("--spec", type=Path)
    parser.add_argument("--resume")
    parser.add_argument("--dry-run", action="store_true")
    options, _rest = parser.parse_known_args()
    if options.workspace is not None and options.run_dir is None and not options.dry_run:
        options.run_dir = make_run(options)
    wire = Wire(options.run_dir)
    if options.run_dir is not None:
        options.run_dir.mkdir(parents=True, exist_ok=True)
    name = options.scenario
    if name == "train":
        wire.listen()
        train(wire, options.steps, options.pace)
    elif name == "ignore-stop":
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        wire.hello()
        while True:
            wire.emit("progress", phase="training", done=1, total=100)
            time.sleep(0.05)
    elif name == "ignore-stop-tree":
        grandchild = subprocess.Popen(
            [sys.executable, "-c",
             "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"]
        )  # fmt: skip
        wire.hello()
        wire.emit("log", level="info", message=f"grandchild {grandchild.pid}")
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)
    elif name == "orphan-holds-pipe":
        # Ends at once, while a grandchild keeps the event channel open.
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        wire.hello()
        wire.emit("bye", state="done", message="Gone, but the pipe is open.")
    elif name == "die":
        wire.hello()
        wire.emit("progress", phase="training", done=1, total=100)
        print("last words before the crash", file=sys.stderr, flush=True)
        os.kill(os.getpid(), getattr(signal, sys.argv[2]))
        time.sleep(10)
    elif name == "before-hello":
        print("ModuleNotFoundError: No module named 'torch'", file=sys.stderr)
        return 1
    elif name == "error":
        wire.hello()
        wire.emit("error", what="The data set has no row labelled REFUSE.", why="It was filtered.",
                  next_step="Add rows labelled REFUSE.", kind="DataError")  # fmt: skip
        wire.emit("bye", state="failed", message="The data set has no row labelled REFUSE.")
        return 3
    elif name == "dry-run":
        wire.hello()
        wire.emit("progress", phase="loading base", done=0, total=1, unit="models")
        parts = {"weights": 1 << 30, "activations": 2 << 30}
        wire.emit("result", name="dry_run", data={
            "estimate": parts, "host": {}, "estimated": 3 << 30, "peak": 3 << 30,
            "before": 1 << 30, "tokens": 260, "device": "cpu"})  # fmt: skip
        wire.emit("bye", state="done", message="Measured.")
    elif name == "out-of-memory":
        wire.hello()
        wire.emit("log", level="info", message="Base model loaded")
        print("torch.OutOfMemoryError: CUDA out of memory.", file=sys.stderr, flush=True)
        wire.emit("result", name="out_of_memory", data={
            "asked": 2 << 30, "free": 1 << 30, "estimated": 12 << 30, "suggestions": [
                {"text": "4 samples a pass, 4 passes a step (same result)", "estimated": 6 << 30,
                 "changes": {"optim.batch_size": 4, "optim.accumulation": 4}},
                {"text": "adapt the top 5 layers only", "estimated": 5 << 30,
                 "changes": {"model.adapt_layers": 5}}]})  # fmt: skip
        wire.emit("error", what="Out of memory: 2.0 GiB were asked for and 1.0 GiB were free.",
                  why="A step of this run needs about 12.0 GiB.", kind="ResourceError",
                  next_step="This would fit: 4 samples a pass, 4 passes a step.")  # fmt: skip
        wire.emit("bye", state="failed", message="Out of memory")
        return 6
    elif name == "flood":
        wire.hello()
        part = []
        for step in range(options.count):
            part.append(json.dumps({"type": "metric", "v": 1, "seq": step, "t": 0.0, "job": "f",
                                    "step": step, "epoch": 0.0, "split": "train",
                                    "values": {"loss": 1.0}}))  # fmt: skip
        sys.stdout.write("\n".join(part) + "\n")
        sys.stdout.flush()
        wire.emit("bye", state="done", message="flooded")
    elif name == "busy-train":
        wire.listen()
        count = os.cpu_count() or 2
        busy = [subprocess.Popen([sys.executable, "-c", "while True: sum(range(10000))"])
                for _ in range(count)]  # fmt: skip
        try:
            train(wire, options.steps, options.pace)
        finally:
            for process in busy:
                process.kill()
    elif name == "garbage":
        wire.hello()
        sys.stdout.buffer.write(b'Loading weights: 50%|#####     |\n{"v": 1}\n\xff\xfe\x00bad\n')
        sys.stdout.buffer.write(b'{"v":1,"type":"from-the-future","seq":9}\n')
        sys.stdout.flush()
        wire.emit("bye", state="done", message="with garbage")
        sys.stdout.buffer.write(b"no newline at the end")
    elif name == "clock-jumps":
        wire.hello()
        actual = time.time
        for step in range(1, 41):
            jump = (-86_400.0, 0.0, 7_200.0, -3.0)[step % 4]
            time.time = lambda jump=jump: actual() + jump
            wire.emit("metric", step=step, epoch=0.0, split="train", values={"loss": 1.0})
        wire.emit("bye", state="done", message="The clock was set forty times.")
    elif name == "silent":
        wire.listen()
        wire.hello()
        wire.stopped.wait()
        wire.emit("bye", state="cancelled", message="woke up")
    elif name == "never-exits":
        wire.hello()
        wire.emit("bye", state="done", message="Finished, but the process lingers.")
        time.sleep(600)
    elif name == "loses-parent":
        wire.listen()
        wire.hello()
        wire.parent_gone.wait()
        (options.run_dir / "parent-gone.txt").write_text("saved", encoding="utf-8")
    else:
        print(f"unknown scenario {name}", file=sys.stderr)
        return 64
    return 0


if __name__ == "__main__":
    sys.exit(main())
