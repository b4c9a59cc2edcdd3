"""Step time and peak memory of a 7B shape: LoRA, LoRA + gates, peft OFT, frozen prefix.

Random weights in the shape of Qwen2.5-7B, held in NF4 with double quantisation; gradient
checkpointing, paged 8-bit AdamW; the verdict loss alone, and with a task loss on 64 reply tokens,
routed (either rotation gets the gradient of its own loss) or joint. Each arm is built anew; the
time is the median over steps of forward, backward and update, the peak is that of the steps
(``torch.cuda.max_memory_allocated``), not of loading.

    python benchmarks/engine_7b.py --out benchmarks/results/7b.json
    python benchmarks/engine_7b.py --pairs --repeats 20 --out benchmarks/results/7b-pairs.json
    python benchmarks/engine_7b.py --gpu-time --repeats 3 --out benchmarks/results/7b-gpu-time.json
    python benchmarks/engine_7b.py --tiny --device cpu          # tries the script itself
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bitsandbytes
import torch
import transformers
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM, TrainingArguments

from so8t_engine.labels import LABELS
from so8t_engine.model.loading import LoadedBase
from so8t_engine.model.persona_model import PersonaModel
from so8t_engine.specs import LoraSpec, LossSpec, ModelSpec, OptimSpec, TrainSpec
from so8t_engine.training.data import Collator, EncodedSample
from so8t_engine.training.losses import VerdictLoss
from so8t_engine.training.memory import Workload, estimate
from so8t_engine.training.trainer import PersonaTrainer

REPLY = 64
SHAPES = ((1, 512), (8, 256))
ALL = LoraSpec()
OUTPUTS = LoraSpec(targets=("o_proj", "down_proj"))


def config_of(tiny: bool) -> Qwen2Config:
    """Return the shape of Qwen2.5-7B, or a tiny one to try the script."""
    if tiny:
        return Qwen2Config(
            hidden_size=64, intermediate_size=128, num_hidden_layers=12, num_attention_heads=4,
            num_key_value_heads=2, vocab_size=512, tie_word_embeddings=False,
        )  # fmt: skip
    return Qwen2Config(
        hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28,
        num_key_value_heads=4, vocab_size=152064, max_position_embeddings=32768,
        tie_word_embeddings=False,
    )  # fmt: skip


def random_nf4(config: Qwen2Config, device: str) -> LoadedBase:
    """Make a random model and quantise the linear layers of its decoder to NF4."""
    with torch.device(device):
        model = Qwen2ForCausalLM._from_config(config, dtype=torch.bfloat16)
    for layer in model.model.layers:
        for parent in (layer.self_attn, layer.mlp):
            for name, linear in list(parent.named_children()):
                if isinstance(linear, nn.Linear):
                    setattr(parent, name, _quantized(linear, device))
    model.requires_grad_(False)
    model.config.use_cache = False
    model.is_loaded_in_4bit = True
    model.eval()
    target = next(model.parameters()).device
    return LoadedBase(model, None, Path(), target, torch.bfloat16, "nf4")


def _quantized(linear: nn.Linear, device: str) -> nn.Module:
    packed = bitsandbytes.nn.Linear4bit(
        linear.in_features,
        linear.out_features,
        bias=linear.bias is not None,
        compute_dtype=torch.bfloat16,
        compress_statistics=True,
        quant_type="nf4",
        device="meta",
    )
    packed.weight = bitsandbytes.nn.Params4bit(
        linear.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True
    )
    if linear.bias is not None:
        packed.bias = nn.Parameter(linear.bias.data, requires_grad=False)
    return packed.to(device)


def add_oft(persona: PersonaModel, targets: list[str]) -> None:
    """Put peft's orthogonal fine-tuning (block 8) where LoRA would be."""
    from peft import OFTConfig, inject_adapter_in_model

    inject_adapter_in_model(OFTConfig(oft_block_size=8, target_modules=targets), persona.causal_lm)
    learned = [p for p in persona.causal_lm.parameters() if p.requires_grad]
    persona.lora_parameters = lambda: iter(learned)  # type: ignore[method-assign]


ARMS: dict[str, tuple[ModelSpec, list[str]]] = {
    "LoRA on all seven": (ModelSpec(adapt_layers="all", gates=False, lora=ALL), []),
    "LoRA on all seven + gates": (ModelSpec(adapt_layers="all", lora=ALL), []),
    "LoRA on o/down": (ModelSpec(adapt_layers="all", gates=False, lora=OUTPUTS), []),
    "LoRA on o/down + gates": (ModelSpec(adapt_layers="all", lora=OUTPUTS), []),
    "gates only": (ModelSpec(adapt_layers="all", lora=None), []),
    "OFT block 8 on o": (ModelSpec(adapt_layers="all", gates=False, lora=None), ["o_proj"]),
    "OFT block 8 on o/down": (
        ModelSpec(adapt_layers="all", gates=False, lora=None),
        ["o_proj", "down_proj"],
    ),
    "top 8 over a frozen prefix, LoRA + gates": (ModelSpec(adapt_layers=8, lora=ALL), []),
}
VERDICT, ROUTED, JOINT = "verdict", "verdict + task, routed", "verdict + task, joint"
LOSSES = {
    VERDICT: LossSpec(),
    ROUTED: LossSpec(w_task=0.2),
    JOINT: LossSpec(w_task=0.2, routing="joint"),
}
RATIOS = (
    ("LoRA on all seven + gates", "LoRA on all seven", "gates + LoRA / LoRA"),
    ("LoRA on o/down + gates", "LoRA on o/down", "gates + LoRA / LoRA, on o/down"),
    ("gates only", "OFT block 8 on o", "gates / OFT on o"),
    ("gates only", "OFT block 8 on o/down", "gates / OFT on o/down"),
    (
        "LoRA on all seven + gates",
        "top 8 over a frozen prefix, LoRA + gates",
        "samples/s, frozen prefix / all layers",
    ),
)


def losses_of(model: ModelSpec) -> list[str]:
    """Return the losses to measure: without gates there is nothing to route."""
    return [VERDICT, ROUTED, JOINT] if model.gates else [VERDICT, JOINT]


def samples(
    batch: int, tokens: int, persona: PersonaModel, cached: bool, *, reply: bool
) -> list[EncodedSample]:
    """Return random samples of exactly ``tokens`` tokens, as ids or as prefix states."""
    rows = []
    for number in range(batch):
        ids = torch.randint(5, persona.causal_lm.config.vocab_size, (tokens,)).tolist()
        states = None
        if cached:
            states = torch.randn(tokens, persona.hidden_size, dtype=torch.bfloat16)
        rows.append(EncodedSample(tuple(ids), tokens - REPLY * reply, number % 3, False, states))
    return rows


def make_step(
    persona: PersonaModel, spec: TrainSpec, rows: list[EncodedSample], folder: str, cached: bool
) -> Callable[[], None]:
    """Return a function that takes one optimizer step."""
    shared = torch.zeros(0, persona.hidden_size, dtype=torch.bfloat16) if cached else None
    collator = Collator(torch.zeros(0, dtype=torch.long) if shared is None else shared, 0)
    arguments = TrainingArguments(
        output_dir=folder, report_to="none", max_steps=100, disable_tqdm=True,
        use_cpu=persona.device.type == "cpu",
    )  # fmt: skip
    labels = [LABELS[row.label] for row in rows]
    trainer = PersonaTrainer(
        persona, arguments, spec, rows, collator, VerdictLoss(spec.loss, labels)
    )
    trainer.create_optimizer()
    trainer.state.max_steps = 100
    trainer.step_samples = len(rows)
    trainer.accelerator.gradient_state._set_sync_gradients(True)

    def step() -> None:
        trainer.training_step(persona, trainer.collator(rows))
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()
        trainer.take_parts()

    return step


def loss_of(name: str, losses: str) -> str:
    """Return the losses that an arm is compared with: without gates, nothing is routed."""
    return losses if losses in losses_of(ARMS[name][0]) else JOINT


def prepare(
    name: str, losses: str, persona: PersonaModel, shape: tuple[int, int], folder: str
) -> tuple[TrainSpec, Callable[[], None]]:
    """Return the specification of an arm at a shape, and a function that takes one step of it."""
    batch, tokens = shape
    spec = TrainSpec(model=ARMS[name][0], loss=LOSSES[losses], optim=OptimSpec(batch_size=batch))
    cached = bool(persona.cut)
    rows = samples(batch, tokens, persona, cached, reply=bool(spec.loss.w_task))
    return spec, make_step(persona, spec, rows, folder, cached)


def pairs_of(options: argparse.Namespace) -> Iterator[tuple[str, str, str]]:
    """Yield the chosen pairs of arms with each of their losses; free memory after each."""
    for left, right, _ in RATIOS:
        if left not in options.arms or right not in options.arms:
            continue
        for losses in options.losses:
            if losses in losses_of(ARMS[left][0]):
                yield left, right, losses
                gc.collect()
                torch.cuda.empty_cache()


def measure(step: Callable[[], None], device: str, repeats: int) -> tuple[float, int]:
    """Return the median step time in milliseconds and the peak of allocated bytes."""
    cuda = device == "cuda"
    times = []
    for number in range(repeats + 3):
        if number == 3 and cuda:
            torch.cuda.reset_peak_memory_stats()
        if cuda:
            torch.cuda.synchronize()
        start = time.perf_counter()
        step()
        if cuda:
            torch.cuda.synchronize()
        if number >= 3:
            times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times), torch.cuda.max_memory_allocated() if cuda else 0


def build_arm(name: str, options: argparse.Namespace) -> PersonaModel:
    """Make the model of an arm, as it stands when training begins."""
    model_spec, oft = ARMS[name]
    base = random_nf4(config_of(options.tiny), options.device)
    torch.manual_seed(0)
    persona = PersonaModel(base, model_spec)
    if oft:
        add_oft(persona, oft)
    persona.recompute_activations()
    cached = bool(persona.cut)
    if cached:
        persona.drop_prefix()
    if options.device == "cuda":
        persona.offload(embeddings=cached, lm_head=False)
    gc.collect()
    torch.cuda.empty_cache()
    return persona


def run_arm(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Build one arm and measure it with each loss at both shapes."""
    persona = build_arm(name, options)
    found = []
    for losses in losses_of(ARMS[name][0]):
        for shape in SHAPES:
            found.append(measure_one(name, losses, persona, shape, options))
            gc.collect()
            torch.cuda.empty_cache()
    return found


def measure_one(
    name: str,
    losses: str,
    persona: PersonaModel,
    shape: tuple[int, int],
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Measure one arm with one loss at one shape; print its line of the table."""
    batch, tokens = shape
    with tempfile.TemporaryDirectory() as folder:
        spec, step = prepare(name, losses, persona, shape, folder)
        milliseconds, peak = measure(step, options.device, options.repeats)
    expected = estimate(
        spec,
        persona.causal_lm.config,
        Workload(batch, tokens, 0, REPLY if spec.loss.w_task else 0),
        device="cuda",
        quantization="nf4",
    )
    total = expected.total
    if not spec.loss.w_task:  # the arm keeps the LM head on the device for its other losses
        head = persona.causal_lm.lm_head.weight
        total += head.numel() * head.element_size()
    print(
        f"| {name} | {losses} | {batch}×{tokens} | {milliseconds:.0f} | {peak / 2**30:.2f} |"
        f" {total / 2**30:.2f} | {total / peak if peak else float('nan'):.2f} |",
        flush=True,
    )
    return {
        "arm": name,
        "losses": losses,
        "batch": batch,
        "tokens": tokens,
        "ms": milliseconds,
        "peak": peak,
        "estimate": total,
        "parts": expected.device,
    }


def compare_pair(
    left: str, right: str, losses: str, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Build two arms at once and let them take steps in turn; return the ratios of step times.

    Arms that are timed one after the other differ by whatever the host does meanwhile; here each
    ratio is of two neighbouring steps.
    """
    found = []
    personas = {name: build_arm(name, options) for name in (left, right)}
    for batch, tokens in SHAPES:
        with tempfile.TemporaryDirectory() as folder:
            steps = [
                prepare(name, loss_of(name, losses), persona, (batch, tokens), folder)[1]
                for name, persona in personas.items()
            ]
            times = [measure_in_turn(steps, options.device) for _ in range(options.repeats + 3)][3:]
        ratios = sorted(first / second for first, second in times)
        medians = [statistics.median(column) for column in zip(*times, strict=True)]
        ratio = statistics.median(ratios)
        print(
            f"| {left} / {right} | {losses} | {batch}×{tokens} | {medians[0]:.0f} |"
            f" {medians[1]:.0f} | {ratio:.3f} | {ratios[len(ratios) // 4]:.3f}"
            f" to {ratios[-1 - len(ratios) // 4]:.3f} |",
            flush=True,
        )
        found.append(
            {"left": left, "right": right, "losses": losses, "batch": batch, "tokens": tokens,
             "ratio": ratio, "times": times}
        )  # fmt: skip
    return found


def measure_in_turn(steps: list[Callable[[], None]], device: str) -> tuple[float, ...]:
    """Take one step of each and return their times in milliseconds."""
    times = []
    for step in steps:
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        step()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - start))
    return tuple(times)


def device_time(name: str, losses: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return what the GPU itself does in a step of one arm: time in kernels, and how many.

    Steps of a fast GPU wait for the host, and a host that others share differs by more from step
    to step than two arms do; the time inside kernels and their number do not.
    """
    from torch.profiler import ProfilerActivity, profile

    found = []
    persona = build_arm(name, options)
    for batch, tokens in SHAPES:
        with tempfile.TemporaryDirectory() as folder:
            _, step = prepare(name, loss_of(name, losses), persona, (batch, tokens), folder)
            measure(step, options.device, 1)
            with profile(activities=[ProfilerActivity.CUDA]) as profiler:
                for _ in range(options.repeats):
                    step()
                torch.cuda.synchronize()
        events = [event for event in profiler.events() if event.device_type.name == "CUDA"]
        found.append(
            {
                "arm": name,
                "losses": losses,
                "batch": batch,
                "tokens": tokens,
                "gpu_ms": sum(event.self_device_time_total for event in events)
                / (1000 * options.repeats),
                "kernels": len(events) / options.repeats,
            }
        )
    return found


def compare_device_times(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Compare all pairs of arms by what the GPU does, and print a table."""
    print("| arms | losses | batch×tokens | GPU ms | GPU ms | ratio | kernels | kernels | ratio |")
    print("|---|---|---|---|---|---|---|---|---|")
    found: list[dict[str, Any]] = []
    for left, right, losses in pairs_of(options):
        sides = [device_time(name, losses, options) for name in (left, right)]
        for one, other in zip(*sides, strict=True):
            print(
                f"| {left} / {right} | {losses} | {one['batch']}×{one['tokens']} |"
                f" {one['gpu_ms']:.1f} | {other['gpu_ms']:.1f} |"
                f" {one['gpu_ms'] / other['gpu_ms']:.3f} | {one['kernels']:.0f} |"
                f" {other['kernels']:.0f} | {one['kernels'] / other['kernels']:.3f} |",
                flush=True,
            )
        found += [*sides[0], *sides[1]]
    return found


def compare_pairs(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Compare all pairs of arms by neighbouring steps and print a table."""
    print("| arms | losses | batch×tokens | ms | ms | ratio of neighbours, median | quartiles |")
    print("|---|---|---|---|---|---|---|")
    found: list[dict[str, Any]] = []
    for left, right, losses in pairs_of(options):
        found += compare_pair(left, right, losses, options)
    return found


def main() -> None:
    """Measure all arms and print a table and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--losses", nargs="*", default=list(LOSSES), choices=list(LOSSES))
    parser.add_argument(
        "--pairs", action="store_true", help="ratios of neighbouring steps instead of the table"
    )
    parser.add_argument(
        "--gpu-time", action="store_true", help="ratios of the time inside kernels (CUDA)"
    )
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    where = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    print(f"{where}, torch {torch.__version__}, transformers {transformers.__version__}")
    if options.pairs:
        save(options.out, where, compare_pairs(options))
        return
    if options.gpu_time:
        save(options.out, where, compare_device_times(options))
        return
    print("| arm | losses | batch×tokens | ms a step | peak GiB | estimated GiB | ratio |")
    print("|---|---|---|---|---|---|---|")
    found: list[dict[str, Any]] = []
    for name in options.arms:
        found += run_arm(name, options)
        gc.collect()
        torch.cuda.empty_cache()
    times = {(one["arm"], one["losses"], one["batch"]): one["ms"] for one in found}
    for left, right, text in RATIOS:
        for losses in LOSSES:
            # Where there are no gates, nothing is routed and both losses share one pass.
            plain = losses if (right, losses, 1) in times else JOINT
            for batch, tokens in SHAPES:
                if (left, losses, batch) in times and (right, plain, batch) in times:
                    ratio = times[left, losses, batch] / times[right, plain, batch]
                    print(f"{text}, {losses}, {batch}×{tokens}: {ratio:.3f}")
    save(options.out, where, found)


def save(path: Path | None, where: str, rows: list[dict[str, Any]]) -> None:
    """Write what was measured, with the versions that measured it."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "device": where,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "rows": rows,
    }
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
