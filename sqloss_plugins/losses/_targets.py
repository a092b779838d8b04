"""Targets, class weights, ``ignore_index`` and ``label_smoothing``, for every loss alike.

The conventions are those of :func:`torch.nn.functional.cross_entropy`: the class dimension is 1 (0 for an input
without a batch), targets are class indices or class probabilities, and ``weight``, ``ignore_index`` and
``label_smoothing`` mean what they mean there. Wherever possible it is PyTorch itself that checks them, so that
the errors are the same too.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

REDUCTIONS = ("none", "mean", "sum")


class IndexTargets(NamedTuple):
    """Class-index targets, ready for use.

    With label smoothing eps and class weights w, the soft target of a row with true class c is
    ``u_i = w_i * ((1 - eps) * [i == c] + eps / C)``. It is never built: ``on`` is its value at the true class,
    ``off`` its value at all others, ``total`` its sum over the classes.

    Attributes:
        true_class: the true class of each row, int64, with a class dimension of size 1; 0 <= index < C even where the
            target is ignored.
        rows: what each row counts for: 0 where the target is ignored, else 1, or the weight of its class where
            there is no label smoothing. Shape of the targets, dtype of the computation.
        normaliser: what ``mean`` divides by, the summed class weights of the targets that are not ignored.
        on, off, total: floats, or with weights *and* label smoothing tensors that broadcast against the input.
    """

    true_class: Tensor
    rows: Tensor
    normaliser: Tensor
    on: float | Tensor
    off: float | Tensor
    total: float | Tensor


def class_dim(input: Tensor) -> int:
    """The dimension that holds the classes."""
    return 0 if input.dim() == 1 else 1


def check_input(input: Tensor) -> None:
    """Refuses outputs that are not floating point, as cross-entropy does.

    Raises:
        NotImplementedError: integer or complex outputs.
    """
    if not input.is_floating_point():
        raise NotImplementedError(f"the outputs must be floating point, got {input.dtype}")


def check_linear_layer(input: Tensor, W: Tensor, b: Tensor | None, **others: Tensor | None) -> None:
    """Refuses the input and the parameters of a linear layer that do not fit together.

    Args:
        input: floating point, of shape (N, d).
        W: the weight, of shape (C, d).
        b: the bias, of shape (C).
        **others: tensors that must be on the input's device, by name.

    Raises:
        NotImplementedError: inputs that are not floating point.
        RuntimeError: input, weight and bias of different dtypes, but for autocast.
        ValueError: shapes or devices that do not fit.
    """
    check_input(input)
    if input.dim() != 2 or W.dim() != 2 or input.shape[1] != W.shape[1]:
        raise ValueError(
            f"the input is of shape (N, d) and linear_weight of shape (C, d), got {tuple(input.shape)} and "
            f"{tuple(W.shape)}"
        )
    if b is not None and b.shape != W.shape[:1]:
        raise ValueError(f"linear_bias is of shape {tuple(W.shape[:1])}, got {tuple(b.shape)}")
    for name, tensor in {"linear_weight": W, "linear_bias": b, **others}.items():
        if tensor is not None and tensor.device != input.device:
            raise ValueError(f"{name} is on {tensor.device} and the input on {input.device}")
    dtypes = {W.dtype, *([] if b is None else [b.dtype])}
    if not torch.is_autocast_enabled(input.device.type) and dtypes != {input.dtype}:
        raise RuntimeError(f"input, linear_weight and linear_bias must have one dtype, got {input.dtype} and {dtypes}")


def check_options(reduction: str, label_smoothing: float) -> None:
    """Refuses what cross-entropy refuses, with its exceptions.

    Raises:
        ValueError: unknown reduction.
        RuntimeError: label smoothing outside [0, 1].
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"{reduction} is not a valid value for reduction: choose from {', '.join(REDUCTIONS)}")
    if not 0.0 <= label_smoothing <= 1.0:
        raise RuntimeError(f"label_smoothing must be between 0.0 and 1.0. Got: {label_smoothing}")


def compute_dtype(input: Tensor) -> torch.dtype:
    """float64 stays; everything narrower is computed in float32."""
    return torch.float64 if input.dtype == torch.float64 else torch.float32


def result_dtype(input: Tensor) -> torch.dtype:
    """The dtype of the loss: the input's, float32 for narrower ones under autocast; as cross-entropy's."""
    device = input.device.type
    if input.dtype == torch.float64 or device == "meta":
        return input.dtype
    return torch.float32 if torch.is_autocast_enabled(device) else input.dtype


def are_probabilities(input: Tensor, target: Tensor) -> bool:
    """Whether the targets are class probabilities: those are the targets that have the input's shape."""
    return input.shape == target.shape


def rows_that_count(target: Tensor, C: int, ignore_index: int) -> Tensor | None:
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


def index_targets(
    input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, label_smoothing: float
) -> IndexTargets:
    """Checks class-index targets and resolves ``weight``, ``ignore_index`` and ``label_smoothing``.

    Raises:
        NotImplementedError: input that is not floating point.
        IndexError, RuntimeError, ValueError: as :func:`torch.nn.functional.cross_entropy` for the same input: a target
            out of range (on CUDA a device-side assertion), of a wrong dtype, shape or device; a weight that does not
            fit the number of classes.
    """
    check_input(input)
    if input.dim() == 1 and target.shape in ((), (1,)):
        target = target.reshape(())
    elif target.shape != input.shape[:1] + input.shape[2:]:
        F.nll_loss(input, target, weight, ignore_index=ignore_index)  # raises, in PyTorch's words
    dim = class_dim(input)
    num_classes = input.shape[dim]
    dtype = compute_dtype(input)
    if weight is not None:
        weight = weight.to(dtype)

    # nll_loss over a constant -1 is the class weight of each target, or 1; 0 where it is ignored. It checks the
    # targets as cross-entropy does, because this is what cross-entropy calls, and reads an expanded scalar only.
    minus_one = input.new_full((), -1.0, dtype=dtype)
    weights = F.nll_loss(
        minus_one.expand(target.numel(), num_classes),
        target.reshape(-1),
        weight,
        ignore_index=ignore_index,
        reduction="none",
    ).view(target.shape)
    true_class = target.long().clamp(0, num_classes - 1).unsqueeze(dim)
    normaliser = weights.sum()

    if label_smoothing == 0.0:
        return IndexTargets(true_class, weights, normaliser, 1.0, 0.0, 1.0)
    off = label_smoothing / num_classes
    if weight is None:
        return IndexTargets(true_class, weights, normaliser, 1.0 - label_smoothing + off, off, 1.0)
    per_class = [1] * input.dim()
    per_class[dim] = num_classes
    true_weight = weight[true_class]
    return IndexTargets(
        true_class,
        (target != ignore_index).to(dtype),
        normaliser,
        (1.0 - label_smoothing + off) * true_weight,
        off * weight.view(per_class),
        (1.0 - label_smoothing) * true_weight + off * weight.sum(),
    )


def probability_targets(
    input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, label_smoothing: float
) -> Tensor:
    """The soft targets u = q * w of class-probability targets q, after label smoothing.

    Raises:
        RuntimeError: integer targets of the input's shape, a weight that does not fit the number of classes,
            ``ignore_index`` >= 0 (probabilities cannot be ignored); all as cross-entropy.
    """
    check_input(input)
    dim = class_dim(input)
    num_classes = input.shape[dim]
    if not target.is_floating_point():
        raise RuntimeError(f"Expected floating point type for target with class probabilities, got {target.dtype}")
    if ignore_index >= 0:
        raise RuntimeError("ignore_index is not supported for floating point target")
    target = target.to(compute_dtype(input))
    if label_smoothing > 0.0:
        target = target * (1.0 - label_smoothing) + label_smoothing / num_classes
    if weight is None:
        return target
    if weight.dim() != 1 or weight.numel() != num_classes:
        raise RuntimeError(
            "weight tensor should be defined either for all "
            f"{num_classes} classes or no classes but got weight tensor of shape: {list(weight.shape)}"
        )
    per_class = [1] * input.dim()
    per_class[dim] = num_classes
    return target * weight.to(target.dtype).view(per_class)
