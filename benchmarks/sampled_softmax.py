"""Training steps of an output layer, by the losses of the reverse dictionary: loss, gradients, Adam.

    python -m benchmarks.sampled_softmax --json benchmarks/results/sampled_softmax_cpu.json

Processor time of one thread, in one process, each method in turn, at the sizes of ``recipes/reverse_dictionary`` (256
rows, 128 features, 23,878 and 86,571 classes, float32). Adam passes over all of the layer's weights whatever the loss;
its part is a line of its own. The factorised head has its own SGD.
"""

from __future__ import annotations

import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.factorised_head import factorised_step
from benchmarks.measure import Run, make_parser, prepare, report, side_by_side
from sqloss_plugins.losses import FactorisedSquareHead, linear_square_loss, sampled_softmax_loss

ROWS, FEATURES, CLASSES = 256, 128, (23_878, 86_571)
SAMPLES = (100, 1000, 5000)
K, M = 15.0, 30.0
BASELINE = "cross-entropy"


def loss_of(name: str, layer: nn.Linear, H: Tensor, y: Tensor) -> Tensor:
    """A loss of the layer's outputs; ``name`` is a line of the table."""
    if name == BASELINE:
        return F.cross_entropy(layer(H), y)
    if name == "square loss":
        return linear_square_loss(H, layer.weight, y, linear_bias=layer.bias, k=K, M=M)
    num_sampled = int(name.split()[-2])
    return sampled_softmax_loss(H, layer.weight, y, num_sampled=num_sampled, linear_bias=layer.bias)


def step(name: str, C: int) -> Run:
    """Loss, gradients of input, weight and bias, and Adam's step of both."""
    H, y = torch.randn(ROWS, FEATURES, requires_grad=True), torch.randint(0, C, (ROWS,))
    layer = nn.Linear(FEATURES, C)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-4)

    def run() -> None:
        H.grad = None
        optimizer.zero_grad()
        loss_of(name, layer, H, y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return run


def adam(C: int) -> Run:
    """Adam's step alone."""
    layer = nn.Linear(FEATURES, C)
    for parameter in layer.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-4)

    def run() -> None:
        optimizer.step()

    return run


def measure(C: int, rounds: int) -> list[dict[str, object]]:
    """Every method with so many classes."""
    names = [BASELINE, *(f"sampled softmax, {S} classes" for S in SAMPLES if S <= C), "square loss"]
    runs = {name: step(name, C) for name in names}
    runs["Adam's part of these"] = adam(C)
    head = FactorisedSquareHead(FEATURES, C, k=K, M=M)
    H, y = torch.randn(ROWS, FEATURES, requires_grad=True), torch.randint(0, C, (ROWS,))
    runs["factorised square loss, SGD"] = factorised_step(head, H, y, 0.01)
    times = side_by_side(runs, rounds, "cpu", f"C {C}", time.process_time)
    return [
        {
            "method": name,
            "C": C,
            "milliseconds": 1e3 * statistics.median(taken),
            "ratio": statistics.median(a / b for a, b in zip(taken, times[BASELINE], strict=True)),
        }
        for name, taken in times.items()
    ]


def main() -> int:
    parser = make_parser(__doc__, rounds=9)
    parser.set_defaults(threads=1)
    args = parser.parse_args()
    if args.device != "cpu":
        parser.error("--device: this benchmark is of a CPU")
    prepare(parser, args)
    rows = [row for C in CLASSES for row in measure(C, args.rounds)]
    table = [["method", "classes", "ms a step", "time / cross-entropy"]]
    table += [[str(r["method"]), str(r["C"]), f"{r['milliseconds']:.1f}", f"{r['ratio']:.2f}"] for r in rows]
    report(table, rows, args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
