"""The window in the user's language: plain JSON catalogues instead of compiled ones.

``resources/translations/<code>.json`` holds ``language`` (its own name for itself), ``strings``
(English to translated) and ``contexts`` (the same by class, for words with two meanings). What a
catalogue lacks stays English. Messages of the engine, its logs and files are English everywhere.
"""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec
from msgspec import Struct
from PySide6.QtCore import QCoreApplication, QLibraryInfo, QLocale, QObject, QTranslator

from so8t_engine.resources import resource_root

log = logging.getLogger(__name__)


class Catalogue(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of a catalogue file.

    Attributes:
        language: what the language calls itself.
        strings: translation by English text.
        contexts: the same by name of the class, where a text means different things.
    """

    language: str
    strings: dict[str, str]
    contexts: dict[str, dict[str, str]] = {}


def translations_root() -> Path:
    """Return the folder of the catalogues."""
    return resource_root() / "translations"


def available() -> dict[str, str]:
    """Return the languages with a readable catalogue: code to the language's own name."""
    found = {"en": "English"}
    for path in sorted(translations_root().glob("*.json")):
        try:
            found[path.stem] = load(path.stem).language
        except (OSError, msgspec.DecodeError) as error:
            log.warning("%s cannot be read: %s", path, error)
    return found


def load(code: str) -> Catalogue:
    """Read the catalogue of a language.

    Raises:
        OSError, msgspec.DecodeError: if it is missing or damaged.
    """
    return msgspec.json.decode((translations_root() / f"{code}.json").read_bytes(), type=Catalogue)


def chosen_language(preference: str) -> str:
    """Return the code to use for a preference (``system`` or a code): ``en`` if there is no other.

    ``system`` goes through the user's languages in their order and takes the first that is there.
    """
    codes = {path.stem for path in translations_root().glob("*.json")} | {"en"}
    if preference != "system":
        return preference if preference in codes else "en"
    wanted = (name.partition("-")[0] for name in QLocale.system().uiLanguages())
    return next((code for code in wanted if code in codes), "en")


class CatalogueTranslator(QTranslator):
    """Answers ``tr()`` from a :class:`Catalogue`; None lets Qt fall back to the English text."""

    def __init__(self, catalogue: Catalogue, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._catalogue = catalogue

    def isEmpty(self) -> bool:
        """Tell Qt that there is something to ask."""
        return False

    def translate(  # type: ignore[override]  # None is how Qt learns that there is no translation
        self, context: str, source: str, _disambiguation: str | None = None, _n: int = -1
    ) -> str | None:
        """Return the translation of ``source`` in a class, or None."""
        special = self._catalogue.contexts.get(context)
        if special is not None and source in special:
            return special[source]
        return self._catalogue.strings.get(source)


def install(preference: str, application: QCoreApplication) -> str:
    """Translate all texts made from now on, Qt's own as well; return the language's code.

    Translators of an earlier call are taken away. A damaged catalogue is logged and means English.
    """
    for old in application.findChildren(QTranslator):
        application.removeTranslator(old)
        old.deleteLater()
    code = chosen_language(preference)
    if code == "en":
        return code
    try:
        catalogue = load(code)
    except (OSError, msgspec.DecodeError) as error:
        log.warning("The texts in %s cannot be read, English is used: %s", code, error)
        return "en"
    standard = QTranslator(application)
    folder = QLibraryInfo.path(QLibraryInfo.LibraryPath.TranslationsPath)
    if standard.load(f"qtbase_{code}", folder):
        application.installTranslator(standard)
    application.installTranslator(CatalogueTranslator(catalogue, application))
    return code
