"""Workspace, personas, lock and trash on a real disk."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from so8t_engine.errors import DataError, WorkspaceError
from so8t_engine.labels import Label
from so8t_engine.samples.schema import Sample
from so8t_engine.specs import TrainSpec
from so8t_engine.verdict import OperatingPoint
from so8t_engine.workspace.personas import Persona, PersonaInfo, parse_info, render_info, slugify
from so8t_engine.workspace.runs import RunState, RunStore
from so8t_engine.workspace.trash import empty_trash, restore, trashed
from so8t_engine.workspace.workspace import Workspace, default_workspace

SAMPLE = Sample(id="1", request="質問", label=Label.ALLOW)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.open(tmp_path / "w")


@given(st.text(max_size=80))
def test_slugs_are_folder_names_everywhere(name: str) -> None:
    slug = slugify(name)
    assert slug and slug == slug.strip(". -") and len(slug.encode()) <= 108
    assert not set(slug) & set('<>:"/\\|?*.') and all(ord(sign) > 31 for sign in slug)
    assert slug.split(".")[0] not in {"con", "prn", "aux", "nul", "com1", "lpt9"}
    assert slugify(slug) == slug


def test_create_open_rename_duplicate_delete(workspace: Workspace) -> None:
    first = workspace.create_persona("人事 アシスタント")
    first.save_samples([SAMPLE])
    first.save(msgspec.structs.replace(first.info, policy="Be careful.\nAsk."))
    copy = workspace.duplicate(first.slug, "人事 アシスタント")
    assert copy.slug != first.slug and copy.load_samples() == [SAMPLE]
    assert copy.info.policy == "Be careful.\nAsk."
    renamed = workspace.rename(first.slug, "HR")
    assert (renamed.slug, renamed.info.name) == (first.slug, "HR")
    assert [p.name for p in workspace.personas()] == ["HR", "人事 アシスタント"]
    lies = workspace.delete(copy.slug)
    assert lies.parent == workspace.root / "trash" and not copy.root.exists()
    assert [p.slug for p in workspace.personas()] == [first.slug]
    assert trashed(workspace.root) == [lies]
    assert Persona(restore(lies, copy.root)).load_samples() == [SAMPLE]
    workspace.delete(copy.slug)
    empty_trash(workspace.root)
    assert trashed(workspace.root) == []


def test_slugs_never_collide_even_by_case(workspace: Workspace) -> None:
    slugs = [workspace.create_persona(name).slug for name in ("Öl", "öl", "ÖL", "o\u0308l", "!?")]
    assert len({slug.casefold() for slug in slugs}) == 5
    (workspace.personas_dir / "HAND-MADE").mkdir()
    assert workspace.create_persona("hand made").slug == "hand-made-2"


@pytest.mark.parametrize(
    "slug", ["../w", "..", ".", "", "a/b", "a\\b", "C:", "x\0", "/etc", "none"]
)
def test_paths_cannot_leave_the_workspace(workspace: Workspace, slug: str) -> None:
    workspace.create_persona("known")
    with pytest.raises(WorkspaceError, match="Use one of: known"):
        workspace.persona(slug)


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_a_link_out_of_the_workspace_is_no_persona(workspace: Workspace, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "persona.toml").write_text('name = "x"\n')
    (workspace.personas_dir / "link").symlink_to(outside)
    with pytest.raises(WorkspaceError):
        workspace.persona("link")


def test_a_second_opener_only_reads_until_the_first_closes(workspace: Workspace) -> None:
    slug = workspace.create_persona("one").slug
    second = Workspace.open(workspace.root)
    assert second.read_only and not workspace.read_only
    persona = second.persona(slug)
    for attempt in (
        lambda: second.create_persona("x"),
        lambda: second.delete(slug),
        lambda: second.rename(slug, "y"),
        lambda: persona.save_samples([]),
        lambda: persona.save(PersonaInfo(name="z")),
    ):
        with pytest.raises(WorkspaceError, match="another window"):
            attempt()
    assert not Workspace.open(workspace.root, exclusive=False).read_only
    workspace.close()
    third = Workspace.open(workspace.root)
    assert not third.read_only
    third.close()


def test_a_killed_writer_gives_the_lock_back(tmp_path: Path) -> None:
    code = (
        "import sys, os; from pathlib import Path\n"
        "from so8t_engine.workspace.workspace import Workspace\n"
        f"w = Workspace.open(Path({str(tmp_path)!r})); print(w.read_only, flush=True)\n"
        "sys.stdin.read()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout is not None and child.stdin is not None
    assert child.stdout.readline() == b"False\n"
    assert Workspace.open(tmp_path).read_only
    child.kill()
    child.wait()
    child.stdin.close()
    child.stdout.close()
    opened = Workspace.open(tmp_path)
    assert not opened.read_only
    opened.close()


def test_the_starter_is_made_once_and_then_left_alone(workspace: Workspace) -> None:
    starter = workspace.ensure_starter()
    samples = starter.load_samples()
    assert len(samples) >= 300
    assert {s.label for s in samples} == set(Label)
    assert len(starter.info.policy.split()) <= 60
    starter.save_samples(samples[:1])
    assert workspace.ensure_starter().load_samples() == samples[:1]


def test_persona_toml_keeps_comments_and_unknown_keys() -> None:
    text = '# mine\nname = "a" # name\nfuture = 3\n\n[operating_point]\n# τ\ntau_allow = 0.6\n'
    info = parse_info(text, "x")
    assert info.point == OperatingPoint(tau_allow=0.6)
    changed = msgspec.structs.replace(info, policy="new", point=OperatingPoint(tau_allow=0.7))
    rendered = render_info(changed, text)
    for part in ("# mine", "# name", "future = 3", "# τ"):
        assert part in rendered
    assert parse_info(rendered, "x") == changed


@given(st.text(st.characters(exclude_categories=["Cs"])), st.floats(0.01, 9))
def test_persona_toml_round_trip(text: str, temperature: float) -> None:
    info = PersonaInfo(
        name="x", policy=text, description=text, point=OperatingPoint(temperature=temperature)
    )
    assert parse_info(render_info(info), "x") == info


@pytest.mark.parametrize("text", ["name = ", "name = 3", "[operating_point]\ntau_allow = 7\n"])
def test_a_damaged_persona_is_named_and_does_not_hide_others(
    workspace: Workspace, text: str
) -> None:
    workspace.create_persona("good")
    bad = workspace.create_persona("bad")
    bad.info_path.write_text(text, "utf-8")
    assert [p.name for p in workspace.personas()] == ["bad", "good"]
    with pytest.raises(WorkspaceError, match=r"persona\.toml"):
        _ = workspace.persona("bad").info


def test_a_damaged_dataset_line_is_named(workspace: Workspace) -> None:
    persona = workspace.create_persona("x")
    assert persona.load_samples() == []
    persona.save_samples([SAMPLE])
    with persona.dataset_path.open("ab") as stream:
        stream.write(b'{"id":"2","request":"x","label":"MAYBE"}\n')
    with pytest.raises(DataError, match="line 2"):
        persona.load_samples()


def test_missing_and_newer_workspaces_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="no workspace"):
        Workspace.open(tmp_path / "none", create=False)
    Workspace.open(tmp_path / "w").close()
    (tmp_path / "w" / "workspace.toml").write_text("version = 99\n")
    with pytest.raises(WorkspaceError, match="newer"):
        Workspace.open(tmp_path / "w")
    (tmp_path / "file").write_text("x")
    with pytest.raises(WorkspaceError, match="cannot be created"):
        Workspace.open(tmp_path / "file")


def test_a_persona_in_training_is_not_deleted(workspace: Workspace) -> None:
    persona = workspace.create_persona("x")
    run = RunStore.create(persona.runs_dir, TrainSpec(), policy="", now=dt.datetime(2026, 1, 1))
    run.save_state(RunState(state="running", pid=os.getpid()))
    with pytest.raises(WorkspaceError, match="being trained"):
        workspace.delete("x")
    run.save_state(RunState(state="done"))
    workspace.delete("x")


def test_the_latest_finished_run_has_a_checkpoint(workspace: Workspace) -> None:
    persona = workspace.create_persona("x")
    old, new = (
        RunStore.create(persona.runs_dir, TrainSpec(), policy="", now=dt.datetime(2026, 1, day))
        for day in (1, 2)
    )
    assert persona.latest_finished_run() is None
    (old.checkpoints_dir / "step-00000001").mkdir(parents=True)
    (old.checkpoints_dir / "step-00000001" / "manifest.json").write_text("{}")
    assert [run.id for run in persona.runs()] == [new.id, old.id]
    found = persona.latest_finished_run()
    assert found is not None and found.id == old.id


def test_the_default_workspace_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SO8T_WORKSPACE", "/some/where")
    assert default_workspace() == Path("/some/where")
    monkeypatch.delenv("SO8T_WORKSPACE")
    assert default_workspace().name == "SO8T"
