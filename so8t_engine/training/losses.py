"""The terms of the training loss.

``L = w_verdict·CE(class-weighted) + w_danger·mean[p_allow | REFUSE] + w_task·LM + λ_pet·PET``

Every term is a sum over samples of a per-sample value, divided by the number of samples in the
whole optimizer step. So the split of a step into micro-batches or processes changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from so8t_engine.labels import LABEL_INDEX, LABELS, Label
from so8t_engine.specs import LossSpec, PetSpec

_ALLOW, _REFUSE = LABEL_INDEX[Label.ALLOW], LABEL_INDEX[Label.REFUSE]


def class_weights(labels: Sequence[Label], mode: str) -> Tensor:
    """Return a weight per label, ``[3]`` float32, with a mean of 1 over the given samples.

    ``balanced`` weighs by inverse frequency; a label that never occurs gets weight 0.
    """
    counts = torch.tensor([sum(label is wanted for label in labels) for wanted in LABELS])
    if mode == "none" or not len(labels):
        return torch.ones(len(LABELS))
    present = int((counts > 0).sum())
    weights = len(labels) / (present * counts.clamp(min=1).float())
    return torch.where(counts > 0, weights, torch.zeros_like(weights))


class VerdictLoss:
    """Cross-entropy with class weights, smoothing and focus, and the danger term."""

    def __init__(self, spec: LossSpec, train_labels: Sequence[Label]) -> None:
        self.spec = spec
        self.weights = class_weights(train_labels, spec.class_weights)
        refused = sum(label is Label.REFUSE for label in train_labels)
        self.refuse_share = max(refused / max(len(train_labels), 1), 1e-6)

    def __call__(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the per-sample verdict loss and danger, both ``[B]`` float32.

        The danger of a REFUSE sample is ``p_allow`` divided by the share of REFUSE in the training
        data, so that its mean over all samples is the mean over those labelled REFUSE.

        Args:
            logits: ``[B, 3]`` float32.
            labels: ``[B]`` label indices.
        """
        weights = self.weights.to(logits.device)[labels]
        entropy = functional.cross_entropy(
            logits, labels, reduction="none", label_smoothing=self.spec.label_smoothing
        )
        probabilities = logits.softmax(-1)
        if self.spec.focal_gamma:
            right = probabilities.gather(1, labels[:, None])[:, 0]
            entropy = entropy * (1.0 - right) ** self.spec.focal_gamma
        refused = (labels == _REFUSE).float()
        return weights * entropy, probabilities[:, _ALLOW] * refused / self.refuse_share


def pet(hidden: Tensor, mask: Tensor) -> Tensor:
    """Return the second-difference penalty of each row, ``[B]`` float32.

    Mean over positions t with t, t+1 and t+2 all valid of ``‖h_t − 2 h_{t+1} + h_{t+2}‖² / D``;
    0 for rows of fewer than three valid positions.

    Args:
        hidden: ``[B, T, D]`` last hidden states.
        mask: ``[B, T]`` bool.
    """
    if hidden.shape[1] < 3:
        return hidden.new_zeros(len(hidden), dtype=torch.float32)
    wide = hidden.float()
    second = wide[:, :-2] - 2 * wide[:, 1:-1] + wide[:, 2:]
    valid = (mask[:, :-2] & mask[:, 1:-1] & mask[:, 2:]).float()
    energy = second.pow(2).mean(-1) * valid
    total: Tensor = energy.sum(-1) / valid.sum(-1).clamp(min=1.0)
    return total


def pet_weight(spec: PetSpec, progress: float) -> float:
    """Return λ at ``progress`` (share of optimizer steps done, 0 to 1)."""
    phase = sum(progress >= boundary for boundary in spec.boundaries)
    return spec.weight * spec.factors[phase]


def task_loss(logits: Tensor, targets: Tensor, rows: Tensor, batch: int) -> Tensor:
    """Return the mean token loss of each row's reply, ``[batch]`` float32 (0 without a reply).

    Args:
        logits: ``[N, V]`` at the positions that predict a reply token.
        targets: ``[N]`` token ids.
        rows: ``[N]`` the row of each position.
        batch: number of rows.
    """
    token = functional.cross_entropy(logits.float(), targets, reduction="none")
    total = torch.zeros(batch, device=token.device).index_add(0, rows, token)
    count = torch.zeros(batch, device=token.device).index_add(0, rows, torch.ones_like(token))
    return total / count.clamp(min=1.0)


def rate_factor(step: int, total: int, *, warmup: float, schedule: str) -> float:
    """Return the factor of the learning rate before optimizer step ``step`` (from 0)."""
    rising = round(warmup * total)
    if step < rising:
        return (step + 1) / (rising + 1)
    progress = (step - rising) / max(1, total - rising)
    if schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))
    if schedule == "linear":
        return max(0.0, 1.0 - progress)
    return 1.0
