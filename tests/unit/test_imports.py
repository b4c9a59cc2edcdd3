"""The walls between engine and window, each checked in a fresh process."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "sklearn", "datasets")
VOCABULARY = (
    "so8t_engine.specs",
    "so8t_engine.events",
    "so8t_engine.labels",
    "so8t_engine.verdict",
    "so8t_engine.errors",
    "so8t_engine.resources",
    "so8t_engine.samples.schema",
    "so8t_engine.samples.readers",
    "so8t_engine.workspace.workspace",
    "so8t_engine.workspace.personas",
    "so8t_engine.workspace.runs",
    "so8t_engine.rotations.analysis",
    "so8t_engine.evaluation.results",
    "so8t_engine.evaluation.metrics",
    "so8t_engine.evaluation.baselines",
    "so8t_engine.jobs.runtime",
    "so8t_engine.jobs.train",
    "so8t_engine.jobs.evaluate",
    "so8t_engine.jobs.chat",
    "so8t_engine.jobs.decide",
    "so8t_engine.jobs.console",
    "so8t_engine.jobs.models",
    "so8t_engine.jobs.doctor",
    "so8t_engine.jobs.quickstart",
    "so8t_engine.model.base_cache",
    "so8t_engine.cli",
)


def loaded_by(code: str) -> set[str]:
    """Return the names of all modules that are loaded after ``code`` ran in a new process."""
    script = f"{code}\nimport sys; print('\\n'.join(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def modules_of(package: str) -> list[str]:
    """Return all modules of a package by dotted name."""
    names = []
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return [name for name in names if not name.endswith("__main__")]


def imported_names(path: Path) -> set[str]:
    """Return every module that a file imports anywhere, also inside of functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_the_whole_engine_loads_without_qt() -> None:
    loaded = loaded_by("\n".join(f"import {name}" for name in modules_of("so8t_engine")))
    assert "torch" in loaded  # the check below is of a process that loaded everything
    assert not {name for name in loaded if name.split(".")[0] in ("PySide6", "shiboken6")}
    assert not {name for name in loaded if name.split(".")[0] == "so8t_studio"}


def test_no_file_of_the_engine_names_qt_or_the_window() -> None:
    for path in (ROOT / "so8t_engine").rglob("*.py"):
        found = {name for name in imported_names(path) if name.startswith(("PySide6", "so8t_stu"))}
        assert not found, f"{path.relative_to(ROOT)} imports {found}"


@pytest.mark.parametrize("module", VOCABULARY)
def test_the_vocabulary_is_free_of_torch(module: str) -> None:
    loaded = {name.split(".")[0] for name in loaded_by(f"import {module}")}
    assert not loaded & set(HEAVY)


def test_init_files_import_nothing() -> None:
    for package in ("so8t_engine", "so8t_studio"):
        for path in (ROOT / package).rglob("__init__.py"):
            names = imported_names(path) - {"__future__", "__future__.annotations"}
            assert not names, f"{path.relative_to(ROOT)} imports {names}"


def test_the_window_loads_nothing_heavy() -> None:
    pytest.importorskip("PySide6", exc_type=ImportError)
    loaded = loaded_by(
        "import os; os.environ['QT_QPA_PLATFORM'] = 'offscreen'\n"
        + "\n".join(f"import {name}" for name in modules_of("so8t_studio"))
    )
    assert not {name.split(".")[0] for name in loaded} & set(HEAVY)
    assert "matplotlib.pyplot" not in loaded


def test_no_file_of_the_window_names_torch_or_pyplot() -> None:
    banned = (*HEAVY, "matplotlib.pyplot")
    for path in (ROOT / "so8t_studio").rglob("*.py"):
        names = imported_names(path)
        found = {n for n in names if any(n == b or n.startswith(f"{b}.") for b in banned)}
        assert not found, f"{path.relative_to(ROOT)} imports {found}"


def test_pages_never_import_pages() -> None:
    pages = ROOT / "so8t_studio" / "pages"
    folders = {path.name for path in pages.iterdir() if path.is_dir() and path.name[0] != "_"}
    assert folders, "there are no pages to check"
    for path in pages.rglob("*.py"):
        own = path.relative_to(pages).parts[0]
        for name in imported_names(path):
            parts = name.split(".")
            if parts[:2] == ["so8t_studio", "pages"] and len(parts) > 2:
                other = parts[2]
                assert other == own or other not in folders, f"{path.name} imports {name}"


def test_widgets_models_and_jobs_never_import_pages() -> None:
    for folder in ("widgets", "models", "commands", "jobs"):
        for path in (ROOT / "so8t_studio" / folder).rglob("*.py"):
            found = {n for n in imported_names(path) if n.startswith("so8t_studio.pages")}
            assert not found, f"{path.relative_to(ROOT)} imports {found}"


def test_no_pickle_is_loaded_anywhere() -> None:
    for package in ("so8t_engine", "so8t_studio"):
        for path in (ROOT / package).rglob("*.py"):
            names = imported_names(path)
            assert not names & {"pickle", "torch.load", "joblib"}, path.relative_to(ROOT)
            assert "torch.load(" not in path.read_text("utf-8"), path.relative_to(ROOT)
