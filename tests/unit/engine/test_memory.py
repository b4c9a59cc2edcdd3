"""The estimate against what is really there, the dry run, and the way out of "out of memory"."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from so8t_engine.events import Error, Metric, Result
from so8t_engine.model.loading import load_config
from so8t_engine.model.persona_model import PersonaModel
from so8t_engine.specs import decode_spec, encode_spec
from so8t_engine.training import memory, out_of_memory
from so8t_engine.training.memory import Shapes, Workload, estimate
from so8t_engine.training.out_of_memory import suggestions
from tests.helpers.tiny_models import FAMILIES, save_tiny_base
from tests.helpers.tiny_training import (
    build,
    load_tiny,
    make_persona,
    make_samples,
    tiny_spec,
    token_batch,
    train,
)

Bases = Callable[[str], Path]


def stored(parameter: torch.Tensor) -> int:
    """Bytes of a weight with all that a 4-bit weight needs besides."""
    total = parameter.numel() * parameter.element_size()
    state = getattr(parameter, "quant_state", None)
    if state is not None:
        total += state.absmax.numel() * state.absmax.element_size()
        total += state.state2.absmax.numel() * state.state2.absmax.element_size()
    return total


def frozen_bytes(model: PersonaModel) -> int:
    seen: dict[int, int] = {}
    for name, parameter in model.causal_lm.named_parameters():
        if "lora_" not in name:
            seen[id(parameter)] = stored(parameter)
    return sum(seen.values())


@pytest.mark.parametrize("family", list(FAMILIES))
@pytest.mark.parametrize(("dtype", "width"), [("float32", 4), ("bfloat16", 2), ("nf4", 2)])
def test_weights_and_learned_numbers_are_exact(
    tiny_base: Bases, family: str, dtype: str, width: int
) -> None:
    quantization = "nf4" if dtype == "nf4" else "none"
    base = load_tiny(tiny_base(family), "bfloat16" if dtype == "nf4" else dtype, quantization)
    model = build(base)
    spec = tiny_spec(tiny_base(family))
    found = estimate(
        spec, load_config(base.folder), Workload(2, 10), device="cpu", width=width,
        quantization=quantization,
    )  # fmt: skip
    assert found.device["weights"] == pytest.approx(frozen_bytes(model), rel=1e-3)
    learned = sum(model.trainable_count().values())
    assert found.device["optimizer"] == 16 * learned


def kept_bytes(model: PersonaModel, tokens: int, rows: int) -> int:
    """Bytes of all tensors that autograd keeps in one forward pass, each storage once."""
    seen: dict[int, int] = {}
    held: list[torch.Tensor] = []
    constant = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in constant:
            seen[storage.data_ptr()] = storage.nbytes()
            held.append(tensor)
        return tensor

    model.train()
    batch = token_batch([list(range(3, 3 + tokens))] * rows)
    if model.gates is not None:
        model.hidden_states(batch)  # puts the gates' own matrices where they stay for the step
        constant |= {leaf.untyped_storage().data_ptr() for leaf in model.gates.leaves()}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.hidden_states(batch)
    return sum(seen.values())


@pytest.mark.parametrize("family", list(FAMILIES))
@pytest.mark.parametrize(("dtype", "width"), [("float32", 4), ("bfloat16", 2)])
@pytest.mark.parametrize("gates", [True, False])
def test_activations_of_a_layer_are_what_autograd_keeps(
    tmp_path: Path, family: str, dtype: str, width: int, gates: bool
) -> None:
    folder = save_tiny_base(tmp_path, family, hidden_size=96, intermediate_size=256, head_dim=16)
    rows, tokens = 4, 64
    kept = {}
    for layers in (1, 3):
        model = build(load_tiny(folder, dtype), adapt_layers=layers, gates=gates)
        kept[layers] = kept_bytes(model, tokens, rows)
    measured = (kept[3] - kept[1]) / 2
    spec = tiny_spec(folder, model_gates=gates)
    shapes = Shapes.of(load_config(folder))
    assert memory.kept_by_layer(shapes, spec, width, rows * tokens) == pytest.approx(
        measured, rel=0.1
    )


def test_estimate_moves_the_right_way(tiny_base: Bases) -> None:
    config = load_config(tiny_base("qwen2"))

    def total(work: Workload | None = None, **parts: Any) -> int:
        spec = tiny_spec(tiny_base("qwen2"), **parts)
        return estimate(spec, config, work or Workload(8, 60, 12, 9, 4000), device="cuda").total

    whole = total(model_adapt_layers="all")
    assert total(model_prefix_cache="auto") < whole
    assert total(model_gradient_checkpointing="off") > total(model_gradient_checkpointing="on")
    assert total(Workload(4, 60, 12, 9)) < total()
    assert total(Workload(8, 30, 12, 9)) < total()
    assert total(loss_w_task=0.0) < total()
    assert total(model_offload_embeddings=True) < total()
    found = estimate(
        tiny_spec(tiny_base("qwen2"), model_prefix_cache="auto"), config,
        Workload(8, 60, 12, 9, 4000), device="cuda",
    )  # fmt: skip
    assert found.host["prefix cache"] == 4000 * config.hidden_size * 2
    assert found.host["lower layers"] > 0
    assert set(found.device) == {"weights", "activations", "optimizer", "head and logits"}


def test_suggestions_fit_and_apply(tiny_base: Bases) -> None:
    config, spec = load_config(tiny_base("llama")), tiny_spec(tiny_base("llama"))
    work = Workload(4, 80, 10, 8)
    options: dict[str, Any] = {"device": "cpu", "width": 4, "quantization": "none"}
    now = estimate(spec, config, work, **options).total
    offered = suggestions(spec, config, work, limit=int(now * 0.9), **options)
    assert len(offered) == 2
    assert offered[0].changes == {"optim.batch_size": 2, "optim.accumulation": 2}
    for one in offered:
        assert one.total <= now * 0.9
        changed = out_of_memory.apply_changes(spec, one.changes)
        assert changed != spec
        assert decode_spec(encode_spec(changed)) == changed
    desperate = suggestions(spec, config, work, limit=1, **options)
    assert [one.text for one in desperate] == ["all of these together"]


@pytest.mark.parametrize(
    ("message", "asked", "free"),
    [
        (
            "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 5.80 GiB"
            " of which 512.00 MiB is free. Including non-PyTorch memory, this process has …",
            int(2.5 * 1024**3),
            512 * 1024**2,
        ),
        (
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate"
            " memory: you tried to allocate 123456 bytes. Error code 12 (Cannot allocate memory)",
            123456,
            None,
        ),
        ("something else", None, None),
    ],
)
def test_the_error_says_what_was_asked_and_free(
    message: str, asked: int | None, free: int | None
) -> None:
    assert out_of_memory.asked_and_free(RuntimeError(message)) == (asked, free)
    on_cpu = "DefaultCPUAllocator" in message
    assert out_of_memory.is_out_of_memory(RuntimeError(message)) == on_cpu
    assert out_of_memory.is_out_of_memory(torch.OutOfMemoryError(message))


def test_out_of_memory_ends_with_settings_that_would_fit(tiny_base: Bases, tmp_path: Path) -> None:
    """In the midst of training more is asked of the allocator than any machine has."""
    persona = make_persona(tmp_path / "persona", make_samples(40))
    spec = tiny_spec(tiny_base("llama"), optim_batch_size=16, schedule_eval_every=0.0)

    def act(event: Any) -> None:
        if isinstance(event, Metric) and event.step == 1:
            torch.empty(2**55, dtype=torch.uint8)

    code, run, recorder = train(spec, persona, on_event=act)
    assert code == 6, recorder.of(Error)
    error = recorder.of(Error)[0]
    assert error.kind == "ResourceError"
    assert error.what.startswith("Out of memory") and "This would fit: " in error.next_step
    (result,) = [event for event in recorder.of(Result) if event.name == "out_of_memory"]
    assert result.data["asked"] == 2**55
    assert len(result.data["suggestions"]) == 2
    for one in result.data["suggestions"]:
        assert one["estimated"] < result.data["estimated"]
        assert out_of_memory.apply_changes(spec, one["changes"]) != spec
    assert run.state().state == "failed"
    assert run.state().message.startswith("Out of memory")


def test_dry_run_measures_and_keeps_nothing(tiny_base: Bases, tmp_path: Path) -> None:
    from so8t_engine.jobs.train import dry_run
    from tests.helpers.tiny_training import Recorder

    persona = make_persona(tmp_path / "persona", make_samples())
    recorder = Recorder()
    spec = tiny_spec(tiny_base("llama"), model_prefix_cache="auto", optim_accumulation=3)
    assert dry_run(spec, persona, events=False, sinks=[recorder]) == 0
    (result,) = recorder.of(Result)
    data = result.data
    assert data["peak"] >= data["before"] > 50 * 1024**2
    assert data["estimated"] == sum(data["estimate"].values())
    assert data["estimate"]["prefix cache"] > 0
    assert 20 < data["tokens"] <= 96 + 160
    assert not persona.runs()
    assert not list(Path(os.environ["SO8T_CACHE"]).rglob("*.safetensors"))
