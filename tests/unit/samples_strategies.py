"""Hypothesis strategies for samples that a dataset can hold."""

from __future__ import annotations

import unicodedata

from hypothesis import strategies as st

from so8t_engine.labels import LABELS
from so8t_engine.samples.schema import SPLITS, Sample


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


_awkward = st.sampled_from(
    ["=cmd|'/c calc'!A0", "'=1+1", "''=x", "-5", "@a", "\tx", "＝1", "a\r\nb", "a\rb", "a\nb",
     '"', '""', 'a "quoted", b', "1,5;2", "null", "[]", "{}", "nan", "会議の資料", "שלום",
     "\u2028", "e\u0301", "'", " x ", "\ufeffx", "REFUSE", "user: x"]
)  # fmt: skip
texts = st.one_of(
    _awkward, st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
).map(_nfc)
requests = texts.filter(lambda text: bool(text.strip()))
_words = requests.map(str.strip).map(_nfc).filter(lambda text: text == text.strip() and bool(text))
tags = st.lists(_words, max_size=3, unique=True).map(tuple)
labels = st.sampled_from(LABELS)
identifiers = st.one_of(
    _words.filter(lambda text: len(text) <= 200), st.integers(1, 10**6).map(str)
)
samples = st.builds(
    Sample,
    id=identifiers,
    request=requests,
    label=labels,
    context=texts,
    response=texts,
    rationale=texts,
    category=texts,
    language=st.sampled_from(["", "en", "ja", "pt-BR"]),
    tags=tags,
    source=texts,
    split=st.sampled_from(["", *SPLITS]),
)
datasets = st.lists(samples, max_size=8, unique_by=lambda sample: sample.id)
