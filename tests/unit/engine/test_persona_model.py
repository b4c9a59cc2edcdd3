"""The adapted model: identity at the start, every dtype pairing, padding, sharing, prefix."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from so8t_engine.errors import BaseModelError
from so8t_engine.model.families import SUPPORTED_TYPES
from so8t_engine.model.loading import load_base, load_config
from so8t_engine.model.persona_model import Batch, PersonaModel, SafetyHead
from so8t_engine.specs import LoraSpec, ModelSpec
from tests.helpers.tiny_models import FAMILIES, save_tiny_base
from tests.helpers.tiny_training import build, disturb, load_tiny, token_batch

Bases = Callable[[str], Path]
ROWS = [[5, 9, 14, 22, 31], [7, 3], [40, 41, 42, 43, 44, 45, 46, 8], [12, 13, 14]]
SHARED = [1, 60, 61, 62, 63]


def verdicts(model: PersonaModel, batch: Batch) -> Tensor:
    model.eval()
    with torch.no_grad():
        return model(batch)


def gradients(model: PersonaModel, batch: Batch) -> dict[str, Tensor]:
    """Gradients of a loss over verdicts and LM logits, by parameter name."""
    model.train()
    model.zero_grad()
    hidden, _ = model.hidden_states(batch)
    loss = model.verdict_logits(hidden, batch.last).pow(2).sum()
    real = batch.mask.nonzero()
    loss = loss + model.lm_logits(hidden[real[:, 0], real[:, 1]]).float().pow(2).mean()
    if model.gates is None:
        loss.backward()
    else:
        common = [*model.lora_parameters(), model.safety_head.weight]
        torch.autograd.backward(loss, inputs=[*common, *model.gates.leaves()])
        model.gates.collect("verdict")
        model.gates.finish_step("joint")
    return {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


# -- the start --------------------------------------------------------------------------------


@pytest.mark.parametrize("family", list(FAMILIES))
def test_the_head_knows_the_size_of_what_it_reads(tiny_base: Bases, family: str) -> None:
    model = build(load_tiny(tiny_base(family)))
    factors = model.decoder.norm(torch.ones(model.hidden_size)).float()  # what the norm multiplies
    size = model.hidden_size**0.5 * factors.abs()
    torch.testing.assert_close(model.safety_head.scale, 1 / size, rtol=1e-2, atol=0)


def test_channels_with_small_factors_count_and_tiny_ones_do_not_explode() -> None:
    factors = torch.tensor([100.0] + [1.0] * 62 + [0.0])
    scale = SafetyHead(factors).scale
    typical = factors.pow(2).mean().sqrt()
    torch.testing.assert_close(scale * 8, 1 / factors.clamp(min=0.1 * float(typical)))


@pytest.mark.parametrize("family", list(FAMILIES))
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_untrained_persona_is_bit_identical_to_its_base(
    tiny_base: Bases, family: str, dtype: str
) -> None:
    ids = torch.tensor([ROWS[0], ROWS[2][:5]])
    base = load_tiny(tiny_base(family), dtype)
    with torch.no_grad():
        before = base.model(input_ids=ids).logits
        model = build(base, adapt_layers="all").eval()
        after = model.causal_lm(input_ids=ids).logits
    assert after.dtype == before.dtype == base.dtype
    assert torch.equal(after, before)
    disturb(model)
    with torch.no_grad():
        assert not torch.allclose(model.causal_lm(input_ids=ids).logits, before, atol=1e-2)


# -- dtypes -----------------------------------------------------------------------------------


DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
        ],
    ),
]


def _autocast(wanted: bool, device: str) -> contextlib.AbstractContextManager[Any]:
    return torch.autocast(device, dtype=torch.bfloat16) if wanted else contextlib.nullcontext()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("base_dtype", ["float32", "bfloat16", "float16", "nf4"])
@pytest.mark.parametrize("autocast", [False, True], ids=["plain", "autocast"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["stored", "recomputed"])
def test_every_dtype_pairing_steps(
    tiny_base: Bases, device: str, base_dtype: str, autocast: bool, checkpointing: bool
) -> None:
    nf4 = base_dtype == "nf4"
    base = load_base(
        tiny_base("qwen3"),
        device=device,
        dtype="bfloat16" if nf4 else base_dtype,
        quantization="nf4" if nf4 else "none",
    )
    model = disturb(build(base), size=0.05)
    if checkpointing:
        model.recompute_activations()
    batch = token_batch(ROWS, SHARED).to(model.device)
    seen: list[torch.dtype] = []
    for layer in model.layers:
        model.decoder.layers[layer].self_attn.register_forward_hook(
            lambda _module, inputs, output: seen.append(output[0].dtype)
        )
    with _autocast(autocast, device):
        found = gradients(model, batch)
        hidden, _ = model.hidden_states(batch)
        logits = model.lm_logits(hidden)
    forward = torch.bfloat16 if autocast else base.dtype
    assert set(seen) == {forward}
    assert hidden.dtype == base.dtype or autocast
    assert logits.dtype == forward
    assert model.gates is not None
    assert model.gates.theta_safe.dtype == model.safety_head.weight.dtype == torch.float32
    wanted = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert set(found) == wanted
    assert all(gradient.isfinite().all() and gradient.any() for gradient in found.values())
    before = {name: p.detach().clone() for name, p in model.named_parameters() if name in wanted}
    torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01).step()
    for name, parameter in model.named_parameters():
        assert (name in wanted) == (name in before and not torch.equal(parameter, before[name]))


@pytest.mark.parametrize("change", ["bfloat16", "half"])
def test_casting_the_model_leaves_gates_and_head_in_float32(tiny_base: Bases, change: str) -> None:
    model = disturb(build(load_tiny(tiny_base("llama"))))
    assert model.gates is not None
    theta, weight = model.gates.theta_safe.clone(), model.safety_head.weight.clone()
    scale = model.safety_head.scale.clone()
    getattr(model, change)()
    model.to("cpu")
    assert model.gates.theta_safe.dtype == model.safety_head.weight.dtype == torch.float32
    assert torch.equal(model.gates.theta_safe, theta)
    assert torch.equal(model.safety_head.weight, weight)
    assert torch.equal(model.safety_head.scale, scale)
    assert verdicts(model, token_batch(ROWS)).dtype == torch.float32


def test_recomputation_changes_no_gradient(tiny_base: Bases) -> None:
    batch = token_batch(ROWS, SHARED)
    base = load_tiny(tiny_base("qwen2"))
    model = disturb(build(base))
    model.share_head = False
    plain = gradients(model, batch)
    model.recompute_activations()
    again = gradients(model, batch)
    assert plain.keys() == again.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, rtol=1e-5, atol=1e-6)


# -- masks and padding ------------------------------------------------------------------------


@pytest.mark.parametrize("family", list(FAMILIES))
@pytest.mark.parametrize("shared", [[], SHARED], ids=["no_head", "head"])
def test_verdict_does_not_depend_on_padding_or_neighbours(
    tiny_base: Bases, family: str, shared: Sequence[int]
) -> None:
    model = disturb(build(load_tiny(tiny_base(family))))
    alone = torch.cat([verdicts(model, token_batch([row], shared)) for row in ROWS])
    assert (alone.max(0).values - alone.min(0).values).max() > 0.05  # the rows do differ
    for side in ("right", "left"):
        for extra in (0, 5):
            together = verdicts(model, token_batch(ROWS, shared, side=side, extra=extra))
            torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    backwards = verdicts(model, token_batch(ROWS[::-1], shared))
    torch.testing.assert_close(backwards.flip(0), alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_shared_head_equals_the_head_in_every_row(tiny_base: Bases, family: str) -> None:
    model = disturb(build(load_tiny(tiny_base(family)), adapt_layers="all"))
    batch = token_batch(ROWS, SHARED)
    shared, shared_gradients = verdicts(model, batch), gradients(model, batch)
    model.share_head = False
    spread, spread_gradients = verdicts(model, batch), gradients(model, batch)
    torch.testing.assert_close(shared, spread, rtol=1e-4, atol=1e-5)
    joined = verdicts(model, token_batch([SHARED + row for row in ROWS]))
    torch.testing.assert_close(shared, joined, rtol=1e-4, atol=1e-5)
    assert shared_gradients.keys() == spread_gradients.keys()
    for name, gradient in spread_gradients.items():
        torch.testing.assert_close(shared_gradients[name], gradient, rtol=1e-3, atol=1e-4)


def test_hidden_states_of_the_shared_head_are_the_same_either_way(tiny_base: Bases) -> None:
    model = disturb(build(load_tiny(tiny_base("llama")))).eval()
    batch = token_batch(ROWS, SHARED)
    with torch.no_grad():
        _, once = model.hidden_states(batch)
        model.share_head = False
        _, spread = model.hidden_states(batch)
    assert once is not None and spread is not None
    assert once.shape == (len(SHARED), model.hidden_size)
    torch.testing.assert_close(once, spread, rtol=1e-4, atol=1e-5)


# -- the frozen prefix ------------------------------------------------------------------------


@pytest.mark.parametrize("family", list(FAMILIES))
@pytest.mark.parametrize("layers", [2, (1, 3)])
def test_states_of_the_frozen_prefix_replace_the_lower_layers(
    tiny_base: Bases, family: str, layers: Any
) -> None:
    model = disturb(build(load_tiny(tiny_base(family)), adapt_layers=layers))
    batch = token_batch(ROWS, SHARED)
    expected, expected_gradients = verdicts(model, batch), gradients(model, batch)
    rows, head = model.prefix_states(batch.rows, batch.mask, batch.shared)
    model.drop_prefix()
    fed = Batch(rows, batch.mask, head, batch.last)
    torch.testing.assert_close(verdicts(model, fed), expected, rtol=1e-4, atol=1e-5)
    for name, gradient in gradients(model, fed).items():
        torch.testing.assert_close(gradient, expected_gradients[name], rtol=1e-3, atol=1e-4)
    model.restore_prefix()
    torch.testing.assert_close(verdicts(model, batch), expected, rtol=0, atol=0)


def test_dropped_layers_leave_the_model(tiny_base: Bases) -> None:
    model = build(load_tiny(tiny_base("llama")))
    before = sum(parameter.numel() for parameter in model.parameters())
    lower = sum(p.numel() for index in (0, 1) for p in model.decoder.layers[index].parameters())
    model.drop_prefix()
    assert sum(parameter.numel() for parameter in model.parameters()) == before - lower


# -- what is refused --------------------------------------------------------------------------


def test_width_that_is_no_multiple_of_eight_is_refused(tmp_path: Path) -> None:
    folder = save_tiny_base(tmp_path, "llama", hidden_size=60, head_dim=16)
    with pytest.raises(BaseModelError, match="60 of this base model is not a multiple of 8"):
        load_base(folder, device="cpu")


def test_unknown_family_is_refused_with_the_list(tmp_path: Path) -> None:
    from transformers import GPT2Config

    GPT2Config(n_embd=64, n_layer=1, n_head=2).save_pretrained(tmp_path)
    with pytest.raises(BaseModelError) as caught:
        load_config(tmp_path)
    assert "gpt2" in str(caught.value)
    assert all(name in str(caught.value) for name in SUPPORTED_TYPES)


@pytest.mark.parametrize("layers", [(0, 9), (-1,), 0])
def test_layers_that_do_not_exist_are_refused(tiny_base: Bases, layers: Any) -> None:
    with pytest.raises(BaseModelError, match="does not fit a base model of 4 layers"):
        build(load_tiny(tiny_base("llama")), adapt_layers=layers)


# -- parts ------------------------------------------------------------------------------------


def test_only_adapted_layers_learn(tiny_base: Bases) -> None:
    model = build(load_tiny(tiny_base("llama_bias")), adapt_layers=(1, 3))
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    lora = [name for name in names if "lora_" in name]
    assert {name.split(".layers.")[1].split(".")[0] for name in lora} == {"1", "3"}
    assert len(lora) == 2 * 7 * 2  # two layers, seven linears, A and B
    assert set(names) - set(lora) == {
        "gates.theta_safe",
        "gates.theta_cmd",
        "safety_head.weight",
    }


@pytest.mark.parametrize(("gates", "lora"), [(True, False), (False, True), (False, False)])
def test_parts_can_be_left_out(tiny_base: Bases, gates: bool, lora: bool) -> None:
    base = load_tiny(tiny_base("llama"))
    torch.manual_seed(0)
    spec = ModelSpec(adapt_layers=2, gates=gates, lora=LoraSpec(rank=2) if lora else None)
    model = PersonaModel(base, spec)
    found = gradients(model, token_batch(ROWS, SHARED))
    assert any("theta" in name for name in found) == gates
    assert any("lora_" in name for name in found) == lora
    assert "safety_head.weight" in found


def test_lora_part_loads_in_peft_and_gives_the_same_logits(
    tiny_base: Bases, tmp_path: Path
) -> None:
    from peft import PeftModel

    from so8t_engine.model.adapter import load_adapter, save_adapter
    from so8t_engine.model.header import AdapterHeader

    folder = tiny_base("qwen3")
    model = disturb(build(load_tiny(folder))).eval()
    header = AdapterHeader(
        base=str(folder),
        base_fingerprint="f",
        hidden_size=model.hidden_size,
        layers=tuple(model.layers),
        max_tokens=64,
        include_policy=True,
        model=model.spec,
    )
    save_adapter(model, tmp_path / "a", header, step=7)
    assert not list((tmp_path / "a").rglob("*.bin")) and not list((tmp_path / "a").rglob("*.pt"))

    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.tensor([ROWS[2]])
    with torch.no_grad():
        untouched = base(input_ids=ids).logits
        foreign = PeftModel.from_pretrained(base, tmp_path / "a" / "lora").eval()
        assert model.gates is not None
        model.gates.strength = 0.0
        ours, theirs = model.causal_lm(input_ids=ids).logits, foreign(input_ids=ids).logits
        torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-6)
        assert (theirs - untouched).abs().max() > 1e-3

    again = build(load_tiny(folder), seed=99)
    load_adapter(again, tmp_path / "a")
    model.gates.strength = 1.0
    batch = token_batch(ROWS, SHARED)
    assert torch.equal(verdicts(again, batch), verdicts(model, batch))


@pytest.mark.parametrize("family", ["llama", "qwen2"], ids=["tied", "untied"])
def test_offloaded_parts_change_nothing(tiny_base: Bases, family: str) -> None:
    model = disturb(build(load_tiny(tiny_base(family))))
    batch = token_batch(ROWS, SHARED)
    before = verdicts(model, batch)
    model.offload(embeddings=True, lm_head=False)
    assert torch.equal(verdicts(model, batch), before)
    model.offload(embeddings=True, lm_head=True)
    assert torch.equal(verdicts(model, batch), before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("family", ["llama", "qwen2"], ids=["tied", "untied"])
@pytest.mark.parametrize("base_dtype", ["float32", "bfloat16", "float16", "nf4"])
@pytest.mark.parametrize("dropped", [False, True])
def test_parts_leave_the_gpu(tiny_base: Bases, family: str, base_dtype: str, dropped: bool) -> None:
    nf4 = base_dtype == "nf4"
    base = load_base(
        tiny_base(family),
        device="cuda",
        dtype="bfloat16" if nf4 else base_dtype,
        quantization="nf4" if nf4 else "none",
    )
    model = disturb(build(base))
    model.recompute_activations()
    batch = token_batch(ROWS, SHARED).to(model.device)
    before = verdicts(model, batch)
    if dropped:
        rows, head = model.prefix_states(batch.rows, batch.mask, batch.shared)
        batch = Batch(rows, batch.mask, head, batch.last)
        model.drop_prefix()
    model.offload(embeddings=True, lm_head=False)
    on_gpu = model.decoder.embed_tokens.weight.is_cuda
    assert on_gpu == (family == "llama")  # a tied matrix stays for the LM head
    # Products with 4-bit weights take another kernel, and round otherwise, for fewer rows.
    near = 6e-2 if nf4 else 2e-2
    torch.testing.assert_close(verdicts(model, batch), before, rtol=near, atol=near)
    found = gradients(model, batch)
    assert all(gradient.isfinite().all() for gradient in found.values())


def test_many_verdicts_come_back_in_the_order_of_their_rows(tiny_base: Bases) -> None:
    from so8t_engine.model.inference import verdict_logits
    from so8t_engine.training.data import Collator, EncodedSample

    model = disturb(build(load_tiny(tiny_base("llama")))).train()
    rows = [EncodedSample(tuple(row), len(row), 0, False) for row in ROWS]
    collator = Collator(torch.tensor(SHARED), 0)
    alone = torch.cat([verdicts(model, token_batch([row], SHARED)) for row in ROWS]).numpy()
    model.train()
    for batch_size in (1, 3, 16):
        found = verdict_logits(model, rows, collator, batch_size=batch_size)
        assert abs(found - alone).max() < 1e-4
    assert model.training
    with pytest.raises(InterruptedError):
        verdict_logits(model, rows, collator, cancelled=lambda: True)
