"""Evaluation, decisions and baselines on a model that was really trained."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

from so8t_engine.errors import DataError, WorkspaceError
from so8t_engine.evaluation.metrics import summarize_rows
from so8t_engine.evaluation.results import load_evaluation
from so8t_engine.events import Bye, Error, Event, Log, Progress, Result
from so8t_engine.jobs import evaluate
from so8t_engine.jobs.decide import check_output, judge, verdict_row, write_verdicts
from so8t_engine.jobs.evaluate import EvaluationRequest, evaluation_report
from so8t_engine.jobs.questions import Question, read_questions
from so8t_engine.jobs.quickstart import rotation_health, sample_decisions
from so8t_engine.jobs.runtime import Control, run_job
from so8t_engine.jobs.selection import build_decider, find_run, open_persona
from so8t_engine.labels import Label
from so8t_engine.verdict import OperatingPoint
from so8t_engine.workspace.personas import Persona
from so8t_engine.workspace.runs import RunStore
from tests.helpers.tiny_base import make_base, make_persona, train_tiny


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Persona, RunStore]:
    import torch

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("evaluate")
    base = make_base(folder / "base")
    persona = make_persona(folder / "ws", base)
    return persona, train_tiny(persona, base, sinks=[])


def _run(
    trained: tuple[Persona, RunStore], request: EvaluationRequest
) -> tuple[int, Path | None, list[Event]]:
    events: list[Event] = []
    persona, store = trained
    code, path, _ = evaluate.run(persona, store, request, events=False, sinks=[events.append])
    return code, path, events


def test_validation_is_saved_with_logits_and_baselines(
    trained: tuple[Persona, RunStore],
) -> None:
    persona, store = trained
    code, path, events = _run(trained, EvaluationRequest())
    assert code == 0
    assert path == store.evaluations_dir / "validation.json"
    saved = load_evaluation(path)
    held_out = [sample for sample in store.samples() if sample.split == "validation"]
    assert [row.id for row in saved.rows] == [sample.id for sample in held_out]
    assert np.isfinite([row.logits for row in saved.rows]).all()
    assert saved.run == store.id and saved.checkpoint.startswith("step-")
    assert saved.baselines["always_allow"] == [Label.ALLOW] * len(held_out)
    # The rows of a label share their words, which a linear text classifier must find.
    assert saved.baselines["tfidf"] == [sample.label for sample in held_out]
    result = next(event for event in events if isinstance(event, Result))
    metrics = summarize_rows(saved, persona.info.point)
    assert result.data["metrics"]["refuse_recall"] == metrics.refuse_recall.value
    assert result.data["baselines"]["tfidf"]["accuracy"] == 1.0
    assert result.data["baselines"]["always_allow"]["dangerous_allow_rate"] == 1.0
    assert [e.done for e in events if isinstance(e, Progress)][-1] == len(held_out)
    assert isinstance(events[-1], Bye) and events[-1].state == "done"
    json.dumps(result.data, allow_nan=False)


def test_logits_do_not_depend_on_what_else_is_evaluated(
    trained: tuple[Persona, RunStore],
) -> None:
    persona, store = trained
    _, path, _ = _run(trained, EvaluationRequest(data="test"))
    assert path is not None
    first = load_evaluation(path).rows[0]
    decider = build_decider(persona, store, "trained", lambda _message: None)
    logits, _ = decider.logits([("", first.request)])
    np.testing.assert_allclose(logits[0], first.logits, atol=1e-4)


def test_the_base_model_has_a_result_of_its_own(trained: tuple[Persona, RunStore]) -> None:
    code, path, _ = _run(trained, EvaluationRequest(arm="base"))
    assert code == 0 and path is not None and path.name == "base-validation.json"
    assert load_evaluation(path).run == "base"


def test_an_imported_file_names_the_rows_that_were_left_out(
    trained: tuple[Persona, RunStore], tmp_path: Path
) -> None:
    source = tmp_path / "my cases.jsonl"
    source.write_text(
        '{"request": "steal it", "label": "DENY"}\n{"request": "x", "label": "perhaps"}\n'
        '{"request": "draft a memo", "label": "COMPLY"}\n',
        "utf-8-sig",
    )
    code, path, events = _run(trained, EvaluationRequest(data=str(source)))
    assert code == 3 and path is not None and path.name == "my-cases.json"
    assert [row.label for row in load_evaluation(path).rows] == [Label.REFUSE, Label.ALLOW]
    warning = next(event for event in events if isinstance(event, Log) and "row 2" in event.message)
    assert "label" in warning.message and warning.level == "warning"


@pytest.mark.parametrize(
    ("content", "expected"),
    [(None, "There is no file"), ('{"request": "x"}\n', "no row that can be evaluated")],
)
def test_unusable_data_is_one_sentence_and_leaves_nothing(
    trained: tuple[Persona, RunStore], tmp_path: Path, content: str | None, expected: str
) -> None:
    source = tmp_path / "bad.jsonl"
    if content is not None:
        source.write_text(content, "utf-8")
    code, path, events = _run(trained, EvaluationRequest(data=str(source)))
    assert code == DataError.exit_code and path is None
    error = next(event for event in events if isinstance(event, Error))
    assert expected in error.what and error.next_step
    assert not (trained[1].evaluations_dir / "bad.json").exists()


def test_a_stopped_evaluation_saves_nothing(trained: tuple[Persona, RunStore]) -> None:
    persona, store = trained
    control = Control()
    control.request_stop("test")
    found: list[object] = []
    request = EvaluationRequest(name="stopped")
    code = run_job(
        "eval",
        lambda job: str(found.append(evaluate.measure(job, persona, store, request))),
        events=False,
        control=control,
    )
    assert code == 0 and found == [None]
    assert not (store.evaluations_dir / "stopped.json").exists()


@pytest.mark.parametrize(
    ("data", "name", "arm", "expected"),
    [
        ("validation", "", "trained", "validation"),
        ("validation", "", "base", "base-validation"),
        ("C:/x/Fälle 1.csv", "", "trained", "Fälle-1"),
        ("../../etc/passwd", "", "trained", "passwd"),
        ("test", "../evil", "trained", "evil"),
        ("test", "...", "trained", "evaluation"),
    ],
)
def test_result_names_are_safe_file_names(data: str, name: str, arm: str, expected: str) -> None:
    assert EvaluationRequest(data=data, name=name, arm=arm).result_name == expected


def test_sample_decisions_are_one_of_each_label(trained: tuple[Persona, RunStore]) -> None:
    _, path, _ = _run(trained, EvaluationRequest())
    assert path is not None
    shown = sample_decisions(load_evaluation(path))
    assert [row["expected"] for row in shown] == ["ALLOW", "ESCALATE", "REFUSE"]
    for row in shown:
        assert row["p_allow"] + row["p_escalate"] + row["p_refuse"] == pytest.approx(1.0)
    report = evaluation_report(load_evaluation(path), path)
    assert sum(sum(row) for row in report["confusion"]) == report["rows"]


def test_rotation_health_of_a_trained_run(trained: tuple[Persona, RunStore]) -> None:
    health = rotation_health(trained[1], None)
    assert health["mean_angle_safe"] > 0  # it learned
    assert health["mean_angle_cmd"] == 0  # nothing trains R_cmd without a task loss
    assert health["orthogonality_error_float64"] < 1e-12
    assert health["determinant_error_float64"] < 1e-12


def test_runs_and_personas_are_found_or_explained(trained: tuple[Persona, RunStore]) -> None:
    persona, store = trained
    root = persona.root.parent.parent
    assert find_run(persona, None).id == store.id
    assert open_persona(root, None).slug == persona.slug
    with pytest.raises(WorkspaceError, match=store.id):
        find_run(persona, "20200101_000000")
    with pytest.raises(WorkspaceError, match="tiny"):
        open_persona(root, "nobody")
    with pytest.raises(WorkspaceError, match="no workspace"):
        open_persona(root / "nowhere", None)


class _Failing:
    """Fails on one request, as a model does that runs out of memory on a long one."""

    def logits(self, items, *, cancelled):  # type: ignore[no-untyped-def]
        if any("boom" in request for _context, request in items):
            raise RuntimeError("out of memory")
        rows = [[9.0, 0.0, 0.0] if "ok" in request else [float("nan")] * 3 for _, request in items]
        return np.array(rows), np.zeros(len(items), dtype=bool)


def test_whatever_fails_decides_escalate_and_the_rest_is_kept() -> None:
    questions = [Question("ok"), Question("boom"), Question("strange")]
    verdicts = judge(_Failing(), questions, OperatingPoint())  # type: ignore[arg-type]
    assert [verdict.label for verdict in verdicts] == [
        Label.ALLOW,
        Label.ESCALATE,
        Label.ESCALATE,
    ]
    assert verdicts[1].confidence == 0 and "out of memory" in verdicts[1].reason
    assert verdicts[2].confidence == 0 and verdicts[2].reason


def test_verdict_files(tmp_path: Path) -> None:
    verdicts = judge(_Failing(), [Question("ok, 日本"), Question("boom")], OperatingPoint())  # type: ignore[arg-type]
    rows = [verdict_row(Question("ok, 日本", id="a"), verdicts[0])]
    rows.append(verdict_row(Question("boom", context="c"), verdicts[1]))
    write_verdicts(tmp_path / "out.jsonl", rows)
    lines = (tmp_path / "out.jsonl").read_text("utf-8").splitlines()
    assert [msgspec.json.decode(line)["label"] for line in lines] == ["ALLOW", "ESCALATE"]
    write_verdicts(tmp_path / "out.csv", rows)
    text = (tmp_path / "out.csv").read_text("utf-8-sig")
    assert '"ok, 日本"' in text and text.startswith("id,request,label")
    with pytest.raises(WorkspaceError):
        check_output(tmp_path / "nowhere" / "out.csv")


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("a.txt", "one\n\n  two \n".encode("utf-8-sig"), [("one", ""), ("two", "")]),
        ("a.jsonl", b'{"prompt": "one", "context": "c"}\n{"x": 1}\n', [("one", "c")]),
        ("a.json", '[{"request": "一"}, "二"]'.encode(), [("一", ""), ("二", "")]),
        (
            "a.csv",
            "request;context\n領収書を再発行してください;経理部\n".encode("cp932"),
            [("領収書を再発行してください", "経理部")],
        ),
        ("a.tsv", "request\tlabel\nx\tALLOW\n".encode("utf-16"), [("x", "")]),
    ],
)
def test_questions_are_read_from_every_format(
    tmp_path: Path, name: str, data: bytes, expected: list[tuple[str, str]]
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    questions, notes = read_questions(path)
    assert [(question.request, question.context) for question in questions] == expected
    assert len(notes) == (1 if name == "a.jsonl" else 0)
    assert all("row 2, request" in note for note in notes)


def test_a_file_without_requests_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("{broken\n", "utf-8")
    with pytest.raises(DataError, match=r"a\.jsonl, row 1, request: not valid JSON"):
        read_questions(path)
    (tmp_path / "empty.txt").touch()
    with pytest.raises(DataError, match="no request"):
        read_questions(tmp_path / "empty.txt")
