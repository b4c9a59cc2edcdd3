"""What a cell of the dataset table holds: columns, titles, texts, sort keys (no item model)."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import Any

from PySide6.QtCore import QCoreApplication

from so8t_engine.labels import LABEL_INDEX
from so8t_engine.samples.query_terms import fold
from so8t_engine.samples.schema import Sample

COLUMNS: tuple[str, ...] = (
    "label", "request", "context", "response", "rationale", "category", "language", "tags",
    "source", "split", "length", "id",
)  # fmt: skip
EDITABLE: frozenset[str] = frozenset(COLUMNS) - {"length", "id"}
MAX_PREVIEW = 280


def column_titles() -> tuple[str, ...]:
    """Return the title of each column."""

    def tr(text: str) -> str:
        return QCoreApplication.translate("SampleTableModel", text)

    return (
        tr("Label"), tr("Request"), tr("Context"), tr("Response"), tr("Rationale"),
        tr("Category"), tr("Language"), tr("Tags"), tr("Source"), tr("Split"), tr("Length"),
        tr("Identifier"),
    )  # fmt: skip


def cell_value(sample: Sample, name: str) -> Any:
    """Return what is edited and compared."""
    if name == "length":
        return len(sample.request)
    if name == "tags":
        return _tag_text(sample)
    return getattr(sample, name)


def cell_text(sample: Sample, name: str) -> str:
    """Return what is shown."""
    if name == "label":
        return sample.label.value
    if name == "length":
        return f"{len(sample.request):,}"
    if name == "split":
        return sample.split or QCoreApplication.translate("SampleTableModel", "auto")
    return preview(str(cell_value(sample, name)))


def sort_key(name: str) -> Callable[[Sample], Any]:
    """Return by what rows are sorted under a column."""
    if name == "label":
        return lambda sample: LABEL_INDEX[sample.label]
    if name == "length":
        return lambda sample: len(sample.request)
    if name == "tags":
        return _tag_text
    return lambda sample: fold(getattr(sample, name))


def _tag_text(sample: Sample) -> str:
    return ", ".join(sample.tags)


def preview(text: str) -> str:
    """Return the start of a text on one logical line, so that painting a cell stays cheap."""
    if len(text) > MAX_PREVIEW:
        text = text[:MAX_PREVIEW] + "…"
    return " ".join(text.split()) if ("\n" in text or "\r" in text or "\t" in text) else text


def is_right_to_left(text: str) -> bool:
    """Tell whether the first strong character of a text runs right to left."""
    for sign in text[:80]:
        direction = unicodedata.bidirectional(sign)
        if direction in ("R", "AL"):
            return True
        if direction == "L":
            return False
    return False
