"""The pages in the order of the rail; modules are imported when a page is first shown.

To add a page: write a :class:`~so8t_studio.pages.base.Page` and add a line here.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass

from PySide6.QtCore import QT_TRANSLATE_NOOP, QCoreApplication

from so8t_studio.pages.base import Page


@dataclass(frozen=True)
class PageEntry:
    """One line of the rail.

    Attributes:
        key: short name, as in navigation and settings.
        label: untranslated text of the rail.
        icon: file stem in ``resources/icons``.
        target: ``module:Class``.
    """

    key: str
    label: str
    icon: str
    target: str

    def text(self) -> str:
        """Return the label in the user's language."""
        return QCoreApplication.translate("PageEntry", self.label)

    def exists(self) -> bool:
        """Tell whether the module is part of this build, without importing it."""
        module = self.target.partition(":")[0]
        parent = module.rpartition(".")[0]
        if importlib.util.find_spec(parent) is None:
            return False
        return importlib.util.find_spec(module) is not None

    def load(self) -> type[Page]:
        """Import the module and return the class."""
        module, _, name = self.target.partition(":")
        found: type[Page] = getattr(importlib.import_module(module), name)
        return found


def _entry(key: str, label: str, class_name: str) -> PageEntry:
    return PageEntry(key, label, key, f"so8t_studio.pages.{key}.page:{class_name}")


PAGES: tuple[PageEntry, ...] = (
    _entry("persona", QT_TRANSLATE_NOOP("PageEntry", "Persona"), "PersonaPage"),
    _entry("dataset", QT_TRANSLATE_NOOP("PageEntry", "Dataset"), "DatasetPage"),
    _entry("train", QT_TRANSLATE_NOOP("PageEntry", "Train"), "TrainPage"),
    _entry("rotations", QT_TRANSLATE_NOOP("PageEntry", "Rotations"), "RotationsPage"),
    _entry("evaluate", QT_TRANSLATE_NOOP("PageEntry", "Evaluate"), "EvaluatePage"),
    _entry("chat", QT_TRANSLATE_NOOP("PageEntry", "Chat"), "ChatPage"),
)
