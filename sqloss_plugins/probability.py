"""From outputs to class probabilities.

A classifier trained with the square loss puts out, at the optimum, f_i = k M p_i / (1 + (k - 1) p_i), so that
p_i = f_i / (k M - (k - 1) f_i). The softmax of such outputs is not p: with C = 27 classes and M = 1 it gives a perfect
output a confidence of 0.095, with M = 30 it is 1.0 throughout. Whatever turns outputs into probabilities names its
method, one of :data:`METHODS`; in multi-label classification, where every class has a probability of its own, one of
:data:`LABEL_METHODS`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sqloss_plugins.losses import check_rescaling

METHODS = ("softmax", "square", "temperature")
"""``softmax``: of the outputs f as they are; ``square``: p = f / (k M - (k - 1) f), for the square loss;
``temperature``: softmax(f / T)."""

LABEL_METHODS = ("square", "sigmoid")
"""The same of a class by itself. ``square``: p = f / (k M - (k - 1) f), for the square loss; ``sigmoid``: for binary
cross-entropy."""

TEMPERATURES: list[float] = torch.logspace(2, -2, 81).tolist()
"""The temperatures that are tried where one is fitted, 20 to a factor of ten."""


def probabilities(
    outputs: Tensor,
    method: str = "square",
    *,
    k: float = 1.0,
    M: float = 1.0,
    temperature: float = 1.0,
    floor: float | None = None,
    dim: int = -1,
) -> Tensor:
    """Class probabilities from raw outputs.

    ``square`` is exact where the outputs minimise the expected square loss. Outputs are clamped to [0, M] (beyond
    k M / (k - 1) the denominator changes its sign), probabilities to at least ``floor``, then normalised.

    Args:
        outputs: raw outputs f, floating point, classes along ``dim``.
        method: one of :data:`METHODS`.
        k, M: the rescaling that the loss had; for ``square``.
        temperature: T; for ``temperature``.
        floor: for ``square``: what a class gets at least, before normalisation. The default is 0.01 / C, so that all
            classes together get at most a hundredth by it. The floor decides what an error costs, and with it the
            likelihood: on held-out speech (recipes/an4/RESULTS.md) that is best from 0.001 / C to 0.01 / C, and much
            worse from 0.1 / C on.
        dim: the dimension of the classes.

    Returns:
        Probabilities of the outputs' shape, in float32 or wider.

    Raises:
        ValueError: an unknown method; k, M, the temperature or the floor is not a positive finite number.
    """
    return log_probabilities(outputs, method, k=k, M=M, temperature=temperature, floor=floor, dim=dim).exp()


def log_probabilities(
    outputs: Tensor,
    method: str = "square",
    *,
    k: float = 1.0,
    M: float = 1.0,
    temperature: float = 1.0,
    floor: float | None = None,
    dim: int = -1,
) -> Tensor:
    """Natural logarithm of :func:`probabilities`, with its arguments; ``log_softmax`` leaves it unchanged."""
    f = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
    if method == "square":
        check_rescaling(k, M)
        if floor is None:
            floor = 0.01 / outputs.shape[dim]
        if not 0.0 < floor <= 1.0:
            raise ValueError(f"floor must be in (0, 1], got {floor}")
        p = _inverse_link(f, k, M).clamp(min=floor)
        return p.log() - p.sum(dim, keepdim=True).log()
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}: choose from {', '.join(METHODS)}")
    if not (0.0 < temperature < math.inf):
        raise ValueError(f"the temperature must be a positive finite number, got {temperature}")
    return torch.log_softmax(f / temperature if method == "temperature" else f, dim)


def label_probabilities(outputs: Tensor, method: str = "square", *, k: float = 1.0, M: float = 1.0) -> Tensor:
    """For each class the probability that it is true, of the raw outputs of multi-label classification.

    ``square`` is exact where the outputs minimise the expected :func:`sqloss_plugins.losses.multilabel_square_loss`.
    Outputs are clamped to [0, M], and with them probabilities to [0, 1]; they are not normalised. A class counts as
    true from 1/2 on: from the output k M / (k + 1), or 0 for ``sigmoid``.

    Args:
        outputs: raw outputs f, floating point, of any shape.
        method: one of :data:`LABEL_METHODS`.
        k, M: the rescaling that the loss had; for ``square``.

    Returns:
        Probabilities of the outputs' shape, in float32 or wider.

    Raises:
        ValueError: an unknown method; k or M is not a positive finite number.
    """
    if method not in LABEL_METHODS:
        raise ValueError(f"unknown method {method!r}: choose from {', '.join(LABEL_METHODS)}")
    f = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
    if method == "sigmoid":
        return f.sigmoid()
    check_rescaling(k, M)
    return _inverse_link(f, k, M)


def _inverse_link(f: Tensor, k: float, M: float) -> Tensor:
    """p = f / (k M - (k - 1) f), in [0, 1]; outside of [0, M] the outputs mean no more than at its ends."""
    f = f.clamp(0.0, M)
    return f / (f + k * (M - f))  # the same, and by no rounding more than 1
