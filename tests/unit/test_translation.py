"""The Japanese texts: complete where a newcomer goes, with the same placeholders, and shown."""

from __future__ import annotations

import string
from collections.abc import Iterator
from pathlib import Path

import pytest
from PySide6.QtCore import QCoreApplication, QLocale, QObject
from PySide6.QtGui import QAction
from PySide6.QtWidgets import QApplication, QToolButton
from pytestqt.qtbot import QtBot

from so8t_studio import translation
from so8t_studio.context import AppContext
from so8t_studio.names import ENGINE_WORDS, metric_title
from so8t_studio.settings import Settings
from so8t_studio.widgets.live_plot import LivePlot
from so8t_studio.window import MainWindow
from tests.helpers.texts import translated_texts

# Every text here must be translated; what the other pages lack is shown in English.
COMPLETE = (
    "so8t_studio/window.py",
    "so8t_studio/rail.py",
    "so8t_studio/status.py",
    "so8t_studio/jobs",
    "so8t_studio/widgets",
    "so8t_studio/pages/registry.py",
    "so8t_studio/pages/placeholder.py",
    "so8t_studio/pages/persona",
    "so8t_studio/pages/rotations",
    "so8t_studio/pages/evaluate",
    "so8t_studio/pages/chat",
)
LANGUAGES = [code for code in translation.available() if code != "en"]


@pytest.fixture
def japanese(qapp: QApplication) -> Iterator[None]:
    assert translation.install("ja", qapp) == "ja"
    yield
    translation.install("en", qapp)


@pytest.mark.parametrize("code", LANGUAGES)
def test_what_a_newcomer_sees_is_translated(code: str) -> None:
    known = translation.load(code).strings
    missing = {text: place for text, place in translated_texts(*COMPLETE) if text not in known}
    missing |= {word: "so8t_engine" for word in ENGINE_WORDS if word not in known}
    assert not missing, f"add these to resources/translations/{code}.json: {missing}"


@pytest.mark.parametrize("code", LANGUAGES)
def test_translations_keep_every_placeholder_and_file_pattern(code: str) -> None:
    catalogue = translation.load(code)
    assert catalogue.language and len(catalogue.strings) > 400
    pairs = [*catalogue.strings.items()]
    pairs += [pair for words in catalogue.contexts.values() for pair in words.items()]
    for source, text in pairs:
        assert text.strip(), source
        assert _fields(source) == _fields(text), source
        assert source.count("*.") == text.count("*."), source
        assert source.count("&") == text.count("&"), source


def _fields(text: str) -> list[str]:
    return sorted(name for _, name, _, _ in string.Formatter().parse(text) if name is not None)


def test_the_window_shows_it(qtbot: QtBot, japanese: None, app_context: AppContext) -> None:
    window = MainWindow(app_context)
    qtbot.addWidget(window)
    window.show()
    window.show_page("persona")
    rail = {key: window.findChild(QToolButton, f"rail_{key}") for key in ("persona", "chat")}
    assert [button.text() for button in rail.values()] == ["ペルソナ", "チャット"]
    assert window.status.job.text() == "実行中のジョブはありません"
    page = window.page("persona")
    assert page.new.text() == "新しいペルソナ…"  # type: ignore[attr-defined]
    card = page.stepper.cards["train"]  # type: ignore[attr-defined]
    qtbot.waitUntil(lambda: card.words.text() == "まだ学習していません", timeout=10_000)
    assert metric_title("refuse_recall") == "REFUSE 再現率"
    # Qt's own texts, and a word that means something else in one class.
    assert QCoreApplication.translate("QPlatformTheme", "Cancel") == "キャンセル"
    assert QObject().tr("Log") == "ログ"
    plot = LivePlot("Loss", "step", "loss")
    qtbot.addWidget(plot)
    assert plot.log_box.text() == "対数"
    assert QObject().tr("No such text") == "No such text"


def test_the_menu_remembers_the_language(qtbot: QtBot, app_context: AppContext) -> None:
    window = MainWindow(app_context)
    qtbot.addWidget(window)
    chosen = window.findChild(QAction, "actionLanguage_ja")
    assert chosen.text() == "日本語" and not chosen.isChecked()
    chosen.trigger()
    assert Settings(app_context.settings.path).values.language == "ja"
    assert "next start" in window.message_banner.text()


def test_which_language_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert translation.chosen_language("ja") == "ja"
    assert translation.chosen_language("tlh") == "en"
    for languages, expected in (
        (["ja-Jpan-JP", "ja-JP", "ja", "en"], "ja"),
        (["de-DE", "de", "ja-JP"], "ja"),
        (["en-GB", "ja-JP"], "en"),
        (["de-DE"], "en"),
    ):
        monkeypatch.setattr(QLocale, "uiLanguages", lambda _self, found=languages: found)
        assert translation.chosen_language("system") == expected


def test_a_damaged_catalogue_means_english(
    qapp: QApplication,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "ja.json").write_text('{"language": "日本語", "strings": 3}', "utf-8")
    monkeypatch.setattr(translation, "translations_root", lambda: tmp_path)
    assert translation.install("ja", qapp) == "en"
    assert "English is used" in caplog.text
    assert translation.available() == {"en": "English"}
    assert QObject().tr("Undo") == "Undo"
