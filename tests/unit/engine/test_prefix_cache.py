"""The cache of the frozen prefix: what invalidates it, damage, memory or disk."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from so8t_engine.model.prompt import PromptBuilder
from so8t_engine.training.data import EncodedSample, encode_samples, token_batches
from so8t_engine.training.prefix_cache import PrefixCache, base_fingerprint, cache_key, clear
from tests.helpers.tiny_models import save_tiny_base, tiny_tokenizer
from tests.helpers.tiny_training import POLICY, build, load_tiny, make_samples

Bases = Callable[[str], Path]


def encoded(policy: str = POLICY, count: int = 8) -> tuple[tuple[int, ...], list[EncodedSample]]:
    prompts = PromptBuilder(tiny_tokenizer(), policy, max_tokens=96)
    return prompts.head, encode_samples(make_samples(count), prompts)


class Counter:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, done: int, total: int) -> None:
        self.calls += 1


def test_key_changes_with_all_that_the_states_depend_on() -> None:
    head, rows = encoded()
    key = cache_key("base", 2, torch.float32, head, rows)
    assert key == cache_key("base", 2, torch.float32, head, list(rows))
    other_policy = encoded("Another policy.")
    reply = replace(rows[0], ids=(*rows[0].ids, 7))
    regrouped = [
        replace(rows[0], ids=rows[0].ids + rows[1].ids[:1]),
        replace(rows[1], ids=rows[1].ids[1:]),
        *rows[2:],
    ]
    different = [
        cache_key("other base", 2, torch.float32, head, rows),
        cache_key("base", 3, torch.float32, head, rows),
        cache_key("base", 2, torch.bfloat16, head, rows),
        cache_key("base", 2, torch.float32, other_policy[0], other_policy[1]),
        cache_key("base", 2, torch.float32, head, [reply, *rows[1:]]),
        cache_key("base", 2, torch.float32, head, rows[:-1]),
        cache_key("base", 2, torch.float32, head, rows[::-1]),
        cache_key("base", 2, torch.float32, head, regrouped),
    ]
    assert len({key, *different}) == len(different) + 1


def test_another_tokenizer_changes_the_key() -> None:
    head, rows = encoded()
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.add_tokens(["payroll"])  # splits words otherwise
    prompts = PromptBuilder(tokenizer, POLICY, max_tokens=96)
    changed = encode_samples(make_samples(8), prompts)
    keys = {
        cache_key("b", 2, torch.float32, one, rows_)
        for one, rows_ in ((head, rows), (prompts.head, changed))
    }
    assert len(keys) == 2


def test_fingerprint_follows_the_base_and_its_quantisation(tmp_path: Path) -> None:
    folder = save_tiny_base(tmp_path / "base")
    before = base_fingerprint(folder, "none")
    assert base_fingerprint(folder, "none") == before
    assert base_fingerprint(folder, "nf4") != before
    weights = folder / "model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(raw)
    os.utime(weights, ns=(1, 1))
    assert base_fingerprint(folder, "none") != before


@pytest.mark.parametrize("mode", ["ram", "disk", "auto"])
def test_stored_states_are_the_prefix_output(tiny_base: Bases, tmp_path: Path, mode: str) -> None:
    head, rows = encoded()
    model = build(load_tiny(tiny_base("llama")))
    fill, again = Counter(), Counter()
    folder = None if mode == "ram" else tmp_path
    shared, attached = PrefixCache(folder, mode=mode).attach(
        model, head, rows, key="k", budget=24, progress=fill
    )
    assert fill.calls == len(token_batches([len(row.ids) for row in rows], 24)) > 1
    row = rows[4]
    ids = torch.tensor([row.ids])
    states, head_states = model.prefix_states(ids, torch.ones_like(ids).bool(), torch.tensor(head))
    torch.testing.assert_close(shared, head_states, rtol=1e-5, atol=1e-6)
    found = attached[4].states
    assert found is not None
    torch.testing.assert_close(found, states[0], rtol=1e-4, atol=1e-5)
    assert [one.ids for one in attached] == [one.ids for one in rows]
    if folder is not None:
        _, reread = PrefixCache(folder, mode=mode).attach(
            model, head, rows, key="k", progress=again
        )
        assert again.calls == 0
        assert all(
            torch.equal(left.states, right.states)  # type: ignore[arg-type]
            for left, right in zip(attached, reread, strict=True)
        )


@pytest.mark.parametrize("damage", ["truncated", "one_bit", "empty"])
def test_damaged_cache_is_rebuilt(tiny_base: Bases, tmp_path: Path, damage: str) -> None:
    head, rows = encoded()
    model = build(load_tiny(tiny_base("llama"), "bfloat16"))
    _, first = PrefixCache(tmp_path).attach(model, head, rows, key="k")
    path = tmp_path / "k.safetensors"
    raw = bytearray(path.read_bytes())
    if damage == "truncated":
        raw = raw[:-100]
    elif damage == "one_bit":
        raw[-33] ^= 4
    else:
        raw = bytearray()
    path.write_bytes(raw)
    fill = Counter()
    _, second = PrefixCache(tmp_path).attach(model, head, rows, key="k", progress=fill)
    assert fill.calls > 0
    for left, right in zip(first, second, strict=True):
        assert torch.equal(left.states, right.states)  # type: ignore[arg-type]
    assert path.stat().st_size > len(raw) or damage == "one_bit"


def test_disk_that_takes_nothing_leaves_the_states_in_memory(
    tiny_base: Bases, tmp_path: Path
) -> None:
    head, rows = encoded()
    blocked = tmp_path / "cache"
    blocked.write_text("a file where the folder should be")
    model = build(load_tiny(tiny_base("llama")))
    _, attached = PrefixCache(blocked).attach(model, head, rows, key="k")
    assert all(row.states is not None for row in attached)


def test_cancelled_filling_stores_nothing(tiny_base: Bases, tmp_path: Path) -> None:
    head, rows = encoded()
    model = build(load_tiny(tiny_base("llama")))
    fill = Counter()
    with pytest.raises(InterruptedError):
        PrefixCache(tmp_path).attach(
            model, head, rows, key="k", budget=8, progress=fill,
            cancelled=lambda: fill.calls >= 2,
        )  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_clear_frees_the_space(tiny_base: Bases, tmp_path: Path) -> None:
    head, rows = encoded()
    model = build(load_tiny(tiny_base("llama")))
    PrefixCache(tmp_path).attach(model, head, rows, key="k")
    size = (tmp_path / "k.safetensors").stat().st_size
    assert clear(tmp_path) == size
    assert not list(tmp_path.iterdir())
    assert clear(tmp_path / "absent") == 0
