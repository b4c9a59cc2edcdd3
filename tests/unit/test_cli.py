"""The command line: quick, torch-free help; one clear sentence and an exit code for every error."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from so8t_engine.cli import COMMANDS, load_command, main
from so8t_engine.cli_common import apply_settings
from so8t_engine.errors import SpecError
from so8t_engine.events import Bye, Error, Hello, Result, decode_event
from so8t_engine.specs import TrainSpec, encode_spec, preset
from so8t_engine.workspace.personas import Persona
from so8t_engine.workspace.runs import RunStore
from so8t_engine.workspace.workspace import Workspace
from tests.helpers.tiny_base import make_base, make_persona, tiny_spec

ROOT = Path(__file__).resolve().parents[2]


def so8t(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a real process."""
    return subprocess.run(
        [sys.executable, "-m", "so8t_engine", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONUTF8": "1", **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
        stdin=subprocess.DEVNULL,
    )


def failure(done: subprocess.CompletedProcess[str], code: int) -> str:
    """Check that a command failed with one sentence and return it."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("Error: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def test_help_is_quick_and_free_of_torch() -> None:
    script = (
        "import sys\nfrom so8t_engine.cli import main\ncode = main(['--help'])\n"
        "heavy = {'torch', 'transformers', 'sklearn', 'matplotlib', 'PySide6'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy or code else 0)"
    )
    times = []
    for _ in range(3):
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True
        )
        times.append(time.perf_counter() - started)
        assert done.returncode == 0, done.stderr
        assert all(name in done.stdout for name in COMMANDS)
    assert min(times) < 1.5


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help(name: str) -> None:
    command = load_command(name)
    assert command.name == name and command.help
    assert main([name, "--help"]) == 0


def test_version_and_smoke(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("so8t ")
    assert main(["--smoke"]) == 0
    assert "ready" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (("teleport",), 2, "No such command 'teleport'"),
        (("train", "--sped"), 2, "--sped"),
        (("train", "--preset", "huge"), 2, "no preset 'huge'"),
        (("train", "--preset", "quick", "--resume", "x"), 2, "exclude each other"),
        (("train", "--resume", "x", "--set", "seed=1"), 2, "own specification"),
        (("train", "--spec", "/no/such/spec.json"), 2, "/no/such/spec.json cannot be read"),
        (("train", "--set", "seed"), 2, "key=value"),
        (("train", "--set", "optim.epoch=3"), 2, "no setting 'optim.epoch'"),
        (("train", "--set", "optim.epochs=-1"), 2, "$.optim.epochs"),
        (("decide",), 2, "--file"),
        (("decide", "hello", "--arm", "left"), 2, "no arm 'left'"),
        (("decide", "--file", "/no/such/file"), 3, "no file /no/such/file"),
        (("decide", "  "), 2, "The request is empty"),
        (("decide", "hello", "--out", "x.docx"), 2, ".jsonl, .csv"),
        (("eval", "--workspace", "/no/such/workspace"), 5, "no workspace"),
    ],
)
def test_errors_are_one_sentence_with_an_exit_code(
    arguments: tuple[str, ...], code: int, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(list(arguments)) == code
    said = capsys.readouterr()
    assert expected in said.err and said.err.startswith("Error: ")
    assert said.err.count("\n") == 1 and not said.out


def test_a_spec_with_an_unknown_key_names_file_and_field(tmp_path: Path) -> None:
    raw = msgspec.to_builtins(preset("quick"))
    raw["optim"]["learning_rate"] = 1e-3
    path = tmp_path / "my spec.json"
    path.write_bytes(msgspec.json.encode(raw))
    said = failure(so8t("train", "--spec", path), 2)
    assert str(path) in said and "learning_rate" in said and "$.optim" in said


def test_errors_before_a_job_are_events_too() -> None:
    done = so8t("train", "--preset", "huge", "--events")
    assert done.returncode == 2 and not done.stderr
    error, bye = (decode_event(line.encode()) for line in done.stdout.splitlines())
    assert isinstance(error, Error) and error.kind == "SpecError" and error.next_step
    assert isinstance(bye, Bye) and bye.state == "failed"


def test_settings_are_typed() -> None:
    changed = apply_settings(
        TrainSpec(),
        ["device=cpu", "optim.lr_lora=1e-4", "model.lora=null", "model.adapt_layers=all"],
    )
    assert changed.device == "cpu" and changed.optim.lr_lora == 1e-4
    assert changed.model.lora is None and changed.model.adapt_layers == "all"
    layered = apply_settings(changed, ["model.lora.rank=8", "model.adapt_layers=[1,2]"])
    assert layered.model.lora is not None and layered.model.lora.rank == 8
    assert layered.model.adapt_layers == (1, 2)
    with pytest.raises(SpecError, match=r"no setting 'model\.lora\.rank\.deep'"):
        apply_settings(TrainSpec(), ["model.lora.rank.deep=1"])


def test_show_spec_gives_a_file_that_train_takes(tmp_path: Path) -> None:
    done = so8t("train", "--preset", "thorough", "--set", "seed=3", "--show-spec")
    assert done.returncode == 0
    path = tmp_path / "spec.json"
    path.write_text("\ufeff" + done.stdout, "utf-8")  # an editor on Windows adds a BOM
    again = so8t("train", "--spec", path, "--show-spec")
    assert again.returncode == 0 and json.loads(again.stdout) == json.loads(done.stdout)
    assert json.loads(again.stdout)["seed"] == 3


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Persona, Path]:
    folder = tmp_path_factory.mktemp("cli")
    base = make_base(folder / "base")
    return make_persona(folder / "ws", base), base


def _options(persona: Persona) -> list[object]:
    return ["--workspace", persona.root.parent.parent, "--persona", persona.slug]


def test_a_dry_run_checks_everything_and_writes_nothing(tiny: tuple[Persona, Path]) -> None:
    persona, base = tiny
    done = so8t("train", *_options(persona), "--preset", "quick", "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["base_path"] == str(base)  # the persona's own base model
    assert sum(found["rows"]["train"].values()) == 36
    spec = preset("quick")
    batches = math.ceil(36 / spec.optim.batch_size)
    assert found["steps"] == math.ceil(spec.optim.epochs * batches)
    assert not persona.runs()


def test_decide_without_a_run_is_an_escalation_and_a_failure(tiny: tuple[Persona, Path]) -> None:
    done = so8t("decide", "hello", *_options(tiny[0]), "--run", "20200101_000000", "--json")
    assert done.returncode == 5
    row = json.loads(done.stdout)
    assert row["label"] == "ESCALATE" and row["confidence"] == 0 and "20200101" in row["reason"]


def test_the_whole_way_headless(tiny: tuple[Persona, Path], tmp_path: Path) -> None:
    """Train from a spec file, evaluate, decide, draw: with real processes, as a script would."""
    persona, base = tiny
    spec = tmp_path / "spec.json"
    spec.write_bytes(encode_spec(tiny_spec(base, steps=4)))
    trained = so8t("train", *_options(persona), "--spec", spec, "--json")
    assert trained.returncode == 0, trained.stderr
    outcome = json.loads(trained.stdout)
    assert outcome["state"] == "done" and outcome["step"] == 4 and outcome["checkpoint"]
    run = RunStore(Path(outcome["path"]))
    assert run.id == outcome["run"]

    measured = so8t("eval", *_options(persona), "--data", "test", "--json")
    assert measured.returncode == 0, measured.stderr
    report = json.loads(measured.stdout)
    assert report["run"] == run.id and report["rows"] == 18
    for name in ("refuse_recall", "escalate_precision", "allow_precision", "macro_f1"):
        assert name in report["metrics"] and name in report["baselines"]["always_allow"]
    assert Path(report["path"]).is_file()

    chosen = so8t("eval", *_options(persona), "--choose-point", 0.0, "--json")
    assert chosen.returncode == 0, chosen.stderr
    found = json.loads(chosen.stdout)["chosen_point"]
    assert found["metrics"]["dangerous_allow_rate"] == 0.0
    point = persona.info.point
    assert (point.tau_allow, point.tau_refuse) == (found["tau_allow"], found["tau_refuse"])

    with Workspace.open(persona.root.parent.parent):  # as a window has it
        busy = so8t("eval", *_options(persona), "--choose-point", 0.5)
    assert busy.returncode == 5 and "another window" in busy.stderr
    assert persona.info.point == point
    wrong = so8t("eval", *_options(persona), "--choose-point", 0.5, "--arm", "base")
    assert wrong.returncode == 2 and "trained persona" in wrong.stderr

    decided = so8t("decide", "draft a memo", *_options(persona), "--json")
    assert decided.returncode == 0, decided.stderr
    row = json.loads(decided.stdout)
    assert row["p_allow"] + row["p_escalate"] + row["p_refuse"] == pytest.approx(1)

    source, target = tmp_path / "in.csv", tmp_path / "out.jsonl"
    source.write_text("id,request\na,draft a memo\nb,steal it\n", "utf-8")
    listed = so8t("decide", *_options(persona), "--file", source, "--out", target, "--json")
    assert listed.returncode == 0, listed.stderr
    rows = [json.loads(line) for line in target.read_text("utf-8").splitlines()]
    assert [row["id"] for row in rows] == ["a", "b"]
    assert rows[0]["p_allow"] == pytest.approx(row["p_allow"], abs=1e-4)

    source.write_text("request,label\ndraft a memo,ALLOW\n,REFUSE\nsteal it,MAYBE\n", "utf-8")
    partly = so8t("decide", *_options(persona), "--file", source)
    assert partly.returncode == 3 and "in.csv, row 3, request" in partly.stderr
    partly = so8t("eval", *_options(persona), "--data", source, "--json")
    assert partly.returncode == 3 and json.loads(partly.stdout)["rows"] == 1
    assert "in.csv, row 4, label" in partly.stderr
    assert (run.evaluations_dir / "in.json").is_file()

    health = so8t("rotations", *_options(persona), "--json")
    assert health.returncode == 0, health.stderr
    assert json.loads(health.stdout)["mean_angle_safe"] > 0
    figure = tmp_path / "figure.svg"
    drawn = so8t("figure", "rotations", "--run-dir", run.root, "--gate", "head", "--block", 0,
                 "--out", figure)  # fmt: skip
    assert drawn.returncode == 0, drawn.stderr
    assert figure.read_text("utf-8").lstrip().startswith("<?xml")


def test_quickstart_does_the_main_job(tiny: tuple[Persona, Path]) -> None:
    persona, base = tiny
    changes = ("optim.max_steps=3", "model.adapt_layers=2", "device=cpu", "data.max_tokens=160")
    settings = [part for change in changes for part in ("--set", change)]
    done = so8t("quickstart", *_options(persona), *settings, "--json", SO8T_CACHE="/no/such/cache")
    assert done.returncode == 0, done.stderr  # its base model is not the default one
    report = json.loads(done.stdout)
    assert report["workspace"] == str(persona.root.parent.parent) in done.stderr
    run = next(run for run in persona.runs() if run.id == report["run"])
    assert run.spec().base_model == str(base) and run.state().state == "done"
    health = report["rotations"]
    assert health["mean_angle_safe"] > 0 and health["orthogonality_error_float32"] <= 1e-5
    assert [row["expected"] for row in report["decisions"]] == ["ALLOW", "ESCALATE", "REFUSE"]
    assert report["metrics"]["n"] == 18 and set(report["baselines"]) == {
        "always_allow",
        "word_rules",
        "tfidf",
    }
    assert "training: 3/3 steps" in done.stderr
    assert so8t("quickstart", "--set", "optim.max_stepz=1").returncode == 2


def test_eval_speaks_events_to_the_window(tiny: tuple[Persona, Path]) -> None:
    persona, _ = tiny
    run = persona.latest_finished_run()
    if run is None:
        pytest.skip("needs the run that the test above trains")
    process = subprocess.Popen(
        [sys.executable, "-m", "so8t_engine", "eval", *map(str, _options(persona)), "--events"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None and process.stdin is not None
    events = [decode_event(line) for line in process.stdout]
    process.stdin.close()
    process.stdout.close()
    assert process.wait(timeout=60) == 0
    assert isinstance(events[0], Hello) and events[0].kind == "eval"
    result = next(event for event in events if isinstance(event, Result))
    assert result.name == "evaluation" and Path(result.data["path"]).is_file()
    assert isinstance(events[-1], Bye) and events[-1].state == "done"
    assert [event.seq for event in events if event is not None] == list(range(len(events)))


def test_models_and_doctor_say_what_is_missing(tmp_path: Path) -> None:
    listed = so8t("models", "list", "--json", SO8T_CACHE=str(tmp_path), HF_HOME=str(tmp_path))
    assert listed.returncode == 0, listed.stderr
    assert [(m["reference"], m["state"]) for m in json.loads(listed.stdout)] == [
        ("default", "missing")
    ]
    examined = so8t("doctor", "--json", SO8T_CACHE=str(tmp_path))
    assert examined.returncode == 1, examined.stderr
    report = json.loads(examined.stdout)
    assert not report["ready"] and report["base_model"]["state"] == "missing"
    problem = next(p for p in report["problems"] if p["blocking"])
    assert "so8t models prepare" in problem["next_step"]
    assert report["versions"]["torch"] and report["memory"]["total"] > 0
    assert report["nf4"]["usable"] or report["nf4"]["reason"]
    plain = so8t("doctor", SO8T_CACHE=str(tmp_path))
    assert "Not ready" in plain.stdout and "Missing: The default base model" in plain.stdout


def test_the_only_persona_needs_no_name_and_two_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = Workspace.open(tmp_path / "ws", exclusive=False)
    assert main(["eval", "--workspace", str(workspace.root)]) == 5
    assert "has no persona" in capsys.readouterr().err
    workspace.create_persona("One")
    assert main(["eval", "--workspace", str(workspace.root)]) == 5
    assert "persona one has no finished run" in capsys.readouterr().err
    workspace.create_persona("Two")
    assert main(["eval", "--workspace", str(workspace.root)]) == 5
    assert "one, two" in capsys.readouterr().err


def test_a_full_disk_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    import errno

    from so8t_engine import cli_tools

    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "x"))

    monkeypatch.setattr(cli_tools, "doctor", full)
    assert main(["doctor"]) == 6
    said = capsys.readouterr().err
    assert "The disk is full" in said and "Traceback" not in said


def test_an_unexpected_error_has_no_traceback_unless_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from so8t_engine import cli_tools

    def broken() -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(cli_tools, "doctor", broken)
    assert main(["doctor"]) == 70
    said = capsys.readouterr().err
    assert "ZeroDivisionError" in said and "SO8T_DEBUG" in said and "Traceback" not in said
    monkeypatch.setenv("SO8T_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        main(["doctor"])
