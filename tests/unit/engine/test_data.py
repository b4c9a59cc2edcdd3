"""Encoding, length buckets and collation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from so8t_engine.labels import LABEL_INDEX
from so8t_engine.model.prompt import PromptBuilder
from so8t_engine.training.data import (
    Collator,
    EncodedSample,
    LengthBuckets,
    Passes,
    StepCollator,
    encode_samples,
    token_batches,
)
from tests.helpers.tiny_models import tiny_tokenizer
from tests.helpers.tiny_training import POLICY, make_samples


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=200),
    batch=st.integers(1, 9),
    world=st.integers(1, 4),
    epoch=st.integers(0, 3),
)
def test_buckets_cover_each_sample_once_over_all_ranks(
    lengths: list[int], batch: int, world: int, epoch: int
) -> None:
    seen: list[int] = []
    counts = set()
    for rank in range(world):
        sampler = LengthBuckets(lengths, batch, seed=3, rank=rank, world=world)
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler)
        assert all(len(one) <= batch for one in batches)
        counts.add(len(batches))
        seen += [index for one in batches for index in one]
    assert len(counts) == 1  # every process makes the same number of steps
    assert sorted(seen) == list(range(len(lengths)))


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=120),
    batch=st.integers(1, 5),
    world=st.integers(2, 4),
)
def test_global_batches_do_not_depend_on_the_number_of_processes(
    lengths: list[int], batch: int, world: int
) -> None:
    alone = [set(one) for one in LengthBuckets(lengths, batch * world, seed=9)]
    ranks = [list(LengthBuckets(lengths, batch, 9, rank=k, world=world)) for k in range(world)]
    together = [{index for part in parts for index in part} for parts in zip(*ranks, strict=True)]
    assert together == alone


def test_buckets_are_seeded_by_seed_and_epoch_and_save_padding() -> None:
    lengths = np.random.default_rng(0).integers(5, 200, 400).tolist()
    first, again, other = (LengthBuckets(lengths, 8, seed) for seed in (1, 1, 2))
    assert list(first) == list(again)
    assert list(first) != list(other)
    again.set_epoch(1)
    assert list(first) != list(again)

    def padding(batches: list[list[int]]) -> int:
        rows = [[lengths[index] for index in one] for one in batches]
        return sum(max(row) * len(row) - sum(row) for row in rows)

    random = np.random.default_rng(1).permutation(400).reshape(-1, 8).tolist()
    assert padding(list(first)) < 0.3 * padding(random)


def test_collator_marks_verdict_and_reply_positions() -> None:
    rows = [
        EncodedSample((11, 12, 13, 21, 22), prompt=3, label=0, truncated=False),
        EncodedSample((31, 32), prompt=2, label=2, truncated=False),
    ]
    batch = Collator(torch.tensor([1, 2]), pad_id=99)(rows)
    assert batch.batch.rows.tolist() == [[11, 12, 13, 21, 22], [31, 32, 99, 99, 99]]
    assert batch.batch.mask.tolist() == [[True] * 5, [True, True, False, False, False]]
    assert batch.batch.last.tolist() == [2, 1]
    assert batch.labels.tolist() == [0, 2]
    # The position before a reply token predicts it; the last prompt position predicts the first.
    assert batch.reply_rows.tolist() == [0, 0]
    assert batch.reply_positions.tolist() == [2, 3]
    assert batch.reply_targets.tolist() == [21, 22]


def test_one_long_reply_does_not_pad_many_short_prompts() -> None:
    short = [EncodedSample(tuple(range(1, 7)), 6, 0, False)] * 9
    long = EncodedSample(tuple(range(1, 61)), 6, 1, False)
    collate = StepCollator(Collator(torch.tensor([1, 2]), pad_id=99), "split")
    micro = collate([*short, long])
    assert [part.batch.rows.shape for part in micro.passes] == [(10, 6), (1, 60)]
    assert [len(part.labels) for part in micro.passes] == [10, 0]
    assert len(micro) == 10
    (only,) = collate([long, long]).passes  # half of two rows of 6 and two of 60 is not padding
    assert only.batch.rows.shape == (4, 60) and only.batch.split == 2


@pytest.mark.parametrize("passes", ["split", "two"])
def test_a_routed_step_gives_either_side_rows_of_its_own(passes: Passes) -> None:
    rows = [
        EncodedSample(ids=(11, 12, 13, 21, 22), prompt=3, label=0, truncated=False),
        EncodedSample(ids=(14, 15), prompt=2, label=2, truncated=False),
    ]
    collate = StepCollator(Collator(torch.tensor([1, 2]), pad_id=99), passes)
    micro = collate(rows)
    assert len(micro) == 2
    if passes == "split":
        (both,) = micro.passes
        assert both.batch.split == 2
        assert both.batch.rows.tolist()[0] == [11, 12, 13, 99, 99]
        assert both.batch.rows.tolist()[2] == [11, 12, 13, 21, 22]
        assert both.labels.tolist() == [0, 2]
        assert both.batch.last.tolist() == [2, 1]
        assert both.reply_rows.tolist() == [2, 2]
    else:
        verdict, task = micro.passes
        assert verdict.batch.split is None and task.batch.split == 0
        assert verdict.batch.rows.tolist() == [[11, 12, 13], [14, 15, 99]]
        assert task.batch.rows.tolist() == [[11, 12, 13, 21, 22]]
        assert verdict.labels.tolist() == [0, 2] and not len(task.labels)
        assert not len(verdict.reply_rows) and task.reply_rows.tolist() == [0, 0]
    assert [len(part.labels) for part in collate(rows[1:]).passes] == [1]  # no reply, one pass
    assert len(collate([])) == 0 and not collate([]).passes


@pytest.mark.parametrize("target", ["", "response", "rationale"])
def test_encoded_samples_carry_prompt_and_wanted_text(target: str) -> None:
    tokenizer = tiny_tokenizer()
    prompts = PromptBuilder(tokenizer, POLICY, max_tokens=200)
    samples = make_samples(9)
    for sample, row in zip(
        samples, encode_samples(samples, prompts, task_target=target), strict=True
    ):
        assert row.label == LABEL_INDEX[sample.label]
        assert row.ids[: row.prompt] == prompts.encode(sample.context, sample.request).ids
        text = getattr(sample, target) if target else ""
        if text:
            assert tokenizer.decode(row.ids[row.prompt : -1]) == text
            assert row.ids[-1] == tokenizer.eos_token_id
        else:
            assert len(row.ids) == row.prompt


@given(st.lists(st.integers(1, 60), min_size=1, max_size=80), st.integers(8, 200))
def test_token_batches_cover_every_row_once_within_the_budget(
    lengths: list[int], budget: int
) -> None:
    groups = token_batches(lengths, budget)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    for group in groups:
        padded = len(group) * max(lengths[index] for index in group)
        assert padded <= budget or len(group) == 1


@pytest.mark.parametrize("passes", ["one", "two"])
def test_passes_stay_within_their_budget_of_tokens(passes: Passes) -> None:
    rows = [
        EncodedSample(ids=tuple(range(length + 2)), prompt=length, label=0, truncated=False)
        for length in (3, 30, 4, 29, 5, 60)
    ]
    micro = StepCollator(Collator(torch.tensor([1]), 0), passes, budget=64)(rows)
    assert len(micro) == 6
    assert sum(len(part.labels) for part in micro.passes) == 6
    assert sum(len(part.reply_rows) for part in micro.passes) == 12
    for part in micro.passes:
        assert part.batch.rows.numel() <= 64  # the longest row fits alone
    prompts = sorted(int(end) + 1 for part in micro.passes for end in part.batch.last)
    assert prompts == [3, 4, 5, 29, 30, 60]


def test_a_share_of_the_replies_is_drawn_by_seed_and_sample_alone() -> None:
    prompts = PromptBuilder(tiny_tokenizer(), POLICY, max_tokens=96)
    samples = [sample for sample in make_samples(400, validation=0) if sample.response]

    def with_reply(chosen: list[Any], share: float, seed: int) -> set[str]:
        rows = encode_samples(chosen, prompts, task_target="response", task_share=share, seed=seed)
        pairs = zip(rows, chosen, strict=True)
        return {sample.id for row, sample in pairs if len(row.ids) > row.prompt}

    quarter = with_reply(samples, 0.25, 3)
    assert 0.15 < len(quarter) / len(samples) < 0.35
    assert with_reply(samples[::-1][:50], 0.25, 3) == quarter & {s.id for s in samples[::-1][:50]}
    assert with_reply(samples, 0.25, 4) != quarter
    assert quarter < with_reply(samples, 0.5, 3)
    assert not with_reply(samples, 0.0, 3)
    assert len(with_reply(samples, 1.0, 3)) == len(samples)
