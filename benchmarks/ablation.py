"""Trains many configurations on the same rows and measures each on rows that none of them saw.

    python benchmarks/ablation.py --train rows.jsonl --test unseen.jsonl \\
        --config "gates only:model.lora=null" --config "top 10:model.adapt_layers=10" \\
        --seeds 1,2,3 --workers 6 --out results.jsonl

``rows.jsonl`` carries a split for every row (``so8t data split``). Each configuration is a name and
overrides of the preset given by ``--preset``; ``train=…`` and ``tests=["…"]`` among them replace
the files, as ``leave_out.py`` writes them, ``seeds=[1,2]`` limits it to some of the seeds,
``after=1`` puts it behind those with a lower number, and ``untrained=true`` asks the base model as
it is. One line of JSON is appended per finished run;
``quality_tables.py`` makes tables of them. A short one of means over seeds, with the range, is
printed at the end. Nothing is timed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import shutil
import statistics
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

COLUMNS = (
    "macro_f1",
    "false_refusal_rate",
    "dangerous_allow_rate",
    "refuse_recall",
    "escalate_precision",
    "escalate_recall",
    "allow_precision",
)


def overridden(preset: str, overrides: dict[str, Any], seed: int) -> Any:
    """Return the preset's specification with dotted overrides and a seed."""
    import msgspec

    from so8t_engine import specs

    tree = msgspec.to_builtins(specs.preset(preset))
    for dotted, value in overrides.items():
        *parents, last = dotted.split(".")
        node = tree
        for name in parents:
            node = node[name]
        if last not in node:
            raise SystemExit(f"{dotted} is no setting")
        node[last] = value
    tree["seed"] = seed
    return msgspec.convert(tree, specs.TrainSpec)


def measure(task: dict[str, Any]) -> dict[str, Any]:
    """Train one configuration and evaluate it; runs in a process of its own."""
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123 - progress of many processes
    started = time.time()
    folder = Path(tempfile.mkdtemp(prefix="so8t-ablation-"))
    try:
        return _measure(task, folder) | {"seconds": round(time.time() - started, 1)}
    except Exception:  # noqa: BLE001 - one failed run must not end the others
        return {"name": task["name"], "seed": task["seed"], "error": traceback.format_exc()}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _decider(spec: Any, persona: Any, task: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return what decides, and the figures of its training; none of an untrained base model."""
    from so8t_engine.jobs import train
    from so8t_engine.model.decider import Decider

    if task["untrained"]:
        return Decider(spec.base_model, None, policy=persona.info.policy), {}
    errors: list[str] = []

    def sink(event: Any) -> None:
        if type(event).__name__ == "Error":
            errors.append(event.what + "\n" + event.details)

    code, run = train.run(spec, persona, events=False, sinks=[sink])
    if code or run is None:
        raise RuntimeError("; ".join(errors))
    checkpoint = run.checkpoints()[-1] if task["last"] else run.best_checkpoint()
    if task["keep_runs"]:
        name = f"{re.sub('[^a-z0-9]+', '-', task['name'].lower()).strip('-')}-seed{task['seed']}"
        shutil.copytree(run.root, Path(task["keep_runs"]) / name)
    decider = Decider(spec.base_model, checkpoint, policy=run.policy())
    state = run.state()
    return decider, {"validation": state.metrics, "steps": state.total_steps}


def _measure(task: dict[str, Any], folder: Path) -> dict[str, Any]:
    import torch

    from so8t_engine.evaluation import metrics as figures
    from so8t_engine.jobs.runtime import quiet_libraries
    from so8t_engine.labels import LABEL_INDEX, parse_label
    from so8t_engine.resources import resource_root
    from so8t_engine.training.trainer import PersonaTrainer
    from so8t_engine.verdict import OperatingPoint, probabilities
    from so8t_engine.workspace.workspace import STARTER, Workspace

    quiet_libraries()
    PersonaTrainer.pass_tokens = task["pass_tokens"]
    torch.set_num_threads(task["threads"])
    spec = overridden(task["preset"], task["overrides"], task["seed"])
    starter = resource_root() / "personas" / STARTER  # its policy text is part of every request
    persona = Workspace.open(folder, exclusive=False).create_persona("ablation", template=starter)
    shutil.copy(task["train"], persona.dataset_path)
    decider, training = _decider(spec, persona, task)
    found: dict[str, Any] = {"name": task["name"], "seed": task["seed"], "tests": {}, **training}
    found["files"] = {"train": task["train"], "tests": task["tests"]}
    point = OperatingPoint(tau_allow=task["tau_allow"], tau_refuse=task["tau_refuse"])
    for path in task["tests"]:
        rows = [json.loads(line) for line in Path(path).read_text("utf-8").splitlines() if line]
        truth = [LABEL_INDEX[parse_label(row["label"])] for row in rows]
        logits, _ = decider.logits(
            [(row.get("context") or "", row["request"]) for row in rows], batch_size=64
        )
        result = figures.summarize(truth, figures.decide_logits(logits, point))
        bound = figures.refuse_recall_at_false_refusal_rate(probabilities(logits), truth, 0.1)
        languages = sorted({row.get("language", "") for row in rows})
        found["tests"][Path(path).stem] = {
            "metrics": figures.as_values(result),
            "confusion": figures.confusion(truth, figures.decide_logits(logits, point)).tolist(),
            "refuse_recall_at_frr_0.1": bound.value,
            "by_language": {
                language: figures.as_values(
                    figures.summarize(
                        [
                            t
                            for t, row in zip(truth, rows, strict=True)
                            if row.get("language", "") == language
                        ],
                        [
                            d
                            for d, row in zip(
                                figures.decide_logits(logits, point), rows, strict=True
                            )
                            if row.get("language", "") == language
                        ],
                    )
                )["macro_f1"]
                for language in languages
            },
        }
        if task["keep_logits"]:
            found["tests"][Path(path).stem]["logits"] = logits.round(4).tolist()
    return found


def table(results: list[dict[str, Any]]) -> str:
    """Return the mean and the range over seeds of every configuration, for every test file."""
    lines = []
    tests = sorted({test for result in results for test in result.get("tests", {})})
    names = list(dict.fromkeys(result["name"] for result in results))
    for test in tests:
        header = " ".join(f"{column[:15]:>16s}" for column in COLUMNS)
        lines.append(f"\n{test}\n{'configuration':40s} n {header}")
        for name in names:
            chosen = [
                r["tests"][test]["metrics"]
                for r in results
                if r["name"] == name and test in r.get("tests", {})
            ]
            if not chosen:
                continue
            cells = []
            for column in COLUMNS:
                values = [c[column] for c in chosen if c[column] is not None]
                cells.append(
                    f"{statistics.mean(values):.3f} ±{spread(values):.3f}".rjust(16)
                    if values
                    else "n/a".rjust(16)
                )
            lines.append(f"{name[:40]:40s} {len(chosen)} " + " ".join(cells))
    return "\n".join(lines)


def spread(values: list[float]) -> float:
    """Return half the range."""
    return (max(values) - min(values)) / 2


def parse_config(text: str) -> tuple[str, dict[str, Any]]:
    """Read ``name:key=value;key=value``; values are JSON, or text where they are not."""
    name, _, rest = text.partition(":")
    overrides: dict[str, Any] = {}
    for item in filter(None, rest.split(";")):
        key, _, value = item.partition("=")
        try:
            overrides[key.strip()] = json.loads(value)
        except ValueError:
            overrides[key.strip()] = value
    return name.strip(), overrides


def main() -> None:
    """Run all configurations and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--train", required=True)
    parser.add_argument("--test", action="append", default=[])
    parser.add_argument("--config", action="append", default=[])
    parser.add_argument("--configs-file", help="one configuration a line")
    parser.add_argument("--preset", default="balanced")
    parser.add_argument("--seeds", default="1")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tau-allow", type=float, default=0.5)
    parser.add_argument("--tau-refuse", type=float, default=0.4)
    parser.add_argument("--last", action="store_true", help="last instead of best checkpoint")
    parser.add_argument("--keep-logits", action="store_true")
    parser.add_argument("--pass-tokens", type=int, help="cut batches on a GPU, to fit more runs")
    parser.add_argument("--keep-runs", default="", help="folder that gets every run's own folder")
    parser.add_argument("--deadline", type=float, default=1e9, help="start no run after so many s")
    parser.add_argument("--out", required=True)
    arguments = parser.parse_args()
    configs = list(arguments.config)
    if arguments.configs_file:
        listed = Path(arguments.configs_file).read_text("utf-8").splitlines()
        configs += [line for line in listed if line.strip() and not line.startswith("#")]
    common = {
        key: getattr(arguments, key)
        for key in (
            "preset",
            "threads",
            "tau_allow",
            "tau_refuse",
            "last",
            "keep_logits",
            "keep_runs",
            "pass_tokens",
        )
    }
    tasks = []
    for seed in map(int, arguments.seeds.split(",")):
        for name, overrides in map(parse_config, configs):
            if seed not in overrides.pop("seeds", [seed]):
                continue
            files = {
                "train": overrides.pop("train", arguments.train),
                "tests": overrides.pop("tests", arguments.test),
            }
            if not files["tests"]:
                parser.error(f"nothing to measure {name!r} on: give --test")
            untrained = overrides.pop("untrained", False)
            after = overrides.pop("after", 0)
            overridden(arguments.preset, overrides, seed)  # a mistake shows before anything runs
            tasks.append({"name": name, "overrides": overrides, "seed": seed, "after": after,
                          "untrained": untrained, **files, **common})  # fmt: skip
    tasks.sort(key=lambda task: task["after"])
    results = []
    started = time.time()
    context = multiprocessing.get_context("spawn")
    with (
        context.Pool(arguments.workers, maxtasksperchild=1) as pool,
        Path(arguments.out).open("a", encoding="utf-8") as stream,
    ):
        for result in pool.imap_unordered(measure, tasks):
            results.append(result)
            stream.write(json.dumps(result) + "\n")
            stream.flush()
            print(
                f"[{time.time() - started:5.0f} s] {result['name']} seed {result['seed']}",
                result.get("error", "")[-300:],
                flush=True,
            )
            if time.time() - started > arguments.deadline:
                pool.terminate()
                break
    print(table(results))


if __name__ == "__main__":
    main()
