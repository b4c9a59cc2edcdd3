"""All gates of a persona: one bank of generators, rotations built once per optimizer step.

A gate is a pair (R_safe, R_cmd) and acts as ``y = R_cmd R_safe x``. The generators are float32
whatever happens to the model around them (``.half()``, ``.to(bfloat16)``, device moves).

The rotations of all gates come out of one batched ``matrix_exp``, outside any recomputed region,
once per optimizer step. The forward pass reads detached copies of them that collect gradients over
all micro-batches; :meth:`GateBank.finish_step` then pulls these through the exponential in one
vector-Jacobian product. That is the chain rule, cut at a convenient place, so it is exact. It also
gives exact *routing*: the gradient of the verdict loss goes to R_safe only, that of the task loss
to R_cmd only, though both passed through the same product. Where both losses share one pass, each
has rows of its own, and every gate has a leaf for either group of rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from so8t_engine.errors import BaseModelError
from so8t_engine.rotations import so8

Sharing = Literal["per_block", "shared"]
Routing = Literal["routed", "joint"]
Side = Literal["verdict", "task"]
_Copy = tuple[torch.dtype, torch.device]
HEAD = "head"


class GateBank(nn.Module):
    """The generators and current rotations of several gates of equal width.

    Attributes:
        names: gate names in order; ``head`` is the gate on the final norm's output.
        theta_safe: ``[G, K, 28]`` float32 (``[G, 1, 28]`` when shared).
        theta_cmd: likewise.
        split: how many leading rows of a batch belong to the verdict side; None: the whole batch
            belongs to one side. Set before each forward pass.
    """

    def __init__(self, names: list[str], hidden_size: int, sharing: Sharing = "per_block") -> None:
        """Make gates that are exactly the identity.

        Raises:
            BaseModelError: if the hidden size is not a multiple of 8.
        """
        super().__init__()
        if hidden_size % so8.DIM:
            raise BaseModelError(
                f"The hidden size {hidden_size} is not a multiple of {so8.DIM}.",
                why="SO(8) gates rotate blocks of 8 channels and never a part of a block.",
                next_step="Choose another base model.",
            )
        self.names = list(names)
        self.sharing = sharing
        self.hidden_size = hidden_size
        blocks = hidden_size // so8.DIM if sharing == "per_block" else 1
        shape = (len(self.names), blocks, so8.FREE)
        self.theta_safe = nn.Parameter(torch.zeros(shape, dtype=torch.float32))
        self.theta_cmd = nn.Parameter(torch.zeros(shape, dtype=torch.float32))
        self.split: int | None = None
        self._strength = 1.0
        self._collected: dict[str, Tensor | None] = {"verdict": None, "task": None, "head": None}
        self.invalidate()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> GateBank:
        """Follow device moves, refuse dtype changes: the generators stay float32."""

        def keep_float32(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return tensor.to(moved.device) if moved.dtype != tensor.dtype else moved

        super()._apply(keep_float32, recurse)  # type: ignore[no-untyped-call]
        self.invalidate()
        return self

    @property
    def strength(self) -> float:
        """The α of ``exp(αA)`` that all gates apply; 1 is the trained gate, 0 the base model."""
        return self._strength

    @strength.setter
    def strength(self, value: float) -> None:
        self._strength = float(value)
        self.invalidate()

    def index(self, name: str) -> int:
        """Return the position of the gate ``name``."""
        return self.names.index(name)

    def invalidate(self) -> None:
        """Forget the current rotations; the next forward pass builds them anew."""
        self._built_from: tuple[int, int] | None = None
        self._graph: Tensor | None = None
        self._product: Tensor | None = None
        self._grouped: dict[_Copy, Tensor] = {}
        self._leaves: dict[tuple[_Copy, Side], tuple[Tensor, tuple[Tensor, ...]]] = {}
        self._head_safe: Tensor | None = None

    def _versions(self) -> tuple[int, int]:
        """Return counters that any change of θ in place moves on, whoever makes it."""
        return self.theta_safe._version, self.theta_cmd._version

    def rotations(self) -> tuple[Tensor, Tensor]:
        """Return ``(R_safe, R_cmd)``, both ``[G, K, 8, 8]`` float32, with gradient to θ."""
        safe, cmd = self._both().unbind()
        return safe, cmd

    def _both(self) -> Tensor:
        """Return R_safe and R_cmd of all gates from one exponential, ``[2, G, K, 8, 8]``."""
        return so8.rotation(torch.stack([self.theta_safe, self.theta_cmd]), self._strength)

    def _build(self) -> None:
        self.invalidate()
        self._built_from = self._versions()
        learning = self.training and torch.is_grad_enabled()
        with torch.set_grad_enabled(learning):
            both = self._both()
        safe, cmd = both.detach().unbind()
        self._product = so8.compose(cmd, safe)
        if learning:
            self._graph = both
        if HEAD in self.names:
            self._head_safe = safe[self.index(HEAD)].clone().requires_grad_(learning)

    def product(self) -> Tensor:
        """Return ``R_cmd R_safe`` of all gates, ``[G, K, 8, 8]`` float32, for the forward pass."""
        wants_graph = self.training and torch.is_grad_enabled() and self._graph is None
        if self._product is None or wants_graph or self._built_from != self._versions():
            self._build()
        assert self._product is not None
        return self._product

    def _parts(self, x: Tensor, side: Side) -> tuple[Tensor, ...]:
        """Return the product of every gate as :func:`so8t_engine.rotations.so8.grouped` has it.

        They have the dtype and device of ``x``, are cast once, and are views of one leaf that
        collects the gradients of one side: in one tensor, whatever the number of gates.
        """
        product = self.product()
        copy = (x.dtype, x.device)
        known = self._leaves.get((copy, side))
        if known is None:
            groups = self._grouped.get(copy)
            if groups is None:
                groups = so8.grouped(product, self.hidden_size // so8.DIM)
                groups = self._grouped[copy] = groups.to(device=x.device, dtype=x.dtype)
            leaf = groups.detach().requires_grad_(self._graph is not None)
            with torch.enable_grad():  # also where a forward pass without gradient comes first
                known = self._leaves[copy, side] = (leaf, leaf.unbind())
        return known[1]

    def apply_product(self, index: int, x: Tensor, *, task_only: bool = False) -> Tensor:
        """Return ``R_cmd R_safe x`` by gate ``index``; ``x`` is ``[..., D]``, and so the result.

        While :attr:`split` is set, the first ``split`` rows of ``x`` give their gradient to the
        verdict side and the others to the task side; with ``task_only`` all rows to the latter.
        """
        first = self._parts(x, "verdict")[index]
        split = 0 if task_only and self.split is not None else self.split
        if split is None:
            return so8.apply_groups(first, x)
        return so8.apply_groups(first, x, second=self._parts(x, "task")[index], split=split)

    def apply_head_safe(self, x: Tensor) -> Tensor:
        """Return ``R_safe x`` by the head gate; ``x`` is ``[..., D]``."""
        self.product()
        assert self._head_safe is not None
        return so8.apply(self._head_safe, x)

    def leaves(self) -> list[Tensor]:
        """Return what the backward pass has to reach: the rotations of the last forward pass."""
        head = [self._head_safe] if self._head_safe is not None else []
        return [*(leaf for leaf, _ in self._leaves.values()), *head]

    def collect(self, side: Side) -> None:
        """Book the gradients that the last backward pass left on the leaves.

        Those of a split pass belong to the side of their rows; all others to ``side``.
        """
        self._book(side, self._taken("verdict"))
        self._book("task", self._taken("task"))
        if self._head_safe is not None and self._head_safe.grad is not None:
            self._book("head", self._head_safe.grad)
            self._head_safe.grad = None

    def _taken(self, side: Side) -> Tensor | None:
        """Return and clear the gradients of the leaves of one side, ``[G, K, 8, 8]`` float32."""
        found: Tensor | None = None
        for (_, owner), (leaf, _) in self._leaves.items():
            if owner == side and leaf.grad is not None:
                # Under autocast a pass may use copies of two dtypes.
                gradient = leaf.grad.to(device=self.theta_safe.device, dtype=torch.float32)
                found = gradient if found is None else found + gradient
                leaf.grad = None
        return None if found is None else so8.ungrouped(found, shared=self.sharing == "shared")

    def _book(self, key: str, gradient: Tensor | None) -> None:
        if gradient is not None:
            earlier = self._collected[key]
            self._collected[key] = gradient if earlier is None else earlier + gradient

    def collected_everywhere(self) -> dict[str, Tensor]:
        """Return booked gradients for a reduction in place, zeros where this process has none.

        Every process returns the same keys, also one that had no sample in this step.
        """
        product = self.product()
        for key, leaf in (("verdict", product), ("task", product), ("head", self._head_safe)):
            if self._collected[key] is None and leaf is not None:
                self._collected[key] = torch.zeros_like(leaf)
        return {key: value for key, value in self._collected.items() if value is not None}

    def finish_step(self, routing: Routing) -> None:
        """Pull the booked gradients through composition and exponential into ``theta_*.grad``.

        Args:
            routing: ``routed`` sends the verdict side to R_safe and the task side to R_cmd;
                ``joint`` sends the sum of both to both.
        """
        verdict, task, head = (self._collected[key] for key in ("verdict", "task", "head"))
        self._collected = dict.fromkeys(self._collected)
        both, self._graph = self._graph, None
        thetas = [self.theta_safe, self.theta_cmd]
        if both is not None and not (verdict is None and task is None and head is None):
            if routing == "joint":
                parts = [part for part in (verdict, task) if part is not None]
                verdict = task = torch.stack(parts).sum(0) if parts else None
            safe, cmd = both.detach().unbind()
            upstream = torch.zeros_like(both)
            if verdict is not None:
                upstream[0] = so8.compose(cmd.mT, verdict)
            if head is not None:
                upstream[0, self.index(HEAD)] += head
            if task is not None:
                upstream[1] = so8.compose(task, safe.mT)
            for theta, gradient in zip(
                thetas, torch.autograd.grad(both, thetas, upstream), strict=True
            ):
                theta.grad = gradient if theta.grad is None else theta.grad + gradient
        self.invalidate()

    @torch.no_grad()
    def health(self) -> dict[str, float]:
        """Return how far the current rotations are from SO(8), and how far from the identity.

        Keys: ``max_orthogonality_error``, ``max_determinant_error`` (over R_safe, R_cmd and their
        product, in float64), ``mean_angle_safe``, ``mean_angle_cmd`` (radians, largest principal
        angle of each rotation).
        """
        safe, cmd = self.rotations()
        every = torch.stack([safe, cmd, so8.compose(cmd, safe)])
        return {
            "max_orthogonality_error": float(so8.orthogonality_error(every).max()),
            "max_determinant_error": float(so8.determinant_error(every).max()),
            "mean_angle_safe": float(so8.angles(safe)[..., 0].mean()),
            "mean_angle_cmd": float(so8.angles(cmd)[..., 0].mean()),
        }
