"""What the window says of memory before a start: the engine's own estimate, without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from so8t_engine.events import GpuHolder, GpuReading, Telemetry
from so8t_engine.labels import Label
from so8t_engine.samples.schema import Sample
from so8t_engine.specs import PRESETS, DataSpec, ModelSpec, OptimSpec, TrainSpec, preset
from so8t_engine.training.memory import Workload, estimate
from so8t_engine.workspace.runs import RunState, RunStore
from so8t_studio.pages.train.checks import (
    Pace,
    device_check,
    last_pace,
    memory_check,
    split_check,
)
from so8t_studio.pages.train.memory_plan import LengthCache, MemoryPlan, plan_memory
from tests.helpers.tiny_base import make_base

GIB = 1 << 30
POLICY = "Answer only what an office assistant may answer."


def rows(count: int = 60) -> list[Sample]:
    return [
        Sample(id=str(number), request=f"Please look at number {number} " * (1 + number % 7),
               label=list(Label)[number % 3], response="Yes, here it is.")
        for number in range(count)
    ]  # fmt: skip


def reading(**fields) -> Telemetry:
    gpu = GpuReading(index=0, name="RTX 3060", memory_used=2 * GIB, memory_total=12 * GIB, **fields)
    return Telemetry(mono=0.0, cpu=1.0, ram_used=GIB, ram_total=8 * GIB, gpus=(gpu,))


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


def plan(base: Path, spec: TrainSpec, telemetry: Telemetry | None = None) -> MemoryPlan:
    return plan_memory(rows(), spec, base=str(base), policy=POLICY, reading=telemetry,
                       cache=LengthCache())  # fmt: skip


@pytest.mark.parametrize("layers", [2, "all"])
@pytest.mark.parametrize("task", [0.0, 0.3])
def test_the_plan_is_what_the_engine_estimates_from_real_tokens(base, layers, task):
    from so8t_engine.model.loading import load_config, load_tokenizer
    from so8t_engine.model.prompt import PromptBuilder
    from so8t_engine.training.data import encode_samples
    from so8t_engine.training.memory import workload

    spec = TrainSpec(
        model=ModelSpec(adapt_layers=layers), data=DataSpec(max_tokens=256),
        optim=OptimSpec(batch_size=8), device="cpu",
    )  # fmt: skip
    spec = msgspec.structs.replace(spec, loss=msgspec.structs.replace(spec.loss, w_task=task))
    found = plan(base, spec)
    assert found.problem == ""
    prompts = PromptBuilder(load_tokenizer(base), POLICY, max_tokens=256)
    encoded = encode_samples(rows(), prompts, task_target="response" if task else "")
    work = workload(spec, [(len(row.ids), row.prompt) for row in encoded], len(prompts.head))
    exact = estimate(spec, load_config(base), work, device="cpu")
    parts = {name: size for name, size in found.parts.items() if name != "libraries"}
    assert sum(parts.values()) == pytest.approx(exact.total, rel=0.03)
    for name in ("weights", "activations", "optimizer"):
        assert parts[name] == pytest.approx(exact.device[name], rel=0.05), name
    longest = len(prompts.head) + max(len(row.ids) for row in encoded)
    assert abs(found.longest - longest) <= 12


def test_the_window_estimates_without_torch(base):
    script = (
        "import sys\n"
        "from tests.unit.test_memory_plan import plan, reading\n"
        "from so8t_engine.specs import TrainSpec\n"
        "from pathlib import Path\n"
        f"found = plan(Path({str(base)!r}), TrainSpec(), reading())\n"
        "assert not found.problem and found.fits\n"
        "print([name for name in ('torch', 'transformers', 'peft') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True,
                          check=True, cwd=Path(__file__).parents[2])  # fmt: skip
    assert done.stdout.strip() == "[]"


def test_a_gpu_is_planned_with_what_it_has_and_what_others_hold(base):
    spec = TrainSpec(model=ModelSpec(adapt_layers=1))
    found = plan(base, spec, reading())
    assert found.device == "GPU 0, RTX 3060"
    assert (found.total, found.taken, found.free) == (12 * GIB, 2 * GIB, 10 * GIB)
    assert found.needed == sum(found.parts.values()) and "libraries" in found.parts
    assert "prefix cache" in found.host and "lower layers" in found.host
    assert plan(base, TrainSpec(device="cpu"), reading()).device == "CPU"


def test_what_is_missing_for_a_plan_is_said(tmp_path):
    nowhere = plan(tmp_path / "nowhere", TrainSpec())
    assert "does not exist" in nowhere.problem and nowhere.fits is None
    assert memory_check(nowhere) == []
    empty = plan_memory([], TrainSpec(), base="x", policy="", reading=None, cache=LengthCache())
    assert "nothing to estimate" in empty.problem


def test_texts_are_counted_once(base, monkeypatch):
    from so8t_studio.pages.train import memory_plan

    cache, asked = LengthCache(), []
    real = memory_plan.token_counts

    def counted(folder: Path, texts: list[str]) -> list[int]:
        asked.extend(texts)
        return real(folder, texts)

    monkeypatch.setattr(memory_plan, "token_counts", counted)
    first = cache.counts(base, ["one", "two", "one"])
    assert cache.counts(base, ["two", "three"])[0] == first[1]
    assert asked == ["one", "two", "three"]


# Shape of Qwen2.5-7B, for which the card presets are meant (benchmarks/engine_7b.py measures it).
QWEN_7B = {
    "model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944,
    "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
    "vocab_size": 152064, "tie_word_embeddings": False,
}  # fmt: skip


@pytest.mark.parametrize(("key", "card"), [("card12", 12), ("card6", 6)])
def test_a_7b_model_fits_the_card_that_the_preset_names(key, card):
    spec = preset(key)
    work = Workload(rows=spec.optim.batch_size, longest=spec.data.max_tokens)
    need = estimate(spec, SimpleNamespace(**QWEN_7B), work, device="cuda", quantization="nf4").total
    assert need < 0.8 * card * 1e9, "a desktop and CUDA itself need the rest"
    assert need > 0.15 * card * 1e9, "it would leave the card idle"
    assert PRESETS[key][0] == f"{card} GB card"


def test_checks_name_who_holds_the_card_and_whether_it_fits():
    holders = (GpuHolder(pid=77, name="blender", memory=2 * GIB), GpuHolder(pid=78))
    checks = device_check(rows(), TrainSpec(), reading(holders=holders))
    text = " ".join(check.sentence for check in checks)
    assert "10.0 GiB of 12 GiB free" in text
    assert "blender (process 77, 2.0 GiB); a process that cannot be named (process 78)" in text

    def level(needed: float, total: float | None, taken: float | None) -> str:
        parts = {"weights": int(needed * GIB)}
        size = None if total is None else int(total * GIB)
        held = None if taken is None else int(taken * GIB)
        (check,) = memory_check(MemoryPlan(parts, {}, "GPU 0", size, held))
        return check.level

    assert level(3, 12, 2) == "ok"
    assert level(11, 12, 2) == "warning"
    assert level(13, 12, 0) == "warning"
    assert level(3, None, None) == "info"


def test_the_time_comes_from_an_earlier_run_where_there_is_one(tmp_path):
    run = RunStore.create(tmp_path, TrainSpec(), policy="")
    state = RunState(state="done", step=100, started=1000.0, ended=1200.0, pid=7)
    run.save_state(state)
    hello = {"type": "hello", "v": 1, "kind": "train", "pid": 1, "device": "cuda:0 (H100)"}
    run.events_path.write_text(json.dumps(hello) + "\n")
    pace = last_pace([run], TrainSpec())
    assert pace == Pace(run.id, 100 * TrainSpec().optim.batch_size / 200.0, True)
    assert last_pace([run], TrainSpec(model=ModelSpec(adapt_layers="all"))) is None
    (check,) = device_check(rows(6000), TrainSpec(), reading(), pace)
    assert run.id in check.sentence and "64 min" in check.sentence
    (on_cpu,) = device_check(rows(), TrainSpec(device="cpu"), reading(), pace)
    assert run.id not in on_cpu.sentence, "a GPU's pace says nothing of the CPU"
    run.save_state(msgspec.structs.replace(state, pid=0))
    assert last_pace([run], TrainSpec()) is None, "the shipped run was trained elsewhere"


def test_a_label_that_only_the_held_out_rows_have_blocks_the_start():
    mixed = [msgspec.structs.replace(row, split="validation" if row.label is Label.REFUSE
                                     else "train") for row in rows()]  # fmt: skip
    (check,) = split_check(mixed, TrainSpec())
    assert check.level == "error" and "No row labelled REFUSE" in check.sentence
