"""Samples as tensors: encoding, length-bucketed batches, collation."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from so8t_engine.labels import LABEL_INDEX
from so8t_engine.model.persona_model import Batch
from so8t_engine.model.prompt import PromptBuilder
from so8t_engine.samples.schema import Sample

MAX_REPLY_TOKENS = 160


@dataclass(frozen=True)
class EncodedSample:
    """One sample as tokens behind the shared head.

    Attributes:
        ids: prompt tokens, then reply tokens (if the task loss is on).
        prompt: how many of them belong to the prompt; the verdict is read at ``prompt − 1``.
        label: label index.
        states: ``[T, D]`` output of the frozen prefix, if it is kept.
    """

    ids: tuple[int, ...]
    prompt: int
    label: int
    truncated: bool
    states: Tensor | None = None


@dataclass
class TrainBatch:
    """The rows of one forward pass.

    Attributes:
        batch: what the model reads.
        labels: ``[V]`` label indices of the rows whose verdict is read.
        reply_rows, reply_positions, reply_targets: ``[N]`` each; where a reply token is predicted
            and which. Empty without a task loss.
    """

    batch: Batch
    labels: Tensor
    reply_rows: Tensor
    reply_positions: Tensor
    reply_targets: Tensor

    def to(self, device: torch.device) -> TrainBatch:
        """Return the rows on ``device``."""
        parts = (self.labels, self.reply_rows, self.reply_positions, self.reply_targets)
        return TrainBatch(self.batch.to(device), *(part.to(device) for part in parts))


def encode_samples(
    samples: Sequence[Sample],
    prompts: PromptBuilder,
    *,
    task_target: str = "",
    task_share: float = 1.0,
    seed: int = 0,
) -> list[EncodedSample]:
    """Tokenise samples.

    Args:
        samples: what to encode.
        prompts: the persona's template and policy.
        task_target: ``response`` or ``rationale`` appends that text.
        task_share: share of the samples to which it is appended; a random number from sample id
            and ``seed`` decides, so that other samples change nothing about one.
        seed: seed of that draw.
    """
    encoded = []
    for sample in samples:
        request = prompts.encode(sample.context, sample.request)
        ids = request.ids
        text = getattr(sample, task_target) if task_target else ""
        if text and _drawn(sample.id, seed) < task_share:
            ids = (*ids, *prompts.encode_reply(text, limit=MAX_REPLY_TOKENS))
        encoded.append(
            EncodedSample(ids, len(request.ids), LABEL_INDEX[sample.label], request.truncated)
        )
    return encoded


def _drawn(identifier: str, seed: int) -> float:
    """Return a number in [0, 1) that depends on its arguments alone."""
    digest = hashlib.blake2b(f"{seed}:{identifier}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def token_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Group rows of similar length so that no padded group exceeds ``budget`` tokens.

    One long row may exceed it alone. Full groups keep the cores busy where a fixed number of short
    rows would not.
    """
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda number: lengths[number]):
        if not groups or (len(groups[-1]) + 1) * lengths[index] > budget:
            groups.append([])
        groups[-1].append(index)
    return groups


class SampleSet(Dataset[EncodedSample]):
    """Encoded samples in memory."""

    def __init__(self, rows: Sequence[EncodedSample]) -> None:
        self.rows = list(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> EncodedSample:
        return self.rows[index]


class LengthBuckets(Sampler[list[int]]):
    """Batches of similar length, shuffled anew each epoch from (seed, epoch) alone.

    Rows are shuffled, cut into pools of 16 batches, sorted by length within a pool, batched, and
    the batches shuffled. With several processes each takes its slice of every *global* batch, so
    that the content of a step does not depend on the number of processes.
    """

    def __init__(
        self, lengths: Sequence[int], batch_size: int, seed: int, *, rank: int = 0, world: int = 1
    ) -> None:
        self.lengths = np.asarray(lengths)
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world = world
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the shuffle."""
        self.epoch = epoch

    def __len__(self) -> int:
        return math.ceil(len(self.lengths) / (self.batch_size * self.world))

    def __iter__(self) -> Iterator[list[int]]:
        random = np.random.default_rng((self.seed, self.epoch))
        order = random.permutation(len(self.lengths))
        size = self.batch_size * self.world
        pools = [order[start : start + 16 * size] for start in range(0, len(order), 16 * size)]
        ordered = np.concatenate(
            [pool[np.argsort(self.lengths[pool], kind="stable")] for pool in pools]
        )
        batches = [ordered[start : start + size] for start in range(0, len(ordered), size)]
        for index in random.permutation(len(batches)):
            yield batches[index][self.rank :: self.world].tolist()


@dataclass
class MicroBatch:
    """What stands between two updates of the gradient: one pass, or one for each side."""

    passes: list[TrainBatch]
    samples: int

    def __len__(self) -> int:
        return self.samples


class Collator:
    """Pads rows on the right and finds the positions of verdict and reply."""

    def __init__(self, shared: Tensor, pad_id: int) -> None:
        """Take the shared head, ``[P]`` ids or ``[P, D]`` states, and the padding id."""
        self.shared = shared
        self.pad_id = pad_id

    def __call__(self, rows: list[EncodedSample], *, split: int | None = None) -> TrainBatch:
        """Collate ``rows``; verdicts are read from the first ``split`` of them, or from all."""
        longest = max(len(row.ids) for row in rows) if rows else 1
        mask = torch.zeros(len(rows), longest, dtype=torch.bool)
        for number, row in enumerate(rows):
            mask[number, : len(row.ids)] = True
        positions = [
            (number, at - 1, row.ids[at])
            for number, row in enumerate(rows)
            for at in range(row.prompt, len(row.ids))
        ]
        reply = torch.tensor(positions, dtype=torch.long).reshape(-1, 3)
        return TrainBatch(
            batch=Batch(
                rows=self._rows(rows, longest),
                mask=mask,
                shared=self.shared,
                last=torch.tensor([row.prompt - 1 for row in rows[:split]], dtype=torch.long),
                split=split if split not in (None, len(rows)) else None,
            ),
            labels=torch.tensor([row.label for row in rows[:split]], dtype=torch.long),
            reply_rows=reply[:, 0],
            reply_positions=reply[:, 1],
            reply_targets=reply[:, 2],
        )

    def _rows(self, rows: list[EncodedSample], longest: int) -> Tensor:
        if rows and rows[0].states is not None:
            first = rows[0].states
            states = first.new_zeros(len(rows), longest, first.shape[-1])
            for number, row in enumerate(rows):
                assert row.states is not None
                states[number, : len(row.ids)] = row.states
            return states
        ids = torch.full((len(rows), longest), self.pad_id, dtype=torch.long)
        for number, row in enumerate(rows):
            ids[number, : len(row.ids)] = torch.tensor(row.ids, dtype=torch.long)
        return ids


Passes = Literal["one", "split", "two"]
MOST_PADDING = 0.5


class StepCollator:
    """Collates what a training step reads, by the way its two losses are kept apart.

    - ``one``: prompt and reply in one row; both losses share its gradient (``joint``), or only one
      of them is on.
    - ``split``: every prompt as a row of its own, and beside it, in the same pass, prompt and reply
      of each sample that has a reply. One forward and one backward pass serve both sides, which is
      what counts where each layer costs a fixed time (NF4 on CUDA). Where few long replies would
      pad many short prompts to their own length, the batch is read in two passes all the same.
    - ``two``: the same rows in two passes without padding prompts to the length of replies, which
      is what counts where each position costs the same (CPU).

    Verdict and task gradients are those of two separate backward passes either way: a causal model
    gives a prompt the same states whether or not a reply follows it.

    With a ``budget`` rows are grouped by length into passes of at most so many padded tokens. Every
    term of the loss is a sum over samples, so this bounds memory and changes nothing else.
    """

    def __init__(
        self, collator: Collator, passes: Passes = "one", *, budget: int | None = None
    ) -> None:
        self.collator = collator
        self.passes = passes
        self.budget = budget

    def __call__(self, rows: list[EncodedSample]) -> MicroBatch:
        """Return the passes over ``rows``; none for no rows."""
        if not rows:
            return MicroBatch([], 0)
        replies = [row for row in rows if len(row.ids) > row.prompt]
        if self.passes == "one" or not replies:
            return MicroBatch(self._cut(rows), len(rows))
        prompts = [_prompt_alone(row) for row in rows]
        if self.passes == "split" and _share_of_padding(prompts, replies) < MOST_PADDING:
            return MicroBatch([self.collator([*prompts, *replies], split=len(rows))], len(rows))
        # Half the tokens where each of many may need a logit for every word of the vocabulary.
        return MicroBatch([*self._cut(prompts), *self._cut(replies, split=0, share=2)], len(rows))

    def _cut(
        self, rows: list[EncodedSample], *, split: int | None = None, share: int = 1
    ) -> list[TrainBatch]:
        if self.budget is None:
            return [self.collator(rows, split=split)]
        groups = token_batches([len(row.ids) for row in rows], self.budget // share)
        return [self.collator([rows[index] for index in group], split=split) for group in groups]


def _share_of_padding(prompts: list[EncodedSample], replies: list[EncodedSample]) -> float:
    """Return which share of the tokens of a common pass two passes would not have."""
    longest, reply = (max(len(row.ids) for row in rows) for rows in (prompts, replies))
    apart = len(prompts) * longest + len(replies) * reply
    return 1 - apart / ((len(prompts) + len(replies)) * max(longest, reply))


def _prompt_alone(row: EncodedSample) -> EncodedSample:
    if len(row.ids) == row.prompt:
        return row
    states = row.states[: row.prompt] if row.states is not None else None
    return replace(row, ids=row.ids[: row.prompt], states=states)


class EpochLoader(DataLoader[EncodedSample]):
    """A loader that hands the epoch on to its batch sampler."""

    def set_epoch(self, epoch: int) -> None:
        """Choose the shuffle of the coming epoch."""
        sampler = self.batch_sampler
        if isinstance(sampler, LengthBuckets):
            sampler.set_epoch(epoch)
