"""Writes evaluations as the evaluation job leaves them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from so8t_engine.evaluation.baselines import word_rules
from so8t_engine.evaluation.results import Evaluation, RowResult, save_evaluation
from so8t_engine.labels import LABEL_INDEX, Label
from so8t_engine.samples.schema import Sample
from so8t_engine.verdict import OperatingPoint
from so8t_engine.workspace.runs import RunStore


def make_evaluation(
    samples: Sequence[Sample],
    *,
    name: str = "validation",
    run: str = "20261123_101500",
    checkpoint: str = "step-00000040",
    skill: float = 2.0,
    seed: int = 0,
) -> Evaluation:
    """Return an evaluation whose logits favour the true label by ``skill`` standard deviations."""
    generator = np.random.default_rng(seed)
    rows, tfidf = [], []
    for sample in samples:
        logits = generator.normal(size=3)
        logits[LABEL_INDEX[sample.label]] += skill
        tfidf.append(sample.label if generator.random() < 0.7 else Label.ESCALATE)
        rows.append(
            RowResult(
                id=sample.id,
                label=sample.label,
                logits=(float(logits[0]), float(logits[1]), float(logits[2])),
                request=sample.request,
                category=sample.category,
                language=sample.language,
            )
        )
    return Evaluation(
        name=name,
        run=run,
        checkpoint=checkpoint,
        created=1795428900.0,
        point=OperatingPoint(),
        rows=rows,
        baselines={
            "always_allow": [Label.ALLOW] * len(rows),
            "word_rules": word_rules(samples),
            "tfidf": tfidf,
        },
        seconds=3.2,
    )


def write_evaluation(run: RunStore, evaluation: Evaluation) -> None:
    """Write it into the run's folder."""
    save_evaluation(run.evaluations_dir / f"{evaluation.name}.json", evaluation)
