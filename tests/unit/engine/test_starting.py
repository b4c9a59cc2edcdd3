"""Runs that begin with learned weights: what is loaded, what is measured, what does not fit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import load_file, save_file

from so8t_engine.errors import SpecError, WorkspaceError
from so8t_engine.events import Error
from so8t_engine.jobs.evaluate import rows_to_evaluate
from so8t_engine.jobs.starting import find_start, require_fit, training_rows
from so8t_engine.jobs.train import extend, gather_samples, prepare_run
from so8t_engine.labels import Label
from so8t_engine.model.decider import Decider
from so8t_engine.model.header import read_header
from so8t_engine.rotations.recording import load_bank
from so8t_engine.samples.schema import Sample, encode_sample
from so8t_engine.specs import LoraSpec, ModelSpec, TrainSpec, preset
from so8t_engine.workspace.personas import Persona
from so8t_engine.workspace.runs import RunStore
from so8t_engine.workspace.starts import Start, read_seen, row_key, trained_on
from so8t_engine.workspace.workspace import shipped_run
from tests.helpers.tiny_training import make_persona, make_samples, tiny_spec, train

Bases = Callable[[str], Path]
STILL = {"optim_lr_lora": 1e-12, "optim_lr_gates": 1e-12, "optim_lr_head": 1e-12}


@pytest.fixture
def persona(tmp_path: Path) -> Persona:
    return make_persona(tmp_path / "persona", make_samples())


@pytest.fixture
def first(tiny_base: Bases, persona: Persona) -> RunStore:
    code, run, _ = train(tiny_spec(tiny_base("llama")), persona)
    assert code == 0
    return run


def weights(folder: Path) -> dict[str, torch.Tensor]:
    lora = load_file(folder / "lora" / "adapter_model.safetensors")
    head = load_file(folder / "head.safetensors")
    bank = load_bank(folder / "gates.safetensors")
    return {**lora, **head, **{f"gates.{name}": part for name, part in bank.state_dict().items()}}


def test_a_run_goes_on_from_the_weights_of_another(
    tiny_base: Bases, persona: Persona, first: RunStore
) -> None:
    base = tiny_base("llama")
    code, second, recorder = train(tiny_spec(base, start_from=first.id, **STILL), persona)
    assert code == 0 and f"Begins with the weights '{first.id}'." in recorder.log()
    best = first.best_checkpoint()
    assert best is not None
    before, after = weights(best), weights(second.checkpoints()[-1])
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, rtol=0, atol=1e-6, msg=name)
    fresh = train(tiny_spec(base, **STILL), persona)[1]
    unlike = weights(fresh.checkpoints()[-1])
    assert not torch.allclose(unlike["gates.theta_safe"], before["gates.theta_safe"], atol=1e-3)
    # What it learns from there is its own: other rates move the weights away.
    moved = weights(train(tiny_spec(base, start_from=first.id), persona)[1].checkpoints()[-1])
    assert not torch.allclose(moved["gates.theta_safe"], before["gates.theta_safe"], atol=1e-4)


def test_weights_stored_in_half_precision_are_learned_on_in_float32(
    tiny_base: Bases, persona: Persona, first: RunStore, tmp_path: Path
) -> None:
    best = first.best_checkpoint()
    assert best is not None
    folder = tmp_path / "half"
    shutil.copytree(best, folder)
    path = folder / "lora" / "adapter_model.safetensors"
    save_file({name: part.half() for name, part in load_file(path).items()}, path)
    spec = tiny_spec(tiny_base("llama"), start_from=str(folder), **STILL)
    code, run, recorder = train(spec, persona)
    assert code == 0
    stored = load_file(run.checkpoints()[-1] / "lora" / "adapter_model.safetensors")
    assert {part.dtype for part in stored.values()} == {torch.float32}
    # Nobody knows what weights from elsewhere were trained on, and the run says so.
    assert "is not known" in recorder.log()
    assert read_seen(run.start_dir) is None


def test_rows_that_the_weights_know_are_never_measured_on(
    tiny_base: Bases, persona: Persona, first: RunStore
) -> None:
    known = trained_on(first.samples())
    assert len(known) == 18
    # The user divides the rows anew: all of them would be held out.
    everything = [msgspec.structs.replace(row, split="validation") for row in first.samples()]
    new = [
        Sample(id=f"n{number}", request=f"A new question {number * 7919}", label=row.label)
        for number, row in enumerate(everything[:8])
    ]
    persona.save_samples([*everything, *new])
    spec = tiny_spec(tiny_base("llama"), start_from=first.id)
    second = prepare_run(spec, persona)
    splits = {row_key(row): row.split for row in second.samples()}
    assert all(splits[key] == "train" for key in known)
    held = [row for row in everything if row_key(row) not in known]
    assert len(held) == 6 and all(splits[row_key(row)] == "validation" for row in held)
    # What the second knows includes what the first knew, also when the first is gone.
    code, _, _ = train(spec, persona, resume=None)
    assert code == 0
    shutil.rmtree(first.root)
    seen = read_seen(second.start_dir)
    assert seen is not None and seen == known


def test_a_limit_takes_new_rows_first(tiny_base: Bases, persona: Persona, first: RunStore) -> None:
    new = [
        Sample(id=f"n{number}", request=f"Quite another matter {number * 104729}", split="train",
               label=row.label)
        for number, row in enumerate(first.samples()[:6])
    ]  # fmt: skip
    persona.save_samples([*first.samples(), *new])

    def rows(limit: int, seed: int = 17) -> set[str]:
        spec = tiny_spec(tiny_base("llama"), start_from=first.id, data_limit=limit, seed=seed)
        return {row.id for row in prepare_run(spec, persona).samples() if row.split == "train"}

    wanted = {row.id for row in new}
    assert wanted <= rows(10) and len(rows(10)) == 10
    assert rows(10, seed=1) != rows(10, seed=2)
    assert rows(4) < wanted and len(rows(4)) == 4
    plain = prepare_run(tiny_spec(tiny_base("llama"), data_limit=10), persona)
    assert not wanted <= {row.id for row in plain.samples() if row.split == "train"}


def test_few_new_rows_are_read_often_and_many_once(
    tiny_base: Bases, persona: Persona, first: RunStore
) -> None:
    def counts(new: int, limit: int, repeat: int) -> tuple[int, int]:
        rows = [
            Sample(id=f"n{number}", request=f"Quite another matter {number * 104729}",
                   split="train", label=Label.ALLOW)
            for number in range(new)
        ]  # fmt: skip
        persona.save_samples([*first.samples(), *rows])
        spec = tiny_spec(tiny_base("llama"), start_from=first.id, data_limit=limit,
                         data_repeat_new=repeat)  # fmt: skip
        found = gather_samples(spec, persona, find_start(spec, persona))
        assert len({row.id for row in found}) == len(found)
        train = [row for row in found if row.split == "train"]
        lessons = [row for row in train if row.id.startswith("n")]
        assert {row.request for row in lessons} <= {row.request for row in rows}
        return len(lessons), len(train)

    assert counts(2, 12, 8) == (6, 12), "half of the limit"
    assert counts(2, 12, 2) == (4, 12)
    assert counts(10, 12, 8) == (10, 12)
    assert counts(20, 12, 8) == (12, 12)
    assert counts(2, 0, 3) == (6, 24)
    assert counts(0, 12, 8) == (0, 12)
    without = tiny_spec(tiny_base("llama"), data_repeat_new=8)
    assert len(gather_samples(without, persona)) == 24, "everything is new: no row is preferred"


def test_what_does_not_fit_is_refused_with_the_settings_that_would(
    tiny_base: Bases, persona: Persona, first: RunStore
) -> None:
    base = tiny_base("llama")
    for changes, words in (
        ({"model_adapt_layers": "all"}, "model.adapt_layers = 2"),
        ({"model_lora": LoraSpec(rank=8, alpha=8.0)}, '"rank":4'),
        ({"model_lora": None}, "model.lora"),
        ({"model_gates": False}, "model.gates = true"),
        ({"model_sharing": "shared"}, 'model.sharing = "per_block"'),
    ):
        with pytest.raises(SpecError) as caught:
            find_start(tiny_spec(base, start_from=first.id, **changes), persona)
        assert words in caught.value.why
    dropout = {"model_lora": LoraSpec(rank=4, alpha=8.0, dropout=0.1)}
    assert find_start(tiny_spec(base, start_from=first.id, **dropout), persona) is not None
    with pytest.raises(WorkspaceError, match="no run"):
        find_start(tiny_spec(base, start_from="20990101_000000"), persona)


def test_another_base_model_is_refused(
    tiny_base: Bases, persona: Persona, first: RunStore, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_base("llama"), other)
    path = next(other.glob("*.safetensors"))
    save_file({name: part + 1 for name, part in load_file(path).items()}, path,
              metadata={"format": "pt"})  # fmt: skip
    code, _, recorder = train(tiny_spec(other, start_from=first.id), persona)
    assert code != 0
    assert "another base model" in recorder.of(Error)[0].what


def test_the_shipped_weights_are_for_the_default_base_only(
    tiny_base: Bases, persona: Persona
) -> None:
    code, run, recorder = train(tiny_spec(tiny_base("llama"), start_from="starter"), persona)
    assert code == 0 and not run.start_dir.exists()
    assert "begins with nothing learned" in recorder.log()


def test_a_run_without_progress_cannot_be_extended(first: RunStore) -> None:
    for path in first.checkpoints()[-1].glob("optimizer.*"):
        path.unlink()
    with pytest.raises(WorkspaceError, match="not the optimizer's state") as caught:
        extend(first, 1.0)
    assert f"start_from={first.id}" in caught.value.next_step


def test_baselines_learn_from_all_that_the_weights_have_learned_from(
    tiny_base: Bases, persona: Persona, first: RunStore, tmp_path: Path
) -> None:
    new = Sample(id="new", request="A request of today", label=Label.ALLOW, split="train")
    persona.save_samples([*first.samples(), new])
    second = prepare_run(tiny_spec(tiny_base("llama"), start_from=first.id, data_limit=3), persona)
    rows, seen = training_rows(second, persona, second.samples())
    wanted = {row.id for row in [*first.samples(), new] if row.split == "train"}
    assert {row.id for row in rows} == wanted and len(rows) == len(wanted) == 19
    assert seen == {row_key(row) for row in rows}
    # A file of the user's own with known rows in it is measured, and the user is told.
    path = tmp_path / "mine.jsonl"
    path.write_bytes(b"".join(map(encode_sample, [*rows[:5], *held_out(first)])))
    said: list[str] = []
    measured, train, _ = rows_to_evaluate(second, persona, str(path), said.append)
    assert len(measured) == 11 and len(train) == 19
    assert said == ["5 of these 11 rows were trained on; the figures say less about requests that"
                    " are new."]  # fmt: skip
    # Without the dataset the run's own rows are all there is.
    persona.dataset_path.write_text("no rows")
    assert {row.id for row in training_rows(second, persona, second.samples())[0]} == {
        row.id for row in second.samples() if row.split == "train"
    }


def held_out(run: RunStore) -> list[Sample]:
    return [row for row in run.samples() if row.split == "validation"]


def test_weights_that_never_learned_to_reply_leave_writing_to_the_base_model(
    tiny_base: Bases, persona: Persona
) -> None:
    base = tiny_base("llama")
    large = {"optim_lr_lora": 0.3, "optim_lr_gates": 0.3, "optim_epochs": 4.0}

    def reply(checkpoint: Path | None) -> str:
        decider = Decider(str(base), checkpoint, policy=persona.info.policy, device="cpu",
                          dtype="float32")  # fmt: skip
        before = decider.strength
        text = "".join(decider.stream_reply("", "Say something.", max_new_tokens=24))
        assert decider.strength == before
        return text

    plain = reply(None)
    silent = train(tiny_spec(base, loss_w_task=0.0, **large), persona)[1]
    last = silent.checkpoints()[-1]
    assert not read_header(last).replies and reply(last) == plain
    speaking = train(tiny_spec(base, **large), persona)[1]
    assert read_header(speaking.checkpoints()[-1]).replies
    assert reply(speaking.checkpoints()[-1]) != plain
    # A few replies on top of weights that lost their language do not bring it back.
    after = train(tiny_spec(base, start_from=silent.id), persona)[1]
    assert not read_header(after.checkpoints()[-1]).replies
    # Verdicts are the trained persona's all the same.
    decider = Decider(str(base), last, policy=persona.info.policy, device="cpu", dtype="float32")
    first = decider.logits([("", "Say something.")])[0]
    "".join(decider.stream_reply("", "Say something.", max_new_tokens=4))
    assert (decider.logits([("", "Say something.")])[0] == first).all()


# -- what ships -------------------------------------------------------------------------------


def test_the_shipped_run_is_intact_and_fits_the_quick_trial(tmp_path: Path) -> None:
    from so8t_engine.training.checkpoints import verify

    run = shipped_run()
    checkpoint = run.best_checkpoint()
    assert checkpoint is not None and verify(checkpoint) == ""
    header = read_header(checkpoint)
    quick = preset("quick")
    assert quick.start_from == "starter"
    require_fit(quick.model, header, "starter")
    assert run.state().state == "done" and run.rotation_files()
    assert run.policy() == make_starter_policy()
    persona = make_persona(tmp_path / "persona", make_samples())
    start = find_start(TrainSpec(start_from="starter", model=quick.model), persona)
    assert isinstance(start, Start) and start.seen is not None and len(start.seen) > 15_000
    with pytest.raises(SpecError):
        find_start(TrainSpec(start_from="starter", model=ModelSpec(adapt_layers=10)), persona)


def make_starter_policy() -> str:
    from so8t_engine.resources import resource_root
    from so8t_engine.workspace.workspace import STARTER

    return Persona(resource_root() / "personas" / STARTER).info.policy


def test_the_shipped_rows_say_what_was_held_out() -> None:
    from so8t_engine.resources import resource_root
    from so8t_engine.samples.split import contrast_groups, straddling
    from so8t_engine.workspace.workspace import STARTER

    rows = Persona(resource_root() / "personas" / STARTER).load_samples()
    assert {row.split for row in rows} == {"train", "validation", "test"}
    assert straddling(rows, contrast_groups(rows)) == 0
    assert sum(row.split == "test" for row in rows) > 1500
