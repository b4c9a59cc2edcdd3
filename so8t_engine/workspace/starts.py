"""The learned weights that a run begins with, and which rows they have seen (torch-free).

Fine-tuning goes on from weights that somebody trained before. A row that these were trained on says
nothing about other requests, so a run that begins with them never measures itself on one: it is a
training row, whatever split it has.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from so8t_engine.samples.duplicates import comparison_key
from so8t_engine.samples.schema import Sample
from so8t_engine.workspace.atomic import write_text

SEEN = "trained-on.txt"
_PARTS = ("persona.json", "head.safetensors", "gates.safetensors", "lora")


def row_key(sample: Sample) -> str:
    """Return 16 hex digits for context and request, the same for every spelling of a row."""
    return hashlib.blake2b(comparison_key(sample).encode(), digest_size=8).hexdigest()


def trained_on(samples: Iterable[Sample]) -> frozenset[str]:
    """Return the keys of the training rows among ``samples``."""
    return frozenset(row_key(sample) for sample in samples if sample.split == "train")


def read_seen(folder: Path) -> frozenset[str] | None:
    """Return the keys that :meth:`Start.freeze` wrote into ``folder``, None if there are none."""
    try:
        return frozenset((folder / SEEN).read_text("ascii").split())
    except (OSError, UnicodeDecodeError):
        return None


@dataclass(frozen=True)
class Start:
    """Weights to begin with.

    Attributes:
        folder: checkpoint or adapter folder that holds them.
        seen: keys of the rows they were trained on; None where nobody knows.
    """

    folder: Path
    seen: frozenset[str] | None

    def freeze(self, target: Path) -> None:
        """Copy the weights into a run, with the keys of what they have seen."""
        target.mkdir()
        for part in _PARTS:
            source = self.folder / part
            if source.is_dir():
                shutil.copytree(source, target / part)
            elif source.is_file():
                shutil.copyfile(source, target / part)
        if self.seen is not None:
            write_text(target / SEEN, "".join(f"{key}\n" for key in sorted(self.seen)))

    def knows(self, sample: Sample) -> bool:
        """Tell whether a row is among those that the weights are known to have seen."""
        return self.seen is not None and row_key(sample) in self.seen

    def claim(self, samples: Sequence[Sample]) -> list[Sample]:
        """Return ``samples`` with every seen row in the training split."""
        return [
            msgspec.structs.replace(sample, split="train")
            if sample.split != "train" and self.knows(sample)
            else sample
            for sample in samples
        ]
