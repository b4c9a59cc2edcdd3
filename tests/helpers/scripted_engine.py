"""A stand-in for the engine's `eval` and `chat` processes that speaks their protocol exactly.

It uses the engine's own runtime, so that events, commands, stopping and exit codes are the real
ones; only the model is missing. What it should do wrong is said in the data file or the request.
"""

from __future__ import annotations

import argparse
import os
import queue
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from so8t_engine.errors import BaseModelError, So8tError
from so8t_engine.evaluation.metrics import as_values, summarize_rows
from so8t_engine.events import Hello, Progress, Result, Token
from so8t_engine.jobs.runtime import Control, Job, run_job
from so8t_engine.labels import Label
from so8t_engine.verdict import OperatingPoint, decide, escalate_because
from so8t_engine.workspace.workspace import Workspace
from tests.helpers.evaluations import make_evaluation, write_evaluation

LOGITS = {
    Label.ALLOW: (3.0, 0.0, -1.0),
    Label.ESCALATE: (0.0, 3.0, 0.0),
    Label.REFUSE: (-1.0, 0.0, 3.0),
}


def _evaluate(options: argparse.Namespace) -> int:
    persona = Workspace.open(options.workspace, exclusive=False).persona(options.persona)
    run = next(run for run in persona.runs() if run.id == options.run)

    def body(job: Job) -> str:
        job.emitter.emit(Hello(kind="eval", pid=os.getpid(), run_dir=str(run.root)))
        if options.data.endswith("broken.jsonl"):
            raise So8tError("broken.jsonl, row 3, label: 'MAYBE' is no label.", next_step="Fix it.")
        if options.data.endswith("crash.jsonl"):
            os._exit(3)
        job.emitter.emit(Progress(phase="loading base", done=0, total=1))
        rows = [row for row in run.samples() if row.split == "validation"]
        slow = options.data.endswith("slow.jsonl")
        for done in range(len(rows)):
            if job.control.stop_requested:
                return "The evaluation was stopped; nothing was saved."
            job.emitter.emit(
                Progress(phase="evaluating", done=done, total=len(rows), unit="rows", eta_s=2.0)
            )
            time.sleep(0.2 if slow else 0.001)
        job.emitter.log("1 request was longer than the model reads and was cut.", "warning")
        base = options.arm == "base"
        name = Path(options.data).stem
        evaluation = make_evaluation(
            rows,
            name=f"base-{name}" if base else name,
            run="base" if base else run.id,
            checkpoint="" if base else "step-00000040",
            skill=0.2 if base else 3.0,
        )
        write_evaluation(run, evaluation)
        path = run.evaluations_dir / f"{evaluation.name}.json"
        metrics = as_values(summarize_rows(evaluation))
        job.emitter.emit(Result(name="evaluation", data={"path": str(path), "metrics": metrics}))
        return f"{len(rows)} rows evaluated."

    return run_job(run.id, body, events=True)


def _label(request: str) -> Label:
    return next((label for label in Label if label.value.lower() in request), Label.ESCALATE)


def _answer(job: Job, ask: dict[str, Any], cancelled: set[str]) -> str:
    request, number = str(ask["request"]), str(ask["id"])
    if "crash" in request:
        os._exit(9)
    for arm in ask["arms"]:
        label = _label(request) if arm == "trained" or "same" in request else Label.ALLOW
        if arm == "trained" and ask["strength"] == 0:
            label = Label.ALLOW
        verdict = decide(LOGITS[label], OperatingPoint())
        if "broken" in request and arm == "trained":
            verdict = escalate_because("The model could not read this request.")
        data = {"arm": arm, "verdict": msgspec.to_builtins(verdict)}
        job.emitter.emit(Result(name="decision", request_id=number, data=data))
        if verdict.label is not Label.ALLOW or not ask["reply"]:
            continue
        text = ""
        for piece in ("Here ", "are ", "three ", "points."):
            for _ in range(60 if "slowly" in request else 1):
                if number in cancelled or job.control.stop_requested:
                    break
                time.sleep(0.02 if "slowly" in request else 0.001)
            if number in cancelled or job.control.stop_requested:
                break
            text += piece
            job.emitter.emit(Token(request_id=number, arm=arm, text=piece))
        again = decide(LOGITS[Label.REFUSE if "leak" in request else Label.ALLOW], OperatingPoint())
        if number in cancelled:
            again = escalate_because("The reply was stopped before it was complete.")
        data = {"arm": arm, "text": text, "seconds": 0.1, "verdict": msgspec.to_builtins(again)}
        job.emitter.emit(Result(name="reply", request_id=number, data=data))
        if number in cancelled:
            return "cancelled"
    return "done"


def _chat(options: argparse.Namespace) -> int:
    asks: queue.Queue[dict[str, Any]] = queue.Queue()
    cancelled: set[str] = set()

    def receive(command: dict[str, Any]) -> None:
        if command["cmd"] == "ask":
            asks.put(command)
        elif command["cmd"] == "cancel":
            cancelled.add(command["id"])

    control = Control(on_command=receive)

    def body(job: Job) -> str:
        job.emitter.emit(Hello(kind="chat", pid=os.getpid()))
        if os.environ.get("SO8T_TEST_NO_BASE"):
            raise BaseModelError("The base model is not here.", next_step="Fetch it first.")
        job.emitter.emit(Progress(phase="loading base", done=0, total=1, message="trained"))
        job.emitter.emit(Result(name="ready", data={}))
        while not control.stop_requested:
            try:
                ask = asks.get(timeout=0.05)
            except queue.Empty:
                continue
            state = _answer(job, ask, cancelled)
            job.emitter.emit(
                Result(name="finished", request_id=str(ask["id"]), data={"state": state})
            )
        return "The chat ended."

    return run_job("chat", body, events=True, control=control)


def main() -> int:
    """Do what the first argument says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("eval", "chat"))
    parser.add_argument("--workspace", type=Path)
    parser.add_argument("--persona")
    parser.add_argument("--run")
    parser.add_argument("--data", default="")
    parser.add_argument("--arm", default="trained")
    parser.add_argument("--events", action="store_true")
    options = parser.parse_args()
    return _evaluate(options) if options.what == "eval" else _chat(options)


if __name__ == "__main__":
    sys.exit(main())
