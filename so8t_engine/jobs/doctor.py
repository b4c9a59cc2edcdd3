"""What this machine has, what is missing for training, and how to get it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

import psutil

from so8t_engine import __version__
from so8t_engine.jobs.models import default_model
from so8t_engine.model.base_cache import cache_root
from so8t_engine.workspace.workspace import default_workspace

LIBRARIES = (
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "bitsandbytes",
    "tokenizers",
    "safetensors",
    "numpy",
    "PySide6-Essentials",
    "nvidia-ml-py",
)
_GIB = 1 << 30
_NEEDED_RAM = 4 * _GIB
_NEEDED_DISK = 2 * _GIB


def examine() -> dict[str, Any]:
    """Return the whole report under stable names; imports torch.

    Keys: ``versions``, ``system``, ``memory``, ``disk``, ``gpus``, ``gpu_note``, ``driver``,
    ``cuda``, ``nf4``, ``base_model``, ``display``, ``problems`` (each with ``what``, ``next_step``
    and ``blocking``) and ``ready`` (whether training can start).
    """
    problems: list[dict[str, Any]] = []
    report: dict[str, Any] = {
        "versions": _versions(problems),
        "system": _system(),
        "memory": _memory(problems),
        "disk": _disk(problems),
        **_nvml(),
    }
    report["cuda"] = _cuda(report, problems)
    report["nf4"] = _nf4(report["cuda"])
    report["base_model"] = _base_model(problems)
    report["display"] = _display()
    report["problems"] = problems
    report["ready"] = not any(problem["blocking"] for problem in problems)
    return report


def _problem(what: str, next_step: str, *, blocking: bool) -> dict[str, Any]:
    return {"what": what, "next_step": next_step, "blocking": blocking}


def _versions(problems: list[dict[str, Any]]) -> dict[str, str | None]:
    found: dict[str, str | None] = {"so8t": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        key = name.casefold().replace("-", "_")
        try:
            found[key] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[key] = None
            problems.append(
                _problem(
                    f"The library {name} is not installed.",
                    "Run `python3 bootstrap.py run`, or `pip install` this project again.",
                    blocking=name not in ("PySide6-Essentials", "nvidia-ml-py", "bitsandbytes"),
                )
            )
    return found


def _system() -> dict[str, Any]:
    return {
        "platform": platform.platform(),
        "machine": platform.machine(),
        "python_executable": sys.executable,
        "cpus": os.cpu_count(),
        "cpus_usable": len(psutil.Process().cpu_affinity())
        if hasattr(psutil.Process, "cpu_affinity")
        else os.cpu_count(),
    }


def _memory(problems: list[dict[str, Any]]) -> dict[str, int]:
    memory = psutil.virtual_memory()
    if memory.available < _NEEDED_RAM:
        problems.append(
            _problem(
                f"Only {memory.available / _GIB:.1f} GiB of memory are free; a quick trial on the "
                f"default base model takes up to {_NEEDED_RAM // _GIB} GiB.",
                "Close other programs before training.",
                blocking=False,
            )
        )
    return {"total": int(memory.total), "available": int(memory.available)}


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder


def _disk(problems: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    places = {"workspace": default_workspace(), "cache": cache_root()}
    found = {}
    for name, folder in places.items():
        free = shutil.disk_usage(_existing(folder)).free
        found[name] = {"path": str(folder), "free": free}
        if free < _NEEDED_DISK:
            variable = "SO8T_WORKSPACE" if name == "workspace" else "SO8T_CACHE"
            problems.append(
                _problem(
                    f"Only {free / _GIB:.1f} GiB are free for the {name} in {folder}.",
                    f"Free some disk space, or set {variable} to another folder.",
                    blocking=False,
                )
            )
    return found


def _nvml() -> dict[str, Any]:
    """Ask the driver; every answer that it refuses is None, and no driver is no error."""
    try:
        import pynvml
    except ImportError:
        return {"gpus": [], "driver": None, "gpu_note": "nvidia-ml-py is not installed."}
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return {"gpus": [], "driver": None, "gpu_note": f"No NVIDIA driver answers ({error})."}
    try:
        gpus = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            memory = _ask(pynvml, pynvml.nvmlDeviceGetMemoryInfo, handle)
            gpus.append(
                {
                    "index": index,
                    "name": _text(_ask(pynvml, pynvml.nvmlDeviceGetName, handle)),
                    "memory_total": int(memory.total) if memory is not None else None,
                    "memory_free": int(memory.free) if memory is not None else None,
                }
            )
        driver = _text(_ask(pynvml, pynvml.nvmlSystemGetDriverVersion))
    finally:
        pynvml.nvmlShutdown()
    return {"gpus": gpus, "driver": driver, "gpu_note": ""}


def _ask(pynvml: Any, function: Any, *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except pynvml.NVMLError:
        return None


def _text(value: Any) -> str | None:
    if value is None:
        return None
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _cuda(report: dict[str, Any], problems: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what torch can use; it may lack CUDA although there is a GPU."""
    found: dict[str, Any] = {"available": False, "version": None, "devices": []}
    if report["versions"].get("torch") is None:
        return found
    import torch

    found["version"] = torch.version.cuda
    found["available"] = torch.cuda.is_available()
    if found["available"]:
        for index in range(torch.cuda.device_count()):
            major, minor = torch.cuda.get_device_capability(index)
            found["devices"].append(
                {
                    "index": index,
                    "name": torch.cuda.get_device_name(index),
                    "capability": f"{major}.{minor}",
                    "bfloat16": (major, minor) >= (8, 0),
                }
            )
    elif report["gpus"]:
        build = "is built without CUDA" if torch.version.cuda is None else "cannot use the driver"
        problems.append(
            _problem(
                f"There is a GPU, but the installed PyTorch {torch.__version__} {build}.",
                "Install a build of the same PyTorch version with CUDA for your driver into this "
                "environment; training uses the CPU until then.",
                blocking=False,
            )
        )
    return found


def _nf4(cuda: dict[str, Any]) -> dict[str, Any]:
    """Quantise a small matrix to NF4 and back on the GPU: the only proof that it works."""
    if not cuda["available"]:
        return {"usable": False, "reason": "NF4 needs a CUDA device."}
    import torch

    try:
        from bitsandbytes import functional

        weight = torch.randn(64, 64, device="cuda", dtype=torch.float16)
        packed, state = functional.quantize_4bit(weight, quant_type="nf4")
        error = (functional.dequantize_4bit(packed, state) - weight).abs().mean().item()
    except (ImportError, RuntimeError, OSError, AttributeError) as failure:
        return {"usable": False, "reason": f"bitsandbytes does not work here: {failure}"}
    if not error < 0.5:
        return {"usable": False, "reason": f"NF4 gives wrong numbers (mean error {error:.2f})."}
    return {"usable": True, "reason": ""}


def _base_model(problems: list[dict[str, Any]]) -> dict[str, Any]:
    found = default_model()
    if found["state"] != "ready":
        problems.append(
            _problem(
                f"The default base model is {found['state']} ({found['reason']}).",
                "Run `so8t models prepare` (it fetches about 93 MB once).",
                blocking=True,
            )
        )
    return found


def _display() -> bool:
    if not sys.platform.startswith("linux"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
