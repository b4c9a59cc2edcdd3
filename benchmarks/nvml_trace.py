"""Records what a real NVIDIA driver answers, question by question, for the replay in the tests.

Needs ``nvidia-ml-py`` and Python's own library, no stdin, and nothing of this project; so it runs
on a machine where only a driver is installed. Every answer is kept as the driver gave it, errors
with their code; the unique ids of the cards are replaced.

    python benchmarks/nvml_trace.py --out tests/fixtures/nvml_h100.jsonl --seconds 60
    python benchmarks/nvml_trace.py --out FILE --margin 8 -- python -c "…"   # while that runs

One line of JSON each: first a header with driver, library and constants, then a sample for each
moment with the answers of each card, the seconds since the start, what the questions cost (``ms``)
and the process id of the program that ran meanwhile.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

FORMAT = "nvml-trace"
VERSION = 1
# Function and arguments after the handle, by the names of the constants.
QUESTIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("nvmlDeviceGetName", ()),
    ("nvmlDeviceGetUUID", ()),
    ("nvmlDeviceGetMemoryInfo", ()),
    ("nvmlDeviceGetUtilizationRates", ()),
    ("nvmlDeviceGetTemperature", ("NVML_TEMPERATURE_GPU",)),
    ("nvmlDeviceGetTemperatureThreshold", ("NVML_TEMPERATURE_THRESHOLD_SHUTDOWN",)),
    ("nvmlDeviceGetTemperatureThreshold", ("NVML_TEMPERATURE_THRESHOLD_SLOWDOWN",)),
    ("nvmlDeviceGetTemperatureThreshold", ("NVML_TEMPERATURE_THRESHOLD_GPU_MAX",)),
    ("nvmlDeviceGetMarginTemperature", ()),
    ("nvmlDeviceGetPowerUsage", ()),
    ("nvmlDeviceGetEnforcedPowerLimit", ()),
    ("nvmlDeviceGetPowerManagementLimit", ()),
    ("nvmlDeviceGetClockInfo", ("NVML_CLOCK_GRAPHICS",)),
    ("nvmlDeviceGetClockInfo", ("NVML_CLOCK_SM",)),
    ("nvmlDeviceGetClockInfo", ("NVML_CLOCK_MEM",)),
    ("nvmlDeviceGetMaxClockInfo", ("NVML_CLOCK_SM",)),
    ("nvmlDeviceGetCurrentClocksEventReasons", ()),
    ("nvmlDeviceGetCurrentClocksThrottleReasons", ()),
    ("nvmlDeviceGetFanSpeed", ()),
    ("nvmlDeviceGetNumFans", ()),
    ("nvmlDeviceGetPerformanceState", ()),
    ("nvmlDeviceGetComputeRunningProcesses", ()),
    ("nvmlDeviceGetGraphicsRunningProcesses", ()),
)
CONSTANTS = (
    "NVML_ERROR_GPU_IS_LOST",
    "NVML_ERROR_UNINITIALIZED",
    "NVML_ERROR_UNKNOWN",
    "NVML_ERROR_RESET_REQUIRED",
    "NVML_ERROR_NOT_SUPPORTED",
)


def plain(value: Any) -> Any:
    """Return an answer as JSON can carry it: structures as dictionaries of their numbers."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    names = [field[0] for field in getattr(value, "_fields_", ())] or list(
        getattr(value, "__dict__", {})
    )
    found = {name: getattr(value, name, None) for name in names}
    return {
        name: item
        for name, item in found.items()
        if item is None or isinstance(item, (bool, int, float, str))
    }


def key_of(name: str, arguments: Sequence[str]) -> str:
    """Return a question's name in the trace, as ``nvmlDeviceGetClockInfo(NVML_CLOCK_SM)``."""
    return f"{name}({', '.join(arguments)})"


def ask(library: Any, name: str, call: Callable[[], Any] | None) -> dict[str, Any]:
    """Return the answer or the error of one question."""
    if call is None:
        return {"error": None, "text": "the library does not know the question"}
    try:
        value = plain(call())
    except Exception as error:  # noqa: BLE001 - the driver's boundary; the error is the answer
        code = getattr(error, "value", None)
        return {"error": code if isinstance(code, int) else None, "text": str(error) or repr(error)}
    if name == "nvmlDeviceGetUUID":
        value = "masked"
    return {"value": value}


def sample(library: Any, handles: Sequence[Any]) -> list[dict[str, Any]]:
    """Put every question to every card."""
    cards = []
    for handle in handles:
        answers = {}
        for name, names in QUESTIONS:
            question = getattr(library, name, None)
            values = [getattr(library, constant, None) for constant in names]
            if question is None or None in values:
                continue  # this library does not know the question
            answers[key_of(name, names)] = ask(
                library, name, lambda q=question, v=values, h=handle: q(h, *v)
            )
        cards.append(answers)
    return cards


def header(library: Any, count: int, interval: float) -> dict[str, Any]:
    """Return the first line of the trace."""
    names = {name for _question, names in QUESTIONS for name in names} | set(CONSTANTS)
    return {
        "format": FORMAT,
        "version": VERSION,
        "gpus": count,
        "interval": interval,
        "driver": ask(library, "", getattr(library, "nvmlSystemGetDriverVersion", None)),
        "nvml": ask(library, "", getattr(library, "nvmlSystemGetNVMLVersion", None)),
        "system": platform.system(),
        "constants": {name: getattr(library, name, None) for name in sorted(names)},
    }


class Load:
    """A program that runs while the trace is recorded."""

    def __init__(self, line: Sequence[str]) -> None:
        self.line = list(line)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it without a stdin; its output goes to stderr."""
        if self.line:
            self.process = subprocess.Popen(self.line, stdin=subprocess.DEVNULL, stdout=2)

    @property
    def running(self) -> bool:
        """True until it ended."""
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        """Its process id while it runs, else 0."""
        return self.process.pid if self.process is not None and self.running else 0

    def end(self) -> int:
        """End it if it still runs; return its exit code, 0 where there was none."""
        if self.process is None:
            return 0
        if self.running:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return int(self.process.wait())


def record(
    library: Any, out: Path, *, seconds: float, interval: float, margin: float, load: Load
) -> int:
    """Write the trace, each line at once; return the number of samples.

    Without a program it lasts ``seconds``; with one, it begins and ends ``margin`` seconds
    before and after it, and ``seconds`` is the longest that it lasts.
    """
    library.nvmlInit()
    count = int(library.nvmlDeviceGetCount())
    handles = [library.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
    written = 0
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", encoding="utf-8", newline="\n") as stream:
        stream.write(json.dumps(header(library, count, interval)) + "\n")
        begin = due = time.monotonic()
        ended_at: float | None = None
        wake = threading.Event()
        while True:
            now = time.monotonic() - begin
            if load.line and load.process is None and now >= margin:
                load.start()
            before = time.perf_counter()
            cards = sample(library, handles)
            cost = 1000 * (time.perf_counter() - before)
            line = {"t": round(now, 3), "ms": round(cost, 3), "load_pid": load.pid, "gpus": cards}
            stream.write(json.dumps(line) + "\n")
            stream.flush()
            written += 1
            if load.process is not None and not load.running and ended_at is None:
                ended_at = now
            if now >= seconds or (ended_at is not None and now >= ended_at + margin):
                break
            due = max(due + interval, time.monotonic())
            wake.wait(due - time.monotonic())
    library.nvmlShutdown()
    return written


def main() -> int:
    """Record as the command line says."""
    arguments = sys.argv[1:]
    line: list[str] = []
    if "--" in arguments:
        at = arguments.index("--")
        arguments, line = arguments[:at], arguments[at + 1 :]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, required=True, help="the file to write")
    parser.add_argument("--seconds", type=float, default=60.0, help="the longest that it lasts")
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between samples")
    parser.add_argument("--margin", type=float, default=8.0, help="seconds around the program")
    options = parser.parse_args(arguments)
    try:
        import pynvml
    except ImportError:
        print("nvidia-ml-py is missing: python -m pip install nvidia-ml-py", file=sys.stderr)
        return 6
    load = Load(line)
    try:
        written = record(
            pynvml, options.out, seconds=options.seconds, interval=options.interval,
            margin=options.margin, load=load,
        )  # fmt: skip
    except Exception as error:  # noqa: BLE001 - whatever the driver raises ends the recording
        print(f"The driver cannot be asked: {error!r}", file=sys.stderr)
        return 6
    finally:
        code = load.end()
    print(f"{written} samples in {options.out}; the program ended with code {code}")
    return 0 if code == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
