"""Typed, versioned job specifications (torch-free).

Every field carries its unit, range and help in ``msgspec.Meta``; the command line, the forms of
the window and the validation all read the same declaration. Unknown keys are refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from so8t_engine.errors import SpecError

SPEC_VERSION = 1

PositiveInt = Annotated[int, Meta(ge=1)]
Fraction = Annotated[float, Meta(ge=0.0, le=1.0)]
NonNegative = Annotated[float, Meta(ge=0.0)]


class _Spec(Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """Base of all specifications: immutable, strict about unknown keys."""


class LoraSpec(_Spec, frozen=True):
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685), trained by peft."""

    rank: Annotated[int, Meta(ge=1, le=512, description="Rank r of the update B A.")] = 16
    alpha: Annotated[float, Meta(gt=0, description="Scale; the update is (alpha / r) B A.")] = 32.0
    dropout: Annotated[float, Meta(ge=0, lt=1, description="Dropout before A.")] = 0.0
    targets: Annotated[
        tuple[str, ...], Meta(min_length=1, description="Linear layers that get an adapter.")
    ] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class ModelSpec(_Spec, frozen=True):
    """What is adapted, and how the base is held in memory."""

    adapt_layers: Annotated[
        Literal["all"] | int | tuple[int, ...],
        Meta(description="'all', the number of top layers, or a list of layer indices."),
    ] = 10
    gates: Annotated[bool, Meta(description="Learn SO(8) layer gates and the head gate.")] = True
    sharing: Annotated[
        Literal["per_block", "shared"],
        Meta(description="One rotation per block of 8 channels, or one 8x8 for all blocks."),
    ] = "per_block"
    lora: LoraSpec | None = LoraSpec()
    quantization: Annotated[
        Literal["auto", "none", "nf4"],
        Meta(description="auto: NF4 on CUDA for bases above 1B parameters, else none."),
    ] = "auto"
    dtype: Annotated[
        Literal["auto", "bfloat16", "float16", "float32"],
        Meta(description="Dtype of the forward pass; auto is bfloat16."),
    ] = "auto"
    gradient_checkpointing: Annotated[
        Literal["auto", "on", "off"],
        Meta(description="Recompute activations in the backward pass; auto: on with CUDA."),
    ] = "auto"
    prefix_cache: Annotated[
        Literal["auto", "ram", "disk", "off"],
        Meta(description="Keep the output of the never-changing lower layers per sample."),
    ] = "auto"
    offload_embeddings: Annotated[
        bool, Meta(description="Keep the embedding matrix in CPU memory while training.")
    ] = False


class PetSpec(_Spec, frozen=True):
    """Second-difference smoothness of the last hidden states over positions."""

    weight: Annotated[NonNegative, Meta(description="Full weight of the PET term.")] = 0.01
    factors: Annotated[
        tuple[float, float, float], Meta(description="Weight factors of the three phases.")
    ] = (0.01, 0.1, 1.0)
    boundaries: Annotated[
        tuple[float, float], Meta(description="Step progress at which the phase changes.")
    ] = (0.3, 0.7)


class LossSpec(_Spec, frozen=True):
    """L = w_verdict CE + w_danger mean[p_allow | REFUSE] + w_task LM + PET."""

    w_verdict: Annotated[NonNegative, Meta(description="Weight of the verdict loss.")] = 1.0
    w_danger: Annotated[
        NonNegative, Meta(description="Weight of p(ALLOW) on samples labelled REFUSE.")
    ] = 0.5
    w_task: Annotated[
        NonNegative, Meta(description="Weight of the language-model loss on the reply.")
    ] = 0.0
    task_target: Annotated[
        Literal["response", "rationale"], Meta(description="The text that the task loss reads.")
    ] = "response"
    task_share: Annotated[
        Fraction,
        Meta(description="Share of the samples whose text the task loss reads, drawn by seed."),
    ] = 1.0
    class_weights: Annotated[
        Literal["balanced", "none"], Meta(description="Inverse-frequency weights per label.")
    ] = "balanced"
    label_smoothing: Annotated[float, Meta(ge=0, lt=1, description="Label smoothing.")] = 0.0
    focal_gamma: Annotated[
        NonNegative, Meta(description="Focal exponent (arXiv:1708.02002); 0 is plain CE.")
    ] = 0.0
    pet: PetSpec = PetSpec()
    routing: Annotated[
        Literal["routed", "joint"],
        Meta(description="routed: verdict loss moves R_safe, task loss moves R_cmd."),
    ] = "routed"


class OptimSpec(_Spec, frozen=True):
    """Optimizer, schedule and batch."""

    epochs: Annotated[float, Meta(gt=0, le=1000, description="Passes over the data.")] = 3.0
    max_steps: Annotated[
        int, Meta(ge=0, description="Stop after this many optimizer steps; 0 means no limit.")
    ] = 0
    batch_size: Annotated[PositiveInt, Meta(description="Samples per forward pass.")] = 8
    accumulation: Annotated[PositiveInt, Meta(description="Forward passes per step.")] = 1
    lr_lora: Annotated[float, Meta(gt=0, description="Learning rate of the LoRA matrices.")] = 2e-4
    lr_gates: Annotated[float, Meta(gt=0, description="Learning rate of the generators.")] = 2e-3
    lr_head: Annotated[float, Meta(gt=0, description="Learning rate of the safety head.")] = 5e-3
    weight_decay: Annotated[NonNegative, Meta(description="Decoupled decay of LoRA and head.")] = (
        0.01
    )
    warmup: Annotated[Fraction, Meta(description="Share of steps with rising rate.")] = 0.05
    schedule: Annotated[
        Literal["cosine", "linear", "constant"], Meta(description="Shape after the warm-up.")
    ] = "cosine"
    max_grad_norm: Annotated[float, Meta(gt=0, description="Gradient clipping.")] = 1.0
    optimizer: Annotated[
        Literal["auto", "adamw", "paged_adamw_8bit"],
        Meta(description="auto: paged 8-bit AdamW with an NF4 base, else AdamW."),
    ] = "auto"


class ScheduleSpec(_Spec, frozen=True):
    """When to evaluate, save, freeze and stop."""

    eval_every: Annotated[
        Fraction, Meta(description="Evaluate after this share of all steps; 0: only at the end.")
    ] = 0.2
    save_every: Annotated[
        Fraction, Meta(description="Checkpoint after this share of all steps; 0: only the end.")
    ] = 0.2
    keep_checkpoints: Annotated[
        PositiveInt, Meta(description="Rolling checkpoints kept besides best and last.")
    ] = 2
    record_rotations_every: Annotated[
        Fraction, Meta(description="Record all rotations after this share of all steps.")
    ] = 0.05
    best_metric: Annotated[
        Literal["refuse_recall_at_frr", "macro_f1"],
        Meta(description="Criterion of the best checkpoint; never the loss."),
    ] = "refuse_recall_at_frr"
    max_false_refusal_rate: Annotated[
        Fraction, Meta(description="Bound for refuse_recall_at_frr.")
    ] = 0.1
    late_freeze: Annotated[
        Fraction, Meta(description="Progress from which R_safe and the head stop; 1: never.")
    ] = 1.0
    collapse_drop: Annotated[
        Fraction,
        Meta(description="Stop when Refuse Recall falls this far below its best; 1: never."),
    ] = 1.0


class DataSpec(_Spec, frozen=True):
    """Which samples, and how much of each is read."""

    dataset: Annotated[
        str, Meta(description="Path of a JSONL file; empty: the persona's own dataset.")
    ] = ""
    extra: Annotated[
        tuple[str, ...], Meta(description="More JSONL files whose rows join the training split.")
    ] = ()
    validation_fraction: Annotated[
        float, Meta(gt=0, lt=1, description="Share held out where rows carry no split.")
    ] = 0.15
    max_tokens: Annotated[
        int, Meta(ge=32, le=131072, description="Prompt length; longer keeps head and tail.")
    ] = 384
    limit: Annotated[
        int, Meta(ge=0, description="Use at most this many training rows; 0: all.")
    ] = 0
    repeat_new: Annotated[
        int,
        Meta(
            ge=1,
            le=100,
            description="Read each row that the weights to begin with have not seen this often a"
            " pass, as long as such rows fill at most half of the limit.",
        ),
    ] = 1
    include_policy: Annotated[
        bool, Meta(description="Put the policy text into the system turn.")
    ] = True


class TrainSpec(_Spec, frozen=True):
    """One training run, complete: the same file gives the same run in the window and headless."""

    version: Literal[1] = 1
    name: Annotated[str, Meta(description="Shown in the list of runs.")] = ""
    base_model: Annotated[
        str, Meta(description="'default', a local folder, or a hub id that is already cached.")
    ] = "default"
    policy: Annotated[
        str, Meta(description="Policy text of the system turn; empty: the persona's own.")
    ] = ""
    start_from: Annotated[
        str,
        Meta(
            description="Learned weights to begin with: 'starter' (those that ship), a run of this"
            " persona, or a checkpoint folder; empty: nothing learned."
        ),
    ] = ""
    seed: Annotated[int, Meta(ge=0, lt=2**31, description="Seed of everything random.")] = 17
    device: Annotated[
        Literal["auto", "cpu", "cuda"], Meta(description="auto: the GPU if there is one.")
    ] = "auto"
    data: DataSpec = DataSpec()
    model: ModelSpec = ModelSpec()
    loss: LossSpec = LossSpec()
    optim: OptimSpec = OptimSpec()
    schedule: ScheduleSpec = ScheduleSpec()


_MEASURED = OptimSpec(epochs=3.0, batch_size=64, lr_lora=1e-3, lr_gates=4e-3, lr_head=1e-2)

PRESETS: dict[str, tuple[str, TrainSpec]] = {
    "quick": (
        "Quick trial",
        TrainSpec(
            name="Quick trial",
            # It goes on from weights that know the task: what is new in the dataset, several times,
            # and as many known rows as minutes on a CPU allow, once, at a fraction of other rates.
            start_from="starter",
            data=DataSpec(limit=600, validation_fraction=0.035, repeat_new=8),
            model=ModelSpec(adapt_layers="all"),
            optim=OptimSpec(
                epochs=1.0, batch_size=8, lr_lora=2e-4, lr_gates=1e-3, lr_head=2e-3, warmup=0.1
            ),
            # A few replies are enough for R_cmd to learn; each costs as much as two verdicts.
            loss=LossSpec(
                w_danger=0.25,
                w_task=0.1,
                task_share=0.12,
                class_weights="none",
                pet=PetSpec(weight=0.0),
            ),
            # In a short run Refuse Recall at a bound is still noise and picked too early a step.
            schedule=ScheduleSpec(eval_every=1.0, save_every=0.5, best_metric="macro_f1"),
        ),
    ),
    # Depth, rates and passes are those that docs/results.md measures.
    "balanced": (
        "Balanced",
        TrainSpec(
            name="Balanced",
            model=ModelSpec(adapt_layers="all"),
            optim=_MEASURED,
            loss=LossSpec(w_task=0.1, task_share=0.15),
            schedule=ScheduleSpec(eval_every=0.34, save_every=0.17, best_metric="macro_f1"),
        ),
    ),
    "thorough": (
        "Thorough",
        TrainSpec(
            name="Thorough",
            model=ModelSpec(adapt_layers="all"),
            optim=msgspec.structs.replace(_MEASURED, epochs=5.0),
            loss=LossSpec(w_task=0.1, task_share=0.3, label_smoothing=0.1),
            schedule=ScheduleSpec(best_metric="macro_f1"),
        ),
    ),
    # For bases of the 7B class in NF4; benchmarks/engine_7b.py measures them.
    "card12": (
        "12 GB card",
        TrainSpec(
            name="12 GB card",
            model=ModelSpec(adapt_layers="all", gradient_checkpointing="on"),
            optim=OptimSpec(epochs=4.0, batch_size=8, accumulation=2),
        ),
    ),
    "card6": (
        "6 GB card",
        TrainSpec(
            name="6 GB card",
            data=DataSpec(max_tokens=320),
            model=ModelSpec(adapt_layers=8, gradient_checkpointing="on", offload_embeddings=True),
            optim=OptimSpec(epochs=4.0, batch_size=4, accumulation=4),
        ),
    ),
}


def preset(name: str) -> TrainSpec:
    """Return the specification of a preset by its key, such as ``quick`` or ``card12``.

    Raises:
        SpecError: if there is no such preset.
    """
    try:
        return PRESETS[name][1]
    except KeyError:
        raise SpecError(
            f"There is no preset {name!r}.", next_step=f"Use one of: {', '.join(PRESETS)}."
        ) from None


def decode_spec(raw: bytes | str, *, source: str = "the specification") -> TrainSpec:
    """Read a training specification from JSON.

    Raises:
        SpecError: with the path of the offending field, e.g. ``$.optim.lr_lora``.
    """
    data = raw.encode() if isinstance(raw, str) else raw
    data = data.removeprefix(b"\xef\xbb\xbf")
    try:
        return msgspec.json.decode(data, type=TrainSpec)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SpecError(
            f"{source} is not a valid training specification: {error}.",
            next_step="Correct the named field; `so8t train --show-spec` prints a valid file.",
        ) from error


def load_spec(path: Path) -> TrainSpec:
    """Read a training specification from a file.

    Raises:
        SpecError: if the file is missing, unreadable or invalid.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise SpecError(
            f"The specification {path} cannot be read: {error.strerror}.",
            next_step="Check the path, or start from `so8t train --show-spec`.",
        ) from error
    return decode_spec(raw, source=str(path))


def encode_spec(spec: TrainSpec) -> bytes:
    """Return the specification as indented JSON, UTF-8, with a final newline."""
    return msgspec.json.format(msgspec.json.encode(spec), indent=2) + b"\n"


def changed_fields(spec: TrainSpec, reference: TrainSpec | None = None) -> dict[str, Any]:
    """Return the dotted names and values in which ``spec`` differs from ``reference``.

    ``reference`` defaults to the specification with all defaults.
    """

    def flatten(value: Any, prefix: str, into: dict[str, Any]) -> dict[str, Any]:
        if isinstance(value, dict):
            for key, inner in value.items():
                flatten(inner, f"{prefix}.{key}" if prefix else key, into)
        else:
            into[prefix] = value
        return into

    left = flatten(msgspec.to_builtins(spec), "", {})
    right = flatten(msgspec.to_builtins(reference or TrainSpec()), "", {})
    absent = object()  # a part that is left out is None there, and has no fields
    return {key: value for key, value in left.items() if value != right.get(key, absent)}
