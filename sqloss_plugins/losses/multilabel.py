"""Losses of multi-label classification, where any number of the classes is true at once.

For outputs f in R^C, used as they are, and targets q in [0, 1]^C, one for each class:

    l(f, q) = (1/C) * sum_i [ q_i k (f_i - M)^2 + (1 - q_i) f_i^2 ]

Each class is a regression of its own on q_i. Where class i is true with probability p_i, whatever the others are, the
minimiser of the expected loss is f_i = k M p_i / (1 + (k - 1) p_i), which gives p_i back as f_i / (k M - (k - 1) f_i):
:func:`sqloss_plugins.probability.label_probabilities`. A class counts as true from p_i = 1/2 on, which is the output
k M / (k + 1).

This is the soft-target form of the square loss of Hui & Belkin (ICLR 2021) with 1 - q_i in the place of
sum(q) - q_i. The two are equal where the targets of a row sum to one.

Cross-entropy's counterpart is binary cross-entropy, the mean over the classes of a row.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from sqloss_plugins.losses._targets import check_input, check_options, compute_dtype, result_dtype
from sqloss_plugins.losses.square import check_rescaling


def multilabel_square_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    reduction: str = "mean",
    k: float = 1.0,
    M: float = 1.0,
) -> Tensor:
    """The (rescaled) square loss between raw outputs and multi-label targets.

    Computed in float32 when the input is narrower.

    Args:
        input: outputs f, floating point, of shape (N, C) or (C). No sigmoid.
        target: for each class 1 where it is true, 0 where it is not, or its probability; floating point, of the
            input's shape. That the values are in [0, 1] is not checked.
        weight: a weight for each class's term, of shape (C).
        reduction: ``"none"``; ``"sum"``, over the rows; or ``"mean"``, over the rows, whatever the weights. A row's
            loss is always divided by C.
        k: the weight of a true class's term, > 0.
        M: the target of a true class, > 0.

    Returns:
        A scalar, or for ``"none"`` a tensor of shape (N) or (). Of the input's dtype; float32 under autocast.

    Raises:
        ValueError: k or M is not a positive finite number; unknown reduction; target and input differ in shape, or
            have another one than those above.
        RuntimeError: a target that is not floating point; a weight that does not fit the number of classes.
        NotImplementedError: input that is not floating point.

    Source: Hui & Belkin (2021), Section 5, with 1 - q_i for the classes that are not true.

    Examples:
        >>> import torch
        >>> from sqloss_plugins import multilabel_square_loss
        >>> outputs = torch.tensor([[1.0, 0.5, 0.0]])
        >>> multilabel_square_loss(outputs, torch.tensor([[1.0, 1.0, 0.0]]))  # (0^2 + 0.5^2 + 0^2) / 3
        tensor(0.0833)
    """
    check_rescaling(k, M)
    f, q = _checked(input, target, weight, reduction)
    return _reduced(q * k * (f - M).square() + (1.0 - q) * f.square(), weight, reduction).to(result_dtype(input))


class _MultiLabelLoss(nn.Module):
    """Holds the options that both losses have."""

    weight: Tensor | None

    def __init__(self, weight: Tensor | None = None, *, reduction: str = "mean") -> None:
        super().__init__()
        check_options(reduction, 0.0)
        self.register_buffer("weight", weight)
        self.reduction = reduction


class MultiLabelSquareLoss(_MultiLabelLoss):
    """:func:`multilabel_square_loss` as a module.

    Args:
        weight, reduction, k, M: as in :func:`multilabel_square_loss`.

    Raises:
        ValueError: k or M is not a positive finite number; unknown reduction.

    Examples:
        >>> import torch
        >>> from sqloss_plugins import MultiLabelSquareLoss
        >>> MultiLabelSquareLoss(k=2.0)(torch.zeros(1, 4), torch.tensor([[1.0, 0.0, 0.0, 1.0]]))  # 2 (1 + 1) / 4
        tensor(1.)
    """

    def __init__(
        self, weight: Tensor | None = None, *, reduction: str = "mean", k: float = 1.0, M: float = 1.0
    ) -> None:
        super().__init__(weight, reduction=reduction)
        check_rescaling(k, M)
        self.k = k
        self.M = M

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss; shapes as in :func:`multilabel_square_loss`."""
        return multilabel_square_loss(input, target, self.weight, reduction=self.reduction, k=self.k, M=self.M)

    def extra_repr(self) -> str:
        """k and M, shown by print(module)."""
        return f"k={self.k:g}, M={self.M:g}"


class MultiLabelCrossEntropy(_MultiLabelLoss):
    """Binary cross-entropy between raw outputs and multi-label targets, the mean over the classes of a row.

    :func:`torch.nn.functional.binary_cross_entropy_with_logits`, with the shapes, reductions and errors of
    :func:`multilabel_square_loss`: ``"none"`` and ``"sum"`` are of rows, not of single values.

    Args:
        weight, reduction: as in :func:`multilabel_square_loss`.

    Raises:
        ValueError: unknown reduction.

    Examples:
        >>> import torch
        >>> from sqloss_plugins import MultiLabelCrossEntropy
        >>> MultiLabelCrossEntropy()(torch.zeros(1, 4), torch.tensor([[1.0, 0.0, 0.0, 1.0]]))  # ln 2
        tensor(0.6931)
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss; shapes as in :func:`multilabel_square_loss`."""
        f, q = _checked(input, target, self.weight, self.reduction)
        terms = F.binary_cross_entropy_with_logits(f, q, reduction="none")
        return _reduced(terms, self.weight, self.reduction).to(result_dtype(input))


def _checked(input: Tensor, target: Tensor, weight: Tensor | None, reduction: str) -> tuple[Tensor, Tensor]:
    """Input and target in the dtype of the computation, if everything fits together."""
    check_options(reduction, 0.0)
    check_input(input)
    if input.dim() not in (1, 2) or target.shape != input.shape:
        raise ValueError(
            f"the outputs are of shape {tuple(input.shape)} and the targets of shape {tuple(target.shape)}: in "
            "multi-label classification both are of shape (N, C) or (C)"
        )
    if not target.is_floating_point():
        raise RuntimeError(f"multi-label targets are floating point, 0.0 or 1.0 for each class, got {target.dtype}")
    if weight is not None and weight.shape != input.shape[-1:]:
        raise RuntimeError(
            f"weight has one value for each of the {input.shape[-1]} classes, got shape {tuple(weight.shape)}"
        )
    dtype = compute_dtype(input)
    return input.to(dtype), target.to(dtype)


def _reduced(terms: Tensor, weight: Tensor | None, reduction: str) -> Tensor:
    """The loss from the terms of the classes, of shape (N, C) or (C)."""
    if weight is not None:
        terms = terms * weight.to(terms.dtype)
    rows = terms.mean(-1)
    if reduction == "none":
        return rows
    return rows.sum() if reduction == "sum" else rows.mean()
