"""The conditions of a query, each of which makes a mask of the rows (torch-free).

The masks have one byte a row. They are built by loops that run in C, so that 100,000 rows are
filtered between two keystrokes, and a caller may keep them for the next keystroke.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import repeat
from operator import attrgetter, contains, not_

import numpy as np
import regex
from msgspec import Struct

from so8t_engine.labels import LABELS, parse_label
from so8t_engine.samples.schema import SPLITS, Sample

TEXT_FIELDS = ("request", "context", "response", "rationale", "id", "source", "category")
FIELD_NAMES: dict[str, str] = {
    "label": "label", "lang": "language", "language": "language", "category": "category",
    "cat": "category", "tag": "tags", "tags": "tags", "source": "source", "split": "split",
    "id": "id", "request": "request", "context": "context", "response": "response",
    "rationale": "rationale", "issue": "issue",
}  # fmt: skip
REGEX_SECONDS = 0.2
_EXACT = frozenset(("category", "language", "source", "id"))
_INVERT = bytes([1, 0]) + bytes(254)
Mask = Callable[[Sequence[Sample], Sequence[str]], bytes]
pattern_error: type[Exception] = regex.error


class QueryError(ValueError):
    """Why a query cannot be used, as a sentence."""


class Facts(Struct, frozen=True):
    """What a query may ask for that is not in the rows themselves.

    Attributes:
        issues: kinds of problem by row identifier, as of the last check.
        tokens: length in tokens by row identifier, as of the last count.
    """

    issues: Callable[[], Mapping[str, frozenset[str]]] = dict
    tokens: Callable[[], Mapping[str, int]] = dict


class Term(Struct, frozen=True):
    """One condition.

    Attributes:
        key: its text, by which a mask may be kept.
        mask: gives one byte a row, 1 where the condition holds.
        slow: it looks at every row in Python; asked last, and of the rows that are left only.
        keep: whether the mask depends on nothing but the rows.
        wider: key of a term that holds wherever this one does; empty if none is known.
    """

    key: str
    mask: Mask
    slow: bool = False
    keep: bool = True
    wider: str = ""


def fold(text: str) -> str:
    """Return ``text`` for comparisons: full and half width alike, case ignored."""
    return text.casefold() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()


_fold_value = lru_cache(maxsize=8192)(fold)


def negated(term: Term) -> Term:
    """Return the opposite of a term."""

    def mask(samples: Sequence[Sample], texts: Sequence[str]) -> bytes:
        return term.mask(samples, texts).translate(_INVERT)

    return Term(f"-{term.key}", mask, term.slow, term.keep)


def unescape(text: str) -> str:
    """Return what a quoted text means: a backslash takes the next sign as it is."""
    return re.sub(r"\\(.)", r"\1", text)


def substring(needle: str) -> Mask:
    """Rows whose folded text holds ``needle``."""
    return lambda _samples, texts: bytes(map(contains, texts, repeat(needle)))


def _word(word: str) -> Mask:
    """Whole words in any text; only rows that hold the letters at all are looked at."""
    pattern = re.compile(rf"(?<!\w){re.escape(word)}(?!\w)")

    def mask(_samples: Sequence[Sample], texts: Sequence[str]) -> bytes:
        return bytes([word in text and pattern.search(text) is not None for text in texts])

    return mask


def compile_regex(pattern: str, flags: int = 0) -> regex.Pattern[str]:
    """Compile a user's regular expression.

    Raises:
        QueryError: if it is not valid, with the place.
    """
    try:
        return regex.compile(pattern, flags)
    except pattern_error as error:
        raise QueryError(f"The regular expression /{pattern}/ is not valid: {error}.") from error


def too_slow(pattern: str) -> QueryError:
    """Return what is raised where a regular expression does not end on some row."""
    return QueryError(
        f"The regular expression /{pattern}/ takes too long; avoid repetitions inside of "
        "repetitions such as (a|aa)+."
    )


def regex_term(pattern: str) -> Mask:
    """Rows in which a regular expression is found in any field."""
    search = compile_regex(pattern, regex.IGNORECASE).search

    def mask(samples: Sequence[Sample], _texts: Sequence[str]) -> bytes:
        try:
            return bytes(
                [
                    any(
                        search(getattr(sample, name), timeout=REGEX_SECONDS) is not None
                        for name in TEXT_FIELDS
                        if getattr(sample, name)
                    )
                    for sample in samples
                ]
            )
        except TimeoutError as error:
            raise too_slow(pattern) from error

    return mask


def comparison(operator: str, number: int) -> Callable[[np.ndarray], np.ndarray]:
    """Return the comparison of an array ``[N]`` with a number."""
    comparisons: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        ">": lambda values: values > number,
        ">=": lambda values: values >= number,
        "<": lambda values: values < number,
        "<=": lambda values: values <= number,
        "=": lambda values: values == number,
        ":": lambda values: values == number,
    }
    return comparisons[operator]


def length_term(compare: Callable[[np.ndarray], np.ndarray]) -> Mask:
    """Rows by the characters of their request."""

    def mask(samples: Sequence[Sample], _texts: Sequence[str]) -> bytes:
        lengths = map(len, map(attrgetter("request"), samples))
        return compare(np.fromiter(lengths, np.int64, len(samples))).tobytes()

    return mask


def token_term(compare: Callable[[np.ndarray], np.ndarray], facts: Facts) -> Mask:
    """Rows by their tokens; those that were not counted yet match nothing."""

    def mask(samples: Sequence[Sample], _texts: Sequence[str]) -> bytes:
        known = facts.tokens()
        lengths = map(known.get, map(attrgetter("id"), samples), repeat(-1))
        counts = np.fromiter(lengths, np.int64, len(samples))
        return (compare(counts) & (counts >= 0)).tobytes()

    return mask


def field_term(key: str, name: str, argument: str, facts: Facts) -> Term | None:
    """Return the term ``name:argument``; None where it says nothing.

    Raises:
        QueryError: if there is no such field or value.
    """
    values = [
        fold(unescape(part[1:-1]) if part.startswith('"') else part)
        for part in re.findall(r'"(?:[^"\\]|\\.)*"|[^,"]+', argument)
    ]
    if name.casefold() == "word":
        word = fold(unescape(argument.strip('"')))
        return Term(key, _word(word)) if word else None
    field = FIELD_NAMES.get(name.casefold())
    if field is None:
        known = ", ".join(dict.fromkeys(FIELD_NAMES))
        raise QueryError(f"“{name}” is not a field; use one of: {known}, word, length, tokens.")
    if field == "label":
        wanted = _labels(values)
        return Term(key, _one_of("label", wanted)) if wanted else None
    if field == "split":
        return Term(key, _one_of("split", _splits(values)))
    if field == "issue":
        return Term(key, _issue(values, facts), keep=False)
    if not values:
        return Term(key, _empty(field))
    if field == "tags":
        return Term(key, _tags(frozenset(values)))
    if field in _EXACT:
        return Term(key, _one_of(field, frozenset(values), folded=True))
    return Term(key, _inside(field, values), slow=True)


def _one_of(field: str, wanted: frozenset[str], *, folded: bool = False) -> Mask:
    value_of = attrgetter(field)

    def mask(samples: Sequence[Sample], _texts: Sequence[str]) -> bytes:
        values: Iterable[str] = map(value_of, samples)
        return bytes(map(wanted.__contains__, map(_fold_value, values) if folded else values))

    return mask


def _empty(field: str) -> Mask:
    value_of = attrgetter(field)
    return lambda samples, _texts: bytes(map(not_, map(value_of, samples)))


def _tags(wanted: frozenset[str]) -> Mask:
    def mask(samples: Sequence[Sample], _texts: Sequence[str]) -> bytes:
        return bytes(
            [
                bool(tags) and not wanted.isdisjoint(map(_fold_value, tags))
                for tags in map(attrgetter("tags"), samples)
            ]
        )

    return mask


def _inside(field: str, values: Sequence[str]) -> Mask:
    """Text inside of one field; rows that hold it nowhere are passed over quickly."""

    def mask(samples: Sequence[Sample], texts: Sequence[str]) -> bytes:
        return bytes(
            [
                any(value in text and value in fold(getattr(sample, field)) for value in values)
                for sample, text in zip(samples, texts, strict=True)
            ]
        )

    return mask


def _labels(values: Sequence[str]) -> frozenset[str]:
    chosen: set[str] = set()
    for value in values:
        try:
            chosen.add(parse_label(value))
        except ValueError:
            starts = [label for label in LABELS if value and fold(label.value).startswith(value)]
            if not starts:
                raise QueryError(
                    f"“{value}” is not a label; use ALLOW, ESCALATE or REFUSE."
                ) from None
            chosen.update(starts)
    return frozenset(chosen)


def _splits(values: Sequence[str]) -> frozenset[str]:
    names = {"auto": "", "none": "", "val": "validation", **{split: split for split in SPLITS}}
    for value in values:
        if value not in names:
            raise QueryError(f"“{value}” is not a split; use train, validation, test or auto.")
    return frozenset(names[value] for value in values) or frozenset(("",))


def _issue(values: Sequence[str], facts: Facts) -> Mask:
    def mask(samples: Sequence[Sample], _texts: Sequence[str]) -> bytes:
        found = facts.issues()
        if not values or list(values) == ["any"]:
            ids = {one for one, kinds in found.items() if kinds}
        else:
            ids = {one for one, kinds in found.items() if not kinds.isdisjoint(values)}
        return bytes(map(ids.__contains__, map(attrgetter("id"), samples)))

    return mask
