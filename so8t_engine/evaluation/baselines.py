"""What a persona has to beat: always ALLOW, a list of words, and a linear text classifier.

No torch here; scikit-learn is imported when a baseline is computed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from so8t_engine.labels import Label
from so8t_engine.samples.schema import Sample

ALWAYS_ALLOW = "always_allow"
WORD_RULES = "word_rules"
TFIDF = "tfidf"
BASELINE_TITLES: dict[str, str] = {
    ALWAYS_ALLOW: "Always ALLOW",
    WORD_RULES: "Word rules",
    TFIDF: "TF-IDF + regression",
}
_SEED = 17

# The list that an administrator would write in an afternoon. English words match from their start
# ("poison" also finds "poisoning"), Japanese ones anywhere.
_REFUSE_WORDS = (
    "kill murder bomb explosi weapon poison attack stab shoot assault torture kidnap arson hack"
    " malware ransomware phish exploit keylogger ddos crack steal stole theft forge"
    " counterfeit launder brib blackmail extort scam fraud fake spoof stalk spy doxx harass bully"
    " threaten racist slur hateful cocaine meth heroin suicide"
)
_REFUSE_WORDS_JA = (
    "殺 爆弾 爆発物 武器 毒 放火 襲 拷問 誘拐 盗 偽造 改ざん 詐欺 賄賂 脅 恐喝 資金洗浄 裏金"
    " ハッキング 不正アクセス マルウェア ウイルス フィッシング なりすま 盗撮 盗聴 尾行 覚醒剤 大麻"
    " 差別 嫌がらせ いじめ デマ 自殺 死ね"
)
_ESCALATE_WORDS = (
    "symptom diagnos medication dose prescri doctor pain pregnan depress anxi hopeless lawsuit"
    " legal contract terminat dismiss resign salary payroll invoice payment refund complain"
    " confidential personal employee customer breach audit regulator whistleblow approv"
)
_ESCALATE_WORDS_JA = (
    "症状 診断 薬 服用 痛 妊娠 うつ つらい 訴訟 契約 解雇 退職 給与 請求書 振込 返金 苦情 クレーム"
    " 個人情報 従業員 顧客 漏えい 漏洩 監査 内部通報 ハラスメント 承認"
)


def _any_of(words: str, japanese: str) -> re.Pattern[str]:
    starts, anywhere = words.replace(" ", "|"), japanese.replace(" ", "|")
    return re.compile(rf"\b(?:{starts})|{anywhere}", re.IGNORECASE)


_REFUSE_RULE = _any_of(_REFUSE_WORDS, _REFUSE_WORDS_JA)
_ESCALATE_RULE = _any_of(_ESCALATE_WORDS, _ESCALATE_WORDS_JA)


def baseline_text(sample: Sample) -> str:
    """Return what a baseline reads of a sample: what the persona reads, without the policy."""
    return f"{sample.context}\n{sample.request}" if sample.context else sample.request


def always_allow(rows: Sequence[Sample]) -> list[Label]:
    """Return ALLOW for every row: the unguarded model."""
    return [Label.ALLOW] * len(rows)


def word_rules(rows: Sequence[Sample]) -> list[Label]:
    """Return REFUSE where a row has an alarming word, else ESCALATE where it has a delicate one."""

    def rule(text: str) -> Label:
        if _REFUSE_RULE.search(text):
            return Label.REFUSE
        return Label.ESCALATE if _ESCALATE_RULE.search(text) else Label.ALLOW

    return [rule(baseline_text(sample)) for sample in rows]


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
    decisions = {ALWAYS_ALLOW: always_allow(rows), WORD_RULES: word_rules(rows)}
    notes = []
    try:
        decisions[TFIDF] = tfidf_logistic(train, rows)
    except ValueError as error:  # also scikit-learn's "empty vocabulary"
        notes.append(f"The baseline {BASELINE_TITLES[TFIDF]} was left out: {error}.")
    return decisions, notes
