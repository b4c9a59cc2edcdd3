"""Loads a base model in the precision and on the device that a job asks for, offline."""

from __future__ import annotations

import gc
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from so8t_engine.errors import BaseModelError, ResourceError
from so8t_engine.model.families import check_config

transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()

Quantization = Literal["auto", "none", "nf4"]
_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
_NF4_FROM_PARAMETERS = 1_000_000_000


@dataclass(frozen=True)
class LoadedBase:
    """A base model that is ready to be adapted; all its parameters are frozen."""

    model: Any
    tokenizer: Any
    folder: Path
    device: torch.device
    dtype: torch.dtype
    quantization: str


def choose_device(wanted: str) -> torch.device:
    """Return the device for ``auto``, ``cpu`` or ``cuda``.

    Raises:
        ResourceError: if CUDA is asked for and not there.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ResourceError(
            "This machine has no usable CUDA device.",
            next_step="Set device to 'auto' or 'cpu', or see `so8t doctor`.",
        )
    if wanted == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def choose_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """Return the dtype of the forward pass; ``auto`` is bfloat16 (float16 on old CUDA cards)."""
    if wanted != "auto":
        return _DTYPES[wanted]
    if device.type == "cuda" and not torch.cuda.is_bf16_supported():
        return torch.float16
    return torch.bfloat16


def parameter_count(config: Any) -> int:
    """Estimate the number of parameters of a Llama-like model from its configuration."""
    hidden, layers = config.hidden_size, config.num_hidden_layers
    head_dim = getattr(config, "head_dim", None) or hidden // config.num_attention_heads
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    attention = hidden * head_dim * (2 * heads + 2 * groups)
    embeddings = config.vocab_size * hidden * (1 if config.tie_word_embeddings else 2)
    return int(layers * (attention + 3 * hidden * config.intermediate_size) + embeddings)


def choose_quantization(wanted: Quantization, config: Any, device: torch.device) -> str:
    """Return ``nf4`` or ``none``; ``auto`` is NF4 on CUDA for bases of a billion parameters."""
    if wanted != "auto":
        return wanted
    large = parameter_count(config) >= _NF4_FROM_PARAMETERS
    return "nf4" if large and device.type == "cuda" else "none"


def load_config(folder: Path) -> Any:
    """Read and check the configuration of a base model.

    Raises:
        BaseModelError: if the folder holds no supported model.
    """
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise BaseModelError(
            f"{folder} does not hold a model that can be loaded: {error}.",
            next_step="Choose a folder with config.json, the tokenizer and safetensors weights.",
        ) from error
    check_config(config)
    return config


def load_tokenizer(folder: Path) -> Any:
    """Load the fast tokenizer of a base model.

    Raises:
        BaseModelError: if there is none.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise BaseModelError(
            f"The tokenizer in {folder} cannot be loaded: {error}.",
            next_step="Copy tokenizer.json beside the weights.",
        ) from error
    if not getattr(tokenizer, "is_fast", False):
        raise BaseModelError(
            f"The tokenizer in {folder} is not a fast tokenizer.",
            next_step="Convert it to tokenizer.json with transformers first.",
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_base(
    folder: Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    quantization: Quantization = "auto",
) -> LoadedBase:
    """Load a base model, frozen, in evaluation mode, without a network.

    Args:
        folder: a complete local Hugging Face folder.
        device: ``auto``, ``cpu`` or ``cuda``.
        dtype: ``auto``, ``bfloat16``, ``float16`` or ``float32``.
        quantization: ``nf4`` holds the linear layers in 4 bits with double quantisation
            (Dettmers et al. 2023, arXiv:2305.14314).

    Raises:
        BaseModelError: if the model is missing, damaged or not supported.
        ResourceError: if the device is not there or its memory does not suffice.
    """
    config = load_config(folder)
    tokenizer = load_tokenizer(folder)
    target = choose_device(device)
    precision = choose_dtype(dtype, target)
    chosen = choose_quantization(quantization, config, target)
    options: dict[str, Any] = {
        "dtype": precision,
        "local_files_only": True,
        "trust_remote_code": False,
        "use_safetensors": True,
        "attn_implementation": "sdpa",
    }
    if chosen == "nf4":
        options["quantization_config"] = _nf4(precision)
        options["device_map"] = {"": target}
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, **options)
        if chosen != "nf4":
            model.to(target)
    except torch.OutOfMemoryError as error:
        gc.collect()
        raise ResourceError(
            "The base model does not fit into the memory of the GPU.",
            why=str(error).split("\n", maxsplit=1)[0],
            next_step="Use NF4 quantisation, a smaller base model, or the CPU.",
        ) from error
    except (OSError, ValueError) as error:
        raise BaseModelError(
            f"The weights in {folder} cannot be loaded: {error}.",
            next_step="Get the base model again; `so8t models` shows what is complete.",
        ) from error
    model.requires_grad_(False)
    model.config.use_cache = False
    model.eval()
    return LoadedBase(model, tokenizer, folder, target, precision, chosen)


def _nf4(compute: torch.dtype) -> Any:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
    )
