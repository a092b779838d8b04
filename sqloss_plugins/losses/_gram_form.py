"""The square loss of a linear layer's outputs from G = W^T W, without the outputs.

With f = W h + b, the squared outputs of a row add up to h^T G h + 2 h^T W^T b + |b|^2. Only the true class needs an
output of its own, so that N rows cost 4 d^2 (N + C) floating-point operations, forward and backward, where the outputs
cost 6 N C d, and nothing of size N x C ever exists:

    d loss / d h = (2/C) [V + k (f_c - M) W_c],        V = sum over i != c of f_i W_i = G h + W^T b - f_c W_c
    d loss / d W = (2/C) [W H^T D H + scatter_add(e h)],       e = k (f_c - M) - f_c

where D has on its diagonal what each row counts for. The loss is computed from V as well: h^T V is the sum of the wrong
classes' squares, without the true class's large term, which would cancel.

Source: Vincent, de Brebisson & Bouthillier (2015), arXiv 1412.7091, for the factorisation; here for the rescaled loss
of Hui & Belkin (2021), with bias, label smoothing and weights, a batch at a time.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from sqloss_plugins.losses._products import layer_gram, mm_wide, row_products, wide
from sqloss_plugins.losses._targets import compute_dtype
from sqloss_plugins.losses._tracing import needs_plain_operations
from sqloss_plugins.losses.accumulation import GradientAccumulation, add_true_classes, dense_gradients, row_sums


class Problem(NamedTuple):
    """What the loss is, apart from input, weight and bias.

    Attributes:
        true_class: of each row, int64, of shape (N).
        rows: what each row counts for, of shape (N).
        normaliser: what the mean divides by; None for another reduction.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        on, off: the soft target at the true class, and at the others.
        k: the weight of the true class's term.
        M: its target; of shape (N) where that depends on the class.
        constant: what is added to (f - M)^2 in it, likewise.
        dtype: of the products' operands.
        value_dtype: of those in the loss's value; the same, or float64.
        first_class: the number of the first class that is here.
        num_classes: C, of all ranks together.
    """

    true_class: Tensor
    rows: Tensor
    normaliser: Tensor | None
    reduction: str
    on: float
    off: float
    k: float
    M: float | Tensor
    constant: float | Tensor
    dtype: torch.dtype
    value_dtype: torch.dtype
    first_class: int
    num_classes: int

    def true_class_here(self, num_classes: int) -> tuple[Tensor, Tensor]:
        """The true class's row of the weight that is here; and 1, or 0 if it is not, in a wide dtype."""
        row = self.true_class - self.first_class
        here = (row >= 0) & (row < num_classes)
        return row.clamp(0, num_classes - 1), here.to(self.rows.dtype)

    @property
    def square(self) -> float:
        """A, where a wrong class's term off k (f - M)^2 + (1 - off) f^2 is A f^2 - 2 B f + const."""
        return 1.0 + self.off * (self.k - 1.0)

    @property
    def linear(self) -> float:
        """B, likewise; with label smoothing, all classes have one target."""
        return self.off * self.k * self.M if isinstance(self.M, float) else 0.0

    def reduce(self, losses: Tensor) -> Tensor:
        """The loss from the losses of the rows, of shape (N)."""
        losses = torch.where(self.rows == 0, 0.0, losses * self.rows)
        if self.reduction == "none":
            return losses
        return losses.sum() if self.normaliser is None else losses.sum() / self.normaliser

    def scales(self, grad_output: Tensor) -> Tensor:
        """What each row's derivatives are times, of shape (N), where ``grad_output`` is that of the reduced loss."""
        scale = grad_output if self.normaliser is None else grad_output / self.normaliser
        return torch.where(self.rows == 0, 0.0, scale * self.rows) * (2.0 / self.num_classes)


class ClassRows(Protocol):
    """A weight of shape (C, d) that is not there as such: what :func:`row_losses` has to know of it."""

    def __len__(self) -> int:
        """C."""

    def __getitem__(self, index: Tensor) -> Tensor:
        """The rows of some classes, of shape (N, d) for an int64 index of shape (N)."""

    def sum(self, dim: int, *, dtype: torch.dtype) -> Tensor:
        """The sum over all classes, of shape (d), for ``dim`` 0."""


class RowLosses(NamedTuple):
    """Losses of the rows, and what their gradients are made of."""

    losses: Tensor  # (N)
    true_class: Tensor  # (N), the rows of the weight that is here
    W_true: Tensor  # (N, d), the weight of the true classes; 0 where it is not here
    V: Tensor  # (N, d), the sum of f_i W_i over the wrong classes
    W_sum: Tensor | float  # (d), the sum of W_i over all classes; 0 where B is
    true_slope: Tensor  # (N), half the derivative of the true class's term
    slope: Tensor  # (N), the same, beyond that of a wrong class's term

    def input_gradient(self, problem: Problem) -> Tensor:
        """Half the gradient of the losses, times C, by the rows of H; of shape (N, d). Takes the memory of V."""
        A, B = problem.square, problem.linear
        gradient = self.V.mul_(A).addcmul_((self.true_slope + B).unsqueeze(1), self.W_true)
        if B:
            gradient -= B * self.W_sum
        return gradient


def row_losses(H: Tensor, W: Tensor | ClassRows, b: Tensor | None, gram: Tensor, problem: Problem) -> RowLosses:
    """The losses of the rows of H, of shape (N, d); differentiable by autograd where ``gram`` is.

    A bias takes a weight that is a tensor.
    """
    k, M = problem.k, problem.M
    A, B = problem.square, problem.linear
    h = wide(H)
    true_class, here = problem.true_class_here(len(W))
    W_true = wide(W[true_class].to(problem.value_dtype))
    if len(W) < problem.num_classes:  # with the true class on another rank, there is nothing to single out here
        W_true *= here.unsqueeze(1)

    f_true = row_products(H, h, W_true)
    V = mm_wide(H, gram)  # the sum of f_i W_i
    outer: Tensor | float = 0.0  # the sum of f_i b_i over the wrong classes
    if b is not None and isinstance(W, Tensor):
        bias = b.to(h.dtype)
        b_true = bias[true_class] * here
        f_true += b_true
        Wb = mm_wide(W.to(problem.value_dtype).T, bias.unsqueeze(1)).squeeze(1)
        V += Wb
        outer = h @ Wb + bias.dot(bias) - f_true * b_true
    V.addcmul_(f_true.unsqueeze(1), W_true, value=-1.0)  # over the wrong classes
    squares = row_products(H, h, V) + outer
    true_term = problem.on * k * ((f_true - M).square() + problem.constant) + (1.0 - problem.on) * f_true.square()
    true_slope = here * (problem.on * k * (f_true - M) + (1.0 - problem.on) * f_true)
    losses = A * squares + here * true_term
    W_sum: Tensor | float = 0.0
    if B:
        W_sum = W.sum(0, dtype=h.dtype)
        wrong = h @ W_sum - f_true
        if b is not None:
            wrong += bias.sum()
        losses += (len(W) - here) * B * M - 2.0 * B * wrong
    losses = losses / problem.num_classes
    return RowLosses(losses, true_class, W_true, V, W_sum, true_slope, true_slope - A * f_true + B * here)


class GramForm(torch.autograd.Function):
    """Loss and gradient of the input in the forward pass, gradients of the parameters in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        W: Tensor,
        b: Tensor | None,
        problem: Problem,
        accumulation: GradientAccumulation | None,
    ) -> Tensor:
        """The loss of an input of shape (N, d), reduced, in a wide dtype."""
        H, dtype = input.to(problem.value_dtype), problem.value_dtype
        gram = accumulation.gram(W, b, dtype) if accumulation else layer_gram(W, dtype)
        rows = row_losses(H, W, b, gram, problem)
        input_gradient = None
        if ctx.needs_input_grad[0]:
            input_gradient = rows.input_gradient(problem).to(problem.rows.dtype)
        ctx.save_for_backward(input, W, b, input_gradient, rows.true_class, rows.slope.to(problem.rows.dtype))
        ctx.problem, ctx.accumulation = problem, accumulation
        return problem.reduce(rows.losses).to(problem.rows.dtype)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of input, weight and bias."""
        (grad_output,) = grad_outputs
        input, W, b, input_gradient, true_class, slope = ctx.saved_tensors
        problem: Problem = ctx.problem
        if torch.is_grad_enabled() or needs_plain_operations(grad_output):
            if ctx.accumulation is not None:
                raise RuntimeError("second derivatives and batched gradients are not for use with an accumulation")
            with torch.autocast(input.device.type, enabled=False):
                return *_differentiable_gradients(ctx, input, W, b, grad_output), None, None

        scale = problem.scales(grad_output)
        dH = None if input_gradient is None else (input_gradient * scale.unsqueeze(1)).to(input.dtype)
        _, needs_weight, needs_bias, *_ = ctx.needs_input_grad
        if not needs_weight and not needs_bias:
            return dH, None, None, None, None
        with torch.autocast(input.device.type, enabled=False):
            H = input.to(problem.dtype)
            sums = row_sums(H, scale, problem.square, problem.linear, problem.dtype, needs_weight)
            slope = slope * scale
            if ctx.accumulation is not None:
                ctx.accumulation.add(sums, true_class, slope, H)
                return dH, None, None, None, None
            dW, db = dense_gradients(W, b, sums)
            add_true_classes(dW, db, true_class, slope, H)
        dW = None if dW is None else dW.to(W.dtype)
        db = None if db is None or b is None or not needs_bias else db.to(b.dtype)
        return dH, dW, db, None, None


def _differentiable_gradients(
    ctx: Any, input: Tensor, W: Tensor, b: Tensor | None, grad_output: Tensor
) -> tuple[Tensor | None, ...]:
    """The gradients that are needed, with a graph of their own, from the loss in plain operations.

    For second derivatives, as in a gradient penalty, and for batched gradients.
    """
    dtype = compute_dtype(input)
    problem: Problem = ctx.problem._replace(dtype=dtype, value_dtype=dtype)
    needed = ctx.needs_input_grad[:3]
    with torch.enable_grad():
        # Views, so that no gradient goes on to what input, weight and bias may have in common.
        H, weight = input.view_as(input), W.view_as(W)
        bias = None if b is None else b.view_as(b)
        wide_weight = weight.to(dtype)
        loss = problem.reduce(row_losses(H.to(dtype), weight, bias, wide_weight.T @ wide_weight, problem).losses)
    wanted = [leaf for leaf, wants in zip((H, weight, bias), needed, strict=True) if wants and leaf is not None]
    found = iter(torch.autograd.grad(loss, wanted, grad_output, create_graph=torch.is_grad_enabled()))
    return tuple(next(found) if wants else None for wants in needed)
