#!/usr/bin/env python3
"""Set up SO8T Studio and start it, or test it. Needs Python 3.11 or newer and nothing else.

    python3 bootstrap.py run  [arguments of so8t-studio]
    python3 bootstrap.py test [arguments of pytest]

`run`   creates .venv, installs the pinned dependencies, gets the default base model and opens the
        studio on the starter persona. Without a display it runs `so8t quickstart` instead, the same
        main job headless.
`test`  does the same with the test tools and missing system libraries, then checks style and types
        and runs the whole suite without a display. With arguments (`test -- -k name`) it runs only
        pytest, with these.

Everything that is done is remembered in .venv, so a second start is quick and an interrupted set-up
continues. pip's own settings (index, proxy, cache) apply. `SO8T_VENV` names another place for the
environment, `SO8T_CACHE` one for the base model.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
MINIMUM = (3, 11)
STAMP_VERSION = 1
MIN_FREE_BYTES = 3 << 30

# Shared libraries that Qt loads and wheels do not carry, with the Debian package of each.
OFFSCREEN_LIBRARIES = {
    "libEGL.so.1": "libegl1",
    "libGL.so.1": "libgl1",
    "libfontconfig.so.1": "libfontconfig1",
    "libdbus-1.so.3": "libdbus-1-3",
    "libxkbcommon.so.0": "libxkbcommon0",
    "libglib-2.0.so.0": "libglib2.0-0",
}
WINDOW_LIBRARIES = {
    "libxkbcommon-x11.so.0": "libxkbcommon-x11-0",
    "libxcb-cursor.so.0": "libxcb-cursor0",
    "libxcb-icccm.so.4": "libxcb-icccm4",
    "libxcb-image.so.0": "libxcb-image0",
    "libxcb-keysyms.so.1": "libxcb-keysyms1",
    "libxcb-randr.so.0": "libxcb-randr0",
    "libxcb-render-util.so.0": "libxcb-render-util0",
    "libxcb-shape.so.0": "libxcb-shape0",
    "libxcb-xinerama.so.0": "libxcb-xinerama0",
    "libxcb-xfixes.so.0": "libxcb-xfixes0",
}
TEST_TOOLS = {"xvfb": "Xvfb"}
JAPANESE_FONTS = ("fonts-noto-cjk", "NotoSansCJK*")
FONT_FOLDERS = (Path("/usr/share/fonts"), Path("/usr/local/share/fonts"), Path.home() / ".fonts")
LIBRARY_FOLDERS = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib")


class SetupError(Exception):
    """A set-up that cannot go on; the message says why and what to do."""


def say(text: str) -> None:
    """Print a line at once, also when the output is a file or a pipe."""
    print(text, flush=True)


class Setup:
    """The environment of one source folder: what is installed, and what is left to do.

    Args:
        root: folder with pyproject.toml.
        venv: folder of the virtual environment.
    """

    def __init__(self, root: Path, venv: Path) -> None:
        self.root = root
        self.venv = venv
        self.stamp = venv / "so8t-setup.json"
        self.log = venv / "so8t-pip.log"

    @property
    def python(self) -> Path:
        """The environment's interpreter."""
        if os.name == "nt":
            return self.venv / "Scripts" / "python.exe"
        return self.venv / "bin" / "python"

    def key(self) -> str:
        """What the installed packages depend on, as one hash.

        The settings of linters and tests in pyproject.toml are left out: they install nothing.
        """
        parsed = self._pyproject()
        parts = [parsed.get("build-system"), parsed["project"]]
        parts += [parsed.get("tool", {}).get("hatch"), STAMP_VERSION, sys.version]
        parts += [platform.machine(), str(self.root)]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _pyproject(self) -> dict[str, Any]:
        import tomllib

        return tomllib.loads((self.root / "pyproject.toml").read_text("utf-8"))

    def done_steps(self) -> list[str]:
        """Steps that ended well for the present pyproject.toml and Python."""
        try:
            found = json.loads(self.stamp.read_text("utf-8"))
            if found["key"] == self.key() and self.python.exists():
                return list(found["steps"])
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return []

    def mark(self, step: str) -> None:
        """Remember that ``step`` ended well."""
        steps = [*(name for name in self.done_steps() if name != step), step]
        partial = self.stamp.with_suffix(".partial")
        partial.write_text(json.dumps({"key": self.key(), "steps": steps}), "utf-8")
        partial.replace(self.stamp)

    def requirements(self) -> tuple[list[str], list[str], list[str]]:
        """Return torch, the other dependencies, and the test extra, as pinned in pyproject.toml."""
        project = self._pyproject()["project"]
        pinned = project.get("dependencies", [])
        torch = [line for line in pinned if line.split("==")[0].strip() == "torch"]
        others = [line for line in pinned if line not in torch]
        return torch, others, project.get("optional-dependencies", {}).get("test", [])

    def install(self, *, with_tests: bool) -> None:
        """Create the environment and install what is missing in it."""
        steps = ["environment", "torch", "libraries", "project"] + ["test"] * with_tests
        done = self.done_steps()
        missing = [step for step in steps if step not in done]
        if not missing:
            return
        say(f"Setting up {self.venv} ({len(missing)} steps; this happens once).")
        started = time.monotonic()
        torch, others, tests = self.requirements()
        actions = {
            "environment": self._create,
            # First and alone: no other requirement may then pull in another build of it.
            "torch": lambda: self._pip("PyTorch", torch),
            "libraries": lambda: self._pip("libraries", torch + others),
            "project": lambda: self._pip(
                "SO8T Studio", ["--no-deps", "--editable", str(self.root)]
            ),
            "test": lambda: self._pip("test tools", torch + tests),
        }
        for number, step in enumerate(missing, 1):
            say(f"\n[{number}/{len(missing)}] {step}")
            actions[step]()
            self.mark(step)
        say(f"\nReady after {time.monotonic() - started:.0f} s.")

    def _create(self) -> None:
        check_space(self.root)
        command = [str(self.python), "-m", "pip", "--version"]
        if self.python.exists() and self._same_python() and quiet(command):
            return
        ensure_venv_module()
        say(f"Creating the environment in {self.venv}")
        made = subprocess.run([sys.executable, "-m", "venv", "--clear", str(self.venv)])
        if made.returncode or not self.python.exists():
            raise SetupError(
                f"The environment in {self.venv} could not be created (see above). "
                "Check that the folder may be written, then run the command again."
            )

    def _same_python(self) -> bool:
        script = "import sys; print(sys.version)"
        found = subprocess.run([self.python, "-c", script], capture_output=True, text=True)
        return found.stdout.strip() == sys.version.strip()

    def _pip(self, title: str, arguments: list[str]) -> None:
        if not arguments:
            return
        say(f"Installing {title}")
        self.log.unlink(missing_ok=True)
        command = [str(self.python), "-m", "pip", "install", "--disable-pip-version-check"]
        command += ["--no-input", "--log", str(self.log), *arguments]
        if subprocess.run(command, cwd=self.root).returncode:
            raise SetupError(explain_pip(self.log, title))


def quiet(command: list[str]) -> bool:
    """Tell whether ``command`` ends well, without showing what it prints."""
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        return False


def explain_pip(log: Path, title: str) -> str:
    """Return the sentence for a failed installation, from what pip wrote into its log."""
    try:
        text = log.read_text("utf-8", errors="replace").casefold()
    except OSError:
        text = ""
    again = "then run the same command again; it continues where it stopped."
    if "no space left" in text or "errno 28" in text:
        return f"The disk is full. Free some space (pip's cache counts too), {again}"
    network = ("newconnectionerror", "name resolution", "connecttimeout", "connection to", "proxy")
    if any(sign in text for sign in network):
        return f"The package index cannot be reached. Check the network or the proxy, {again}"
    if "no matching distribution" in text:
        return (
            f"The package index has no suitable file for {title} (see above). Check that Python "
            f"{platform.python_version()} on {platform.machine()} is supported by it, {again}"
        )
    return f"Installing {title} failed (see above; details in {log}). Correct that, {again}"


def check_python() -> None:
    """Refuse a Python that is too old, in a way that an old Python can still say."""
    if sys.version_info < MINIMUM:
        raise SetupError(
            f"SO8T Studio needs Python 3.11 or newer, but this is {platform.python_version()}. "
            "Install a newer one and use it here, e.g. python3.11 bootstrap.py run"
        )


def check_space(folder: Path) -> None:
    """Refuse to begin where the libraries cannot fit."""
    free = shutil.disk_usage(folder).free
    if free < MIN_FREE_BYTES:
        raise SetupError(
            f"Only {free / 2**30:.1f} GiB are free in {folder}; the libraries need at least "
            f"{MIN_FREE_BYTES >> 30} GiB. Free some space, then run the command again."
        )


def ensure_venv_module() -> None:
    """Make sure that this Python can create environments; Debian ships that apart."""
    if quiet([sys.executable, "-c", "import venv, ensurepip"]):
        return
    package = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
    if not install_packages([package], "Python's venv module"):
        raise SetupError(
            "This Python cannot create virtual environments (venv or ensurepip is missing). "
            f"On Debian or Ubuntu: sudo apt-get install -y {package}"
        )


def known_libraries() -> str:
    """Return the linker's list of shared libraries as text; empty where there is none."""
    for program in ("ldconfig", "/sbin/ldconfig", "/usr/sbin/ldconfig"):
        try:
            found = subprocess.run([program, "-p"], capture_output=True, text=True)
        except OSError:
            continue
        if found.returncode == 0:
            return found.stdout
    return ""


def missing_libraries(wanted: dict[str, str]) -> list[str]:
    """Return the Debian packages of those shared libraries that the linker cannot find."""
    listed = known_libraries()
    absent = []
    for library, package in wanted.items():
        if library + " " in listed:
            continue
        folders = [Path(folder) for folder in LIBRARY_FOLDERS]
        if not any(list(f.glob(library)) + list(f.glob("*/" + library)) for f in folders):
            absent.append(package)
    return absent


def install_packages(packages: list[str], purpose: str) -> bool:
    """Install Debian packages if this may be done here; otherwise say how. True if installed."""
    if not packages:
        return True
    if not shutil.which("apt-get"):
        say(f"Missing for {purpose}; their Debian names are: {' '.join(packages)}")
        return False
    if os.geteuid() != 0:
        say(f"Missing for {purpose}: sudo apt-get install -y {' '.join(packages)}")
        return False
    say(f"Installing system packages for {purpose}: {' '.join(packages)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-q"], env=environment)
    command = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *packages]
    return subprocess.run(command, env=environment).returncode == 0


def missing_fonts() -> list[str]:
    """Return the Debian package of a Japanese font unless some font here has Japanese signs.

    Without one, half of the starter persona's examples are rows of empty boxes.
    """
    try:
        found = subprocess.run(["fc-list", ":lang=ja", "family"], capture_output=True, text=True)
        if found.stdout.strip():
            return []
    except OSError:
        pass
    package, pattern = JAPANESE_FONTS
    return [] if any(list(folder.rglob(pattern)) for folder in FONT_FOLDERS) else [package]


def ensure_window_libraries() -> None:
    """Check what a window on Linux needs before Qt fails with a message nobody understands."""
    absent = missing_libraries({**OFFSCREEN_LIBRARIES, **WINDOW_LIBRARIES})
    if not install_packages(absent, "the window"):
        say("The window may fail to open until these are installed.")
    if not install_packages(missing_fonts(), "Japanese text"):
        say("Japanese text shows as boxes until a font is installed.")


def ensure_test_packages() -> None:
    """Check what the suite needs; without Qt's libraries nothing of it can run."""
    absent = missing_libraries(OFFSCREEN_LIBRARIES)
    extra = missing_libraries(WINDOW_LIBRARIES)
    extra += [package for package, tool in TEST_TOOLS.items() if not shutil.which(tool)]
    extra += missing_fonts()
    if install_packages(absent + extra, "the tests"):
        return
    if missing_libraries(OFFSCREEN_LIBRARIES):
        raise SetupError("The window's tests need the system packages named above.")
    say("Tests that need the packages named above are skipped.")


def has_display() -> bool:
    """Tell whether a window can be opened here."""
    if not sys.platform.startswith("linux"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def child_environment(**more: str) -> dict[str, str]:
    """Return the environment of everything that is started from here."""
    return {**os.environ, "PYTHONUTF8": "1", **more}


def call(setup: Setup, arguments: list[str], environment: dict[str, str]) -> int:
    """Run the environment's Python in the source folder and return its exit code.

    Ctrl-C reaches the program as well, which may have a checkpoint to save: it is waited for. A
    second Ctrl-C ends it at once.
    """
    command = [str(setup.python), *arguments]
    with subprocess.Popen(command, cwd=setup.root, env=environment) as program:
        try:
            return program.wait()
        except KeyboardInterrupt:
            try:
                program.wait()
            except KeyboardInterrupt:
                program.kill()
            raise


def prepare_model(setup: Setup) -> int:
    """Get the default base model unless it is there."""
    return call(setup, ["-m", "so8t_engine", "models", "prepare"], child_environment())


def command_run(setup: Setup, arguments: list[str]) -> int:
    """Set up, then open the studio; without a display, do the main job headless."""
    setup.install(with_tests=False)
    failed = prepare_model(setup)
    if failed:
        return failed
    if not has_display():
        say("There is no display here (neither DISPLAY nor WAYLAND_DISPLAY is set), so no window")
        say("can open. Running the same main job headless: so8t quickstart")
        return call(setup, ["-m", "so8t_engine", "quickstart", *arguments], child_environment())
    if sys.platform.startswith("linux"):
        ensure_window_libraries()
    return call(setup, [str(setup.root / "main.py"), *arguments], child_environment())


def command_test(setup: Setup, arguments: list[str]) -> int:
    """Set up with the test tools, then check style and types and run the suite."""
    if sys.platform.startswith("linux"):
        ensure_test_packages()
    setup.install(with_tests=True)
    failed = prepare_model(setup)
    if failed:
        return failed
    environment = child_environment(QT_QPA_PLATFORM="offscreen")
    # The whole suite runs in two processes, each file in one of them, and each with one thread.
    together = ["-n", "2", "--dist", "loadfile"]
    pytest = ["-m", "pytest", *(arguments or together)]
    if not arguments:
        environment["OMP_NUM_THREADS"] = "1"
    checks = [
        ["-m", "ruff", "check", "."],
        ["-m", "ruff", "format", "--check", "."],
        ["-m", "mypy"],
    ]
    results = []
    for command in [pytest] if arguments else [*checks, pytest]:
        say(f"\n$ python {' '.join(command)}")
        results.append((call(setup, command, environment), " ".join(command)))
    for code, name in results:
        say(f"{'failed' if code else 'passed'}: {name}")
    return next((code for code, _name in results if code), 0)


COMMANDS = {"run": command_run, "test": command_test}


def main(arguments: list[str]) -> int:
    """Act on the command line and return the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    name, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    own = rest[: rest.index("--")] if "--" in rest else rest
    if {"-h", "--help"} & {name, *own}:
        say((__doc__ or "").strip())
        return 0 if arguments else 2
    if name not in COMMANDS:
        say(f"There is no command {name!r}; use run, test or --help.")
        return 2
    if "--" in rest:
        rest.remove("--")
    try:
        check_python()
        venv = Path(os.environ.get("SO8T_VENV") or ROOT / ".venv").absolute()
        return COMMANDS[name](Setup(ROOT, venv), rest)
    except SetupError as error:
        say(f"\n{error}")
        return 1
    except KeyboardInterrupt:
        say("\nInterrupted. If this was the set-up, the same command continues where it stopped.")
        return 130


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
