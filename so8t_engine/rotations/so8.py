"""The special orthogonal group SO(8), parametrised by its Lie algebra.

A rotation is ``R = exp(A)`` with ``A = θ − θᵀ``, where the strict upper triangle of θ holds 28 free
numbers. ``Aᵀ = −A`` gives ``RᵀR = exp(−A) exp(A) = I`` and ``det R = exp(tr A) = exp(0) = +1``, so
nothing has to "encourage" either (Hall, *Lie Groups, Lie Algebras, and Representations*, §2, §3).
Rotations act on column vectors. Nothing here is computed under autocast: a product under bf16
autocast would silently lose 16 bits.
"""

from __future__ import annotations

import contextlib
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
    rows, columns = torch.triu_indices(DIM, DIM, 1, device=theta.device)
    upper = theta.new_zeros((*theta.shape[:-1], DIM, DIM))
    upper[..., rows, columns] = theta
    return upper - upper.transpose(-1, -2)


def free_numbers(generators: Tensor) -> Tensor:
    """Return the 28 free numbers of skew-symmetric matrices; inverse of :func:`generator`."""
    rows, columns = torch.triu_indices(DIM, DIM, 1, device=generators.device)
    return generators[..., rows, columns]


def exp(generators: Tensor) -> Tensor:
    """Return ``exp(A)``, ``[..., 8, 8]``, in the dtype of ``generators`` even under autocast.

    It is computed in float64: for a generator of norm 10, float32 would leave ``|det R − 1|`` at
    1.3e-5 (2e-5 for a product), and 8x8 matrices once an optimizer step cost next to nothing.
    """
    with _no_autocast(generators.device):
        result: Tensor = torch.matrix_exp(generators.double()).to(generators.dtype)
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


class _BlockRotation(torch.autograd.Function):
    """``y_k = R_k x_k`` for all blocks, as one batched product in each direction.

    The general ``einsum`` copies its operands into another order; on the CPU in bfloat16 that made
    a gate cost more than the layer around it (``benchmarks/engine_gate.py``). Here the products
    read and write the hidden states in place. The gradient of the rotations can be kept apart for
    two groups of rows, which is what routes two losses through one backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        first: Tensor | None,
        second: Tensor | None,
        cast: Tensor,
        split: int | None,
    ) -> Tensor:
        ctx.save_for_backward(x, cast)
        ctx.split = split
        ctx.wide = first.dtype if first is not None else cast.dtype
        return _blockwise(x, cast.transpose(-1, -2))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (upstream,) = gradients
        x, cast = ctx.saved_tensors
        split, shared = ctx.split, cast.shape[0] == 1
        to_x = _blockwise(upstream, cast) if ctx.needs_input_grad[0] else None
        sides: list[Tensor | None] = [None, None]
        for side, rows in enumerate((slice(None, split), slice(split, None))):
            if ctx.needs_input_grad[1 + side] and (side == 0 or split is not None):
                sides[side] = _outer(upstream[rows], x[rows], shared).to(ctx.wide)
        return to_x, *sides, None, None


def _blockwise(x: Tensor, right: Tensor) -> Tensor:
    """Return ``x_k @ right_k``; ``x`` is ``[..., 8K]``, ``right`` is ``[K or 1, 8, 8]``."""
    with _no_autocast(x.device):
        if right.shape[0] == 1:
            return (x.reshape(-1, DIM) @ right[0]).view(x.shape)
        blocks = x.reshape(-1, right.shape[0], DIM)
        result = torch.empty_like(blocks, memory_format=torch.contiguous_format)
        torch.bmm(blocks.transpose(0, 1), right, out=result.transpose(0, 1))
        return result.view(x.shape)


def _outer(upstream: Tensor, x: Tensor, shared: bool) -> Tensor:
    """Return the gradient of the rotations, ``Σ_rows upstream_k x_kᵀ``, ``[K | 1, 8, 8]``."""
    with _no_autocast(x.device):
        if shared:
            return (upstream.reshape(-1, DIM).transpose(0, 1) @ x.reshape(-1, DIM))[None]
        blocks = x.shape[-1] // DIM
        left = upstream.reshape(-1, blocks, DIM).permute(1, 2, 0)
        return torch.bmm(left, x.reshape(-1, blocks, DIM).transpose(0, 1))


def apply(
    rotations: Tensor,
    x: Tensor,
    *,
    second: Tensor | None = None,
    cast: Tensor | None = None,
    split: int | None = None,
) -> Tensor:
    """Rotate every block of 8 consecutive channels: ``y_k = R_k x_k``.

    Args:
        rotations: ``[K, 8, 8]``, or ``[1, 8, 8]`` to share one rotation among all blocks.
        x: ``[..., 8K]``; the rotations are cast to its dtype, with gradient.
        second: the same rotations again; receives the gradient of the rows from ``split`` on.
        cast: ``rotations`` in the dtype of ``x``, if the caller has them.
        split: where the rows of ``x`` (its first axis) part between ``rotations`` and ``second``;
            None leaves all rows to ``rotations``.

    Returns:
        ``[..., 8K]`` in the dtype and on the device of ``x``.

    Raises:
        ValueError: if the channels are not a multiple of 8, or do not match the rotations.
    """
    channels = x.shape[-1]
    if channels % DIM:
        raise ValueError(f"{channels} channels cannot be split into blocks of {DIM}")
    if rotations.shape[0] not in (1, channels // DIM):
        raise ValueError(f"{rotations.shape[0]} rotations for {channels // DIM} blocks")
    if cast is None:
        cast = rotations.detach().to(device=x.device, dtype=x.dtype)
    result: Tensor = _BlockRotation.apply(x, rotations, second, cast, split)  # type: ignore[no-untyped-call]
    return result
