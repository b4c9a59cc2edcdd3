"""Preferences of the user: typed, with defaults, in one plain JSON file."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import platformdirs
from msgspec import Meta, Struct
from PySide6.QtCore import QObject, Signal

from so8t_engine.workspace.atomic import write_bytes

log = logging.getLogger(__name__)


class Preferences(Struct, frozen=True, kw_only=True):
    """Everything the window remembers. Unknown keys of newer versions are ignored."""

    theme: Annotated[
        Literal["light", "dark", "system"], Meta(description="Colours of the window.")
    ] = "system"
    language: Annotated[
        str, Meta(description="Language of the window: system, en, ja.", max_length=20)
    ] = "system"
    workspace: Annotated[str, Meta(description="Folder that was open last.")] = ""
    persona: Annotated[str, Meta(description="Persona that was open last.")] = ""
    page: Annotated[str, Meta(description="Page that was open last.")] = ""
    geometry: Annotated[str, Meta(description="Place of the window, base64.")] = ""
    notify: Annotated[bool, Meta(description="Notify when a job ends.")] = True
    sound: Annotated[bool, Meta(description="Sound when a job ends.")] = False
    keep_running: Annotated[
        bool, Meta(description="Training goes on when the window is gone, in the background.")
    ] = False
    stop_grace_s: Annotated[
        float, Meta(ge=1, le=3600, description="Seconds a job may take to save and stop.")
    ] = 120.0
    silence_s: Annotated[
        float, Meta(ge=5, le=3600, description="Seconds without a sign of life that are reported.")
    ] = 60.0
    forms: Annotated[
        dict[str, dict[str, Any]], Meta(description="What was typed in forms, by form and field.")
    ] = msgspec.field(default_factory=dict)


def default_settings_path() -> Path:
    """Return where the preferences live; ``$SO8T_SETTINGS`` overrides it."""
    named = os.environ.get("SO8T_SETTINGS")
    if named:
        return Path(named)
    return Path(platformdirs.user_config_dir("so8t", appauthor=False)) / "settings.json"


class Settings(QObject):
    """The preferences in force; every change is saved and announced as ``changed(Preferences)``."""

    changed = Signal(object)

    def __init__(self, path: Path | None = None, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.path = path or default_settings_path()
        self.values = self._load()

    def _load(self) -> Preferences:
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=Preferences)
        except FileNotFoundError:
            return Preferences()
        except (OSError, msgspec.DecodeError) as error:
            log.warning("Preferences in %s cannot be read, defaults are used: %s", self.path, error)
            return Preferences()

    def update(self, **changes: Any) -> None:
        """Change preferences by name, save them and announce them.

        A disk that cannot be written loses the memory of the change, not the change.
        """
        values = msgspec.structs.replace(self.values, **changes)
        if values == self.values:
            return
        self.values = values
        try:
            write_bytes(self.path, msgspec.json.format(msgspec.json.encode(values), indent=2))
        except OSError as error:
            log.warning("Preferences cannot be saved to %s: %s", self.path, error)
        self.changed.emit(values)

    def form(self, name: str) -> dict[str, Any]:
        """Return what was typed last in the form ``name``."""
        return dict(self.values.forms.get(name, {}))

    def save_form(self, name: str, values: dict[str, Any]) -> None:
        """Remember what is typed in the form ``name``."""
        self.update(forms={**self.values.forms, name: dict(values)})
