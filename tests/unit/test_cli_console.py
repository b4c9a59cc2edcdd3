"""What a terminal or a log sees of a job."""

from __future__ import annotations

import io

from rich.console import Console

from so8t_engine.events import Checkpoint, Error, Event, Log, Metric, Progress
from so8t_engine.jobs.console import ConsoleSink, confusion_table, metrics_table


def shown(*events: Event, terminal: bool = False, logs: bool = True) -> str:
    """Return what a console of 100 columns shows of events."""
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=100, highlight=False)
    with ConsoleSink(console, logs=logs) as sink:
        for event in events:
            sink(event)
    return stream.getvalue()


def test_a_log_gets_the_first_and_the_last_of_a_phase() -> None:
    events = [Progress(phase="training", done=step, total=500) for step in range(501)]
    lines = shown(*events).splitlines()
    assert lines == ["training: 0/500 steps", "training: 500/500 steps"]


def test_bytes_are_shown_in_mebibytes() -> None:
    half = Progress(phase="downloading", done=1 << 20, total=4 << 20, unit="bytes")
    assert shown(half) == "downloading: 1/4 MiB\n"


def test_a_terminal_gets_a_bar_for_each_phase() -> None:
    text = shown(
        Progress(phase="caching prefix", done=3, total=3),
        Progress(phase="training", done=1, total=2),
        terminal=True,
    )
    assert "caching prefix" in text and "3/3" in text and "training" in text and "1/2" in text


def test_markup_in_messages_is_plain_text() -> None:
    text = shown(
        Log(level="warning", message="row [bold]7[/bold] was left out"),
        Error(what="The file [a] is missing.", next_step="Give [b]."),
        Checkpoint(step=3, path="x", reason="best"),
    )
    assert "row [bold]7[/bold] was left out" in text
    assert "Error: The file [a] is missing." in text and "Give [b]." in text
    assert "Checkpoint at step 3 (best)" in text


def test_informational_lines_can_be_left_out_but_no_warning() -> None:
    text = shown(Log(level="info", message="a"), Log(level="warning", message="b"), logs=False)
    assert text == "b\n"


def test_empty_denominators_read_not_available() -> None:
    values = {"refuse_recall": 0.5, "macro_f1": 0.25, "escalate_precision": None}
    text = shown(Metric(step=4, epoch=1.0, split="validation", values=dict(values)))
    assert "Refuse Recall 0.500" in text and "Escalate Precision n/a" in text
    report = {
        "name": "validation",
        "run": "r",
        "rows": 4,
        "metrics": {**values, "refuse_recall_low": 0.1, "refuse_recall_high": 0.9,
                    "refuse_recall_n": 2.0},
        "baselines": {"always_allow": {"refuse_recall": 0.0}},
    }  # fmt: skip
    stream = io.StringIO()
    console = Console(file=stream, width=100)
    console.print(metrics_table(report))
    console.print(confusion_table([[1, 0, 0], [0, 1, 0], [1, 0, 1]]))
    text = stream.getvalue()
    assert "0.10–0.90" in text and "n/a" in text and "Always ALLOW" in text
    assert "REFUSE" in text and "label \\ decision" in text
