"""The weights of the prior-weighted square loss, from how often each class occurs."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def prior_weights(counts: Tensor, exponent: float = 1.0) -> Tensor:
    """v_i = (C p_i)^exponent, where p_i is the share of class i: the ``prior_weight`` of :func:`square_loss`.

    With exponent 1 an error of p_i counts relative to the frequency of the class, as it does in the likelihood where
    the input tells little; with 0 the loss is the plain one. An output layer is then best trained as f = v (W h + b):
    its rows times v, so that a step of the optimiser is relative to the frequency, too.

    Args:
        counts: how often each class occurs in the training data, all above 0 (one more than it occurs, say); of shape
            (C).
        exponent: from 0 to 1.

    Returns:
        The weights, float32, of shape (C).

    Raises:
        ValueError: counts that are not positive; an exponent outside [0, 1].

    Examples:
        >>> import torch
        >>> from sqloss_plugins import prior_weights
        >>> prior_weights(torch.tensor([90, 10]))
        tensor([1.8000, 0.2000])
    """
    if not 0.0 <= exponent <= 1.0:
        raise ValueError(f"the exponent of the prior must be from 0 to 1, got {exponent:g}")
    if counts.dim() != 1 or not bool((counts > 0).all()) or not math.isfinite(float(counts.double().sum())):
        raise ValueError("the classes' counts must be positive and finite, one for each class")
    wide = counts.double()
    return ((wide / wide.mean()) ** exponent).to(torch.float32)
