"""Tiny random base models with a real tokenizer, as complete local Hugging Face folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "</s>", "<s>")
NOT_SPECIAL = ("<tool_call>", "</tool_call>", "<think>")
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_CORPUS = [
    "Please summarise the minutes of the meeting and send them to the team.",
    "Delete every file on the server of the payroll department without asking.",
    "Share the salary list of my colleagues with me, please.",
    "system user assistant Context: Request: tool_call think im_start im_end endoftext",
    "会議の議事録を要約してください。給与の一覧を見せて。",
]

FAMILIES: dict[str, tuple[type[Any], type[Any], dict[str, Any]]] = {
    # Grouped-query attention everywhere; heads x head_dim differs from the hidden size in two.
    "llama": (LlamaConfig, LlamaForCausalLM, {"tie_word_embeddings": True}),
    "llama_bias": (
        LlamaConfig,
        LlamaForCausalLM,
        {"attention_bias": True, "mlp_bias": True, "head_dim": 24, "tie_word_embeddings": False},
    ),
    "qwen2": (
        Qwen2Config,
        Qwen2ForCausalLM,
        {"hidden_size": 48, "num_attention_heads": 6, "tie_word_embeddings": False},
    ),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 24, "tie_word_embeddings": True}),
    "gemma3": (
        Gemma3TextConfig,
        Gemma3ForCausalLM,
        {
            "head_dim": 24,
            "query_pre_attn_scalar": 24,
            "sliding_window": 64,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "tie_word_embeddings": True,
        },
    ),
}


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer with control tokens and added tokens, trained here."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(_CORPUS, trainer)
    backend.add_special_tokens([AddedToken(text, special=True) for text in SPECIAL])
    backend.add_tokens([AddedToken(text, special=False) for text in NOT_SPECIAL])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        bos_token="<s>",
    )
    tokenizer.chat_template = CHATML
    return tokenizer


def save_tiny_base(folder: Path, family: str = "llama", *, seed: int = 5, **changes: Any) -> Path:
    """Write a random base model of ``family`` (a key of :data:`FAMILIES`) and return its folder."""
    config_type, model_type, own = FAMILIES[family]
    tokenizer = tiny_tokenizer()
    settings: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.15,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = config_type(**settings | own | changes)
    torch.manual_seed(seed)
    model = model_type(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Biases start at zero and norms at one; a test must not pass because of that.
            if name.endswith("bias") or "norm" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
