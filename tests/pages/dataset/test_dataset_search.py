"""Search, filters, columns and sorting of the Dataset page, by keys and clicks."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
from PySide6.QtCore import QPoint, Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QLabel, QToolButton, QTreeWidgetItem
from pytestqt.qtbot import QtBot

from so8t_engine.labels import Label
from so8t_engine.samples.schema import Sample
from so8t_studio.commands import dataset as commands
from so8t_studio.pages.dataset.charts import Histogram, StackedBars
from so8t_studio.pages.dataset.page import DatasetPage
from tests.helpers.dataset_page import find, rows


def shown(page: DatasetPage) -> list[str]:
    return [sample.id for sample in page.model.view]


def type_keys(qtbot: QtBot, page: DatasetPage, text: str) -> None:
    page.search.field.setFocus()
    qtbot.keyClicks(page.search.field, text)
    qtbot.wait(1)


# Completion


def test_completion_offers_fields_then_their_values(page: DatasetPage, qtbot: QtBot) -> None:
    commands.set_field(page.context.dataset, "s0", "category", "human resources")
    qtbot.waitUntil(lambda: not page._timer.isActive(), timeout=3000)
    popup = page.search._completer.popup()
    type_keys(qtbot, page, "cat")
    assert popup.isVisible()
    qtbot.keyClick(popup, Qt.Key.Key_Down)
    qtbot.keyClick(popup, Qt.Key.Key_Return)
    assert page.search.text() == "category:"
    assert popup.isVisible()  # the values come next
    offered = [popup.model().index(n, 0).data() for n in range(popup.model().rowCount())]
    assert offered == ["category:hr", "category:it", 'category:"human resources"']
    qtbot.keyClicks(page.search.field, '"human re')
    qtbot.keyClick(popup, Qt.Key.Key_Down)
    qtbot.keyClick(popup, Qt.Key.Key_Return)
    assert page.search.text() == 'category:"human resources"'
    qtbot.waitUntil(lambda: shown(page) == ["s0"], timeout=2000)
    popup.hide()


def test_completion_after_a_minus_keeps_the_minus(page: DatasetPage, qtbot: QtBot) -> None:
    type_keys(qtbot, page, "kill -lang:j")
    popup = page.search._completer.popup()
    qtbot.keyClick(popup, Qt.Key.Key_Down)
    qtbot.keyClick(popup, Qt.Key.Key_Return)
    assert page.search.text() == "kill -lang:ja"
    qtbot.waitUntil(lambda: shown(page) == ["s0", "s6"], timeout=2000)
    popup.hide()


# Saved filters and facets


def menu_action(page: DatasetPage, text: str) -> None:
    page.search._fill_menu()
    next(a for a in page.search._menu.actions() if a.text() == text).trigger()


def test_filters_are_saved_used_and_forgotten(page: DatasetPage, qtbot: QtBot) -> None:
    type_keys(qtbot, page, "lang:ja label:REFUSE")
    menu_action(page, "Save this filter")
    page.search.set_text("")
    assert len(shown(page)) == 12
    again = DatasetPage(page.context)  # as after a restart
    qtbot.addWidget(again)
    menu_action(again, "lang:ja label:REFUSE")
    assert shown(again) == ["s5", "s11"]
    menu_action(again, "Forget this filter")
    assert page.context.settings.form("dataset")["filters"] == []
    again.filtering.stop()


def facet(page: DatasetPage, group: str, value: str) -> QTreeWidgetItem:
    tree = page.facets
    for number in range(tree.topLevelItemCount()):
        top = tree.topLevelItem(number)
        if top.text(0) == group:
            for place in range(top.childCount()):
                if top.child(place).text(0).endswith(value):
                    return top.child(place)
    raise AssertionError(f"no {value} under {group}")


def test_facets_count_and_filter_for_every_field(page: DatasetPage, qtbot: QtBot) -> None:
    store = page.context.dataset
    commands.retag(store, ["s1", "s2"], add=["seen"])
    commands.set_split(store, ["s3"], "test")
    commands.set_field(store, "s4", "source", "from hr.csv")
    commands.set_field(store, "s5", "rationale", "")
    page.quality.run()
    qtbot.waitUntil(lambda: page.quality.issue_counts()["no_rationale"] == 1, timeout=10_000)
    page._refresh_counts()
    page.resize(1300, 800)
    for group, value, count, ids in (
        ("Label", "REFUSE", "4", ["s2", "s5", "s8", "s11"]),
        ("Language", "ja", "6", ["s1", "s3", "s5", "s7", "s9", "s11"]),
        ("Category", "it", "4", ["s0", "s3", "s6", "s9"]),
        ("Split", "test", "1", ["s3"]),
        ("Source", "from hr.csv", "1", ["s4"]),
        ("Tags", "seen", "2", ["s1", "s2"]),
        ("Issues", "no_rationale", "1", ["s5"]),
    ):
        item = facet(page, group, value)
        assert item.text(1) == count, group
        place = page.facets.visualItemRect(item).center()
        page.facets.scrollToItem(item)
        place = page.facets.visualItemRect(item).center()
        qtbot.mouseClick(page.facets.viewport(), Qt.MouseButton.LeftButton, pos=place)
        assert shown(page) == ids, group
        page.facets.scrollToItem(item)
        place = page.facets.visualItemRect(item).center()
        qtbot.mouseClick(page.facets.viewport(), Qt.MouseButton.LeftButton, pos=place)
        assert len(shown(page)) == 12


# Slow searches


def test_a_regular_expression_over_many_rows_runs_in_the_background(
    page: DatasetPage, qtbot: QtBot
) -> None:
    store = page.context.dataset
    many = [Sample(id=f"m{n}", request=f"row {n} {'a' * 60}", label=Label.ALLOW)
            for n in range(6000)]  # fmt: skip
    commands.import_samples(store, many)
    page.search.set_text("/row 12\\d\\d a/")
    assert page.filtering.busy and find(page, QLabel, "searchBusy").isVisible()
    commands.set_field(store, "m1", "request", "row 1299 a")  # it starts again with the new row
    qtbot.waitUntil(lambda: not page.filtering.busy, timeout=10_000)
    assert shown(page) == ["m1", *(f"m{n}" for n in range(1200, 1300))]
    commands.set_field(store, "m1200", "request", "gone")  # followed without a new search
    commands.set_field(store, "m7", "request", "row 1234 a")
    assert shown(page) == ["m1", "m7", *(f"m{n}" for n in range(1201, 1300))]
    start = time.monotonic()
    page.search.set_text("/(a|aa)+$ /")
    qtbot.waitUntil(lambda: "takes too long" in page.search.problem.text(), timeout=20_000)
    assert time.monotonic() - start < 20
    page.search.set_text("row 5999")
    assert shown(page) == ["m5999"]


# Columns and sorting


def drag(qtbot: QtBot, page: DatasetPage, start: QPoint, end: QPoint) -> None:
    target = page.table.horizontalHeader().viewport()
    QTest.mousePress(target, Qt.MouseButton.LeftButton, pos=start)
    for step in range(1, 6):
        QTest.mouseMove(target, start + (end - start) * step / 5)
    QTest.mouseRelease(target, Qt.MouseButton.LeftButton, pos=end)


def test_width_order_and_choice_of_columns_are_remembered(page: DatasetPage, qtbot: QtBot) -> None:
    header, names = page.table.horizontalHeader(), page.model.COLUMNS
    category, language = names.index("category"), names.index("language")
    edge = header.sectionViewportPosition(category) + header.sectionSize(category) - 1
    before = header.sectionSize(category)
    drag(qtbot, page, QPoint(edge, 10), QPoint(edge + 40, 10))
    assert header.sectionSize(category) == before + 40
    middle = header.sectionViewportPosition(language) + 30
    drag(qtbot, page, QPoint(middle, 10), QPoint(60, 10))
    assert header.visualIndex(language) < header.visualIndex(names.index("request"))
    action = next(a for a in page.table.column_menu().actions() if a.data() == names.index("tags"))
    action.trigger()
    page.remembered.flush()
    again = DatasetPage(page.context)
    qtbot.addWidget(again)
    again.resize(1280, 800)
    again.show()
    other = again.table.horizontalHeader()
    assert other.sectionSize(category) == before + 40
    assert [other.logicalIndex(n) for n in range(len(names))] == [
        header.logicalIndex(n) for n in range(len(names))
    ]
    assert not again.table.isColumnHidden(names.index("tags"))
    wide = other.sectionSize(names.index("request"))
    again.resize(1500, 800)  # the request takes what is left until somebody sizes it
    assert other.sectionSize(names.index("request")) > wide
    again.filtering.stop()


def test_clicks_on_headers_sort_by_several_columns(page: DatasetPage, qtbot: QtBot) -> None:
    header, names = page.table.horizontalHeader(), page.model.COLUMNS

    def press(name: str) -> None:
        place = QPoint(header.sectionViewportPosition(names.index(name)) + 12, 10)
        qtbot.mouseClick(header.viewport(), Qt.MouseButton.LeftButton, pos=place)

    press("language")
    press("category")
    press("label")
    press("label")
    assert page.model.sort_keys == (("label", True), ("category", False), ("language", False))
    expected = sorted(rows(), key=lambda s: s.language)
    expected.sort(key=lambda s: s.category)
    expected.sort(key=lambda s: s.label.value, reverse=True)
    assert list(page.model.view) == expected
    titles = [page.model.headerData(names.index(n), Qt.Orientation.Horizontal)
              for n in ("label", "category", "language", "request")]  # fmt: skip
    assert titles == ["Label  1", "Category  2▾", "Language  3▾", "Request"]
    press("label")  # the third click returns to the order of the file
    assert list(page.model.view) == rows()


# Statistics


def test_charts_filter_when_they_are_clicked_or_chosen_by_key(
    page: DatasetPage, qtbot: QtBot, tmp_path: Path, monkeypatch: object
) -> None:
    from so8t_studio.pages.dataset import statistics_panel

    monkeypatch.setattr(  # type: ignore[attr-defined]  # a tokenizer of known lengths
        statistics_panel, "_counter", lambda _base: lambda texts: [len(t) // 10 for t in texts]
    )
    store = page.context.dataset
    commands.set_split(store, ["s1"], "validation")
    page.tabs.setCurrentWidget(page.statistics)
    qtbot.waitUntil(lambda: bool(page.statistics.token_counts()), timeout=10_000)
    qtbot.waitUntil(lambda: page.statistics._task is None, timeout=10_000)

    def choose(name: str, row: int) -> list[str]:
        chart = find(page, StackedBars, name)
        chart.setFocus()
        qtbot.mouseClick(chart, Qt.MouseButton.LeftButton, pos=QPoint(120, row * 26 + 10))
        found, text = shown(page), page.search.text()
        qtbot.keyClick(chart, Qt.Key.Key_Return)  # the same bar again takes the filter back
        assert len(shown(page)) == 12, text
        return found

    assert choose("chartLabels", 2) == ["s2", "s5", "s8", "s11"]
    assert set(choose("chartLanguages", 0)) == {f"s{n}" for n in range(0, 12, 2)}
    assert len(choose("chartCategories", 0)) == 8
    assert choose("chartSplits", 1) == ["s1"]
    for name, of in (("chartCharacters", lambda s: len(s.request)),
                     ("chartTokens", lambda s: len(s.request) // 10)):  # fmt: skip
        chart = find(page, Histogram, name)
        seen: list[str] = []
        for step in range(len(chart._counts)):
            chart._choose(step)
            low, high = chart._edges[step], chart._edges[step + 1]
            last = step == len(chart._counts) - 1
            expected = [s.id for s in store.samples if low <= of(s) and (last or of(s) < high)]
            assert shown(page) == expected, page.search.text()
            assert len(expected) == chart._counts[step]
            seen += expected
            page.search.set_text("")
        assert sorted(seen) == sorted(s.id for s in store.samples)
    chart.setFocus()
    qtbot.keyClick(chart, Qt.Key.Key_Return)
    assert page.search.text().startswith("tokens>=")


def test_the_base_models_tokens_are_counted_without_torch(tmp_path: Path) -> None:
    import subprocess
    import sys

    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    tokenizer = Tokenizer(WordLevel({"[UNK]": 0, "kill": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    code = f"""
import sys
from pathlib import Path
from so8t_engine.labels import Label
from so8t_engine.samples.schema import Sample
from so8t_engine.samples.stats import summarize_rows, token_counter
rows = [Sample(id=str(n), request="kill " * n, label=Label.ALLOW) for n in range(1, 6)]
found = summarize_rows(rows, token_counter(Path({str(tmp_path)!r})))
assert found.tokens == {{"1": 1, "2": 2, "3": 3, "4": 4, "5": 5}}, found
assert found.statistics.tokens.longest == 5
assert "torch" not in sys.modules and "transformers" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_label_filter_beside_the_search_replaces_its_term(page: DatasetPage) -> None:
    box = page.search.labels
    page.search.set_text("lang:ja")
    box.setCurrentIndex(box.findData("REFUSE"))
    box.activated.emit(box.currentIndex())
    assert page.search.text() == "label:REFUSE lang:ja"
    assert box.currentData() == "REFUSE"
    assert shown(page) == ["s5", "s11"]
    assert find(page, QToolButton, "savedFilters").isVisible()


def test_a_row_that_leaves_the_filter_leaves_the_table_alone(page: DatasetPage) -> None:
    page.search.set_text("label:REFUSE")
    commands.relabel(page.context.dataset, ["s2"], Label.ALLOW)
    assert shown(page) == ["s5", "s8", "s11"]
    page.context.dataset.undo_stack.undo()
    assert shown(page) == ["s2", "s5", "s8", "s11"]
    page.model.set_sort((("request", True),))
    order = sorted((s for s in page.context.dataset.samples if s.label is Label.REFUSE),
                   key=lambda s: s.request.casefold(), reverse=True)  # fmt: skip
    assert list(page.model.view) == order
    commands.set_field(page.context.dataset, "s5", "request", "龍 first now")
    assert shown(page)[0] == "s5"
    assert msgspec.structs.replace(rows()[5], request="龍 first now") == page.model.view[0]
