"""Where the losses may not take a shorter way of their own."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.forward_ad import unpack_dual
from torch.fx.experimental.proxy_tensor import get_proxy_mode


def needs_plain_operations(*tensors: Tensor | None) -> bool:
    """Whether a loss must consist of PyTorch's own operations, none of them in place and no value deciding which.

    True under a compiler or a tracer (``torch.compile``, ``torch.export``, ``torch.jit.trace``, ``make_fx``,
    ``aot_function``), which records what one input needs and replays it for others; under a ``torch.func`` transform,
    batched gradients or forward-mode differentiation, which an ``autograd.Function`` with a backward pass alone does
    not serve; and for subclasses of Tensor such as DTensor.

    Args:
        *tensors: the inputs of the loss; None is passed over.
    """
    if (
        torch.compiler.is_compiling()  # first: a compiler need not look at the rest
        or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        or get_proxy_mode() is not None
        # PyTorch 2.14 has no public function that says this. Batched gradients are seen by it as well.
        or torch._C._are_functorch_transforms_active()
    ):
        return True
    for tensor in tensors:
        if tensor is None:
            continue
        if type(tensor) not in (Tensor, nn.Parameter):
            return True
        if unpack_dual(tensor).tangent is not None:  # type: ignore[no-untyped-call]
            return True
    return False
