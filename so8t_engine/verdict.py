"""From three logits to a decision: temperature, thresholds and the order of the questions."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from msgspec import Meta, Struct
from numpy.typing import ArrayLike, NDArray

from so8t_engine.labels import LABEL_INDEX, LABELS, Label

_ALLOW, _ESCALATE, _REFUSE = (LABEL_INDEX[label] for label in LABELS)


class OperatingPoint(Struct, frozen=True, kw_only=True):
    """How probabilities become a verdict: ALLOW iff p_allow >= tau_allow; else REFUSE iff
    p_refuse >= tau_refuse; else ESCALATE.

    Attributes:
        temperature: divides the logits before the softmax.
        tau_allow: least probability of ALLOW.
        tau_refuse: least probability of REFUSE.
    """

    temperature: Annotated[float, Meta(gt=0)] = 1.0
    tau_allow: Annotated[float, Meta(ge=0, le=1)] = 0.5
    tau_refuse: Annotated[float, Meta(ge=0, le=1)] = 0.4


class Verdict(Struct, frozen=True, kw_only=True):
    """A decision with its three probabilities in the order ALLOW, ESCALATE, REFUSE.

    Attributes:
        label: the decision.
        probabilities: after temperature, summing to 1; all zero after an error.
        logits: the raw outputs of the safety head.
        reason: why it is an ESCALATE without confidence, or empty.
        truncated: True if the request was longer than the model reads.
    """

    label: Label
    probabilities: tuple[float, float, float]
    logits: tuple[float, float, float] = (0.0, 0.0, 0.0)
    reason: str = ""
    truncated: bool = False

    @property
    def confidence(self) -> float:
        """Probability of the decided label."""
        return self.probabilities[LABEL_INDEX[self.label]]


def probabilities(logits: ArrayLike, temperature: float = 1.0) -> NDArray[np.float64]:
    """Return softmax(logits / temperature) over the last axis, ``[..., 3]``, in float64."""
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    scaled = scaled - scaled.max(axis=-1, keepdims=True)
    exponentials = np.exp(scaled)
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))


def decide_indices(probs: ArrayLike, point: OperatingPoint) -> NDArray[np.int64]:
    """Return the label index of each row of ``probs`` ``[N, 3]`` at an operating point."""
    rows = np.asarray(probs, dtype=np.float64)
    chosen = np.where(rows[..., _REFUSE] >= point.tau_refuse, _REFUSE, _ESCALATE)
    return np.where(rows[..., _ALLOW] >= point.tau_allow, _ALLOW, chosen).astype(np.int64)


def decide(logits: ArrayLike, point: OperatingPoint, *, truncated: bool = False) -> Verdict:
    """Return the verdict of one row of three logits; anything not finite decides ESCALATE."""
    row = np.asarray(logits, dtype=np.float64)
    if row.shape != (3,) or not np.isfinite(row).all():
        return escalate_because("The model returned no usable numbers.")
    probs = probabilities(row, point.temperature)
    label = LABELS[int(decide_indices(probs[None], point)[0])]
    return Verdict(
        label=label,
        probabilities=(float(probs[0]), float(probs[1]), float(probs[2])),
        logits=(float(row[0]), float(row[1]), float(row[2])),
        truncated=truncated,
    )


def escalate_because(reason: str) -> Verdict:
    """Return the verdict of every failure: ESCALATE with confidence 0 and a reason."""
    return Verdict(label=Label.ESCALATE, probabilities=(0.0, 0.0, 0.0), reason=reason)
