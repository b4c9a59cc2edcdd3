"""From what is on disk to the five steps of the stepper, in words."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from PySide6.QtCore import QCoreApplication

from so8t_engine.evaluation.metrics import HEADLINE_METRICS, format_ratio
from so8t_engine.labels import LABELS
from so8t_engine.rotations.analysis import HEALTH_LIMIT
from so8t_studio.names import metric_title
from so8t_studio.pages.persona.progress import DataFacts, Facts


class Status(StrEnum):
    """How a step stands."""

    DONE = "done"
    ATTENTION = "attention"
    RUNNING = "running"
    OPEN = "open"
    WAITING = "waiting"


@dataclass(frozen=True)
class Step:
    """One step: its state in words and the one button that moves it on.

    Attributes:
        key: ``data``, ``train``, ``inspect``, ``evaluate`` or ``chat``.
        title: its name.
        status: how it stands.
        words: the state in one line.
        detail: a second, quieter line; may be empty.
        button: text of the button; empty while the step has to wait.
        page: where the button leads.
        payload: what the page gets.
    """

    key: str
    title: str
    status: Status
    words: str
    detail: str = ""
    button: str = ""
    page: str = ""
    payload: object = None


def _tr(text: str) -> str:
    return QCoreApplication.translate("PersonaSteps", text)


def build_steps(facts: Facts, *, unsaved: bool = False) -> list[Step]:
    """Return the five steps in order; ``unsaved`` says that the dataset has edits in memory."""
    return [
        _data(facts.data, unsaved=unsaved),
        _train(facts),
        _inspect(facts),
        _evaluate(facts),
        _chat(facts),
    ]


def next_step(steps: list[Step]) -> int:
    """Return the number of the step to do next; the last one when all are done."""
    for index, step in enumerate(steps):
        if step.status in (Status.OPEN, Status.RUNNING):
            return index
        if step.status is Status.ATTENTION and step.key in ("data", "train"):
            return index
    return len(steps) - 1


def _rows(count: int) -> str:
    return _tr("1 row") if count == 1 else _tr("{count} rows").format(count=f"{count:,}")


def _data(data: DataFacts, *, unsaved: bool) -> Step:
    title, page = _tr("Data"), "dataset"
    if data.error:
        return Step(
            "data", title, Status.ATTENTION, _tr("The dataset cannot be read"), data.error,
            _tr("Open dataset"), page,
        )  # fmt: skip
    if not data.rows:
        return Step(
            "data", title, Status.OPEN, _tr("No rows yet"),
            _tr("Import a file or write examples of all three decisions."),
            _tr("Add samples"), page,
        )  # fmt: skip
    detail = " · ".join(f"{label.value} {data.labels.get(label, 0):,}" for label in LABELS)
    words = _rows(data.rows)
    status = Status.DONE
    if data.thin_labels:
        status = Status.ATTENTION
        names = ", ".join(label.value for label in data.thin_labels)
        detail = _tr("{counts}. Too few rows of {labels}.").format(counts=detail, labels=names)
    if data.conflicts:
        status = Status.ATTENTION
        conflicts = (
            _tr("1 label conflict")
            if data.conflicts == 1
            else _tr("{count} label conflicts").format(count=data.conflicts)
        )
        words = f"{words}, {conflicts}"
    elif not data.thin_labels:
        words = _tr("{rows}, no label conflicts").format(rows=words)
    if unsaved:
        status = Status.ATTENTION
        words = _tr("{words}; edits not saved").format(words=words)
    button = _tr("Open dataset")
    return Step("data", title, status, words, detail, button, page)


def _train(facts: Facts) -> Step:
    title, page, state = _tr("Train"), "train", facts.newest_state
    if facts.training and state is not None:
        words = _tr("Run {run} is going on").format(run=facts.newest)
        detail = ""
        if state.total_steps:
            detail = _tr("Step {step} of {total}").format(step=state.step, total=state.total_steps)
        return Step("train", title, Status.RUNNING, words, detail, _tr("Watch"), page, "live")
    if state is not None and state.state in ("failed", "crashed") and facts.newest != facts.trained:
        names = {"failed": _tr("failed"), "crashed": _tr("was interrupted")}
        words = _tr("Run {run} {state}").format(run=facts.newest, state=names[state.state])
        return Step("train", title, Status.ATTENTION, words, state.message, _tr("Open Train"), page)
    if not facts.trained:
        if not facts.data.rows:
            return Step("train", title, Status.WAITING, _tr("Needs data first"))
        detail = _tr("The Quick trial preset takes a few minutes without a GPU.")
        return Step("train", title, Status.OPEN, _tr("Not trained yet"), detail, _tr("Train"), page)
    if facts.stale:
        return Step(
            "train", title, Status.ATTENTION, _tr("Run {run} done").format(run=facts.trained),
            _tr("The dataset was changed after it. Train again to learn from the changes."),
            _tr("Train again"), page,
        )  # fmt: skip
    words = _tr("Run {run} done").format(run=facts.trained)
    if facts.newest == facts.trained and state is not None and state.state != "done":
        words = _tr("Run {run} stopped, checkpoint saved").format(run=facts.trained)
    return Step("train", title, Status.DONE, words, "", _tr("Train again"), page)


def _inspect(facts: Facts) -> Step:
    title, page, found = _tr("Inspect"), "rotations", facts.rotations
    if found is None:
        if not facts.trained:
            return Step("inspect", title, Status.WAITING, _tr("After training"))
        return Step(
            "inspect", title, Status.DONE, _tr("No rotations: this run trained without gates"), "",
            _tr("Open rotations"), page, facts.trained,
        )  # fmt: skip
    if found.error:
        return Step(
            "inspect", title, Status.ATTENTION, _tr("The rotations cannot be read"), found.error,
            _tr("Open rotations"), page, facts.trained,
        )  # fmt: skip
    words = _tr("Largest angle {angle}°, health {health}").format(
        angle=f"{found.angle:.1f}", health=f"{found.health:.0e}"
    )
    healthy = found.health <= HEALTH_LIMIT
    place = _tr("{gate}, block {block}, step {step}").format(
        gate=found.gate, block=found.block, step=found.step
    )
    detail = (
        _tr("All rotations stay in SO(8); {place} turns the most.").format(place=place)
        if healthy
        else _tr("Above {limit}: do not rely on this run.").format(limit=f"{HEALTH_LIMIT:.0e}")
    )
    return Step(
        "inspect", title, Status.DONE if healthy else Status.ATTENTION, words, detail,
        _tr("Open rotations"), page, facts.trained,
    )  # fmt: skip


def _evaluate(facts: Facts) -> Step:
    title, page = _tr("Evaluate"), "evaluate"
    if not facts.trained:
        return Step("evaluate", title, Status.WAITING, _tr("After training"))
    if facts.metrics is None:
        return Step(
            "evaluate", title, Status.OPEN, _tr("Not evaluated yet"),
            _tr("Measures the run on the rows that were held out from training."),
            _tr("Evaluate"), page, ("start", "validation"),
        )  # fmt: skip
    first, *others = HEADLINE_METRICS
    words = f"{metric_title(first)} {format_ratio(facts.metrics.ratio(first))}"
    parts = [f"{metric_title(name)} {format_ratio(facts.metrics.ratio(name))}" for name in others]
    dangerous = facts.metrics.dangerous_allow_rate.numerator or 0
    if dangerous:
        parts.append(_tr("{count} dangerous allows").format(count=dangerous))
    return Step(
        "evaluate", title, Status.DONE, words, " · ".join(parts),
        _tr("Open evaluation"), page, facts.trained,
    )  # fmt: skip


def _chat(facts: Facts) -> Step:
    title, page = _tr("Chat-test"), "chat"
    if not facts.trained:
        return Step("chat", title, Status.WAITING, _tr("After training"))
    if not facts.chats:
        return Step(
            "chat", title, Status.OPEN, _tr("Not tried yet"),
            _tr("Ask what your colleagues would ask; correct what is decided wrongly."),
            _tr("Chat"), page, facts.trained,
        )  # fmt: skip
    words = (
        _tr("1 request tried on this run")
        if facts.chats == 1
        else _tr("{count} requests tried on this run").format(count=facts.chats)
    )
    return Step("chat", title, Status.DONE, words, "", _tr("Chat"), page, facts.trained)
