"""The special orthogonal group SO(8), parametrised by its Lie algebra.

A rotation is ``R = exp(A)`` with ``A = θ − θᵀ``, where the strict upper triangle of θ holds 28 free
numbers. ``Aᵀ = −A`` gives ``RᵀR = exp(−A) exp(A) = I`` and ``det R = exp(tr A) = exp(0) = +1``, so
nothing has to "encourage" either (Hall, *Lie Groups, Lie Algebras, and Representations*, §2, §3).
Rotations act on column vectors. Nothing here is computed under autocast: a product under bf16
autocast would silently lose 16 bits.
"""

from __future__ import annotations

import torch
from torch import Tensor

DIM = 8
FREE = DIM * (DIM - 1) // 2


def _no_autocast(device: torch.device) -> torch.autocast:
    return torch.autocast(device_type=device.type, enabled=False)


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
    cast = rotations.to(device=x.device, dtype=x.dtype)
    split = x.reshape(*x.shape[:-1], blocks, DIM)
    with _no_autocast(x.device):
        if rotations.shape[0] == 1:
            return (split @ cast[0].transpose(0, 1)).reshape(x.shape)
        return torch.einsum("kij,...kj->...ki", cast, split).reshape(x.shape)
