"""bootstrap.py with real environments and real pip, but small local packages instead of torch."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

from tests.helpers.tiny_wheel import make_wheel, only_local_packages

ROOT = Path(__file__).resolve().parents[2]
# A build backend inside of the project: an editable install then needs no other package.
_BACKEND = """
import base64, zipfile
from pathlib import Path

def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    name = "demo-1.0-py3-none-any.whl"
    info = "demo-1.0.dist-info"
    entries = {
        "demo.pth": str(Path.cwd()),
        f"{info}/METADATA": "Metadata-Version: 2.1\\nName: demo\\nVersion: 1.0\\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    }
    record = "".join(f"{entry},,\\n" for entry in [*entries, f"{info}/RECORD"])
    with zipfile.ZipFile(Path(wheel_directory) / name, "w") as archive:
        for entry, text in {**entries, f"{info}/RECORD": record}.items():
            archive.writestr(entry, text)
    return name
"""
_PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "demo"
version = "1.0"
dependencies = ["alpha==1.0", "torch==2.13.0"]

[project.optional-dependencies]
test = ["beta==1.0"]
"""
# Stands in for the engine's command line: writes down how it was called.
_ENGINE = """
import json, os, sys
with open("calls.jsonl", "a", encoding="utf-8") as stream:
    stream.write(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:]]) + "\\n")
sys.exit(int(os.environ.get("DEMO_EXIT", "0")))
"""


@pytest.fixture
def bootstrap(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("bootstrap_under_test", ROOT / "bootstrap.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # System packages are not this test's business.
    monkeypatch.setattr(module, "install_packages", lambda packages, purpose: not packages)
    return module


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small project with the shape of this one, and its packages in a local folder."""
    index = tmp_path / "index"
    # Without the pin, alpha would pull in the newest torch.
    make_wheel(index, "alpha", "1.0", {"alpha.py": b""}, requires=("torch>=2",))
    make_wheel(index, "beta", "1.0", {"beta.py": b""})
    for version in ("2.13.0", "9.9.9"):
        make_wheel(index, "torch", version, {"torch.py": f"version = {version!r}\n".encode()})
    only_local_packages(monkeypatch, index)
    root = tmp_path / "project with a space"
    root.mkdir()
    (root / "pyproject.toml").write_text(_PROJECT, "utf-8")
    (root / "backend.py").write_text(_BACKEND, "utf-8")
    (root / "so8t_engine.py").write_text(_ENGINE, "utf-8")
    (root / "main.py").write_text(_ENGINE, "utf-8")
    (root / "pytest.py").write_text(_ENGINE, "utf-8")
    (root / "ruff.py").write_text(_ENGINE, "utf-8")
    (root / "mypy.py").write_text(_ENGINE, "utf-8")
    shutil.copyfile(ROOT / "bootstrap.py", root / "bootstrap.py")
    return root


def start(root: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the project's bootstrap.py as a user does."""
    inherited = {
        key: value
        for key, value in os.environ.items()
        if key not in ("DISPLAY", "WAYLAND_DISPLAY", "SO8T_VENV", "QT_QPA_PLATFORM")
    }
    return subprocess.run(
        [sys.executable, "bootstrap.py", *arguments],
        cwd=root,
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
        stdin=subprocess.DEVNULL,
    )


def calls(root: Path) -> list[list[str]]:
    """Return how the stand-ins were called since the last time, and forget it."""
    path = root / "calls.jsonl"
    found = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    path.unlink()
    return found


def test_run_sets_up_once_and_then_starts_at_once(project: Path) -> None:
    first = start(project, "run", "--workspace", "my ws")
    assert first.returncode == 0, first.stdout + first.stderr
    for step in ("[1/4] environment", "[2/4] torch", "[3/4] libraries", "[4/4] project"):
        assert step in first.stdout
    assert "There is no display here" in first.stdout
    assert calls(project) == [
        ["so8t_engine.py", "models", "prepare"],
        ["so8t_engine.py", "quickstart", "--workspace", "my ws"],
    ]
    python = project / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    script = "import alpha, torch; print(torch.version)"
    shown = subprocess.run([python, "-c", script], capture_output=True, text=True)
    assert shown.stdout.strip() == "2.13.0", shown.stderr

    started = time.perf_counter()
    second = start(project, "run")
    assert time.perf_counter() - started < 2.0
    assert second.returncode == 0 and "Setting up" not in second.stdout


def test_an_interrupted_set_up_goes_on_where_it_stopped(project: Path, tmp_path: Path) -> None:
    alpha = next((tmp_path / "index").glob("alpha*"))
    hidden = alpha.rename(tmp_path / alpha.name)
    failed = start(project, "run")
    assert failed.returncode == 1
    assert "no suitable file for libraries" in failed.stdout and "Traceback" not in failed.stderr
    assert not (project / "calls.jsonl").exists()
    hidden.rename(alpha)
    done = start(project, "run")
    assert done.returncode == 0, done.stdout
    assert "[1/2] libraries" in done.stdout and "torch" not in done.stdout.split("[1/2]")[0]


def test_a_changed_pyproject_is_installed(project: Path) -> None:
    assert start(project, "run").returncode == 0
    file = project / "pyproject.toml"
    text = file.read_text("utf-8").replace('"alpha==1.0", ', '"alpha==1.0", "beta==1.0", ')
    file.write_text(text, "utf-8")
    again = start(project, "run")
    assert again.returncode == 0 and "Setting up" in again.stdout
    python = project / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    assert subprocess.run([python, "-c", "import beta"]).returncode == 0
    file.write_text(text + "\n[tool.ruff]\nline-length = 90\n", "utf-8")
    third = start(project, "run")  # a linter's setting installs nothing
    assert third.returncode == 0 and "Setting up" not in third.stdout


def test_a_broken_environment_is_made_anew(project: Path) -> None:
    broken = project / ".venv" / "bin"
    broken.mkdir(parents=True)
    (broken / "python").write_text("#!/bin/sh\nexit 3\n")
    (broken / "python").chmod(0o755)
    done = start(project, "run")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_exit_code_of_the_job_is_passed_on(project: Path) -> None:
    assert start(project, "run", DEMO_EXIT="6").returncode == 6
    assert calls(project) == [["so8t_engine.py", "models", "prepare"]]  # nothing after a failure


@pytest.mark.skipif(os.name == "nt", reason="sends a POSIX signal to a process group")
def test_ctrl_c_waits_until_the_program_has_saved(project: Path) -> None:
    assert start(project, "run").returncode == 0
    calls(project)
    (project / "so8t_engine.py").write_text(
        "import pathlib, sys, time\n"
        "if 'quickstart' in sys.argv:\n"
        "    try:\n"
        "        print('training', flush=True)\n"
        "        time.sleep(60)\n"
        "    except KeyboardInterrupt:\n"
        "        time.sleep(1.5)\n"  # longer than subprocess.run would wait
        "        pathlib.Path('saved').touch()\n",
        "utf-8",
    )
    environment = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY")}
    # As in a terminal, also where this suite itself ignores Ctrl-C (as a job in the background).
    terminal = (
        "import runpy, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "sys.argv = ['bootstrap.py', 'run']; runpy.run_path('bootstrap.py', run_name='__main__')"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", terminal],
        cwd=project,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    while "training" not in (line := process.stdout.readline()):
        assert line, "the program did not start"
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=30)[0]
    assert process.returncode == 130 and "Interrupted" in said
    assert (project / "saved").exists()


def test_test_runs_checks_and_suite_or_only_what_is_asked(
    bootstrap: ModuleType,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(bootstrap, "missing_libraries", lambda _wanted: [])
    setup = bootstrap.Setup(project, project / ".venv")
    assert bootstrap.command_test(setup, []) == 0
    assert calls(project) == [
        ["so8t_engine.py", "models", "prepare"],
        ["ruff.py", "check", "."],
        ["ruff.py", "format", "--check", "."],
        ["mypy.py"],
        ["pytest.py", "-n", "2", "--dist", "loadfile"],
    ]
    assert bootstrap.command_test(setup, ["-k", "foo"]) == 0
    assert calls(project)[1:] == [["pytest.py", "-k", "foo"]]
    assert "passed: -m pytest -k foo" in capfd.readouterr().out


def test_a_display_opens_the_window(
    bootstrap: ModuleType, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "missing_libraries", lambda _wanted: [])
    monkeypatch.setenv("DISPLAY", ":7")
    setup = bootstrap.Setup(project, project / ".venv")
    assert bootstrap.command_run(setup, ["--smoke"]) == 0
    assert calls(project)[-1] == ["main.py", "--smoke"]


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["--help"], 0, "bootstrap.py run"),
        (["test", "--help"], 0, "bootstrap.py test"),
        ([], 2, "bootstrap.py run"),
        (["fly"], 2, "no command 'fly'"),
    ],
)
def test_help_needs_no_set_up(
    bootstrap: ModuleType,
    arguments: list[str],
    code: int,
    expected: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert bootstrap.main(arguments) == code
    assert expected in capsys.readouterr().out


def test_arguments_after_two_dashes_belong_to_pytest(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []

    def take(_setup: object, rest: list[str]) -> int:
        seen.append(rest)
        return 0

    monkeypatch.setitem(bootstrap.COMMANDS, "test", take)
    assert bootstrap.main(["test", "--", "-k", "foo", "--help"]) == 0
    assert bootstrap.main(["test", "-k", "foo"]) == 0
    assert seen == [["-k", "foo", "--help"], ["-k", "foo"]]


def test_an_old_python_is_refused(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bootstrap, "MINIMUM", (9, 0))
    assert bootstrap.main(["run"]) == 1
    assert "needs Python 3.11 or newer" in capsys.readouterr().out


def test_a_full_disk_is_refused(
    bootstrap: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=1 << 30))
    with pytest.raises(bootstrap.SetupError, match=r"Only 1\.0 GiB are free"):
        bootstrap.check_space(tmp_path)


def test_a_missing_venv_module_names_the_package(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "quiet", lambda _command: False)
    package = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
    with pytest.raises(bootstrap.SetupError, match=f"apt-get install -y {package}"):
        bootstrap.ensure_venv_module()


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ("OSError: [Errno 28] No space left on device", "The disk is full"),
        ("NewConnectionError('<x>: Failed to establish", "cannot be reached"),
        ("Temporary failure in name resolution", "cannot be reached"),
        ("ERROR: No matching distribution found for x==1", "no suitable file for libraries"),
        ("something else", "Installing libraries failed"),
    ],
)
def test_pip_failures_are_sentences(
    bootstrap: ModuleType, tmp_path: Path, log: str, expected: str
) -> None:
    path = tmp_path / "pip.log"
    path.write_text(log, "utf-8")
    said = bootstrap.explain_pip(path, "libraries")
    assert expected in said and "continues where it stopped" in said


def test_missing_system_libraries_are_named_by_their_package(bootstrap: ModuleType) -> None:
    wanted = {"libc.so.6": "libc6", "libdoes-not-exist.so.1": "libdoes-not-exist1"}
    if sys.platform.startswith("linux"):
        assert bootstrap.missing_libraries(wanted) == ["libdoes-not-exist1"]


@pytest.mark.skipif(os.name == "nt", reason="runs a shell script as fc-list")
def test_a_japanese_font_is_asked_for_only_where_none_is(
    bootstrap: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = tmp_path / "fc-list"
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(bootstrap, "FONT_FOLDERS", (tmp_path / "fonts",))
    assert bootstrap.missing_fonts() == ["fonts-noto-cjk"]  # no fc-list, no font
    listing.write_text("#!/bin/sh\necho 'Some Gothic'\n", "utf-8")
    listing.chmod(0o755)
    assert bootstrap.missing_fonts() == []
    listing.write_text("#!/bin/sh\n", "utf-8")
    assert bootstrap.missing_fonts() == ["fonts-noto-cjk"]
    (tmp_path / "fonts" / "opentype").mkdir(parents=True)
    (tmp_path / "fonts" / "opentype" / "NotoSansCJK-Regular.ttc").touch()
    assert bootstrap.missing_fonts() == []


def test_ci_runs_the_test_command_of_the_readme() -> None:
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    assert "python3 bootstrap.py test" in script.splitlines()[-1]
    assert "python3 bootstrap.py test" in (ROOT / "README.md").read_text("utf-8")
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
