"""What is wrong with a dataset: the rows concerned, and a fix where there is one (torch-free)."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence

import msgspec
from msgspec import Struct

from so8t_engine.labels import LABELS
from so8t_engine.samples.duplicates import ScanCancelled, exact_groups, near_groups
from so8t_engine.samples.schema import Sample

MIN_REQUEST_CHARS = 3
MAX_REQUEST_CHARS = 4000
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b\u2060\ufeff]")
# UTF-8 read as Latin-1 or cp1252 (Ã©, â€™), or as cp932 (縺, 繧, 繝), or bytes already lost.
_MOJIBAKE = re.compile(
    "Ã[\x80-\xbf©¨¼¶¤±§ª«´]|â€[™œ\x9d“”˜¦]|Â[°·»«©]|(?:[縺繧繝][^\\s]){2,}|\ufffd"
)
_MAIL = re.compile(r"[\w.+-]+@[\w-]+\.[\w.-]*[A-Za-z]{2,}")
_PHONE = re.compile(
    r"(?<![\d-])(?:\+\d{1,3}[\s-]?)?(?:\(?0\d{1,4}\)?[\s-]\d{1,4}[\s-]\d{3,4}"
    r"|\d{3}[\s-]\d{3}[\s-]\d{4})(?![\d-])"
)
_CARD = re.compile(r"(?<!\d)(?:\d[ -]?){12,18}\d(?!\d)")
_KANA = re.compile("[\u3040-\u30ff]")
_HAN = re.compile("[\u3400-\u9fff]")
_HANGUL = re.compile("[\uac00-\ud7a3]")
_LATIN_WORD = re.compile(r"[A-Za-zÀ-ɏ]{2,}")
_TOKEN = re.compile("[A-Za-zÀ-ɏ][A-Za-zÀ-ɏ'’]+|[\u4e00-\u9fff]{2,4}|[\u30a0-\u30ff]{2,}")
Progress = Callable[[int, int], None]
Cancelled = Callable[[], bool]

KINDS: dict[str, str] = {
    "conflict": "Same or nearly the same request with different labels",
    "leak": "Nearly the same request in more than one split",
    "duplicate": "The same request more than once",
    "near_duplicate": "Nearly the same request more than once",
    "empty": "The request is empty",
    "short": f"The request is shorter than {MIN_REQUEST_CHARS} characters",
    "long": f"The request is longer than {MAX_REQUEST_CHARS:,} characters",
    "control": "Invisible control characters",
    "mojibake": "Text that was read in the wrong encoding",
    "language": "The language does not match the text",
    "no_rationale": "No rationale",
    "personal": "Personal data: mail address, phone or card number",
}


class Finding(Struct, frozen=True, kw_only=True):
    """Rows that share a problem.

    Attributes:
        kind: one of :data:`KINDS`.
        ids: the rows, in dataset order.
        groups: for duplicates and conflicts: which rows belong together.
    """

    kind: str
    ids: tuple[str, ...]
    groups: tuple[tuple[str, ...], ...] = ()


class Note(Struct, frozen=True, kw_only=True):
    """A problem of the dataset as a whole; ``query`` shows the rows concerned."""

    kind: str
    text: str
    query: str = ""


class QualityReport(Struct, frozen=True, kw_only=True):
    """Everything that was found; ``rows`` is the number of rows that were checked."""

    rows: int
    findings: list[Finding]
    notes: list[Note]

    def issues(self) -> dict[str, frozenset[str]]:
        """Return kinds of problem by row identifier."""
        kinds: dict[str, set[str]] = defaultdict(set)
        for finding in self.findings:
            for sample_id in finding.ids:
                kinds[sample_id].add(finding.kind)
        return {sample_id: frozenset(found) for sample_id, found in kinds.items()}


def check(
    samples: Sequence[Sample],
    *,
    progress: Progress | None = None,
    cancelled: Cancelled | None = None,
) -> QualityReport:
    """Check a dataset.

    Raises:
        ScanCancelled: if ``cancelled`` said so.
    """
    found: dict[str, list[str]] = defaultdict(list)
    for number, sample in enumerate(samples):
        if cancelled is not None and number % 1000 == 0 and cancelled():
            raise ScanCancelled
        for kind in row_problems(sample):
            found[kind].append(sample.id)
    groups = {"duplicate": exact_groups(samples)}
    exact_of = {row: group[0] for group in groups["duplicate"] for row in group}
    near = near_groups(samples, progress=progress, cancelled=cancelled)
    notes = dataset_notes(samples)
    if cancelled is not None and cancelled():
        raise ScanCancelled
    groups["near_duplicate"] = [
        group for group in near if len({exact_of.get(row, row) for row in group}) > 1
    ]
    groups["conflict"] = [group for group in near if len({samples[row].label for row in group}) > 1]
    groups["leak"] = [group for group in near
                      if len({samples[row].split for row in group} - {""}) > 1]  # fmt: skip
    findings = []
    for kind in KINDS:
        if kind in groups:
            members = [tuple(samples[row].id for row in group) for group in groups[kind]]
            if members:
                ids = tuple(sample_id for group in members for sample_id in group)
                findings.append(Finding(kind=kind, ids=ids, groups=tuple(members)))
        elif found[kind]:
            findings.append(Finding(kind=kind, ids=tuple(found[kind])))
    return QualityReport(rows=len(samples), findings=findings, notes=notes)


def row_problems(sample: Sample) -> Iterator[str]:
    """Yield the kinds of problem that one row has by itself."""
    request = sample.request
    length = len(request.strip())
    if not length:
        yield "empty"
    elif length < MIN_REQUEST_CHARS:
        yield "short"
    elif length > MAX_REQUEST_CHARS:
        yield "long"
    everything = f"{request}\n{sample.context}\n{sample.response}\n{sample.rationale}"
    if _CONTROL.search(everything):
        yield "control"
    if not everything.isascii() and _MOJIBAKE.search(everything):
        yield "mojibake"
    if sample.language and (script := script_language(request)):
        own = sample.language.split("-")[0].casefold()
        if (own in ("ja", "ko")) != (script in ("ja", "ko")) or (
            own in ("ja", "ko") and own != script
        ):
            yield "language"
    if not sample.rationale.strip():
        yield "no_rationale"
    if _has_personal_data(f"{request}\n{sample.context}"):
        yield "personal"


def script_language(text: str) -> str:
    """Return ``ja``, ``ko`` or ``latin`` where the script settles it, else ''."""
    if text.isascii():
        return "latin" if len(_LATIN_WORD.findall(text)) >= 2 else ""
    if _KANA.search(text):
        return "ja"
    if _HANGUL.search(text):
        return "ko"
    if _HAN.search(text):
        return ""  # Chinese and Japanese share these
    return "latin" if len(_LATIN_WORD.findall(text)) >= 2 else ""


def _has_personal_data(text: str) -> bool:
    if "@" in text and _MAIL.search(text):
        return True
    if not any(sign.isdigit() for sign in text):
        return False
    if _PHONE.search(text):
        return True
    return any(_luhn(match[0]) for match in _CARD.finditer(text))


def _luhn(text: str) -> bool:
    """Tell whether digits carry a valid check digit (ISO/IEC 7812-1, annex B)."""
    digits = [int(sign) for sign in text if sign.isdigit()]
    if not 13 <= len(digits) <= 19 or len(set(digits)) == 1:
        return False
    doubled = [(2 * d - 9 if d > 4 else 2 * d) if n % 2 else d
               for n, d in enumerate(reversed(digits))]  # fmt: skip
    return sum(doubled) % 10 == 0


def dataset_notes(samples: Sequence[Sample]) -> list[Note]:
    """Return imbalance, gaps in coverage, and words or languages that give a label away."""
    total = len(samples)
    if total < 10:
        return []
    labels = Counter(sample.label.value for sample in samples)
    notes = []
    for label in LABELS:
        share = labels[label.value] / total
        if share < 0.1 or share > 0.7:
            words = f"{label.value} is {share:.0%} of all rows ({labels[label.value]:,})."
            notes.append(Note(kind="imbalance", text=words, query=f"label:{label.value}"))
    notes += _coverage(samples) + _shortcuts(samples, labels)
    return notes


def _coverage(samples: Sequence[Sample]) -> list[Note]:
    from so8t_engine.samples.query import quote

    table: dict[str, Counter[str]] = defaultdict(Counter)
    for sample in samples:
        if sample.category:
            table[sample.category][sample.label.value] += 1
    notes = []
    for category, counts in sorted(table.items(), key=lambda item: -item[1].total()):
        missing = [label.value for label in LABELS if not counts[label.value]]
        if counts.total() >= 12 and len(missing) == 2:
            only = next(iter(counts))
            text = f"All {counts.total():,} rows of the category “{category}” are {only}."
            notes.append(Note(kind="coverage", text=text, query=f"category:{quote(category)}"))
    return notes[:20]


def _shortcuts(samples: Sequence[Sample], labels: Counter[str]) -> list[Note]:
    """Return tokens and languages that predict a label almost alone (lift over its share)."""
    total = len(samples)
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for sample in samples:
        for token in set(_TOKEN.findall(sample.request.casefold())):
            counts[("word", token)][sample.label.value] += 1
        if sample.language:
            counts[("lang", sample.language)][sample.label.value] += 1
    least = max(10, total // 400)
    found = []
    for (field, value), by_label in counts.items():
        size = by_label.total()
        if size < least:
            continue
        label, most = by_label.most_common(1)[0]
        base = labels[label] / total
        # Laplace's rule keeps a handful of rows from looking like certainty.
        if (most + 1) / (size + 2) >= 0.9 and base < 0.75:
            found.append((most * (most / size - base), field, value, label, most, size))
    found.sort(reverse=True)
    return [
        Note(
            kind="shortcut",
            text=f"“{value}”: {most:,} of {size:,} rows are {label}.",
            query=f"{field}:{value}",
        )
        for _, field, value, label, most, size in found[:20]
    ]


def surplus(groups: Sequence[Sequence[Sample]]) -> list[str]:
    """Return all but one row of each group whose rows have one label.

    The row that stays is the first of the test split, which is locked, or else the first.
    """
    extra = []
    for group in groups:
        if len({sample.label for sample in group}) == 1:
            kept = next((sample for sample in group if sample.split == "test"), group[0])
            extra += [sample.id for sample in group if sample is not kept]
    return extra


def surplus_duplicates(samples: Sequence[Sample]) -> list[str]:
    """Return the rows to delete so that each request with one label is left once."""
    return surplus([[samples[row] for row in group] for group in exact_groups(samples)])


def surplus_near(samples: Sequence[Sample]) -> list[str]:
    """Return the rows to delete so that of near-duplicates with one label one is left."""
    return surplus([[samples[row] for row in group] for group in near_groups(samples)])


def strip_controls(sample: Sample) -> Sample:
    """Return the row without invisible control characters."""
    names = ("request", "context", "response", "rationale")
    return msgspec.structs.replace(
        sample, **{name: _CONTROL.sub("", getattr(sample, name)) for name in names}
    )


def repair_mojibake(text: str) -> str:
    """Return text whose UTF-8 was read as cp1252 or cp932, read again; unchanged if that fails."""
    for encoding in ("cp1252", "latin-1", "cp932"):
        try:
            repaired = text.encode(encoding).decode("utf-8")
        except UnicodeError:
            continue
        if not _MOJIBAKE.search(repaired):
            return repaired
    return text


def fix(sample: Sample, kind: str) -> Sample:
    """Return the row with a problem of this kind put right as far as a program can."""
    replace = msgspec.structs.replace
    if kind == "control":
        fixed = strip_controls(sample)
        return fixed if fixed.request.strip() else sample
    if kind == "mojibake":
        names = ("request", "context", "response", "rationale")
        return replace(sample, **{name: repair_mojibake(getattr(sample, name)) for name in names})
    if kind == "language":
        script = script_language(sample.request)
        language = {"ja": "ja", "ko": "ko", "latin": "en"}.get(script, sample.language)
        return replace(sample, language=language)
    if kind == "personal":
        return _tagged(sample, "personal-data")
    if kind in ("short", "long", "no_rationale"):
        return _tagged(sample, "review")
    return sample


def _tagged(sample: Sample, tag: str) -> Sample:
    if tag in sample.tags:
        return sample
    return msgspec.structs.replace(sample, tags=(*sample.tags, tag))


FIXABLE = frozenset(KINDS)
