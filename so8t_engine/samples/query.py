"""A small query language over samples: ``label:REFUSE lang:ja -tag:reviewed length>200``.

Terms are joined by *and*. A term is a word or ``"a phrase"`` (substring of any text, case ignored),
``/regular expression/``, ``word:whole-word``, ``field:value[,value…]``, ``field:`` (empty),
``length>200`` or ``tokens>50``, or any of these with ``-`` before it. (torch-free)

Each term makes a mask with one byte a row. The masks are built by loops that run in C, so that
100,000 rows are filtered between two keystrokes, and a caller may keep them for the next keystroke.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from functools import lru_cache
from itertools import compress, repeat
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
_TERM = re.compile(
    r"""\s*(?P<not>-)?(?:
        (?P<number>length|len|tokens)(?P<op>>=|<=|>|<|=|:)(?P<value>\d{1,9})(?=\s|$)
      | (?P<field>[A-Za-z]+):(?P<arg>(?:"(?:[^"\\]|\\.)*"|[^\s"])*)
      | /(?P<regex>(?:[^/\\]|\\.)+)/(?=\s|$)
      | "(?P<phrase>(?:[^"\\]|\\.)*)"
      | (?P<word>\S+)
    )""",
    re.VERBOSE,
)
_INVERT = bytes([1, 0]) + bytes(254)
Mask = Callable[[Sequence[Sample], Sequence[str]], bytes]
Cancelled = Callable[[], bool]
pattern_error: type[Exception] = regex.error


class QueryError(ValueError):
    """Why a query cannot be used, as a sentence."""


class SearchCancelled(Exception):
    """Nobody wants the result any more."""


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
    """

    key: str
    mask: Mask
    slow: bool = False
    keep: bool = True


class Query(Struct, frozen=True):
    """A query that was understood: all of ``terms`` must hold."""

    terms: tuple[Term, ...] = ()

    @property
    def is_empty(self) -> bool:
        """True if every row matches."""
        return not self.terms

    @property
    def slow(self) -> bool:
        """True if many rows take longer than a keystroke may."""
        return any(term.slow for term in self.terms)

    def matches(self, sample: Sample, text: str) -> bool:
        """Tell whether a row matches; ``text`` is :func:`searchable` of it.

        Raises:
            QueryError: if a regular expression takes too long.
        """
        return all(term.mask((sample,), (text,))[0] for term in self.terms)

    def select(
        self,
        samples: Sequence[Sample],
        texts: Sequence[str],
        *,
        kept: MutableMapping[str, bytes] | None = None,
        cancelled: Cancelled | None = None,
    ) -> list[Sample]:
        """Return the matching rows in order.

        Args:
            samples: ``[N]`` rows.
            texts: ``[N]``, :func:`searchable` of each.
            kept: masks of earlier queries over the same rows; new ones are put in.
            cancelled: asked every few thousand rows of a slow term.

        Raises:
            QueryError: if a regular expression takes too long.
            SearchCancelled: if ``cancelled`` said so.
        """
        left = self.mask(samples, texts, kept=kept)
        rows = list(samples) if left is None else list(compress(samples, left))
        slow = [term for term in self.terms if term.slow]
        if slow and rows:
            own = texts if left is None else list(compress(texts, left))
            rows = _slowly(slow, rows, own, cancelled)
        return rows

    def mask(
        self,
        samples: Sequence[Sample],
        texts: Sequence[str],
        *,
        kept: MutableMapping[str, bytes] | None = None,
    ) -> bytes | None:
        """Return one byte a row, 1 where all terms that are not slow match; None if there are none.

        Arguments as for :meth:`select`.
        """
        left: bytes | None = None
        for term in self.terms:
            if term.slow:
                continue
            own = kept.get(term.key) if kept is not None and term.keep else None
            if own is None:
                own = term.mask(samples, texts)
                if kept is not None and term.keep:
                    kept[term.key] = own
            left = own if left is None else _both(left, own)
        return left


def _both(left: bytes, right: bytes) -> bytes:
    return (np.frombuffer(left, np.uint8) & np.frombuffer(right, np.uint8)).tobytes()


def _slowly(
    terms: Sequence[Term],
    rows: list[Sample],
    texts: Sequence[str],
    cancelled: Cancelled | None,
    step: int = 2000,
) -> list[Sample]:
    found: list[Sample] = []
    for start in range(0, len(rows), step):
        if cancelled is not None and cancelled():
            raise SearchCancelled
        part, own = rows[start : start + step], list(texts[start : start + step])
        for term in terms:
            mask = term.mask(part, own)
            part, own = list(compress(part, mask)), list(compress(own, mask))
        found += part
    return found


def fold(text: str) -> str:
    """Return ``text`` for comparisons: full and half width alike, case ignored."""
    return text.casefold() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()


_fold_value = lru_cache(maxsize=8192)(fold)


def searchable(sample: Sample) -> str:
    """Return all texts of a row in one folded string; fields are kept apart by line feeds."""
    return fold(
        "\n".join(
            (sample.request, sample.context, sample.response, sample.rationale, sample.category,
             sample.source, " ".join(sample.tags), sample.id)
        )
    )  # fmt: skip


def parse_query(text: str, facts: Facts | None = None) -> Query:
    """Read a query.

    Args:
        text: as typed.
        facts: gives the values for ``issue:…`` and ``tokens>…``; None knows none.

    Raises:
        QueryError: with a sentence for the user.
    """
    terms: list[Term] = []
    position = 0
    while position < len(text) and text[position:].strip():
        match = _TERM.match(text, position)
        if match is None:
            raise QueryError(f"“{text[position:].strip()}” cannot be read.")
        position = match.end()
        term = _term(match, facts or Facts())
        if term is not None:
            terms.append(_negated(term) if match["not"] else term)
    return Query(tuple(terms))


def _negated(term: Term) -> Term:
    def mask(samples: Sequence[Sample], texts: Sequence[str]) -> bytes:
        return term.mask(samples, texts).translate(_INVERT)

    return Term(f"-{term.key}", mask, term.slow, term.keep)


def _unescape(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


def _term(match: re.Match[str], facts: Facts) -> Term | None:
    key = match[0].strip().removeprefix("-")
    plain = match["word"] or (_unescape(match["phrase"]) if match["phrase"] else "")
    if plain:
        return Term(f'"{plain}"', _substring(fold(plain)))
    if match["number"]:
        compare = _comparison(match["op"], int(match["value"]))
        if match["number"] == "tokens":
            return Term(key, _tokens(compare, facts), keep=False)
        return Term(key, _length(compare))
    if match["regex"]:
        return Term(key, _regex(match["regex"]), slow=True)
    if match["field"]:
        return _field(key, match["field"], match["arg"], facts)
    return None


def _substring(needle: str) -> Mask:
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


def _regex(pattern: str) -> Mask:
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


def _comparison(operator: str, number: int) -> Callable[[np.ndarray], np.ndarray]:
    comparisons: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        ">": lambda values: values > number,
        ">=": lambda values: values >= number,
        "<": lambda values: values < number,
        "<=": lambda values: values <= number,
        "=": lambda values: values == number,
        ":": lambda values: values == number,
    }
    return comparisons[operator]


def _length(compare: Callable[[np.ndarray], np.ndarray]) -> Mask:
    def mask(samples: Sequence[Sample], _texts: Sequence[str]) -> bytes:
        lengths = map(len, map(attrgetter("request"), samples))
        return compare(np.fromiter(lengths, np.int64, len(samples))).tobytes()

    return mask


def _tokens(compare: Callable[[np.ndarray], np.ndarray], facts: Facts) -> Mask:
    """Rows that were not counted yet match nothing."""

    def mask(samples: Sequence[Sample], _texts: Sequence[str]) -> bytes:
        known = facts.tokens()
        lengths = map(known.get, map(attrgetter("id"), samples), repeat(-1))
        counts = np.fromiter(lengths, np.int64, len(samples))
        return (compare(counts) & (counts >= 0)).tobytes()

    return mask


def _field(key: str, name: str, argument: str, facts: Facts) -> Term | None:
    values = [
        fold(_unescape(part[1:-1]) if part.startswith('"') else part)
        for part in re.findall(r'"(?:[^"\\]|\\.)*"|[^,"]+', argument)
    ]
    if name.casefold() == "word":
        word = fold(_unescape(argument.strip('"')))
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


def quote(value: str) -> str:
    """Return a field's value as a query needs it."""
    if value and not re.search(r'[\s",\\]', value):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"' if value else ""
