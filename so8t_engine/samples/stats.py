"""Counts and lengths of a dataset (torch-free)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from msgspec import Struct

from so8t_engine.labels import LABELS
from so8t_engine.samples.schema import Sample


class Lengths(Struct, frozen=True, kw_only=True):
    """Distribution of one length; ``edges`` has one entry more than ``counts``."""

    unit: str
    mean: float
    median: float
    p95: float
    longest: int
    edges: tuple[int, ...]
    counts: tuple[int, ...]


class Statistics(Struct, frozen=True, kw_only=True):
    """Rows by label; by language, category and split, each with label; lengths."""

    rows: int
    labels: dict[str, int]
    languages: dict[str, dict[str, int]]
    categories: dict[str, dict[str, int]]
    splits: dict[str, dict[str, int]]
    characters: Lengths
    tokens: Lengths | None = None


class TokenCounts(Struct, frozen=True, kw_only=True):
    """Statistics together with the number of tokens of each row, by identifier."""

    statistics: Statistics
    tokens: dict[str, int]


def summarize(
    samples: Sequence[Sample], count_tokens: Callable[[list[str]], list[int]] | None = None
) -> Statistics:
    """Return the statistics; ``count_tokens`` adds lengths in tokens of context and request."""
    return summarize_rows(samples, count_tokens).statistics


def summarize_rows(
    samples: Sequence[Sample], count_tokens: Callable[[list[str]], list[int]] | None = None
) -> TokenCounts:
    """Return the statistics and how many tokens each row has; none where they are not counted."""
    languages: dict[str, Counter[str]] = defaultdict(Counter)
    categories: dict[str, Counter[str]] = defaultdict(Counter)
    labels: Counter[str] = Counter()
    splits: dict[str, Counter[str]] = defaultdict(Counter)
    for sample in samples:
        label = sample.label.value
        labels[label] += 1
        languages[sample.language][label] += 1
        categories[sample.category][label] += 1
        splits[sample.split or "auto"][label] += 1
    counts: list[int] = []
    if count_tokens is not None and samples:
        texts = [f"{s.context}\n{s.request}" if s.context else s.request for s in samples]
        counts = count_tokens(texts)
    statistics = Statistics(
        rows=len(samples),
        labels={label.value: labels[label.value] for label in LABELS},
        languages=_by_size(languages),
        categories=_by_size(categories),
        splits=_by_size(splits),
        characters=lengths([len(sample.request) for sample in samples], "characters"),
        tokens=lengths(counts, "tokens") if counts else None,
    )
    by_row = {sample.id: count for sample, count in zip(samples, counts, strict=bool(counts))}
    return TokenCounts(statistics=statistics, tokens=by_row)


def _by_size(table: dict[str, Counter[str]]) -> dict[str, dict[str, int]]:
    ordered = sorted(table.items(), key=lambda item: (-item[1].total(), item[0]))
    return {name: {label.value: counts[label.value] for label in LABELS}
            for name, counts in ordered}  # fmt: skip


def lengths(values: Sequence[int], unit: str) -> Lengths:
    """Return the distribution of ``values`` in at most 24 equal steps up to the 99th percentile."""
    if not len(values):
        return Lengths(unit=unit, mean=0.0, median=0.0, p95=0.0, longest=0, edges=(0, 1),
                       counts=(0,))  # fmt: skip
    array = np.asarray(values, dtype=np.int64)
    top = max(int(np.percentile(array, 99)), 1)
    step = max(1, -(-top // 24))
    edges = np.arange(0, top + step + 1, step)
    counts = np.histogram(np.minimum(array, edges[-1]), bins=edges)[0]
    return Lengths(
        unit=unit,
        mean=float(array.mean()),
        median=float(np.median(array)),
        p95=float(np.percentile(array, 95)),
        longest=int(array.max()),
        edges=tuple(int(edge) for edge in edges),
        counts=tuple(int(count) for count in counts),
    )


def token_counter(base_folder: Path) -> Callable[[list[str]], list[int]] | None:
    """Return a function that counts tokens with the base model's tokenizer, None without one."""
    path = base_folder / "tokenizer.json"
    if not path.is_file():
        return None
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))

    def count(texts: list[str]) -> list[int]:
        encoded = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [len(one.ids) for one in encoded]

    return count
