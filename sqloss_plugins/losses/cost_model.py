"""Which form of the linear square loss is faster.

Precision does not decide. The Gram form's gradients, by which training goes, have at most 2.4 times the rounding errors
of the direct form's in the same dtype, and 3 times where all weights are positive. So has its value, but for a float32
loss near zero, where squares cancel: with outputs a hundredth of M from their targets its error is 8 to 15 times the
direct form's for k = 1 (a relative 4e-5), no larger from k = 12 on, and grows closer to the targets for every k. For
those who read such values there is ``precise_value``. Measured in benchmarks/RESULTS.md.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sqloss_plugins.losses._products import kept_gram, product_dtype


class _Costs(NamedTuple):
    """What an element costs beside the products, in floating-point operations of a product."""

    output: float  # an element of the (N, C) outputs: passes over memory in loss and gradient
    feature: float  # an element of the (N, d) inputs: gather, row products, scatter
    parameter: float  # an element of the (C, d) weight: the second pass over its gradient


_COSTS = {
    # Measured, float32.
    "cpu": _Costs(output=800.0, feature=1500.0, parameter=200.0),
    # From an H100's data sheet, bfloat16; not measured.
    "cuda": _Costs(output=2000.0, feature=7000.0, parameter=1400.0),
}


def gram_pays(
    N: int,
    d: int,
    C: int,
    *,
    needs_input: bool = True,
    needs_weight: bool = True,
    kept: bool = False,
    precise_value: bool = False,
    device: str = "cpu",
) -> bool:
    """Whether the Gram form should be faster than the direct one.

    Compares the floating-point operations of the products, 4 d^2 (N + C) against 6 N C d where both gradients are
    needed, and the cost of the passes over memory. For a CPU that cost is measured (benchmarks/RESULTS.md); for CUDA it
    comes from an H100's data sheet (bfloat16), and no GPU has confirmed it yet: ``python -m benchmarks.linear_square
    --device cuda`` shows what another choice would gain.

    Args:
        N: rows that count.
        d: features.
        C: classes.
        needs_input, needs_weight: which gradients are wanted.
        kept: whether G is there already.
        precise_value: whether G and its product with the input are in float64, at twice the cost.
        device: the device's type; the figures of ``"cpu"`` serve for one that has none.
    """
    cost = _COSTS.get(device, _COSTS["cpu"])
    direct = 2.0 * N * C * d * (1 + needs_input + needs_weight) + cost.output * N * C
    gram = (
        2.0 * d * d * (((0 if kept else C) + N) * (1 + precise_value) + needs_weight * (N + C)) + cost.feature * N * d
    )
    gram += needs_weight * cost.parameter * C * d
    return gram < direct


def prefers_gram(input: Tensor, W: Tensor, steps: int = 1, precise_value: bool = False) -> bool:
    """Whether ``impl="auto"`` takes the Gram form.

    Args:
        input: the rows that count, of shape (N, d).
        W: the layer's weight, of shape (C, d).
        steps: how many such inputs share one G.
        precise_value: whether G and its products are in float64.
    """
    grad = torch.is_grad_enabled()
    return gram_pays(
        len(input) * steps,
        input.shape[1],
        len(W),
        needs_input=grad and input.requires_grad,
        needs_weight=grad and W.requires_grad,
        kept=kept_gram(W, torch.float64 if precise_value else product_dtype(input)) is not None,
        precise_value=precise_value,
        device=input.device.type,
    )
