"""What a person at a terminal sees of a job: progress bars, one line a finding, tables."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich import progress as bars
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from so8t_engine.evaluation.baselines import BASELINE_TITLES
from so8t_engine.evaluation.metrics import HEADLINE_METRICS, METRIC_NAMES
from so8t_engine.events import (
    Checkpoint,
    Error,
    Event,
    Log,
    Metric,
    Progress,
    Rotation,
    number_from_wire,
)
from so8t_engine.labels import LABELS

METRIC_TITLES: dict[str, str] = {
    "refuse_recall": "Refuse Recall",
    "escalate_precision": "Escalate Precision",
    "allow_precision": "Allow Precision",
    "escalate_recall": "Escalate Recall",
    "false_refusal_rate": "False refusals",
    "dangerous_allow_rate": "Dangerous allows",
    "macro_f1": "Macro-F1",
    "accuracy": "Accuracy",
}
_PLAIN_EVERY_SECONDS = 5.0


def stderr_console() -> Console:
    """Return a console on stderr, so that stdout carries nothing but results."""
    return Console(stderr=True, highlight=False)


def show_error(console: Console, error: Error) -> None:
    """Print what failed, why, and what to do next; never a traceback."""
    console.print(f"[bold red]Error:[/] {escape(error.what)}")
    for text in (error.why, error.next_step):
        if text:
            console.print(escape(text), markup=True)


class ConsoleSink:
    """Shows events as progress bars on a terminal, or as a line now and then in a log.

    Use as a context manager; the bars end with the block. ``logs=False`` leaves out
    informational lines.
    """

    def __init__(self, console: Console | None = None, *, logs: bool = True) -> None:
        self.console = console or stderr_console()
        self.rotation: Rotation | None = None
        self._logs = logs
        self._bars: bars.Progress | None = None
        self._tasks: dict[str, bars.TaskID] = {}
        self._plain: dict[str, tuple[float, float]] = {}

    def __enter__(self) -> ConsoleSink:
        if self.console.is_terminal:
            self._bars = bars.Progress(
                bars.TextColumn("{task.description:<16}"),
                bars.BarColumn(),
                bars.MofNCompleteColumn(),
                bars.TimeElapsedColumn(),
                bars.TimeRemainingColumn(),
                bars.TextColumn("{task.fields[note]}"),
                console=self.console,
                transient=False,
            )
            self._bars.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
            self._tasks.clear()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        if isinstance(event, Progress):
            self._on_progress(event)
        elif isinstance(event, Log) and (self._logs or event.level in ("warning", "error")):
            style = {"warning": "yellow", "error": "red"}.get(event.level, "dim")
            self.console.print(f"[{style}]{escape(event.message)}[/]")
        elif isinstance(event, Error):
            show_error(self.console, event)
        elif isinstance(event, Metric) and event.split == "validation" and event.step:
            self._on_validation(event)
        elif isinstance(event, Checkpoint):
            self.console.print(f"[dim]Checkpoint at step {event.step} ({escape(event.reason)})[/]")
        elif isinstance(event, Rotation):
            self.rotation = event

    def _on_progress(self, event: Progress) -> None:
        scale = (1 << 20) if event.unit == "bytes" else 1
        done, total = event.done / scale, event.total / scale
        if self._bars is None:
            self._plain_progress(event, done, total)
            return
        task = self._tasks.get(event.phase)
        if task is None:
            task = self._bars.add_task(event.phase, total=round(total) or None, note="")
            self._tasks[event.phase] = task
        unit = "MiB" if event.unit == "bytes" else event.unit
        note = event.message or (unit if total > 1 else "")
        self._bars.update(task, completed=round(done), total=round(total) or None, note=note)

    def _plain_progress(self, event: Progress, done: float, total: float) -> None:
        now = time.monotonic()
        last, at = self._plain.get(event.phase, (-1.0, -1e9))
        finished = done >= total
        if (finished and last >= total) or (not finished and now - at < _PLAIN_EVERY_SECONDS):
            return
        self._plain[event.phase] = (done, now)
        unit = "MiB" if event.unit == "bytes" else event.unit
        eta = f", {event.eta_s:.0f} s left" if event.eta_s and not finished else ""
        note = f" {event.message}" if event.message else ""
        self.console.print(f"{event.phase}: {done:.0f}/{total:.0f} {unit}{eta}{escape(note)}")

    def _on_validation(self, event: Metric) -> None:
        parts = []
        for name in (*HEADLINE_METRICS, "macro_f1"):
            value = number_from_wire(event.values.get(name))
            parts.append(f"{METRIC_TITLES[name]} {'n/a' if value is None else f'{value:.3f}'}")
        self.console.print(f"step {event.step}: {', '.join(parts)}")


def format_value(values: Mapping[str, Any], name: str) -> str:
    """Return a metric as ``0.912``, or ``n/a`` for an empty denominator."""
    value = values.get(name)
    return "n/a" if value is None else f"{value:.3f}"


def format_interval(values: Mapping[str, Any], name: str) -> str:
    """Return the 95 % interval of a metric as ``0.84–0.96``, or nothing."""
    low, high = values.get(f"{name}_low"), values.get(f"{name}_high")
    return "" if low is None or high is None else f"{low:.2f}–{high:.2f}"


def format_count(values: Mapping[str, Any], name: str) -> str:
    """Return the number of samples below the line of a metric."""
    count = values.get(f"{name}_n")
    return "" if count is None else f"{count:.0f}"


def stdout_console() -> Console:
    """Return a console on stdout; wide where a file or a pipe has no width of its own."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=120)


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)


def metrics_table(report: Mapping[str, Any]) -> Table:
    """Return the figures of an evaluation report beside those of its baselines."""
    values, baselines = report["metrics"], report["baselines"]
    table = _table(f"{report['name']}: {report['rows']} rows")
    table.add_column("metric")
    table.add_column("trained" if report["run"] != "base" else "base", justify="right")
    table.add_column("95 % interval", justify="right")
    table.add_column("of", justify="right")
    for name in baselines:
        table.add_column(BASELINE_TITLES.get(name, name), justify="right")
    for name in METRIC_NAMES:
        table.add_row(
            METRIC_TITLES[name],
            format_value(values, name),
            format_interval(values, name),
            format_count(values, name),
            *(format_value(baselines[baseline], name) for baseline in baselines),
            style="bold" if name in HEADLINE_METRICS else "",
        )
    return table


def confusion_table(confusion: Sequence[Sequence[int]]) -> Table:
    """Return the confusion matrix: rows are the truth, columns the decision."""
    table = _table("Confusion")
    table.add_column("label \\ decision")
    for label in LABELS:
        table.add_column(label.value, justify="right")
    for label, row in zip(LABELS, confusion, strict=True):
        table.add_row(label.value, *(str(count) for count in row))
    return table


def verdict_line(row: Mapping[str, Any]) -> str:
    """Return a decision with its probabilities as one line of markup."""
    colour = {"ALLOW": "green", "ESCALATE": "yellow", "REFUSE": "red"}[row["label"]]
    figures = (
        f"allow {row['p_allow']:.2f}  escalate {row['p_escalate']:.2f}  "
        f"refuse {row['p_refuse']:.2f}"
    )
    note = f"  ({escape(row['reason'])})" if row["reason"] else ""
    cut = "  [dim]the request was cut[/]" if row["truncated"] else ""
    return f"[bold {colour}]{row['label']:<8}[/]  {figures}{note}{cut}"
