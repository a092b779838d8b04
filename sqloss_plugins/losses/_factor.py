"""A weight W = V U + 1 u^T of very many rows, of which an SGD step on the square loss changes few.

The gradient of the square loss by W is W K - 1 m^T + E, where K = A H^T D H is a symmetric d x d matrix, m a row that
all classes have in common (label smoothing), and E has rows for the true classes only. An SGD step with learning rate r
and weight decay w is

    W <- W P + 1 (r m)^T - r E,        P = (1 - r w) I - r K

and with W = V U + 1 u^T, all of which is exact:

    U <- U P,    u <- P u + r m,    V <- V - r E U^-1    (rows of the true classes alone)

The loss needs Q = W^T W and the sum of W's rows, which follow from K, m and E as well. Nothing here costs more for more
classes, but for one thing: directions in which U has become small are moved back into V before they vanish.

A bias is a column of W, whose input is 1: p below is d, or d + 1 with a bias. p x p parts are kept in float64.

Source: Vincent, de Brebisson & Bouthillier (2015), arXiv 1412.7091, Section 3.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from sqloss_plugins.losses.accumulation import RowSums

_SMALLEST, _LARGEST = 0.1, 10.0
"""Singular values of U beyond which V's rounding errors would show in W."""

_KEPT = 3.0
"""When one singular value is beyond them, those within this factor of them are moved as well: a pass for many."""

_CHUNK = 1 << 18
"""Numbers of V at once: what stays in a processor's cache."""


class StoredRows(NamedTuple):
    """V: a tensor (C, d), and with a bias another, of shape (C), for the last column."""

    weight: Tensor
    bias: Tensor | None

    def __len__(self) -> int:
        return len(self.weight)

    @property
    def width(self) -> int:
        """p: d, or d + 1 with a bias."""
        return self.weight.shape[1] + (self.bias is not None)

    def take(self, index: Tensor | slice) -> Tensor:
        """Some rows, of shape (n, p)."""
        if self.bias is None:
            return self.weight[index]
        return torch.cat([self.weight[index], self.bias[index].unsqueeze(1)], 1)

    def add_(self, index: Tensor, rows: Tensor) -> None:
        """Adds rows (n, p) to those that an int64 index of n different numbers says."""
        d = self.weight.shape[1]
        self.weight.index_add_(0, index, rows[:, :d])
        if self.bias is not None:
            self.bias.index_add_(0, index, rows[:, d])

    def parts(self) -> list[StoredRows]:
        """Views of all rows, some at a time."""
        size = max(1, _CHUNK // self.width)
        biases = [None] * -(-len(self) // size) if self.bias is None else torch.split(self.bias, size)
        return [StoredRows(*part) for part in zip(torch.split(self.weight, size), biases, strict=True)]

    def multiply_(self, matrix: Tensor, row: Tensor) -> None:
        """V <- V matrix + 1 row^T, in place; (p, p) and (p), of V's dtype."""
        d = self.weight.shape[1]
        for part in self.parts():
            rows = torch.addmm(row, part.take(slice(None)), matrix)
            part.weight.copy_(rows[:, :d])
            if part.bias is not None:
                part.bias.copy_(rows[:, d])

    def add_product_(self, left: Tensor, right: Tensor) -> None:
        """V <- V + V left right, in place; (p, m) and (m, p), of V's dtype."""
        d = self.weight.shape[1]
        for weight, bias in self.parts():
            product = weight @ left[:d]
            if bias is not None:
                product.addr_(bias, left[d])
                bias.addmv_(product, right[:, d])
            weight.addmm_(product, right[:, :d])


class Factor(NamedTuple):
    """Everything but V.

    Attributes:
        U: of shape (p, p), float64, as the others.
        shared: u, of shape (p).
        gram: Q = W^T W, of shape (p, p).
        total: the sum of W's rows, of shape (p).
        is_plain: whether V is W: U is 1, and u is 0.
    """

    U: Tensor
    shared: Tensor
    gram: Tensor
    total: Tensor
    is_plain: bool


@dataclass(frozen=True)
class FactoredRows:
    """W, as :class:`sqloss_plugins.losses._gram_form.ClassRows`."""

    stored: StoredRows
    factor: Factor

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, index: Tensor) -> Tensor:
        rows = self.stored.take(index)
        if self.factor.is_plain:
            return rows
        return torch.addmm(self.factor.shared.to(rows.dtype), rows, self.factor.U.to(rows.dtype))

    def sum(self, dim: int, *, dtype: torch.dtype) -> Tensor:
        """The sum of W's rows, of shape (p)."""
        return self.factor.total.to(dtype)


class Gradient(NamedTuple):
    """The gradient by W: W K - 1 m^T + E.

    Attributes:
        K: of shape (p, p), float64.
        m: of shape (p), float64.
        classes: the true classes, each once, int64, of shape (n).
        rows: E's rows of these, of shape (n, p), of V's dtype.
    """

    K: Tensor
    m: Tensor
    classes: Tensor
    rows: Tensor

    def squared_norm(self, W: FactoredRows) -> Tensor:
        """The sum of its squares, a float64 scalar."""
        Q, total = W.factor.gram, W.factor.total
        K, m, E = self.K, self.m, self.rows.double()
        dense = ((K @ Q) * K.T).sum() - 2.0 * (total @ K) @ m + len(W) * m.dot(m)
        sparse = E.square().sum() + 2.0 * ((W[self.classes].double() @ K - m) * E).sum()
        return (dense + sparse).clamp_min(0.0)


class MicroBatch(NamedTuple):
    """What a micro-batch adds to the rows of its n true classes, of which an example may have several."""

    true_class: Tensor  # (n)
    slope: Tensor  # (n), its derivative beyond that of any class, times the row's scale
    H: Tensor  # (n, p)


@dataclass
class Pending:
    """The gradients since the last step, as sums over the rows and the rows of the true classes."""

    sums: RowSums | None = None
    batches: list[MicroBatch] = field(default_factory=list)

    def add(self, sums: RowSums, batch: MicroBatch) -> None:
        """Takes the gradient of one micro-batch."""
        self.sums = sums if self.sums is None else self.sums.plus(sums)
        self.batches.append(batch)

    def scale(self, factor: float | Tensor) -> None:
        """Multiplies all of it."""
        if self.sums is None or self.sums.products is None:
            return
        self.sums = self.sums._replace(products=self.sums.products * factor, features=self.sums.features * factor)
        self.batches = [batch._replace(slope=batch.slope * factor) for batch in self.batches]

    def gradient(self) -> Gradient:
        """All of it together; of at least one micro-batch."""
        assert self.sums is not None
        assert self.sums.products is not None
        products = self.sums.products.double() * self.sums.square
        true_class = torch.cat([batch.true_class for batch in self.batches])
        slope = torch.cat([batch.slope for batch in self.batches])
        H = torch.cat([batch.H for batch in self.batches])
        classes, place = torch.unique(true_class, return_inverse=True)
        rows = H.new_zeros(len(classes), H.shape[1]).index_add_(0, place, slope.unsqueeze(1) * H)
        features = self.sums.features.double() * self.sums.linear
        return Gradient(0.5 * (products + products.T), features, classes, rows)


class Step(NamedTuple):
    """What an SGD step does, computed and found good before anything is written.

    Attributes:
        factor: afterwards.
        product: matrix, (p, p), and row, (p), of V <- V matrix + 1 row^T, where V stays the weight; else None.
        move: left, (p, m), and right, (m, p), of V <- V + V left right, of all rows; None for most steps.
        classes, rows: what is added to V's rows of the true classes then.
    """

    factor: Factor
    product: tuple[Tensor, Tensor] | None
    move: tuple[Tensor, Tensor] | None
    classes: Tensor
    rows: Tensor

    def write(self, V: StoredRows) -> None:
        """Writes it into V."""
        if self.product is not None:
            V.multiply_(*self.product)
        if self.move is not None:
            V.add_product_(*self.move)
        V.add_(self.classes, self.rows)


def plain_factor(V: StoredRows) -> Factor:
    """The factor of a V that is W. One pass over V, d^2 C."""
    p, device = V.width, V.weight.device
    gram = torch.zeros(p, p, dtype=torch.float64, device=device)
    total = torch.zeros(p, dtype=torch.float64, device=device)
    for part in V.parts():
        rows = part.take(slice(None)).double()
        gram.addmm_(rows.T, rows)
        total += rows.sum(0)
    identity = torch.eye(p, dtype=torch.float64, device=device)
    return Factor(identity, torch.zeros_like(total), gram, total, True)


def fold(V: StoredRows, factor: Factor) -> Factor:
    """Makes V the weight W, in place; two passes over V."""
    if factor.is_plain:
        return factor
    V.multiply_(factor.U.to(V.weight.dtype), factor.shared.to(V.weight.dtype))
    return plain_factor(V)


def sgd_step(W: FactoredRows, gradient: Gradient, lr: float, decay: Tensor, keep_plain: bool) -> Step:
    """An SGD step.

    Args:
        W: the weight.
        gradient: its gradient.
        lr: learning rate.
        decay: weight decay of each column, of shape (p), float64.
        keep_plain: whether V stays the weight, which takes a pass over it.

    Raises:
        FloatingPointError: the gradient, or the weight after the step, is not finite.
    """
    factor, dtype = W.factor, W.stored.weight.dtype
    if not _are_finite(*gradient[:2], gradient.rows):
        raise FloatingPointError(
            "the gradient of the output layer is not finite (NaN or infinity in its input, or a loss that has "
            "diverged): nothing was changed, and zero_grad() drops this gradient"
        )
    P = torch.diag(1.0 - lr * decay) - lr * gradient.K
    constant = lr * gradient.m
    E = gradient.rows * lr

    # W P + 1 constant^T, by its factor, rows, sum and Gram matrix; then less E.
    U, shared = factor.U @ P, P @ factor.shared + constant
    moved = factor._replace(U=U, shared=shared, is_plain=False)
    total = P @ factor.total
    cross = torch.outer(total, constant)
    gram = P @ factor.gram @ P + cross + cross.T + len(W) * torch.outer(constant, constant)
    total += len(W) * constant
    true_rows = FactoredRows(W.stored, moved)[gradient.classes]
    overlap = ((true_rows - 0.5 * E).T @ E).double()
    gram -= overlap + overlap.T
    total -= E.sum(0, dtype=torch.float64)

    move, limit = None, 1e-3 * torch.finfo(dtype).max
    if not _are_finite(U, shared, gram) or gram.trace().sqrt() > limit:
        raise _too_large(lr)
    if keep_plain:
        kept = W.factor._replace(gram=gram, total=total)
        return Step(kept, (U.to(dtype), shared.to(dtype)), None, gradient.classes, -E)
    inverse = _well_conditioned_inverse(U)
    if inverse is None:
        U, inverse, left, right = _move_directions(U)
        move = left.to(dtype), right.to(dtype)
    rows = E @ inverse.to(dtype).neg()
    if not _are_finite(rows):
        raise _too_large(lr)
    return Step(Factor(U, shared, gram, total, False), None, move, gradient.classes, rows)


def _too_large(lr: float) -> FloatingPointError:
    return FloatingPointError(
        f"with a learning rate of {lr:g} the weight of the output layer would not stay finite: nothing was changed; "
        "take a smaller one, and drop this gradient by zero_grad()"
    )


def _well_conditioned_inverse(U: Tensor) -> Tensor | None:
    """U's inverse; None if a singular value is too small or too large."""
    inverse: Tensor
    inverse, failed = torch.linalg.inv_ex(U)
    if failed or not _largest_singular_value(inverse) < 1.0 / _SMALLEST or not _largest_singular_value(U) < _LARGEST:
        return None
    return inverse


def _largest_singular_value(matrix: Tensor) -> float:
    """Its largest singular value, or some per cent less: by power iterations from eight directions at once."""
    drawn = torch.Generator("cpu").manual_seed(0)  # the same directions on every device
    directions = torch.randn(len(matrix), 8, dtype=matrix.dtype, device="cpu", generator=drawn).to(matrix.device)
    for _ in range(6):
        directions = matrix.T @ (matrix @ directions)
        directions /= directions.norm(dim=0)
    return float((matrix @ directions).norm(dim=0).max())


def _move_directions(U: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Takes singular directions out of U and puts them into V, so that V U stays what it is.

    With U = X S Y^T and T, which is S but for ones where S is too small or too large, V U = (V X S T^-1 X^T) (X T Y^T).

    Returns:
        The new U, its inverse, and left and right of V's step V <- V + V left right.
    """
    X, S, Yt = torch.linalg.svd(U)
    leaves = (S < _KEPT * _SMALLEST) | (S > _LARGEST / _KEPT)
    T = torch.where(leaves, 1.0, S)
    return (X * T) @ Yt, (Yt.T / T) @ X.T, X[:, leaves] * (S[leaves] - 1.0), X[:, leaves].T


def _are_finite(*tensors: Tensor) -> bool:
    return all(bool(torch.isfinite(torch.stack(tensor.aminmax())).all()) for tensor in tensors if tensor.numel())
