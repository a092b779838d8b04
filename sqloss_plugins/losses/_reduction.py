"""Reduces the losses of the rows to the loss, in eager mode as one node of the graph that keeps only its input."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from sqloss_plugins.losses._targets import IndexTargets, class_dim, compute_dtype, result_dtype
from sqloss_plugins.losses._tracing import needs_plain_operations


class RowLoss(Protocol):
    """A loss of one row against its class-index target. Both methods are differentiable by autograd."""

    def value(self, f: Tensor, t: IndexTargets) -> Tensor:
        """The loss of each row of the outputs ``f``, of the targets' shape."""

    def gradient(self, f: Tensor, t: IndexTargets, scale: Tensor) -> Tensor:
        """``scale`` (which has a class dimension of size 1) times the gradient of ``value``, of the shape of ``f``."""


def take_true_class(rows: Tensor, t: IndexTargets) -> Tensor:
    """What ``rows``, of the input's shape, has at the true classes, with a class dimension of size 1."""
    # Of a DTensor whose classes are divided among ranks, gather gives a pending sum that can be read only once.
    # Subtracting 0 makes it an ordinary tensor, and changes no value.
    return rows.gather(class_dim(rows), t.true_class) - 0.0


def put_true_class(rows: Tensor, t: IndexTargets, value: float | Tensor) -> Tensor:
    """``rows``, of the input's shape, with ``value`` at the true classes; in place where that is possible."""
    dim = class_dim(rows)
    if needs_plain_operations(rows):
        return rows.scatter(dim, t.true_class, value)  # type: ignore[arg-type]
    return rows.scatter_(dim, t.true_class, value)  # type: ignore[arg-type]


def reduce_rows(loss: RowLoss, input: Tensor, targets: IndexTargets, reduction: str) -> Tensor:
    """Reduces ``loss`` as cross-entropy reduces: ``none``, ``sum``, or ``mean`` over the weights that count."""
    dtype = result_dtype(input)
    if needs_plain_operations(input, targets.true_class, targets.rows):
        value = loss.value(input.to(compute_dtype(input)), targets)
        return reduce_values(value, targets, reduction).to(dtype)
    reduced: Tensor = _Reduced.apply(input, loss, targets, reduction)  # type: ignore[no-untyped-call]
    return reduced.to(dtype)


def reduce_values(value: Tensor, targets: IndexTargets, reduction: str) -> Tensor:
    """The losses of the rows, of the targets' shape, weighted and reduced as cross-entropy does."""
    # Not a product alone: an ignored row may hold inf or nan (padding), and 0 times that is nan. Its gradient is nan
    # even so, as cross-entropy's is.
    value = torch.where(targets.rows == 0, 0.0, value * targets.rows)
    if reduction == "none":
        return value
    total = value.sum()
    return total / targets.normaliser if reduction == "mean" else total


class _Reduced(torch.autograd.Function):
    """Keeps nothing but the input for the backward pass, where cross-entropy keeps the log-probabilities."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, loss: RowLoss, targets: IndexTargets, reduction: str) -> Tensor:
        ctx.save_for_backward(input)
        ctx.loss, ctx.targets, ctx.reduction = loss, targets, reduction
        return reduce_values(loss.value(input.to(compute_dtype(input)), targets), targets, reduction)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None]:
        (input,) = ctx.saved_tensors
        targets = ctx.targets
        (scale,) = grad_outputs
        if ctx.reduction == "mean":
            scale = scale / targets.normaliser
        # Nothing left after ignore_index: the mean is nan (0 / 0), its gradient zero, as in cross-entropy.
        scale = torch.where(targets.rows == 0, 0.0, scale * targets.rows).unsqueeze(class_dim(input))
        gradient = ctx.loss.gradient(input.to(compute_dtype(input)), targets, scale)
        return gradient.to(input.dtype), None, None, None
