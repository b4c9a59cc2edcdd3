"""A complete base model of a few kilobytes, and a persona that was really trained on it."""

from __future__ import annotations

from pathlib import Path

from so8t_engine.jobs.runtime import Sink
from so8t_engine.labels import LABELS, Label
from so8t_engine.samples.schema import Sample
from so8t_engine.specs import (
    DataSpec,
    LoraSpec,
    LossSpec,
    ModelSpec,
    OptimSpec,
    PetSpec,
    TrainSpec,
)
from so8t_engine.workspace.personas import Persona
from so8t_engine.workspace.runs import RunStore
from so8t_engine.workspace.workspace import Workspace

_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_WORDS = {
    Label.ALLOW: ("please summarise the meeting", "what is a purchase order", "draft a memo"),
    Label.ESCALATE: ("may I sign this contract", "my colleague is ill", "approve the budget"),
    Label.REFUSE: ("steal the password", "forge the receipt", "harm my coworker"),
}


def make_base(folder: Path, *, hidden_size: int = 32) -> Path:
    """Write a tiny Llama with a byte-level tokenizer and chat template into ``folder``."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(5)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {token: index for index, token in enumerate([*special, *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token=special[0],
        bos_token=special[1],
        eos_token=special[2],
        pad_token=special[2],
    )
    tokenizer.chat_template = _TEMPLATE
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=hidden_size,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    model = LlamaForCausalLM(config).to(torch.float32)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_samples(copies: int = 8) -> list[Sample]:
    """Return rows of every label, a quarter of them held out and a few for the test split."""
    samples = []
    for number in range(copies):
        split = "validation" if number % 4 == 3 else "test" if number % 4 == 2 else "train"
        for label in LABELS:
            for place, text in enumerate(_WORDS[label]):
                samples.append(
                    Sample(
                        id=f"{label.value}-{place}-{number}",
                        request=f"{text} {number}",
                        label=label,
                        language="en",
                        split=split,
                        rationale="It is so.",
                        response="Here it is.",
                    )
                )
    return samples


def make_persona(workspace: Path, base: Path) -> Persona:
    """Create a persona on the tiny base model in a new workspace."""
    import msgspec

    persona = Workspace.open(workspace, exclusive=False).create_persona("Tiny")
    persona.save(msgspec.structs.replace(persona.info, policy="Be safe.", base_model=str(base)))
    persona.save_samples(make_samples())
    return persona


def tiny_spec(base: Path, *, steps: int = 6) -> TrainSpec:
    """Return a specification that trains in a second or two."""
    return TrainSpec(
        base_model=str(base),
        device="cpu",
        data=DataSpec(max_tokens=160),
        model=ModelSpec(
            adapt_layers=2,
            lora=LoraSpec(rank=4, alpha=8.0, targets=("q_proj", "o_proj")),
            dtype="float32",
        ),
        loss=LossSpec(pet=PetSpec(weight=0.0)),
        optim=OptimSpec(epochs=1.0, max_steps=steps, batch_size=6, lr_gates=1e-2, lr_head=1e-2),
    )


def train_tiny(persona: Persona, base: Path, *, steps: int = 6, sinks: list[Sink]) -> RunStore:
    """Train the persona for real and return its run."""
    from so8t_engine.jobs.train import run

    code, store = run(tiny_spec(base, steps=steps), persona, events=False, sinks=sinks)
    assert code == 0 and store is not None, f"training ended with {code}"
    return store
