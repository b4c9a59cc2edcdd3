"""The training loop: transformers' Trainer with routed gradients and pickle-free checkpoints."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from so8t_engine.model.adapter import load_adapter
from so8t_engine.model.persona_model import Batch, PersonaModel
from so8t_engine.specs import TrainSpec
from so8t_engine.training.checkpoints import load_tree, save_tree
from so8t_engine.training.data import (
    Collator,
    EncodedSample,
    EpochLoader,
    LengthBuckets,
    MicroBatch,
    Passes,
    SampleSet,
    StepCollator,
    TrainBatch,
)
from so8t_engine.training.losses import VerdictLoss, pet, pet_weight, rate_factor, task_loss
from so8t_engine.training.memory import PASS_TOKENS, give_back

OPTIMIZER, SCHEDULER, RANDOM = "optimizer", "scheduler", "random"
TRAINER_STATE = "trainer_state.json"
TRIM_EVERY = 8  # steps between returns of free memory to the system, on the CPU


class PersonaTrainer(Trainer):  # type: ignore[misc]  # transformers has no types
    """Trainer of a :class:`PersonaModel`.

    Attributes:
        parts: sums of the loss parts over the current optimizer step, by metric name.
        collator: makes the passes of a micro-batch.
        frozen_safe: True once late freeze holds R_safe and the safety head still.
        step_samples: samples of the current optimizer step over all processes.
        last_grad_norm: norm of all gradients of the last step, before clipping.
        pass_tokens: most padded tokens of one pass on a GPU; None reads each batch in one pass.
    """

    pass_tokens: int | None = None

    optimizer: Any
    lr_scheduler: Any

    def __init__(
        self,
        model: PersonaModel,
        arguments: TrainingArguments,
        spec: TrainSpec,
        rows: list[EncodedSample],
        collator: Collator,
        verdict_loss: VerdictLoss,
    ) -> None:
        self.persona = model
        self.spec = spec
        self.rows = rows
        budget = PASS_TOKENS if model.device.type == "cpu" else self.pass_tokens
        self.collator = StepCollator(collator, self._passes(model, spec), budget=budget)
        self.verdict_loss = verdict_loss
        self.parts: dict[str, float] = {}
        self._sums: dict[str, Tensor] = {}
        self.frozen_safe = False
        self.step_samples = 1
        self.last_grad_norm = 0.0
        super().__init__(
            model=model, args=arguments, train_dataset=SampleSet(rows), data_collator=self.collator
        )
        # The persona's parts are where they belong (some of them off the device), and gradients are
        # summed over processes by hand: neither placement nor a DDP wrapper is wanted.
        self.accelerator.prepare_model = lambda prepared, **_: prepared
        # A base is loaded for evaluation; until its layers too are told that they train, they keep
        # all activations instead of recomputing them, and dropout does nothing.
        model.train()

    @staticmethod
    def _passes(model: PersonaModel, spec: TrainSpec) -> Passes:
        """Return how the two losses of a step are kept apart, if they have to be."""
        loss = spec.loss
        verdict = bool(loss.w_verdict or loss.w_danger)
        if loss.routing == "joint" or model.gates is None or not (verdict and loss.w_task):
            return "one"
        return "split" if model.device.type == "cuda" else "two"

    def _move_model_to_device(self, model: Any, device: torch.device) -> None:
        """Leave the parts of the model where they are."""

    # -- data ----------------------------------------------------------------------------------

    def get_train_dataloader(self) -> EpochLoader:
        """Return length-bucketed batches; each process reads its slice of every global batch."""
        sampler = LengthBuckets(
            [len(row.ids) for row in self.rows],
            self.spec.optim.batch_size,
            self.spec.seed,
            rank=self.args.process_index,
            world=self.args.world_size,
        )
        return EpochLoader(
            SampleSet(self.rows), batch_sampler=sampler, collate_fn=self.collator, num_workers=0
        )

    def get_batch_samples(
        self, epoch_iterator: Iterator[MicroBatch], num_batches: int, device: torch.device
    ) -> tuple[list[MicroBatch], None]:
        """Fetch the micro-batches of a step and count its samples over all processes."""
        batches = list(itertools.islice(epoch_iterator, num_batches))
        count = torch.tensor(sum(len(batch) for batch in batches), device=device)
        if self.args.world_size > 1:
            dist.all_reduce(count)
        self.step_samples = max(1, int(count))
        return batches, None

    # -- one step ------------------------------------------------------------------------------

    def training_step(
        self, model: nn.Module, inputs: MicroBatch, num_items_in_batch: Any = None
    ) -> Tensor:
        """Forward and backward of one micro-batch; returns its share of the step's loss."""
        persona = self.persona
        if not persona.training:
            persona.train()
        total = torch.zeros((), device=persona.device)
        for rows in inputs.passes:
            part = rows.to(persona.device)
            total = total + self._backward(part, *self._losses(part))
        if self.accelerator.gradient_state.sync_gradients:
            self._finish_step()
            if persona.device.type == "cpu" and self.state.global_step % TRIM_EVERY == 0:
                give_back()
        return total.to(self.args.device)

    def _losses(self, part: TrainBatch) -> tuple[Tensor | None, Tensor | None]:
        """Return the verdict side and the task side of the loss, each a scalar or None."""
        persona, spec = self.persona, self.spec.loss
        scale = 1.0 / self.step_samples
        hidden, head = persona.hidden_states(part.batch)
        sides: dict[str, list[Tensor]] = {"verdict": [], "task": []}
        if len(part.labels):
            logits = persona.verdict_logits(hidden, part.batch.last)
            entropy, danger = self.verdict_loss(logits, part.labels)
            if spec.w_verdict:
                sides["verdict"].append(spec.w_verdict * entropy.sum() * scale)
            if spec.w_danger:
                sides["verdict"].append(spec.w_danger * danger.sum() * scale)
            self._add("verdict_loss", entropy.sum() * scale)
            self._add("danger_loss", danger.sum() * scale)
        if spec.w_task and len(part.reply_rows):
            at_reply = hidden[part.reply_rows, part.reply_positions]
            replies = task_loss(
                persona.lm_logits(at_reply), part.reply_targets, part.reply_rows, len(hidden)
            )
            sides["task"].append(spec.w_task * replies.sum() * scale)
            self._add("task_loss", replies.sum() * scale)
        weight = self._pet_weight()
        if weight and len(part.labels):
            smoothness = self._pet(hidden, head, part.batch).sum() * scale
            sides["verdict" if sides["verdict"] else "task"].append(weight * smoothness)
            self._add("pet", smoothness)
        verdict, task = (torch.stack(terms).sum() if terms else None for terms in sides.values())
        return verdict, task

    def _pet_weight(self) -> float:
        progress = self.state.global_step / max(1, self.state.max_steps)
        return pet_weight(self.spec.loss.pet, progress)

    def _pet(self, hidden: Tensor, head: Tensor | None, batch: Batch) -> Tensor:
        """Return PET over each prompt, ``[V]``: the positions from which a verdict is read."""
        count = len(batch.last)
        positions = torch.arange(hidden.shape[1], device=hidden.device)
        hidden, mask = hidden[:count], batch.mask[:count] & (positions <= batch.last[:, None])
        if head is not None:
            hidden = torch.cat([head[None].expand(count, -1, -1), hidden], dim=1)
            mask = torch.cat([mask.new_ones((count, len(head))), mask], dim=1)
        return pet(hidden, mask)

    def _backward(self, part: TrainBatch, verdict: Tensor | None, task: Tensor | None) -> Tensor:
        """Run the backward pass of one forward pass and book its gradients to their sides."""
        persona, routing = self.persona, self.spec.loss.routing
        losses = [loss for loss in (verdict, task) if loss is not None]
        if not losses:  # only the task loss is on, and no row of this micro-batch has a reply
            return torch.zeros((), device=persona.device)
        total = torch.stack(losses).sum()
        inputs: list[Tensor] = [*persona.lora_parameters(), persona.safety_head.weight]
        if persona.gates is None:
            torch.autograd.backward(total, inputs=inputs)
        else:
            routed = verdict is None or task is None or part.batch.split is not None
            assert routed or routing == "joint", "two losses of a routed step share their rows"
            torch.autograd.backward(total, inputs=[*inputs, *persona.gates.leaves()])
            persona.gates.collect("task" if verdict is None else "verdict")
        self._add("loss", total)
        return total.detach()

    def _finish_step(self) -> None:
        """After the last micro-batch: reduce over processes, reach θ, hold still what is frozen."""
        persona = self.persona
        if self.args.world_size > 1:
            self._reduce_gradients()
        self.parts = self._summed_parts()
        self.parts["pet_weight"] = self._pet_weight()
        if persona.gates is not None:
            persona.gates.finish_step(self.spec.loss.routing)
        for parameter in persona.learned_parameters():
            # A gradient of zero and none at all differ for the optimizer's momentum; which of them
            # a process sees must not depend on how the step's samples are spread.
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if self.state.global_step >= self.spec.schedule.late_freeze * self.state.max_steps:
            self.frozen_safe = True
            persona.safety_head.weight.grad = None
            if persona.gates is not None:
                persona.gates.theta_safe.grad = None

    def _part_names(self) -> list[str]:
        spec = self.spec.loss
        names = ["danger_loss", "loss", "verdict_loss"]
        return names + ["task_loss"] * bool(spec.w_task) + ["pet"] * bool(self._pet_weight())

    def _reduce_gradients(self) -> None:
        """Sum all gradients over the processes; every term was divided by the global count."""
        persona = self.persona
        parameters = [*persona.lora_parameters(), persona.safety_head.weight]
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)
        if persona.gates is not None:
            for gradient in persona.gates.collected_everywhere().values():
                dist.all_reduce(gradient)

    def _summed_parts(self) -> dict[str, float]:
        """Return the loss parts of this step over all micro-batches and processes."""
        sums, self._sums = self._sums, {}
        nothing = torch.zeros((), dtype=torch.float64, device=self.persona.device)
        names = self._part_names()
        values = torch.stack([sums.get(name, nothing) for name in names])
        if self.args.world_size > 1:
            dist.all_reduce(values)
        return dict(zip(names, values.tolist(), strict=True))

    def _add(self, name: str, value: Tensor) -> None:
        """Add to a loss part where it is: reading it now would make the CPU wait for the GPU."""
        value = value.detach().double()
        self._sums[name] = self._sums[name] + value if name in self._sums else value

    def take_parts(self) -> dict[str, float]:
        """Return the loss parts of the step that just ended, and start anew."""
        parts, self.parts = self.parts, {}
        return parts

    def floating_point_ops(self, inputs: Any) -> int:
        """Operations are not counted."""
        return 0

    # -- optimizer -----------------------------------------------------------------------------

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> float:
        """Keep the norm before clipping for the report."""
        self.last_grad_norm = float(super()._get_grad_norm(model, grad_norm=grad_norm))
        return self.last_grad_norm

    def create_optimizer(self, model: Any = None) -> Any:
        """Make AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) with one group a part."""
        if self.optimizer is not None:
            return self.optimizer
        optim, persona = self.spec.optim, self.persona
        groups: list[dict[str, Any]] = []
        lora = list(persona.lora_parameters())
        if lora:
            groups.append(
                {
                    "params": lora,
                    "lr": optim.lr_lora,
                    "weight_decay": optim.weight_decay,
                    "name": "lora",
                }
            )
        if persona.gates is not None:
            # Decay would pull the rotations towards the identity; their size is not a norm.
            groups.append(
                {
                    "params": [persona.gates.theta_safe, persona.gates.theta_cmd],
                    "lr": optim.lr_gates,
                    "weight_decay": 0.0,
                    "name": "gates",
                }
            )
        groups.append(
            {
                "params": [persona.safety_head.weight],
                "lr": optim.lr_head,
                "weight_decay": optim.weight_decay,
                "name": "head",
            }
        )
        self.optimizer = self._optimizer_class()(groups)
        return self.optimizer

    def _optimizer_class(self) -> Any:
        wanted = self.spec.optim.optimizer
        quantized = bool(getattr(self.persona.causal_lm, "is_loaded_in_4bit", False))
        if wanted == "paged_adamw_8bit" or (
            wanted == "auto" and quantized and self.persona.device.type == "cuda"
        ):
            import bitsandbytes

            return bitsandbytes.optim.PagedAdamW8bit
        return torch.optim.AdamW

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Make the warm-up and decay of all learning rates."""
        if self.lr_scheduler is None:
            optim = self.spec.optim
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                optimizer or self.optimizer,
                lambda step: rate_factor(
                    step, num_training_steps, warmup=optim.warmup, schedule=optim.schedule
                ),
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def rates(self) -> dict[str, float]:
        """Return the current learning rates by metric name."""
        assert self.optimizer is not None
        return {f"lr_{group['name']}": group["lr"] for group in self.optimizer.param_groups}

    # -- checkpoints ---------------------------------------------------------------------------

    def save_progress(self, folder: Path) -> None:
        """Write everything besides the weights that an exact resume needs."""
        assert self.optimizer is not None and self.lr_scheduler is not None
        save_tree(folder / OPTIMIZER, self.optimizer.state_dict())
        schedule = self.lr_scheduler.state_dict()
        kept = {key: schedule[key] for key in ("last_epoch", "_step_count", "base_lrs", "_last_lr")}
        save_tree(folder / SCHEDULER, kept)
        save_tree(folder / RANDOM, random_state())
        self.state.save_to_json(str(folder / TRAINER_STATE))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_adapter(self.persona, Path(resume_from_checkpoint))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        assert self.optimizer is not None and self.lr_scheduler is not None
        folder = Path(checkpoint)
        self.optimizer.load_state_dict(load_tree(folder / OPTIMIZER))
        schedule = load_tree(folder / SCHEDULER)
        schedule["lr_lambdas"] = [None] * len(schedule["base_lrs"])  # made anew from the spec
        self.lr_scheduler.load_state_dict(schedule)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            set_random_state(load_tree(Path(checkpoint) / RANDOM))

    def _load_scaler(self, checkpoint: str | None) -> None:
        """Nothing to load: no gradient scaler is used."""


def random_state() -> dict[str, Any]:
    """Return the state of every random generator that training can touch."""
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "python": [version, list(words), gauss],
        "numpy": [
            str(kind),
            [int(key) for key in keys],
            int(position),
            int(has_gauss),
            float(cached),
        ],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Restore what :func:`random_state` returned."""
    version, words, gauss = state["python"]
    random.setstate((int(version), tuple(int(word) for word in words), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, np.asarray(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
