"""What a persona has to beat: always ALLOW, and a linear classifier on words and characters.

No torch here; scikit-learn is imported when a baseline is computed.
"""

from __future__ import annotations

from collections.abc import Sequence

from so8t_engine.labels import Label
from so8t_engine.samples.schema import Sample

ALWAYS_ALLOW = "always_allow"
TFIDF = "tfidf"
BASELINE_TITLES: dict[str, str] = {
    ALWAYS_ALLOW: "Always ALLOW",
    TFIDF: "TF-IDF + regression",
}
_SEED = 17


def baseline_text(sample: Sample) -> str:
    """Return what a baseline reads of a sample: what the persona reads, without the policy."""
    return f"{sample.context}\n{sample.request}" if sample.context else sample.request


def always_allow(rows: Sequence[Sample]) -> list[Label]:
    """Return ALLOW for every row: the unguarded model."""
    return [Label.ALLOW] * len(rows)


def tfidf_logistic(train: Sequence[Sample], rows: Sequence[Sample]) -> list[Label]:
    """Train a linear text classifier on ``train`` and return its labels for ``rows``.

    Features are TF-IDF of word 1- and 2-grams and of character 2- to 4-grams (the latter because
    Japanese has no spaces); the classifier is a balanced, L2-regularised logistic regression.

    Raises:
        ValueError: if ``train`` has fewer than two different labels.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline, make_union

    if len({sample.label for sample in train}) < 2:
        raise ValueError("the training rows have fewer than two different labels")
    if not rows:
        return []
    features = make_union(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b"),
        TfidfVectorizer(analyzer="char", ngram_range=(2, 4), sublinear_tf=True),
    )
    classifier = LogisticRegression(
        C=10.0, class_weight="balanced", max_iter=2000, random_state=_SEED
    )
    pipeline = make_pipeline(features, classifier)
    pipeline.fit([baseline_text(s) for s in train], [s.label.value for s in train])
    return [Label(str(name)) for name in pipeline.predict([baseline_text(s) for s in rows])]


def compute_baselines(
    train: Sequence[Sample], rows: Sequence[Sample]
) -> tuple[dict[str, list[Label]], list[str]]:
    """Return the decisions of every baseline for ``rows``, and why one is missing."""
    decisions = {ALWAYS_ALLOW: always_allow(rows)}
    notes = []
    try:
        decisions[TFIDF] = tfidf_logistic(train, rows)
    except ValueError as error:  # also scikit-learn's "empty vocabulary"
        notes.append(f"The baseline {BASELINE_TITLES[TFIDF]} was left out: {error}.")
    return decisions, notes
