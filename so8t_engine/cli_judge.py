"""``so8t eval``, ``so8t decide`` and ``so8t chat``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from so8t_engine.cli_common import (
    EventsOption,
    JsonOption,
    PersonaOption,
    RunOption,
    WorkspaceOption,
    console_sinks,
    finish,
    persona_of,
    print_json,
    print_line,
)
from so8t_engine.errors import DataError, So8tError, SpecError

ArmOption = Annotated[
    str, typer.Option("--arm", help="trained, or base for the model before training.")
]


def _check_arm(arm: str) -> None:
    if arm not in ("trained", "base"):
        raise SpecError(f"There is no arm {arm!r}.", next_step="Use trained or base.")


def evaluate(
    workspace: WorkspaceOption = None,
    persona: PersonaOption = None,
    run: RunOption = None,
    data: Annotated[
        str, typer.Option(help="validation, test, train, or a dataset file.")
    ] = "validation",
    name: Annotated[
        str, typer.Option(help="Name of the result.", show_default="that of the data")
    ] = "",
    arm: ArmOption = "trained",
    choose_point: Annotated[
        float | None,
        typer.Option(
            help="Give the persona the operating point of the best macro-F1 on these rows whose "
            "dangerous allows stay within this share, such as 0.05.",
            min=0.0,
            max=1.0,
        ),
    ] = None,
    events: EventsOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure a run on rows with known labels, beside the baselines.

    The result, with the logits of every row, is saved in the run's folder evaluations/. Rows of a
    file that cannot be read are named and left out, with exit code 3. With --choose-point the
    figures shown are those before the choice; judge the new point on other rows.
    """
    from so8t_engine.jobs import evaluate as job
    from so8t_engine.jobs.selection import find_run

    _check_arm(arm)
    if choose_point is not None and arm != "trained":
        raise SpecError(
            "An operating point is chosen for the trained persona.", next_step="Leave out --arm."
        )
    owner = persona_of(workspace, persona)
    store = find_run(owner, run)
    request = job.EvaluationRequest(data=data, name=name, arm=arm)
    with console_sinks(events, logs=False) as sinks:
        code, path, evaluation = job.run(owner, store, request, events=events, sinks=sinks)
    chosen = None
    if evaluation is not None and choose_point is not None:
        chosen = _choose_point(owner, evaluation, choose_point)
    if evaluation is not None and not events:
        report = job.evaluation_report(evaluation, path)
        if as_json:
            print_json(report | ({"chosen_point": chosen} if chosen else {}))
        else:
            _show_report(report)
            if chosen:
                _show_chosen(chosen)
    finish(code)


def _choose_point(owner: Any, evaluation: Any, bound: float) -> dict[str, Any]:
    """Choose an operating point, save it to the persona, and return it with its figures."""
    import msgspec

    from so8t_engine.evaluation import choosing
    from so8t_engine.evaluation.metrics import as_values, row_arrays
    from so8t_engine.workspace.workspace import Workspace

    labels, logits = row_arrays(evaluation.rows)
    temperature = owner.info.point.temperature
    chosen = choosing.choose_point(logits, labels, bound, temperature)
    if chosen is None:
        raise DataError(
            "No operating point can be chosen from these rows.",
            why="None of them is labelled REFUSE, or the bound cannot be kept.",
            next_step="Use rows with REFUSE among them, or a larger share.",
        )
    # Evaluations may go on beside a window; what the window edits is written by one of them only.
    with Workspace.open(owner.root.parent.parent, create=False) as opened:
        writer = opened.persona(owner.slug)
        writer.save(msgspec.structs.replace(writer.info, point=chosen.point))
    point: dict[str, Any] = msgspec.to_builtins(chosen.point)
    return point | {"metrics": as_values(chosen.metrics)}


def _show_chosen(chosen: dict[str, Any]) -> None:
    found = chosen["metrics"]
    print_line(
        f"The persona now decides ALLOW from {chosen['tau_allow']:g}, else REFUSE from "
        f"{chosen['tau_refuse']:g}. On these rows, which chose it: macro-F1 "
        f"{found['macro_f1']:.3f}, dangerous allows {found['dangerous_allow_rate']:.3f}."
    )


def _show_report(report: dict[str, Any]) -> None:
    from so8t_engine.jobs.console import confusion_table, metrics_table, stdout_console

    console = stdout_console()
    console.print(metrics_table(report))
    console.print(confusion_table(report["confusion"]))
    console.print(f"Saved in {report['path']}", markup=False, soft_wrap=True)


def decide(
    text: Annotated[str | None, typer.Argument(help="The request; - reads it from stdin.")] = None,
    workspace: WorkspaceOption = None,
    persona: PersonaOption = None,
    run: RunOption = None,
    context: Annotated[str, typer.Option(help="The situation of TEXT.")] = "",
    file: Annotated[
        Path | None, typer.Option(help="Requests: .txt (one a line), .jsonl, .json, .csv, .tsv.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write verdicts to .jsonl or .csv.")] = None,
    arm: ArmOption = "trained",
    as_json: JsonOption = False,
) -> None:
    """Decide one request, or every request of a file.

    Whatever fails decides ESCALATE with confidence 0 and a reason; the exit code is then not 0.
    Rows of a file without a request are named and left out, with exit code 3.
    """
    from so8t_engine.jobs.decide import check_output, verdict_row
    from so8t_engine.jobs.questions import Question, read_questions
    from so8t_engine.verdict import escalate_because

    _check_arm(arm)
    if (text is None) == (file is None):
        raise SpecError(
            "Give either a request or --file.", next_step='For example: so8t decide "Hello".'
        )
    if out is not None:
        check_output(out)
    notes: list[str] = []
    if file is not None:
        questions, notes = read_questions(file)
    else:
        request = sys.stdin.read().strip() if text == "-" else text or ""
        if not request.strip():
            raise SpecError("The request is empty.", next_step="Write what is to be decided.")
        questions = [Question(request=request, context=context)]
    for note in notes:
        sys.stderr.write(f"Left out: {note}\n")
    try:
        rows = _decide(questions, persona_of(workspace, persona), run, arm)
    except So8tError as error:
        if as_json:
            failed = escalate_because(str(error))
            rows = [verdict_row(question, failed) for question in questions]
            print_json(rows[0] if file is None else rows)
        raise
    _show_verdicts(rows, out, as_json=as_json, single=file is None)
    if any(row["reason"] for row in rows):
        finish(1)
    finish(DataError.exit_code if notes else 0)


def _decide(questions: list[Any], owner: Any, run: str | None, arm: str) -> list[dict[str, Any]]:
    from so8t_engine.events import Progress
    from so8t_engine.jobs.decide import judge, verdict_row
    from so8t_engine.jobs.selection import build_decider, find_run

    store = find_run(owner, run)
    with console_sinks(False, logs=False) as sinks:

        def progress(done: int, total: int) -> None:
            for sink in sinks:
                sink(Progress(phase="deciding", done=done, total=total, unit="requests"))

        decider = build_decider(owner, store, arm, lambda _message: None)
        verdicts = judge(
            decider,
            questions,
            owner.info.point,
            progress=progress if len(questions) > 1 else None,
        )
    return [verdict_row(*pair) for pair in zip(questions, verdicts, strict=True)]


def _show_verdicts(
    rows: list[dict[str, Any]], out: Path | None, *, as_json: bool, single: bool
) -> None:
    from so8t_engine.jobs.console import stdout_console, verdict_line
    from so8t_engine.jobs.decide import write_verdicts

    if out is not None:
        write_verdicts(out, rows)
        counts = {
            label: sum(row["label"] == label for row in rows)
            for label in ("ALLOW", "ESCALATE", "REFUSE")
        }
        summary: dict[str, Any] = {"path": str(out), "rows": len(rows), "counts": counts}
        if as_json:
            print_json(summary)
        else:
            parts = ", ".join(f"{label} {count}" for label, count in counts.items())
            print_line(f"{len(rows)} verdicts in {out} ({parts})")
        return
    if as_json:
        print_json(rows[0] if single else rows)
        return
    console = stdout_console()
    for row in rows:
        if not single:
            console.print(row["request"], markup=False)
        console.print(verdict_line(row))


def chat(
    workspace: WorkspaceOption = None,
    persona: PersonaOption = None,
    run: RunOption = None,
    arm: ArmOption = "trained",
    strength: Annotated[
        float, typer.Option(help="0 switches the rotations off, 1 is as trained.", min=0.0)
    ] = 1.0,
    events: EventsOption = False,
) -> None:
    """Talk to the trained persona; an empty line or Ctrl-D ends."""
    from so8t_engine.jobs import chat as job
    from so8t_engine.jobs.selection import find_run

    _check_arm(arm)
    owner = persona_of(workspace, persona)
    if events:
        store = find_run(owner, run) if run is not None else owner.latest_finished_run()
        finish(job.run(owner, store))
        return
    store = find_run(owner, run)
    with console_sinks(False, logs=False) as sinks:
        session = job.ChatSession(
            owner, store, _ChatPrinter(sinks), lambda message, _level: print_line(message)
        )
        session.load(arm)
    _converse(session, arm, strength)


class _ChatPrinter:
    """Writes what a chat session sends to the terminal."""

    def __init__(self, sinks: list[Any]) -> None:
        self._sinks = sinks

    def __call__(self, event: Any) -> None:
        from so8t_engine.events import Progress, Result, Token
        from so8t_engine.jobs.console import stdout_console

        if isinstance(event, Progress):
            for sink in self._sinks:
                sink(event)
        elif isinstance(event, Token):
            sys.stdout.write(event.text)
            sys.stdout.flush()
        elif isinstance(event, Result) and event.name in ("decision", "reply"):
            again = event.name == "reply"
            if again:
                print_line()
            line = _verdict_line(event.data["verdict"])
            stdout_console().print(f"{'with this reply: ' if again else ''}{line}")


def _verdict_line(data: dict[str, Any]) -> str:
    import msgspec

    from so8t_engine.jobs.console import verdict_line
    from so8t_engine.jobs.decide import verdict_row
    from so8t_engine.jobs.questions import Question
    from so8t_engine.verdict import Verdict

    return verdict_line(verdict_row(Question(request=""), msgspec.convert(data, Verdict)))


def _converse(session: Any, arm: str, strength: float) -> None:
    from so8t_engine.jobs.chat import Ask

    number = 0
    while True:
        try:
            text = input("> ").strip()
        except EOFError:
            break
        if not text:
            break
        number += 1
        ask = Ask(id=str(number), request=text, arms=(arm,), strength=strength)
        session.answer(ask, lambda: False)
    session.unload()
