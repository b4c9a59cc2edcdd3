"""Answers like ``pynvml`` with what a real driver answered (see ``benchmarks/nvml_trace.py``)."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

CONSTANTS = {
    # Names that a library knew but the recorder did not note; the values are NVML's own.
    "NVML_CLOCK_SM": 1,
    "NVML_CLOCK_MEM": 2,
    "NVML_TEMPERATURE_GPU": 0,
    "NVML_TEMPERATURE_THRESHOLD_SLOWDOWN": 1,
    "NVML_ERROR_GPU_IS_LOST": 15,
    "NVML_ERROR_UNINITIALIZED": 1,
    "NVML_ERROR_UNKNOWN": 999,
    "NVML_ERROR_RESET_REQUIRED": 16,
}


class ReplayedError(Exception):
    """An error as the driver gave it."""

    def __init__(self, value: int | None, text: str) -> None:
        super().__init__(text)
        self.value = value


class TraceLibrary:
    """The module ``pynvml`` at one sample of a trace; :meth:`seek` goes to another."""

    def __init__(self, path: Path) -> None:
        with path.open(encoding="utf-8") as stream:
            lines = [json.loads(line) for line in stream if line.strip()]
        self.header, self.samples = lines[0], lines[1:]
        assert self.header["format"] == "nvml-trace" and self.header["version"] == 1
        self._known = CONSTANTS | {
            name: value for name, value in self.header["constants"].items() if value is not None
        }
        self._names: dict[tuple[str, tuple[Any, ...]], str] = {}
        self._at = 0

    def seek(self, index: int) -> None:
        """Answer from this sample on."""
        self._at = index

    def answer(self, gpu: int, question: str) -> dict[str, Any] | None:
        """Return the raw answer at this sample, None if it was not asked."""
        found: dict[str, Any] | None = self.samples[self._at]["gpus"][gpu].get(question)
        return found

    def nvmlInit(self) -> None:
        """Nothing to start."""

    def nvmlShutdown(self) -> None:
        """Nothing to end."""

    def nvmlDeviceGetCount(self) -> int:
        """Return the number of cards."""
        return int(self.header["gpus"])

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        """Return a handle."""
        return index

    def __getattr__(self, name: str) -> Any:
        if name.startswith("NVML_"):
            try:
                return self._known[name]
            except KeyError:
                raise AttributeError(name) from None
        if not name.startswith("nvmlDevice"):
            raise AttributeError(name)

        def call(handle: int, *arguments: int) -> Any:
            answers = self.samples[self._at]["gpus"][handle]
            for question, answer in answers.items():
                function, _, inner = question.partition("(")
                names = [part for part in inner.rstrip(")").split(", ") if part]
                if function == name and tuple(map(self._known.get, names)) == arguments:
                    return _decoded(answer)
            raise ReplayedError(13, "Function Not Found")

        return call


def _decoded(answer: dict[str, Any]) -> Any:
    if "value" not in answer:
        raise ReplayedError(answer["error"], answer["text"])
    value = answer["value"]
    if isinstance(value, dict):
        return SimpleNamespace(**value)
    if isinstance(value, list):
        return [SimpleNamespace(**item) if isinstance(item, dict) else item for item in value]
    return value
