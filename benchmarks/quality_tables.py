"""Turns the runs that ``ablation.py --keep-logits`` wrote into the tables of docs/results.md.

    python benchmarks/quality_tables.py runs.jsonl --test unseen.jsonl --test held_out.jsonl \\
        --train rows.jsonl --point 0.5,0.4 --point 0.8,0.3

For every test file and operating point: the mean over seeds of each figure; for macro-F1 also a
95 % interval from 1,000 draws of rows *and* seeds with replacement, and the range over seeds. Runs
whose name begins with "without " are the folds of a leave-out experiment and are pooled into one
set of decisions per experiment; their training rows, for the linear baseline, are read again.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from so8t_engine.evaluation import baselines
from so8t_engine.evaluation.choosing import choose_point
from so8t_engine.evaluation.metrics import (
    Metrics,
    confusion,
    decide_logits,
    macro_f1,
    summarize,
)
from so8t_engine.labels import LABEL_INDEX
from so8t_engine.samples.readers import read_samples
from so8t_engine.samples.schema import Sample
from so8t_engine.verdict import OperatingPoint, decide_indices, probabilities

FIGURES = (
    "false_refusal_rate",
    "dangerous_allow_rate",
    "refuse_recall",
    "escalate_precision",
    "allow_precision",
)
HEADER = (
    "| what | seeds | macro-F1 (95 %) | range over seeds | false refusals | dangerous allows |"
    " Refuse Recall | Escalate Precision | Allow Precision | confusion (A, E, R; sum over seeds) |"
)
DRAWS = 1000
Logits = NDArray[np.float64]
Labels = NDArray[np.int64]


def read_runs(path: Path) -> list[dict[str, Any]]:
    """Return the runs of a file of JSON lines, which may be packed with gzip."""
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(text) for text in raw.decode("utf-8").splitlines() if text.strip()]


def labels_of(rows: Sequence[Sample]) -> Labels:
    """Return the label index of each row, ``[N]``."""
    return np.array([LABEL_INDEX[row.label] for row in rows], dtype=np.int64)


def interval(truth: Labels, decided: Sequence[Labels]) -> tuple[float, float]:
    """Return the 95 % interval of macro-F1 over draws of rows and of seeds."""
    random = np.random.default_rng(17)
    found = []
    for _ in range(DRAWS):
        rows = random.integers(0, len(truth), len(truth))
        seeds = random.integers(0, len(decided), len(decided))
        found.append(
            np.mean([macro_f1(confusion(truth[rows], decided[seed][rows])) for seed in seeds])
        )
    low, high = np.quantile(found, (0.025, 0.975))
    return float(low), float(high)


def line(name: str, truth: Labels, decided: Sequence[Labels]) -> str:
    """Return one line of the table from the decisions of all seeds."""
    each = [summarize(truth, one) for one in decided]
    scores = [float(one.macro_f1.value or 0.0) for one in each]
    low, high = interval(truth, decided)
    spread = f"{min(scores):.3f}–{max(scores):.3f}" if len(scores) > 1 else "–"
    counts = sum(np.array(one.confusion) for one in each)
    cells = [mean_of(each, figure) for figure in FIGURES]
    return (
        f"| {name} | {len(each)} | {np.mean(scores):.3f} ({low:.3f}–{high:.3f}) | {spread} | "
        + " | ".join(cells)
        + f" | {np.asarray(counts).tolist()} |"
    )


def mean_of(each: Sequence[Metrics], figure: str) -> str:
    """Return the mean of a figure over seeds, ``n/a`` where no seed has it."""
    values = [one.ratio(figure).value for one in each]
    known = [value for value in values if value is not None]
    return f"{np.mean(known):.3f}" if known else "n/a"


def calibration_error(probs: Logits, truth: Labels, bins: int = 10) -> float:
    """Return the expected calibration error of the likeliest label (Guo et al. 2017, §2)."""
    sure, right = probs.max(-1), probs.argmax(-1) == truth
    place = np.minimum((sure * bins).astype(int), bins - 1)
    return float(
        sum(
            abs(right[place == index].mean() - sure[place == index].mean())
            * (place == index).mean()
            for index in range(bins)
            if (place == index).any()
        )
    )


def fit_temperature(logits: Logits, truth: Labels) -> float:
    """Return the temperature of least log loss (Guo et al. 2017, §4.2), to two digits."""
    grid = np.arange(0.3, 5.0, 0.01)
    losses = [
        -np.log(probabilities(logits, float(t))[np.arange(len(truth)), truth] + 1e-12).mean()
        for t in grid
    ]
    return round(float(grid[int(np.argmin(losses))]), 2)


def baseline_lines(rows: Sequence[Sample], train: Sequence[Sample]) -> list[str]:
    """Return the lines of the baselines."""
    decisions, notes = baselines.compute_baselines(train, rows)
    truth = labels_of(rows)
    found = [
        line(
            baselines.BASELINE_TITLES[name],
            truth,
            [np.array([LABEL_INDEX[label] for label in decided], dtype=np.int64)],
        )
        for name, decided in decisions.items()
    ]
    return found + notes


def by_name(runs: Sequence[dict[str, Any]], test: str) -> dict[str, list[Logits]]:
    """Return the logits ``[N, 3]`` of every seed by configuration, in the order of the file."""
    found: dict[str, list[Logits]] = {}
    for run in sorted(runs, key=lambda run: run["seed"]):
        if test in run.get("tests", {}):
            logits = np.array(run["tests"][test]["logits"], dtype=np.float64)
            found.setdefault(run["name"], []).append(logits)
    return found


def table(lines: Sequence[str]) -> str:
    """Return a Markdown table."""
    return "\n".join([HEADER, "|" + "---|" * 10, *lines])


def ensemble(logits: Sequence[Logits], point: OperatingPoint) -> Labels:
    """Return the decisions of the mean probability over seeds."""
    mean = np.mean([probabilities(one, point.temperature) for one in logits], axis=0)
    return decide_indices(mean, point)


def report_test(
    test: Path,
    runs: Sequence[dict[str, Any]],
    train: Sequence[Sample],
    points: Sequence[OperatingPoint],
    languages: bool,
) -> None:
    """Print the tables of one test file."""
    rows = read_samples(test).samples
    truth, found = labels_of(rows), by_name(runs, test.stem)
    print(f"\n## {test.stem}: {len(rows)} rows\n")
    lines = baseline_lines(rows, train)
    for name, logits in found.items():
        for point in points:
            label = f"{name}, {point.tau_allow:g} / {point.tau_refuse:g}"
            lines.append(line(label, truth, [decide_logits(one, point) for one in logits]))
            if len(logits) > 2:
                text = f"{label}, seeds averaged"
                lines.append(line(text, truth, [ensemble(logits, point)]))
    print(table(lines))
    if languages:
        lines = []
        for language in sorted({row.language for row in rows}):
            chosen = np.array([row.language == language for row in rows])
            for name, logits in found.items():
                for point in points:
                    label = f"{name}, {language}, {point.tau_allow:g} / {point.tau_refuse:g}"
                    decided = [decide_logits(one[chosen], point) for one in logits]
                    lines.append(line(label, truth[chosen], decided))
        print("\nBy language:\n\n" + table(lines))


def report_calibration(tests: Sequence[Path], runs: Sequence[dict[str, Any]], fit_on: Path) -> None:
    """Print the calibration of every configuration, raw and at the temperature of ``fit_on``."""
    measured = {
        test.stem: (labels_of(read_samples(test).samples), by_name(runs, test.stem))
        for test in (*tests, fit_on)
    }
    fit_truth, fitted_logits = measured[fit_on.stem]
    print("\n## Calibration\n\n| what | test | temperature | error at 1 | error at temperature |")
    print("|---|---|---|---|---|")
    for name, fitted in fitted_logits.items():
        temperatures = [fit_temperature(one, fit_truth) for one in fitted]
        for test in tests:
            truth, found = measured[test.stem]
            logits = found[name]
            raw = np.mean([calibration_error(probabilities(one), truth) for one in logits])
            warm = np.mean(
                [
                    calibration_error(probabilities(one, t), truth)
                    for one, t in zip(logits, temperatures, strict=True)
                ]
            )
            shown = f"{min(temperatures)}–{max(temperatures)}"
            print(f"| {name} | {test.stem} | {shown} | {raw:.3f} | {warm:.3f} |")


def report_folds(
    runs: Sequence[dict[str, Any]], points: Sequence[OperatingPoint], folder: Path
) -> None:
    """Print the pooled figures of leave-out runs, per language, beside the linear baseline."""
    pooled: dict[str, list[tuple[Sample, Logits, int]]] = {}
    for run in runs:
        (stem,) = run["tests"]
        path = folder / run["files"]["tests"][0]
        rows = read_samples(path).samples
        train = read_samples(folder / run["files"]["train"]).samples
        linear = baselines.tfidf_logistic([row for row in train if row.split == "train"], rows)
        logits = np.array(run["tests"][stem]["logits"], dtype=np.float64)
        pooled.setdefault(path.parent.name, []).extend(
            (row, one, LABEL_INDEX[label])
            for row, one, label in zip(rows, logits, linear, strict=True)
        )
    for name, items in pooled.items():
        print(f"\n## Left out: {name}, {len(items)} rows\n")
        lines = []
        for language in ["", *sorted({row.language for row, _, _ in items})]:
            chosen = [item for item in items if language in ("", item[0].language)]
            truth = labels_of([row for row, _, _ in chosen])
            logits = np.array([one for _, one, _ in chosen])
            linear_decisions = np.array([label for _, _, label in chosen], dtype=np.int64)
            shown = language or "all"
            lines.append(line(f"TF-IDF + regression, {shown}", truth, [linear_decisions]))
            for point in points:
                label = f"persona, {shown}, {point.tau_allow:g} / {point.tau_refuse:g}"
                lines.append(line(label, truth, [decide_logits(logits, point)]))
        print(table(lines))


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--test", type=Path, action="append", default=[])
    parser.add_argument("--train", type=Path, help="rows with a split, for the linear baseline")
    parser.add_argument("--point", action="append", default=[], help="tau_allow,tau_refuse")
    parser.add_argument(
        "--fit-on", type=Path, help="held-out rows that choose point and temperature"
    )
    parser.add_argument("--most-dangerous", type=float, default=0.03)
    parser.add_argument("--folder", type=Path, default=Path(), help="where paths in runs begin")
    parser.add_argument("--only", help="names that contain this")
    options = parser.parse_args()
    runs = [run for path in options.runs for run in read_runs(path)]
    for run in runs:
        if "error" in run:
            print(f"failed: {run['name']}, seed {run['seed']}")
    runs = [run for run in runs if "tests" in run and (options.only or "") in run["name"]]
    folds = [run for run in runs if run["name"].startswith("without ")]
    plain = [run for run in runs if not run["name"].startswith("without ")]
    texts = options.point or ["0.5,0.4"]
    pairs = [tuple(map(float, text.split(","))) for text in texts]
    points = [OperatingPoint(tau_allow=allow, tau_refuse=refuse) for allow, refuse in pairs]
    train = read_samples(options.train).samples if options.train else []
    train = [row for row in train if row.split == "train"]
    for test in options.test:
        report_test(test, plain, train, points, languages=test == options.fit_on)
    if options.fit_on:
        truth = labels_of(read_samples(options.fit_on).samples)
        for name, logits in by_name(plain, options.fit_on.stem).items():
            every = np.tile(truth, len(logits))  # the seeds count as that many more rows
            chosen = choose_point(np.concatenate(logits), every, options.most_dangerous)
            shown = chosen.point if chosen else None
            print(f"point for {name} within {options.most_dangerous}: {shown}")
        report_calibration(options.test, plain, options.fit_on)
    report_folds(folds, points, options.folder)


if __name__ == "__main__":
    main()
