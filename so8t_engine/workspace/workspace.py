"""A workspace: a folder of personas in plain files (torch-free)."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
import time
import unicodedata
from pathlib import Path

import msgspec
import platformdirs
import tomlkit
from tomlkit.exceptions import TOMLKitError

from so8t_engine.errors import WorkspaceError
from so8t_engine.resources import resource_root
from so8t_engine.workspace.atomic import fsync_folder, write_text
from so8t_engine.workspace.lock import Owner, WriterLock
from so8t_engine.workspace.personas import Persona, PersonaInfo, now_iso, slugify
from so8t_engine.workspace.runs import ACTIVE_STATES, RunStore
from so8t_engine.workspace.trash import move_to_trash

WORKSPACE_VERSION = 1
STARTER = "office-assistant"


def shipped_persona() -> Persona:
    """Return the starter persona as it ships; its files are never written to."""
    return Persona(resource_root() / "personas" / STARTER, read_only=True)


def shipped_run() -> RunStore:
    """Return the run that ships with the starter persona, without the data it shares with it.

    Raises:
        So8tError: if the installation is incomplete.
    """
    found = shipped_persona().runs()
    if not found:
        raise WorkspaceError(
            "The learned weights of the starter persona are missing.",
            next_step="Install the package again.",
        )
    return found[0]


def _install_run(run: RunStore, persona: Persona) -> None:
    """Give a new starter persona the run that trained its weights, complete with its data."""
    target = RunStore(persona.runs_dir / run.id)
    shutil.copytree(run.root, target.root)
    shutil.copyfile(persona.dataset_path, target.samples_path)


def default_workspace() -> Path:
    """Return ``$SO8T_WORKSPACE``, or the folder ``SO8T`` in the user's documents."""
    named = os.environ.get("SO8T_WORKSPACE", "").strip()
    return Path(named).expanduser() if named else Path(platformdirs.user_documents_dir()) / "SO8T"


class Workspace:
    """An open workspace. Use :meth:`open`; close it to let another window write.

    Attributes:
        root: its folder, absolute.
        read_only: True if another window holds the writer's lock or the folder is not writable.
    """

    def __init__(self, root: Path, *, read_only: bool, lock: WriterLock | None = None) -> None:
        self.root = root
        self.read_only = read_only
        self._lock = lock

    @classmethod
    def open(cls, root: Path, *, create: bool = True, exclusive: bool = True) -> Workspace:
        """Open the workspace in ``root``.

        Args:
            root: its folder.
            create: make the folder if it is missing.
            exclusive: take the writer's lock (windows and commands that edit). Jobs, which only
                write into their own run's folder, open without it.

        Raises:
            WorkspaceError: if it is missing, not a folder, or of a newer version.
        """
        root = root.expanduser().absolute()
        marker = root / "workspace.toml"
        try:
            if create:
                (root / "personas").mkdir(parents=True, exist_ok=True)
            elif not (root / "personas").is_dir():
                raise WorkspaceError(
                    f"There is no workspace in {root}.",
                    next_step="Choose another folder, or create one with `so8t quickstart`.",
                )
        except OSError as error:
            if not (root / "personas").is_dir():
                raise WorkspaceError(
                    f"The workspace folder {root} cannot be created: {error.strerror}.",
                    next_step="Choose a folder in which you may write.",
                ) from error
        _check_version(marker)
        lock, read_only = None, False
        if exclusive:
            lock = WriterLock(root)
            owner = Owner(pid=os.getpid(), host=socket.gethostname(), since=time.time())
            if not lock.acquire(owner):
                lock, read_only = None, True
        if not read_only and not marker.exists():
            write_text(marker, f"version = {WORKSPACE_VERSION}\n")
        return cls(root, read_only=read_only, lock=lock)

    def close(self) -> None:
        """Give the writer's lock back; the object must not be used to write afterwards."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None
            self.read_only = True

    def __enter__(self) -> Workspace:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    @property
    def personas_dir(self) -> Path:
        """Folder of the personas."""
        return self.root / "personas"

    def lock_owner(self) -> Owner | None:
        """Return who may write, as far as that is known; for messages."""
        return WriterLock(self.root).owner()

    def personas(self) -> list[Persona]:
        """Return all personas, sorted by name; also those whose ``persona.toml`` is damaged."""
        found = [
            Persona(path, read_only=self.read_only)
            for path in self.personas_dir.iterdir()
            if not path.name.startswith(".") and (path / "persona.toml").is_file()
        ]
        return sorted(found, key=lambda persona: (persona.name.casefold(), persona.slug))

    def persona(self, slug: str) -> Persona:
        """Return the persona in folder ``slug``.

        Raises:
            WorkspaceError: if there is none; names the ones that exist.
        """
        folder = self.personas_dir / slug
        plain = slug not in ("", ".", "..") and not any(sign in slug for sign in "/\\:\0")
        inside = plain and folder.resolve().parent == self.personas_dir.resolve()
        if not inside or not (folder / "persona.toml").is_file():
            known = ", ".join(persona.slug for persona in self.personas())
            raise WorkspaceError(
                f"There is no persona {slug!r} in {self.root}.",
                next_step=f"Use one of: {known}." if known else "Create a persona first.",
            )
        return Persona(folder, read_only=self.read_only)

    def create_persona(self, name: str, *, template: Path | None = None) -> Persona:
        """Create a persona, empty or from the ``persona.toml`` and ``dataset.jsonl`` in a folder.

        Raises:
            WorkspaceError: if the name is empty, the template incomplete, or nothing can be
                written. Nothing is left behind then.
        """
        name = unicodedata.normalize("NFC", name).strip()
        if not name:
            raise WorkspaceError("A persona needs a name.", next_step="Type a name.")
        info = PersonaInfo(name=name)
        if template is not None:
            info = Persona(template).info
        info = msgspec.structs.replace(info, name=name, created=now_iso())
        return self._build(slugify(name), info, template)

    def ensure_starter(self) -> Persona:
        """Return the starter persona; it is created from the shipped files where it is absent."""
        if (self.personas_dir / STARTER / "persona.toml").is_file():
            return self.persona(STARTER)
        shipped = shipped_persona()
        info = msgspec.structs.replace(shipped.info, created=now_iso())
        return self._build(STARTER, info, shipped.root, run=shipped_run())

    def duplicate(self, slug: str, new_name: str) -> Persona:
        """Copy policy, settings and dataset (not the runs) of a persona under a new name."""
        return self.create_persona(new_name, template=self.persona(slug).root)

    def rename(self, slug: str, new_name: str) -> Persona:
        """Change a persona's name. The folder keeps its name: runs and scripts refer to it."""
        persona = self.persona(slug)
        name = unicodedata.normalize("NFC", new_name).strip()
        persona.save(msgspec.structs.replace(persona.info, name=name))
        return persona

    def delete(self, slug: str) -> Path:
        """Move a persona with all its runs to the trash and return where it lies.

        Raises:
            WorkspaceError: if a run of it is going on, or the workspace is read-only.
        """
        self._require_writable()
        persona = self.persona(slug)
        active = [run.id for run in persona.runs() if run.state().state in ACTIVE_STATES]
        if active:
            raise WorkspaceError(
                f"{persona.name} is being trained (run {active[0]}).",
                next_step="Stop the run first.",
            )
        return move_to_trash(self.root, persona.root)

    def _build(
        self, slug: str, info: PersonaInfo, template: Path | None, *, run: RunStore | None = None
    ) -> Persona:
        """Prepare the folder under a hidden name and rename it: it exists complete or not."""
        self._require_writable()
        try:
            building = Path(tempfile.mkdtemp(prefix=".new-", dir=self.personas_dir))
        except OSError as error:
            raise WorkspaceError(
                f"A persona cannot be created in {self.personas_dir}: {error.strerror}.",
                next_step="Check the permissions and the free space of the disk.",
            ) from error
        try:
            building.chmod(0o755)
            if template is not None:
                for name in ("persona.toml", "dataset.jsonl"):
                    if (template / name).is_file():
                        shutil.copyfile(template / name, building / name)
            Persona(building).save(info)
            if run is not None:
                _install_run(run, Persona(building))
            while True:
                target = self._free_folder(slug)
                with contextlib.suppress(FileExistsError):
                    building.rename(target)
                    break
            fsync_folder(self.personas_dir)
        except OSError as error:
            raise WorkspaceError(
                f"The persona {info.name} cannot be written: {error.strerror}.",
                next_step="Check the permissions and the free space of the disk.",
            ) from error
        finally:
            shutil.rmtree(building, ignore_errors=True)
        return Persona(target)

    def _free_folder(self, slug: str) -> Path:
        """Return the folder ``slug``, or ``slug-2`` … if a folder differs from it by case only."""
        taken = {
            unicodedata.normalize("NFC", path.name).casefold()
            for path in self.personas_dir.iterdir()
        }
        candidate, number = slug, 2
        while candidate in taken:
            candidate = f"{slug}-{number}"
            number += 1
        return self.personas_dir / candidate

    def _require_writable(self) -> None:
        if self.read_only:
            owner = self.lock_owner()
            who = f" (process {owner.pid} on {owner.host})" if owner else ""
            raise WorkspaceError(
                f"The workspace {self.root} is open in another window{who}; this one only reads.",
                next_step="Close the other window and open the workspace again.",
            )


def _check_version(marker: Path) -> None:
    """Refuse a workspace that a newer program wrote."""
    if not marker.is_file():
        return
    try:
        version = tomlkit.parse(marker.read_text("utf-8")).unwrap().get("version", 1)
    except (OSError, UnicodeDecodeError, TOMLKitError) as error:
        raise WorkspaceError(
            f"{marker} cannot be read: {error}.",
            next_step=f"Restore it; it needs one line: version = {WORKSPACE_VERSION}",
        ) from error
    if not isinstance(version, int) or version > WORKSPACE_VERSION:
        raise WorkspaceError(
            f"The workspace {marker.parent} has version {version}; this program knows "
            f"{WORKSPACE_VERSION}.",
            next_step="Install a newer SO8T Studio.",
        )
