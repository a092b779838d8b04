"""Which form of the linear square loss is faster, and whether it is precise enough."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sqloss_plugins.losses._products import NARROW, kept_gram, product_dtype

_PRECISE_FROM_K = 12.0
"""From this k on, the Gram form's value of a float32 loss near zero is about as precise as the direct form's."""


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
    device: str = "cpu",
) -> bool:
    """Whether the Gram form should be faster than the direct one.

    Compares the floating-point operations of the products, 4 d^2 (N + C) against 6 N C d where both gradients are
    needed, and the cost of the passes over memory (benchmarks/RESULTS.md).

    Args:
        N: rows that count.
        d: features.
        C: classes.
        needs_input, needs_weight: which gradients are wanted.
        kept: whether G is there already.
        device: the device's type; the figures of ``"cpu"`` serve for one that has none.
    """
    cost = _COSTS.get(device, _COSTS["cpu"])
    direct = 2.0 * N * C * d * (1 + needs_input + needs_weight) + cost.output * N * C
    gram = 2.0 * d * d * ((0 if kept else C) + N + needs_weight * (N + C)) + cost.feature * N * d
    gram += needs_weight * cost.parameter * C * d
    return gram < direct


def precise_enough(input: Tensor, k: float) -> bool:
    """Whether ``impl="auto"`` may take the Gram form of such an input, for its precision.

    Measured (benchmarks/RESULTS.md): the Gram form's rounding errors are at most 2.4 times the direct form's in the
    same dtype, and 3 times where all weights are positive; except for the *value* of a float32 loss near zero, where
    squares cancel. With outputs a hundredth of M from their targets, its error is 8 to 15 times the direct form's for
    k = 1 (a relative 4e-5), and no larger from k = 12 on; closer to the targets it grows for every k. Gradients stay
    within the bound everywhere.

    Args:
        input: the layer's input, for its dtype.
        k: the weight of the true class's term.
    """
    narrow = input.dtype in NARROW or torch.is_autocast_enabled(input.device.type)
    return narrow or k >= _PRECISE_FROM_K


def prefers_gram(input: Tensor, W: Tensor, k: float, steps: int = 1) -> bool:
    """Whether ``impl="auto"`` takes the Gram form: precise enough, and faster.

    Args:
        input: the rows that count, of shape (N, d).
        W: the layer's weight, of shape (C, d).
        k: the weight of the true class's term.
        steps: how many such inputs share one G.
    """
    if not precise_enough(input, k):
        return False
    grad = torch.is_grad_enabled()
    return gram_pays(
        len(input) * steps,
        input.shape[1],
        len(W),
        needs_input=grad and input.requires_grad,
        needs_weight=grad and W.requires_grad,
        kept=kept_gram(W, product_dtype(input)) is not None,
        device=input.device.type,
    )
