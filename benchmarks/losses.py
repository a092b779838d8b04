"""Speed and memory of the losses beside cross-entropy and the textbook square loss, in one process.

    python -m benchmarks.losses --json benchmarks/results/losses_cpu.json
    python -m benchmarks.losses --shapes 32x2 --threads 1 --processor-time

Forward and backward on float32 outputs. Every round times each loss in turn, so that all see the same machine; the
table has the median over the rounds and its ratio to cross-entropy's, taken round by round. Memory is the peak above
the outputs themselves, in units of the outputs' size: on the CPU from the allocator's own record of one pass, on a
GPU from CUDA's counter.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import add_processor_time, clock_of, make_parser, peak_bytes, prepare, report, side_by_side
from sqloss_plugins import square_loss, squentropy_loss

SHAPES = {"32x2": (32, 2), "4096x1000": (4096, 1000), "256x30522": (256, 30522), "4096x50257": (4096, 50257)}
BASELINE = "cross_entropy"


def textbook(input: Tensor, target: Tensor) -> Tensor:
    """The square loss as it is often written: mean squared error against one-hot targets."""
    return F.mse_loss(input, F.one_hot(target, input.shape[1]).to(input.dtype))


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": F.cross_entropy,
    "textbook one-hot": textbook,
    "square": square_loss,
    "square k=15 M=30": lambda f, c: square_loss(f, c, k=15.0, M=30.0),
    "squentropy": squentropy_loss,
}


def measure(N: int, C: int, rounds: int, device: str, clock: Callable[[], float]) -> list[dict[str, float | str]]:
    """One shape: a row for each loss."""
    f = torch.randn(N, C, device=device, requires_grad=True)
    c = torch.randint(0, C, (N,), device=device)

    def one_pass(loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], None]:
        def run() -> None:
            f.grad = None
            loss(f, c).backward()  # type: ignore[no-untyped-call]

        return run

    runs = {name: one_pass(loss) for name, loss in LOSSES.items()}
    times = side_by_side(runs, rounds, device, f"({N}, {C})", clock)
    return [
        {
            "N": N,
            "C": C,
            "loss": name,
            "milliseconds": 1e3 * statistics.median(taken),
            "ratio": statistics.median(a / b for a, b in zip(taken, times[BASELINE], strict=True)),
            "memory": peak_bytes(runs[name], [f], device) / (f.numel() * f.element_size()),
        }
        for name, taken in times.items()
    ]


def main() -> int:
    parser = make_parser(__doc__, rounds=15)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, metavar="NxC", help=f"some of {', '.join(SHAPES)}")
    add_processor_time(parser)
    args = parser.parse_args()
    clock = clock_of(parser, args)
    prepare(parser, args)

    shapes = [SHAPES[name] for name in args.shapes or SHAPES]
    rows = [row for N, C in shapes for row in measure(N, C, args.rounds, args.device, clock)]
    table = [["N", "C", "loss", "ms", "time / CE", "peak memory / outputs"]]
    for row in rows:
        table.append(
            [
                str(row["N"]),
                str(row["C"]),
                str(row["loss"]),
                f"{row['milliseconds']:.3f}",
                f"{row['ratio']:.2f}",
                f"{row['memory']:.2f}",
            ]
        )
    report(table, rows, args)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
