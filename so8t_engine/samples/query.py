"""A small query language over samples: ``label:REFUSE lang:ja -tag:reviewed length>200``.

Terms are joined by *and*. A term is a word or ``"a phrase"`` (substring of any text, case ignored),
``/regular expression/``, ``word:whole-word``, ``field:value[,value…]``, ``field:`` (empty),
``length>200``, or any of these with ``-`` before it. (torch-free)
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from operator import attrgetter

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
_EXACT = frozenset(("label", "language", "category", "tags", "source", "split", "issue", "id"))
_TERM = re.compile(
    r"""\s*(?P<not>-)?(?:
        (?P<number>length|len)(?P<op>>=|<=|>|<|=|:)(?P<value>\d+)(?=\s|$)
      | (?P<field>[A-Za-z]+):(?P<arg>(?:"(?:[^"\\]|\\.)*"|[^\s"])*)
      | /(?P<regex>(?:[^/\\]|\\.)+)/(?=\s|$)
      | "(?P<phrase>(?:[^"\\]|\\.)*)"
      | (?P<word>\S+)
    )""",
    re.VERBOSE,
)
Predicate = Callable[[Sample, str], bool]
Issues = Mapping[str, frozenset[str]]


class QueryError(ValueError):
    """Why a query cannot be used, as a sentence."""


class Query(Struct, frozen=True):
    """A query that was understood.

    Attributes:
        needles: substrings (folded) that the row's text must contain; the fast part.
        predicates: further conditions on (sample, folded text).
    """

    needles: tuple[str, ...] = ()
    predicates: tuple[Predicate, ...] = ()

    @property
    def is_empty(self) -> bool:
        """True if every row matches."""
        return not self.needles and not self.predicates

    def matches(self, sample: Sample, text: str) -> bool:
        """Tell whether a row matches; ``text`` is :func:`searchable` of it."""
        return all(needle in text for needle in self.needles) and all(
            predicate(sample, text) for predicate in self.predicates
        )

    def select(self, samples: Sequence[Sample], texts: Sequence[str]) -> list[Sample]:
        """Return the matching rows in order."""
        chosen: list[tuple[Sample, str]] | None = None
        if self.needles:
            first = self.needles[0]
            chosen = [pair for pair in zip(samples, texts, strict=True) if first in pair[1]]
            for needle in self.needles[1:]:
                chosen = [pair for pair in chosen if needle in pair[1]]
        if not self.predicates:
            return list(samples) if chosen is None else [sample for sample, _ in chosen]
        pairs = list(zip(samples, texts, strict=True)) if chosen is None else chosen
        for test in self.predicates:
            pairs = [pair for pair in pairs if test(pair[0], pair[1])]
        return [sample for sample, _ in pairs]


def fold(text: str) -> str:
    """Return ``text`` for comparisons: full and half width alike, case ignored."""
    return text.casefold() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()


def searchable(sample: Sample) -> str:
    """Return all texts of a row in one folded string; fields are kept apart by line feeds."""
    return fold(
        "\n".join(
            (sample.request, sample.context, sample.response, sample.rationale, sample.category,
             sample.source, " ".join(sample.tags), sample.id)
        )
    )  # fmt: skip


def parse_query(text: str, issues: Callable[[], Issues] | None = None) -> Query:
    """Read a query.

    Args:
        text: as typed.
        issues: gives identifier → kinds of issue for ``issue:…``; None knows no issues.

    Raises:
        QueryError: with a sentence for the user.
    """
    needles: list[str] = []
    predicates: list[Predicate] = []
    position = 0
    while position < len(text) and text[position:].strip():
        match = _TERM.match(text, position)
        if match is None:
            raise QueryError(f"“{text[position:].strip()}” cannot be read.")
        position = match.end()
        negated = match["not"] is not None
        plain = match["word"] or (_unescape(match["phrase"]) if match["phrase"] else "")
        if plain and not negated:
            needles.append(fold(plain))
        elif predicate := _predicate(match, plain, issues):
            predicates.append(_negate(predicate) if negated else predicate)
    return Query(tuple(needles), tuple(predicates))


def _negate(predicate: Predicate) -> Predicate:
    return lambda sample, text: not predicate(sample, text)


def _unescape(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


def _predicate(
    match: re.Match[str], plain: str, issues: Callable[[], Issues] | None
) -> Predicate | None:
    if plain:
        needle = fold(plain)
        return lambda _sample, text: needle in text
    if match["number"]:
        return _length(match["op"], int(match["value"]))
    if match["regex"]:
        return _regex(match["regex"])
    if match["field"]:
        return _field(match["field"], match["arg"], issues)
    return None


def _regex(pattern: str) -> Predicate:
    try:
        found = re.compile(pattern, re.IGNORECASE)
    except re.error as error:
        raise QueryError(f"The regular expression /{pattern}/ is not valid: {error}.") from error

    def test(sample: Sample, _text: str) -> bool:
        return any(found.search(getattr(sample, name)) for name in TEXT_FIELDS)

    return test


def _length(operator: str, number: int) -> Predicate:
    comparisons: dict[str, Predicate] = {
        ">": lambda s, _t: len(s.request) > number,
        ">=": lambda s, _t: len(s.request) >= number,
        "<": lambda s, _t: len(s.request) < number,
        "<=": lambda s, _t: len(s.request) <= number,
        "=": lambda s, _t: len(s.request) == number,
        ":": lambda s, _t: len(s.request) == number,
    }
    return comparisons[operator]


def _field(name: str, argument: str, issues: Callable[[], Issues] | None) -> Predicate:
    if name == "word":
        return _regex(rf"(?<!\w){re.escape(_unescape(argument.strip(chr(34))))}(?!\w)")
    field = FIELD_NAMES.get(name.casefold())
    if field is None:
        known = ", ".join(dict.fromkeys(FIELD_NAMES))
        raise QueryError(f"“{name}” is not a field; use one of: {known}, word, length.")
    values = [
        fold(_unescape(part[1:-1]) if part.startswith('"') else part)
        for part in re.findall(r'"(?:[^"\\]|\\.)*"|[^,"]+', argument)
    ]
    if field == "label":
        return _label(values)
    if field == "split":
        return _split(values)
    if field == "issue":
        return _issue(values, issues)
    if not values:
        return lambda sample, _text: not getattr(sample, field)
    if field == "tags":
        wanted_tags = frozenset(values)
        return lambda s, _t: any(fold(tag) in wanted_tags for tag in s.tags)
    if field in _EXACT:
        wanted = frozenset(values)
        value_of, folded = attrgetter(field), lru_cache(maxsize=4096)(fold)
        return lambda s, _t: folded(value_of(s)) in wanted
    return lambda s, _t: any(value in fold(getattr(s, field)) for value in values)


def _label(values: list[str]) -> Predicate:
    chosen = set()
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
    wanted = frozenset(chosen)
    return (lambda s, _t: s.label in wanted) if wanted else (lambda _s, _t: True)


def _split(values: list[str]) -> Predicate:
    names = {"auto": "", "none": "", "val": "validation", **{split: split for split in SPLITS}}
    for value in values:
        if value not in names:
            raise QueryError(f"“{value}” is not a split; use train, validation, test or auto.")
    wanted = frozenset(names[value] for value in values) or frozenset(("",))
    return lambda s, _t: s.split in wanted


def _issue(values: list[str], issues: Callable[[], Issues] | None) -> Predicate:
    found = issues() if issues is not None else {}
    if not values or values == ["any"]:
        return lambda s, _t: bool(found.get(s.id))
    wanted = frozenset(values)
    return lambda s, _t: not wanted.isdisjoint(found.get(s.id, ()))


def quote(value: str) -> str:
    """Return a field's value as a query needs it."""
    if value and not re.search(r'[\s",\\]', value):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"' if value else ""
