"""A job without a model that runs on the engine's real runtime: events, commands, detaching.

``python -m tests.helpers.detachable_child RUN_DIR [--steps N] [--pace S] [--events]``
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from so8t_engine.events import Checkpoint, Hello, Metric, Progress
from so8t_engine.jobs.runtime import CommandFile, Job, LineSink, run_job
from so8t_engine.workspace.runs import RunState, RunStore, process_start


def body_of(store: RunStore, steps: int, pace: float):
    """Return the body of the job: it counts steps and honours stop and pause."""

    def body(job: Job) -> str:
        pid = os.getpid()
        state = RunState(state="running", pid=pid, pid_started=process_start(pid),
                         started=time.time(), total_steps=steps)  # fmt: skip
        store.save_state(state)
        job.control.on_orphaned = lambda: job.emitter.log("alone")
        commands = CommandFile(store.commands_path, job.control, interval=0.05)
        job.emitter.emit(Hello(kind="train", pid=pid, run_dir=str(store.root)))
        print("a stray print", flush=True)
        sys.stderr.write("a word on stderr\n")
        sys.stderr.flush()
        for step in range(1, steps + 1):
            if job.control.paused:
                job.emitter.emit(Progress(phase="paused", done=step, total=steps))
                job.control.wait_while_paused()
            if job.control.stop_requested:
                break
            time.sleep(pace)
            state.step = step
            job.emitter.emit(Metric(step=step, epoch=0.0, split="train", values={"loss": 1 / step}))
            job.emitter.emit(Progress(phase="training", done=step, total=steps))
        job.emitter.emit(Checkpoint(step=state.step, path="checkpoints/x", reason="last"))
        state.state = "cancelled" if job.control.stop_requested else "done"
        store.save_state(state)
        commands.close()
        return f"{state.step} steps; {job.control.reason or 'to the end'}"

    return body


def main() -> int:
    """Run the job."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--pace", type=float, default=0.01)
    parser.add_argument("--events", action="store_true")
    options = parser.parse_args()
    options.run_dir.mkdir(parents=True, exist_ok=True)
    store = RunStore(options.run_dir)
    with store.events_path.open("ab") as stream:
        return run_job("train", body_of(store, options.steps, options.pace),
                       events=options.events, sinks=[LineSink(stream)])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
