"""What a run would need, told before it starts, without loading the base model (Qt-free)."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil

from so8t_engine.errors import So8tError
from so8t_engine.events import GpuReading, Telemetry
from so8t_engine.model.base_cache import resolve_base
from so8t_engine.samples.schema import Sample
from so8t_engine.specs import TrainSpec
from so8t_engine.training.memory import Shapes, estimate, workload

GIB = 1 << 30
NF4_FROM = 1_000_000_000
TEMPLATE_TOKENS = 24  # turn markers of the usual chat templates
REPLY_TOKENS = 160
# What PyTorch, CUDA's context and the libraries hold before a model is there.
BASE_ON_GPU = GIB // 2
BASE_ON_CPU = 700 << 20


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes by part against what the machine has.

    Attributes:
        parts: name to bytes on the device that trains, libraries included.
        host: the same for CPU memory besides, where a GPU trains.
        device: ``GPU 0, <name>`` or ``CPU``.
        total: memory of that device, None if it is unknown.
        taken: what others hold of it now, None if it is unknown.
        longest: tokens of the longest sample.
        problem: why there is no plan; everything else is then empty.
    """

    parts: dict[str, int] = field(default_factory=dict)
    host: dict[str, int] = field(default_factory=dict)
    device: str = ""
    total: int | None = None
    taken: int | None = None
    longest: int = 0
    problem: str = ""

    @property
    def needed(self) -> int:
        """Bytes on the device at the peak."""
        return sum(self.parts.values())

    @property
    def free(self) -> int | None:
        """Bytes that are free now."""
        if self.total is None or self.taken is None:
            return None
        return self.total - self.taken

    @property
    def fits(self) -> bool | None:
        """Whether it fits into what is free; None if that is unknown."""
        return None if self.free is None or self.problem else self.needed <= self.free


def training_gpu(spec: TrainSpec, reading: Telemetry | None) -> GpuReading | None:
    """Return the GPU that would train, None for the CPU."""
    if spec.device == "cpu" or reading is None or not reading.gpus:
        return None
    return reading.gpus[0]


def read_config(folder: Path) -> SimpleNamespace:
    """Return the sizes of a base model from its ``config.json``, with the format's defaults.

    Raises:
        OSError, ValueError, KeyError: if the file cannot be read or lacks a size.
    """
    raw = json.loads((folder / "config.json").read_text("utf-8"))
    raw.setdefault("num_key_value_heads", raw["num_attention_heads"])
    raw.setdefault("tie_word_embeddings", False)
    for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size"):
        raw[name] = int(raw[name])
    return SimpleNamespace(**raw)


@functools.lru_cache(maxsize=2)
def _tokenizer(path: str, _changed: float) -> Any:
    from tokenizers import Tokenizer

    found = Tokenizer.from_file(path)
    found.no_truncation()
    found.no_padding()
    return found


def token_counts(folder: Path, texts: Sequence[str]) -> list[int]:
    """Return the tokens of each text.

    Raises:
        OSError: if the base model has no ``tokenizer.json``.
    """
    path = folder / "tokenizer.json"
    tokenizer = _tokenizer(str(path), path.stat().st_mtime)
    encoded = tokenizer.encode_batch(list(texts), add_special_tokens=False)
    return [len(item.ids) for item in encoded]


class LengthCache:
    """Token counts of the dataset, counted again only where a text is new."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._known: dict[str, int] = {}

    def counts(self, folder: Path, texts: Sequence[str]) -> list[int]:
        """Return the tokens of each text."""
        if folder != self._folder:
            self._folder, self._known = folder, {}
        fresh = [text for text in dict.fromkeys(texts) if text not in self._known]
        if fresh:
            self._known.update(zip(fresh, token_counts(folder, fresh), strict=True))
        return [self._known[text] for text in texts]


def _lengths(
    samples: Sequence[Sample], spec: TrainSpec, policy: str, folder: Path, cache: LengthCache
) -> tuple[list[tuple[int, int]], int]:
    head = TEMPLATE_TOKENS // 2
    if spec.data.include_policy and policy:
        head += cache.counts(folder, [policy])[0]
    prompts = cache.counts(folder, [f"{row.context}\n{row.request}" for row in samples])
    replies = [0] * len(samples)
    if spec.loss.w_task:
        found = cache.counts(folder, [getattr(row, spec.loss.task_target) for row in samples])
        replies = [min(REPLY_TOKENS, count) for count in found]
    room = max(8, spec.data.max_tokens - head)
    tail = TEMPLATE_TOKENS // 2
    lengths = []
    for prompt, reply in zip(prompts, replies, strict=True):
        own = min(prompt + tail, room)
        lengths.append((own + reply, own))
    if spec.data.limit and len(lengths) > spec.data.limit:
        share = spec.data.limit / (len(lengths) * (1 - spec.data.validation_fraction))
        keep = max(1, int(len(lengths) * min(1.0, share)))
        lengths = sorted(lengths, reverse=True)[:1] + lengths[: keep - 1]
    return lengths, head


def _quantization(spec: TrainSpec, shapes: Shapes, *, on_gpu: bool) -> str:
    if spec.model.quantization != "auto":
        return spec.model.quantization
    numbers = shapes.layers * sum(a * b for a, b in shapes.linears().values())
    numbers += shapes.vocabulary * shapes.hidden
    return "nf4" if on_gpu and numbers >= NF4_FROM else "none"


def plan_memory(
    samples: Sequence[Sample],
    spec: TrainSpec,
    *,
    base: str,
    policy: str,
    reading: Telemetry | None,
    cache: LengthCache,
) -> MemoryPlan:
    """Return the plan; whatever is missing for it is said in ``problem``."""
    if not samples:
        return MemoryPlan(problem="Without rows there is nothing to estimate.")
    gpu = training_gpu(spec, reading)
    try:
        folder = resolve_base(base)
        config = read_config(folder)
        lengths, head = _lengths(samples, spec, policy, folder, cache)
        shapes = Shapes.of(config)
        found = estimate(
            spec,
            config,
            workload(spec, lengths, head),
            device="cuda" if gpu is not None else "cpu",
            width=4 if spec.model.dtype == "float32" else 2,
            quantization=_quantization(spec, shapes, on_gpu=gpu is not None),
        )
    except So8tError as error:
        return MemoryPlan(problem=error.what)
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        return MemoryPlan(problem=f"The base model's files do not allow an estimate: {error}.")
    longest = head + max(length for length, _ in lengths)
    libraries = BASE_ON_GPU if gpu is not None else BASE_ON_CPU
    parts = {name: size for name, size in found.device.items() if size} | {"libraries": libraries}
    if gpu is not None:
        return MemoryPlan(
            parts, {k: v for k, v in found.host.items() if v},
            f"GPU {gpu.index}, {gpu.name or 'n/a'}", gpu.memory_total, gpu.memory_used, longest,
        )  # fmt: skip
    memory = psutil.virtual_memory()
    taken = int(memory.total - memory.available)
    return MemoryPlan(parts, {}, "CPU", int(memory.total), taken, longest)
