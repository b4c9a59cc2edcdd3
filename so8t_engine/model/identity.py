"""Recognises a base model by its content, wherever its folder lies."""

from __future__ import annotations

import hashlib
from pathlib import Path

_SAMPLES, _SAMPLE_BYTES = 64, 4096


def base_identity(folder: Path) -> str:
    """Return a hash of a base model: configuration, tokenizer and weights.

    Of each weight file it reads the header (names, types, shapes), the size, and 64 evenly spread
    pieces of 4 KiB, so that 15 GB take milliseconds. Any training changes nearly every number, so
    two versions of a model differ in these pieces too.
    """
    digest = hashlib.sha256(b"v1")
    for path in sorted(folder.iterdir()):
        if path.name in ("config.json", "tokenizer.json"):
            digest.update(path.name.encode())
            digest.update(path.read_bytes())
        elif path.suffix == ".safetensors":
            _add_weights(path, digest)
    return digest.hexdigest()


def _add_weights(path: Path, digest: hashlib._Hash) -> None:
    size = path.stat().st_size
    digest.update(f"{path.name}|{size}".encode())
    with path.open("rb") as stream:
        header = int.from_bytes(stream.read(8), "little")
        digest.update(stream.read(min(header, size)))
        start = stream.tell()
        for number in range(_SAMPLES):
            stream.seek(start + (size - start - 1) * number // _SAMPLES)
            digest.update(stream.read(_SAMPLE_BYTES))
        stream.seek(max(start, size - _SAMPLE_BYTES))
        digest.update(stream.read())
