"""A loss of one's own, the Brier score: all that it takes beside its entry in LOSSES."""

import torch
from torch import Tensor

from sqloss_plugins.losses._module import ClassificationLoss
from sqloss_plugins.losses.square import square_loss


class BrierLoss(ClassificationLoss):
    """The square loss of the softmax, sum_i (softmax(f)_i - [i == c])^2, with the options of cross-entropy."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss; shapes as in cross-entropy."""
        dim = 0 if input.dim() == 1 else 1
        return input.shape[dim] * square_loss(torch.softmax(input, dim), target, **self.options())
