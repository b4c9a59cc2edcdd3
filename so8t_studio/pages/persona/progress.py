"""How far a persona has come, read from its files (no Qt; called off the GUI thread)."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field

import msgspec

from so8t_engine.errors import So8tError
from so8t_engine.evaluation.metrics import Metrics, summarize_rows
from so8t_engine.evaluation.results import load_evaluation
from so8t_engine.events import Rotation
from so8t_engine.labels import Label
from so8t_engine.rotations.analysis import Timeline
from so8t_engine.samples.schema import Sample
from so8t_engine.workspace.personas import Persona
from so8t_engine.workspace.runs import ACTIVE_STATES, RunState, RunStore

MIN_ROWS_PER_LABEL = 5


@dataclass(frozen=True)
class DataFacts:
    """The dataset in numbers.

    Attributes:
        rows: number of samples.
        labels: number of samples by label.
        conflicts: number of questions that carry more than one label.
        error: why the dataset cannot be read, or empty.
    """

    rows: int = 0
    labels: dict[Label, int] = field(default_factory=dict)
    conflicts: int = 0
    error: str = ""

    @property
    def thin_labels(self) -> list[Label]:
        """Labels with fewer rows than a training can learn anything from."""
        return [label for label in Label if self.labels.get(label, 0) < MIN_ROWS_PER_LABEL]


@dataclass(frozen=True)
class RotationFacts:
    """What the last recording shows; angle in degrees.

    Attributes:
        step: optimizer step of the recording.
        gate: gate with the largest angle of R_safe.
        block: its block.
        angle: that angle in degrees.
        health: worst orthogonality or determinant error.
        error: why the recording cannot be read, or empty.
    """

    step: int = 0
    gate: str = ""
    block: int = 0
    angle: float = 0.0
    health: float = 0.0
    error: str = ""


@dataclass(frozen=True)
class Facts:
    """All that the steps of a persona say.

    Attributes:
        data: the dataset.
        newest: id of the newest run, whatever became of it, or empty.
        newest_state: its state.
        trained: id of the newest run with a complete checkpoint, or empty.
        stale: True if the dataset changed after that run froze it.
        rotations: its last recording; None where there is none.
        evaluation: name of its newest evaluation, or empty.
        metrics: the figures of that evaluation at the persona's operating point.
        chats: number of requests that were tried in chat on that run.
    """

    data: DataFacts
    newest: str = ""
    newest_state: RunState | None = None
    trained: str = ""
    stale: bool = False
    rotations: RotationFacts | None = None
    evaluation: str = ""
    metrics: Metrics | None = None
    chats: int = 0

    @property
    def training(self) -> bool:
        """True while the newest run goes on."""
        return self.newest_state is not None and self.newest_state.state in ACTIVE_STATES


def count_conflicts(samples: list[Sample]) -> int:
    """Return how many questions (context and request, normalised) carry different labels."""
    labels: dict[tuple[str, str], set[Label]] = defaultdict(set)
    for sample in samples:
        key = (
            " ".join(sample.context.casefold().split()),
            " ".join(sample.request.casefold().split()),
        )
        labels[key].add(sample.label)
    return sum(len(found) > 1 for found in labels.values())


def data_facts(samples: list[Sample]) -> DataFacts:
    """Return the numbers of a dataset."""
    return DataFacts(
        rows=len(samples),
        labels=dict(Counter(sample.label for sample in samples)),
        conflicts=count_conflicts(samples),
    )


def _read_data(persona: Persona) -> DataFacts:
    try:
        return data_facts(persona.load_samples())
    except (So8tError, OSError) as error:
        return DataFacts(error=str(error))


def _read_rotations(run: RunStore) -> RotationFacts | None:
    timeline = Timeline(run)
    if not timeline.steps:
        return None
    step = timeline.steps[-1]
    try:
        summary = timeline.summary(step)
    except So8tError as error:
        return RotationFacts(step=step, error=str(error))
    gate, block, angle = summary.largest()
    return RotationFacts(
        step=step,
        gate=gate,
        block=block,
        angle=math.degrees(angle),
        health=max(summary.orthogonality, summary.determinant, _reported_health(run)),
    )


def _reported_health(run: RunStore) -> float:
    """Return the worst float32 health that the training itself measured, 0.0 if it did not."""
    worst = 0.0
    for event in run.events():
        if isinstance(event, Rotation):
            worst = max(worst, event.max_orthogonality_error, event.max_determinant_error)
    return worst


def _read_evaluation(run: RunStore, persona: Persona) -> tuple[str, Metrics | None]:
    if not run.evaluations_dir.is_dir():
        return "", None
    files = sorted(
        run.evaluations_dir.glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True
    )
    for path in files:
        try:
            evaluation = load_evaluation(path)
        except (OSError, msgspec.DecodeError):
            continue
        return evaluation.name, summarize_rows(evaluation, persona.info.point)
    return "", None


def _count_chats(run: RunStore) -> int:
    path = run.root / "chat.jsonl"
    if not path.is_file():
        return 0
    with path.open("rb") as stream:
        return sum(1 for line in stream if line.strip())


def _is_stale(persona: Persona, run: RunStore) -> bool:
    """Tell whether the dataset was written after the run froze its snapshot."""
    try:
        return persona.dataset_path.stat().st_mtime > run.samples_path.stat().st_mtime
    except OSError:
        return False


def newest_state(persona: Persona) -> tuple[str, RunState | None]:
    """Return id and state of the newest run; quick enough to be asked every few seconds."""
    runs = persona.runs()
    return (runs[0].id, runs[0].state()) if runs else ("", None)


def gather(persona: Persona) -> Facts:
    """Read everything that the stepper shows. Takes tens of milliseconds, more for large data."""
    newest, state = newest_state(persona)
    facts = Facts(data=_read_data(persona), newest=newest, newest_state=state)
    trained = persona.latest_finished_run()
    if trained is None:
        return facts
    name, metrics = _read_evaluation(trained, persona)
    return Facts(
        data=facts.data,
        newest=facts.newest,
        newest_state=facts.newest_state,
        trained=trained.id,
        stale=_is_stale(persona, trained),
        rotations=_read_rotations(trained),
        evaluation=name,
        metrics=metrics,
        chats=_count_chats(trained),
    )
