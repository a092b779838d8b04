"""The multi-label square loss of a linear layer with very many classes, few of which are true in a row.

With S_n the true classes of row n, and f = W h + b, the loss of :func:`multilabel_square_loss` is

    l_n = (1/C) [ sum over all i of f_i^2 + sum over i in S_n of ( k (f_i - M)^2 - f_i^2 ) ]

whose first sum is h^T (W^T W) h + 2 h^T W^T b + |b|^2, as in ``_gram_form.py``: the true classes alone need outputs of
their own. As there, their squares are taken out of the sum before it is multiplied by h, so that little cancels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from sqloss_plugins.losses._gram_form import ClassRows, Problem
from sqloss_plugins.losses._products import layer_gram, mm_wide, product_dtype, row_products, wide
from sqloss_plugins.losses._targets import check_linear_layer, check_options, compute_dtype, result_dtype
from sqloss_plugins.losses._tracing import needs_plain_operations
from sqloss_plugins.losses.accumulation import add_true_classes, dense_gradients, row_sums
from sqloss_plugins.losses.square import check_rescaling


def linear_multilabel_square_loss(
    input: Tensor,
    linear_weight: Tensor,
    classes: Tensor,
    offsets: Tensor,
    *,
    linear_bias: Tensor | None = None,
    reduction: str = "mean",
    k: float = 1.0,
    M: float = 1.0,
) -> Tensor:
    """:func:`multilabel_square_loss` of a linear layer's outputs without building them, for sparse targets.

    The true classes are given as :func:`torch.nn.functional.embedding_bag` is given its bags. For N rows with L true
    classes together, loss and gradients take 4 d^2 (N + C) + 6 L d floating-point operations.

    Args:
        input: what the layer is given, floating point, of shape (N, d).
        linear_weight: its weight W, of shape (C, d).
        classes: the true classes of all rows, one row after the other, int64, of shape (L); each in [0, C), and none
            twice in a row.
        offsets: where in ``classes`` each row begins, int64, of shape (N), beginning with 0 and not falling. A row may
            have no true class.
        linear_bias: its bias b, of shape (C).
        reduction: ``"none"``; ``"sum"``, over the rows; or ``"mean"``, over the rows.
        k: the weight of a true class's term, > 0.
        M: the target of a true class, > 0.

    Returns:
        A scalar, or for ``"none"`` a tensor of shape (N). Of the input's dtype; float32 under autocast.

    Raises:
        ValueError: k or M not positive and finite; unknown reduction; shapes or devices that do not fit; offsets that
            fall or leave ``classes``; a class twice in a row; tracers, transforms and subclasses of Tensor.
        IndexError: a class out of range.
        RuntimeError: dtypes that do not fit; in the backward pass, second derivatives.

    Source: the loss, Hui & Belkin (2021), Section 5, with 1 - q_i for the classes that are not true; the form without
    outputs, Vincent, de Brebisson & Bouthillier (2015), arXiv 1412.7091.

    Examples:
        >>> import torch
        >>> from sqloss_plugins import linear_multilabel_square_loss, multilabel_square_loss
        >>> _ = torch.manual_seed(0)
        >>> hidden, W = torch.randn(2, 4), torch.randn(6, 4)
        >>> classes, offsets = torch.tensor([0, 5, 3]), torch.tensor([0, 2])  # 0 and 5, and 3
        >>> loss = linear_multilabel_square_loss(hidden, W, classes, offsets)
        >>> multi_hot = torch.tensor([[1.0, 0, 0, 0, 0, 1], [0, 0, 0, 1, 0, 0]])
        >>> torch.allclose(loss, multilabel_square_loss(hidden @ W.T, multi_hot))
        True
    """
    check_options(reduction, 0.0)
    check_rescaling(k, M)
    _check_layer(input, linear_weight, linear_bias, classes, offsets)
    C = len(linear_weight)
    rows = rows_of_pairs(classes, offsets, C)
    problem = multilabel_problem(
        len(input),
        classes,
        C,
        k=k,
        M=M,
        reduction=reduction,
        dtype=product_dtype(input),
        rows_dtype=compute_dtype(input),
    )
    with torch.autocast(input.device.type, enabled=False):
        loss: Tensor = _MultiLabelGramForm.apply(input, linear_weight, linear_bias, rows, problem)  # type: ignore[no-untyped-call]
    return loss.to(result_dtype(input))


def _check_layer(input: Tensor, W: Tensor, b: Tensor | None, classes: Tensor, offsets: Tensor) -> None:
    """Refuses what does not fit together, before any work."""
    if needs_plain_operations(input, W, b, classes, offsets):
        raise ValueError("tracers, transforms and subclasses of Tensor have no Gram form: take multilabel_square_loss")
    check_linear_layer(input, W, b, classes=classes, offsets=offsets)
    check_label_lists(input, classes, offsets)


def check_label_lists(input: Tensor, classes: Tensor, offsets: Tensor) -> None:
    """Refuses, by their shapes and dtypes, lists of true classes that are not those of the input's N rows.

    Raises:
        ValueError: shapes that do not fit.
        RuntimeError: another dtype than int64.
    """
    if input.dim() != 2 or classes.dim() != 1 or offsets.shape != input.shape[:1]:
        raise ValueError(
            f"for an input of shape (N, d) classes is of shape (L) and offsets of shape (N), got "
            f"{tuple(input.shape)}, {tuple(classes.shape)} and {tuple(offsets.shape)}"
        )
    if classes.dtype != torch.int64 or offsets.dtype != torch.int64:
        raise RuntimeError(f"classes and offsets are int64, got {classes.dtype} and {offsets.dtype}")


def multilabel_problem(
    N: int,
    classes: Tensor,
    C: int,
    *,
    k: float,
    M: float,
    reduction: str,
    dtype: torch.dtype,
    rows_dtype: torch.dtype,
) -> Problem:
    """The problem of N rows that all count, whose ``true_class`` has the true classes of all rows, of shape (L)."""
    ones = torch.ones(N, dtype=rows_dtype, device=classes.device)
    return Problem(
        true_class=classes,
        rows=ones,
        normaliser=ones.sum() if reduction == "mean" else None,
        reduction=reduction,
        on=1.0,
        off=0.0,
        k=float(k),
        M=float(M),
        constant=0.0,
        dtype=dtype,
        value_dtype=dtype,
        first_class=0,
        num_classes=C,
    )


def rows_of_pairs(classes: Tensor, offsets: Tensor, C: int) -> Tensor:
    """The row that each of the true classes belongs to, int64, of shape (L).

    Raises:
        ValueError: offsets that fall or leave ``classes``; a class twice in a row.
        IndexError: a class out of range.
    """
    ends = torch.cat([offsets[1:], offsets.new_tensor([len(classes)])])
    counts = ends - offsets
    if len(offsets) == 0 or int(offsets[0]) != 0 or bool((counts < 0).any()):
        if len(offsets) or len(classes):
            raise ValueError("offsets says where each row begins in classes: it begins with 0 and never falls")
        return classes
    outside = (classes < 0) | (classes >= C)
    if bool(outside.any()):
        raise IndexError(f"Target {int(classes[outside][0])} is out of bounds for {C} classes.")
    rows = torch.repeat_interleave(counts)
    if len(torch.unique(rows * C + classes)) < len(classes):
        raise ValueError("a class is there twice in one row: give each true class once")
    return rows


class PairLosses(NamedTuple):
    """Losses of the rows, and what their gradients are made of."""

    losses: Tensor  # (N)
    input_gradient: Tensor  # (N, d), half the gradient of the losses, times C, by the rows of H
    slope: Tensor  # (L), half the derivative of each true class's term, beyond that of a wrong class's


def pair_losses(
    H: Tensor, W: Tensor | ClassRows, b: Tensor | None, gram: Tensor, row: Tensor, problem: Problem
) -> PairLosses:
    """The losses of the rows of H, of shape (N, d); a bias takes a weight that is a tensor.

    Args:
        H: what the layer is given.
        W, b: the layer's.
        gram: W^T W.
        row: of each true class, as :func:`rows_of_pairs` has it.
        problem: as :func:`multilabel_problem` has it.
    """
    k, M, classes = problem.k, problem.M, problem.true_class
    h = wide(H)
    W_true = wide(W[classes].to(problem.dtype))
    f = row_products(H[row], h[row], W_true)
    V = mm_wide(H, gram)
    outer: Tensor | float = 0.0  # the sum of f_i b_i over the wrong classes
    if b is not None and isinstance(W, Tensor):
        bias = wide(b)
        f += bias[classes]
        Wb = mm_wide(W.to(problem.dtype).T, bias.unsqueeze(1)).squeeze(1)
        V += Wb
        outer = (h @ Wb + bias.dot(bias)).index_add_(0, row, -f * bias[classes])
    V.index_add_(0, row, -f.unsqueeze(1) * W_true)  # over the wrong classes
    losses = row_products(H, h, V) + outer
    losses = losses.index_add_(0, row, k * (f - M).square()) / problem.num_classes
    true_slope = k * (f - M)
    V.index_add_(0, row, true_slope.unsqueeze(1) * W_true)
    return PairLosses(losses, V, true_slope - f)


class _MultiLabelGramForm(torch.autograd.Function):
    """Loss and gradient of the input in the forward pass, gradients of the parameters in the backward pass."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, W: Tensor, b: Tensor | None, row: Tensor, problem: Problem) -> Tensor:
        """The loss of an input of shape (N, d), reduced, in a wide dtype."""
        H = input.to(problem.dtype)
        found = pair_losses(H, W, b, layer_gram(W, problem.dtype), row, problem)
        ctx.save_for_backward(input, W, b, found.input_gradient, row, found.slope)
        ctx.problem = problem
        return problem.reduce(found.losses)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of input, weight and bias."""
        (grad_output,) = grad_outputs
        if torch.is_grad_enabled() or needs_plain_operations(grad_output):
            raise RuntimeError("this loss has no second derivatives: take multilabel_square_loss of the outputs")
        input, W, b, input_gradient, row, slope = ctx.saved_tensors
        problem: Problem = ctx.problem
        scale = problem.scales(grad_output)
        needs_input, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        dH = (input_gradient * scale.unsqueeze(1)).to(input.dtype) if needs_input else None
        if not needs_weight and not needs_bias:
            return dH, None, None, None, None
        with torch.autocast(input.device.type, enabled=False):
            H = input.to(problem.dtype)
            sums = row_sums(H, scale, 1.0, 0.0, problem.dtype, needs_weight)
            dW, db = dense_gradients(W, b, sums)
            add_true_classes(dW, db, problem.true_class, slope * scale[row], H[row])
        dW = None if dW is None else dW.to(W.dtype)
        db = None if db is None or b is None or not needs_bias else db.to(b.dtype)
        return dH, dW, db, None, None
