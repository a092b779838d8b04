"""Rounding errors of the linear square loss, in its Gram form and its direct form, against float64.

    python -m benchmarks.linear_precision --json benchmarks/results/linear_precision_cpu.json

Errors are relative, in the Euclidean norm over all rows or entries; "ratio" is the Gram form's over the direct form's
in the same dtype, and "precise" is that ratio for the loss with ``precise_value``.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from benchmarks.measure import in_words, make_parser, prepare, save
from sqloss_plugins.losses import linear_square_loss
from sqloss_plugins.results import device_name, markdown_table, versions

RESCALINGS = ((1.0, 1.0), (1.0, 15.0), (8.0, 1.0), (12.0, 1.0), (15.0, 30.0))
DTYPES = ("float32", "bfloat16", "float16")
SHAPES = {"initial": (1024, 256, 5000), "positive weights": (1024, 256, 5000), "converged": (2048, 768, 700)}


def states(
    state: str,
    shape: tuple[int, int, int],
    k: float,
    M: float,
    dtype: torch.dtype,
    device: str = "cpu",
    residual: float = 0.01,
) -> tuple[Tensor, Tensor, Tensor]:
    """Input (N, d), weight (C, d) and targets (N).

    ``initial``: outputs of size 1/2, independent of the targets. ``positive weights``: the same, with the absolute
    values of the weights, whose Gram matrix is large in every element. ``converged`` (C <= d): outputs close to M at
    the true class and to 0 elsewhere, where the squares that the Gram form subtracts cancel; ``residual`` is how close,
    as a share of M.
    """
    g = torch.Generator().manual_seed(0)
    N, d, C = shape

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=g, dtype=torch.float64)

    y = torch.randint(0, C, (N,), generator=g)
    if state != "converged":
        input, W = normal(N, d), normal(C, d) * 0.5 / d**0.5
        W = W.abs() if state == "positive weights" else W
    else:
        W = torch.linalg.qr(normal(d, d))[0][:C] * 3.0
        input = M * W[y] / 9.0 * (1.0 + residual * normal(N, 1)) + residual * M * normal(N, d) / d**0.5
    return input.to(device, dtype), W.to(device, dtype), y.to(device)


def loss_and_gradients(
    input: Tensor, W: Tensor, y: Tensor, k: float, M: float, impl: str, precise_value: bool = False
) -> list[Tensor]:
    """The rows' losses and the gradients of input and weight, as float64."""
    input, W = input.clone().requires_grad_(), W.clone().requires_grad_()
    loss = linear_square_loss(input, W, y, k=k, M=M, impl=impl, precise_value=precise_value, reduction="none")
    # Not loss.sum(): in 16 bits its rounding would be the larger error, and the gradient is what is asked for.
    gradients = torch.autograd.grad(loss, (input, W), torch.ones_like(loss))
    return [tensor.detach().double() for tensor in (loss, *gradients)]


def errors(
    input: Tensor, W: Tensor, y: Tensor, k: float, M: float, impl: str, precise_value: bool = False
) -> list[float]:
    """Relative errors of loss, input's gradient and weight's gradient."""
    exact = loss_and_gradients(input.double(), W.double(), y, k, M, "direct")
    found = loss_and_gradients(input, W, y, k, M, impl, precise_value)
    return [((mine - truth).norm() / truth.norm()).item() for mine, truth in zip(found, exact, strict=True)]


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--tf32", action="store_true", help="on a GPU: float32 products in TF32")
    parser.add_argument("--residual", type=float, default=0.01, help="how far from the targets, as a share of M")
    args = parser.parse_args()
    prepare(parser, args)
    if args.tf32 and args.device == "cpu":
        parser.error("--tf32 is of a GPU: give --device cuda as well")
    torch.backends.cuda.matmul.allow_tf32 = args.tf32

    rows = []
    table = [["state", "k, M", "dtype", "loss", "ratio", "precise", "d input", "ratio", "d weight", "ratio"]]
    for state, shape in SHAPES.items():
        for k, M in RESCALINGS:
            for name in DTYPES:
                problem = states(state, shape, k, M, getattr(torch, name), args.device, args.residual)
                gram, direct = (errors(*problem, k, M, impl) for impl in ("gram", "direct"))
                precise = errors(*problem, k, M, "gram", precise_value=True)
                figures = {"gram": gram, "precise": precise, "direct": direct}
                rows.append({"state": state, "k": k, "M": M, "dtype": name, **figures})
                cells = [cell for a, b in zip(gram, direct, strict=True) for cell in (f"{a:.1e}", f"{a / b:.2f}")]
                cells.insert(2, f"{precise[0] / direct[0]:.2f}")
                table.append([state, f"{k:g}, {M:g}", name, *cells])
    print(markdown_table(table))
    environment = {"device": device_name(args.device), "TF32": args.tf32, **versions()}
    print(f"\n{in_words(environment)}")
    save(args.json, {"environment": environment, "shapes": SHAPES, "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
