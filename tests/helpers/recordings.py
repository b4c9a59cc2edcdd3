"""Writes recordings of generators as a training run leaves them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from so8t_engine.workspace.atomic import write_with
from so8t_engine.workspace.runs import RunStore

Pair = tuple[np.ndarray, np.ndarray]


def write_recording(
    run: RunStore,
    step: int,
    gates: dict[str, Pair],
    *,
    sharing: str = "per_block",
    hidden_size: int | None = None,
) -> Path:
    """Write ``{gate: (safe [K, 28], cmd [K, 28])}`` as the recording of ``step``."""
    tensors: dict[str, np.ndarray] = {}
    for gate, (safe, cmd) in gates.items():
        tensors[f"{gate}.safe"] = np.ascontiguousarray(safe, dtype=np.float32)
        tensors[f"{gate}.cmd"] = np.ascontiguousarray(cmd, dtype=np.float32)
    blocks = max((len(pair[0]) for pair in gates.values()), default=1)
    metadata = {
        "step": str(step),
        "sharing": sharing,
        "hidden_size": str(hidden_size or 8 * blocks),
        "gates": ",".join(gates),
        "convention": "column; y = R_cmd R_safe x; A = theta - theta^T",
    }
    path = run.rotations_dir / f"step-{step:08d}.safetensors"
    write_with(path, lambda name: save_file(tensors, name, metadata=metadata))
    return path
