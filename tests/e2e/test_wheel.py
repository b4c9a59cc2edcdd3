"""The built wheel in an empty environment: both programs start, resources included."""

from __future__ import annotations

import importlib.util
import os
import shutil
import site
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_LEFT_OUT = (".git", ".venv*", "build", "dist", "*.egg-info", "__pycache__", ".*_cache", "results")


def _run(*command: object, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(
        [*map(str, command)],
        cwd=Path(sys.prefix),  # anywhere but the source folder
        env={**kept, "PYTHONUTF8": "1", **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy of the sources, so that nothing is left behind in them."""
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("the build backend hatchling is not installed (test extra)")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*_LEFT_OUT), symlinks=True)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    built = _run(*command, "--disable-pip-version-check", "-w", folder / "out", source)
    assert built.returncode == 0, built.stdout + built.stderr
    return next((folder / "out").glob("*.whl"))


@pytest.fixture(scope="module")
def scripts(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel into an empty environment that sees the libraries of this one."""
    folder = tmp_path_factory.mktemp("empty") / "env"
    made = _run(sys.executable, "-m", "venv", "--without-pip", folder)
    assert made.returncode == 0, made.stderr
    bin_folder = folder / ("Scripts" if os.name == "nt" else "bin")
    python = bin_folder / ("python.exe" if os.name == "nt" else "python")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    done = _run(*pip, "install", "--no-deps", "--no-index", wheel)
    assert done.returncode == 0, done.stdout + done.stderr
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    purelib = Path(_run(python, "-c", where).stdout.strip())
    paths = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()}
    (purelib / "outer.pth").write_text("\n".join(sorted(paths)) + "\n", "utf-8")
    found = _run(python, "-c", "import so8t_engine; print(so8t_engine.__file__)").stdout
    assert str(purelib) in found, found  # the installed one, not the sources
    return bin_folder


def test_the_wheel_carries_its_resources_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {
        "so8t_engine",
        "so8t_studio",
        "so8t_resources",
    }
    assert "so8t_resources/personas/office-assistant/dataset.jsonl" in names
    assert any(name.startswith("so8t_resources/icons/") for name in names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    for path in (ROOT / "resources").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert f"so8t_resources/{path.relative_to(ROOT / 'resources').as_posix()}" in names


def test_the_command_line_starts(scripts: Path) -> None:
    shown = _run(scripts / "so8t", "--help")
    assert shown.returncode == 0, shown.stderr
    assert "quickstart" in shown.stdout
    checked = _run(scripts / "so8t", "--smoke")
    assert checked.returncode == 0, checked.stderr
    assert "Office assistant" in checked.stdout and "ready" in checked.stdout


def test_the_window_starts(scripts: Path, tmp_path: Path) -> None:
    pytest.importorskip("PySide6.QtWidgets", exc_type=ImportError)
    shown = _run(scripts / "so8t-studio", "--help")
    assert shown.returncode == 0, shown.stderr
    assert "--workspace" in shown.stdout
    checked = _run(
        scripts / "so8t-studio",
        "--smoke",
        "--workspace",
        tmp_path / "ws",
        QT_QPA_PLATFORM="offscreen",
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    rows = (tmp_path / "ws" / "personas" / "office-assistant" / "dataset.jsonl").read_bytes()
    assert rows.count(b"\n") >= 300  # the starter persona came out of the wheel
