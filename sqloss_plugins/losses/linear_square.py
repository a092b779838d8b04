"""A linear layer and the square loss of its outputs in one, with the outputs or without them.

The form without them is in ``_gram_form.py``; which of the two is faster is in ``cost_model.py``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sqloss_plugins.losses._gram_form import GramForm, Problem
from sqloss_plugins.losses._module import ClassificationLoss
from sqloss_plugins.losses._products import product_dtype, wide
from sqloss_plugins.losses._targets import (
    check_input,
    check_options,
    compute_dtype,
    index_targets,
    result_dtype,
    rows_that_count,
)
from sqloss_plugins.losses._tracing import needs_plain_operations
from sqloss_plugins.losses.accumulation import GradientAccumulation
from sqloss_plugins.losses.class_shard import ClassShard
from sqloss_plugins.losses.cost_model import prefers_gram
from sqloss_plugins.losses.square import check_rescaling, square_loss

IMPLEMENTATIONS = ("auto", "direct", "gram")

_SMALL = 1 << 16
"""Outputs (N x C) up to which the choice would cost more than the outputs."""


def linear_square_loss(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    ignore_index: int | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    k: float = 1.0,
    M: float = 1.0,
    prior_weight: Tensor | None = None,
    impl: str = "auto",
    precise_value: bool = False,
    accumulation: GradientAccumulation | None = None,
    shard: ClassShard | None = None,
) -> Tensor:
    """``square_loss(F.linear(input, linear_weight, linear_bias), target, ...)`` without building the outputs.

    Arguments and conventions are those of :func:`torch.nn.functional.linear_cross_entropy` (PyTorch 2.13).

    Args:
        input: what the linear layer is given, floating point, of shape (d) or (N, d).
        linear_weight: the layer's weight W, of shape (C, d); or (C, d1, ..., dK, d) with an input of shape (N, d).
        target: class indices, int64, of shape (), (N) or (N, d1, ..., dK), each in [0, C) or ``ignore_index``; or
            class probabilities, of shape (C), (N, C) or (N, C, d1, ..., dK). Ignored rows cost nothing.
        linear_bias: the layer's bias b, of shape (C) or (C, d1, ..., dK).
        ignore_index: a class index that counts for nothing; None, for -100, with class probabilities.
        weight, reduction, label_smoothing, k, M, prior_weight: as in :func:`sqloss_plugins.losses.square_loss`.
        impl: ``"direct"`` builds the outputs, ``"gram"`` does not, and ``"auto"`` takes what should be faster
            (:func:`gram_pays`, whose figures for CUDA are from a data sheet and not measured). Class probabilities,
            class weights or a prior weight with label smoothing, dimensions d1, ..., dK, tracers, torch.func
            transforms, forward-mode differentiation and subclasses of Tensor have no Gram form: ``"auto"`` builds the
            outputs.
        precise_value: makes the value of a float32 loss near zero as precise as the outputs would: the Gram form's is
            a relative 4e-5 off where outputs are a hundredth of M from their targets (k = 1), and more when closer.
            G and its products with the input are then in float64, which takes 1.6 to 1.9 times as long. Gradients do
            not need it, and the direct form has it anyway.
        accumulation: what the micro-batches of an optimiser step share; for ``"gram"``, and for ``"auto"`` where it
            takes the Gram form for the whole step. The parameters' gradients then come with its ``finish()``.
        shard: which classes the rows of ``linear_weight`` and ``linear_bias`` are, where every rank has some of them.
            All ranks have the same input, targets (of all C classes) and result. Always the Gram form. Neither an
            accumulation nor a shard goes with a prior weight.

    Returns:
        A scalar, or for ``"none"`` a tensor of the shape of class indices; dtype as that of ``square_loss``.

    Raises:
        ValueError: unknown reduction or impl; k or M not positive and finite; shapes or devices that do not fit;
            ``"gram"`` or a shard where there is no Gram form; ``"direct"`` with a shard or an accumulation.
        IndexError: a target out of range; on CUDA too, but for dimensions d1, ..., dK.
        RuntimeError: label smoothing outside [0, 1]; dtypes that do not fit; ``ignore_index`` with probabilities;
            second derivatives with an accumulation, or of the input with a shard, when they are asked for.

    The G of a weight that needs no gradient is kept for as long as the weight's version counter stays the same. Writes
    to ``weight.data`` do not change that counter: write to the weight itself, under ``torch.no_grad()``. A step under
    ``torch.compile`` calls this function uncompiled.

    Examples:
        >>> import torch
        >>> from sqloss_plugins import linear_square_loss, square_loss
        >>> _ = torch.manual_seed(0)
        >>> hidden, W, target = torch.randn(8, 4), torch.randn(5000, 4), torch.randint(5000, (8,))
        >>> loss = linear_square_loss(hidden, W, target, k=15, M=30)
        >>> torch.allclose(loss, square_loss(hidden @ W.T, target, k=15, M=30))
        True
    """
    arguments = _Arguments(
        input,
        linear_weight,
        linear_bias,
        target,
        weight,
        ignore_index,
        reduction,
        label_smoothing,
        k,
        M,
        prior_weight,
        precise_value,
    )
    # Not by a decorator, which imports the compiler with this module and takes seconds.
    compute = torch.compiler.disable(_loss) if torch.compiler.is_compiling() else _loss  # type: ignore[no-untyped-call]
    loss: Tensor = compute(arguments, impl, accumulation, shard)
    return loss


class LinearSquareLoss(ClassificationLoss):
    """A linear layer and the square loss of its outputs, as :class:`torch.nn.LinearCrossEntropyLoss` (PyTorch 2.13).

    The layer is ``self.linear``, whose outputs are what a prediction is made of; to tie its weight, assign it.

    Args:
        in_features: d.
        num_classes: C.
        out_features: d1, ..., dK; the weight of ``self.linear`` is of shape (C * d1 * ... * dK, d).
        bias: whether the layer has one.
        device, dtype: of the layer's parameters.
        weight, ignore_index, reduction, label_smoothing, k, M, prior_weight, impl, precise_value: as in
            :func:`linear_square_loss`.

    Raises:
        ValueError, RuntimeError: as :func:`linear_square_loss`.

    Examples:
        >>> import torch
        >>> from sqloss_plugins import LinearSquareLoss
        >>> head = LinearSquareLoss(16, 5000, bias=True)
        >>> loss = head(torch.randn(8, 16), torch.randint(5000, (8,)))
        >>> head.linear(torch.randn(8, 16)).argmax(dim=1).shape  # predictions
        torch.Size([8])
    """

    prior_weight: Tensor | None

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        out_features: tuple[int, ...] = (),
        bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        weight: Tensor | None = None,
        ignore_index: int | None = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        k: float = 1.0,
        M: float = 1.0,
        prior_weight: Tensor | None = None,
        impl: str = "auto",
        precise_value: bool = False,
    ) -> None:
        super().__init__(weight, reduction=reduction, label_smoothing=label_smoothing)
        _check_form(k, M, impl)
        self.register_buffer("prior_weight", prior_weight)
        self.ignore_index = ignore_index
        self.num_classes = num_classes
        self.out_features = tuple(out_features)
        outputs = math.prod(self.out_features, start=num_classes)
        self.linear = nn.Linear(in_features, outputs, bias=bias, device=device, dtype=dtype)
        self.k = k
        self.M = M
        self.impl = impl
        self.precise_value = precise_value

    def forward(self, input: Tensor, target: Tensor, accumulation: GradientAccumulation | None = None) -> Tensor:
        """The loss; shapes as in :func:`linear_square_loss`."""
        linear_weight: Tensor = self.linear.weight
        linear_bias: Tensor | None = self.linear.bias
        if self.out_features:
            linear_weight = linear_weight.view(self.num_classes, *self.out_features, -1)
            linear_bias = None if linear_bias is None else linear_bias.view(self.num_classes, *self.out_features)
        loss: Tensor = linear_square_loss(
            input,
            linear_weight,
            target,
            linear_bias=linear_bias,
            **self.options(),
            k=self.k,
            M=self.M,
            prior_weight=self.prior_weight,
            impl=self.impl,
            precise_value=self.precise_value,
            accumulation=accumulation,
        )
        return loss

    def extra_repr(self) -> str:
        """k, M and impl, shown by print(module)."""
        return f"k={self.k:g}, M={self.M:g}, impl={self.impl!r}"


class _Arguments(NamedTuple):
    """Arguments of :func:`linear_square_loss`; from :func:`_validate` on the input is a batch."""

    input: Tensor
    linear_weight: Tensor
    linear_bias: Tensor | None
    target: Tensor
    weight: Tensor | None
    ignore_index: int | None
    reduction: str
    label_smoothing: float
    k: float
    M: float
    prior_weight: Tensor | None
    precise_value: bool

    @property
    def ignored_class(self) -> int:
        """The class index that counts for nothing."""
        return -100 if self.ignore_index is None else self.ignore_index


def _loss(
    arguments: _Arguments, impl: str, accumulation: GradientAccumulation | None, shard: ClassShard | None
) -> Tensor:
    batch = _validate(arguments, impl, accumulation, shard)
    loss = _dispatch(batch, impl, accumulation, shard)
    return loss.squeeze(0) if batch.reduction == "none" and arguments.input.dim() == 1 else loss


# ---------------------------------------------------------------- validate


def _validate(
    arguments: _Arguments, impl: str, accumulation: GradientAccumulation | None, shard: ClassShard | None
) -> _Arguments:
    """Refuses what does not fit together, before any work, and makes a batch of an input of shape (d)."""
    check_options(arguments.reduction, arguments.label_smoothing)
    _check_form(arguments.k, arguments.M, impl)
    if impl == "direct" and (accumulation is not None or shard is not None):
        raise ValueError("accumulation and shard are of the Gram form: leave impl at 'auto'")
    if arguments.prior_weight is not None and (accumulation is not None or shard is not None):
        raise ValueError("a prior weight has neither an accumulation nor a shard: leave them out")
    _check_layer(arguments)
    input, W, target = arguments.input, arguments.linear_weight, arguments.target
    C = shard.num_classes if shard else len(W)
    if shard is not None and not 0 <= shard.first <= C - len(W):
        raise ValueError(f"the {len(W)} classes of the shard, from number {shard.first} on, are not all among the {C}")
    if input.dim() == 1:
        input = input.unsqueeze(0)
        target = target if target.shape == (1,) != (C,) else target.unsqueeze(0)
    N, more = len(input), W.shape[1:-1]
    if target.shape == (N, C, *more):
        if arguments.ignore_index is not None:
            raise RuntimeError("ignore_index is for class indices: leave it out with class probabilities")
    elif target.shape != (N, *more):
        raise ValueError(
            f"the target is of shape {tuple(target.shape)}: give class indices of shape {(N, *more)} or class "
            f"probabilities of shape {(N, C, *more)}"
        )
    return arguments._replace(input=input, target=target)


def _check_form(k: float, M: float, impl: str) -> None:
    """Raises ValueError unless k and M are positive and finite and the implementation is known."""
    check_rescaling(k, M)
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"unknown impl {impl!r}: choose from {', '.join(IMPLEMENTATIONS)}")


def _check_layer(arguments: _Arguments) -> None:
    """Checks input, weight and bias against each other, and the device of all.

    Raises:
        NotImplementedError: inputs that are not floating point.
        RuntimeError: input and weight of different dtypes.
        ValueError: anything else that does not fit.
    """
    input, W, b, target, weight = arguments[:5]
    prior_weight = arguments.prior_weight
    check_input(input)
    if input.dim() not in (1, 2):
        raise ValueError(f"the input is of shape (d) or (N, d), got {tuple(input.shape)}")
    if W.dim() < 2 or W.shape[-1] != input.shape[-1]:
        raise ValueError(
            f"linear_weight is of shape (C, d) or (C, d1, ..., dK, d) with the input's d = {input.shape[-1]}, "
            f"got {tuple(W.shape)}"
        )
    if W.dim() > 2 and input.dim() == 1:
        raise ValueError(f"a linear_weight of shape {tuple(W.shape)} needs an input of shape (N, d)")
    if b is not None and b.shape != W.shape[:-1]:
        raise ValueError(f"linear_bias is of shape {tuple(W.shape[:-1])}, as linear_weight, got {tuple(b.shape)}")
    if prior_weight is not None and prior_weight.shape != W.shape[:1]:
        raise ValueError(f"prior_weight is of shape {tuple(W.shape[:1])}, got {tuple(prior_weight.shape)}")
    tensors = {"linear_weight": W, "target": target, "linear_bias": b, "weight": weight, "prior_weight": prior_weight}
    for name, tensor in tensors.items():
        if tensor is not None and tensor.device != input.device:
            raise ValueError(f"{name} is on {tensor.device} and the input on {input.device}")
    if not torch.is_autocast_enabled(input.device.type) and {W.dtype, *([] if b is None else [b.dtype])} != {
        input.dtype
    }:
        names = ", ".join(str(tensor.dtype) for tensor in (input, W, b) if tensor is not None)
        raise RuntimeError(f"input, linear_weight and linear_bias must have one dtype, got {names}")


# ---------------------------------------------------------------- dispatch


def _dispatch(
    arguments: _Arguments, impl: str, accumulation: GradientAccumulation | None, shard: ClassShard | None
) -> Tensor:
    """Leaves out the rows that are ignored, chooses the form, and applies it."""
    input, W, b, target = arguments[:4]
    plain = needs_plain_operations(input, W, b, target)
    no_gram = _why_no_gram_form(arguments)
    if plain:
        no_gram = "tracers, torch.func transforms, forward-mode differentiation and subclasses of Tensor have"
    if (impl == "gram" or shard is not None) and no_gram is not None:
        raise ValueError(f"{no_gram} no Gram form: leave impl at 'auto', without a shard")
    if shard is not None:
        impl, input = "gram", shard.shared(input)
        arguments = arguments._replace(input=input)
    N, C = len(input), shard.num_classes if shard else len(W)
    small = N * C <= _SMALL

    kept = None
    if target.dim() == 1 and not plain and (not small or impl == "gram" or target.is_cuda):
        kept = rows_that_count(target, C, arguments.ignored_class)
        if kept is not None:
            arguments = arguments._replace(input=input[kept], target=target[kept])
    steps = accumulation.steps if accumulation else 1
    if impl == "gram" or (
        impl == "auto"
        and no_gram is None
        and not small
        and prefers_gram(arguments.input, W, steps, arguments.precise_value)
    ):
        loss = _gram_form(arguments, accumulation, shard)
    else:
        loss = _direct_form(arguments)
    if arguments.reduction == "none" and kept is not None:
        loss = loss.new_zeros(N).index_put((kept,), loss)
    return loss


def _why_no_gram_form(arguments: _Arguments) -> str | None:
    """The start of a sentence that says why these arguments have no Gram form; None where they have one."""
    if arguments.linear_weight.dim() > 2:
        return "dimensions d1, ..., dK have"
    if arguments.target.dim() > 1:
        return "class probabilities as targets have"
    if arguments.label_smoothing > 0.0:
        if arguments.weight is not None:
            return "class weights with label smoothing have"
        if arguments.prior_weight is not None:
            return "prior weights with label smoothing have"
    return None


# ---------------------------------------------------------------- apply


def _direct_form(arguments: _Arguments) -> Tensor:
    """The loss from the outputs, of shape (N, C) or (N, C, d1, ..., dK)."""
    input, W, b = arguments.input, arguments.linear_weight, arguments.linear_bias
    if W.dim() == 2:
        outputs = F.linear(input, W, b)
    else:
        outputs = F.linear(input, W.flatten(0, -2), None if b is None else b.flatten())
        outputs = outputs.view(len(input), *W.shape[:-1])
    return square_loss(
        outputs,
        arguments.target,
        arguments.weight,
        ignore_index=arguments.ignored_class,
        reduction=arguments.reduction,
        label_smoothing=arguments.label_smoothing,
        k=arguments.k,
        M=arguments.M,
        prior_weight=arguments.prior_weight,
    )


def _gram_form(arguments: _Arguments, accumulation: GradientAccumulation | None, shard: ClassShard | None) -> Tensor:
    """The loss without the outputs.

    With prior weights v it is that of the outputs f_i / sqrt(v_i), whose targets are M / sqrt(v_i), and a constant.
    """
    input, W, b, reduction = arguments.input, arguments.linear_weight, arguments.linear_bias, arguments.reduction
    C = shard.num_classes if shard else len(W)
    targets = index_targets(
        input.new_empty(()).expand(len(input), C),
        arguments.target,
        arguments.weight,
        arguments.ignored_class,
        arguments.label_smoothing,
    )
    true_class, M = targets.true_class.squeeze(1), float(arguments.M)
    target_output: float | Tensor = M
    constant: float | Tensor = 0.0
    if arguments.prior_weight is not None:
        root = arguments.prior_weight.to(compute_dtype(input)).rsqrt()
        W, b = wide(W) * root.unsqueeze(1), None if b is None else wide(b) * root
        target_output = M * root[true_class]
        constant = M**2 - target_output.square()
    problem = Problem(
        true_class=true_class,
        rows=targets.rows,
        normaliser=targets.normaliser if reduction == "mean" else None,
        reduction=reduction,
        on=float(targets.on),
        off=float(targets.off),
        k=float(arguments.k),
        M=target_output,
        constant=constant,
        dtype=product_dtype(input),
        value_dtype=torch.float64 if arguments.precise_value else product_dtype(input),
        first_class=shard.first if shard else 0,
        num_classes=C,
    )
    with torch.autocast(input.device.type, enabled=False):
        loss: Tensor = GramForm.apply(input, W, b, problem, accumulation)  # type: ignore[no-untyped-call]
    return (shard.total(loss) if shard else loss).to(result_dtype(input))
