"""Training steps of an output layer of very many classes: loss, both gradients, and SGD.

    python -m benchmarks.factorised_head --json benchmarks/results/factorised_head_cpu.json

Processor time of one thread, in one process, each method in turn; cross-entropy, the slowest by far, once. "Factorised"
is :class:`sqloss_plugins.losses.FactorisedSquareHead`: in a step as most are; in one that moves a direction of U into
V, which is a pass over V; and in one that moves as many as can be with normal inputs. "In place" is the same with
``keep_plain``. Memory is the peak of what a step allocates, beside the layer's weight.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import Run, make_parser, peak_bytes, prepare, report, side_by_side
from sqloss_plugins.losses import FactorisedSquareHead, linear_square_loss

ROWS, FEATURES, CLASSES = 4096, 128, 1_000_000
K, M = 15.0, 30.0  # of the factorised head; the cost is the same for all
GROWTH_FEATURES, GROWTH = 64, (100_000, 1_000_000, 10_000_000)

USUAL, MOVED, MANY = "factorised", "factorised, moving one direction", "factorised, moving many directions"
IN_PLACE = "in place"
_OUTPUTS = 1 << 26
"""Outputs that cross-entropy builds at once."""


def batch(d: int, C: int) -> tuple[Tensor, Tensor]:
    """Input, of shape (N, d), which needs its gradient, and targets."""
    return torch.randn(ROWS, d, requires_grad=True), torch.randint(0, C, (ROWS,))


def factorised_step(head: FactorisedSquareHead, H: Tensor, y: Tensor, shrinkage: float) -> Run:
    """A step whose learning rate is chosen by how much U's fastest direction shrinks: to 1 - ``shrinkage``."""
    largest = float(torch.linalg.eigvalsh(H.detach().T @ H.detach())[-1]) * 2.0 / (head.num_classes * len(H))

    def run() -> None:
        H.grad = None
        head(H, y).backward()
        head.step(shrinkage / largest)

    return run


def with_sgd(W: Tensor, H: Tensor, y: Tensor, backward: Callable[[Tensor, Tensor, Tensor], object]) -> Run:
    """A step of a plain layer."""
    optimizer = torch.optim.SGD([W], lr=1e-3)

    def run() -> None:
        H.grad = W.grad = None
        backward(H, W, y)
        optimizer.step()

    return run


def square(k: float, M: float) -> Callable[[Tensor, Tensor, Tensor], object]:
    """Loss and gradients of the square loss, without outputs."""
    return lambda H, W, y: linear_square_loss(H, W, y, k=k, M=M, impl="gram").backward()  # type: ignore[no-untyped-call]


@torch.no_grad()
def chunked_cross_entropy(H: Tensor, W: Tensor, y: Tensor) -> Tensor:
    """Loss and gradients of cross-entropy, from the outputs of some rows at a time, with no operation too many."""
    H.grad, W.grad = torch.empty_like(H), torch.zeros_like(W)
    loss = H.new_zeros(())
    for part in torch.arange(len(H)).split(max(1, _OUTPUTS // len(W))):  # type: ignore[no-untyped-call]
        outputs = H[part] @ W.T
        outputs -= outputs.logsumexp(1, keepdim=True)
        loss -= outputs.gather(1, y[part].unsqueeze(1)).sum()
        slopes = outputs.exp_()
        slopes[torch.arange(len(part)), y[part]] -= 1.0
        slopes /= len(H)
        H.grad[part] = slopes @ W
        W.grad.addmm_(slopes.T, H[part])
    return loss / len(H)


def row(method: str, d: int, C: int, seconds: list[float], megabytes: float | None) -> dict[str, Any]:
    """One line of the table."""
    return {"method": method, "d": d, "C": C, "milliseconds": 1e3 * statistics.median(seconds), "megabytes": megabytes}


def measure_methods(rounds: int, with_cross_entropy: bool) -> list[dict[str, Any]]:
    """Every method at one size."""
    d, C = FEATURES, CLASSES
    H, y = batch(d, C)
    shifted = (H.detach() + 1.0).requires_grad_()  # one direction is much longer than the others
    head = FactorisedSquareHead(d, C, bias=False, k=K, M=M)
    plain = FactorisedSquareHead(d, C, bias=False, k=K, M=M, keep_plain=True)
    W = (torch.randn(C, d) * 0.02).requires_grad_()
    runs = {
        USUAL: factorised_step(head, H, y, 0.01),
        MOVED: factorised_step(head, shifted, y, 0.95),
        MANY: factorised_step(head, H, y, 0.95),
        IN_PLACE: factorised_step(plain, H, y, 0.01),
        "square loss and SGD, k = 15, M = 30": with_sgd(W, H, y, square(15.0, 30.0)),
        "square loss and SGD, k = M = 1": with_sgd(W, H, y, square(1.0, 1.0)),
    }
    times = side_by_side(runs, rounds, "cpu", f"d {d}, C {C}", time.process_time)
    rows = [row(name, d, C, times[name], peak_bytes(run, [H, shifted, W], "cpu") / 2**20) for name, run in runs.items()]
    if not with_cross_entropy:
        return rows
    start = time.process_time()
    with_sgd(W, H, y, chunked_cross_entropy)()
    return [*rows, row("cross-entropy by chunks and SGD", d, C, [time.process_time() - start], None)]


def measure_growth(rounds: int) -> list[dict[str, Any]]:
    """The factorised head with more and more classes, all in turn."""
    d, runs, inputs = GROWTH_FEATURES, {}, {}
    for C in GROWTH:
        H, y = batch(d, C)
        head = FactorisedSquareHead(d, C, bias=False, k=K, M=M)
        runs[str(C)], inputs[C] = factorised_step(head, H, y, 0.01), H
    times = side_by_side(runs, rounds, "cpu", f"d {d}", time.process_time)
    return [row(USUAL, d, C, times[str(C)], peak_bytes(runs[str(C)], [inputs[C]], "cpu") / 2**20) for C in GROWTH]


def main() -> int:
    parser = make_parser(__doc__, rounds=7)
    parser.add_argument(
        "--no-cross-entropy", action="store_true", help="without the method that takes most of the time"
    )
    parser.set_defaults(threads=1)
    args = parser.parse_args()
    if args.device != "cpu":
        parser.error("--device: this benchmark is of a CPU")
    prepare(parser, args)
    rows = measure_methods(args.rounds, not args.no_cross_entropy) + measure_growth(args.rounds)
    table = [["method", "N, d, C", "ms", "time / factorised", "peak MiB of a step"]]
    usual = rows[0]["milliseconds"]
    for figures in rows:
        base = usual if figures["d"] == FEATURES else rows[-len(GROWTH)]["milliseconds"]
        megabytes = "" if figures["megabytes"] is None else f"{figures['megabytes']:.0f}"
        size = f"{ROWS}, {figures['d']}, {figures['C']}"
        ms = figures["milliseconds"]
        table.append([figures["method"], size, f"{ms:.1f}", f"{ms / base:.2f}", megabytes])
    report(table, rows, args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
