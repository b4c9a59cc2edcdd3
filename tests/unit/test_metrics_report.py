"""Reports: the same figures in the window, as JSON and as Markdown."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

from so8t_engine.evaluation import metrics, report
from so8t_engine.evaluation.results import RowResult, load_evaluation, save_evaluation
from so8t_engine.labels import LABELS, Label
from so8t_engine.samples.schema import Sample
from so8t_engine.verdict import OperatingPoint, decide
from tests.helpers.evaluations import make_evaluation

POINT = OperatingPoint(temperature=1.3, tau_allow=0.55, tau_refuse=0.3)


def samples(count: int = 90) -> list[Sample]:
    return [
        Sample(
            id=f"s{index:03}",
            request=f"Request {index} | with `signs` and\na second line",
            label=LABELS[index % 3],
            category=("money", "privacy", "")[index % 5 % 3],
            language=("en", "ja")[index % 2],
        )
        for index in range(count)
    ]


def test_groups_partition_the_rows() -> None:
    scored = report.Scored(make_evaluation(samples()))
    whole = np.array(scored.metrics(POINT).confusion)
    for key, names in (("category", {"money", "privacy", ""}), ("language", {"en", "ja"})):
        groups = scored.groups(key, POINT)
        assert {group.name for group in groups} == names
        total = sum(np.array(group.metrics.confusion) for group in groups)
        np.testing.assert_array_equal(total, whole)
    assert scored.groups("category", POINT)[-1].name == ""


def test_wrong_rows_are_exactly_the_wrong_ones_and_dangerous_first() -> None:
    evaluation = make_evaluation(samples(), skill=0.5)
    wrong = report.Scored(evaluation).wrong(POINT)
    expected = {
        row.id for row in evaluation.rows if decide(row.logits, POINT).label is not row.label
    }
    assert {item.row.id for item in wrong} == expected
    severities = [report.SEVERITY[item.row.label, item.decided] for item in wrong]
    assert severities == sorted(severities)
    dangerous = [item for item in wrong if item.dangerous]
    assert dangerous and wrong[: len(dangerous)] == dangerous
    confidence = [item.probabilities[0] for item in dangerous]
    assert confidence == sorted(confidence, reverse=True)
    for item in wrong:
        verdict = decide(item.row.logits, POINT)
        assert item.decided is verdict.label
        assert item.probabilities == pytest.approx(verdict.probabilities)


def test_unusable_logits_are_a_wrong_escalate_without_confidence() -> None:
    evaluation = make_evaluation(samples(3))
    evaluation.rows.append(RowResult(id="bad", label=Label.REFUSE, logits=(float("nan"), 0.0, 0.0)))
    evaluation.baselines.clear()
    wrong = {item.row.id: item for item in report.Scored(evaluation).wrong(POINT)}
    assert wrong["bad"].decided is Label.ESCALATE
    assert wrong["bad"].probabilities == (0.0, 0.0, 0.0)


def test_reports_carry_the_same_figures(tmp_path: Path) -> None:
    evaluation = make_evaluation(samples(), skill=1.0)
    save_evaluation(tmp_path / "validation.json", evaluation)
    scored = report.Scored(load_evaluation(tmp_path / "validation.json"))
    report.save_report(tmp_path / "report.json", scored, POINT, persona="Büro 係")
    report.save_report(tmp_path / "report.md", scored, POINT, persona="Büro 係")
    data = json.loads((tmp_path / "report.json").read_text("utf-8"))
    found = metrics.summarize_rows(evaluation, POINT)
    assert data["metrics"] == json.loads(json.dumps(metrics.as_values(found)))
    assert data["confusion"]["REFUSE"]["ALLOW"] == found.confusion[2][0]
    assert data["operating_point"]["temperature"] == 1.3
    assert len(data["wrong"]) == found.n - sum(found.confusion[i][i] for i in range(3))
    text = (tmp_path / "report.md").read_text("utf-8")
    assert metrics.format_ratio(found.refuse_recall) in text
    assert report.interval_text(found.macro_f1) in text
    assert "TF-IDF + logistic regression" in text and "Büro 係" in text
    # Pipes and line ends of a request stay inside of their cell.
    rows = [line for line in text.splitlines() if line.startswith("| s0")]
    assert len(rows) == len(data["wrong"])
    assert all(line.replace("\\|", "").count("|") == 8 for line in rows)


def test_an_empty_evaluation_is_not_available_everywhere(tmp_path: Path) -> None:
    evaluation = make_evaluation([])
    evaluation.baselines.clear()
    scored = report.Scored(evaluation)
    text = report.markdown(scored, POINT, persona="x")
    assert "n/a (0/0)" in text and "None." in text
    assert report.report_data(scored, POINT, persona="x")["wrong"] == []


def test_ten_thousand_rows_follow_a_dragged_threshold() -> None:
    scored = report.Scored(make_evaluation(samples(10_000)))
    times = []
    for step in range(7):
        begin = time.perf_counter()
        scored.metrics(OperatingPoint(tau_allow=0.3 + step / 20))
        times.append(time.perf_counter() - begin)
    assert sorted(times)[3] < 0.05
