"""The group laws of SO(8), for any generator up to norm 10."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from so8t_engine.rotations import so8

LIMIT = {torch.float32: 1e-5, torch.float64: 1e-12}
DTYPES = list(LIMIT)
MAX_NORM = 10.0


@st.composite
def thetas(draw: st.DrawFn, blocks: int = 3) -> torch.Tensor:
    """Free numbers ``[blocks, 28]`` float64 whose generators have a spectral norm of at most 10."""
    raw = torch.from_numpy(
        draw(arrays.arrays(np.float64, (blocks, so8.FREE), elements=st.floats(-1, 1, width=32)))
    )
    wanted = draw(st.floats(0.0, MAX_NORM))
    norms = torch.linalg.matrix_norm(so8.generator(raw), ord=2)
    return raw / norms.clamp(min=1e-9)[:, None] * wanted


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=60, deadline=None)
@given(theta=thetas())
def test_exponential_is_a_rotation(dtype: torch.dtype, theta: torch.Tensor) -> None:
    rotation = so8.rotation(theta.to(dtype))
    assert rotation.dtype == dtype
    assert so8.orthogonality_error(rotation).max() <= LIMIT[dtype]
    assert so8.determinant_error(rotation).max() <= LIMIT[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=40, deadline=None)
@given(safe=thetas(), cmd=thetas())
def test_products_stay_in_the_group(
    dtype: torch.dtype, safe: torch.Tensor, cmd: torch.Tensor
) -> None:
    product = so8.compose(so8.rotation(cmd.to(dtype)), so8.rotation(safe.to(dtype)))
    assert so8.orthogonality_error(product).max() <= LIMIT[dtype]
    assert so8.determinant_error(product).max() <= LIMIT[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=40, deadline=None)
@given(theta=thetas(), alpha=st.floats(-1, 1), beta=st.floats(-1, 1))
def test_one_parameter_subgroup(
    dtype: torch.dtype, theta: torch.Tensor, alpha: float, beta: float
) -> None:
    theta = theta.to(dtype)
    left = so8.rotation(theta, alpha) @ so8.rotation(theta, beta)
    right = so8.rotation(theta, alpha + beta)
    torch.testing.assert_close(left, right, rtol=0, atol=LIMIT[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=40, deadline=None)
@given(theta=thetas())
def test_inverse_is_transpose_and_negative_generator(
    dtype: torch.dtype, theta: torch.Tensor
) -> None:
    theta = theta.to(dtype)
    inverse = so8.rotation(-theta)
    torch.testing.assert_close(
        inverse, so8.rotation(theta).transpose(-1, -2), rtol=0, atol=LIMIT[dtype]
    )


@settings(max_examples=30, deadline=None)
@given(theta=thetas())
def test_free_numbers_invert_the_generator(theta: torch.Tensor) -> None:
    generator = so8.generator(theta)
    assert torch.equal(generator, -generator.transpose(-1, -2))
    assert torch.equal(so8.free_numbers(generator), theta)


def test_generator_layout_is_row_major_upper_triangle() -> None:
    theta = torch.arange(1.0, 29.0)
    generator = so8.generator(theta)
    for number, (row, column) in enumerate(itertools.combinations(range(8), 2)):
        assert generator[row, column] == theta[number]
        assert generator[column, row] == -theta[number]


def test_rotation_of_one_plane_is_the_textbook_matrix() -> None:
    theta = torch.zeros(28, dtype=torch.float64)
    theta[0] = 0.7  # the plane of channels 0 and 1
    rotation = so8.rotation(theta)
    cosine, sine = np.cos(0.7), np.sin(0.7)
    expected = torch.eye(8, dtype=torch.float64)
    expected[:2, :2] = torch.tensor([[cosine, sine], [-sine, cosine]])
    torch.testing.assert_close(rotation, expected, rtol=0, atol=1e-15)


def test_order_matters_unless_generators_commute() -> None:
    torch.manual_seed(0)
    left, right = torch.randn(2, 28, dtype=torch.float64)
    assert so8.commutator(so8.rotation(left), so8.rotation(right)).abs().max() > 0.1
    same_axis = so8.commutator(so8.rotation(left), so8.rotation(left * 0.3))
    assert same_axis.abs().max() < 1e-13
    # Rotations in disjoint planes commute though their generators are no multiples.
    one, other = torch.zeros(2, 28, dtype=torch.float64)
    one[0], other[27] = 0.4, 1.1
    assert so8.commutator(so8.rotation(one), so8.rotation(other)).abs().max() < 1e-15


@settings(max_examples=30, deadline=None)
@given(theta=thetas(blocks=4), seed=st.integers(0, 1000))
def test_activations_keep_their_norm(theta: torch.Tensor, seed: int) -> None:
    x = torch.randn(2, 5, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    y = so8.apply(so8.rotation(theta), x)
    before = x.reshape(2, 5, 4, 8).norm(dim=-1)
    torch.testing.assert_close(y.reshape(2, 5, 4, 8).norm(dim=-1), before, rtol=1e-12, atol=1e-12)


def test_apply_equals_the_dense_block_diagonal_matrix() -> None:
    torch.manual_seed(1)
    rotations = so8.rotation(torch.randn(3, 28, dtype=torch.float64))
    x = torch.randn(4, 24, dtype=torch.float64)
    dense = torch.block_diag(*rotations)
    torch.testing.assert_close(so8.apply(rotations, x), x @ dense.T, rtol=1e-12, atol=1e-12)
    shared = so8.apply(rotations[:1], x)
    dense = torch.block_diag(*[rotations[0]] * 3)
    torch.testing.assert_close(shared, x @ dense.T, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rotations", [1, 2])
def test_gradcheck_through_generator_exponential_and_application(rotations: int) -> None:
    torch.manual_seed(2)
    safe = torch.randn(rotations, 28, dtype=torch.float64, requires_grad=True)
    cmd = torch.randn(rotations, 28, dtype=torch.float64, requires_grad=True)
    x = torch.randn(2, 16, dtype=torch.float64, requires_grad=True)

    def gate(safe: torch.Tensor, cmd: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return so8.apply(so8.compose(so8.rotation(cmd), so8.rotation(safe, 0.7)), x)

    assert torch.autograd.gradcheck(gate, (safe, cmd, x))


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
@settings(max_examples=40, deadline=None)
@given(theta=thetas(), seed=st.integers(0, 1000))
def test_gradient_is_that_of_the_general_matrix_exponential(
    dtype: torch.dtype, bound: float, theta: torch.Tensor, seed: int
) -> None:
    upstream = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(seed)).double()
    theta = theta.to(dtype).requires_grad_()
    (found,) = torch.autograd.grad(so8.rotation(theta), theta, upstream.to(dtype))
    general = torch.matrix_exp(so8.generator(theta.double()))
    (expected,) = torch.autograd.grad(general, theta, upstream)
    assert found.dtype == dtype
    error = (found.double() - expected.double()).abs().max()
    assert error <= bound * upstream.norm()


def test_zero_generator_is_exactly_the_identity() -> None:
    rotation = so8.rotation(torch.zeros(5, 28))
    assert torch.equal(rotation, torch.eye(8).expand(5, 8, 8))
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        x = torch.randn(3, 40).to(dtype)
        assert torch.equal(so8.apply(rotation, x), x)


def test_angles_are_the_arguments_of_the_eigenvalues() -> None:
    torch.manual_seed(3)
    rotation = so8.rotation(torch.randn(6, 28, dtype=torch.float64))
    eigenvalues = torch.linalg.eigvals(rotation)
    expected = eigenvalues.angle().abs().sort(descending=True).values[..., 0::2]
    torch.testing.assert_close(so8.angles(rotation), expected, rtol=0, atol=1e-7)


def test_autocast_does_not_lower_the_precision() -> None:
    torch.manual_seed(4)
    safe, cmd = so8.rotation(torch.randn(2, 9, 28))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = so8.rotation(torch.ones(2, 28))
        product = so8.compose(cmd, safe)
        difference = so8.commutator(cmd, safe)
        y = so8.apply(product[:4], torch.randn(2, 32))
    assert inside.dtype == product.dtype == difference.dtype == y.dtype == torch.float32
    assert so8.orthogonality_error(product).max() <= 1e-5
    assert torch.equal(product, cmd @ safe)


@pytest.mark.parametrize(
    ("rotations", "channels", "sentence"),
    [(2, 20, "20 channels cannot be split"), (2, 24, "2 rotations for 3 blocks")],
)
def test_wrong_shapes_are_refused(rotations: int, channels: int, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        so8.apply(torch.eye(8).expand(rotations, 8, 8), torch.zeros(1, channels))
    with pytest.raises(ValueError, match="expected 28 free numbers"):
        so8.generator(torch.zeros(27))


@pytest.mark.parametrize("blocks", [1, 2, 3, 4, 12, 16, 72])
@pytest.mark.parametrize("shared", [False, True])
def test_grouping_changes_neither_product_nor_gradient(blocks: int, shared: bool) -> None:
    theta = torch.randn(1 if shared else blocks, so8.FREE, dtype=torch.float64)
    rotations = so8.rotation(theta).requires_grad_()
    x = torch.randn(5, 8 * blocks, dtype=torch.float64, requires_grad=True)
    dense = torch.block_diag(*rotations.expand(blocks, 8, 8))
    expected = x @ dense.T
    upstream = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, (rotations, x), upstream, retain_graph=True)
    on_cuda = so8._in_plain_operations(so8.grouped(rotations, blocks), x)
    for found in (so8.apply(rotations, x), on_cuda):
        torch.testing.assert_close(found, expected)
        got = torch.autograd.grad(found, (rotations, x), upstream)
        for one, other in zip(got, wanted, strict=True):
            torch.testing.assert_close(one, other)
    groups = so8.grouped(rotations.detach(), blocks)
    assert groups.shape[-1] == 8 * math.gcd(blocks, 8)
    copies = groups.shape[0] * groups.shape[-1] // 8 if shared else 1
    back = so8.ungrouped(groups, shared=shared)
    torch.testing.assert_close(back, rotations.detach() * copies)


def test_rows_on_either_side_of_the_split_give_their_gradient_apart() -> None:
    groups = so8.grouped(so8.rotation(torch.randn(3, so8.FREE, dtype=torch.float64)), 3)
    first, second = (groups.clone().requires_grad_() for _ in range(2))
    x = torch.randn(4, 2, 24, dtype=torch.float64)
    upstream = torch.randn_like(x)
    for split in (0, 1, 4):
        found = so8.apply_groups(first, x, second=second, split=split)
        parts = torch.autograd.grad(found, (first, second), upstream, allow_unused=True)
        for part, rows in zip(parts, (slice(None, split), slice(split, None)), strict=True):
            alone = groups.clone().requires_grad_()
            out = so8.apply_groups(alone, x[rows])
            (expected,) = torch.autograd.grad(out, alone, upstream[rows])
            torch.testing.assert_close(torch.zeros_like(alone) if part is None else part, expected)
