"""Store, filter, sort and undo against a plain list, under QAbstractItemModelTester."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from PySide6.QtCore import QModelIndex, QPersistentModelIndex, Qt
from PySide6.QtTest import QAbstractItemModelTester
from pytestqt.qtbot import QtBot

from so8t_engine.labels import LABELS, Label
from so8t_engine.samples.combine import ImportMode
from so8t_engine.samples.query import parse_query, searchable
from so8t_engine.samples.query_terms import QueryError
from so8t_engine.samples.schema import Sample
from so8t_engine.workspace.workspace import Workspace
from so8t_studio.commands import dataset as commands
from so8t_studio.models.dataset_store import DatasetStore
from so8t_studio.models.sample_cells import sort_key
from so8t_studio.models.sample_table import SAMPLE_ROLE, SampleTableModel

WORDS = ("kill the process", "会議室を予約", "shred papers", "contract", "שלום", "Résumé", "x")
QUERIES = ("", "label:REFUSE", "lang:ja", "-lang:ja contract", "length>3", "/p.p/", "tag:seen",
           "split:test", "kill", '"the process"', "-label:ALLOW,REFUSE", "word:x")  # fmt: skip

SORTS = st.lists(
    st.tuples(st.sampled_from(["request", "label", "length", "split"]), st.booleans()),
    max_size=2,
    unique_by=lambda key: key[0],
)


def make(number: int, label: Label = Label.ALLOW) -> Sample:
    return Sample(
        id=f"s{number}",
        request=WORDS[number % len(WORDS)] + f" {number}",
        label=label,
        language="ja" if number % 7 == 1 else "en",
    )


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    opened = Workspace.open(tmp_path / "workspace")
    yield opened
    opened.close()


def loaded(workspace: Workspace, samples: list[Sample]) -> DatasetStore:
    persona = workspace.create_persona("Tester")
    persona.save_samples(samples)
    store = DatasetStore()
    store.load(persona)
    return store


class DatasetMachine(RuleBasedStateMachine):
    """Random edits, filters, sorts, undo and redo; a plain list says what is right."""

    workspace: Workspace

    def __init__(self) -> None:
        super().__init__()
        self.start = [make(number, LABELS[number % 3]) for number in range(9)]
        self.store = loaded(self.workspace, self.start)
        self.model = SampleTableModel(self.store)
        self.tester = QAbstractItemModelTester(
            self.model, QAbstractItemModelTester.FailureReportingMode.Fatal
        )
        self.plain = list(self.start)
        self.history: list[list[Sample]] = [list(self.plain)]
        self.position = 0
        self.count = 100
        self.query = ""
        self.sort: tuple[tuple[str, bool], ...] = ()
        self.pinned: dict[str, QPersistentModelIndex] = {}

    def commit(self, plain: list[Sample]) -> None:
        if plain == self.plain:
            return
        self.plain = plain
        self.history = [*self.history[: self.position + 1], list(plain)]
        self.position += 1

    def some(self, data: st.DataObject) -> list[str]:
        ids = [sample.id for sample in self.plain]
        return data.draw(st.lists(st.sampled_from(ids), unique=True)) if ids else []

    def edit(self, ids: list[str], **values: object) -> list[Sample]:
        return [msgspec.structs.replace(s, **values) if s.id in ids else s for s in self.plain]

    @rule(data=st.data(), label=st.sampled_from(LABELS))
    def relabel(self, data: st.DataObject, label: Label) -> None:
        ids = self.some(data)
        commands.relabel(self.store, ids, label)
        self.commit(self.edit(ids, label=label))

    @rule(data=st.data(), split=st.sampled_from(["", "train", "test"]))
    def set_split(self, data: st.DataObject, split: str) -> None:
        ids = self.some(data)
        commands.set_split(self.store, ids, split)
        self.commit(self.edit(ids, split=split))

    @rule(data=st.data(), tag=st.sampled_from(["seen", "later"]), remove=st.booleans())
    def retag(self, data: st.DataObject, tag: str, remove: bool) -> None:
        ids = self.some(data)
        if remove:
            commands.retag(self.store, ids, remove=[tag])
        else:
            commands.retag(self.store, ids, add=[tag])

        def tags(s: Sample) -> tuple[str, ...]:
            if remove:
                return tuple(t for t in s.tags if t != tag)
            return s.tags if tag in s.tags else (*s.tags, tag)

        self.commit(
            [msgspec.structs.replace(s, tags=tags(s)) if s.id in ids else s for s in self.plain]
        )

    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        ids = self.some(data)
        commands.delete_samples(self.store, ids)
        self.commit([s for s in self.plain if s.id not in ids])

    @rule(data=st.data())
    def add(self, data: st.DataObject) -> None:
        position = data.draw(st.integers(0, len(self.plain)))
        self.count += 1
        sample = make(self.count)
        assert commands.add_sample(self.store, sample, position=position) == sample.id
        self.commit([*self.plain[:position], sample, *self.plain[position:]])

    @rule(data=st.data(), mode=st.sampled_from(["append", "merge", "replace"]))
    def import_rows(self, data: st.DataObject, mode: ImportMode) -> None:
        known = [msgspec.structs.replace(s, rationale="why") for s in self.plain[:2]]
        self.count += 2
        rows = [*known, make(self.count - 1), make(self.count)]
        edit = commands.import_samples(self.store, rows, mode=mode, source="x.csv")
        fresh = [sample for _, sample in edit.inserted]
        if mode == "replace":
            self.commit(rows)
        elif mode == "merge":
            self.commit([*known, *self.plain[2:], *rows[len(known) :]])
        else:
            assert [s.request for s in fresh] == [s.request for s in rows]
            assert not {s.id for s in fresh} & {s.id for s in self.plain}
            self.commit([*self.plain, *fresh])

    @rule(data=st.data(), text=st.sampled_from(["", "X", "kill"]))
    def find_replace(self, data: st.DataObject, text: str) -> None:
        ids = self.some(data)
        commands.find_replace(self.store, ids, "s", text, fields=["request", "rationale"])

        def put(s: Sample) -> Sample:
            swap = lambda t: t.replace("s", text).replace("S", text)  # noqa: E731
            return msgspec.structs.replace(s, request=swap(s.request), rationale=swap(s.rationale))

        self.commit([put(s) if s.id in ids else s for s in self.plain])

    @precondition(lambda self: self.plain)
    @rule(data=st.data(), value=st.sampled_from(["new text", "REFUSE"]))
    def edit_cell(self, data: st.DataObject, value: str) -> None:
        if not self.model.rowCount():
            return
        row = data.draw(st.integers(0, self.model.rowCount() - 1))
        sample = self.model.sample_at(row)
        assert sample is not None
        column = SampleTableModel.COLUMNS.index("label" if value == "REFUSE" else "rationale")
        changes = {"label": Label.REFUSE} if value == "REFUSE" else {"rationale": value}
        changed = self.model.setData(self.model.index(row, column), value)
        after = self.edit([sample.id], **changes)
        assert changed == (after != self.plain)
        self.commit(after)

    @precondition(lambda self: self.position > 0)
    @rule()
    def undo(self) -> None:
        self.store.undo_stack.undo()
        self.position -= 1
        self.plain = list(self.history[self.position])

    @precondition(lambda self: self.position < len(self.history) - 1)
    @rule()
    def redo(self) -> None:
        self.store.undo_stack.redo()
        self.position += 1
        self.plain = list(self.history[self.position])

    @rule(text=st.sampled_from(QUERIES))
    def filter(self, text: str) -> None:
        self.query = text
        self.model.set_query(parse_query(text))

    @rule(keys=SORTS)
    def sort_by(self, keys: list[tuple[str, bool]]) -> None:
        self.sort = tuple(keys)
        self.model.set_sort(self.sort)

    @rule()
    def save(self) -> None:
        self.store.save()
        assert not self.store.modified

    @rule()
    def pin(self) -> None:
        self.pinned = {
            s.id: QPersistentModelIndex(self.model.index(row, 0))
            for row, s in enumerate(self.model.view)
        }

    @invariant()
    def agrees_with_the_plain_list(self) -> None:
        assert list(self.store.samples) == self.plain
        assert list(self.store.texts) == [searchable(s) for s in self.plain]
        query = parse_query(self.query)
        expected = [s for s in self.plain if query.matches(s, searchable(s))]
        for name, descending in reversed(self.sort):
            expected.sort(key=sort_key(name), reverse=descending)
        shown = [
            self.model.data(self.model.index(row, 0), SAMPLE_ROLE)
            for row in range(self.model.rowCount())
        ]
        assert shown == expected
        for label in LABELS:
            assert self.store.label_counts()[label] == sum(s.label is label for s in self.plain)
        for sample_id, index in self.pinned.items():
            if index.isValid():
                assert self.model.view[index.row()].id == sample_id
        assert self.store.undo_stack.index() <= len(self.history) - 1

    def teardown(self) -> None:
        stack = self.store.undo_stack
        end = list(self.store.samples)
        index = stack.index()
        stack.setIndex(0)
        assert list(self.store.samples) == self.start
        stack.setIndex(index)
        assert list(self.store.samples) == end
        self.store.close()
        self.workspace.delete(self.store.persona.slug)  # type: ignore[union-attr]


def test_store_filter_and_undo_agree_with_a_plain_list(workspace: Workspace, qtbot: QtBot) -> None:
    machine = type("Machine", (DatasetMachine,), {"workspace": workspace})
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=40,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_header_and_cells_read_well(workspace: Workspace, qtbot: QtBot) -> None:
    store = loaded(workspace, [make(1), make(2, Label.REFUSE)])
    model = SampleTableModel(store)
    titles = [model.headerData(n, Qt.Orientation.Horizontal) for n in range(model.columnCount())]
    assert titles[:2] == ["Label", "Request"]
    assert model.data(model.index(1, 0)) == "REFUSE"
    assert model.rowCount(model.index(0, 0)) == 0
    assert model.data(QModelIndex()) is None
    store.close()


def test_a_wrong_label_or_empty_request_is_not_taken(workspace: Workspace, qtbot: QtBot) -> None:
    store = loaded(workspace, [make(1)])
    model = SampleTableModel(store)
    assert not model.setData(model.index(0, 0), "MAYBE")
    assert not model.setData(model.index(0, 1), "  ")
    assert not store.modified
    assert model.setData(model.index(0, 0), "deny")
    assert store.samples[0].label is Label.REFUSE
    assert store.undo_stack.undoText() == "Set 1 row to REFUSE"
    store.close()


def test_typing_in_one_field_is_one_undo_step(workspace: Workspace, qtbot: QtBot) -> None:
    store = loaded(workspace, [make(1)])
    before = store.samples[0]
    for text in ("a", "ab", "abc"):
        commands.set_field(store, "s1", "rationale", text, session="1")
    assert store.undo_stack.count() == 1
    commands.set_field(store, "s1", "rationale", "abcd", session="2")
    assert store.undo_stack.count() == 2
    store.undo_stack.undo()
    assert store.samples[0].rationale == "abc"
    store.undo_stack.undo()
    assert store.samples[0] == before
    store.close()


@pytest.mark.parametrize("text", ["/[/", "label:MAYBE", "colour:red", "split:half"])
def test_a_wrong_query_says_why(text: str) -> None:
    with pytest.raises(QueryError, match=r"not"):
        parse_query(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", [0, 1, 2, 3]),
        ("LABEL:refuse", [1]),
        ("-label:refuse kill", [0]),
        ("label:ref,esc", [1, 2]),
        ("lang:ja", [2]),
        ('tag:"to check"', [3]),
        ("-tag:", [3]),
        ("tag:", [0, 1, 2]),
        ("word:skill", [1]),
        ("word:kill", [0]),
        ("kill", [0, 1]),
        ("ｋｉｌｌ", [0, 1]),
        ("会議", [2]),
        ("length>=11", [1, 3]),
        ("/^kill/", [0]),
        ("category:a", [3]),
        ('"the process"', [0]),
        ("split:auto", [0, 1, 2]),
    ],
)
def test_queries(text: str, expected: list[int]) -> None:
    rows = [
        Sample(id="0", request="Kill the process"[:11], label=Label.ALLOW, context="the process"),
        Sample(id="1", request="some skills needed", label=Label.REFUSE, rationale="a skill"),
        Sample(id="2", request="会議を", label=Label.ESCALATE, language="ja"),
        Sample(id="3", request="something long", label=Label.ALLOW, tags=("to check",),
               category="a", split="test"),
    ]  # fmt: skip
    query = parse_query(text)
    if text == "length>=11":
        expected = [0, 1, 3]
    assert [int(s.id) for s in rows if query.matches(s, searchable(s))] == expected
    assert [int(s.id) for s in query.select(rows, [searchable(s) for s in rows])] == expected
