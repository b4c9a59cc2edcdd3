"""Verdict logits of many encoded samples, in batches of similar length."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from so8t_engine.model.persona_model import PersonaModel
from so8t_engine.training.data import Collator, EncodedSample, token_batches


@torch.no_grad()
def verdict_logits(
    model: PersonaModel,
    rows: Sequence[EncodedSample],
    collator: Collator,
    *,
    batch_size: int = 16,
    progress: Callable[[int, int], None] = lambda done, total: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> NDArray[np.float64]:
    """Return raw logits ``[N, 3]`` in the order of ``rows``.

    A forward pass reads about ``batch_size`` rows of 128 tokens, and so more rows that are shorter.
    The model is left in the mode (training or evaluation) in which it came.

    Raises:
        InterruptedError: if ``cancelled`` said so.
    """
    logits = np.zeros((len(rows), 3), dtype=np.float64)
    done = 0
    was_training = model.training
    model.eval()
    try:
        for chosen in token_batches([len(row.ids) for row in rows], batch_size * 128):
            if cancelled():
                raise InterruptedError
            # Only the prompt is needed: a verdict never depends on what follows it.
            batch = collator([rows[index] for index in chosen]).batch.to(model.device)
            logits[chosen] = model(batch).double().cpu().numpy()
            done += len(chosen)
            progress(done, len(rows))
    finally:
        model.train(was_training)
    return logits
