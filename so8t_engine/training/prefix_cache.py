"""Keeps the output of the frozen prefix, which never changes during a run.

One entry a sample and one for the shared head. The cache is a single safetensors file, named by a
hash of everything that its content depends on, so that a later run on the same data starts at once.
Small caches are read into memory; large ones stay on disk, memory-mapped.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from so8t_engine.model.persona_model import PersonaModel
from so8t_engine.training.data import EncodedSample, token_batches
from so8t_engine.workspace.atomic import write_with

RAM_LIMIT_BYTES = 2 * 1024**3


def cache_key(
    fingerprint: str,
    cut: int,
    dtype: torch.dtype,
    head: Sequence[int],
    rows: Sequence[EncodedSample],
) -> str:
    """Return a hash of all that the states depend on.

    Token ids stand for tokenizer, policy text and samples; ``fingerprint`` for the base weights and
    how they are quantised.
    """
    digest = hashlib.sha256(f"v2|{fingerprint}|{cut}|{dtype}".encode())
    digest.update(np.asarray(head, dtype=np.int64).tobytes())
    for row in rows:
        digest.update(len(row.ids).to_bytes(4, "little"))
        digest.update(np.asarray(row.ids, dtype=np.int64).tobytes())
    return digest.hexdigest()[:32]


def base_fingerprint(folder: Path, quantization: str) -> str:
    """Return a hash of a base's files by name, size and modification time, and quantisation."""
    digest = hashlib.sha256(quantization.encode())
    for path in sorted(folder.glob("*")):
        if path.suffix in (".safetensors", ".json") and path.is_file():
            stat = path.stat()
            digest.update(f"{path.name}|{stat.st_size}|{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _checksum(tensors: dict[str, Tensor]) -> str:
    """Return a checksum of the tensors' bytes; it is read at gigabytes a second."""
    value = 0
    for name in sorted(tensors):
        if tensors[name].numel():
            value = zlib.crc32(tensors[name].view(torch.uint8).numpy().data, value)
    return f"{value:08x}"


def clear(folder: Path) -> int:
    """Delete all stored caches in ``folder`` and return how many bytes that freed."""
    freed = 0
    for path in folder.glob("*.safetensors"):
        size = path.stat().st_size
        path.unlink(missing_ok=True)
        freed += size
    return freed


class PrefixCache:
    """Fills and reads the states of one set of encoded samples."""

    def __init__(self, folder: Path | None, *, mode: str = "auto") -> None:
        """Use ``folder`` for files (None: memory only); ``mode`` is auto, ram or disk."""
        self.folder = folder
        self.mode = mode

    def attach(
        self,
        model: PersonaModel,
        head: Sequence[int],
        rows: Sequence[EncodedSample],
        *,
        key: str,
        budget: int = 2048,
        progress: Callable[[int, int], None] = lambda done, total: None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> tuple[Tensor, list[EncodedSample]]:
        """Return the head's states ``[P, D]`` and the rows with their states ``[T, D]``.

        Raises:
            InterruptedError: if ``cancelled`` said so.
        """
        lengths = [len(row.ids) for row in rows]
        path = self.folder / f"{key}.safetensors" if self.folder else None
        stored = self._load(path, sum(lengths)) if path else None
        if stored is None:
            stored = self._fill(model, head, rows, budget, progress, cancelled)
            if path is not None and self._store(path, stored):
                stored = self._load(path, sum(lengths)) or stored
        shared, states = stored
        starts = np.concatenate([[0], np.cumsum(lengths)]).tolist()
        attached = [
            replace(row, states=states[starts[number] : starts[number + 1]])
            for number, row in enumerate(rows)
        ]
        return shared, attached

    @torch.no_grad()
    def _fill(
        self,
        model: PersonaModel,
        head: Sequence[int],
        rows: Sequence[EncodedSample],
        budget: int,
        progress: Callable[[int, int], None],
        cancelled: Callable[[], bool],
    ) -> tuple[Tensor, Tensor]:
        shared = torch.tensor(list(head), dtype=torch.long, device=model.device)
        starts = np.concatenate([[0], np.cumsum([len(row.ids) for row in rows])]).tolist()
        states = torch.empty(starts[-1], model.hidden_size, dtype=model.compute_dtype)
        head_states = torch.empty(len(head), model.hidden_size, dtype=model.compute_dtype)
        done = 0
        for chosen in token_batches([len(row.ids) for row in rows], budget):
            if cancelled():
                raise InterruptedError
            longest = len(rows[chosen[-1]].ids)
            ids = torch.zeros(len(chosen), longest, dtype=torch.long)
            mask = torch.zeros(len(chosen), longest, dtype=torch.bool)
            for place, number in enumerate(chosen):
                length = len(rows[number].ids)
                ids[place, :length] = torch.tensor(rows[number].ids)
                mask[place, :length] = True
            hidden, head_states_now = model.prefix_states(
                ids.to(model.device), mask.to(model.device), shared
            )
            if not done:
                head_states.copy_(head_states_now)
            for place, number in enumerate(chosen):
                length = len(rows[number].ids)
                states[starts[number] : starts[number + 1]] = hidden[place, :length].cpu()
            done += len(chosen)
            progress(done, len(rows))
        return head_states, states

    def _store(self, path: Path, stored: tuple[Tensor, Tensor]) -> bool:
        """Write the cache; False if the disk does not take it (the run then goes on in memory)."""
        tensors = {"head": stored[0].contiguous(), "rows": stored[1].contiguous()}
        metadata = {"checksum": _checksum(tensors)}
        try:
            write_with(path, lambda name: save_file(tensors, name, metadata=metadata))
        except (OSError, SafetensorError):
            return False
        return True

    def _load(self, path: Path, tokens: int) -> tuple[Tensor, Tensor] | None:
        """Read a stored cache; None if there is none or it is damaged."""
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as stream:
                # safetensors maps the file; a clone brings it into memory for good.
                head, rows = stream.get_tensor("head"), stream.get_tensor("rows")
                wanted = (stream.metadata() or {}).get("checksum")
            intact = _checksum({"head": head, "rows": rows}) == wanted and len(rows) == tokens
        except (SafetensorError, OSError):
            intact = False
        if not intact:
            path.unlink(missing_ok=True)
            return None
        in_ram = self.mode == "ram" or (
            self.mode == "auto" and path.stat().st_size <= RAM_LIMIT_BYTES
        )
        return (head.clone(), rows.clone()) if in_ram else (head, rows)
