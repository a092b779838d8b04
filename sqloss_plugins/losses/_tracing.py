"""Where the losses may not use a backward pass or a fast path of their own, and where a fast path pays."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.forward_ad import unpack_dual
from torch.fx.experimental.proxy_tensor import get_proxy_mode


def is_traced(*tensors: Tensor | None) -> bool:
    """Whether more is at work than these very tensors, so that no value may decide what is computed.

    True under a compiler or a tracer (``torch.compile``, ``torch.export``, ``torch.jit.trace``, ``make_fx``,
    ``aot_function``), which records what one input needs and replays it for others; under a ``torch.func`` transform;
    and for subclasses of Tensor, such as DTensor.

    Args:
        *tensors: the inputs of the loss; None is passed over.
    """
    if (
        torch.compiler.is_compiling()  # first: a compiler need not look at the rest
        or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        or get_proxy_mode() is not None
        or torch._C._are_functorch_transforms_active()  # PyTorch 2.14 has no public function for it
    ):
        return True
    return not _PLAIN_TYPES.issuperset(map(type, tensors))


_PLAIN_TYPES = frozenset((Tensor, nn.Parameter, type(None)))


_SMALL = 1 << 16
"""Outputs (N x C) up to which Python's overhead is most of a loss's time."""


def is_small(input: Tensor, target: Tensor, ignore_index: int, reduction: str) -> bool:
    """Whether a loss may take a way of few operations, on outputs (N, C) and class indices.

    Fine-tuning a classifier calls the loss on outputs of shape (32, 2) or so. That no target is ignored or out of range
    is left to the operations on them, which raise RuntimeError.
    """
    return (
        not is_traced(input, target)  # first, so that no condition on the shapes enters a graph
        and input.is_cpu
        and target.is_cpu
        and input.dtype in (torch.float32, torch.float64)
        and input.dim() == 2
        and 0 < input.numel() <= _SMALL
        and target.dtype == torch.int64
        and target.dim() == 1
        and target.size(0) == input.size(0)
        and not 0 <= ignore_index < input.size(1)
        and reduction in ("mean", "sum")
        and not torch.is_autocast_enabled("cpu")
    )


def needs_plain_operations(*tensors: Tensor | None) -> bool:
    """Whether a loss must consist of PyTorch's own differentiable operations, none of them in place.

    True where :func:`is_traced` is, and with forward-mode differentiation and batched gradients as well, which an
    ``autograd.Function`` with a backward pass alone does not serve.

    Args:
        *tensors: the inputs of the loss, or of its backward pass; None is passed over.
    """
    if is_traced(*tensors):
        return True
    for tensor in tensors:
        if tensor is None:
            continue
        if unpack_dual(tensor).tangent is not None:  # type: ignore[no-untyped-call]
            return True
        if torch._C._functorch.is_legacy_batchedtensor(tensor):  # is_grads_batched; again nothing public
            return True
    return False
