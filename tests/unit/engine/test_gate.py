"""The bank of gates: cut graph against plain autograd, dtypes, staleness, recordings."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from so8t_engine.errors import BaseModelError
from so8t_engine.rotations import so8
from so8t_engine.rotations.gate import HEAD, GateBank, Routing
from so8t_engine.rotations.recording import load_bank, record

NAMES = ["layers.2", "layers.3", HEAD]


def trained_bank(sharing: str = "per_block", *, seed: int = 0, width: int = 24) -> GateBank:
    bank = GateBank(NAMES, width, sharing)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        bank.theta_safe.normal_(0, 0.5, generator=generator)
        bank.theta_cmd.normal_(0, 0.5, generator=generator)
    return bank.train()


def two_losses(bank: GateBank, x: Tensor) -> tuple[Tensor, Tensor]:
    """A verdict-like and a task-like loss that both pass through the layer gates."""
    for index in range(2):
        x = torch.tanh(bank.apply_product(index, x) * 1.3)
    verdict = bank.apply_head_safe(x).pow(3).sum()
    task = bank.apply_product(2, x).sin().sum()
    return verdict, task


def uncut_losses(bank: GateBank, x: Tensor) -> tuple[Tensor, Tensor]:
    """The same, straight through the exponential, without the bank's own machinery."""
    safe, cmd = so8.rotation(bank.theta_safe), so8.rotation(bank.theta_cmd)
    product = cmd @ safe
    for index in range(2):
        x = torch.tanh(so8.apply(product[index], x) * 1.3)
    verdict = so8.apply(safe[2], x).pow(3).sum()
    task = so8.apply(product[2], x).sin().sum()
    return verdict, task


@pytest.mark.parametrize("sharing", ["per_block", "shared"])
@pytest.mark.parametrize("routing", ["routed", "joint"])
def test_cut_graph_equals_autograd_through_the_exponential(sharing: str, routing: Routing) -> None:
    bank = trained_bank(sharing)
    micro_batches = [torch.randn(4, 24) for _ in range(3)]
    for x in micro_batches:
        verdict, task = two_losses(bank, x)
        torch.autograd.backward(verdict, inputs=bank.leaves(), retain_graph=True)
        bank.collect("verdict")
        torch.autograd.backward(task, inputs=bank.leaves())
        bank.collect("task")
    bank.finish_step(routing)
    safe, cmd = bank.theta_safe.grad, bank.theta_cmd.grad
    assert safe is not None and cmd is not None

    parts = [uncut_losses(bank, x) for x in micro_batches]
    verdict = torch.stack([part[0] for part in parts]).sum()
    task = torch.stack([part[1] for part in parts]).sum()
    thetas = (bank.theta_safe, bank.theta_cmd)
    if routing == "joint":
        expected = torch.autograd.grad(verdict + task, thetas)
    else:
        expected = (
            torch.autograd.grad(verdict, thetas, retain_graph=True)[0],
            torch.autograd.grad(task, thetas)[1],
        )
    torch.testing.assert_close(safe, expected[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(cmd, expected[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("side", "still"), [("verdict", "theta_cmd"), ("task", "theta_safe")])
def test_one_loss_alone_leaves_the_other_rotation_without_gradient(side: str, still: str) -> None:
    bank = trained_bank()
    verdict, task = two_losses(bank, torch.randn(4, 24))
    torch.autograd.backward(verdict if side == "verdict" else task, inputs=bank.leaves())
    bank.collect(side)  # type: ignore[arg-type]
    bank.finish_step("routed")
    gradient = getattr(bank, still).grad
    assert gradient is None or not gradient.any()
    moved = "theta_safe" if still == "theta_cmd" else "theta_cmd"
    assert getattr(bank, moved).grad.abs().max() > 0


@pytest.mark.parametrize("change", ["bfloat16", "half", "double", "to_dtype"])
def test_generators_stay_float32_and_unchanged(change: str) -> None:
    bank = trained_bank()
    before = bank.theta_safe.detach().clone()
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    model.add_module("gates", bank)
    if change == "to_dtype":
        model.to(torch.bfloat16)
    else:
        getattr(model, change)()
    assert bank.theta_safe.dtype == bank.theta_cmd.dtype == torch.float32
    assert torch.equal(bank.theta_safe, before)
    assert bank.product().dtype == torch.float32
    assert next(model[0].parameters()).dtype != torch.float32


def test_rotations_never_go_stale() -> None:
    bank = trained_bank().eval()
    before = bank.product().clone()
    wrapper = torch.nn.Module()
    wrapper.add_module("gates", bank)
    other = {name: value + 0.25 for name, value in wrapper.state_dict().items()}
    wrapper.load_state_dict(other)  # reaches the bank through its parent, not its own method
    safe, cmd = bank.rotations()
    torch.testing.assert_close(bank.product(), cmd @ safe)
    assert (bank.product() - before).abs().max() > 0.01


def test_strength_walks_the_geodesic() -> None:
    bank = trained_bank().eval()
    x = torch.randn(5, 24)
    full = bank.apply_product(0, x)
    bank.strength = 0.0
    assert torch.equal(bank.apply_product(0, x), x)
    bank.strength = 0.5
    safe = so8.rotation(bank.theta_safe * 0.5)
    cmd = so8.rotation(bank.theta_cmd * 0.5)
    torch.testing.assert_close(bank.apply_product(0, x), so8.apply((cmd @ safe)[0], x))
    assert so8.orthogonality_error(bank.product()).max() <= 1e-5
    bank.strength = 1.0
    assert torch.equal(bank.apply_product(0, x), full)


def test_evaluation_between_micro_batches_changes_no_gradient() -> None:
    x = torch.randn(4, 24)
    gradients = []
    for interrupted in (False, True):
        bank = trained_bank()
        for _ in range(2):
            verdict, _task = two_losses(bank, x)
            torch.autograd.backward(verdict, inputs=bank.leaves())
            bank.collect("verdict")
            if interrupted:
                bank.eval()
                with torch.no_grad():
                    bank.apply_product(0, x)
                bank.train()
        bank.finish_step("routed")
        gradients.append(bank.theta_safe.grad)
    assert gradients[0] is not None and gradients[1] is not None
    assert torch.equal(gradients[0], gradients[1])


@pytest.mark.parametrize("sharing", ["per_block", "shared"])
def test_recording_round_trip(tmp_path: Path, sharing: str) -> None:
    bank = trained_bank(sharing)
    path = record(bank, tmp_path, step=40)
    assert path.name == "step-00000040.safetensors"
    stored = load_bank(path)
    assert stored.names == NAMES
    assert stored.sharing == sharing
    assert torch.equal(stored.theta_safe, bank.theta_safe)
    assert torch.equal(stored.theta_cmd, bank.theta_cmd)


def test_health_proves_the_group_and_measures_the_angle() -> None:
    bank = GateBank(NAMES, 24)
    health = bank.health()
    assert health["max_orthogonality_error"] == health["mean_angle_safe"] == 0.0
    with torch.no_grad():
        bank.theta_safe[..., 0] = 0.3  # one plane, so one angle of 0.3 in each block
    health = bank.health()
    assert health["mean_angle_safe"] == pytest.approx(0.3, abs=1e-6)
    assert health["mean_angle_cmd"] == 0.0
    assert health["max_orthogonality_error"] <= 1e-5


def test_width_that_is_no_multiple_of_eight_is_refused() -> None:
    with pytest.raises(BaseModelError, match="20 is not a multiple of 8"):
        GateBank(NAMES, 20)
