"""Trains the default base on the CPU: default settings against plain Trainer + peft LoRA.

Both read the same rows for the same epochs in the same batches of 8. The plain arm is what one
writes without this project: ``AutoModelForSequenceClassification`` in bfloat16, LoRA r=16 on all
seven linear layers of all layers, the policy in every row, padding to the longest row of a batch.
The time of the default arm includes filling the prefix cache (an empty one), not loading.

    python benchmarks/engine_train_cpu.py --samples 160 --epochs 3 --threads 2
    python benchmarks/engine_train_cpu.py --train rows.jsonl --test unseen.jsonl   # macro-F1 too
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as every job sets it; both arms alike
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import msgspec  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

from so8t_engine.evaluation.metrics import summarize  # noqa: E402
from so8t_engine.events import Error, Event, Progress  # noqa: E402
from so8t_engine.jobs.train import run as run_train  # noqa: E402
from so8t_engine.labels import LABEL_INDEX  # noqa: E402
from so8t_engine.model.base_cache import resolve_base  # noqa: E402
from so8t_engine.model.prompt import PromptBuilder  # noqa: E402
from so8t_engine.samples.readers import read_samples  # noqa: E402
from so8t_engine.samples.schema import Sample  # noqa: E402
from so8t_engine.specs import TrainSpec  # noqa: E402
from so8t_engine.workspace.personas import Persona, PersonaInfo, parse_info  # noqa: E402

STARTER = ROOT / "resources" / "personas" / "office-assistant"


class Clock:
    """Times the default arm from its first cached row or step to its last step."""

    def __init__(self) -> None:
        self.start = self.end = 0.0

    def __call__(self, event: Event) -> None:
        if isinstance(event, Error):
            raise SystemExit(f"{event.what} {event.details}")
        if isinstance(event, Progress) and event.phase == "loading base" and event.done:
            self.start = time.perf_counter()
        if isinstance(event, Progress) and event.phase == "training":
            self.end = time.perf_counter()


def default_arm(
    base: str, rows: list[Sample], policy: str, epochs: float, test: list[Sample], folder: Path
) -> tuple[float, float | None]:
    """Train with the default settings; seconds, and macro-F1 on ``test``."""
    spec = TrainSpec()
    spec = msgspec.structs.replace(
        spec,
        optim=msgspec.structs.replace(spec.optim, epochs=epochs),
        schedule=msgspec.structs.replace(spec.schedule, eval_every=0.0, save_every=0.0),
        base_model=base,
        device="cpu",
    )
    persona = Persona(folder / "persona")
    persona.root.mkdir()
    persona.save(PersonaInfo(name="Benchmark", policy=policy))
    persona.save_samples([msgspec.structs.replace(row, split="train") for row in rows])
    clock = Clock()
    code, store = run_train(spec, persona, events=False, sinks=[clock])
    assert code == 0 and store is not None
    score = None
    if test:
        from so8t_engine.model.decider import Decider

        decider = Decider(base, store.checkpoints()[-1], policy=policy, device="cpu")
        logits, _ = decider.logits([(row.context, row.request) for row in test])
        score = macro_f1(test, logits)
    return clock.end - clock.start, score


def macro_f1(rows: list[Sample], logits: Any) -> float | None:
    """Return macro-F1 of the most likely labels."""
    truth = np.array([LABEL_INDEX[row.label] for row in rows])
    return summarize(truth, np.asarray(logits).argmax(-1)).macro_f1.value


def plain_arm(
    base: str, rows: list[Sample], policy: str, epochs: float, test: list[Sample], folder: Path
) -> tuple[float, float | None]:
    """Train with transformers' Trainer and peft alone; seconds, and macro-F1 on ``test``."""
    from peft import LoraConfig, get_peft_model
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
    )

    tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
    prompts = PromptBuilder(tokenizer, policy, max_tokens=TrainSpec().data.max_tokens)

    def encode(row: Sample) -> dict[str, Any]:
        ids = [*prompts.head, *prompts.encode(row.context, row.request).ids]
        return {"input_ids": ids, "attention_mask": [1] * len(ids),
                "labels": LABEL_INDEX[row.label]}  # fmt: skip

    torch.manual_seed(17)
    model = AutoModelForSequenceClassification.from_pretrained(
        base, num_labels=3, dtype=torch.bfloat16, local_files_only=True
    )
    model.config.pad_token_id = tokenizer.pad_token_id
    lora = LoraConfig(
        r=16, lora_alpha=32, task_type="SEQ_CLS",
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj",
                        "down_proj"],
    )  # fmt: skip
    trainer = Trainer(
        get_peft_model(model, lora),
        TrainingArguments(
            output_dir=str(folder / "plain"), per_device_train_batch_size=8,
            num_train_epochs=epochs, learning_rate=2e-4, save_strategy="no", report_to="none",
            disable_tqdm=True, use_cpu=True, remove_unused_columns=False, seed=17,
            warmup_steps=0.05, lr_scheduler_type="cosine",
        ),
        train_dataset=[encode(row) for row in rows],
        data_collator=DataCollatorWithPadding(tokenizer),
    )  # fmt: skip
    start = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - start
    score = None
    if test:
        found = trainer.predict([encode(row) for row in test]).predictions
        score = macro_f1(test, found)
    return seconds, score


def main() -> None:
    """Run both arms and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", type=Path, default=STARTER / "dataset.jsonl")
    parser.add_argument("--test", type=Path)
    parser.add_argument("--samples", type=int, default=160, help="0 for all")
    parser.add_argument("--epochs", type=float, default=3.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = list(read_samples(options.train).samples)
    order = np.random.default_rng(17).permutation(len(rows))
    rows = [rows[index] for index in order][: options.samples or None]
    test = list(read_samples(options.test).samples) if options.test else []
    policy = parse_info((STARTER / "persona.toml").read_text("utf-8"), "starter").policy
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = str(resolve_base("default"))
        os.environ["SO8T_CACHE"] = str(folder / "cache")  # so that the prefix cache starts empty
        ours, our_score = default_arm(base, rows, policy, options.epochs, test, folder)
        plain, plain_score = plain_arm(base, rows, policy, options.epochs, test, folder)
    seen = len(rows) * options.epochs
    print(f"{len(rows)} rows x {options.epochs:g} epochs, {options.threads} threads,"
          f" torch {torch.__version__}")  # fmt: skip
    print("| arm | samples/s | macro-F1 |")
    print("|---|---|---|")
    for label, seconds, score in (
        ("default settings", ours, our_score),
        ("plain Trainer + peft LoRA", plain, plain_score),
    ):
        print(f"| {label} | {seen / seconds:.2f} | {'' if score is None else f'{score:.3f}'} |")
    print(f"ratio: {plain / ours:.2f}")
    if options.out:
        record = {"rows": len(rows), "epochs": options.epochs, "threads": options.threads,
                  "default_s": ours, "plain_s": plain, "default_f1": our_score,
                  "plain_f1": plain_score}  # fmt: skip
        options.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
