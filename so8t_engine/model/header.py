"""What an adapter fits: the small file beside its weights (torch-free)."""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct

from so8t_engine import __version__
from so8t_engine.errors import WorkspaceError
from so8t_engine.labels import LABELS
from so8t_engine.rotations.analysis import CONVENTION
from so8t_engine.specs import ModelSpec

HEADER = "persona.json"


class AdapterHeader(Struct, frozen=True, kw_only=True):
    """What an adapter fits; ``base`` is the reference of the base model that trained it.

    ``replies`` is False where the verdict loss alone changed the weights, now or in the run that
    they began with: nothing kept them able to write, so the base model writes replies.
    """

    format: int = 1
    engine: str = __version__
    base: str
    base_fingerprint: str
    hidden_size: int
    layers: tuple[int, ...]
    labels: tuple[str, ...] = tuple(label.value for label in LABELS)
    convention: str = CONVENTION
    max_tokens: int
    include_policy: bool
    model: ModelSpec
    replies: bool = True


def read_header(folder: Path) -> AdapterHeader:
    """Read what the adapter in ``folder`` fits.

    Raises:
        WorkspaceError: if the file is missing or damaged.
    """
    try:
        return msgspec.json.decode((folder / HEADER).read_bytes(), type=AdapterHeader)
    except (OSError, msgspec.DecodeError) as error:
        raise WorkspaceError(
            f"The checkpoint {folder.name} cannot be read: {error}.",
            next_step="Choose another checkpoint of this run, or train again.",
        ) from error
