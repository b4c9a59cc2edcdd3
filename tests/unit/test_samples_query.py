"""The query language against a slow and obvious reading of it."""

from __future__ import annotations

import re
import time
import unicodedata

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from so8t_engine.labels import LABELS, Label
from so8t_engine.samples.query import SearchCancelled, parse_query, quote, searchable
from so8t_engine.samples.query_terms import Facts, QueryError
from so8t_engine.samples.schema import SPLITS, Sample

WORDS = ("Kill", "skill", "会議室", "ｋｉｌｌ", "RÉSUMÉ", "résumé", "a-b", "x", "schön")


def plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def obvious(term: str, sample: Sample, number: int) -> bool:
    """What one term means, said without any speed."""
    if term.startswith("-"):
        return not obvious(term[1:], sample, number)
    everything = plain(
        "\n".join((sample.request, sample.context, sample.response, sample.rationale,
                   sample.category, sample.source, " ".join(sample.tags), sample.id))
    )  # fmt: skip
    name, colon, value = term.partition(":")
    if match := re.fullmatch(r"(length|tokens)([<>])(\d+)", term):
        size = len(sample.request) if match[1] == "length" else number
        return size > int(match[3]) if match[2] == ">" else size < int(match[3])
    if not colon:
        return plain(term) in everything
    value = value.strip('"')
    if name == "label":
        return sample.label.value == value
    if name == "word":
        words = re.findall(r"\w+|\W", everything)
        return plain(value) in words or plain(value) in re.split(r"\s", everything)
    if name == "tag":
        return plain(value) in map(plain, sample.tags) if value else not sample.tags
    if name == "issue":
        return number % 2 == 0
    own = {"lang": sample.language, "category": sample.category, "split": sample.split,
           "request": sample.request}[name]  # fmt: skip
    if name == "request":
        return plain(value) in plain(own)
    return plain(own) == plain("" if value == "auto" else value)


rows = st.builds(
    Sample,
    id=st.just("id"),
    request=st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join),
    label=st.sampled_from(LABELS),
    rationale=st.sampled_from(["", *WORDS]),
    category=st.sampled_from(["", "hr", "Human Resources"]),
    language=st.sampled_from(["", "ja", "en"]),
    tags=st.lists(st.sampled_from(["seen", "To Do"]), unique=True).map(tuple),
    split=st.sampled_from(["", *SPLITS]),
)
terms = st.sampled_from(
    ["kill", "会議", "é", "a-b", "label:ALLOW", "label:REFUSE", "lang:ja", "category:hr",
     'category:"human resources"', "tag:seen", 'tag:"to do"', "tag:", "split:test", "split:auto",
     "length>8", "length<4", "tokens>2", "tokens<2", "word:kill", "word:会議室", "issue:empty",
     "request:ill", "request:schön"]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    st.lists(rows, max_size=8),
    st.lists(st.tuples(st.booleans(), terms), max_size=3),
)
def test_queries_mean_what_they_say(samples: list[Sample], wanted: list[tuple[bool, str]]) -> None:
    samples = [msgspec.structs.replace(s, id=f"s{n}") for n, s in enumerate(samples)]
    asked = [("-" if minus else "") + term for minus, term in wanted]
    facts = Facts(
        issues=lambda: {f"s{n}": frozenset(["empty"]) for n in range(0, len(samples), 2)},
        tokens=lambda: {f"s{n}": n for n in range(len(samples))},
    )
    texts = [searchable(sample) for sample in samples]
    expected = [s for n, s in enumerate(samples) if all(obvious(term, s, n) for term in asked)]
    query = parse_query(" ".join(asked), facts)
    kept: dict[str, bytes] = {}
    for _again in range(2):  # the second time from the masks that were kept
        assert query.select(samples, texts, kept=kept) == expected
    found = [s for s, text in zip(samples, texts, strict=True) if query.matches(s, text)]
    assert found == expected


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.text("aAｋkＫ\u304b\u3099\u304ceé\u0301 ", max_size=6), max_size=8),
    st.text("aAｋkＫ\u304b\u3099\u304ceé\u0301", min_size=1, max_size=4),
)
def test_typing_letter_by_letter_finds_what_the_whole_word_finds(
    requests: list[str], typed: str
) -> None:
    samples = [Sample(id=f"{n}", request=request, label=Label.ALLOW)
               for n, request in enumerate(requests)]  # fmt: skip
    texts = [searchable(sample) for sample in samples]
    kept: dict[str, bytes] = {}
    for end in range(1, len(typed) + 1):
        query = parse_query(f'"{typed[:end]}"')
        assert query.select(samples, texts, kept=kept) == query.select(samples, texts)


def test_rows_without_a_token_count_match_no_count() -> None:
    sample = Sample(id="a", request="x", label=Label.ALLOW)
    for text in ("tokens<5", "tokens>=0"):
        assert not parse_query(text).matches(sample, searchable(sample))


@pytest.mark.parametrize(
    "value", ["hr", "human resources", 'say "no"', "a,b", "back\\slash", "契約"]
)
def test_quoted_values_find_their_rows(value: str) -> None:
    mine = Sample(id="a", request="x", label=Label.ALLOW, category=value)
    other = Sample(id="b", request="x", label=Label.ALLOW, category="other")
    query = parse_query(f"category:{quote(value)}")
    assert query.select([mine, other], [searchable(mine), searchable(other)]) == [mine]


def test_a_regular_expression_that_never_ends_is_given_up() -> None:
    sample = Sample(id="a", request="a" * 60 + "!", label=Label.ALLOW)
    query = parse_query("/(a|aa)+$/")
    start = time.monotonic()
    with pytest.raises(QueryError, match="takes too long"):
        query.select([sample], [searchable(sample)])
    assert time.monotonic() - start < 30  # unbounded, it would take years


def test_a_slow_search_can_be_cancelled_and_looks_at_remaining_rows_only() -> None:
    samples = [Sample(id=f"s{n}", request=f"row {n}", label=LABELS[n % 3]) for n in range(9000)]
    texts = [searchable(sample) for sample in samples]
    asked = []

    def cancelled() -> bool:
        asked.append(1)
        return len(asked) > 2

    query = parse_query("/row \\d+9$/")
    assert query.slow
    with pytest.raises(SearchCancelled):
        query.select(samples, texts, cancelled=cancelled)
    asked.clear()
    found = parse_query("/row \\d+9$/ label:ALLOW").select(
        samples, texts, cancelled=lambda: bool(asked.append(1))
    )
    assert found == [s for s in samples if s.request.endswith("9") and s.label is Label.ALLOW
                     and s.request != "row 9"]  # fmt: skip
    assert len(asked) == 2  # 3,000 rows in steps of 2,000


def test_a_wrong_regular_expression_names_the_place() -> None:
    with pytest.raises(QueryError, match=r"not valid: .*position"):
        parse_query("kill /[a-/")
