"""What a run will need: an estimate by part, and a dry run that measures.

The estimate counts tensors from the shapes in the base model's configuration (nothing is loaded).
Bytes of weights, optimizer and prefix cache are exact; activations follow from what autograd keeps
of a Llama-like layer with LoRA; all of that is torch-free. The dry run takes one real step with the
longest samples.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from so8t_engine.model.families import GEMMA, adapted_layers
from so8t_engine.specs import TrainSpec

# Tokens of one pass on the CPU: enough to keep the cores busy, few enough to keep memory small.
PASS_TOKENS = 1024
_WIDE = 4  # bytes of float32
_NF4_BLOCK, _NF4_NESTED = 64, 256
_FREE_NUMBERS = 28


@dataclass(frozen=True)
class Workload:
    """What one forward pass reads.

    Attributes:
        rows: samples a forward pass.
        longest: tokens of the longest sample behind the shared head.
        head: tokens of the shared head.
        reply: most reply tokens of a sample; 0 without task loss.
        cached_tokens: tokens of all samples and the head, for the prefix cache.
    """

    rows: int
    longest: int
    head: int = 0
    reply: int = 0
    cached_tokens: int = 0


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes by part.

    Attributes:
        device: parts in the memory of the device that trains; ``total`` sums them.
        host: parts in CPU memory besides (all in ``device`` if the CPU trains).
    """

    device: dict[str, int]
    host: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Bytes on the device at the peak of a step."""
        return sum(self.device.values())


@dataclass(frozen=True)
class Shapes:
    """Sizes of a base model."""

    hidden: int
    inner: int
    query: int
    key: int
    heads: int
    layers: int
    vocabulary: int
    tied: bool
    qk_norm: bool
    norms: int
    bias: int

    @classmethod
    def of(cls, config: Any) -> Shapes:
        """Read the sizes from a Hugging Face configuration."""
        heads = config.num_attention_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        query, key = heads * head_dim, config.num_key_value_heads * head_dim
        bias = 0
        if config.model_type == "qwen2":
            bias = query + 2 * key
        if getattr(config, "attention_bias", False):
            bias = query + 2 * key + config.hidden_size
        if getattr(config, "mlp_bias", False):
            bias += 2 * config.intermediate_size + config.hidden_size
        return cls(
            hidden=config.hidden_size,
            inner=config.intermediate_size,
            query=query,
            key=key,
            heads=heads,
            layers=config.num_hidden_layers,
            vocabulary=config.vocab_size,
            tied=config.tie_word_embeddings,
            qk_norm=config.model_type in ("qwen3", GEMMA),
            norms=4 if config.model_type == GEMMA else 2,
            bias=bias,
        )

    def linears(self) -> dict[str, tuple[int, int]]:
        """Return inputs and outputs of the linear layers of one decoder layer."""
        return {
            "q_proj": (self.hidden, self.query),
            "k_proj": (self.hidden, self.key),
            "v_proj": (self.hidden, self.key),
            "o_proj": (self.query, self.hidden),
            "gate_proj": (self.hidden, self.inner),
            "up_proj": (self.hidden, self.inner),
            "down_proj": (self.inner, self.hidden),
        }


def nf4_bytes(numbers: int) -> int:
    """Return the bytes of ``numbers`` weights in NF4 with double quantisation.

    4 bits each, an 8-bit scale a block of 64, and a float32 scale and offset over 256 of those
    (Dettmers et al. 2023, arXiv:2305.14314, §3).
    """
    blocks = math.ceil(numbers / _NF4_BLOCK)
    return math.ceil(numbers / 2) + blocks + math.ceil(blocks / _NF4_NESTED) * _WIDE


def layer_weight_bytes(shapes: Shapes, width: int, quantization: str) -> int:
    """Return the bytes of one decoder layer; norms and biases stay in ``width`` bytes a number."""
    matrices = [inputs * outputs for inputs, outputs in shapes.linears().values()]
    small = shapes.norms * shapes.hidden + shapes.bias
    if shapes.qk_norm:
        small += 2 * (shapes.query // shapes.heads)
    if quantization == "nf4":
        return sum(nf4_bytes(numbers) for numbers in matrices) + small * width
    return (sum(matrices) + small) * width


def kept_by_layer(
    shapes: Shapes, spec: TrainSpec, width: int, tokens: int, *, lora: bool = True
) -> int:
    """Return the bytes that autograd keeps of one adapted layer for ``tokens`` positions.

    - each RMS norm: its input and its normalised value in float32;
    - each LoRA adapter: its input in float32 (peft casts to the adapter's dtype) and ``A x``;
    - attention: queries, keys and values spread over all heads, its output, and a float32 sum a
      head (the fused kernels of scaled_dot_product_attention keep no scores);
    - SiLU's input, its output and the ``up`` branch;
    - the layer gate: its input.
    """
    wide = width < _WIDE  # float32 needs no casts, and one tensor then serves several readers
    kept = shapes.norms * tokens * shapes.hidden * _WIDE
    kept += tokens * (4 * shapes.query * width + shapes.heads * _WIDE)
    kept += 3 * tokens * shapes.inner * width
    if spec.model.gates:
        kept += tokens * shapes.hidden * width
    if shapes.qk_norm:
        kept += tokens * (shapes.query + shapes.key) * _WIDE
    if spec.model.lora is not None and lora:
        linears = shapes.linears()
        for name in spec.model.lora.targets:
            if name in linears:
                kept += tokens * spec.model.lora.rank * _WIDE
                if wide:
                    kept += tokens * linears[name][0] * _WIDE
        if not wide:
            kept += tokens * (2 * shapes.hidden + shapes.inner) * _WIDE
    return kept


def learned_numbers(shapes: Shapes, spec: TrainSpec, layers: list[int]) -> int:
    """Return how many numbers are learned."""
    numbers = 3 * shapes.hidden
    if spec.model.lora is not None:
        linears = shapes.linears()
        pairs = [linears[name] for name in spec.model.lora.targets if name in linears]
        numbers += len(layers) * spec.model.lora.rank * sum(sum(pair) for pair in pairs)
    if spec.model.gates:
        blocks = shapes.hidden // 8 if spec.model.sharing == "per_block" else 1
        numbers += 2 * (len(layers) + 1) * blocks * _FREE_NUMBERS
    return numbers


def estimate(
    spec: TrainSpec,
    config: Any,
    work: Workload,
    *,
    device: str,
    width: int = 2,
    quantization: str = "none",
) -> MemoryEstimate:
    """Estimate the peak of one training step.

    Args:
        spec: what is trained.
        config: configuration of the base model.
        work: what a forward pass reads.
        device: ``cuda`` or ``cpu``.
        width: bytes of a number of the forward pass: 2 for bfloat16 and float16, 4 for float32.
        quantization: ``none`` or ``nf4``.
    """
    shapes, on_gpu = Shapes.of(config), device == "cuda"
    layers = adapted_layers(spec.model.adapt_layers, shapes.layers)
    cut = layers[0] if spec.model.prefix_cache != "off" else 0
    checkpointing = spec.model.gradient_checkpointing
    recomputed = checkpointing == "on" or (checkpointing == "auto" and on_gpu)
    in_memory = shapes.layers - cut if on_gpu else shapes.layers
    matrix = shapes.vocabulary * shapes.hidden * width
    embedding = not (cut or spec.model.offload_embeddings) or not on_gpu
    lm_head = bool(spec.loss.w_task) or not on_gpu
    matrices = int(embedding or lm_head) if shapes.tied else int(embedding) + int(lm_head)
    weights = in_memory * layer_weight_bytes(shapes, width, quantization)
    weights += matrices * matrix + shapes.hidden * width

    activations, logits = _step_bytes(
        shapes, spec, work, layers, width=width, recomputed=recomputed, on_gpu=on_gpu
    )
    dequantised = shapes.hidden * shapes.inner * width if quantization == "nf4" else 0
    learned = learned_numbers(shapes, spec, layers)
    eight_bit = spec.optim.optimizer == "paged_adamw_8bit" or (
        spec.optim.optimizer == "auto" and quantization == "nf4" and on_gpu
    )
    parts = {
        "weights": weights,
        "activations": activations + dequantised,
        "optimizer": learned * (2 * _WIDE + (2 if eight_bit else 2 * _WIDE)),
        "head and logits": logits,
    }
    cache = work.cached_tokens * shapes.hidden * width if cut else 0
    if not on_gpu:
        return MemoryEstimate(device=parts | {"prefix cache": cache})
    lower = cut * layer_weight_bytes(shapes, width, quantization)
    return MemoryEstimate(device=parts, host={"prefix cache": cache, "lower layers": lower})


def _step_bytes(
    shapes: Shapes,
    spec: TrainSpec,
    work: Workload,
    layers: list[int],
    *,
    width: int,
    recomputed: bool,
    on_gpu: bool,
) -> tuple[int, int]:
    """Return the bytes of activations, and what logits and losses need beyond them.

    The peak is either in the loss, while logits (and the differences of PET) stand beside all that
    the layers keep, or in the backward pass of one layer; the two never coincide.
    """
    loss = spec.loss
    routed = loss.routing == "routed" and spec.model.gates and work.reply
    split = routed and on_gpu and bool(loss.w_verdict or loss.w_danger)
    rows: float = 2 * work.rows if split else work.rows  # prompts alone, then with replies
    spread = work.head if recomputed else 0
    if not on_gpu:  # passes are cut to a budget of tokens
        rows = min(rows, max(1.0, PASS_TOKENS / work.longest))
    tokens = int(rows * (work.longest + spread)) + (0 if recomputed else work.head)
    trained = range(layers[0], shapes.layers)  # all of them carry a gradient
    boundary = tokens * shapes.hidden * width
    one = 0
    if recomputed:
        kept = len(trained) * boundary
        one = kept_by_layer(shapes, spec, width, tokens)
    else:
        kept = sum(
            kept_by_layer(shapes, spec, width, tokens, lora=index in layers) for index in trained
        )
        keys = int(2 * rows * (work.head + work.longest)) * shapes.query * width
        kept += len(trained) * (keys if work.head else 0)
    # Gradients on the way back: of the widest tensors of one layer.
    backward = one + tokens * (2 * shapes.inner * width + shapes.inner * _WIDE) + 2 * boundary
    samples = work.rows if on_gpu else rows
    prompts = int(samples * (work.longest + spread - (work.reply if split else 0)))
    pet = 3 * prompts * shapes.hidden * _WIDE if loss.pet.weight else 0
    logits = int(samples * work.reply) * shapes.vocabulary * (width + 3 * _WIDE)
    return kept + backward, max(0, logits + pet - backward)


def workload(spec: TrainSpec, lengths: Sequence[tuple[int, int]], head: int) -> Workload:
    """Return the largest forward pass of a run.

    Args:
        spec: what is trained.
        lengths: all tokens and prompt tokens of each sample, behind the shared head.
        head: tokens of the shared head.
    """
    longest = max(everything for everything, _ in lengths)
    reply = max(everything - prompt for everything, prompt in lengths)
    return Workload(
        rows=min(spec.optim.batch_size, len(lengths)),
        longest=longest,
        head=head,
        reply=reply,
        cached_tokens=head + sum(everything for everything, _ in lengths),
    )


# -- measuring --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measurement:
    """What a dry run found, in bytes.

    Attributes:
        peak: highest memory use during one step: allocated on CUDA, resident set on the CPU.
        before: memory use before that step.
        tokens: tokens of the longest sample, shared head included.
    """

    peak: int
    before: int
    tokens: int


def peak_resident() -> int:
    """Return the highest resident set of this process so far, in bytes."""
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) * (1 if sys.platform == "darwin" else 1024)


def give_back() -> None:
    """Return the free pages of this process's heap to the system (glibc; elsewhere nothing).

    Tensors of ever different lengths leave holes in the heap that are too small for the next ones,
    so that the resident set grows for as long as training on the CPU goes on (malloc_trim(3)).
    """
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def measure_step(trainer: Any) -> Measurement:
    """Take one optimizer step with the longest samples and report its peak.

    The model is changed by it, so a dry run does this in a process of its own and keeps nothing.

    Args:
        trainer: a :class:`~so8t_engine.training.trainer.PersonaTrainer` that has not trained yet.
    """
    import torch  # here, so that the window can estimate without it

    persona, optim = trainer.persona, trainer.spec.optim
    rows = sorted(trainer.rows, key=lambda row: len(row.ids), reverse=True)
    micro = rows[: optim.batch_size]
    cuda = persona.device.type == "cuda"
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        import psutil

        before = int(psutil.Process().memory_info().rss)
    trainer.create_optimizer()
    steps = min(2, optim.accumulation)  # the second meets the gradients of the first
    trainer.step_samples = steps * len(micro)
    for number in range(steps):
        trainer.accelerator.gradient_state._set_sync_gradients(number == steps - 1)
        trainer.training_step(persona, trainer.collator(micro))
    trainer.optimizer.step()
    trainer.optimizer.zero_grad()
    if cuda:
        torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() if cuda else peak_resident()
    tokens = len(rows[0].ids) + len(trainer.collator.collator.shared)
    return Measurement(peak=int(peak), before=int(before), tokens=tokens)
