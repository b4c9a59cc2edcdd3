"""Generators of all gates on disk, one small file a recorded step.

The layout is in ARCHITECTURE.md; ``so8t_engine.rotations.analysis`` reads it without torch.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from so8t_engine.rotations.analysis import CONVENTION
from so8t_engine.rotations.gate import GateBank
from so8t_engine.workspace.atomic import write_with


def bank_metadata(bank: GateBank) -> dict[str, str]:
    """Return what a reader needs to interpret the tensors of a bank."""
    return {
        "sharing": bank.sharing,
        "hidden_size": str(bank.hidden_size),
        "gates": ",".join(bank.names),
        "convention": CONVENTION,
    }


def bank_tensors(bank: GateBank) -> dict[str, torch.Tensor]:
    """Return the generators by name, ``<gate>.safe`` and ``<gate>.cmd``, each ``[K, 28]``."""
    tensors = {}
    for index, name in enumerate(bank.names):
        tensors[f"{name}.safe"] = bank.theta_safe.detach()[index].cpu().clone()
        tensors[f"{name}.cmd"] = bank.theta_cmd.detach()[index].cpu().clone()
    return tensors


def save_bank(bank: GateBank, path: Path, *, step: int) -> None:
    """Write the generators of all gates atomically."""
    metadata = bank_metadata(bank) | {"step": str(step)}
    write_with(path, lambda name: save_file(bank_tensors(bank), name, metadata=metadata))


def record(bank: GateBank, folder: Path, *, step: int) -> Path:
    """Record the generators at ``step`` and return the file."""
    path = folder / f"step-{step:08d}.safetensors"
    save_bank(bank, path, step=step)
    return path


def load_bank(path: Path) -> GateBank:
    """Rebuild a bank from a file that :func:`save_bank` wrote.

    Raises:
        OSError: if the file is missing.
        ValueError: if it holds no gates.
    """
    with safe_open(path, framework="pt") as stream:
        metadata = stream.metadata() or {}
        names = [name for name in metadata.get("gates", "").split(",") if name]
        if not names or metadata.get("sharing") not in ("per_block", "shared"):
            raise ValueError(f"{path} holds no gates")
        sharing = "shared" if metadata["sharing"] == "shared" else "per_block"
        bank = GateBank(names, int(metadata["hidden_size"]), sharing)  # type: ignore[arg-type]
        with torch.no_grad():
            for index, name in enumerate(names):
                bank.theta_safe[index] = stream.get_tensor(f"{name}.safe")
                bank.theta_cmd[index] = stream.get_tensor(f"{name}.cmd")
    return bank
