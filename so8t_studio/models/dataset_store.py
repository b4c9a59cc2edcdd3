"""The one home of the open persona's samples: list, undo stack, journal, save."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter, itemgetter

import msgspec
from PySide6.QtCore import QObject, QTimer, Signal, Slot
from PySide6.QtGui import QUndoStack

from so8t_engine.errors import WorkspaceError
from so8t_engine.labels import LABELS, Label
from so8t_engine.samples.readers import Rejected, read_samples
from so8t_engine.samples.schema import Sample, decode_sample, encode_sample
from so8t_engine.workspace.atomic import write_lines
from so8t_engine.workspace.personas import Persona
from so8t_studio.models.journal import Journal, Recorded, content_hash, read_journal, set_aside
from so8t_studio.models.sample_list import Edit, SampleList

log = logging.getLogger(__name__)
_WARM_ROWS = 400
_label_of = attrgetter("label")


@dataclass(frozen=True)
class DatasetChange:
    """What happened to the samples.

    Attributes:
        kind: ``loaded`` (everything is new) or ``edited``.
        edit: what changed; None after a load.
        initiator: who asked for it, so that a widget can tell its own edits.
    """

    kind: str
    edit: Edit | None = None
    initiator: object = None


class DatasetChangedOnDisk(WorkspaceError):
    """Another program wrote the dataset since it was loaded."""


class DatasetStore(QObject):
    """Samples of the open persona. Mutations go through ``so8t_studio.commands`` only.

    Attributes:
        persona: whose dataset it is; None before the first load.
        undo_stack: every edit; its clean state is the file on disk.
        rejected: lines of the dataset file that are no samples; a save keeps them in
            ``dataset.rejected.jsonl``.
        recovered: number of edits that a crash had left unsaved and that were restored.
        set_aside: file name of a journal that no longer fits the dataset, or empty.
    """

    samples_changed = Signal(object)
    """DatasetChange."""
    modified_changed = Signal(bool)
    """There are unsaved edits, or no longer."""
    saved = Signal()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.persona: Persona | None = None
        self.rejected: list[Rejected] = []
        self.recovered = 0
        self.set_aside = ""
        self.undo_stack = QUndoStack(self)
        self.undo_stack.cleanChanged.connect(self._on_clean_changed)
        self._list = SampleList()
        self._labels: Counter[Label] = Counter()
        self._journal: Journal | None = None
        self._disk_hash = ""
        self._initiator: object = None
        # Search texts are folded in small pieces between events, so that the first search is fast.
        self._warming = QTimer(self)
        self._warming.setInterval(0)
        self._warming.timeout.connect(self._on_warming)
        self.samples_changed.connect(self._start_warming)

    # Reading

    @property
    def samples(self) -> Sequence[Sample]:
        """All samples in file order; do not change the list."""
        return self._list.rows

    @property
    def texts(self) -> Sequence[str]:
        """The folded search text of each row, in the same order."""
        return self._list.texts

    @property
    def rows(self) -> SampleList:
        """The list behind the store, for building edits; only commands may apply them."""
        return self._list

    @property
    def modified(self) -> bool:
        """True while there are edits that are not in the file."""
        return not self.undo_stack.isClean()

    @property
    def read_only(self) -> bool:
        """True if the workspace is open elsewhere, or nothing is loaded."""
        return self.persona is None or self.persona.read_only

    def __len__(self) -> int:
        return len(self._list)

    def sample(self, sample_id: str) -> Sample | None:
        """Return the sample with this identifier."""
        return self._list.get(sample_id)

    def label_counts(self) -> dict[Label, int]:
        """Return the number of rows per label, all labels included."""
        return {label: self._labels[label] for label in LABELS}

    @property
    def journal_failure(self) -> str:
        """Why unsaved edits cannot be kept on disk, or an empty text."""
        return self._journal.failure if self._journal is not None else ""

    # Loading and saving

    def load(self, persona: Persona) -> None:
        """Show the dataset of ``persona``; edits that a crash left unsaved are restored.

        Raises:
            DataError: if the file is no dataset at all. The store keeps what it had.
            OSError: if it cannot be read.
        """
        samples, rejected, digest = _read(persona)
        if self._journal is not None:
            self._journal.close()
        self.persona = persona
        self.rejected = rejected
        self.recovered, self.set_aside = 0, ""
        self._disk_hash = digest
        self._list = SampleList.of(samples)
        self._labels = Counter(sample.label for sample in samples)
        self.undo_stack.clear()
        self.undo_stack.setClean()
        self._journal = None
        edits = [] if persona.read_only else self._left_over(persona, digest)
        if not persona.read_only:
            self._journal = Journal(persona.journal_path, digest)
        self.samples_changed.emit(DatasetChange("loaded"))
        if edits:
            self._recover(edits)

    def reload(self) -> None:
        """Load the file again and drop unsaved edits."""
        if self.persona is not None:
            if self._journal is not None:
                self._journal.clear()
            self.load(self.persona)

    def save(self, *, overwrite: bool = False) -> None:
        """Write the dataset atomically; does nothing when there are no edits.

        Args:
            overwrite: also if another program changed the file meanwhile.

        Raises:
            DatasetChangedOnDisk: if another program changed the file.
            WorkspaceError: if the workspace is read-only or the disk refuses.
        """
        persona = self.persona
        if persona is None or (not self.modified and not self.rejected):
            return
        if persona.read_only:
            raise WorkspaceError(
                "The workspace is open in another window, so this one only reads.",
                next_step="Close the other window and open the workspace again.",
            )
        try:
            if not overwrite and _hash_on_disk(persona) != self._disk_hash:
                raise DatasetChangedOnDisk(
                    f"{persona.dataset_path.name} was changed by another program.",
                    next_step="Overwrite it, or reload it and lose the edits made here.",
                )
            lines = [encode_sample(sample) for sample in self._list.rows]
            digest = content_hash(lines)
            self._keep_rejected(persona)
            if self._journal is not None:
                self._journal.rebase(digest)
            write_lines(persona.dataset_path, lines)
        except OSError as error:
            raise WorkspaceError(
                f"The dataset cannot be saved: {error.strerror or error}.",
                next_step="Free some space or check the permissions; nothing was lost.",
            ) from error
        self._disk_hash = digest
        if self._journal is not None:
            self._journal.clear()
        self._journal = Journal(persona.journal_path, digest)
        self.rejected = []
        self.undo_stack.setClean()
        self.saved.emit()

    def close(self) -> None:
        """End the journal's thread; unsaved edits stay in the journal."""
        self._warming.stop()
        # Its destructor clears it and would signal pages that ask it back while it goes.
        self.undo_stack.blockSignals(True)
        if self._journal is not None:
            self._journal.close()

    def flush_journal(self) -> None:
        """Wait until all edits so far are in the journal on disk."""
        if self._journal is not None:
            self._journal.flush()

    def _left_over(self, persona: Persona, digest: str) -> list[Recorded]:
        if not persona.journal_path.exists():
            return []
        edits = read_journal(persona.journal_path, digest)
        if edits is None:
            self.set_aside = set_aside(persona.journal_path).name
            log.warning("Unsaved edits do not fit the dataset; kept as %s", self.set_aside)
            return []
        return edits

    def _recover(self, edits: list[Recorded]) -> None:
        """Put edits of a crashed window back as one undoable step."""
        from so8t_studio.commands.dataset import push_recovered

        result = SampleList.of(self._list.rows)
        done = 0
        for edit in edits:
            try:
                result.apply(edit.edit(result))
            except (KeyError, ValueError, IndexError):
                log.warning("Unsaved edit %d of %d does not fit; stopped there", done, len(edits))
                break
            done += 1
        # The journal goes on from here; its edits would otherwise be replayed twice.
        if self._journal is not None:
            self._journal.clear()
        if done and push_recovered(self, result.rows):
            self.recovered = done

    def _keep_rejected(self, persona: Persona) -> None:
        """Put lines that are no samples into a file of their own before the dataset loses them."""
        if not self.rejected:
            return
        path = persona.root / "dataset.rejected.jsonl"
        before = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        known = set(before)
        added = [msgspec.json.encode(row) + b"\n" for row in self.rejected]
        write_lines(path, [*before, *(line for line in added if line not in known)])

    # Mutation: called by commands

    def apply(self, edit: Edit) -> None:
        """Carry out an edit and announce it. Only undo commands call this."""
        if self.read_only:
            raise WorkspaceError("The workspace is open in another window, so this one only reads.")
        self._list.apply(edit)
        # Counting first is done in C; subtract() and update() then see three labels.
        for rows, place, count in (
            (edit.removed, 1, self._labels.subtract), (edit.changed, 0, self._labels.subtract),
            (edit.changed, 1, self._labels.update), (edit.inserted, 1, self._labels.update),
        ):  # fmt: skip
            count(Counter(map(_label_of, map(itemgetter(place), rows))))
        if self._journal is not None:
            self._journal.append(edit)
        self.samples_changed.emit(DatasetChange("edited", edit, self._initiator))

    def announce_as(self, initiator: object) -> None:
        """Name who asks for the edits that follow; None ends that."""
        self._initiator = initiator

    @Slot(object)
    def _start_warming(self, _change: object) -> None:
        self._warming.start()

    @Slot()
    def _on_warming(self) -> None:
        if not self._list.warm(_WARM_ROWS):
            self._warming.stop()

    @Slot(bool)
    def _on_clean_changed(self, clean: bool) -> None:
        self.modified_changed.emit(not clean)


def _hash_on_disk(persona: Persona) -> str:
    try:
        with persona.dataset_path.open("rb") as stream:
            return content_hash(iter(lambda: stream.read(1 << 20), b""))
    except FileNotFoundError:
        return content_hash(())


def _read(persona: Persona) -> tuple[list[Sample], list[Rejected], str]:
    """Read the dataset; the careful reader is asked only where a line is no plain sample."""
    path = persona.dataset_path
    if not path.exists():
        return [], [], content_hash(())
    raw = path.read_bytes()
    digest = content_hash((raw,))
    try:
        samples = [decode_sample(line) for line in raw.split(b"\n") if line.strip()]
        if len({sample.id for sample in samples}) == len(samples):
            return samples, [], digest
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    if not raw.strip():
        return [], [], digest
    result = read_samples(path)
    return result.samples, result.rejected, digest
