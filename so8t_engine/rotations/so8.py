"""The special orthogonal group SO(8), parametrised by its Lie algebra.

A rotation is ``R = exp(A)`` with ``A = θ − θᵀ``, where the strict upper triangle of θ holds 28 free
numbers. ``Aᵀ = −A`` gives ``RᵀR = exp(−A) exp(A) = I`` and ``det R = exp(tr A) = exp(0) = +1``, so
nothing has to "encourage" either (Hall, *Lie Groups, Lie Algebras, and Representations*, §2, §3).
Rotations act on column vectors. Nothing here is computed under autocast: a product under bf16
autocast would silently lose 16 bits.
"""

from __future__ import annotations

import contextlib
import functools
import math
from typing import Any

import torch
from torch import Tensor

DIM = 8
FREE = DIM * (DIM - 1) // 2


_AS_IT_IS = contextlib.nullcontext()


def _no_autocast(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Switch autocast off where it is on; gates are applied too often to do so regardless."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device_type=device.type, enabled=False)
    return _AS_IT_IS


def generator(theta: Tensor) -> Tensor:
    """Return the skew-symmetric generators of free numbers.

    Args:
        theta: ``[..., 28]``, the strict upper triangle in row-major order.

    Returns:
        ``[..., 8, 8]`` with ``A[i, j] = θ_ij = −A[j, i]`` for ``i < j``.

    Raises:
        ValueError: if the last axis is not 28 long.
    """
    if theta.shape[-1] != FREE:
        raise ValueError(f"expected {FREE} free numbers per rotation, got {theta.shape[-1]}")
    source, sign = _places(theta.device)
    entries = theta.index_select(-1, source) * sign.to(theta.dtype)
    return entries.view(*theta.shape[:-1], DIM, DIM)


@functools.cache
def _places(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return which free number each entry of ``A`` is, ``[64]``, and its sign (0 on the diagonal).

    Two steps instead of a scatter and a difference: on a GPU each step costs the host its launch.
    """
    rows, columns = torch.triu_indices(DIM, DIM, 1)
    source = torch.zeros(DIM, DIM, dtype=torch.long)
    source[rows, columns] = source[columns, rows] = torch.arange(FREE)
    sign = torch.ones(DIM, DIM).triu(1) - torch.ones(DIM, DIM).tril(-1)
    return source.flatten().to(device), sign.flatten().to(device)


def free_numbers(generators: Tensor) -> Tensor:
    """Return the 28 free numbers of skew-symmetric matrices; inverse of :func:`generator`."""
    rows, columns = torch.triu_indices(DIM, DIM, 1, device=generators.device)
    return generators[..., rows, columns]


_DOUBLINGS = 8
_TERMS = 8


class _Exponential(torch.autograd.Function):
    """``exp`` of skew-symmetric matrices, with a backward pass that never waits for the device.

    With ``exp(A)ᵀ = exp(−A)`` the gradient of ``⟨G, exp(A)⟩`` is ``∫₀¹ exp(−sA) W exp(sA) ds`` for
    ``W = G Rᵀ`` (Hall, *Lie Groups, Lie Algebras, and Representations*, §5.4). Over a short
    interval ``h = 2⁻⁸`` the integral is the series ``h Σ (−ad_hA)ᵏ W / (k + 1)!``; then
    ``I_2h = I_h + exp(−hA) I_h exp(hA)`` doubles it. Autograd's own way, the exponential of a
    16x16 float64 matrix for each block, takes 700 MiB for a 7B shape; this stays below the forward
    pass, which takes 165 MiB.
    """

    @staticmethod
    def forward(ctx: Any, generators: Tensor) -> Tensor:
        rotations: Tensor = torch.matrix_exp(generators.double()).to(generators.dtype)
        ctx.save_for_backward(generators, rotations)
        return rotations

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        generators, rotations = (part.reshape(-1, DIM, DIM) for part in ctx.saved_tensors)
        step = generators * 2.0**-_DOUBLINGS
        identity = torch.eye(DIM, dtype=step.dtype, device=step.device).expand_as(step)
        with _no_autocast(step.device):
            inner = torch.bmm(gradients[0].reshape(-1, DIM, DIM), rotations.mT)
            total, short = inner, identity
            for k in range(_TERMS, 0, -1):  # both series by Horner's rule
                right = torch.baddbmm(inner, total, step, alpha=1 / (k + 1))
                total = torch.baddbmm(right, step, total, alpha=-1 / (k + 1))
                short = torch.baddbmm(identity, step, short, alpha=1 / k)
            for _ in range(_DOUBLINGS):
                total = torch.baddbmm(total, short.mT, torch.bmm(total, short))
                short = torch.bmm(short, short)
        return (total * 2.0**-_DOUBLINGS).reshape(ctx.saved_tensors[0].shape)


def exp(generators: Tensor) -> Tensor:
    """Return ``exp(A)``, ``[..., 8, 8]``, in the dtype of ``generators`` even under autocast.

    It is computed in float64: for a generator of norm 10, float32 would leave ``|det R − 1|`` at
    1.3e-5 (2e-5 for a product), and 8x8 matrices once an optimizer step cost next to nothing. Its
    gradient is computed in the dtype of ``generators`` and exact for skew-symmetric ones only.

    Args:
        generators: ``[..., 8, 8]`` skew-symmetric, float32 or float64.
    """
    with _no_autocast(generators.device):
        result: Tensor = _Exponential.apply(generators)  # type: ignore[no-untyped-call]
    return result


def rotation(theta: Tensor, strength: float = 1.0) -> Tensor:
    """Return ``exp(α A(θ))``: the point at ``strength`` α on the geodesic from I to the rotation.

    Args:
        theta: ``[..., 28]``, float32 or float64.
        strength: α; 0 gives the identity, 1 the rotation itself.

    Returns:
        ``[..., 8, 8]`` in SO(8) for every α.
    """
    return exp(generator(theta) * strength)


def compose(cmd: Tensor, safe: Tensor) -> Tensor:
    """Return ``R_cmd R_safe``: the safety rotation acts first. The order never changes."""
    with _no_autocast(cmd.device):
        return cmd @ safe


def commutator(cmd: Tensor, safe: Tensor) -> Tensor:
    """Return ``R_cmd R_safe − R_safe R_cmd``, zero exactly where the order does not matter."""
    with _no_autocast(cmd.device):
        return cmd @ safe - safe @ cmd


def orthogonality_error(rotations: Tensor) -> Tensor:
    """Return ``max |RᵀR − I|`` of each matrix, ``[...]``, computed in float64."""
    wide = rotations.detach().double()
    identity = torch.eye(DIM, dtype=wide.dtype, device=wide.device)
    return (wide.transpose(-1, -2) @ wide - identity).abs().amax(dim=(-1, -2))


def determinant_error(rotations: Tensor) -> Tensor:
    """Return ``|det R − 1|`` of each matrix, ``[...]``, computed in float64."""
    determinants: Tensor = torch.linalg.det(rotations.detach().double())
    return (determinants - 1.0).abs()


def angles(rotations: Tensor) -> Tensor:
    """Return the four principal angles in radians, ``[..., 4]``, largest first.

    The eigenvalues of R are ``exp(±iφ)``, so the symmetric part has each ``cos φ`` twice.
    """
    wide = rotations.detach().double()
    cosines = torch.linalg.eigvalsh((wide + wide.transpose(-1, -2)) / 2)
    return torch.arccos(cosines.clamp(-1.0, 1.0))[..., 0::2]


def grouped(rotations: Tensor, blocks: int) -> Tensor:
    """Return neighbouring blocks together as block-diagonal matrices, with gradient.

    Products with 8x8 matrices leave matrix units idle; up to 8 blocks side by side fill them, and
    the zeros between cost less than that (``benchmarks/engine_gate.py``).

    Args:
        rotations: ``[..., blocks, 8, 8]``, or ``[..., 1, 8, 8]`` for one that all blocks share.
        blocks: how many blocks of 8 channels there are.

    Returns:
        ``[..., blocks / m, 8m, 8m]`` with the largest m among 8, 4, 2, 1 that divides ``blocks``;
        ``[..., 1, 64, 64]`` for a shared one where m is 8.
    """
    together = math.gcd(blocks, DIM)
    if rotations.shape[-3] == 1:
        copies = DIM if together == DIM else blocks
        rotations = rotations.expand(*rotations.shape[:-3], copies, DIM, DIM)
    count = rotations.shape[-3]
    parts = rotations.reshape(*rotations.shape[:-3], count // together, together, DIM, DIM)
    spread = torch.diag_embed(parts.movedim(-3, -1), dim1=-4, dim2=-2)
    return spread.reshape(*spread.shape[:-4], together * DIM, together * DIM)


def ungrouped(groups: Tensor, *, shared: bool) -> Tensor:
    """Return the gradient of rotations from that of :func:`grouped`'s result.

    Args:
        groups: ``[..., n, 8m, 8m]``.
        shared: all blocks share one rotation, whose gradient is the sum.

    Returns:
        ``[..., n · m, 8, 8]``, or ``[..., 1, 8, 8]``.
    """
    together = groups.shape[-1] // DIM
    shape = (*groups.shape[:-2], together, DIM, together, DIM)
    diagonal = torch.diagonal(groups.reshape(shape), dim1=-4, dim2=-2).movedim(-1, -3)
    blocks = diagonal.reshape(*groups.shape[:-3], -1, DIM, DIM).contiguous()
    return blocks.sum(-3, keepdim=True) if shared else blocks


class _GroupRotation(torch.autograd.Function):
    """``y_g = R_g x_g`` for all groups of channels, as one batched product in each direction.

    The general ``einsum`` copies its operands into another order; on the CPU in bfloat16 that made
    a gate cost more than the layer around it. Here the products read and write the hidden states
    in place. The gradient of the rotations can be kept apart for two groups of rows, which is what
    routes two losses through one backward pass.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, first: Tensor, second: Tensor, split: int | None) -> Tensor:
        ctx.save_for_backward(x)
        # No output and kept by the bank of gates for the whole step; a saved tensor would pass
        # through the hooks of a recomputed layer three times.
        ctx.groups = first.detach()
        ctx.split = split
        return _groupwise(x, first.transpose(-1, -2))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (upstream,) = gradients
        (x,) = ctx.saved_tensors
        first, split = ctx.groups, ctx.split
        wants_x, wants_first, wants_second, _ = ctx.needs_input_grad
        to_x = _groupwise(upstream, first) if wants_x else None
        to_first = to_second = None
        if wants_first and split is None:
            to_first = _outer(upstream, x, first)
        elif wants_first and split:
            to_first = _outer(upstream[:split], x[:split], first)
        if wants_second and split is not None:
            to_second = _outer(upstream[split:], x[split:], first)
        return to_x, to_first, to_second, None


def _groupwise(x: Tensor, right: Tensor) -> Tensor:
    """Return ``x_g @ right_g``; ``x`` is ``[..., D]``, ``right`` ``[n, b, b]`` (n = 1: for all)."""
    with _no_autocast(x.device):
        count, width = right.shape[0], right.shape[-1]
        if count == 1:
            return (x.reshape(-1, width) @ right[0]).view(x.shape)
        groups = x.reshape(-1, count, width)
        result = torch.empty_like(groups, memory_format=torch.contiguous_format)
        torch.bmm(groups.transpose(0, 1), right, out=result.transpose(0, 1))
        return result.view(x.shape)


def _outer(upstream: Tensor, x: Tensor, like: Tensor) -> Tensor:
    """Return the gradient of the groups, ``Σ_rows upstream_g x_gᵀ``, shaped as ``like``."""
    with _no_autocast(x.device):
        count, width = like.shape[0], like.shape[-1]
        if count == 1:
            return (upstream.reshape(-1, width).transpose(0, 1) @ x.reshape(-1, width))[None]
        left = upstream.reshape(-1, count, width).permute(1, 2, 0)
        return torch.bmm(left, x.reshape(-1, count, width).transpose(0, 1))


def apply_groups(
    groups: Tensor, x: Tensor, *, second: Tensor | None = None, split: int | None = None
) -> Tensor:
    """Rotate the channels of ``x`` by rotations that :func:`grouped` has put together.

    Args:
        groups: ``[n, b, b]`` in the dtype of ``x``.
        x: ``[..., D]``.
        second: the same groups again; receives the gradient of the rows from ``split`` on.
        split: where the rows of ``x`` (its first axis) part between ``groups`` and ``second``;
            None leaves all rows to ``groups``.

    Returns:
        ``[..., D]`` in the dtype and on the device of ``x``.
    """
    if split is None and x.is_cuda:
        return _in_plain_operations(groups, x)
    result: Tensor = _GroupRotation.apply(  # type: ignore[no-untyped-call]
        x, groups, groups if second is None else second, split
    )
    return result


def _in_plain_operations(groups: Tensor, x: Tensor) -> Tensor:
    """Rotate as :class:`_GroupRotation` does, in operations whose gradients autograd knows.

    The result is copied once more, which a GPU hardly notices; but no Python runs in the backward
    pass, and a step of a large model waits for the host.
    """
    right = groups.mT
    with _no_autocast(x.device):
        if len(right) == 1:
            return (x.reshape(-1, right.shape[-1]) @ right[0]).view(x.shape)
        rows = x.reshape(-1, len(right), right.shape[-1]).transpose(0, 1)
        return torch.bmm(rows, right).transpose(0, 1).reshape(x.shape)


def apply(rotations: Tensor, x: Tensor) -> Tensor:
    """Rotate every block of 8 consecutive channels: ``y_k = R_k x_k``.

    Args:
        rotations: ``[K, 8, 8]``, or ``[1, 8, 8]`` to share one rotation among all blocks.
        x: ``[..., 8K]``; the rotations are cast to its dtype, with gradient.

    Returns:
        ``[..., 8K]`` in the dtype and on the device of ``x``.

    Raises:
        ValueError: if the channels are not a multiple of 8, or do not match the rotations.
    """
    channels = x.shape[-1]
    if channels % DIM:
        raise ValueError(f"{channels} channels cannot be split into blocks of {DIM}")
    blocks = channels // DIM
    if rotations.shape[0] not in (1, blocks):
        raise ValueError(f"{rotations.shape[0]} rotations for {blocks} blocks")
    return apply_groups(grouped(rotations, blocks).to(device=x.device, dtype=x.dtype), x)
