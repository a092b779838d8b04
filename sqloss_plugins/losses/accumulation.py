"""The gradients of a linear layer's parameters from the sums over the rows that they are made of.

These sums of micro-batches add up, so that the part of the gradient that costs d^2 C is computed once for all of them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sqloss_plugins.losses import _products
from sqloss_plugins.losses._products import mm_wide, wide


class RowSums(NamedTuple):
    """Sums over the rows h of the input, each times its scale.

    Attributes:
        products: of h h^T, of shape (d, d); None where the weight needs no gradient.
        features: of h, of shape (d).
        rows: of 1, a scalar.
        square, linear: A and B of a wrong class's term A f^2 - 2 B f + const.
        dtype: of the products' operands.
    """

    products: Tensor | None
    features: Tensor
    rows: Tensor
    square: float
    linear: float
    dtype: torch.dtype

    def plus(self, other: RowSums) -> RowSums:
        """The sums over the rows of both.

        Raises:
            ValueError: the two are of different losses.
        """
        if self[3:] != other[3:]:
            raise ValueError("k, M, label_smoothing and autocast must stay the same within an accumulation")
        products = None if self.products is None or other.products is None else self.products + other.products
        return RowSums(products, self.features + other.features, self.rows + other.rows, *self[3:])


def row_sums(H: Tensor, scale: Tensor, square: float, linear: float, dtype: torch.dtype, needs_weight: bool) -> RowSums:
    """The sums over the rows of H, of shape (N, d), with their scales, of shape (N)."""
    products = None
    if needs_weight and not len(H):
        products = scale.new_zeros(H.shape[1], H.shape[1])
    elif needs_weight:
        # Relative to the largest scale: 16 bits would not hold it, and for a mean over equal rows it is exact.
        largest = scale.abs().max().clamp_min(torch.finfo(scale.dtype).tiny)
        products = _products.gram_of(H * (scale / largest).to(H.dtype).unsqueeze(1), H, dtype).mul_(largest)
    return RowSums(products, scale @ wide(H), scale.sum(), square, linear, dtype)


def dense_gradients(W: Tensor, b: Tensor | None, sums: RowSums) -> tuple[Tensor | None, Tensor | None]:
    """What all classes' terms (2/C) (A f_i - B) give the weight, (C, d), and the bias, (C)."""
    dtype = sums.features.dtype
    A, B = sums.square, sums.linear
    W = W.to(sums.dtype)
    bias = None if b is None else b.to(dtype)
    dW = db = None
    if sums.products is not None:
        dW = mm_wide(W, sums.products * A)
        if bias is not None or B:
            rank_one = torch.full((len(W),), -B, dtype=dtype, device=W.device) if bias is None else A * bias - B
            dW.addr_(rank_one, sums.features)
    if bias is not None:
        db = A * (mm_wide(W, sums.features.unsqueeze(1)).squeeze(1) + bias * sums.rows) - B * sums.rows
    return dW, db


def add_true_classes(dW: Tensor | None, db: Tensor | None, true_class: Tensor, slope: Tensor, H: Tensor) -> None:
    """Adds, in place, what the true classes' terms give beyond the dense gradients.

    Args:
        dW, db: gradients of weight (C, d) and bias (C), or None.
        true_class: int64, of shape (N).
        slope: the true class's derivative beyond that of any class, times the row's scale, of shape (N).
        H: the input, of shape (N, d).
    """
    if dW is not None:
        dW.index_add_(0, true_class, slope.unsqueeze(1) * H)
    if db is not None:
        db.index_add_(0, true_class, slope)


class GradientAccumulation:
    """What the micro-batches of one optimiser step share: G, and the part of the gradient that is a product with W.

    Both cost d^2 C and depend on the micro-batches through sums only, so that they are computed once a step. Give the
    same object to every :func:`linear_square_loss` of the step, and call :meth:`finish` after the last backward pass,
    before gradients are clipped or the optimiser steps:

        accumulation = GradientAccumulation(layer.weight, layer.bias)
        for input, target in micro_batches:
            linear_square_loss(input, layer.weight, target, ..., accumulation=accumulation).backward()
        accumulation.finish()
        optimizer.step()

    The gradient is that of a run without it, but for rounding. Until ``finish`` the parameters' ``grad`` lacks this
    layer's share, so that nothing may read it. DistributedDataParallel does: it sends gradients when they come.

    Args:
        linear_weight: W, a leaf that requires a gradient, of shape (C, d).
        linear_bias: b, of shape (C), if the layer has one.
        steps: how many micro-batches make an optimiser step, for the choice of ``impl="auto"``.

    Examples:
        >>> import torch
        >>> from sqloss_plugins import linear_square_loss
        >>> layer, inputs, targets = torch.nn.Linear(4, 3), torch.ones(2, 5, 4), torch.ones(2, 5, dtype=torch.int64)
        >>> accumulation = GradientAccumulation(layer.weight, layer.bias)
        >>> for x, y in zip(inputs, targets):
        ...     linear_square_loss(
        ...         x, layer.weight, y, linear_bias=layer.bias, impl="gram", accumulation=accumulation
        ...     ).backward()
        >>> accumulation.finish()
        >>> layer.weight.grad.shape
        torch.Size([3, 4])
    """

    def __init__(self, linear_weight: Tensor, linear_bias: Tensor | None = None, *, steps: int = 1) -> None:
        self.linear_weight = linear_weight
        self.linear_bias = linear_bias
        self.steps = steps
        self._gram: tuple[int, torch.dtype, Tensor] | None = None
        self._sums: RowSums | None = None
        self._true_classes: tuple[Tensor, Tensor | None] | None = None

    def finish(self) -> None:
        """Ends the step: adds what is pending to the parameters' ``grad``, and forgets G."""
        self._gram = None
        if self._sums is None or self._true_classes is None:
            return
        W, b = self.linear_weight, self.linear_bias
        with torch.no_grad(), torch.autocast(W.device.type, enabled=False):
            dense = dense_gradients(W, b, self._sums)
            for parameter, share, true_classes in zip((W, b), dense, self._true_classes, strict=True):
                if parameter is None or share is None or true_classes is None or not parameter.requires_grad:
                    continue
                gradient = true_classes.add_(share)
                if parameter.grad is None:
                    parameter.grad = gradient.to(parameter.dtype)
                else:
                    parameter.grad += gradient
        self._sums = self._true_classes = None

    def gram(self, W: Tensor, b: Tensor | None, dtype: torch.dtype) -> Tensor:
        """G of the layer's weight, for as long as the weight does not change; called by the Gram form.

        Raises:
            ValueError: weight or bias of another layer.
            RuntimeError: the weight has changed, and gradients are pending.
        """
        if W is not self.linear_weight or b is not self.linear_bias:
            raise ValueError("the accumulation was made for another layer's weight and bias")
        if self._gram is None or self._gram[:2] != (W._version, dtype):
            if self._sums is not None:
                raise RuntimeError("the weight has changed before GradientAccumulation.finish() was called")
            self._gram = (W._version, dtype, _products.gram_of(W, W, dtype))
        return self._gram[2]

    def add(self, sums: RowSums, true_class: Tensor, slope: Tensor, H: Tensor) -> None:
        """Takes the gradients of one micro-batch, as :func:`add_true_classes` does; called by the Gram form."""
        if self._sums is None or self._true_classes is None:
            self._sums = sums
            zeros = sums.features.new_zeros
            bias = None if self.linear_bias is None else zeros(len(self.linear_bias))
            self._true_classes = (zeros(self.linear_weight.shape), bias)
        else:
            self._sums = self._sums.plus(sums)
        add_true_classes(*self._true_classes, true_class, slope, H)
