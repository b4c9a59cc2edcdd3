"""Checks a folder that is to serve as base model, without loading it (no Qt, no torch)."""

from __future__ import annotations

from pathlib import Path

import msgspec

BLOCK = 8


class _Config(msgspec.Struct):
    hidden_size: int | None = None
    model_type: str = ""
    num_hidden_layers: int | None = None


def check_base_folder(folder: Path) -> tuple[str, str]:
    """Return what the folder holds, and what is wrong with it (empty if nothing is).

    Only small files are read; whether the weights are whole is found out when they are loaded.
    """
    path = folder / "config.json"
    if not folder.is_dir():
        return "", f"The folder {folder} does not exist."
    if not path.is_file():
        return "", f"{folder.name} holds no config.json, so it is no model folder."
    try:
        config = msgspec.json.decode(path.read_bytes(), type=_Config)
    except (OSError, msgspec.DecodeError) as error:
        return "", f"{path} cannot be read: {error}."
    if not config.hidden_size:
        return "", f"{path} names no hidden_size."
    if config.hidden_size % BLOCK:
        return "", (
            f"Its hidden size {config.hidden_size} is not a multiple of {BLOCK}, "
            "so it cannot be cut into SO(8) blocks."
        )
    if not any(folder.glob("*.safetensors")):
        return "", f"{folder.name} holds no .safetensors weights; other formats are not loaded."
    words = f"{config.model_type or 'model'}, {config.num_hidden_layers or '?'} layers"
    return f"{words}, hidden size {config.hidden_size}", ""


def estimate_tokens(text: str) -> int:
    """Return about how many tokens a text takes: four Latin letters or one kanji a token."""
    wide = sum(1 for sign in text if ord(sign) > 0x2E7F)
    return round(wide * 1.4 + (len(text) - wide) / 4)
