"""Whole small runs: routing, accumulation, frozen prefix, seeds, freezing, alarms, control."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from so8t_engine.events import Bye, Checkpoint, Error, Hello, Metric, Progress, Result, Rotation
from so8t_engine.jobs.runtime import Control
from so8t_engine.rotations.gate import GateBank
from so8t_engine.rotations.recording import load_bank
from so8t_engine.specs import LoraSpec, PetSpec
from so8t_engine.training.checkpoints import verify
from so8t_engine.training.data import EncodedSample, Passes
from so8t_engine.workspace.personas import Persona
from so8t_engine.workspace.runs import RunStore
from tests.helpers.tiny_training import (
    build,
    disturb,
    load_tiny,
    make_persona,
    make_samples,
    one_step,
    stop_at,
    tiny_spec,
    train,
)

Bases = Callable[[str], Path]


@pytest.fixture
def persona(tmp_path: Path) -> Persona:
    return make_persona(tmp_path / "persona", make_samples())


def last_bank(run: RunStore) -> GateBank:
    return load_bank(run.checkpoints()[-1] / "gates.safetensors")


def lora(run: RunStore) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(run.checkpoints()[-1] / "lora" / "adapter_model.safetensors")


# -- what a run leaves ------------------------------------------------------------------------


def test_a_run_reports_and_saves_everything(tiny_base: Bases, persona: Persona) -> None:
    code, run, recorder = train(tiny_spec(tiny_base("llama")), persona)
    assert code == 0
    hello, bye = recorder.of(Hello)[0], recorder.of(Bye)[-1]
    assert hello.kind == "train" and Path(hello.run_dir) == run.root
    assert bye.state == "done"
    # 18 training samples in batches of 4: 5 steps an epoch, two epochs.
    assert [step for step, _ in recorder.losses()] == list(range(1, 11))
    first = next(event for event in recorder.of(Metric) if event.split == "train")
    expected = {"loss", "verdict_loss", "danger_loss", "task_loss", "pet", "pet_weight", "lr_lora",
                "lr_gates", "lr_head", "grad_norm", "samples_per_s"}  # fmt: skip
    assert expected <= set(first.values)
    validation = [event for event in recorder.of(Metric) if event.split == "validation"]
    assert [event.step for event in validation] == [5, 10]
    assert {"refuse_recall", "escalate_precision", "macro_f1", "loss"} <= set(validation[0].values)
    rotations = recorder.of(Rotation)
    assert [event.step for event in rotations] == list(range(0, 11))
    assert all((run.root / event.file).is_file() for event in rotations)
    assert all(event.max_orthogonality_error <= 1e-5 for event in rotations)
    assert all(event.max_determinant_error <= 1e-5 for event in rotations)
    assert {event.phase for event in recorder.of(Progress)} == {
        "loading base", "training", "evaluating"
    }  # fmt: skip
    assert not recorder.of(Error)
    assert recorder.of(Result)[-1].data["total_steps"] == 10
    assert [verify(folder) for folder in run.checkpoints()] == [""] * len(run.checkpoints())
    state = run.state()
    assert (state.state, state.step, state.total_steps) == ("done", 10, 10)
    bank = last_bank(run)
    assert bank.theta_safe.abs().max() > 1e-3 and bank.theta_cmd.abs().max() > 1e-3
    assert not list(run.root.rglob("*.bin")) and not list(run.root.rglob("*.pt"))
    assert [event.seq for event in run.events()] == sorted(event.seq for event in run.events())


def test_loss_is_the_weighted_sum_of_its_parts(tiny_base: Bases, persona: Persona) -> None:
    _, _, recorder = train(tiny_spec(tiny_base("llama"), optim_max_steps=3), persona)
    for event in recorder.of(Metric):
        if event.split == "train":
            part = {name: float(value) for name, value in event.values.items()}
            total = part["verdict_loss"] + 0.5 * part["danger_loss"] + 0.5 * part["task_loss"]
            assert part["loss"] == pytest.approx(total + part["pet_weight"] * part["pet"], rel=1e-5)


# -- routing ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("losses", "still", "moved"),
    [
        ({"loss_w_task": 0.0}, "theta_cmd", "theta_safe"),
        ({"loss_w_verdict": 0.0, "loss_w_danger": 0.0}, "theta_safe", "theta_cmd"),
    ],
    ids=["verdict_only", "task_only"],
)
@pytest.mark.parametrize("pet_on", [False, True])
def test_one_loss_alone_leaves_the_other_rotation_bit_identical(
    tiny_base: Bases, persona: Persona, losses: dict[str, Any], still: str, moved: str, pet_on: bool
) -> None:
    pet = PetSpec(weight=0.1 if pet_on else 0.0)
    spec = tiny_spec(tiny_base("llama"), optim_max_steps=3, loss_pet=pet, **losses)
    code, run, _ = train(spec, persona)
    assert code == 0
    bank = last_bank(run)
    assert not getattr(bank, still).any()
    assert getattr(bank, moved).abs().max() > 1e-4
    assert all(value.abs().max() > 0 for name, value in lora(run).items() if "lora_B" in name)


def test_joint_mode_moves_both_with_one_loss(tiny_base: Bases, persona: Persona) -> None:
    spec = tiny_spec(tiny_base("llama"), optim_max_steps=2, loss_w_task=0.0, loss_routing="joint")
    _, run, _ = train(spec, persona)
    bank = last_bank(run)
    assert bank.theta_safe.abs().max() > 1e-4
    assert bank.theta_cmd[:2].abs().max() > 1e-4  # layer gates
    assert not bank.theta_cmd[2].any()  # the safety head never reads R_cmd of the head gate


def test_joint_and_routed_have_the_same_losses_before_the_first_update(
    tiny_base: Bases, persona: Persona
) -> None:
    first = []
    for routing in ("routed", "joint"):
        spec = tiny_spec(tiny_base("llama"), optim_max_steps=2, loss_routing=routing)
        first.append(train(spec, persona)[2].losses())
    assert first[0][0] == pytest.approx(first[1][0], rel=1e-6)
    assert first[0][1] != pytest.approx(first[1][1], rel=1e-6)


@pytest.mark.parametrize("passes", ["split", "two"])
@pytest.mark.parametrize("way", ["shared_head", "spread_head", "recomputed"])
@pytest.mark.parametrize("sharing", ["per_block", "shared"])
def test_a_routed_step_equals_two_backward_passes_over_the_same_rows(
    tiny_base: Bases, passes: Passes, way: str, sharing: str
) -> None:
    """The reference keeps prompt and reply in one row and runs either loss on its own."""
    spec = tiny_spec(tiny_base("qwen2"), loss_pet=PetSpec(weight=0.3, factors=(1.0, 1.0, 1.0)))
    model = disturb(build(load_tiny(tiny_base("qwen2")), sharing=sharing), size=0.3)
    model.share_head = way == "shared_head"
    if way == "recomputed":
        model.recompute_activations()
    rows = [
        EncodedSample((5, 9, 14, 22, 31, 6), 4, 0, False),
        EncodedSample((7, 3, 18), 3, 2, False),
        EncodedSample((40, 41, 42, 43, 44, 45, 46, 8), 5, 1, False),
    ]

    def step(passes: Passes, **changes: float) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
        loss = msgspec.structs.replace(spec.loss, **changes)
        return one_step(model, msgspec.structs.replace(spec, loss=loss), rows, [3], passes=passes)

    parts, found = step(passes)
    verdict_parts, verdict = step("one", w_task=0.0)
    off = PetSpec(weight=0.0)
    task_parts, task = step("one", w_verdict=0.0, w_danger=0.0, pet=off)
    for name in ("verdict_loss", "danger_loss", "pet"):
        assert parts[name] == pytest.approx(verdict_parts[name], rel=1e-4)
    assert parts["task_loss"] == pytest.approx(task_parts["task_loss"], rel=1e-4)
    assert parts["loss"] == pytest.approx(verdict_parts["loss"] + task_parts["loss"], rel=1e-4)
    assert found["gates.theta_safe"].abs().max() > 1e-3 < found["gates.theta_cmd"].abs().max()
    for name, gradient in found.items():
        expected = verdict[name] + task[name]
        if name == "gates.theta_safe":
            expected = verdict[name]
        elif name == "gates.theta_cmd":
            expected = task[name]
        torch.testing.assert_close(gradient, expected, rtol=2e-3, atol=2e-5, msg=name)


@pytest.mark.parametrize("recomputed", [True, False])
def test_the_first_step_recomputes_activations_where_it_should(
    tiny_base: Bases, monkeypatch: pytest.MonkeyPatch, recomputed: bool
) -> None:
    """The base comes in evaluation mode, in which its layers would silently keep everything."""
    model = disturb(build(load_tiny(tiny_base("llama"))))
    model.share_head = False  # one pass over head and rows, as under recomputation
    if recomputed:
        model.recompute_activations()
    assert model.gates is not None
    used: list[int] = []
    apply = model.gates.apply_product

    def count(index: int, x: torch.Tensor, **options: bool) -> torch.Tensor:
        used.append(index)
        return apply(index, x, **options)

    monkeypatch.setattr(model.gates, "apply_product", count)
    spec = tiny_spec(tiny_base("llama"), loss_w_task=0.0)
    one_step(model, spec, [EncodedSample((5, 9, 14, 22), 4, 0, False)], [1])
    assert sorted(used) == sorted(list(range(len(model.layers))) * (2 if recomputed else 1))


@pytest.mark.parametrize("gates", [True, False])
def test_micro_batches_without_any_reply_are_fine(
    tiny_base: Bases, tmp_path: Path, gates: bool
) -> None:
    samples = [
        msgspec.structs.replace(sample, response="Yes." if number == 4 else "")
        for number, sample in enumerate(make_samples(12, validation=3))
    ]
    persona = make_persona(tmp_path / "persona", samples)
    spec = tiny_spec(
        tiny_base("llama"),
        optim_epochs=1.0,
        optim_batch_size=1,
        loss_w_verdict=0.0,
        loss_w_danger=0.0,
        loss_pet=PetSpec(weight=0.0),
        model_gates=gates,
    )
    code, _, recorder = train(spec, persona)
    assert code == 0, recorder.of(Error)
    assert sorted(value > 0 for _, value in recorder.losses()) == [False] * 8 + [True]


def test_a_run_that_could_learn_nothing_is_refused(tiny_base: Bases, tmp_path: Path) -> None:
    persona = make_persona(tmp_path / "persona", make_samples(12, replies=False))
    spec = tiny_spec(tiny_base("llama"), loss_w_verdict=0.0, loss_w_danger=0.0)
    code, run, recorder = train(spec, persona)
    assert code == 3
    assert "no training sample has a response" in recorder.of(Error)[0].why
    assert run.state().state == "failed"


def test_without_replies_the_run_says_why_r_cmd_stays_the_identity(
    tiny_base: Bases, tmp_path: Path
) -> None:
    persona = make_persona(tmp_path / "persona", make_samples(12, replies=False))
    code, run, recorder = train(tiny_spec(tiny_base("llama"), optim_max_steps=2), persona)
    assert code == 0
    assert "No sample has a response, so R_cmd stays the identity." in recorder.log()
    assert not last_bank(run).theta_cmd.any()


# -- how a step is cut up ---------------------------------------------------------------------


def test_accumulation_makes_fewer_steps(tiny_base: Bases, persona: Persona) -> None:
    """18 samples in micro-batches of 4 and steps of 2: 5 micro-batches, so 3 steps an epoch."""
    spec = tiny_spec(tiny_base("llama"), optim_accumulation=2)
    assert [step for step, _ in train(spec, persona)[2].losses()] == [1, 2, 3, 4, 5, 6]


def test_split_of_a_step_into_micro_batches_changes_neither_loss_nor_gradient(
    tiny_base: Bases,
) -> None:
    from so8t_engine.model.prompt import PromptBuilder
    from so8t_engine.training.data import encode_samples
    from tests.helpers.tiny_training import POLICY

    samples = [sample for sample in make_samples(12) if sample.split == "train"][:6]
    base = load_tiny(tiny_base("qwen2"))
    rows = encode_samples(
        samples, PromptBuilder(base.tokenizer, POLICY, max_tokens=96), task_target="response"
    )
    spec = tiny_spec(tiny_base("qwen2"), loss_pet=PetSpec(weight=1.0, factors=(1.0, 1.0, 1.0)))
    model = disturb(build(base))
    results = []
    for cut in ([6], [3, 3], [1, 2, 3], [1] * 6):
        results.append(one_step(model, spec, rows, cut))
    results.append(one_step(model, spec, rows, [6], budget=40))
    (whole_parts, whole), *others = results
    assert len(whole) > 10
    for parts, gradients in others:
        assert parts == pytest.approx(whole_parts, rel=1e-5)
        for name, gradient in whole.items():
            torch.testing.assert_close(gradients[name], gradient, rtol=1e-3, atol=1e-6)


# -- the frozen prefix ------------------------------------------------------------------------


def test_frozen_prefix_gives_the_same_losses_over_a_whole_run(
    tiny_base: Bases, persona: Persona
) -> None:
    losses, metrics = {}, {}
    for mode in ("off", "ram", "disk"):
        spec = tiny_spec(tiny_base("qwen3"), model_prefix_cache=mode, optim_epochs=3.0)
        code, _, recorder = train(spec, persona)
        assert code == 0, recorder.events
        losses[mode] = [value for _, value in recorder.losses()]
        metrics[mode] = [
            event.values["loss"] for event in recorder.of(Metric) if event.split == "validation"
        ]
    assert len(losses["off"]) == 15
    assert losses["ram"] == pytest.approx(losses["off"], rel=1e-4)
    assert losses["disk"] == losses["ram"]
    assert metrics["ram"] == pytest.approx(metrics["off"], rel=1e-4)


def test_a_later_run_finds_the_cache_of_the_first(tiny_base: Bases, persona: Persona) -> None:
    spec = tiny_spec(tiny_base("llama"), model_prefix_cache="auto", optim_max_steps=2)
    _, _, first = train(spec, persona)
    _, _, again = train(spec, persona)
    assert any(event.phase == "caching prefix" for event in first.of(Progress))
    assert not any(event.phase == "caching prefix" for event in again.of(Progress))
    assert first.losses() == again.losses()


# -- seeds ------------------------------------------------------------------------------------


def test_same_seed_same_losses_other_seed_other_losses(tiny_base: Bases, persona: Persona) -> None:
    spec = tiny_spec(
        tiny_base("llama"),
        model_lora=LoraSpec(rank=4, alpha=8.0, dropout=0.2),
        optim_max_steps=6,
    )
    _, _, first = train(spec, persona)
    torch.manual_seed(123)  # whatever happened before in this process
    _, _, again = train(spec, persona)
    assert first.losses() == again.losses()
    other = tiny_spec(
        tiny_base("llama"),
        model_lora=LoraSpec(rank=4, alpha=8.0, dropout=0.2),
        optim_max_steps=6,
        seed=18,
    )
    assert train(other, persona)[2].losses() != first.losses()


# -- late freeze and collapse -----------------------------------------------------------------


def test_late_freeze_stops_the_safety_side_only(tiny_base: Bases, persona: Persona) -> None:
    spec = tiny_spec(tiny_base("llama"), schedule_late_freeze=0.5)
    _, run, recorder = train(spec, persona)
    assert len(recorder.losses()) == 10
    banks = {int(path.stem.split("-")[1]): load_bank(path) for path in run.rotation_files()}
    assert not torch.equal(banks[4].theta_safe, banks[5].theta_safe)
    for step in range(6, 11):
        assert torch.equal(banks[step].theta_safe, banks[5].theta_safe)
        assert not torch.equal(banks[step].theta_cmd, banks[step - 1].theta_cmd)
    from safetensors.torch import load_file

    heads = [load_file(folder / "head.safetensors") for folder in run.checkpoints()]
    assert [folder.name for folder in run.checkpoints()][-1] == "step-00000010"
    middle = load_file(run.checkpoints_dir / "step-00000005" / "head.safetensors")
    assert torch.equal(heads[-1]["safety_head.weight"], middle["safety_head.weight"])


def test_collapse_stops_and_keeps_the_best(tiny_base: Bases, persona: Persona) -> None:
    """A huge learning rate without any weight on REFUSE makes Refuse Recall fall to nothing."""
    samples = make_samples(36, validation=12)
    persona.save_samples(samples)
    spec = tiny_spec(
        tiny_base("llama"),
        optim_epochs=40.0,
        optim_lr_head=1.0,
        loss_w_danger=0.0,
        loss_class_weights="none",
        schedule_eval_every=0.02,
        schedule_collapse_drop=0.05,
        optim_warmup=0.0,
    )
    code, run, recorder = train(spec, persona)
    recalls = [
        float(event.values["refuse_recall"])
        for event in recorder.of(Metric)
        if event.split == "validation"
    ]
    assert code == 0
    assert max(recalls) - recalls[-1] > 0.05  # that is what stopped it …
    assert all(
        max(recalls[: number + 1]) - value <= 0.05 for number, value in enumerate(recalls[:-1])
    )  # … and at once
    training = [event for event in recorder.of(Progress) if event.phase == "training"]
    assert training[-1].done < training[-1].total
    assert "Refuse Recall fell" in run.state().message
    best = run.best_checkpoint()
    assert best is not None and verify(best) == ""
    assert best.name == f"step-{run.state().best_step:08d}"


# -- control ----------------------------------------------------------------------------------


def test_pause_holds_the_run_and_resume_lets_it_go_on(tiny_base: Bases, persona: Persona) -> None:
    control = Control()
    states: list[str] = []
    held: list[int] = []

    def act(event: Any) -> None:
        if isinstance(event, Metric) and event.split == "train" and event.step == 2:
            control.handle({"cmd": "pause"})
            threading.Thread(target=release).start()

    def release() -> None:
        run = next(iter(persona.runs()))
        deadline = time.monotonic() + 20
        while run.state().state != "paused" and time.monotonic() < deadline:
            time.sleep(0.02)
        states.append(run.state().state)
        held.append(run.state().step)
        control.handle({"cmd": "resume"})

    spec = tiny_spec(tiny_base("llama"), optim_max_steps=5)
    code, run, recorder = train(spec, persona, control=control, on_event=act)
    assert (code, states, held) == (0, ["paused"], [2])
    assert run.state().state == "done"
    assert "Paused after step 2." in recorder.log() and "Resumed." in recorder.log()
    assert len(recorder.losses()) == 5
    plain = train(spec, persona)[2]
    assert plain.losses() == recorder.losses()


def test_stop_saves_and_says_where(tiny_base: Bases, persona: Persona) -> None:
    control = Control()
    spec = tiny_spec(tiny_base("llama"), schedule_save_every=0.0, schedule_eval_every=0.0)
    code, run, recorder = train(spec, persona, control=control, on_event=stop_at(3, control))
    assert code == 0
    assert recorder.of(Bye)[-1].state == "cancelled"
    assert run.state().message == "Stopped and saved after step 3 of 10; it can be resumed."
    saved = recorder.of(Checkpoint)
    assert [(event.step, event.reason) for event in saved] == [(3, "emergency")]


def test_stop_while_the_prefix_is_cached_trains_nothing(tiny_base: Bases, persona: Persona) -> None:
    control = Control()

    def act(event: Any) -> None:
        if isinstance(event, Progress) and event.phase == "caching prefix":
            control.request_stop("now")

    persona.save_samples(make_samples(60))
    spec = tiny_spec(tiny_base("llama"), model_prefix_cache="ram")
    code, run, _ = train(spec, persona, control=control, on_event=act)
    assert code == 0
    assert run.state().state == "cancelled"
    assert "nothing was trained" in run.state().message
    assert not run.checkpoints()
