"""One labelled example (torch-free)."""

from __future__ import annotations

import uuid

import msgspec
from msgspec import Struct

from so8t_engine.labels import Label


class Sample(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One example of a persona's dataset. It holds no cycles, so the collector passes it over.

    Attributes:
        id: stable identifier, unique within a dataset.
        request: what the user typed.
        label: the right decision.
        context: the situation in which it was typed, if it matters.
        response: what the persona should say.
        rationale: why the label is right.
        category: topic, free text.
        language: BCP 47 code such as ``en`` or ``ja``; empty where unknown.
        tags: free labels of the editor.
        source: where the row comes from.
        split: ``train``, ``validation``, ``test``, or empty (decided by the run, seeded).
    """

    id: str
    request: str
    label: Label
    context: str = ""
    response: str = ""
    rationale: str = ""
    category: str = ""
    language: str = ""
    tags: tuple[str, ...] = ()
    source: str = ""
    split: str = ""


SAMPLE_FIELDS: tuple[str, ...] = tuple(Sample.__struct_fields__)
SPLITS: tuple[str, ...] = ("train", "validation", "test")

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Sample)


def new_sample_id() -> str:
    """Return a fresh identifier of 12 hexadecimal digits."""
    return uuid.uuid4().hex[:12]


def encode_sample(sample: Sample) -> bytes:
    """Return the row as one line of JSON, newline included."""
    return _encoder.encode(sample) + b"\n"


def decode_sample(line: bytes) -> Sample:
    """Read a row that :func:`encode_sample` wrote.

    Raises:
        msgspec.DecodeError: if the line is not such a row. Foreign files go through
            ``so8t_engine.samples.readers`` instead.
    """
    return _decoder.decode(line)
