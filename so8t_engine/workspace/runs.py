"""One training run on disk (torch-free).

``runs/<session id>/`` holds ``spec.json`` (frozen), ``samples.jsonl`` (the frozen data, splits
decided), ``policy.txt``, ``start/`` (the weights it began with, if with any), ``state.json``,
``events.jsonl``, ``log.txt``, ``rotations/``, ``checkpoints/`` and ``evaluations/``.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
import psutil
from msgspec import Struct

from so8t_engine.errors import WorkspaceError
from so8t_engine.events import AnyEvent, decode_event
from so8t_engine.samples.schema import Sample, decode_sample, encode_sample
from so8t_engine.specs import TrainSpec, encode_spec, load_spec
from so8t_engine.workspace.atomic import write_bytes, write_lines, write_text
from so8t_engine.workspace.starts import Start

RUN_ID = re.compile(r"\d{8}_\d{6}(_\d+)?")
ACTIVE_STATES = frozenset(("starting", "running", "paused", "stopping"))
FINAL_STATES = frozenset(("done", "cancelled", "failed", "crashed"))


class RunState(Struct, kw_only=True, omit_defaults=True):
    """What is known of a run's process.

    Attributes:
        state: queued, starting, running, paused, stopping, done, cancelled, failed or crashed.
        message: one sentence for the user.
        pid: process id of the job, 0 before it started.
        pid_started: when that process began, as :func:`process_start` says, so that a reused
            process id is never taken for the run.
        started: seconds since the epoch.
        ended: likewise, 0 while it goes on.
        step: last optimizer step that was reported.
        total_steps: steps of the whole run.
        best_step: step of the best checkpoint, -1 if there is none.
        metrics: last validation metrics by name.
        best_metrics: those of the best checkpoint.
    """

    state: str
    message: str = ""
    pid: int = 0
    pid_started: float = 0.0
    started: float = 0.0
    ended: float = 0.0
    step: int = 0
    total_steps: int = 0
    best_step: int = -1
    metrics: dict[str, float | None] = msgspec.field(default_factory=dict)
    best_metrics: dict[str, float | None] = msgspec.field(default_factory=dict)


class RunNotes(Struct, kw_only=True, omit_defaults=True, frozen=True):
    """What people wrote about a run; it changes nothing of the run itself.

    Attributes:
        note: free text.
        tags: short words.
        starred: marked as worth keeping.
    """

    note: str = ""
    tags: tuple[str, ...] = ()
    starred: bool = False


def process_start(pid: int) -> float:
    """Return when process ``pid`` began, in seconds; 0.0 if it is gone.

    On Linux these are seconds since the machine was started, as the kernel counts them: times
    since the epoch are derived from the wall clock there, and move whenever that is set.
    Elsewhere they are seconds since the epoch.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return 0.0
        return _ticks_since_boot(pid) or float(process.create_time())
    except psutil.Error:
        return 0.0


def _ticks_since_boot(pid: int) -> float:
    try:
        # Field 22; the name in brackets (field 2) may hold spaces and brackets itself.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0


class RunStore:
    """Paths and small files of one run. It holds no state of its own: the folder is the state."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def id(self) -> str:
        """The session id, ``YYYYMMDD_HHMMSS``."""
        return self.root.name

    @property
    def spec_path(self) -> Path:
        """The frozen specification."""
        return self.root / "spec.json"

    @property
    def samples_path(self) -> Path:
        """The frozen data snapshot, every row with its split."""
        return self.root / "samples.jsonl"

    @property
    def policy_path(self) -> Path:
        """The frozen policy text."""
        return self.root / "policy.txt"

    @property
    def start_dir(self) -> Path:
        """Frozen copy of the learned weights that training began with; absent if with none."""
        return self.root / "start"

    @property
    def events_path(self) -> Path:
        """All events of all processes of this run, in order."""
        return self.root / "events.jsonl"

    @property
    def log_path(self) -> Path:
        """What the process printed."""
        return self.root / "log.txt"

    @property
    def commands_path(self) -> Path:
        """Commands for a run whose stdin nobody holds, one a line."""
        return self.root / "commands.jsonl"

    @property
    def notes_path(self) -> Path:
        """Note, tags and star."""
        return self.root / "notes.json"

    @property
    def state_path(self) -> Path:
        """The small file behind :meth:`state`."""
        return self.root / "state.json"

    @property
    def rotations_dir(self) -> Path:
        """Recordings of the generators, ``step-00000120.safetensors``."""
        return self.root / "rotations"

    @property
    def checkpoints_dir(self) -> Path:
        """Complete checkpoints, ``step-00000120/``."""
        return self.root / "checkpoints"

    @property
    def evaluations_dir(self) -> Path:
        """Finished evaluations, ``<name>.json``."""
        return self.root / "evaluations"

    @classmethod
    def create(
        cls,
        runs_dir: Path,
        spec: TrainSpec,
        *,
        policy: str,
        samples: Iterable[Sample] = (),
        start: Start | None = None,
        now: dt.datetime | None = None,
    ) -> RunStore:
        """Make the folder of a new run, with a session id that no other run has.

        The folder appears under its name only when it is complete, so that nobody who lists runs
        meanwhile sees one without a state.

        Raises:
            WorkspaceError: if the folder cannot be made; nothing is then left behind.
        """
        moment = (now or dt.datetime.now()).strftime("%Y%m%d_%H%M%S")
        draft = cls(runs_dir / f".{moment}.{os.getpid()}.tmp")
        try:
            draft.root.mkdir(parents=True)
            write_bytes(draft.spec_path, encode_spec(spec))
            write_text(draft.policy_path, policy)
            draft.save_samples(samples)
            if start is not None:
                start.freeze(draft.start_dir)
            draft.save_state(RunState(state="queued"))
            return cls(cls._claim(draft.root, runs_dir / moment))
        except OSError as error:
            raise WorkspaceError(
                f"The run folder in {runs_dir} cannot be made: {error.strerror}.",
                next_step="Check that the folder may be written and the disk is not full.",
            ) from error
        finally:
            shutil.rmtree(draft.root, ignore_errors=True)

    @staticmethod
    def _claim(draft: Path, wanted: Path) -> Path:
        """Rename the draft to the first name that is free; a rename never replaces a run."""
        target, suffix = wanted, 1
        while True:
            if not target.exists():
                try:
                    draft.rename(target)
                except OSError:
                    if not target.exists():
                        raise
                else:
                    return target
            suffix += 1
            target = wanted.with_name(f"{wanted.name}_{suffix}")

    def spec(self) -> TrainSpec:
        """Return the frozen specification."""
        return load_spec(self.spec_path)

    def policy(self) -> str:
        """Return the frozen policy text."""
        return self.policy_path.read_text("utf-8") if self.policy_path.exists() else ""

    def save_samples(self, samples: Iterable[Sample]) -> None:
        """Freeze the data of this run."""
        write_lines(self.samples_path, (encode_sample(sample) for sample in samples))

    def samples(self) -> list[Sample]:
        """Return the frozen data."""
        with self.samples_path.open("rb") as stream:
            return [decode_sample(line) for line in stream if line.strip()]

    def data_fingerprint(self) -> str:
        """Return the first 8 hex digits of the SHA-256 of the frozen data, empty without data."""
        try:
            with self.samples_path.open("rb") as stream:
                return hashlib.file_digest(stream, "sha256").hexdigest()[:8]
        except OSError:
            return ""

    def size(self) -> int:
        """Return the bytes of everything in the folder."""
        total = 0
        for folder, _folders, names in os.walk(self.root):
            for name in names:
                try:
                    total += os.lstat(Path(folder) / name).st_size
                except OSError:  # it was pruned meanwhile
                    continue
        return total

    def notes(self) -> RunNotes:
        """Return what people wrote about this run; nothing where that cannot be read."""
        try:
            return msgspec.json.decode(self.notes_path.read_bytes(), type=RunNotes)
        except (OSError, msgspec.DecodeError):
            return RunNotes()

    def save_notes(self, notes: RunNotes) -> None:
        """Replace note, tags and star.

        Raises:
            OSError: if the disk is full or the folder not writable.
        """
        write_bytes(self.notes_path, msgspec.json.encode(notes) + b"\n")

    def save_state(self, state: RunState) -> None:
        """Replace the state file."""
        write_bytes(self.state_path, msgspec.json.encode(state) + b"\n")

    def state(self) -> RunState:
        """Return the state; an active state without a living process reads ``crashed``."""
        try:
            found = msgspec.json.decode(self.state_path.read_bytes(), type=RunState)
        except (OSError, msgspec.DecodeError):
            return RunState(state="crashed", message="The state of this run cannot be read.")
        if found.state in ACTIVE_STATES and not self.is_alive(found):
            found.state = "crashed"
            found.message = "The process of this run is gone; it can be resumed."
        return found

    @staticmethod
    def is_alive(state: RunState) -> bool:
        """Tell whether the process that wrote ``state`` still runs."""
        if not state.pid:
            return False
        if state.pid == os.getpid():
            return True
        return abs(process_start(state.pid) - state.pid_started) < 0.5

    def events(self) -> Iterator[AnyEvent]:
        """Yield the recorded events; damaged lines and unknown types are passed over."""
        if not self.events_path.exists():
            return
        with self.events_path.open("rb") as stream:
            for line in stream:
                try:
                    event = decode_event(line)
                except ValueError:
                    continue
                if event is not None:
                    yield event

    def checkpoints(self) -> list[Path]:
        """Return the checkpoint folders that have a manifest, oldest step first."""
        if not self.checkpoints_dir.is_dir():
            return []
        return sorted(
            path for path in self.checkpoints_dir.iterdir() if (path / "manifest.json").is_file()
        )

    def best_checkpoint(self) -> Path | None:
        """Return the folder that ``best.txt`` names, else the last complete one."""
        pointer = self.checkpoints_dir / "best.txt"
        if pointer.is_file():
            named = self.checkpoints_dir / pointer.read_text("utf-8").strip()
            if (named / "manifest.json").is_file():
                return named
        complete = self.checkpoints()
        return complete[-1] if complete else None

    def keeps_progress(self) -> bool:
        """Tell whether the last checkpoint holds what training needs to go on exactly."""
        complete = self.checkpoints()
        return bool(complete) and (complete[-1] / "optimizer.safetensors").is_file()

    def rotation_files(self) -> list[Path]:
        """Return the recordings of the generators, in step order."""
        return sorted(self.rotations_dir.glob("step-*.safetensors"))


def list_runs(runs_dir: Path) -> list[RunStore]:
    """Return all runs in a folder, newest first."""
    if not runs_dir.is_dir():
        return []
    found = [path for path in runs_dir.iterdir() if path.is_dir() and RUN_ID.fullmatch(path.name)]
    return [RunStore(path) for path in sorted(found, reverse=True)]
