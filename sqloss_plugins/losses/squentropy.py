"""Squentropy (Hui, Belkin & Wright, ICML 2023): cross-entropy plus the square of the wrong classes' outputs.

    l(f, c) = CE(f, c) + 1/(C-1) * sum_{i != c} f_i^2

Soft targets and class weights take the expectation of the hard loss, as in the square loss. With one class there is
no wrong one, and the second term is 0.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sqloss_plugins.losses._module import ClassificationLoss
from sqloss_plugins.losses._reduction import put_true_class, reduce_rows, take_true_class
from sqloss_plugins.losses._targets import (
    IndexTargets,
    are_probabilities,
    check_input,
    check_options,
    class_dim,
    compute_dtype,
    index_targets,
    result_dtype,
)
from sqloss_plugins.losses._tracing import is_small, needs_plain_operations
from sqloss_plugins.losses.square import quadratic_loss

_SHORT = 1 << 12
"""The dot product of so many numbers is as precise as ``Tensor.sum``; that of more is not."""


def squentropy_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Squentropy between raw outputs and class targets; it has no k and M.

    A drop-in for :func:`torch.nn.functional.cross_entropy`: every option of the same name means the same. Shapes,
    dtypes, result and errors as in :func:`sqloss_plugins.losses.square_loss`.

    Source: Hui, Belkin & Wright (2023), equation 1.

    Examples:
        >>> import torch
        >>> from sqloss_plugins import squentropy_loss
        >>> outputs = torch.tensor([[0.0, 3.0, 0.0]])
        >>> cross_entropy = torch.nn.functional.cross_entropy(outputs, torch.tensor([0]))
        >>> squentropy_loss(outputs, torch.tensor([0])) - cross_entropy  # (3^2 + 0^2) / (3 - 1)
        tensor(4.5000)
    """
    if weight is None and label_smoothing == 0.0:
        loss = _small_squentropy(input, target, ignore_index, reduction)
        if loss is not None:
            return loss
    check_options(reduction, label_smoothing)
    if label_smoothing == 0.0 and not are_probabilities(input, target):
        targets = index_targets(input, target, weight, ignore_index, label_smoothing)
        return reduce_rows(_Squentropy(), input, targets, reduction)

    check_input(input)
    dtype = compute_dtype(input)
    f = input.to(dtype)
    weight = None if weight is None else weight.to(dtype)
    target = target.to(dtype) if target.is_floating_point() else target
    squares = quadratic_loss(f, target, weight, ignore_index, reduction, label_smoothing, k=0.0, M=0.0)
    entropy = F.cross_entropy(
        f, target, weight, ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing
    )
    num_classes = input.shape[class_dim(input)]
    return (entropy + squares * (num_classes / max(num_classes - 1, 1))).to(result_dtype(input))


def _small_squentropy(input: Tensor, target: Tensor, ignore_index: int, reduction: str) -> Tensor | None:
    """Squentropy of a small input, in as few operations as possible; None where it does not apply."""
    if not is_small(input, target, ignore_index, reduction) or input.size(1) < 2:
        return None
    try:
        loss: Tensor = _Small.apply(input, target, reduction)  # type: ignore[no-untyped-call]
    except (IndexError, RuntimeError):  # a target ignored or out of range, or forward mode: the general way knows
        return None
    return loss


class _Small(torch.autograd.Function):
    """Squentropy of a small input as one node of the graph, whose gradient is computed with the loss."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, target: Tensor, reduction: str) -> Tensor:
        true_class = target.unsqueeze(1)
        wrong = input.scatter(1, true_class, 0.0)
        log_probs = torch.log_softmax(input, 1)
        entropy = F.nll_loss(log_probs, target, reduction=reduction)
        rows, share = input.size(0) if reduction == "mean" else 1, 1.0 / (input.size(1) - 1)
        flat = wrong.view(-1)
        squares = flat.dot(flat) if len(flat) <= _SHORT else flat.square().sum()
        if ctx.needs_input_grad[0]:
            slope = log_probs.exp_().add_(wrong, alpha=2.0 * share).scatter_(1, true_class, -1.0, reduce="add")
            ctx.save_for_backward(input, true_class, slope.div_(rows))
            ctx.rows, ctx.share = rows, share
        return torch.add(entropy, squares, alpha=share / rows)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        input, true_class, slope = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative needs the input itself
            wrong, ones = input.scatter(1, true_class, 0.0), torch.ones_like(input[:, :1])
            slope = torch.softmax(input, 1) + 2.0 * ctx.share * wrong
            slope = slope.scatter_add(1, true_class, -ones) / ctx.rows
        return slope * grad_outputs[0], None, None


class SquentropyLoss(ClassificationLoss):
    """:func:`squentropy_loss` as a module, made and used like :class:`torch.nn.CrossEntropyLoss`.

    Args:
        weight, ignore_index, reduction, label_smoothing: as in :func:`squentropy_loss`.

    Raises:
        ValueError: unknown reduction.
        RuntimeError: label smoothing outside [0, 1].

    Examples:
        >>> import torch
        >>> from sqloss_plugins import SquentropyLoss
        >>> SquentropyLoss(reduction="none")(torch.zeros(2, 5), torch.tensor([0, 4]))  # ln 5
        tensor([1.6094, 1.6094])
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss; shapes as in :func:`squentropy_loss`."""
        return squentropy_loss(input, target, **self.options())


class _Squentropy:
    """Squentropy of one row, with no label smoothing."""

    @staticmethod
    def value(f: Tensor, t: IndexTargets) -> Tensor:
        dim = class_dim(f)
        log_probs = torch.log_softmax(f, dim)
        entropy = take_true_class(log_probs, t).squeeze(dim).neg()
        # The log-probabilities have been read: where no graph needs them, their memory takes the squares.
        keep = torch.is_grad_enabled() or needs_plain_operations(f)
        squares = f.square() if keep else torch.square(f, out=log_probs)
        return entropy + put_true_class(squares, t, 0.0).sum(dim) / max(f.shape[dim] - 1, 1)

    @staticmethod
    def gradient(f: Tensor, t: IndexTargets, scale: Tensor) -> Tensor:
        dim = class_dim(f)
        probs = torch.softmax(f, dim)
        true_grad = take_true_class(probs, t) - 1.0
        factor = 2.0 / max(f.shape[dim] - 1, 1)
        # A second derivative needs the probabilities, and a batch of scales does not fit into them.
        if torch.is_grad_enabled() or needs_plain_operations(f, scale):
            return put_true_class(torch.add(probs, f, alpha=factor), t, true_grad) * scale
        return put_true_class(probs.add_(f, alpha=factor), t, true_grad).mul_(scale)
