"""From outputs to class probabilities.

A classifier trained with the square loss puts out, at the optimum, f_i = k M p_i / (1 + (k - 1) p_i), so that
p_i = f_i / (k M - (k - 1) f_i): the *link*. The softmax of such outputs is not p: with C = 27 classes and M = 1 it
gives a perfect output a confidence of 0.095, with M = 30 it is 1.0 throughout. Whatever turns outputs into scores names
the one that it takes, out of :data:`SCORES`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sqloss_plugins.losses import check_rescaling

SCORES = ("softmax", "link", "scale")
"""``softmax``: of the outputs as they are; ``link``: probabilities by the link; ``scale``: softmax(s f)."""

SCALES: list[float] = torch.logspace(-2, 2, 81).tolist()
"""The scales that are tried where one is fitted, 20 to a factor of ten."""


def link_probabilities(
    outputs: Tensor, *, k: float = 1.0, M: float = 1.0, dim: int = -1, floor: float | None = None
) -> Tensor:
    """Class probabilities from outputs that were trained with the square loss.

    Exact where the outputs minimise the expected loss. Outputs are clamped to [0, M] (beyond k M / (k - 1) the link's
    denominator changes its sign), probabilities to at least ``floor``, then normalised.

    Args:
        outputs: raw outputs, floating point, classes along ``dim``.
        k, M: the rescaling that the loss had.
        dim: the dimension of the classes.
        floor: what a class gets at least, before normalisation; by default 0.01 / C, so that all classes together get
            at most a hundredth by it. It decides what an error costs, and with it the likelihood: on held-out speech
            (recipes/an4/RESULTS.md) that is best from 0.001 / C to 0.01 / C, and much worse from 0.1 / C on.

    Returns:
        Probabilities of the outputs' shape, in float32 or wider.

    Raises:
        ValueError: k, M or the floor is not a positive finite number.
    """
    return link_log_probabilities(outputs, k=k, M=M, dim=dim, floor=floor).exp()


def link_log_probabilities(
    outputs: Tensor, *, k: float = 1.0, M: float = 1.0, dim: int = -1, floor: float | None = None
) -> Tensor:
    """Natural logarithm of :func:`link_probabilities`, with its arguments; ``log_softmax`` leaves it unchanged."""
    check_rescaling(k, M)
    if floor is None:
        floor = 0.01 / outputs.shape[dim]
    if not 0.0 < floor <= 1.0:
        raise ValueError(f"floor must be in (0, 1], got {floor}")
    f = outputs.to(torch.promote_types(outputs.dtype, torch.float32)).clamp(0.0, M)
    p = (f / (k * M - (k - 1.0) * f)).clamp(min=floor)
    return p.log() - p.sum(dim, keepdim=True).log()


def log_probabilities(
    outputs: Tensor, score: str, *, k: float = 1.0, M: float = 1.0, scale: float = 1.0, dim: int = -1
) -> Tensor:
    """Normalised log-probabilities by the named score.

    Args:
        outputs: raw outputs, floating point, classes along ``dim``.
        score: one of :data:`SCORES`.
        k, M: for ``link``.
        scale: s, for ``scale``.
        dim: the dimension of the classes.

    Raises:
        ValueError: an unknown score, or a scale that is not a positive finite number.
    """
    if score == "link":
        return link_log_probabilities(outputs, k=k, M=M, dim=dim)
    if score not in SCORES:
        raise ValueError(f"unknown score {score!r}: choose from {', '.join(SCORES)}")
    if not (0.0 < scale < math.inf):
        raise ValueError(f"scale must be a positive finite number, got {scale}")
    return torch.log_softmax(outputs * scale if score == "scale" else outputs, dim)
