"""Classification losses on raw outputs, each with the conventions of :func:`torch.nn.functional.cross_entropy`.

The registry maps the names that every command line of this package uses to loss modules. Cross-entropy is PyTorch's.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from sqloss_plugins.losses._targets import check_options
from sqloss_plugins.losses.class_shard import ClassShard
from sqloss_plugins.losses.linear_square import GradientAccumulation, LinearSquareLoss, gram_pays, linear_square_loss
from sqloss_plugins.losses.square import SquareLoss, check_rescaling, square_loss
from sqloss_plugins.losses.squentropy import SquentropyLoss, squentropy_loss

LOSSES: dict[str, type[nn.Module]] = {
    "square": SquareLoss,
    "cross_entropy": nn.CrossEntropyLoss,
    "squentropy": SquentropyLoss,
}

__all__ = [
    "LOSSES",
    "ClassShard",
    "GradientAccumulation",
    "LinearSquareLoss",
    "SquareLoss",
    "SquentropyLoss",
    "check_rescaling",
    "gram_pays",
    "linear_square_loss",
    "make_loss",
    "square_loss",
    "squentropy_loss",
]


def make_loss(name: str, *, k: float | None = None, M: float | None = None, **options: Any) -> nn.Module:
    """A loss module by name.

    Args:
        name: a key of ``LOSSES``: ``square``, ``cross_entropy`` or ``squentropy``.
        k, M: rescaling, for the square loss alone; None means 1.
        **options: ``weight``, ``ignore_index``, ``reduction``, ``label_smoothing``.

    Raises:
        ValueError: unknown name or reduction; k or M given to a loss that has none, or not positive.
        RuntimeError: label smoothing outside [0, 1].
    """
    check_options(options.get("reduction", "mean"), options.get("label_smoothing", 0.0))
    if name not in LOSSES:
        raise ValueError(f"unknown loss {name!r}: choose from {', '.join(LOSSES)}")
    if name == "square":
        return SquareLoss(k=1.0 if k is None else k, M=1.0 if M is None else M, **options)
    if k is not None or M is not None:
        raise ValueError(f"k and M rescale the square loss; {name} has neither")
    return LOSSES[name](**options)
