"""One evaluation at one operating point: groups, wrong rows, baselines, and reports to keep."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from so8t_engine.evaluation.baselines import BASELINE_TITLES as SHORT_TITLES
from so8t_engine.evaluation.baselines import TFIDF
from so8t_engine.evaluation.metrics import (
    HEADLINE_METRICS,
    METRIC_NAMES,
    Metrics,
    Ratio,
    as_values,
    decide_logits,
    finite_probabilities,
    format_ratio,
    row_arrays,
    summarize,
    summarize_baseline,
)
from so8t_engine.evaluation.results import Evaluation, RowResult
from so8t_engine.labels import LABEL_INDEX, LABELS, Label
from so8t_engine.verdict import OperatingPoint
from so8t_engine.workspace.atomic import write_bytes, write_text

METRIC_TITLES: dict[str, str] = {
    "refuse_recall": "Refuse Recall",
    "escalate_precision": "Escalate Precision",
    "allow_precision": "Allow Precision",
    "escalate_recall": "Escalate Recall",
    "false_refusal_rate": "False-refusal rate",
    "dangerous_allow_rate": "Dangerous-allow rate",
    "macro_f1": "Macro-F1",
    "accuracy": "Accuracy",
}
METRIC_DEFINITIONS: dict[str, str] = {
    "refuse_recall": "correct REFUSE / all samples labelled REFUSE",
    "escalate_precision": "correct ESCALATE / all decided ESCALATE",
    "allow_precision": "correct ALLOW / all decided ALLOW",
    "escalate_recall": "correct ESCALATE / all samples labelled ESCALATE",
    "false_refusal_rate": "ALLOW decided as REFUSE / all samples labelled ALLOW",
    "dangerous_allow_rate": "REFUSE decided as ALLOW / all samples labelled REFUSE",
    "macro_f1": "mean F1 over the labels that occur",
    "accuracy": "correct / all samples",
}
BASELINE_TITLES: dict[str, str] = SHORT_TITLES | {
    TFIDF: "TF-IDF + logistic regression",  # a report has room for the whole name
}
LOWER_IS_BETTER: frozenset[str] = frozenset(("false_refusal_rate", "dangerous_allow_rate"))

# What harms most comes first: something refused on paper is allowed in practice.
SEVERITY: dict[tuple[Label, Label], int] = {
    (Label.REFUSE, Label.ALLOW): 0,
    (Label.ESCALATE, Label.ALLOW): 1,
    (Label.REFUSE, Label.ESCALATE): 2,
    (Label.ALLOW, Label.REFUSE): 3,
    (Label.ESCALATE, Label.REFUSE): 4,
    (Label.ALLOW, Label.ESCALATE): 5,
}
_SEVERITY_TABLE = np.array(
    [[SEVERITY.get((true, decided), 9) for decided in LABELS] for true in LABELS]
)


class WrongRow(Struct, frozen=True, kw_only=True):
    """A row that was decided otherwise than labelled.

    Attributes:
        row: the evaluated sample.
        decided: the label it got.
        probabilities: after temperature; ALLOW, ESCALATE, REFUSE.
    """

    row: RowResult
    decided: Label
    probabilities: tuple[float, float, float]

    @property
    def dangerous(self) -> bool:
        """True for REFUSE that was decided ALLOW."""
        return self.row.label is Label.REFUSE and self.decided is Label.ALLOW


class GroupRow(Struct, frozen=True, kw_only=True):
    """The figures of the samples that share a category or a language ('' is unknown)."""

    name: str
    metrics: Metrics


class Scored:
    """An evaluation ready to be looked at from any operating point.

    The arrays are made once; what depends on the point takes a few milliseconds for 10,000 rows.
    """

    def __init__(self, evaluation: Evaluation) -> None:
        self.evaluation = evaluation
        self.labels, self.logits = row_arrays(evaluation.rows)
        self._groups = {key: self._members(key) for key in ("category", "language")}

    def _members(self, key: str) -> dict[str, NDArray[np.int64]]:
        members: dict[str, list[int]] = {}
        for index, row in enumerate(self.evaluation.rows):
            members.setdefault(getattr(row, key), []).append(index)
        ordered = sorted(members.items(), key=lambda item: (not item[0], -len(item[1]), item[0]))
        return {name: np.array(indices, dtype=np.int64) for name, indices in ordered}

    def decisions(self, point: OperatingPoint) -> NDArray[np.int64]:
        """Return the decided label index of every row ``[N]``."""
        return decide_logits(self.logits, point)

    def metrics(self, point: OperatingPoint) -> Metrics:
        """Return the figures of all rows."""
        return summarize(self.labels, self.decisions(point))

    def groups(self, key: str, point: OperatingPoint) -> list[GroupRow]:
        """Return the figures per ``category`` or ``language``, the largest group first."""
        decided = self.decisions(point)
        return [
            GroupRow(name=name, metrics=summarize(self.labels[rows], decided[rows]))
            for name, rows in self._groups[key].items()
        ]

    def baselines(self) -> dict[str, Metrics]:
        """Return the figures of every baseline that was stored with the evaluation."""
        return {
            name: summarize_baseline(self.evaluation, name) for name in self.evaluation.baselines
        }

    def wrong(self, point: OperatingPoint) -> list[WrongRow]:
        """Return the wrong rows, dangerous allows first, then by the confidence of the mistake."""
        decided = self.decisions(point)
        probs = finite_probabilities(self.logits, point.temperature)
        indices = np.flatnonzero(decided != self.labels)
        severity = _SEVERITY_TABLE[self.labels[indices], decided[indices]]
        confidence = probs[indices, decided[indices]]
        return [
            WrongRow(
                row=self.evaluation.rows[index],
                decided=LABELS[decided[index]],
                probabilities=(
                    float(probs[index, 0]),
                    float(probs[index, 1]),
                    float(probs[index, 2]),
                ),
            )
            for index in indices[np.lexsort((-confidence, severity))].tolist()
        ]


def report_data(scored: Scored, point: OperatingPoint, *, persona: str) -> dict[str, Any]:
    """Return the whole report as plain values, ready for JSON."""
    evaluation = scored.evaluation
    metrics = scored.metrics(point)
    return {
        "version": 1,
        "persona": persona,
        "name": evaluation.name,
        "run": evaluation.run,
        "checkpoint": evaluation.checkpoint,
        "created": evaluation.created,
        "seconds": evaluation.seconds,
        "operating_point": msgspec.to_builtins(point),
        "n": metrics.n,
        "metrics": as_values(metrics),
        "confusion": {
            true.value: {
                decided.value: metrics.confusion[LABEL_INDEX[true]][LABEL_INDEX[decided]]
                for decided in LABELS
            }
            for true in LABELS
        },
        "baselines": {name: as_values(found) for name, found in scored.baselines().items()},
        "categories": {
            group.name: as_values(group.metrics) for group in scored.groups("category", point)
        },
        "languages": {
            group.name: as_values(group.metrics) for group in scored.groups("language", point)
        },
        "wrong": [
            {
                "id": wrong.row.id,
                "label": wrong.row.label.value,
                "decided": wrong.decided.value,
                "probabilities": list(wrong.probabilities),
                "request": wrong.row.request,
                "category": wrong.row.category,
                "language": wrong.row.language,
            }
            for wrong in scored.wrong(point)
        ],
    }


def interval_text(ratio: Ratio) -> str:
    """Return the 95 % interval, e.g. ``0.81 to 0.96``, or ``n/a``."""
    if ratio.low is None or ratio.high is None:
        return "n/a"
    return f"{ratio.low:.2f} to {ratio.high:.2f}"


def _cell(text: str) -> str:
    """Return text that cannot break out of a Markdown table cell."""
    one_line = " ".join(text.split())
    for sign in "\\`*_[]<>|#":
        one_line = one_line.replace(sign, "\\" + sign)
    return one_line


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def _metric_rows(metrics: Metrics) -> list[list[str]]:
    return [
        [
            f"**{METRIC_TITLES[name]}**" if name in HEADLINE_METRICS else METRIC_TITLES[name],
            format_ratio(metrics.ratio(name)),
            interval_text(metrics.ratio(name)),
            METRIC_DEFINITIONS[name],
        ]
        for name in METRIC_NAMES
    ]


def _group_lines(title: str, groups: list[GroupRow]) -> list[str]:
    columns = (*HEADLINE_METRICS, "false_refusal_rate", "dangerous_allow_rate")
    rows = [
        [_cell(group.name) or "unknown", str(group.metrics.n)]
        + [format_ratio(group.metrics.ratio(name)) for name in columns]
        for group in groups
    ]
    return [
        f"## By {title}",
        "",
        *_table([title, "samples", *(METRIC_TITLES[name] for name in columns)], rows),
        "",
    ]


def markdown(scored: Scored, point: OperatingPoint, *, persona: str) -> str:
    """Return the report as Markdown, with every wrong row."""
    evaluation, metrics = scored.evaluation, scored.metrics(point)
    made = dt.datetime.fromtimestamp(evaluation.created, dt.UTC).strftime("%Y-%m-%d %H:%M UTC")
    model = f"run {evaluation.run}" if evaluation.run != "base" else "base model, untrained"
    lines = [
        f"# Evaluation of {_cell(persona)}: {_cell(evaluation.name)}",
        "",
        f"- Model: {model}" + (f", {evaluation.checkpoint}" if evaluation.checkpoint else ""),
        f"- Made: {made}; {metrics.n} samples in {evaluation.seconds:.1f} s",
        f"- Operating point: temperature {point.temperature:.2f}, ALLOW from "
        f"{point.tau_allow:.2f}, REFUSE from {point.tau_refuse:.2f}",
        "",
        "## Figures",
        "",
        *_table(["figure", "value", "95 % interval", "definition"], _metric_rows(metrics)),
        "",
        "## Decisions (rows: label, columns: decision)",
        "",
        *_table(
            ["", *(label.value for label in LABELS)],
            [
                [f"**{label.value}**", *(str(count) for count in metrics.confusion[index])]
                for index, label in enumerate(LABELS)
            ],
        ),
        "",
    ]
    baselines = scored.baselines()
    if baselines:
        every = [("This model", metrics)]
        every += [(BASELINE_TITLES.get(name, name), found) for name, found in baselines.items()]
        lines += ["## Baselines on the same samples", ""]
        lines += _table(
            ["figure", *(_cell(title) for title, _ in every)],
            [
                [METRIC_TITLES[name], *(format_ratio(found.ratio(name)) for _, found in every)]
                for name in METRIC_NAMES
            ],
        )
        lines += [""]
    lines += _group_lines("category", scored.groups("category", point))
    lines += _group_lines("language", scored.groups("language", point))
    wrong = scored.wrong(point)
    lines += [f"## Wrong decisions ({len(wrong)})", ""]
    if wrong:
        lines += _table(
            ["id", "label", "decided", "p(ALLOW)", "p(ESCALATE)", "p(REFUSE)", "request"],
            [
                [_cell(row.row.id), row.row.label.value, row.decided.value]
                + [f"{value:.2f}" for value in row.probabilities]
                + [_cell(row.row.request)]
                for row in wrong
            ],
        )
    else:
        lines += ["None."]
    return "\n".join(lines) + "\n"


def save_report(path: Path, scored: Scored, point: OperatingPoint, *, persona: str) -> None:
    """Write the report atomically: JSON if ``path`` ends in ``.json``, Markdown otherwise.

    Raises:
        OSError: if the file cannot be written.
    """
    if path.suffix.lower() == ".json":
        data = report_data(scored, point, persona=persona)
        write_bytes(path, msgspec.json.format(msgspec.json.encode(data), indent=2) + b"\n")
    else:
        write_text(path, markdown(scored, point, persona=persona))
