"""The square loss of a linear layer's outputs, without the outputs.

With f = W h + b and G = W^T W, the squared outputs of a row add up to h^T G h + 2 h^T W^T b + |b|^2. Only the true
class needs an output of its own, so that N rows cost 4 d^2 (N + C) floating-point operations, forward and backward,
where the outputs cost 6 N C d, and nothing of size N x C ever exists:

    d loss / d h = (2/C) [V + k (f_c - M) W_c],        V = sum over i != c of f_i W_i = G h + W^T b - f_c W_c
    d loss / d W = (2/C) [W H^T D H + scatter_add(e h)],       e = k (f_c - M) - f_c

where D has on its diagonal what each row counts for. The loss is computed from V as well: h^T V is the sum of the wrong
classes' squares, from which the true class's large term has been taken out as early as can be.

Source: Vincent, de Brebisson & Bouthillier (2015), arXiv 1412.7091, for the factorisation; here for the rescaled loss
of Hui & Belkin (2021), with bias, label smoothing and weights, a batch at a time.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.weak import WeakTensorKeyDictionary

from sqloss_plugins.losses._module import ClassificationLoss
from sqloss_plugins.losses._targets import (
    check_input,
    check_options,
    compute_dtype,
    index_targets,
    is_traced,
    result_dtype,
)
from sqloss_plugins.losses.class_shard import ClassShard
from sqloss_plugins.losses.square import check_rescaling, square_loss

IMPLEMENTATIONS = ("auto", "direct", "gram")


@torch.compiler.disable  # type: ignore[untyped-decorator]
def linear_square_loss(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    k: float = 1.0,
    M: float = 1.0,
    impl: str = "auto",
    accumulation: GradientAccumulation | None = None,
    shard: ClassShard | None = None,
) -> Tensor:
    """``square_loss(F.linear(input, linear_weight, linear_bias), target, ...)`` without building the outputs.

    Arguments and conventions are those of :func:`torch.nn.functional.linear_cross_entropy` (PyTorch 2.13).

    Args:
        input: what the linear layer is given, floating point, of shape (d) or (N, d).
        linear_weight: the layer's weight W, of shape (C, d).
        target: class indices, int64, of shape () or (N), each in [0, C) or ``ignore_index``; or class probabilities,
            of shape (C) or (N, C). Rows whose target is ignored cost nothing.
        linear_bias: the layer's bias b, of shape (C).
        weight, ignore_index, reduction, label_smoothing, k, M: as in :func:`sqloss_plugins.losses.square_loss`.
        impl: ``"direct"`` builds the outputs, ``"gram"`` does not, and ``"auto"`` takes what should be faster
            (:func:`gram_pays`) if it is about as precise: not with k < 12 in float32. Probability targets, class
            weights together with label smoothing, and torch.func transforms have no Gram form; ``"auto"`` builds the
            outputs for them.
        accumulation: what the micro-batches of an optimiser step share; for ``"gram"``, and for ``"auto"`` where it
            takes the Gram form for the whole step. The gradients of this form then come with its ``finish()``.
        shard: which classes the rows of ``linear_weight`` and ``linear_bias`` are, where every rank has some of them.
            All ranks have the same input, targets (of all C classes) and result. Always the Gram form.

    Returns:
        A scalar, or for ``"none"`` a tensor of the shape that class-index targets have; dtype as that of
        ``square_loss``. The Gram form has first derivatives only.

    Raises:
        ValueError: unknown reduction or impl; k or M not positive and finite; shapes or devices that do not fit
            together; ``"gram"`` or a shard where there is no Gram form; ``"direct"`` with a shard or an accumulation.
        IndexError: a target out of range; on CUDA too.
        RuntimeError: label smoothing outside [0, 1]; dtypes that do not fit together.

    The G of a weight that needs no gradient is kept for as long as the weight's version counter stays the same. Writes
    to ``weight.data`` pass that counter by: write to the weight itself, under ``torch.no_grad()``.
    """
    check_options(reduction, label_smoothing)
    _check_form(k, M, impl)
    _check_layer(input, linear_weight, target, linear_bias, weight)
    batched, C = input.dim() == 2, shard.num_classes if shard else len(linear_weight)
    if not batched:
        input = input.unsqueeze(0)
        target = target if target.shape == (1,) != (C,) else target.unsqueeze(0)
    N = len(input)
    probabilities = target.shape == (N, C)
    if not probabilities and target.shape != (N,):
        raise ValueError(f"the targets are of shape {tuple(target.shape)}: for {N} inputs ({N},) or ({N}, {C})")

    no_gram = None
    if probabilities:
        no_gram = "class probabilities as targets have"
    elif weight is not None and label_smoothing > 0.0:
        no_gram = "class weights with label smoothing have"
    elif is_traced():
        no_gram = "torch.func transforms have"
    if (impl == "gram" or shard is not None) and no_gram is not None:
        raise ValueError(f"{no_gram} no Gram form: leave impl at 'auto', without a shard")
    if impl == "direct" and (accumulation is not None or shard is not None):
        raise ValueError("accumulation and shard are of the Gram form: leave impl at 'auto'")
    if shard is not None:
        impl, input = "gram", shard.shared(input)

    kept = None
    if not probabilities and not is_traced() and (N * C > _SMALL or impl == "gram" or target.is_cuda):
        kept = _rows_that_count(target, C, ignore_index)
        if kept is not None:
            input, target = input[kept], target[kept]
    gram = impl == "gram" or (
        impl == "auto" and no_gram is None and N * C > _SMALL and _prefers_gram(input, linear_weight, k, accumulation)
    )
    if gram and len(input):
        targets = index_targets(
            input.new_empty(()).expand(len(input), C), target, weight, ignore_index, label_smoothing
        )
        problem = _Problem(
            true_class=targets.true_class.squeeze(1),
            rows=targets.rows,
            normaliser=targets.normaliser if reduction == "mean" else None,
            on=float(targets.on),
            off=float(targets.off),
            k=float(k),
            M=float(M),
            dtype=_product_dtype(input),
            first=shard.first if shard else 0,
            num_classes=C,
        )
        with torch.autocast(input.device.type, enabled=False):
            value: Tensor = _GramForm.apply(  # type: ignore[no-untyped-call]
                input, linear_weight, linear_bias, problem, reduction, accumulation
            )
        loss = (shard.total(value) if shard else value).to(result_dtype(input))
    else:
        outputs = F.linear(input, linear_weight, linear_bias)
        options: dict[str, Any] = {"reduction": reduction, "label_smoothing": label_smoothing, "k": k, "M": M}
        loss = square_loss(outputs, target, weight, ignore_index=ignore_index, **options)
    if reduction == "none" and kept is not None:
        loss = loss.new_zeros(N).index_put((kept,), loss)
    return loss.squeeze(0) if reduction == "none" and not batched else loss


class LinearSquareLoss(ClassificationLoss):
    """A linear layer and the square loss of its outputs, as :class:`torch.nn.LinearCrossEntropyLoss` (PyTorch 2.13).

    The layer is ``self.linear``, whose outputs are what a prediction is made of; to tie its weight, assign it.

    Args:
        in_features: d.
        num_classes: C.
        bias: whether the layer has one.
        device, dtype: of the layer's parameters.
        k, M, impl, weight, ignore_index, reduction, label_smoothing: as in :func:`linear_square_loss`.

    Raises:
        ValueError, RuntimeError: as :func:`linear_square_loss`.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        k: float = 1.0,
        M: float = 1.0,
        impl: str = "auto",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        _check_form(k, M, impl)
        self.linear = nn.Linear(in_features, num_classes, bias=bias, device=device, dtype=dtype)
        self.k = k
        self.M = M
        self.impl = impl

    def forward(self, input: Tensor, target: Tensor, accumulation: GradientAccumulation | None = None) -> Tensor:
        """The loss; shapes as in :func:`linear_square_loss`."""
        loss: Tensor = linear_square_loss(
            input,
            self.linear.weight,
            target,
            linear_bias=self.linear.bias,
            **self.options(),
            k=self.k,
            M=self.M,
            impl=self.impl,
            accumulation=accumulation,
        )
        return loss

    def extra_repr(self) -> str:
        """k, M and impl, shown by print(module)."""
        return f"k={self.k:g}, M={self.M:g}, impl={self.impl!r}"


class GradientAccumulation:
    """What the micro-batches of one optimiser step share: G, and the part of the gradient that is a product with W.

    Both cost d^2 C and depend on the micro-batches through sums only, so that they can be had once a step. Give the
    same object to every :func:`linear_square_loss` of the step, and call :meth:`finish` after the last backward pass,
    before gradients are clipped or the optimiser steps:

        accumulation = GradientAccumulation(layer.weight, layer.bias)
        for input, target in micro_batches:
            linear_square_loss(input, layer.weight, target, ..., accumulation=accumulation).backward()
        accumulation.finish()
        optimizer.step()

    The gradient is that of a run without it, rounding apart. Until ``finish`` the parameters' ``grad`` lacks this
    layer's share, so that nothing may read it: not for DistributedDataParallel, which sends gradients when they come.

    Args:
        linear_weight: W, a leaf that requires a gradient, of shape (C, d).
        linear_bias: b, of shape (C), if the layer has one.
        steps: how many micro-batches make an optimiser step, for the choice of ``impl="auto"``.
    """

    def __init__(self, linear_weight: Tensor, linear_bias: Tensor | None = None, *, steps: int = 1) -> None:
        self.linear_weight = linear_weight
        self.linear_bias = linear_bias
        self.steps = steps
        self._gram: tuple[int, torch.dtype, Tensor] | None = None
        self._sums: _Sums | None = None
        self._scattered: tuple[Tensor, Tensor | None] | None = None

    def finish(self) -> None:
        """Ends the step: adds what is pending to the parameters' ``grad``, and forgets G."""
        self._gram = None
        if self._sums is None or self._scattered is None:
            return
        W, b = self.linear_weight, self.linear_bias
        with torch.no_grad(), torch.autocast(W.device.type, enabled=False):
            dense = _dense_gradients(W, b, self._sums)
            for parameter, share, scattered in zip((W, b), dense, self._scattered, strict=True):
                if parameter is None or share is None or scattered is None or not parameter.requires_grad:
                    continue
                gradient = scattered.add_(share)
                if parameter.grad is None:
                    parameter.grad = gradient.to(parameter.dtype)
                else:
                    parameter.grad += gradient
        self._sums = self._scattered = None

    def _step_gram(self, W: Tensor, b: Tensor | None, dtype: torch.dtype) -> Tensor:
        """G, for as long as the weight does not change."""
        if W is not self.linear_weight or b is not self.linear_bias:
            raise ValueError("the accumulation was made for another layer's weight and bias")
        if self._gram is None or self._gram[:2] != (W._version, dtype):
            if self._sums is not None:
                raise RuntimeError("the weight has changed before GradientAccumulation.finish() was called")
            self._gram = (W._version, dtype, _gram_of(W, W, dtype))
        return self._gram[2]

    def _add(self, sums: _Sums, true_class: Tensor, true_weight: Tensor, H: Tensor) -> None:
        if self._sums is None or self._scattered is None:
            self._sums = sums
            zeros = sums.features.new_zeros
            bias = None if self.linear_bias is None else zeros(len(self.linear_bias))
            self._scattered = (zeros(self.linear_weight.shape), bias)
        else:
            self._sums = self._sums.plus(sums)
        _scatter(*self._scattered, true_class, true_weight, H)


# ---------------------------------------------------------------- which form


_SMALL = 1 << 16
"""Outputs (N x C) up to which the choice would cost more than the outputs."""


_PRECISE_FROM_K = 12.0
"""Below it, the Gram form's rounding errors in float32 exceed twice the direct form's where the loss is close to 0
(benchmarks/RESULTS.md). With 16-bit inputs the Gram form is the more precise one."""


class _Costs(NamedTuple):
    """What an element costs beside the products, in units of a product's floating-point operations."""

    output: float  # an element of the N x C outputs, passes over memory in loss and gradient
    feature: float  # an element of the N x d inputs: gather, row products, scatter
    parameter: float  # an element of the C x d weight: its gradient's second pass


_COSTS = {
    # Measured, float32.
    "cpu": _Costs(output=800.0, feature=1500.0, parameter=200.0),
    # From an H100's data sheet, bfloat16; not measured.
    "cuda": _Costs(output=2000.0, feature=7000.0, parameter=1400.0),
}


def gram_pays(
    N: int,
    d: int,
    C: int,
    *,
    needs_input: bool = True,
    needs_weight: bool = True,
    kept: bool = False,
    device: str = "cpu",
) -> bool:
    """Whether the Gram form should be faster than the direct one.

    Floating-point operations of the products, 4 d^2 (N + C) against 6 N C d where both gradients are needed, plus the
    costs of the passes over memory (benchmarks/RESULTS.md).

    Args:
        N: rows that count.
        d: features.
        C: classes.
        needs_input, needs_weight: which gradients are wanted.
        kept: whether G is there already.
        device: ``"cpu"``, or another device's type.
    """
    cost = _COSTS.get(device, _COSTS["cpu"])
    direct = 2.0 * N * C * d * (1 + needs_input + needs_weight) + cost.output * N * C
    gram = 2.0 * d * d * ((0 if kept else C) + N + needs_weight * (N + C)) + cost.feature * N * d
    gram += needs_weight * cost.parameter * C * d
    return gram < direct


def precise_enough(input: Tensor, k: float) -> bool:
    """Whether the Gram form's rounding errors are at most about twice the direct form's.

    So it is from the start of training until outputs are within a hundredth of M of their targets
    (benchmarks/linear_precision.py). Closer than that the squares cancel, and in float32 the value of the loss, not its
    gradients, has the larger errors.
    """
    narrow = input.dtype in NARROW or torch.is_autocast_enabled(input.device.type)
    return narrow or k >= _PRECISE_FROM_K


def _prefers_gram(input: Tensor, W: Tensor, k: float, accumulation: GradientAccumulation | None) -> bool:
    if not precise_enough(input, k):
        return False
    grad = torch.is_grad_enabled()
    needs_input, needs_weight = grad and input.requires_grad, grad and W.requires_grad
    return gram_pays(
        len(input) * (accumulation.steps if accumulation else 1),
        input.shape[1],
        len(W),
        needs_input=needs_input,
        needs_weight=needs_weight,
        kept=_kept_gram(W, _product_dtype(input)) is not None,
        device=input.device.type,
    )


# ---------------------------------------------------------------- what is asked for


def _check_form(k: float, M: float, impl: str) -> None:
    """Raises ValueError unless k and M are positive and finite and the implementation is known."""
    check_rescaling(k, M)
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"unknown impl {impl!r}: choose from {', '.join(IMPLEMENTATIONS)}")


def _check_layer(input: Tensor, W: Tensor, target: Tensor, b: Tensor | None, weight: Tensor | None) -> None:
    """Refuses what does not fit together, before any work.

    Raises:
        NotImplementedError: inputs that are not floating point.
        RuntimeError: input and weight of different dtypes.
        ValueError: anything else that does not fit.
    """
    check_input(input)
    if input.dim() not in (1, 2):
        raise ValueError(f"the input is of shape (d) or (N, d), got {tuple(input.shape)}")
    if W.dim() != 2 or W.shape[1] != input.shape[-1]:
        raise ValueError(
            f"linear_weight is of shape (C, d) with the input's d = {input.shape[-1]}, got {tuple(W.shape)}"
        )
    if b is not None and b.shape != W.shape[:1]:
        raise ValueError(f"linear_bias is of shape (C) = ({len(W)},), got {tuple(b.shape)}")
    for name, tensor in (("linear_weight", W), ("target", target), ("linear_bias", b), ("weight", weight)):
        if tensor is not None and tensor.device != input.device:
            raise ValueError(f"{name} is on {tensor.device} and the input on {input.device}")
    if not torch.is_autocast_enabled(input.device.type) and {W.dtype, *([] if b is None else [b.dtype])} != {
        input.dtype
    }:
        names = ", ".join(str(tensor.dtype) for tensor in (input, W, b) if tensor is not None)
        raise RuntimeError(f"input, linear_weight and linear_bias must have one dtype, got {names}")


def _rows_that_count(target: Tensor, C: int, ignore_index: int) -> Tensor | None:
    """Indices of the rows whose target is not ignored; None where all count. One transfer from a GPU.

    Raises:
        IndexError: a target that is no class and not ignored.
    """
    ignored = target == ignore_index
    wrong = ((target < 0) | (target >= C)) & ~ignored
    num_ignored, num_wrong = torch.stack([ignored.sum(), wrong.sum()]).tolist()
    if num_wrong:
        raise IndexError(f"Target {int(target[wrong][0])} is out of bounds for {C} classes.")
    return (~ignored).nonzero().squeeze(1) if num_ignored else None


class _Problem(NamedTuple):
    """The loss of each row: on and off the true class, its soft target is ``on`` and ``off``."""

    true_class: Tensor  # (N), int64
    rows: Tensor  # (N), what each row counts for
    normaliser: Tensor | None  # what the mean divides by
    on: float
    off: float
    k: float
    M: float
    dtype: torch.dtype  # of the products' operands
    first: int  # the number of the first class that is here
    num_classes: int  # wherever they are

    def true_class_here(self, num_classes: int) -> tuple[Tensor, Tensor]:
        """The true class's row of the weight that is here; and 1, or 0 if it is not, in float32 at least."""
        row = self.true_class - self.first
        here = (row >= 0) & (row < num_classes)
        return row.clamp(0, num_classes - 1), here.to(self.rows.dtype)

    @property
    def square(self) -> float:
        """Of a wrong class's term off k (f - M)^2 + (1 - off) f^2, what stands before f^2."""
        return 1.0 + self.off * (self.k - 1.0)

    @property
    def linear(self) -> float:
        """And before -2 f."""
        return self.off * self.k * self.M


# ---------------------------------------------------------------- products


NARROW = (torch.float16, torch.bfloat16)

# cuBLAS accumulates 16-bit products in 32 bits; from PyTorch 2.8 on it can be asked to leave the result there.
_WIDE_RESULTS = torch.version.hip is None and tuple(int(n) for n in torch.__version__.split(".")[:2]) >= (2, 8)


def _product_dtype(input: Tensor) -> torch.dtype:
    """What the products' operands are cast to: as F.linear does on a GPU, float32 or float64 elsewhere."""
    device = input.device.type
    if device != "cuda" or not _WIDE_RESULTS or input.dtype == torch.float64:
        return compute_dtype(input)
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else input.dtype


def _wide(a: Tensor) -> Tensor:
    return a.to(compute_dtype(a))


def _mm(a: Tensor, b: Tensor) -> Tensor:
    """a @ b of operands of one dtype, in float32 at least."""
    if a.dtype in NARROW:
        product: Tensor = torch.mm(a, b, out_dtype=torch.float32)  # type: ignore[call-overload]
        return product
    return a @ b


def _mm_wide(a: Tensor, b: Tensor) -> Tensor:
    """a @ b where b is float32 at least and a may be narrower: b goes in as the sum of two numbers of a's dtype."""
    if a.dtype not in NARROW:
        return a @ b
    scale = b.abs().max().clamp_min(torch.finfo(b.dtype).tiny)  # float16 has no room for large numbers
    b = b / scale
    high = b.to(a.dtype)
    low = (b - high).to(a.dtype)
    return (_mm(a, high) + _mm(a, low)) * scale


def _row_products(H: Tensor, h: Tensor, rows: Tensor) -> Tensor:
    """h . row for each row, h being H widened; in float64 for float32 operands, where the error would be largest."""
    if H.dtype != torch.float32 or H.device.type not in ("cpu", "cuda"):  # Apple's GPUs have no float64
        products: Tensor = torch.linalg.vecdot(h, rows)
        return products
    at_once = len(h) if h.is_cuda else max(1, (1 << 17) // h.shape[1])  # on a CPU, what stays in its cache
    parts = zip(torch.split(h, at_once), torch.split(rows, at_once), strict=True)
    return torch.cat([torch.linalg.vecdot(a.double(), b.double()) for a, b in parts]).to(h.dtype)


def _gram_of(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """a^T b, known to be symmetric, of shape (d, d)."""
    a, b = a.detach().to(dtype), b.detach().to(dtype)
    d = a.shape[1]
    if a.is_cuda or dtype in NARROW or d < 256:
        return _mm(a.T, b)
    # A CPU is bound by the arithmetic: four strips of the upper triangle are five eighths of it.
    gram = torch.empty(d, d, dtype=dtype, device=a.device)
    step = -(-d // 4)
    for start in range(0, d, step):
        stop = min(start + step, d)
        strip = a[:, start:stop].T @ b[:, start:]
        gram[start:stop, start:] = strip
        gram[stop:, start:stop] = strip[:, stop - start :].T
    return gram


_KEPT: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
"""G of weights that need no gradient, with the state of the weight that it belongs to."""


def _kept_gram(W: Tensor, dtype: torch.dtype) -> Tensor | None:
    if W.requires_grad or W.is_inference():
        return None
    state, gram = _KEPT.get(W, (None, None))  # type: ignore[no-untyped-call]
    return gram if state == _state(W, dtype) else None


def _state(W: Tensor, dtype: torch.dtype) -> tuple[Any, ...]:
    """What G belongs to; the address as well, because ``Module.to`` puts other values there at the same version."""
    return W._version, W.data_ptr(), W.device, dtype


def _layer_gram(W: Tensor, dtype: torch.dtype) -> Tensor:
    gram = _kept_gram(W, dtype)
    if gram is None:
        gram = _gram_of(W, W, dtype)
        if not W.requires_grad and not W.is_inference():
            _KEPT[W] = (_state(W, dtype), gram)
    return gram


# ---------------------------------------------------------------- the Gram form


class _GramForm(torch.autograd.Function):
    """Loss and gradient of the input in the forward pass, gradients of the parameters in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        W: Tensor,
        b: Tensor | None,
        problem: _Problem,
        reduction: str,
        accumulation: GradientAccumulation | None,
    ) -> Tensor:
        k, M = problem.k, problem.M
        A, B = problem.square, problem.linear
        H = input.to(problem.dtype)
        gram = accumulation._step_gram(W, b, problem.dtype) if accumulation else _layer_gram(W, problem.dtype)
        h = _wide(H)
        true_class, here = problem.true_class_here(len(W))
        W_true = _wide(W[true_class].to(problem.dtype))
        if len(W) < problem.num_classes:  # with the true class on another rank, there is nothing to single out here
            W_true *= here.unsqueeze(1)

        f_true = _row_products(H, h, W_true)
        V = _mm_wide(H, gram)  # the sum of f_i W_i
        outer: Tensor | float = 0.0  # the sum of f_i b_i over the wrong classes
        if b is not None:
            bias = _wide(b)
            b_true = bias[true_class] * here
            f_true += b_true
            Wb = _mm_wide(W.to(problem.dtype).T, bias.unsqueeze(1)).squeeze(1)
            V += Wb
            outer = h @ Wb + bias.dot(bias) - f_true * b_true
        V.addcmul_(f_true.unsqueeze(1), W_true, value=-1.0)  # over the wrong classes
        squares = _row_products(H, h, V) + outer
        true_term = here * (problem.on * k * (f_true - M).square() + (1.0 - problem.on) * f_true.square())
        true_slope = here * (problem.on * k * (f_true - M) + (1.0 - problem.on) * f_true)
        value = A * squares + true_term
        if B:
            W_sum = W.sum(0, dtype=h.dtype)
            wrong = h @ W_sum - f_true
            if b is not None:
                wrong += bias.sum()
            value += (len(W) - here) * B * M - 2.0 * B * wrong
        value = value / problem.num_classes

        input_gradient = None
        if ctx.needs_input_grad[0]:
            input_gradient = V.mul_(A).addcmul_((true_slope + B).unsqueeze(1), W_true)  # W_true is 0 elsewhere
            if B:
                input_gradient -= B * W_sum
        ctx.save_for_backward(input, W, b, input_gradient, true_class, true_slope - A * f_true + B * here)
        ctx.problem, ctx.accumulation = problem, accumulation

        value = torch.where(problem.rows == 0, 0.0, value * problem.rows)
        if reduction == "none":
            return value
        return value.sum() / problem.normaliser if problem.normaliser is not None else value.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        input, W, b, input_gradient, true_class, true_weight = ctx.saved_tensors
        problem: _Problem = ctx.problem
        scale = grad_output if problem.normaliser is None else grad_output / problem.normaliser
        scale = torch.where(problem.rows == 0, 0.0, scale * problem.rows) * (2.0 / problem.num_classes)

        dH = None if input_gradient is None else (input_gradient * scale.unsqueeze(1)).to(input.dtype)
        _, needs_weight, needs_bias, *_ = ctx.needs_input_grad
        if not needs_weight and not needs_bias:
            return dH, None, None, None, None, None
        with torch.autocast(input.device.type, enabled=False):
            H = input.to(problem.dtype)
            sums = _sums(H, scale, problem, needs_weight)
            true_weight = true_weight * scale
            if ctx.accumulation is not None:
                ctx.accumulation._add(sums, true_class, true_weight, H)
                return dH, None, None, None, None, None
            dW, db = _dense_gradients(W, b, sums)
            _scatter(dW, db, true_class, true_weight, H)
        dW = None if dW is None else dW.to(W.dtype)
        db = None if db is None or b is None or not needs_bias else db.to(b.dtype)
        return dH, dW, db, None, None, None


class _Sums(NamedTuple):
    """Sums over the rows, each times its scale, that the dense part of the parameters' gradients is made of."""

    products: Tensor | None  # of h h^T, (d, d); None where the weight needs no gradient
    features: Tensor  # of h, (d)
    rows: Tensor  # of 1, ()
    problem: _Problem

    def plus(self, other: _Sums) -> _Sums:
        mine, theirs = self.problem, other.problem
        if (mine.square, mine.linear, mine.dtype) != (theirs.square, theirs.linear, theirs.dtype):
            raise ValueError("k, M, label_smoothing and autocast must stay the same within an accumulation")
        products = None if self.products is None or other.products is None else self.products + other.products
        return _Sums(products, self.features + other.features, self.rows + other.rows, mine)


def _sums(H: Tensor, scale: Tensor, problem: _Problem, needs_weight: bool) -> _Sums:
    products = None
    if needs_weight:
        # Relative to the largest scale: 16 bits would not hold it, and for a mean over equal rows it is exact.
        largest = scale.abs().max().clamp_min(torch.finfo(scale.dtype).tiny)
        products = _gram_of(H * (scale / largest).to(H.dtype).unsqueeze(1), H, problem.dtype).mul_(largest)
    return _Sums(products, scale @ _wide(H), scale.sum(), problem)


def _dense_gradients(W: Tensor, b: Tensor | None, sums: _Sums) -> tuple[Tensor | None, Tensor | None]:
    """What all classes' terms (2/C) (A f_i - B) give the weight, (C, d), and the bias, (C)."""
    dtype = sums.features.dtype
    A, B = sums.problem.square, sums.problem.linear
    W = W.to(sums.problem.dtype)
    bias = None if b is None else b.to(dtype)
    dW = db = None
    if sums.products is not None:
        dW = _mm_wide(W, sums.products * A)
        if bias is not None or B:
            rank_one = torch.full((len(W),), -B, dtype=dtype, device=W.device) if bias is None else A * bias - B
            dW.addr_(rank_one, sums.features)
    if bias is not None:
        db = A * (_mm_wide(W, sums.features.unsqueeze(1)).squeeze(1) + bias * sums.rows) - B * sums.rows
    return dW, db


def _scatter(dW: Tensor | None, db: Tensor | None, true_class: Tensor, true_weight: Tensor, H: Tensor) -> None:
    """Adds, in place, what the true classes' terms give beyond that."""
    if dW is not None:
        dW.index_add_(0, true_class, true_weight.unsqueeze(1) * H)
    if db is not None:
        db.index_add_(0, true_class, true_weight)
