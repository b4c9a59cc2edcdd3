"""GPU figures through NVML, each field guarded on its own (torch-free).

A driver may be absent, answer half of the questions, or lose a card while it runs. None of that
raises here: an unanswered field is None, and a note says in words what is wrong.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, TypeVar

from so8t_engine.events import GpuReading

T = TypeVar("T")

RETRY_S = 15.0
PROCESSES_S = 5.0
# nvmlClocksEventReason bits, NVML API reference (stable since driver 390).
THROTTLE_BITS: tuple[tuple[int, str], ...] = (
    (0x0000000000000004, "power limit"),
    (0x0000000000000008, "hardware slowdown"),
    (0x0000000000000020, "temperature (software)"),
    (0x0000000000000040, "temperature (hardware)"),
    (0x0000000000000080, "power brake"),
    (0x0000000000000010, "synchronised boost"),
    (0x0000000000000002, "clocks fixed by an application"),
    (0x0000000000000100, "display clock"),
)


def throttle_words(mask: int) -> str:
    """Return what holds the clocks back; ``none`` if nothing but idling does."""
    words = [name for bit, name in THROTTLE_BITS if mask & bit]
    return ", ".join(words) if words else "none"


def _running_processes(library: Any, handle: Any) -> Any:
    return library.nvmlDeviceGetComputeRunningProcesses(handle)


class NvmlReader:
    """Reads all GPUs. ``library`` is the module ``pynvml`` or something that acts like it."""

    def __init__(self, library: Any = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._library = library
        self._ready = False
        self._next_try = 0.0
        self._note = ""
        self._static: dict[int, dict[str, Any]] = {}
        self._handles: list[Any] = []
        self._lost: dict[int, str] = {}
        self._memory: dict[int, dict[int, int]] = {}
        self._processes_due = 0.0

    def read(self, pids: frozenset[int] = frozenset()) -> tuple[tuple[GpuReading, ...], str]:
        """Return one reading a GPU and a note (empty while all is well).

        Args:
            pids: processes of the watched job, for its share of the memory.
        """
        now = self._clock()
        if not self._connected(now):
            return (), self._note
        if pids and now >= self._processes_due:
            self._processes_due = now + PROCESSES_S
            self._read_processes()
        readings = tuple(self._read_gpu(index, pids) for index in range(len(self._handles)))
        return readings, "; ".join(self._lost[index] for index in sorted(self._lost))

    def close(self) -> None:
        """Let go of the driver."""
        if self._ready:
            self._ask(lambda lib: lib.nvmlShutdown())
        self._ready = False

    # -- start and loss -------------------------------------------------------------------------
    def _connected(self, now: float) -> bool:
        if now >= self._next_try:
            if not self._ready:
                self._start()
            elif self._lost:
                self._restart()
        return self._ready

    def _start(self) -> None:
        self._next_try = self._clock() + RETRY_S
        if self._library is None:
            try:
                import pynvml
            except ImportError:
                self._note = "nvidia-ml-py is not installed."
                return
            self._library = pynvml
        library = self._library
        try:
            library.nvmlInit()
            count = int(library.nvmlDeviceGetCount())
            self._handles = [library.nvmlDeviceGetHandleByIndex(i) for i in range(count)]
        except Exception as error:  # noqa: BLE001 - the driver's boundary; it raises anything
            self._note = f"No NVIDIA driver answers ({self._words(error)})."
            self._handles = []
            return
        self._note = "" if self._handles else "The NVIDIA driver reports no GPU."
        self._lost.clear()
        self._ready = bool(self._handles)

    def _restart(self) -> None:
        before = dict(self._lost)
        self.close()
        self._start()
        if not self._ready:
            self._note = "; ".join(before.values()) or self._note

    @staticmethod
    def _words(error: BaseException) -> str:
        return str(error) or type(error).__name__

    def _ask(self, question: Callable[[Any], T]) -> T | None:
        try:
            return question(self._library)
        except Exception:  # noqa: BLE001 - see _start
            return None

    def _number(self, question: Callable[[Any], Any], scale: float = 1.0) -> float | None:
        value = self._ask(question)
        try:
            return None if value is None else float(value) * scale
        except (TypeError, ValueError):
            return None

    # -- one GPU --------------------------------------------------------------------------------
    def _read_gpu(self, index: int, pids: frozenset[int]) -> GpuReading:
        handle = self._handles[index]
        fixed = self._static.get(index)
        if fixed is None:
            fixed = self._static[index] = self._read_static(handle)
        library = self._library
        used: int | None = None
        total: int | None = None
        try:
            memory = library.nvmlDeviceGetMemoryInfo(handle)
            used, total = int(memory.used), int(memory.total)
            self._lost.pop(index, None)
        except Exception as error:  # noqa: BLE001 - see _start
            if self._is_loss(error):
                if index not in self._lost:
                    self._next_try = self._clock() + RETRY_S
                self._lost[index] = f"GPU {index} no longer answers ({self._words(error)})"
                return GpuReading(index=index, name=fixed["name"], uuid=fixed["uuid"])
        rates = self._ask(lambda lib: lib.nvmlDeviceGetUtilizationRates(handle))
        share = None
        if pids and index in self._memory:
            share = sum(size for pid, size in self._memory[index].items() if pid in pids)
        clock_sm = self._number(lambda lib: lib.nvmlDeviceGetClockInfo(handle, lib.NVML_CLOCK_SM))
        clock_mem = self._number(lambda lib: lib.nvmlDeviceGetClockInfo(handle, lib.NVML_CLOCK_MEM))
        mask = self._ask(lambda lib: self._throttle(lib, handle))
        return GpuReading(
            index=index,
            name=fixed["name"],
            uuid=fixed["uuid"],
            utilization=None if rates is None else self._number(lambda _lib: rates.gpu),
            memory_used=used,
            memory_total=total,
            temperature=self._number(
                lambda lib: lib.nvmlDeviceGetTemperature(handle, lib.NVML_TEMPERATURE_GPU)
            ),
            temperature_slowdown=fixed["slowdown"],
            power=self._number(lambda lib: lib.nvmlDeviceGetPowerUsage(handle), 1e-3),
            power_limit=fixed["limit"],
            clock_sm=None if clock_sm is None else int(clock_sm),
            clock_memory=None if clock_mem is None else int(clock_mem),
            throttle=None if mask is None else throttle_words(mask),
            fan=self._number(lambda lib: lib.nvmlDeviceGetFanSpeed(handle)),
            job_memory=share,
        )

    def _is_loss(self, error: BaseException) -> bool:
        lost = getattr(self._library, "NVML_ERROR_GPU_IS_LOST", 15)
        gone = getattr(self._library, "NVML_ERROR_UNINITIALIZED", 1)
        unknown = getattr(self._library, "NVML_ERROR_UNKNOWN", 999)
        return getattr(error, "value", None) in (lost, gone, unknown)

    def _read_static(self, handle: Any) -> dict[str, Any]:
        def text(value: Any) -> str | None:
            if isinstance(value, bytes):
                return value.decode("utf-8", "replace")
            return None if value is None else str(value)

        return {
            "name": text(self._ask(lambda lib: lib.nvmlDeviceGetName(handle))),
            "uuid": text(self._ask(lambda lib: lib.nvmlDeviceGetUUID(handle))),
            "slowdown": self._number(
                lambda lib: lib.nvmlDeviceGetTemperatureThreshold(
                    handle, lib.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN
                )
            ),
            "limit": self._number(lambda lib: lib.nvmlDeviceGetEnforcedPowerLimit(handle), 1e-3),
        }

    @staticmethod
    def _throttle(library: Any, handle: Any) -> int:
        ask = getattr(library, "nvmlDeviceGetCurrentClocksEventReasons", None)
        if ask is None:  # its name before driver 535
            ask = library.nvmlDeviceGetCurrentClocksThrottleReasons
        return int(ask(handle))

    def _read_processes(self) -> None:
        for index, handle in enumerate(self._handles):
            found = self._ask(functools.partial(_running_processes, handle=handle))
            if found is not None:
                self._memory[index] = {
                    int(item.pid): int(item.usedGpuMemory or 0) for item in found
                }
