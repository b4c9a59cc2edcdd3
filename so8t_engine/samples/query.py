"""A small query language over samples: ``label:REFUSE lang:ja -tag:reviewed length>200``.

Terms are joined by *and*. A term is a word or ``"a phrase"`` (substring of any text, case ignored),
``/regular expression/``, ``word:whole-word``, ``field:value[,value…]``, ``field:`` (empty),
``length>200`` or ``tokens>50``, or any of these with ``-`` before it. (torch-free)
"""

from __future__ import annotations

import re
from collections.abc import Callable, MutableMapping, Sequence
from itertools import compress

import numpy as np
from msgspec import Struct

from so8t_engine.samples.query_terms import (
    Facts,
    QueryError,
    Term,
    comparison,
    field_term,
    fold,
    length_term,
    negated,
    regex_term,
    substring,
    token_term,
    unescape,
)
from so8t_engine.samples.schema import Sample

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
Cancelled = Callable[[], bool]


class SearchCancelled(Exception):
    """Nobody wants the result any more."""


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
                wider = kept.get(term.wider) if kept is not None and term.wider else None
                if wider is None or 2 * wider.count(1) > len(wider):  # little to pass over
                    own = term.mask(samples, texts)
                else:
                    own = _narrowed(term, wider, samples, texts)
                if kept is not None and term.keep:
                    kept[term.key] = own
            left = own if left is None else _both(left, own)
        return left


def _narrowed(term: Term, wider: bytes, samples: Sequence[Sample], texts: Sequence[str]) -> bytes:
    """Return the mask of a term that only rows of a wider one can match."""
    rows = np.frombuffer(wider, np.uint8).nonzero()[0]
    found = term.mask(list(compress(samples, wider)), list(compress(texts, wider)))
    result = np.zeros(len(samples), np.uint8)
    result[rows] = np.frombuffer(found, np.uint8)
    return result.tobytes()


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
            terms.append(negated(term) if match["not"] else term)
    return Query(tuple(terms))


def _term(match: re.Match[str], facts: Facts) -> Term | None:
    key = match[0].strip().removeprefix("-")
    plain = match["word"] or (unescape(match["phrase"]) if match["phrase"] else "")
    if plain:
        needle, shorter = fold(plain), fold(plain[:-1])
        # Every row that holds “contract” holds “contrac”, which was looked for a key before. Not so
        # where the last sign joins the one before it (か and a voicing mark make が).
        wider = f'"{shorter}"' if shorter and shorter in needle else ""
        return Term(f'"{needle}"', substring(needle), wider=wider)
    if match["number"]:
        compare = comparison(match["op"], int(match["value"]))
        if match["number"] == "tokens":
            return Term(key, token_term(compare, facts), keep=False)
        return Term(key, length_term(compare))
    if match["regex"]:
        return Term(key, regex_term(match["regex"]), slow=True)
    if match["field"]:
        return field_term(key, match["field"], match["arg"], facts)
    return None


def quote(value: str) -> str:
    """Return a field's value as a query needs it."""
    if value and not re.search(r'[\s",\\]', value):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"' if value else ""
