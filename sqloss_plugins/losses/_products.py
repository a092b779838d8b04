"""Products of the linear layer's weight and inputs, wide enough that the Gram form is as precise as the outputs are.

"Wide" below is float32, or float64 where the operands are: what :func:`compute_dtype` returns.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from sqloss_plugins.losses._targets import compute_dtype

NARROW = (torch.float16, torch.bfloat16)

# cuBLAS accumulates 16-bit products in 32 bits; from PyTorch 2.8 on it can be asked to leave the result there.
_WIDE_RESULTS = torch.version.hip is None and tuple(int(n) for n in torch.__version__.split(".")[:2]) >= (2, 8)


def product_dtype(input: Tensor) -> torch.dtype:
    """The dtype of the products' operands: on a GPU that of F.linear, elsewhere a wide one."""
    device = input.device.type
    if device != "cuda" or not _WIDE_RESULTS or input.dtype == torch.float64:
        return compute_dtype(input)
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else input.dtype


def wide(a: Tensor) -> Tensor:
    """``a`` in its wide dtype."""
    return a.to(compute_dtype(a))


def mm(a: Tensor, b: Tensor) -> Tensor:
    """a @ b of operands of one dtype; the result is wide."""
    if a.dtype in NARROW:
        product: Tensor = torch.mm(a, b, out_dtype=torch.float32)  # type: ignore[call-overload]
        return product
    return a @ b


def mm_wide(a: Tensor, b: Tensor) -> Tensor:
    """a @ b where b is wide and a may be narrower: then b is split in a sum of two numbers of a's dtype."""
    if a.dtype not in NARROW:
        return a @ b
    scale = b.abs().max().clamp_min(torch.finfo(b.dtype).tiny)  # the range of float16 is small
    b = b / scale
    high = b.to(a.dtype)
    low = (b - high).to(a.dtype)
    return (mm(a, high) + mm(a, low)) * scale


def row_products(H: Tensor, h: Tensor, rows: Tensor) -> Tensor:
    """The product h . row of each row, where h is the wide H; shapes (N, d), (N, d), (N, d), result (N).

    For float32 operands it is summed in float64, because these sums have the largest rounding error.
    """
    if H.dtype != torch.float32 or H.device.type not in ("cpu", "cuda"):  # Apple's GPUs have no float64
        products: Tensor = torch.linalg.vecdot(h, rows)
        return products
    at_once = len(h) if h.is_cuda else max(1, (1 << 17) // h.shape[1])  # on a CPU, what stays in its cache
    parts = zip(torch.split(h, at_once), torch.split(rows, at_once), strict=True)
    return torch.cat([torch.linalg.vecdot(a.double(), b.double()) for a, b in parts]).to(h.dtype)


def gram_of(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """a^T b of two (n, d) matrices whose product is known to be symmetric; (d, d), without a graph."""
    a, b = a.detach().to(dtype), b.detach().to(dtype)
    d = a.shape[1]
    if a.is_cuda or dtype in NARROW or d < 256:
        return mm(a.T, b)
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
"""G = W^T W of weights that need no gradient, with the state of the weight that it belongs to."""


def kept_gram(W: Tensor, dtype: torch.dtype) -> Tensor | None:
    """G of a weight that needs no gradient, if it is there and the weight has not changed since."""
    if W.requires_grad or W.is_inference():
        return None
    state, gram = _KEPT.get(W, (None, None))  # type: ignore[no-untyped-call]
    return gram if state == _state(W, dtype) else None


def _state(W: Tensor, dtype: torch.dtype) -> tuple[Any, ...]:
    """What G belongs to; with the address, because ``Module.to`` puts other values there at the same version."""
    return W._version, W.data_ptr(), W.device, dtype


def layer_gram(W: Tensor, dtype: torch.dtype) -> Tensor:
    """G of a weight of shape (C, d): (d, d). Kept for the next call if the weight needs no gradient."""
    gram = kept_gram(W, dtype)
    if gram is None:
        gram = gram_of(W, W, dtype)
        if not W.requires_grad and not W.is_inference():
            _KEPT[W] = (_state(W, dtype), gram)
    return gram
