"""Which causal language models the gates know, and where their parts are."""

from __future__ import annotations

from typing import Any

from so8t_engine.errors import BaseModelError

DIM = 8  # channels of a block; the same as so8t_engine.rotations.so8.DIM, without torch

GEMMA = "gemma3_text"
SUPPORTED_TYPES: tuple[str, ...] = ("llama", "mistral", "qwen2", "qwen3", GEMMA)
"""``config.model_type`` values whose decoder adds the output of ``self_attn`` to the residual.

Gemma 3 normalises it first, which changes nothing for gate and fold: both end at ``o_proj``.
"""


def norm_factors(config: Any, weight: Any) -> Any:
    """Return what an RMS norm multiplies its channels with; Gemma stores it less one."""
    return weight + 1 if config.model_type == GEMMA else weight


def check_config(config: Any) -> None:
    """Refuse a base model that cannot carry gates.

    Raises:
        BaseModelError: for an unsupported type or a hidden size that is no multiple of 8.
    """
    model_type = getattr(config, "model_type", "unknown")
    if model_type not in SUPPORTED_TYPES:
        raise BaseModelError(
            f"Base models of type {model_type!r} are not supported.",
            next_step=f"Supported types: {', '.join(SUPPORTED_TYPES)}.",
        )
    if config.hidden_size % DIM:
        raise BaseModelError(
            f"The hidden size {config.hidden_size} of this base model is not a multiple of {DIM}.",
            why="SO(8) gates rotate blocks of 8 channels and never a part of a block.",
            next_step="Choose another base model.",
        )


def adapted_layers(adapt: str | int | tuple[int, ...], layers: int) -> list[int]:
    """Return the indices of the layers that are adapted.

    Args:
        adapt: ``all``, the number of top layers, or a list of indices.
        layers: how many layers the base model has.

    Raises:
        BaseModelError: if an index does not exist or nothing would be adapted.
    """
    if adapt == "all":
        return list(range(layers))
    if isinstance(adapt, int):
        chosen = list(range(max(0, layers - adapt), layers))
    else:
        chosen = sorted({int(index) for index in adapt})
    if not chosen or chosen[0] < 0 or chosen[-1] >= layers:
        raise BaseModelError(
            f"adapt_layers = {adapt!r} does not fit a base model of {layers} layers.",
            next_step=f"Use 'all', a number from 1 to {layers}, or indices from 0 to {layers - 1}.",
        )
    return chosen
