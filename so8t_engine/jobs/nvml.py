"""GPU figures through NVML, each field guarded on its own (torch-free).

A driver may be absent, answer half of the questions, or lose a card while it runs. None of that
raises here: an unanswered field is None, and a note says in words what is wrong.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, TypeVar

import psutil

from so8t_engine.events import GpuHolder, GpuReading

T = TypeVar("T")

RETRY_S = 15.0
PROCESSES_S = 5.0
LIMITS_S = 30.0
HOLDERS = 8
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


def process_name(pid: int) -> str:
    """Return the name of a process, empty where it cannot be told."""
    try:
        return str(psutil.Process(pid).name())
    except (psutil.Error, OSError, ValueError):
        return ""


class NvmlReader:
    """Reads all GPUs. ``library`` is the module ``pynvml`` or something that acts like it."""

    def __init__(self, library: Any = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._library = library
        self._ready = False
        self._next_try = 0.0
        self._note = ""
        self._static: dict[int, dict[str, Any]] = {}
        self._limits: dict[int, tuple[float, dict[str, float | None]]] = {}
        self._handles: list[Any] = []
        self._lost: dict[int, str] = {}
        self._holders: dict[int, tuple[GpuHolder, ...]] = {}
        self._processes_due = 0.0

    def read(self, pids: frozenset[int] = frozenset()) -> tuple[tuple[GpuReading, ...], str]:
        """Return one reading a GPU and a note (empty while all is well).

        Args:
            pids: processes of the watched job, for its share of the memory.
        """
        now = self._clock()
        if not self._connected(now):
            return (), self._note
        if now >= self._processes_due:
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
        self._static.clear()  # after a reset the cards may be others, in another order
        self._limits.clear()
        self._holders.clear()
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
        heat = self._number(
            lambda lib: lib.nvmlDeviceGetTemperature(handle, lib.NVML_TEMPERATURE_GPU)
        )
        limits = self._read_limits(index, heat)
        holders = self._holders.get(index, ())
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
            temperature=heat,
            temperature_slowdown=limits["slowdown"],
            power=self._number(lambda lib: lib.nvmlDeviceGetPowerUsage(handle), 1e-3),
            power_limit=limits["power"],
            clock_sm=None if clock_sm is None else int(clock_sm),
            clock_memory=None if clock_mem is None else int(clock_mem),
            throttle=None if mask is None else throttle_words(mask),
            fan=self._number(lambda lib: lib.nvmlDeviceGetFanSpeed(handle)),
            job_memory=_share(holders, pids),
            holders=holders,
        )

    def _is_loss(self, error: BaseException) -> bool:
        lost = getattr(self._library, "NVML_ERROR_GPU_IS_LOST", 15)
        gone = getattr(self._library, "NVML_ERROR_UNINITIALIZED", 1)
        unknown = getattr(self._library, "NVML_ERROR_UNKNOWN", 999)
        reset = getattr(self._library, "NVML_ERROR_RESET_REQUIRED", 16)
        return getattr(error, "value", None) in (lost, gone, unknown, reset)

    def _read_static(self, handle: Any) -> dict[str, Any]:
        def text(value: Any) -> str | None:
            if isinstance(value, bytes):
                return value.decode("utf-8", "replace")
            return None if value is None else str(value)

        return {
            "name": text(self._ask(lambda lib: lib.nvmlDeviceGetName(handle))),
            "uuid": text(self._ask(lambda lib: lib.nvmlDeviceGetUUID(handle))),
        }

    def _read_limits(self, index: int, heat: float | None) -> dict[str, float | None]:
        """Return what the card may reach; asked anew now and then, since both can be set."""
        due, known = self._limits.get(index, (0.0, {}))
        if known and self._clock() < due:
            return known
        handle = self._handles[index]
        slowdown = self._number(
            lambda lib: lib.nvmlDeviceGetTemperatureThreshold(
                handle, lib.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN
            )
        )
        if slowdown is None and heat is not None:
            # Since Hopper the driver tells the distance to the slowdown instead of its place.
            left = self._number(lambda lib: lib.nvmlDeviceGetMarginTemperature(handle))
            slowdown = None if left is None else heat + left
        found = {
            "slowdown": slowdown,
            "power": self._number(lambda lib: lib.nvmlDeviceGetEnforcedPowerLimit(handle), 1e-3),
        }
        self._limits[index] = (self._clock() + LIMITS_S, found)
        return found

    @staticmethod
    def _throttle(library: Any, handle: Any) -> int:
        ask = getattr(library, "nvmlDeviceGetCurrentClocksEventReasons", None)
        if ask is not None:
            try:
                return int(ask(handle))
            except Exception:  # noqa: BLE001 - see _start; an older driver lacks the new name
                ask = None
        return int(library.nvmlDeviceGetCurrentClocksThrottleReasons(handle))

    def _read_processes(self) -> None:
        for index, handle in enumerate(self._handles):
            found = self._ask(functools.partial(_running_processes, handle=handle))
            if found is None:
                self._holders.pop(index, None)
                continue
            holders = []
            for item in found:
                size = getattr(item, "usedGpuMemory", None)
                pid = int(item.pid)
                holders.append(
                    GpuHolder(
                        pid=pid, name=process_name(pid), memory=None if size is None else int(size)
                    )
                )
            holders.sort(key=lambda holder: -(holder.memory or 0))
            self._holders[index] = tuple(holders[:HOLDERS])


def _share(holders: tuple[GpuHolder, ...], pids: frozenset[int]) -> int | None:
    """Return how much of a card's memory a job holds; None where the driver does not tell."""
    own = [holder for holder in holders if holder.pid in pids]
    if not pids or not holders or (own and all(holder.memory is None for holder in own)):
        return None
    return sum(holder.memory or 0 for holder in own)
