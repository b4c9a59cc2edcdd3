"""Writes the files of a leave-out experiment: rows of some domains, or forms, are never trained on.

    python benchmarks/leave_out.py --by category --folds 9 --out folds/domains
    python benchmarks/leave_out.py --by form --folds 4 --out folds/forms

Values are dealt to folds in alphabetical order, so that neighbours in meaning mostly stay in
training. Fold K becomes ``trainK.jsonl`` (a split for every row, near-duplicates together) and
``testK.jsonl`` (the rows left out), and a line for ``ablation.py --configs-file`` is printed. Rows
without a value, such as rows without a form, are always trained on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec

from so8t_engine.resources import resource_root
from so8t_engine.samples.readers import read_samples
from so8t_engine.samples.schema import Sample, encode_sample
from so8t_engine.samples.split import assign_splits
from so8t_engine.workspace.workspace import STARTER


def value_of(sample: Sample, by: str) -> str:
    """Return the domain or the form of a row; empty where it has none."""
    if by == "category":
        return sample.category
    return next((tag.removeprefix("form:") for tag in sample.tags if tag.startswith("form:")), "")


def main() -> None:
    """Write all folds."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    starter = resource_root() / "personas" / STARTER / "dataset.jsonl"
    parser.add_argument("--rows", type=Path, default=starter)
    parser.add_argument("--by", choices=("category", "form"), required=True)
    parser.add_argument("--folds", type=int, required=True)
    parser.add_argument("--validation", type=float, default=0.06)
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rows = read_samples(options.rows).samples
    values = sorted({value_of(row, options.by) for row in rows} - {""})
    for fold in range(options.folds):
        left_out = set(values[fold :: options.folds])
        test = [row for row in rows if value_of(row, options.by) in left_out]
        kept = [  # whatever split they have in the dataset
            msgspec.structs.replace(row, split="")
            for row in rows
            if value_of(row, options.by) not in left_out
        ]
        kept = assign_splits(kept, validation_fraction=options.validation, seed=options.seed)
        train_path, test_path = (options.out / f"{name}{fold}.jsonl" for name in ("train", "test"))
        train_path.write_bytes(b"".join(map(encode_sample, kept)))
        test_path.write_bytes(b"".join(map(encode_sample, test)))
        print(f'without {", ".join(sorted(left_out))}:train={train_path};tests=["{test_path}"]')


if __name__ == "__main__":
    main()
