"""The square loss of a linear layer beside the best cross-entropies of one, in one process.

    python -m benchmarks.linear_square --json linear_square_cpu.json --plot linear_square_cpu.png
    python -m benchmarks.linear_square --device cuda --dtype bfloat16 --json linear_square_cuda.json
    python -m benchmarks.linear_square --shapes GPT-2 --no-sweeps --squares "square auto, k = M = 1" --processor-time

Forward and backward, gradients of input and weight, k = 15, M = 30 unless said. Every round times all of them in turn
and in a new order; the table has medians over the rounds, and medians of each round's ratio to the fastest
cross-entropy. Roofline: 4 d^2 (N + C) operations at the speed of the fastest square matrix product of the run; on a CPU
the Gram form may go beyond it, since it computes G and H^T H by halves.
"""

from __future__ import annotations

import importlib.util
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import (
    add_processor_time,
    clock_of,
    in_words,
    make_parser,
    peak_bytes,
    prepare,
    save,
    side_by_side,
)
from sqloss_plugins.losses import gram_pays, linear_square_loss
from sqloss_plugins.results import device_name, markdown_table, versions

SHAPES = {
    "GPT-2": (8192, 768, 50257),
    "BERT MLM": (4096, 768, 30522),
    "Llama-3": (8192, 4096, 128256),
    "Gemma2": (8192, 2304, 256000),
    "Qwen": (16384, 2048, 248320),
    "ImageNet": (256, 2048, 1000),
    "LibriSpeech": (2048, 512, 5000),
}
ON_A_CPU = ("GPT-2", "BERT MLM", "ImageNet", "LibriSpeech")
SWEEPS = {
    "N": [(N, 512, 5000) for N in (16, 64, 256, 1024, 4096)],
    "d": [(2048, d, 5000) for d in (32, 128, 512, 1024, 2048)],
    "C": [(2048, 512, C) for C in (32, 100, 1000, 5000, 20000)],
}

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def dense_cross_entropy(H: Tensor, W: Tensor, y: Tensor) -> Tensor:
    """What a model does by itself."""
    return F.cross_entropy(F.linear(H, W), y)


def square(impl: str, k: float = 15.0, M: float = 30.0) -> Loss:
    """One of this package's forms."""
    return lambda H, W, y: linear_square_loss(H, W, y, k=k, M=M, impl=impl)


def cross_entropies(device: str) -> dict[str, Loss]:
    """Every cross-entropy of a linear layer that is installed and runs on the device."""
    found: dict[str, Loss] = {"CE dense": dense_cross_entropy, "CE compiled": torch.compile(dense_cross_entropy)}
    nn: Any = torch.nn
    if hasattr(nn.functional, "linear_cross_entropy"):  # PyTorch 2.13
        options = nn.LinearCrossEntropyOptions()
        found["CE torch linear"] = lambda H, W, y: nn.functional.linear_cross_entropy(H, W, y, options=options)
    if device == "cuda" and importlib.util.find_spec("liger_kernel"):
        from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

        found["CE Liger"] = lambda H, W, y: liger_fused_linear_cross_entropy(H, W, y)
    if device == "cuda" and importlib.util.find_spec("cut_cross_entropy"):
        from cut_cross_entropy import linear_cross_entropy

        found["CE cut"] = lambda H, W, y: linear_cross_entropy(H, W, y)
    return found


PLAIN = "square auto, k = M = 1"
SQUARES = {
    "square direct": square("direct"),
    "square gram": square("gram"),
    "square auto": square("auto"),
    PLAIN: square("auto", 1.0, 1.0),
}


def measure(
    shape: tuple[int, int, int],
    losses: dict[str, Loss],
    rounds: int,
    device: str,
    dtype: torch.dtype,
    clock: Callable[[], float],
) -> Any:
    """One shape: times and memory of every loss."""
    N, d, C = shape
    H = torch.randn(N, d, device=device, dtype=dtype, requires_grad=True)
    W = (0.02 * torch.randn(C, d, device=device)).to(dtype).requires_grad_()
    y = torch.randint(0, C, (N,), device=device)

    def one_pass(loss: Loss) -> Callable[[], None]:
        def run() -> None:
            H.grad = W.grad = None
            loss(H, W, y).backward()  # type: ignore[no-untyped-call]

        return run

    runs = {name: one_pass(loss) for name, loss in losses.items()}
    times = side_by_side(runs, rounds, device, f"N {N}, d {d}, C {C}", clock)
    baseline = min((name for name in losses if name.startswith("CE")), key=lambda name: statistics.median(times[name]))
    return {
        "N": N,
        "d": d,
        "C": C,
        "auto takes": "gram" if gram_pays(N, d, C, device=device) else "direct",
        "fastest CE": baseline,
        "losses": {
            name: {
                "milliseconds": 1e3 * statistics.median(taken),
                "speed": statistics.median(b / a for a, b in zip(taken, times[baseline], strict=True)),
                "megabytes": peak_bytes(runs[name], [H, W], device) / 2**20,
            }
            for name, taken in times.items()
        },
    }


def product_speed(device: str, dtype: torch.dtype) -> float:
    """Floating-point operations a second of the fastest square matrix product."""
    best = 0.0
    for size in (1024, 2048, 4096) if device == "cpu" else (4096, 8192, 16384):
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        taken = side_by_side({"product": lambda a=a, b=b: a @ b}, 3, device, f"product of size {size}")  # type: ignore[misc]
        best = max(best, 2.0 * size**3 / min(taken["product"]))
    return best


def print_shapes(rows: dict[str, Any], peak: float) -> None:
    """The table of the named shapes."""
    table = [["shape", "N, d, C", "loss", "ms", "speed / fastest CE", "peak MiB", "of the roofline"]]
    for name, row in rows.items():
        for loss, figures in row["losses"].items():
            chosen = loss in ("square auto", PLAIN)
            ideal = 4.0 * row["d"] ** 2 * (row["N"] + row["C"]) / peak
            share = 1e3 * ideal / figures["milliseconds"]
            label = f"{loss} ({row['auto takes']})" if chosen else loss
            table.append(
                [
                    name,
                    f"{row['N']}, {row['d']}, {row['C']}",
                    f"**{label}**" if chosen else label,
                    f"{figures['milliseconds']:.2f}",
                    f"{figures['speed']:.2f}",
                    f"{figures['megabytes']:.0f}",
                    f"{100 * share:.0f} %" if loss == "square gram" else "",
                ]
            )
    print(markdown_table(table))


def print_sweeps(sweeps: dict[str, list[Any]]) -> None:
    """How time grows; and what the choice of ``auto`` lost against the better of the two forms."""
    table = [["sweep", "N, d, C", "fastest CE, ms", "direct, ms", "gram, ms", "auto, ms", "auto / better form"]]
    for name, rows in sweeps.items():
        for row in rows:
            ms = {loss: figures["milliseconds"] for loss, figures in row["losses"].items()}
            direct, gram, auto = (ms[f"square {form}"] for form in ("direct", "gram", "auto"))
            cells = [name, f"{row['N']}, {row['d']}, {row['C']}", f"{ms[row['fastest CE']]:.2f}", f"{direct:.2f}"]
            table.append(
                [*cells, f"{gram:.2f}", f"{auto:.2f} ({row['auto takes']})", f"{auto / min(direct, gram):.2f}"]
            )
    print(markdown_table(table))


def plot(sweeps: dict[str, list[Any]], path: Path, environment: str) -> None:
    """Time against N, d and C."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(sweeps), figsize=(12, 3.8), sharey=True, constrained_layout=True)
    for axis, (name, rows) in zip(axes, sweeps.items(), strict=True):
        x = [row[name] for row in rows]
        axis.loglog(x, [row["losses"][row["fastest CE"]]["milliseconds"] for row in rows], "o-", label="fastest CE")
        for loss, style in (("square direct", "s-"), ("square gram", "^-"), ("square auto", "k--")):
            axis.loglog(x, [row["losses"][loss]["milliseconds"] for row in rows], style, label=loss)
        fixed = ", ".join(f"{other} = {rows[0][other]}" for other in "NdC" if other != name)
        axis.set(xlabel=name, title=fixed)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("forward and backward, ms")
    axes[0].legend()
    figure.suptitle(environment, fontsize=8)
    figure.savefig(path, dpi=120)


def main() -> int:
    parser = make_parser(__doc__, rounds=7)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, metavar="NAME", help=f"some of {', '.join(SHAPES)}")
    parser.add_argument("--no-sweeps", action="store_true", help="only the named shapes")
    parser.add_argument("--squares", nargs="+", choices=SQUARES, metavar="NAME", help=f"some of {'; '.join(SQUARES)}")
    add_processor_time(parser)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the sweeps there (PNG; needs matplotlib)")
    args = parser.parse_args()
    if args.plot and (args.no_sweeps or not importlib.util.find_spec("matplotlib")):
        parser.error("--plot draws the sweeps, and needs matplotlib: pip install matplotlib")
    if args.squares and not args.no_sweeps:
        parser.error("--squares is of the named shapes, and the sweeps need all: give --no-sweeps")
    clock = clock_of(parser, args)
    prepare(parser, args)

    dtype = getattr(torch, args.dtype)
    shapes = args.shapes or list(SHAPES if args.device == "cuda" else ON_A_CPU)
    losses = cross_entropies(args.device) | {name: SQUARES[name] for name in args.squares or SQUARES}
    environment = {"device": device_name(args.device), "dtype": args.dtype, **versions()}
    words = in_words(environment)
    result: dict[str, Any] = {"environment": environment, "shapes": {}, "sweeps": {}}

    result["product operations per second"] = peak = product_speed(args.device, dtype)
    for name in shapes:
        result["shapes"][name] = measure(SHAPES[name], losses, args.rounds, args.device, dtype, clock)
        save(args.json, result)
    print_shapes(result["shapes"], peak)
    if not args.no_sweeps:
        for name, points in SWEEPS.items():
            result["sweeps"][name] = [
                measure(point, losses, args.rounds, args.device, dtype, clock) for point in points
            ]
            save(args.json, result)
        print()
        print_sweeps(result["sweeps"])
    if args.plot:
        plot(result["sweeps"], args.plot, words)
    print(f"\nproducts reach {peak / 1e9:.0f} GFLOP/s; {words}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
