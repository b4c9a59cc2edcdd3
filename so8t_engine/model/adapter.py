"""A persona's learned weights in a folder: LoRA in peft's own format, gates and head beside it.

``lora/`` can be loaded by ``PeftModel.from_pretrained``; ``gates.safetensors`` holds the
generators, ``head.safetensors`` the three verdict rows, ``persona.json`` says what they fit. No
pickle anywhere.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from so8t_engine.errors import WorkspaceError
from so8t_engine.model.header import HEADER, AdapterHeader
from so8t_engine.model.persona_model import PersonaModel
from so8t_engine.rotations.recording import load_bank, save_bank
from so8t_engine.workspace.atomic import write_bytes, write_with


def save_adapter(model: PersonaModel, folder: Path, header: AdapterHeader, *, step: int) -> None:
    """Write everything learned into ``folder`` (which the caller makes durable as a whole)."""
    folder.mkdir(parents=True, exist_ok=True)
    if model.spec.lora is not None:
        _save_lora(model, folder / "lora")
    if model.gates is not None:
        save_bank(model.gates, folder / "gates.safetensors", step=step)
    head = {
        "safety_head.weight": model.safety_head.weight.detach().cpu().clone(),
        "safety_head.scale": model.safety_head.scale.detach().cpu().clone(),
    }
    write_with(
        folder / "head.safetensors",
        lambda name: save_file(head, name, metadata={"labels": ",".join(header.labels)}),
    )
    encoded = msgspec.json.format(msgspec.json.encode(header), indent=2)
    write_bytes(folder / HEADER, encoded + b"\n")


def _save_lora(model: PersonaModel, folder: Path) -> None:
    from peft import get_peft_model_state_dict

    folder.mkdir(exist_ok=True)
    state = get_peft_model_state_dict(model.base, save_embedding_layers=False)
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    write_with(
        folder / "adapter_model.safetensors",
        lambda name: save_file(tensors, name, metadata={"format": "pt"}),
    )
    config = model.base.peft_config["default"]
    before = config.inference_mode
    config.inference_mode = True
    try:
        config.save_pretrained(folder)
    finally:
        config.inference_mode = before


def load_adapter(model: PersonaModel, folder: Path) -> None:
    """Load learned weights into a model that was built with the same :class:`ModelSpec`.

    Raises:
        WorkspaceError: if a file is missing, damaged, or does not fit.
    """
    try:
        if model.spec.lora is not None:
            _load_lora(model, folder / "lora")
        if model.gates is not None:
            stored = load_bank(folder / "gates.safetensors")
            if stored.names != model.gates.names or stored.sharing != model.gates.sharing:
                raise ValueError("the gates belong to other layers")
            model.gates.load_state_dict(stored.state_dict())
        head = load_file(folder / "head.safetensors")
        with torch.no_grad():
            model.safety_head.weight.copy_(head["safety_head.weight"])
            model.safety_head.scale.copy_(head["safety_head.scale"])
    except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
        raise WorkspaceError(
            f"The weights in {folder.name} cannot be loaded: {error}.",
            next_step="Choose another checkpoint of this run, or train again.",
        ) from error


def _load_lora(model: PersonaModel, folder: Path) -> None:
    from peft import set_peft_model_state_dict

    state: dict[str, Any] = load_file(folder / "adapter_model.safetensors")
    outcome = set_peft_model_state_dict(model.base, state)
    if outcome.unexpected_keys:
        raise ValueError(f"LoRA weights for unknown layers: {outcome.unexpected_keys[:3]}")
