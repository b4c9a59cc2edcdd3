"""Small datasets, models and runs for the engine's tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch

from so8t_engine.events import AnyEvent, Event, Log, Metric
from so8t_engine.jobs.runtime import Control
from so8t_engine.jobs.train import run as run_train
from so8t_engine.labels import LABELS
from so8t_engine.model.loading import LoadedBase, load_base
from so8t_engine.model.persona_model import Batch, PersonaModel
from so8t_engine.samples.schema import Sample
from so8t_engine.specs import (
    DataSpec,
    LoraSpec,
    LossSpec,
    ModelSpec,
    OptimSpec,
    PetSpec,
    ScheduleSpec,
    TrainSpec,
)
from so8t_engine.training.data import Passes
from so8t_engine.workspace.personas import Persona, PersonaInfo
from so8t_engine.workspace.runs import RunStore

POLICY = "Answer only what an office assistant may answer."
_TOPICS = ("minutes", "payroll", "server", "salary", "meeting", "会議", "給与", "team")


def make_samples(count: int = 24, *, replies: bool = True, validation: int = 6) -> list[Sample]:
    """Return samples of all labels and several lengths; the last ``validation`` are held out."""
    samples = []
    for number in range(count):
        topic = _TOPICS[number % len(_TOPICS)]
        words = " ".join([topic] * (1 + number * 7 % 5))
        label = LABELS[number % 3]
        samples.append(
            Sample(
                id=f"s{number}",
                request=f"Please {label.value.lower()[:3]} the {words} {number}",
                label=label,
                context="at work" if number % 4 == 0 else "",
                response=f"Here are the {topic}." if replies and number % 5 else "",
                split="validation" if number >= count - validation else "train",
            )
        )
    return samples


def tiny_spec(base: Path, **parts: Any) -> TrainSpec:
    """Return a float32 CPU specification for a tiny base; ``parts`` change fields of its groups.

    A key such as ``optim_batch_size`` changes ``optim.batch_size``; other keys change the top.
    """
    groups: dict[str, Any] = {
        "data": DataSpec(max_tokens=96),
        "model": ModelSpec(
            adapt_layers=2,
            dtype="float32",
            lora=LoraSpec(rank=4, alpha=8.0),
            prefix_cache="off",
        ),
        "loss": LossSpec(w_task=0.5, pet=PetSpec(weight=0.02)),
        "optim": OptimSpec(epochs=2.0, batch_size=4, lr_lora=5e-3, lr_gates=2e-2, lr_head=2e-2),
        "schedule": ScheduleSpec(eval_every=0.5, save_every=0.5),
    }
    top: dict[str, Any] = {}
    for key, value in parts.items():
        group, _, name = key.partition("_")
        if name and group in groups:
            groups[group] = msgspec.structs.replace(groups[group], **{name: value})
        else:
            top[key] = value
    return TrainSpec(base_model=str(base), device="cpu", **groups, **top)


def make_persona(root: Path, samples: Sequence[Sample]) -> Persona:
    """Write a persona with a dataset."""
    root.mkdir(parents=True, exist_ok=True)
    persona = Persona(root)
    persona.save(PersonaInfo(name="Tiny", policy=POLICY))
    persona.save_samples(samples)
    return persona


class Recorder:
    """Keeps the events of a job; ``on_event`` may act on each."""

    def __init__(self, on_event: Any = None) -> None:
        self.events: list[AnyEvent] = []
        self._on_event = on_event

    def __call__(self, event: Event) -> None:
        self.events.append(event)  # type: ignore[arg-type]
        if self._on_event is not None:
            self._on_event(event)

    def of(self, kind: type[Any]) -> list[Any]:
        """Return the events of one type."""
        return [event for event in self.events if isinstance(event, kind)]

    def losses(self, name: str = "loss") -> list[tuple[int, Any]]:
        """Return step and value of a training metric."""
        return [
            (event.step, event.values.get(name))
            for event in self.of(Metric)
            if event.split == "train"
        ]

    def log(self) -> str:
        """Return all log lines."""
        return "\n".join(event.message for event in self.of(Log))


def train(
    spec: TrainSpec,
    persona: Persona,
    *,
    resume: RunStore | None = None,
    control: Control | None = None,
    on_event: Any = None,
) -> tuple[int, RunStore, Recorder]:
    """Run the training job in this process."""
    recorder = Recorder(on_event)
    code, run = run_train(
        spec, persona, events=False, resume=resume, sinks=[recorder], control=control
    )
    assert run is not None, recorder.events
    return code, run, recorder


def stop_at(step: int, control: Control) -> Any:
    """Return an event handler that asks for a stop once ``step`` was reported."""

    def handle(event: Event) -> None:
        if isinstance(event, Metric) and event.split == "train" and event.step == step:
            control.request_stop("stopped by the test")

    return handle


def load_tiny(base: Path, dtype: str = "float32", quantization: Any = "none") -> LoadedBase:
    """Load a tiny base on the CPU."""
    return load_base(base, device="cpu", dtype=dtype, quantization=quantization)


def build(base: LoadedBase, *, seed: int = 3, **changes: Any) -> PersonaModel:
    """Put gates and LoRA on a base, alike for a given seed."""
    settings: dict[str, Any] = {"adapt_layers": 2, "lora": LoraSpec(rank=4, alpha=8.0)}
    torch.manual_seed(seed)
    return PersonaModel(base, ModelSpec(**settings | changes))


def disturb(model: PersonaModel, *, seed: int = 11, size: float = 0.3) -> PersonaModel:
    """Move everything that is learned away from its start, as training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        if model.gates is not None:
            for theta in (model.gates.theta_safe, model.gates.theta_cmd):
                theta.copy_(torch.empty(theta.shape).normal_(0, size, generator=generator))
            model.gates.invalidate()
        for parameter in model.lora_parameters():
            noise = torch.empty(parameter.shape).normal_(0, 0.1, generator=generator)
            parameter.add_(noise.to(parameter))
        weight = model.safety_head.weight
        weight.copy_(torch.empty(weight.shape).normal_(0, 1.0, generator=generator))
    return model


def token_batch(
    rows: Sequence[Sequence[int]],
    shared: Sequence[int] = (),
    *,
    side: str = "right",
    extra: int = 0,
) -> Batch:
    """Pad token rows on a side, ``extra`` positions more than needed; the verdict is at the end."""
    longest = max(map(len, rows)) + extra
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros(len(rows), longest, dtype=torch.bool)
    last = []
    for number, row in enumerate(rows):
        start = longest - len(row) if side == "left" else 0
        ids[number, start : start + len(row)] = torch.tensor(list(row))
        mask[number, start : start + len(row)] = True
        last.append(start + len(row) - 1)
    return Batch(ids, mask, torch.tensor(list(shared), dtype=torch.long), torch.tensor(last))


def one_step(
    model: PersonaModel,
    spec: TrainSpec,
    rows: Sequence[Any],
    cut: Sequence[int],
    *,
    passes: Passes | None = None,
    budget: int | None = None,
) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Run one optimizer step's forward and backward, cut into micro-batches; no update.

    ``passes`` replaces the way in which the trainer would keep the two losses apart, ``budget`` its
    limit of tokens a pass.

    Returns the loss parts and the gradients by parameter name.
    """
    import tempfile

    from transformers import TrainingArguments

    from so8t_engine.labels import LABELS
    from so8t_engine.training.data import Collator
    from so8t_engine.training.losses import VerdictLoss
    from so8t_engine.training.trainer import PersonaTrainer

    model.zero_grad()
    collator = Collator(torch.tensor([1, 2, 3]), 0)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, use_cpu=True, report_to="none", max_steps=10, disable_tqdm=True
        )
        trainer = PersonaTrainer(
            model,
            arguments,
            spec,
            list(rows),
            collator,
            VerdictLoss(spec.loss, [LABELS[row.label] for row in rows]),
        )
    if passes is not None:
        trainer.collator.passes = passes
    if budget is not None:
        trainer.collator.budget = budget
    trainer.state.max_steps = 10
    trainer.step_samples = len(rows)
    start = 0
    for number, size in enumerate(cut):
        trainer.accelerator.gradient_state._set_sync_gradients(number == len(cut) - 1)
        trainer.training_step(model, trainer.collator(list(rows[start : start + size])))
        start += size
    assert start == len(rows)
    gradients = {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    return trainer.take_parts(), gradients
