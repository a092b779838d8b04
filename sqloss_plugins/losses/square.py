"""The square loss of Hui & Belkin (ICLR 2021), with rescaling k and M.

For outputs f in R^C, used as they are (no softmax), and true class c (their Section 5):

    l(f, c) = (1/C) * [ k (f_c - M)^2 + sum_{i != c} f_i^2 ]

k multiplies the true class's term, M is the true class's target; k = M = 1 is the plain square loss. Soft targets q,
from label smoothing or given as probabilities, take the expectation of the hard loss, as they do in cross-entropy:

    l(f, q) = (1/C) * sum_i [ q_i k (f_i - M)^2 + (1 - q_i) f_i^2 ]

and with class weights w, u = q * w takes the place of q and sum(u) - u_i that of 1 - q_i.

The prior-weighted form, for many classes of very unequal frequency, divides the squares of class i by v_i, usually C
times the class's frequency (:func:`sqloss_plugins.losses.prior_weights`), so that an error counts relative to that:

    l(f, c) = (1/C) * [ k (f_c^2 - 2 M f_c) / v_c + k M^2 + sum_{i != c} f_i^2 / v_i ]

It has the minimiser of the loss above, and with v = 1 it is that loss. (Squares of f_c - M over v_c would differ by a
constant of the target alone, which is left out: it is large where v_c is small. So the value may be negative.)
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sqloss_plugins.losses._module import ClassificationLoss
from sqloss_plugins.losses._reduction import put_true_class, reduce_rows, take_true_class
from sqloss_plugins.losses._targets import (
    IndexTargets,
    are_probabilities,
    check_options,
    class_dim,
    compute_dtype,
    index_targets,
    probability_targets,
    result_dtype,
)
from sqloss_plugins.losses._tracing import is_small


def square_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    k: float = 1.0,
    M: float = 1.0,
    prior_weight: Tensor | None = None,
) -> Tensor:
    """The (rescaled) square loss between raw outputs and class targets.

    A drop-in for :func:`torch.nn.functional.cross_entropy`: every option of the same name means the same.
    Computed in float32 when the input is narrower.

    Args:
        input: outputs f, floating point, of shape (C), (N, C) or (N, C, d1, ..., dK). No softmax.
        target: class indices, int64, of shape (), (N) or (N, d1, ..., dK), each in [0, C) or ``ignore_index``;
            or class probabilities, floating point, of the input's shape.
        weight: a weight for each class, of shape (C).
        ignore_index: a class-index target that counts for nothing.
        reduction: ``"none"``; ``"sum"``; or ``"mean"``, over the targets that are not ignored, weighted by the
            weight of their class. With nothing left, the mean is nan and the sum 0, both with gradient zero.
        label_smoothing: in [0, 1]; targets become (1 - eps) * target + eps / C.
        k: the weight of the true class's term, > 0.
        M: the target of the true class, > 0.
        prior_weight: v of the prior-weighted form, > 0, of shape (C).

    Returns:
        A scalar, or for ``"none"`` a tensor of the shape that class-index targets have. Of the input's dtype;
        float32 under autocast.

    Raises:
        ValueError: k or M is not a positive finite number; unknown reduction; a prior weight of another shape.
        IndexError, RuntimeError: as :func:`torch.nn.functional.cross_entropy`.

    Source: Hui & Belkin (2021), Section 5; rescaling of the paper's tasks in their Table 9.

    Examples:
        >>> import torch
        >>> from sqloss_plugins import square_loss
        >>> outputs = torch.tensor([[0.5, 0.0, 1.0]])
        >>> square_loss(outputs, torch.tensor([2]))  # (0.5^2 + 0^2 + (1 - 1)^2) / 3
        tensor(0.0833)
        >>> square_loss(outputs, torch.tensor([2]), k=15, M=30)  # (0.5^2 + 0^2 + 15 (1 - 30)^2) / 3
        tensor(4205.0835)
    """
    check_rescaling(k, M)
    if weight is None and prior_weight is None and label_smoothing == 0.0:
        loss = _small_square_loss(input, target, ignore_index, reduction, k, M)
        if loss is not None:
            return loss
    return quadratic_loss(
        input, target, weight, ignore_index, reduction, label_smoothing, float(k), float(M), prior_weight
    )


def check_rescaling(k: float, M: float) -> None:
    """Raises ValueError unless k and M are positive finite numbers."""
    for name, value in (("k", k), ("M", M)):
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be a positive finite number, got {value}")


class SquareLoss(ClassificationLoss):
    """:func:`square_loss` as a module, made and used like :class:`torch.nn.CrossEntropyLoss`.

    Args:
        weight, ignore_index, reduction, label_smoothing, k, M, prior_weight: as in :func:`square_loss`.

    Raises:
        ValueError: k or M is not a positive finite number; unknown reduction.
        RuntimeError: label smoothing outside [0, 1].

    Examples:
        >>> import torch
        >>> from sqloss_plugins import SquareLoss
        >>> loss = SquareLoss(k=15, M=30, label_smoothing=0.1)
        >>> loss
        SquareLoss(k=15, M=30)
        >>> loss(torch.zeros(8, 5), torch.zeros(8, dtype=torch.long)).shape
        torch.Size([])
    """

    prior_weight: Tensor | None

    def __init__(
        self,
        weight: Tensor | None = None,
        *,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        k: float = 1.0,
        M: float = 1.0,
        prior_weight: Tensor | None = None,
    ) -> None:
        super().__init__(weight, ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing)
        check_rescaling(k, M)
        self.register_buffer("prior_weight", prior_weight)
        self.k = k
        self.M = M

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss; shapes as in :func:`square_loss`."""
        return square_loss(input, target, **self.options(), k=self.k, M=self.M, prior_weight=self.prior_weight)

    def extra_repr(self) -> str:
        """k and M, shown by print(module)."""
        return f"k={self.k:g}, M={self.M:g}"


def _small_square_loss(
    input: Tensor, target: Tensor, ignore_index: int, reduction: str, k: float, M: float
) -> Tensor | None:
    """The square loss of a small input, in as few operations as possible; None where it does not apply."""
    if not is_small(input, target, ignore_index, reduction):
        return None
    true_class = target.unsqueeze(1)
    try:
        minus_M = torch.full((1, 1), -M, dtype=input.dtype, device="cpu").expand(len(input), 1)
        residual = input.scatter_add(1, true_class, minus_M)
        if k != 1.0:
            residual = residual * torch.ones_like(residual).scatter_(1, true_class, math.sqrt(k))
    except RuntimeError:  # a target ignored or out of range, k or M beyond the dtype: the general way knows
        return None
    loss = F.mse_loss(residual, torch.zeros_like(residual), reduction=reduction)
    return loss if reduction == "mean" else loss / input.shape[1]


def quadratic_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
    k: float,
    M: float,
    prior_weight: Tensor | None = None,
) -> Tensor:
    """The square loss for any k >= 0: k = 0 leaves the outputs of the wrong classes, which is squentropy's term."""
    check_options(reduction, label_smoothing)
    if prior_weight is not None:
        prior_weight = _along_classes(prior_weight, input)
    loss = _Quadratic(k, M, prior_weight)
    if not are_probabilities(input, target):
        targets = index_targets(input, target, weight, ignore_index, label_smoothing)
        return reduce_rows(loss, input, targets, reduction)

    u = probability_targets(input, target, weight, ignore_index, label_smoothing)
    dim = class_dim(input)
    f = input.to(compute_dtype(input))
    g = loss.weighted(f)
    terms = u * loss.true_term(f, g) + (u.sum(dim, keepdim=True) - u) * loss.wrong_term(f, g)
    rows = terms.sum(dim) / input.shape[dim]
    if reduction == "mean":  # cross-entropy divides by the number of rows here, whatever the weights
        rows = rows.mean()
    elif reduction == "sum":
        rows = rows.sum()
    return rows.to(result_dtype(input))


def _along_classes(prior_weight: Tensor, input: Tensor) -> Tensor:
    """The prior weight, so that it broadcasts against the outputs."""
    dim = class_dim(input)
    if prior_weight.shape != input.shape[dim : dim + 1]:
        raise ValueError(
            f"prior_weight has a weight for each of the {input.shape[dim]} classes, got {tuple(prior_weight.shape)}"
        )
    per_class = [1] * input.dim()
    per_class[dim] = -1
    return prior_weight.to(compute_dtype(input)).view(per_class)


class _Quadratic(NamedTuple):
    """The square loss of one row; nothing of size N x C but the terms themselves."""

    k: float
    M: float
    prior_weight: Tensor | None  # broadcasts against the outputs

    def weighted(self, f: Tensor) -> Tensor:
        """f / v, half the derivative of f^2 / v."""
        return f if self.prior_weight is None else f / self.prior_weight

    def wrong_term(self, f: Tensor, g: Tensor) -> Tensor:
        """What an output adds where its class is wrong; g is ``weighted(f)``."""
        return f.square() if self.prior_weight is None else f * g

    def true_term(self, f: Tensor, g: Tensor) -> Tensor:
        """What it adds where its class is the true one."""
        if self.prior_weight is None:
            return (f - self.M).square() * self.k
        return (g * (f - 2.0 * self.M) + self.M**2) * self.k

    def value(self, f: Tensor, t: IndexTargets) -> Tensor:
        dim = class_dim(f)
        g = self.weighted(f)
        f_true = take_true_class(f, t)
        g_true = f_true if g is f else take_true_class(g, t)
        terms, true_term = self.wrong_term(f, g), self.true_term(f_true, g_true)
        if not (isinstance(t.off, float) and t.off == 0.0):
            terms = t.off * self.true_term(f, g) + (t.total - t.off) * terms
            true_term = t.on * true_term + (t.total - t.on) * self.wrong_term(f_true, g_true)
        # The true class's term is put in its place rather than corrected for afterwards: near f_c = M the
        # difference of the two sums would be rounding error.
        return put_true_class(terms, t, true_term).sum(dim) / f.shape[dim]

    def gradient(self, f: Tensor, t: IndexTargets, scale: Tensor) -> Tensor:
        k, M = self.k, self.M
        scale = scale * (2.0 / f.shape[class_dim(f)])
        f_true = take_true_class(f, t)
        if isinstance(t.off, float) and t.off == 0.0:
            terms = f * scale
            true_term = (f_true - M) * (scale * k)
        else:
            terms = ((t.off * k) * (f - M) + (t.total - t.off) * f) * scale
            true_term = ((t.on * k) * (f_true - M) + (t.total - t.on) * f_true) * scale
        return self.weighted(put_true_class(terms, t, true_term))
