"""The fold: same logits and verdicts from plain weights, for every shape of base."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from so8t_engine.errors import BaseModelError
from so8t_engine.export.fold import fold, fold_checkpoint, rotate_inputs, rotate_outputs
from so8t_engine.export.fold import verdict_logits as folded_verdicts
from so8t_engine.model.adapter import save_adapter
from so8t_engine.model.header import AdapterHeader
from so8t_engine.model.persona_model import PersonaModel
from so8t_engine.rotations import so8
from tests.helpers.tiny_models import FAMILIES
from tests.helpers.tiny_training import build, disturb, load_tiny, token_batch

Bases = Callable[[str], Path]
IDS = torch.tensor([[5, 9, 14, 22, 31, 40, 8], [7, 3, 61, 62, 63, 12, 13]])


def both_logits(model: PersonaModel) -> tuple[torch.Tensor, torch.Tensor]:
    model.eval()
    with torch.no_grad():
        batch = token_batch(IDS.tolist())
        return model(batch), model.causal_lm(input_ids=IDS).logits


def assert_relative(found: torch.Tensor, wanted: torch.Tensor, limit: float = 1e-5) -> None:
    assert (found - wanted).abs().max() <= limit * wanted.abs().max()


@pytest.mark.parametrize("family", list(FAMILIES))
@pytest.mark.parametrize("sharing", ["per_block", "shared"])
@pytest.mark.parametrize("lora", [True, False], ids=["lora", "no_lora"])
def test_plain_weights_give_the_same_logits_and_verdicts(
    tiny_base: Bases, tmp_path: Path, family: str, sharing: str, lora: bool
) -> None:
    changes = {} if lora else {"lora": None}
    model = disturb(build(load_tiny(tiny_base(family)), sharing=sharing, **changes))
    verdicts, replies = both_logits(model)
    untouched = load_tiny(tiny_base(family)).model(input_ids=IDS).logits
    assert (replies - untouched).abs().max() > 0.05  # there is something to fold
    folded = fold(model, temperature=1.7)
    folded.model.save_pretrained(tmp_path)
    # Read back by transformers alone: no hook, no adapter, no tie can be left.
    plain = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    with torch.no_grad():
        hidden = plain.model(input_ids=IDS).last_hidden_state[:, -1]
        assert_relative(plain(input_ids=IDS).logits, replies)
        assert_relative(folded_verdicts(folded, hidden), verdicts)
        assert_relative(hidden @ folded.verdict_rows.T, verdicts / 1.7)
    assert {name for name, _ in plain.named_parameters()} >= {"lm_head.weight"}
    assert not plain.config.tie_word_embeddings


def test_embedding_stays_when_the_tied_head_turns(tiny_base: Bases) -> None:
    base = load_tiny(tiny_base("llama"))
    before = base.model.model.embed_tokens.weight.clone()
    model = disturb(build(base))
    folded = fold(model)
    assert torch.equal(folded.model.model.embed_tokens.weight, before)
    assert not torch.equal(folded.model.lm_head.weight, before)


def test_without_gates_the_tie_and_the_head_stay(tiny_base: Bases) -> None:
    model = disturb(build(load_tiny(tiny_base("llama")), gates=False))
    verdicts, replies = both_logits(model)
    folded = fold(model)
    with torch.no_grad():
        assert_relative(folded.model(input_ids=IDS).logits, replies)
        hidden = folded.model.model(input_ids=IDS).last_hidden_state[:, -1]
        assert_relative(folded_verdicts(folded, hidden), verdicts)
    assert folded.model.lm_head.weight is folded.model.model.embed_tokens.weight


def test_strength_is_folded_too(tiny_base: Bases) -> None:
    model = disturb(build(load_tiny(tiny_base("qwen3"))))
    assert model.gates is not None
    model.gates.strength = 0.4
    verdicts, replies = both_logits(model)
    folded = fold(model)
    with torch.no_grad():
        assert_relative(folded.model(input_ids=IDS).logits, replies)
        hidden = folded.model.model(input_ids=IDS).last_hidden_state[:, -1]
        assert_relative(folded_verdicts(folded, hidden), verdicts)


def test_folding_a_checkpoint_equals_folding_the_model(tiny_base: Bases, tmp_path: Path) -> None:
    folder = tiny_base("llama_bias")
    model = disturb(build(load_tiny(folder)))
    model.drop_prefix()
    header = AdapterHeader(
        base=str(folder), base_fingerprint="f", hidden_size=64, layers=tuple(model.layers),
        max_tokens=64, include_policy=True, model=model.spec,
    )  # fmt: skip
    save_adapter(model, tmp_path, header, step=1)
    left, right = fold(model), fold_checkpoint(folder, tmp_path)
    assert torch.equal(left.verdict_rows, right.verdict_rows)
    state = right.model.state_dict()
    for name, value in left.model.state_dict().items():
        torch.testing.assert_close(state[name], value, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("dtype", "quantization"), [("bfloat16", "none"), ("float32", "nf4")])
def test_rounded_weights_are_refused(tiny_base: Bases, dtype: str, quantization: str) -> None:
    model = build(load_tiny(tiny_base("llama"), dtype, quantization))
    with pytest.raises(BaseModelError, match="fold into float32 weights"):
        fold(model)


def test_rotated_matrices_by_hand() -> None:
    torch.manual_seed(0)
    rotations = so8.rotation(torch.randn(2, 28, dtype=torch.float64))
    dense = torch.block_diag(*rotations)
    weight, bias, head = (torch.randn(*s, dtype=torch.float64) for s in ((16, 5), (16,), (7, 16)))
    torch.testing.assert_close(rotate_outputs(rotations, weight), dense @ weight)
    torch.testing.assert_close(rotate_outputs(rotations, bias), dense @ bias)
    torch.testing.assert_close(rotate_inputs(rotations, head), head @ dense)
