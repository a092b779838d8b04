"""What the loss modules share."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from sqloss_plugins.losses._targets import check_options


class ClassificationLoss(nn.Module):
    """Holds the options that every loss has, as :class:`torch.nn.CrossEntropyLoss` does.

    Args:
        weight: a weight for each class, of shape (C); a buffer, so that it moves with the module.
        ignore_index: a class-index target that counts for nothing.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        label_smoothing: in [0, 1].

    Raises:
        ValueError: unknown reduction.
        RuntimeError: label smoothing outside [0, 1].
    """

    weight: Tensor | None
    ignore_index: int | None

    def __init__(
        self,
        weight: Tensor | None = None,
        *,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        check_options(reduction, label_smoothing)
        self.register_buffer("weight", weight)
        self.ignore_index = ignore_index
        self.reduction = reduction
        self.label_smoothing = label_smoothing

    def options(self) -> dict[str, Any]:
        """The options as keyword arguments of the loss functions."""
        return {
            "weight": self.weight,
            "ignore_index": self.ignore_index,
            "reduction": self.reduction,
            "label_smoothing": self.label_smoothing,
        }
