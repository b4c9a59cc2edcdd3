"""Folds everything learned into plain weights: an ordinary model that needs none of our code.

Column form, with ``B = blockdiag(R_cmd R_safe)`` and a linear layer ``y = W x + b``:

- layer gate: ``W_o ← B W_o`` and ``b_o ← B b_o``;
- head gate, task side: ``W_lm ← W_lm B`` (an embedding that is tied to it is untied first, since
  the embedding itself must not turn);
- safety head: verdict rows ``W_s ← (scale ⊙ W_s) B_safe / T``, which read the same output of the
  final norm.

LoRA is merged first: a gate acts on the sum of ``W_o x`` and its update. All products are taken in
float32 or wider, never in 4 bits: a quantised base is folded into its 16-bit or 32-bit original.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from so8t_engine.errors import BaseModelError
from so8t_engine.model.adapter import load_adapter
from so8t_engine.model.header import read_header
from so8t_engine.model.loading import load_base
from so8t_engine.model.persona_model import PersonaModel
from so8t_engine.rotations import so8
from so8t_engine.rotations.gate import HEAD


@dataclass(frozen=True)
class FoldedModel:
    """A plain causal language model and the three verdict rows.

    Attributes:
        model: the Hugging Face model, without LoRA layers, hooks or gates; float32, untied if the
            head gate turned the LM head.
        verdict_rows: ``[3, D]`` float32 in the order of the labels; the dot products with the final
            norm's output at the last prompt position are the verdict logits divided by T.
        temperature: the T that the rows contain.
    """

    model: Any
    verdict_rows: Tensor
    temperature: float


def rotate_outputs(rotations: Tensor, weight: Tensor) -> Tensor:
    """Return ``B W``: the layer's output turned by blocks.

    Args:
        rotations: ``[K, 8, 8]`` or ``[1, 8, 8]``.
        weight: ``[D, F]`` with D = 8K outputs, or a bias ``[D]``.
    """
    if weight.dim() == 1:
        return so8.apply(rotations, weight)
    return so8.apply(rotations, weight.transpose(0, 1)).transpose(0, 1).contiguous()


def rotate_inputs(rotations: Tensor, weight: Tensor) -> Tensor:
    """Return ``W B``: the layer as it must be to read an input that is not turned any more.

    A row ``w`` of W becomes ``Bᵀ w``, so the rotations are applied transposed.

    Args:
        rotations: ``[K, 8, 8]`` or ``[1, 8, 8]``.
        weight: ``[N, D]`` with D = 8K inputs.
    """
    return so8.apply(rotations.transpose(-1, -2), weight)


@torch.no_grad()
def fold(persona: PersonaModel, *, temperature: float = 1.0) -> FoldedModel:
    """Turn a persona into plain weights **in place**; ``persona`` cannot be used afterwards.

    The rotations are built in float64 from the float32 generators at the bank's strength, the
    products are taken in float64 and rounded to float32 once.

    Args:
        persona: a persona whose base was loaded in float32 without quantisation.
        temperature: T that the verdict rows are divided by.

    Raises:
        BaseModelError: if the base is quantised or not float32.
        ValueError: if the temperature is not positive.
    """
    if temperature <= 0:
        raise ValueError(f"the temperature {temperature} is not positive")
    _require_plain(persona)
    persona.restore_prefix()
    plain = persona.base.merge_and_unload() if persona.spec.lora is not None else persona.base
    _remove_hooks(plain)
    rows = persona.safety_head.weight.double() * persona.safety_head.scale.double()
    bank = persona.gates
    if bank is not None:
        safe = so8.rotation(bank.theta_safe.double(), bank.strength)
        product = so8.compose(so8.rotation(bank.theta_cmd.double(), bank.strength), safe)
        for position, index in enumerate(persona.layers):
            _fold_layer(plain.model.layers[index].self_attn.o_proj, product[position])
        head = bank.index(HEAD)
        _fold_lm_head(plain, product[head])
        rows = rotate_inputs(safe[head], rows)
    return FoldedModel(plain.eval(), (rows / temperature).float(), temperature)


def fold_checkpoint(base: Path, checkpoint: Path, *, temperature: float = 1.0) -> FoldedModel:
    """Load a base in float32 on the CPU, put a checkpoint on it and fold.

    A persona that was trained over NF4 is folded into the unquantised base; how far its decisions
    move by that is to be measured apart from the error of the fold.

    Raises:
        So8tError: if something is missing, damaged or does not fit.
    """
    header = read_header(checkpoint)
    loaded = load_base(base, device="cpu", dtype="float32", quantization="none")
    persona = PersonaModel(loaded, header.model)
    load_adapter(persona, checkpoint)
    return fold(persona.eval(), temperature=temperature)


def verdict_logits(folded: FoldedModel, hidden: Tensor) -> Tensor:
    """Return the verdict logits of final-norm states ``[..., D]``, temperature undone."""
    logits: Tensor = nn.functional.linear(hidden.float(), folded.verdict_rows) * folded.temperature
    return logits


def _require_plain(persona: PersonaModel) -> None:
    dtypes = {p.dtype for p in persona.decoder.parameters()}
    if persona._prefix_store is not None:
        dtypes |= {p.dtype for layer in persona._prefix_store for p in layer.parameters()}
    if dtypes != {torch.float32}:
        names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
        raise BaseModelError(
            f"Gates fold into float32 weights, and this base is held as {names}.",
            why="Folding into rounded weights would round the rotation away.",
            next_step="Load the base with dtype 'float32' and quantization 'none'.",
        )


def _remove_hooks(plain: Any) -> None:
    """Take the gates off: every hook on these modules is one of ours."""
    plain.lm_head._forward_pre_hooks.clear()
    plain.model._forward_pre_hooks.clear()
    for layer in plain.model.layers:
        layer.self_attn._forward_hooks.clear()


def _fold_layer(projection: nn.Linear, rotations: Tensor) -> None:
    projection.weight.copy_(rotate_outputs(rotations, projection.weight.double()))
    if projection.bias is not None:
        projection.bias.copy_(rotate_outputs(rotations, projection.bias.double()))


def _fold_lm_head(plain: Any, rotations: Tensor) -> None:
    """Turn the LM head, in a matrix of its own if it shares one with the embedding."""
    turned = rotate_inputs(rotations, plain.lm_head.weight.double()).float()
    plain.lm_head.weight = nn.Parameter(turned, requires_grad=False)
    plain.config.tie_word_embeddings = False
