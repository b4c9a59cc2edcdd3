"""Loss terms against examples that were worked out by hand."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch.nn import functional

from so8t_engine.labels import Label
from so8t_engine.specs import LossSpec, PetSpec
from so8t_engine.training.losses import (
    VerdictLoss,
    class_weights,
    pet,
    pet_weight,
    rate_factor,
    task_loss,
)

A, E, R = Label.ALLOW, Label.ESCALATE, Label.REFUSE


def test_pet_by_hand_with_mask() -> None:
    hidden = torch.tensor(
        [
            [[1.0, 0.0], [2.0, 0.0], [9.0, 2.0], [4.0, 1.0]],
            [[0.0, 1.0], [1.0, 1.0], [2.0, 1.0], [50.0, 9.0]],
            [[5.0, 5.0], [1.0, 0.0], [7.0, 7.0], [7.0, 7.0]],
        ]
    )
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0]], dtype=torch.bool)
    # Row 0: (1 - 4 + 9, 0 - 0 + 2) = (6, 2) -> 40/2 = 20; (2 - 18 + 4, 0 - 4 + 1) = (-12, -3)
    #        -> 153/2 = 76.5; mean 48.25. Row 1: a straight line -> 0; its padding is not read.
    # Row 2: two valid positions -> 0.
    assert pet(hidden, mask).tolist() == [48.25, 0.0, 0.0]
    assert pet(hidden[:, :2], mask[:, :2]).tolist() == [0.0, 0.0, 0.0]


def test_pet_gives_padding_no_gradient() -> None:
    hidden = torch.randn(1, 5, 4, requires_grad=True)
    pet(hidden, torch.tensor([[True, True, True, True, False]])).sum().backward()
    assert hidden.grad is not None
    assert not hidden.grad[0, 4].any()
    assert hidden.grad[0, :4].abs().sum() > 0


def test_pet_is_computed_in_float32() -> None:
    hidden = (torch.randn(2, 6, 8) * 300).to(torch.float16)
    value = pet(hidden, torch.ones(2, 6, dtype=torch.bool))
    assert value.dtype == torch.float32
    assert value.isfinite().all()


@pytest.mark.parametrize(
    ("progress", "factor"),
    [(0.0, 0.01), (0.299, 0.01), (0.3, 0.1), (0.69, 0.1), (0.7, 1.0), (1.0, 1.0)],
)
def test_pet_schedule_follows_step_progress(progress: float, factor: float) -> None:
    assert pet_weight(PetSpec(weight=0.5), progress) == pytest.approx(0.5 * factor)


def test_class_weights_balance_and_keep_the_mean_at_one() -> None:
    labels = [A] * 6 + [E] * 3 + [R] * 1
    weights = class_weights(labels, "balanced")
    assert weights.tolist() == pytest.approx([10 / 18, 10 / 9, 10 / 3])
    mean = sum(weights[("ALLOW", "ESCALATE", "REFUSE").index(label)] for label in labels) / 10
    assert float(mean) == pytest.approx(1.0)
    assert class_weights(labels, "none").tolist() == [1.0, 1.0, 1.0]
    assert class_weights([A, A, R], "balanced").tolist() == pytest.approx([0.75, 0.0, 1.5])


def test_verdict_loss_by_hand() -> None:
    labels = [A, A, R, E]
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0], [3.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    wanted = torch.tensor([0, 0, 2, 1])
    entropy, danger = VerdictLoss(LossSpec(class_weights="none"), labels)(logits, wanted)
    probabilities = [
        [math.exp(value) / sum(map(math.exp, row)) for value in row] for row in logits.tolist()
    ]
    expected = [-math.log(row[label]) for row, label in zip(probabilities, wanted, strict=True)]
    assert entropy.tolist() == pytest.approx(expected, rel=1e-5)
    # One of four training samples is REFUSE, so the mean over four is the mean over that one.
    assert danger.tolist() == pytest.approx([0, 0, probabilities[2][0] * 4, 0], rel=1e-5)
    assert float(danger.mean()) == pytest.approx(probabilities[2][0], rel=1e-5)

    weighted, _ = VerdictLoss(LossSpec(), labels)(logits, wanted)
    ratio = [2 / 3, 2 / 3, 4 / 3, 4 / 3]
    assert weighted.tolist() == pytest.approx(
        [value * factor for value, factor in zip(expected, ratio, strict=True)], rel=1e-5
    )
    focal, _ = VerdictLoss(LossSpec(class_weights="none", focal_gamma=2.0), labels)(logits, wanted)
    right = [row[label] for row, label in zip(probabilities, wanted, strict=True)]
    assert focal.tolist() == pytest.approx(
        [value * (1 - p) ** 2 for value, p in zip(expected, right, strict=True)], rel=1e-5
    )
    smooth, _ = VerdictLoss(LossSpec(class_weights="none", label_smoothing=0.3), labels)(
        logits, wanted
    )
    logs = [[math.log(p) for p in row] for row in probabilities]
    assert smooth.tolist() == pytest.approx(
        [-(0.7 * row[int(k)] + 0.1 * sum(row)) for row, k in zip(logs, wanted, strict=True)],
        rel=1e-5,
    )


def test_class_weights_act_under_focus_too() -> None:
    labels = [A, A, A, R]
    logits, wanted = torch.zeros(2, 3), torch.tensor([0, 2])
    focal, _ = VerdictLoss(LossSpec(focal_gamma=1.0), labels)(logits, wanted)
    assert float(focal[1] / focal[0]) == pytest.approx(3.0)


def test_task_loss_is_the_mean_over_each_reply() -> None:
    torch.manual_seed(0)
    logits = torch.randn(5, 11, dtype=torch.bfloat16)
    targets, rows = torch.tensor([1, 2, 3, 4, 5]), torch.tensor([0, 0, 0, 2, 2])
    value = task_loss(logits, targets, rows, 4)
    token = functional.cross_entropy(logits.float(), targets, reduction="none")
    assert value.tolist() == pytest.approx(
        [float(token[:3].mean()), 0.0, float(token[3:].mean()), 0.0]
    )


def test_rate_factor_warms_up_and_decays_to_zero() -> None:
    factors = [rate_factor(step, 20, warmup=0.2, schedule="cosine") for step in range(21)]
    assert factors[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert factors[4] == pytest.approx(1.0)
    assert all(left >= right for left, right in itertools.pairwise(factors[4:]))
    assert factors[20] == pytest.approx(0.0)
    assert rate_factor(12, 20, warmup=0.2, schedule="linear") == pytest.approx(0.5)
    assert rate_factor(19, 20, warmup=0.2, schedule="constant") == 1.0
    assert rate_factor(0, 20, warmup=0.0, schedule="linear") == 1.0
