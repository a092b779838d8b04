"""From outputs to class probabilities.

A classifier trained with the square loss puts out, at the optimum, f_i = k M p_i / (1 + (k - 1) p_i), so that
p_i = f_i / (k M - (k - 1) f_i). The softmax of such outputs is not p: with C = 27 classes and M = 1 it gives a perfect
output a confidence of 0.095, with M = 30 it is 1.0 throughout. Whatever turns outputs into probabilities names its
method, one of :data:`METHODS`; in multi-label classification, where every class has a probability of its own, one of
:data:`LABEL_METHODS`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sqloss_plugins.losses import check_rescaling

if TYPE_CHECKING:
    import numpy as np

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
        temperature: T; for ``temperature``, and for ``square``, whose probabilities become p^(1 / T), normalised. With
            T = 1, the default, they are what the outputs stand for.
        floor: for ``square``: what a class gets at least, before normalisation. The default is 0.01 / C, so that all
            classes together get at most a hundredth by it. The floor decides what an error costs, and with it the
            likelihood: on held-out speech (recipes/an4/RESULTS.md) that is best from 0.001 / C to 0.01 / C, and much
            worse from 0.1 / C on.
        dim: the dimension of the classes.

    Returns:
        Probabilities of the outputs' shape, in float32 or wider.

    Raises:
        ValueError: an unknown method; k, M or the temperature is not a positive finite number; a floor that is not in
            (0, 1].

    Examples:
        >>> import torch
        >>> from sqloss_plugins.probability import probabilities
        >>> probabilities(torch.tensor([0.7, 0.3, 0.0]), "square")
        tensor([0.6977, 0.2990, 0.0033])
        >>> outputs = torch.tensor([28.0, 10.0, 0.0])  # of a model trained with k = 15, M = 30
        >>> probabilities(outputs, "square", k=15, M=30)
        tensor([0.9313, 0.0622, 0.0064])
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
    """Natural logarithm of :func:`probabilities`, with its arguments; ``log_softmax`` leaves it unchanged.

    Examples:
        >>> import torch
        >>> from sqloss_plugins.probability import log_probabilities
        >>> log_probabilities(torch.tensor([0.5, 0.5]), "square")  # ln 1/2
        tensor([-0.6931, -0.6931])
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}: choose from {', '.join(METHODS)}")
    if not (0.0 < temperature < math.inf):
        raise ValueError(f"the temperature must be a positive finite number, got {temperature}")
    f = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
    if method == "square":
        check_rescaling(k, M)
        if floor is None:
            floor = 0.01 / outputs.shape[dim]
        if not 0.0 < floor <= 1.0:
            raise ValueError(f"floor must be in (0, 1], got {floor}")
        p = _inverse_link(f, k, M).clamp(min=floor)
        if temperature == 1.0:
            return p.log() - p.sum(dim, keepdim=True).log()
        return torch.log_softmax(p.log() / temperature, dim)
    return torch.log_softmax(f / temperature if method == "temperature" else f, dim)


def fit_temperature(outputs: Tensor, targets: Tensor) -> float:
    """The temperature T with which softmax(f / T) gives held-out targets the greatest likelihood (Guo et al., 2017).

    Args:
        outputs: raw outputs f, floating point, shape (N, C).
        targets: class numbers, int64, shape (N,).

    Returns:
        T, between the least and the greatest of :data:`TEMPERATURES`.

    Raises:
        ValueError: no examples, outputs that are not finite, or targets that do not fit them.

    Examples:
        >>> import torch
        >>> from sqloss_plugins.probability import fit_temperature
        >>> outputs = torch.tensor([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0], [2.0, 0.0]])
        >>> T = fit_temperature(outputs, torch.tensor([0, 0, 0, 1]))
        >>> f"{T:.2f}"  # softmax(2 / T, 0) is then 3/4, 1/4: 2 / ln 3
        '1.82'
    """
    return _fit(outputs, targets, "temperature", {"temperature": (min(TEMPERATURES), 1.0, max(TEMPERATURES))})[0]


def fit_square(outputs: Tensor, targets: Tensor, *, k: float = 1.0, M: float = 1.0) -> tuple[float, float]:
    """The floor and the temperature with which ``square`` gives held-out targets the greatest likelihood.

    Args:
        outputs: raw outputs f, floating point, shape (N, C).
        targets: class numbers, int64, shape (N,).
        k, M: the rescaling that the loss had.

    Returns:
        The floor, between 1e-6 / C and 1 / C, and the temperature.

    Raises:
        ValueError: no examples, outputs that are not finite, targets that do not fit them, or k or M is not a positive
            finite number.

    Examples:
        >>> import torch
        >>> from sqloss_plugins.probability import fit_square, probabilities
        >>> outputs = torch.tensor([[0.9, 0.1]]).repeat(4, 1)
        >>> targets = torch.tensor([0, 0, 0, 1])  # right in three of four
        >>> floor, T = fit_square(outputs, targets)
        >>> probabilities(outputs[0], "square", floor=floor, temperature=T)
        tensor([0.7500, 0.2500])
    """
    check_rescaling(k, M)
    floors = tuple(share / outputs.shape[1] for share in (1e-6, 0.01, 1.0))
    bounds = {"floor": floors, "temperature": (min(TEMPERATURES), 1.0, max(TEMPERATURES))}
    floor, temperature = _fit(outputs, targets, "square", bounds, k=k, M=M)
    return floor, temperature


def _fit(
    outputs: Tensor, targets: Tensor, method: str, bounds: dict[str, tuple[float, ...]], **rescaling: float
) -> list[float]:
    """The arguments of :func:`log_probabilities` with the least negative log-likelihood.

    ``bounds`` has for each its least value, the value to begin at, and its greatest.
    """
    import numpy as np
    from scipy.optimize import minimize

    if not len(outputs) or not bool(outputs.isfinite().all()):
        raise ValueError("probabilities are fitted to outputs on held-out examples, which must be there and finite")
    if targets.shape != outputs.shape[:1] or bool(((targets < 0) | (targets >= outputs.shape[1])).any()):
        raise ValueError("probabilities are fitted to a target for each row of outputs, from 0 to C - 1")
    outputs = outputs.double()

    def nll(logarithms: np.ndarray) -> float:
        options: dict[str, Any] = {**rescaling, **dict(zip(bounds, np.exp(logarithms).tolist(), strict=True))}
        logs = log_probabilities(outputs, method, **options)
        return -float(logs.gather(1, targets[:, None]).mean())

    low, start, high = np.log(list(bounds.values())).T
    simplex = np.vstack([start, start + np.eye(len(start))])  # SciPy's own has no width where the start is 0
    options = {"xatol": 1e-4, "fatol": 1e-9, "initial_simplex": simplex}
    found = minimize(nll, start, method="Nelder-Mead", bounds=list(zip(low, high, strict=True)), options=options)
    fitted: list[float] = np.exp(found.x).tolist()
    return fitted


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

    Examples:
        >>> import torch
        >>> from sqloss_plugins.probability import label_probabilities
        >>> label_probabilities(torch.tensor([1.2, 0.5, -0.1]))
        tensor([1.0000, 0.5000, 0.0000])
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
