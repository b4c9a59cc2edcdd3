"""Times one gate, forward and backward, against copying its tensor as often as it must move.

Forward reads x and writes y (one copy). Backward reads the gradient and writes one (a second), and
reads x and the gradient once more for the gradient of the rotations (two reads, as a third copy).

    python benchmarks/engine_gate.py                # 8 x 2048 x 4096 in bfloat16 on CUDA
    python benchmarks/engine_gate.py --device cpu --shape 8 64 576
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from so8t_engine.rotations import so8
from so8t_engine.rotations.gate import GateBank


def median_ms(body: Callable[[], object], device: str, repeats: int) -> float:
    """Return the median time of ``body`` in milliseconds, after three warm-up calls."""
    times = []
    for number in range(repeats + 3):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        body()
        if device == "cuda":
            torch.cuda.synchronize()
        if number >= 3:
            times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def measure(
    shape: tuple[int, int, int], sharing: str, device: str, repeats: int
) -> dict[str, float]:
    """Return the times of the gate and of the copies, in milliseconds."""
    width = shape[-1]
    blocks = width // 8 if sharing == "per_block" else 1
    x = torch.randn(shape, device=device, dtype=torch.bfloat16, requires_grad=True)
    gradient = torch.randn_like(x)
    target = torch.empty_like(x)
    rotations = so8.rotation(torch.randn(blocks, 28, device=device) * 0.1).requires_grad_()

    def gate() -> None:
        torch.autograd.grad(so8.apply(rotations, x), (x, rotations), gradient)

    with torch.no_grad():
        forward = median_ms(lambda: so8.apply(rotations, x), device, repeats)
        copy = median_ms(lambda: target.copy_(gradient), device, repeats)
    both = median_ms(gate, device, repeats)
    return {"forward": forward, "forward_backward": both, "copy": copy, "ratio": both / (3 * copy)}


def step_cost(width: int, gates: int, device: str, repeats: int) -> float:
    """Return the time to build all rotations and pull gradients through them, once a step."""
    bank = GateBank([f"layers.{index}" for index in range(gates - 1)] + ["head"], width)
    bank.to(device).train()
    one = torch.zeros(1, width, device=device, dtype=torch.bfloat16)

    def step() -> None:
        for index in range(gates):
            bank.apply_product(index, one)
        for leaf in bank.leaves():
            leaf.grad = torch.ones_like(leaf)
        bank.collect("verdict")
        bank.finish_step("routed")

    return median_ms(step, device, repeats)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--shape", type=int, nargs=3, default=(8, 2048, 4096))
    parser.add_argument("--gates", type=int, default=29)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    shape = tuple(options.shape)
    found: dict[str, object] = {"shape": shape, "device": options.device,
                                "torch": torch.__version__}  # fmt: skip
    print(f"gate on {shape} bfloat16, {options.device}, torch {torch.__version__}; medians in ms")
    print("| sharing | forward | forward + backward | one copy | / three copies |")
    print("|---|---|---|---|---|")
    for sharing in ("per_block", "shared"):
        row = measure(shape, sharing, options.device, options.repeats)
        found[sharing] = row
        print(f"| {sharing} | {row['forward']:.3f} | {row['forward_backward']:.3f} |"
              f" {row['copy']:.3f} | {row['ratio']:.2f} |")  # fmt: skip
    cost = step_cost(shape[-1], options.gates, options.device, max(3, options.repeats // 4))
    found["exponential_step_ms"] = cost
    print(
        f"all rotations of {options.gates} gates, built and differentiated once a step: {cost:.1f}"
    )
    if options.out:
        options.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
