"""A linear layer whose classes lie on several ranks, as in tensor parallelism."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable


class ClassShard(NamedTuple):
    """Which classes this rank's rows of the weight are.

    The sum of squares is one sum for each rank, with the rank's own G. Only the loss goes between the ranks, and the
    gradient of the input, which every layer whose outputs are divided among ranks has to add up.

    Attributes:
        first: the number of the rank's first class.
        num_classes: C, of all ranks together.
        group: the process group; None for all ranks.

    Examples:
        >>> ClassShard(first=50_000, num_classes=100_000)  # of the second of two ranks
        ClassShard(first=50000, num_classes=100000, group=None)
    """

    first: int
    num_classes: int
    group: dist.ProcessGroup | None = None

    def shared(self, input: Tensor) -> Tensor:
        """The input, the same on all ranks; its gradient is the sum over the ranks, once differentiable."""
        result: Tensor = _SumOfGradients.apply(input, self.group)  # type: ignore[no-untyped-call]
        return result

    def total(self, value: Tensor) -> Tensor:
        """The sum of the ranks' values, the same on all ranks."""
        result: Tensor = _SumOfValues.apply(value, self.group)  # type: ignore[no-untyped-call]
        return result


class _SumOfGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ctx.group = group
        return input.view_as(input)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient, group=ctx.group)
        return gradient, None


class _SumOfValues(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        value = value.clone()
        dist.all_reduce(value, group=group)
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None
