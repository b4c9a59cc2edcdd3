"""One persona on disk: ``persona.toml``, ``dataset.jsonl`` and its runs (torch-free)."""

from __future__ import annotations

import datetime as dt
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import tomlkit
from msgspec import Struct
from tomlkit.exceptions import TOMLKitError

from so8t_engine.errors import DataError, WorkspaceError
from so8t_engine.samples.schema import Sample, decode_sample, encode_sample
from so8t_engine.verdict import OperatingPoint
from so8t_engine.workspace.atomic import write_lines, write_text
from so8t_engine.workspace.runs import RunStore, list_runs

_RESERVED = frozenset(
    ["con", "prn", "aux", "nul"]
    + [f"{port}{number}" for port in ("com", "lpt") for number in "0123456789¹²³"]
)
_MAX_SLUG_BYTES = 96


def slugify(name: str) -> str:
    """Return a folder name for ``name`` that Windows, Linux and macOS all accept.

    Letters and digits of any script stay; everything else becomes ``-``. Device names such as
    ``CON`` get a suffix, because Windows cannot create them.
    """
    text = unicodedata.normalize("NFKC", name).casefold()
    text = unicodedata.normalize("NFC", text)
    slug = re.sub(r"[\W_]+", "-", text).strip("-")
    while len(slug.encode()) > _MAX_SLUG_BYTES:
        slug = slug[:-1]
    slug = slug.rstrip("-")
    if not slug:
        return "persona"
    return f"{slug}-persona" if slug in _RESERVED else slug


class PersonaInfo(Struct, frozen=True, kw_only=True):
    """What ``persona.toml`` says.

    Attributes:
        name: shown in the window.
        description: one or two sentences for colleagues.
        policy: text of the system turn.
        base_model: ``default``, a local folder, or a hub id.
        created: ISO 8601, UTC.
        point: the operating point that turns probabilities into a verdict.
    """

    name: str
    description: str = ""
    policy: str = ""
    base_model: str = "default"
    created: str = ""
    point: OperatingPoint = OperatingPoint()


def now_iso() -> str:
    """Return the time in UTC, ISO 8601, to the second."""
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_info(text: str, source: str) -> PersonaInfo:
    """Read the text of a ``persona.toml``; unknown keys are kept in the file and ignored here.

    Raises:
        WorkspaceError: naming the line or the key that is wrong.
    """
    try:
        document: dict[str, Any] = tomlkit.parse(text.removeprefix("\ufeff")).unwrap()
        fields = {key: document[key] for key in PersonaInfo.__struct_fields__ if key in document}
        if "operating_point" in document:
            fields["point"] = document["operating_point"]
        return msgspec.convert(fields, PersonaInfo)
    except (TOMLKitError, msgspec.ValidationError) as error:
        raise WorkspaceError(
            f"{source} cannot be read: {error}.",
            next_step="Correct the file with a text editor, or restore it from a copy.",
        ) from error


def render_info(info: PersonaInfo, previous: str = "") -> str:
    """Return the text of ``persona.toml``; comments and unknown keys of ``previous`` stay."""
    document = tomlkit.parse(previous) if previous else tomlkit.document()
    values = msgspec.to_builtins(info)
    point = values.pop("point")
    for key, value in values.items():
        if document.get(key) != value:
            document[key] = tomlkit.string(value, multiline="\n" in value)
    table = document.get("operating_point")
    if not isinstance(table, dict):
        table = tomlkit.table()
        document["operating_point"] = table
    for key, value in point.items():
        if table.get(key) != value:
            table[key] = value
    return tomlkit.dumps(document)


class Persona:
    """Paths and small files of one persona. It holds no state: the folder is the state."""

    def __init__(self, root: Path, *, read_only: bool = False) -> None:
        self.root = root
        self.read_only = read_only

    def __repr__(self) -> str:
        return f"Persona({str(self.root)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Persona) and other.root == self.root

    def __hash__(self) -> int:
        return hash(self.root)

    @property
    def slug(self) -> str:
        """The folder's name: the stable identity in commands and scripts."""
        return self.root.name

    @property
    def info_path(self) -> Path:
        """``persona.toml``."""
        return self.root / "persona.toml"

    @property
    def dataset_path(self) -> Path:
        """``dataset.jsonl``, one sample a line; it may not exist yet."""
        return self.root / "dataset.jsonl"

    @property
    def journal_path(self) -> Path:
        """What was edited and not saved yet; exists only while there is such a thing."""
        return self.root / ".dataset.journal.jsonl"

    @property
    def runs_dir(self) -> Path:
        """Folder of the training runs."""
        return self.root / "runs"

    @property
    def snapshots_dir(self) -> Path:
        """Folder of the snapshots that were taken by hand."""
        return self.root / "snapshots"

    @property
    def info(self) -> PersonaInfo:
        """Read ``persona.toml``.

        Raises:
            WorkspaceError: if it is missing or damaged.
        """
        try:
            text = self.info_path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise WorkspaceError(
                f"{self.info_path} cannot be read: {error}.",
                next_step="Restore the file, or create the persona again.",
            ) from error
        return parse_info(text, str(self.info_path))

    @property
    def name(self) -> str:
        """The name to show; the folder's name where ``persona.toml`` is damaged."""
        try:
            return self.info.name
        except WorkspaceError:
            return self.slug

    def save(self, info: PersonaInfo) -> None:
        """Write ``persona.toml`` atomically; comments and unknown keys in it stay.

        Raises:
            WorkspaceError: if the workspace is open read-only or the name is empty.
        """
        self._require_writable()
        if not info.name.strip():
            raise WorkspaceError("A persona needs a name.", next_step="Type a name.")
        previous = self.info_path.read_text("utf-8") if self.info_path.exists() else ""
        write_text(self.info_path, render_info(info, previous))

    def load_samples(self) -> list[Sample]:
        """Return the dataset in file order; an absent file is an empty dataset.

        Raises:
            DataError: naming the first line that is no sample. The Dataset page opens such files
                all the same and lists the bad lines.
        """
        if not self.dataset_path.exists():
            return []
        samples: list[Sample] = []
        with self.dataset_path.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                if not line.strip():
                    continue
                try:
                    samples.append(decode_sample(line.removeprefix(b"\xef\xbb\xbf")))
                except (msgspec.DecodeError, UnicodeDecodeError) as error:
                    raise DataError(
                        f"{self.dataset_path}, line {number}: {error}.",
                        next_step="Run `so8t data check`, or open the Dataset page to repair it.",
                    ) from error
        return samples

    def save_samples(self, samples: Iterable[Sample]) -> None:
        """Replace the dataset atomically.

        Raises:
            WorkspaceError: if the workspace is open read-only.
            OSError: if the disk is full or the folder not writable; the old file is untouched.
        """
        self._require_writable()
        write_lines(self.dataset_path, (encode_sample(sample) for sample in samples))

    def runs(self) -> list[RunStore]:
        """Return all runs, newest first."""
        return list_runs(self.runs_dir)

    def latest_finished_run(self) -> RunStore | None:
        """Return the newest run that has a complete checkpoint."""
        return next((run for run in self.runs() if run.checkpoints()), None)

    def _require_writable(self) -> None:
        if self.read_only:
            raise WorkspaceError(
                "The workspace is open in another window, so this one only reads.",
                next_step="Close the other window and open the workspace again.",
            )
