"""Turns the Trainer's callbacks into events, evaluations, recordings and checkpoints."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from so8t_engine.evaluation.metrics import (
    as_values,
    decide_logits,
    refuse_recall_at_false_refusal_rate,
    summarize,
)
from so8t_engine.evaluation.watched_cases import case_verdicts
from so8t_engine.events import Checkpoint, Metric, Progress, Rotation, number_to_wire
from so8t_engine.jobs.runtime import Job
from so8t_engine.model.adapter import save_adapter
from so8t_engine.model.header import AdapterHeader
from so8t_engine.model.inference import verdict_logits
from so8t_engine.model.persona_model import PersonaModel
from so8t_engine.rotations.recording import record
from so8t_engine.specs import ScheduleSpec
from so8t_engine.training.checkpoints import prune, set_best, write_checkpoint
from so8t_engine.training.data import EncodedSample
from so8t_engine.training.trainer import PersonaTrainer
from so8t_engine.verdict import OperatingPoint, probabilities
from so8t_engine.workspace.atomic import write_bytes
from so8t_engine.workspace.runs import RunState, RunStore

REPORTER = "reporter.json"


@dataclass
class ReporterParts:
    """What a reporter works on. ``main`` is True in the one process that writes files."""

    job: Job
    run: RunStore
    model: PersonaModel
    header: AdapterHeader
    schedule: ScheduleSpec
    validation: list[EncodedSample]
    point: OperatingPoint
    main: bool = True


class Reporter(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Watches one training run.

    Attributes:
        state: what is known of the run; saved about once a second.
        best: criterion value of the best checkpoint so far, or None.
        collapsed: the sentence of the collapse alarm, or empty.
    """

    def __init__(self, parts: ReporterParts, state: RunState) -> None:
        self.parts = parts
        self.state = state
        self.best: tuple[float, float] | None = None
        self.best_recall = 0.0
        self.collapsed = ""
        self.trainer: PersonaTrainer | None = None
        self._started = 0.0
        self._start_step = 0
        self._paused_s = 0.0
        self._last_saved_state = 0.0
        self._last_step_end = 0.0
        self._evaluated_at = -1

    def restore(self, checkpoint: Path) -> None:
        """Take up the best result so far from a checkpoint."""
        best, self.best_recall = msgspec.json.decode(
            (checkpoint / REPORTER).read_bytes(), type=tuple[tuple[float, float] | None, float]
        )
        self.best = best

    # -- callbacks -----------------------------------------------------------------------------

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Record where the rotations start."""
        self._started = self._last_step_end = time.monotonic()
        self._start_step = state.global_step
        self.state.total_steps = state.max_steps
        self._save_state("running", force=True)
        if state.global_step == 0:
            self._record_rotations(0)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Report the step, do what is due at it, and honour stop and pause."""
        assert self.trainer is not None
        step, total = state.global_step, state.max_steps
        self._report_step(state, total)
        schedule = self.parts.schedule
        if due(step, total, schedule.record_rotations_every):
            self._record_rotations(step)
        if due(step, total, schedule.eval_every):
            self._evaluate(state)
        if due(step, total, schedule.save_every):
            self.save(step, total, "last" if step == total else "periodic")
        self._honour_control(state, control)

    def _honour_control(self, state: TrainerState, control: TrainerControl) -> None:
        job = self.parts.job
        if job.control.paused and not job.control.stop_requested:
            self._save_state("paused", force=True)
            job.emitter.log(f"Paused after step {state.global_step}.")
            self._emit(Progress(phase="paused", done=state.global_step, total=state.max_steps))
            before = time.monotonic()
            job.control.wait_while_paused()
            self._paused_s += time.monotonic() - before
            self._last_step_end = time.monotonic()
            self._save_state("running", force=True)
            job.emitter.log("Resumed.")
        stop = job.control.stop_requested
        if self.trainer is not None and self.trainer.args.world_size > 1:
            stop = _any_process(stop)
        if stop or self.collapsed:
            control.should_training_stop = True
            self.save(state.global_step, state.max_steps, "emergency" if stop else "last")

    # -- reporting -----------------------------------------------------------------------------

    def _report_step(self, state: TrainerState, total: int) -> None:
        assert self.trainer is not None
        now = time.monotonic()
        values = {name: number_to_wire(value) for name, value in self.trainer.take_parts().items()}
        values |= {name: number_to_wire(value) for name, value in self.trainer.rates().items()}
        norm = self.trainer.last_grad_norm
        values["grad_norm"] = number_to_wire(norm)
        seconds = max(now - self._last_step_end, 1e-9)
        values["samples_per_s"] = number_to_wire(self.trainer.step_samples / seconds)
        self._last_step_end = now
        step, epoch = state.global_step, float(state.epoch or 0.0)
        self._emit(Metric(step=step, epoch=epoch, split="train", values=values))
        elapsed = now - self._started - self._paused_s
        done = max(1, step - self._start_step)
        eta = elapsed / done * (total - step)
        self._emit(Progress(phase="training", done=step, total=total, eta_s=eta))
        self.state.step = step
        self._save_state("stopping" if self.parts.job.control.stop_requested else "running")

    def _emit(self, event: Any) -> None:
        if self.parts.main:
            self.parts.job.emitter.emit(event)

    def _save_state(self, state: str, *, force: bool = False) -> None:
        now = time.monotonic()
        if self.parts.main and (force or now - self._last_saved_state >= 1.0):
            self.state.state = state
            self.parts.run.save_state(self.state)
            self._last_saved_state = now

    def _record_rotations(self, step: int) -> None:
        bank = self.parts.model.gates
        if bank is None or not self.parts.main:
            return
        path = record(bank, self.parts.run.rotations_dir, step=step)
        name = path.relative_to(self.parts.run.root).as_posix()
        health = bank.health()
        self._emit(
            Rotation(
                step=step,
                file=name,
                max_orthogonality_error=health["max_orthogonality_error"],
                max_determinant_error=health["max_determinant_error"],
                mean_angle_safe=health["mean_angle_safe"],
                mean_angle_cmd=health["mean_angle_cmd"],
            )
        )

    def _evaluate(self, state: TrainerState) -> None:
        """Measure the validation split; a better result than before becomes the best checkpoint."""
        parts = self.parts
        if not parts.validation or self._evaluated_at == state.global_step:
            return
        self._evaluated_at = state.global_step
        assert self.trainer is not None
        if parts.main:
            self._evaluate_here(state)
        self._last_step_end = time.monotonic()
        if self.trainer.args.world_size > 1:
            self.collapsed = _from_main(self.collapsed)

    def _evaluate_here(self, state: TrainerState) -> None:
        parts = self.parts
        assert self.trainer is not None
        logits = verdict_logits(
            parts.model,
            parts.validation,
            self.trainer.collator.collator,
            batch_size=max(16, self.trainer.spec.optim.batch_size),
            progress=lambda done, total: self._emit(
                Progress(phase="evaluating", done=done, total=total, unit="samples")
            ),
        )
        labels = np.array([row.label for row in parts.validation])
        probs = probabilities(logits, parts.point.temperature)
        metrics = summarize(labels, decide_logits(logits, parts.point))
        values = as_values(metrics)
        chosen = np.take_along_axis(probabilities(logits), labels[:, None], axis=1)
        values["loss"] = float(-np.log(np.clip(chosen, 1e-12, None)).mean())
        bound = parts.schedule.max_false_refusal_rate
        found = refuse_recall_at_false_refusal_rate(probs, labels, bound)
        values["refuse_recall_at_frr"] = found.value
        self._emit(
            Metric(
                step=state.global_step,
                epoch=float(state.epoch or 0.0),
                split="validation",
                values={name: number_to_wire(value) for name, value in values.items()},
            )
        )
        self.state.metrics = values
        self._emit(case_verdicts(parts.run, labels, logits, parts.point, state.global_step))
        self._judge(state, values)

    def _judge(self, state: TrainerState, values: dict[str, float | None]) -> None:
        schedule = self.parts.schedule
        f1 = values["macro_f1"] or 0.0
        at_bound = values["refuse_recall_at_frr"] or 0.0
        by_f1 = schedule.best_metric == "macro_f1"
        criterion = (f1, at_bound) if by_f1 else (at_bound, f1)
        if self.best is None or criterion > self.best:
            self.best = criterion
            folder = self.save(state.global_step, state.max_steps, "best")
            if folder is not None:
                set_best(self.parts.run, folder)
                self.state.best_step = state.global_step
                self.state.best_metrics = values
        recall = values["refuse_recall"] or 0.0
        self.best_recall = max(self.best_recall, recall)
        if self.best_recall - recall > schedule.collapse_drop:
            self.collapsed = (
                f"Training stopped at step {state.global_step}: Refuse Recall fell from"
                f" {self.best_recall:.2f} to {recall:.2f}. The best checkpoint was kept."
            )
            self.parts.job.emitter.log(self.collapsed, "warning")

    def save(self, step: int, total: int, reason: str) -> Path | None:
        """Write a checkpoint (main process only) and announce it."""
        parts = self.parts
        if not parts.main:
            return None
        trainer = self.trainer
        assert trainer is not None

        def fill(folder: Path) -> None:
            save_adapter(parts.model, folder, parts.header, step=step)
            trainer.save_progress(folder)
            write_bytes(folder / REPORTER, msgspec.json.encode([self.best, self.best_recall]))

        folder = write_checkpoint(parts.run, step, total, reason, fill)
        prune(parts.run, parts.schedule.keep_checkpoints)
        name = folder.relative_to(parts.run.root).as_posix()
        self._emit(Checkpoint(step=step, path=name, reason=reason))
        return folder


def due(step: int, total: int, share: float) -> bool:
    """Tell whether something that happens every ``share`` of all steps happens at ``step``.

    The last step always counts; a share of 0 means only then.
    """
    if step == total:
        return True
    if share <= 0:
        return False
    return step % max(1, round(share * total)) == 0


def _any_process(flag: bool) -> bool:
    import torch
    import torch.distributed as dist

    value = torch.tensor(int(flag))
    if dist.get_backend() == "nccl":
        value = value.cuda()
    dist.all_reduce(value)
    return bool(value)


def _from_main(text: str) -> str:
    import torch.distributed as dist

    box: list[Any] = [text]
    dist.broadcast_object_list(box, src=0)
    return str(box[0])
