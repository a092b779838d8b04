"""Training an output layer with the prior-weighted square loss: where its rows begin, and how far a step moves them.

The outputs f_i that minimise the loss are about k M p_i, with p_i over several powers of ten, and an optimiser such as
Adam moves all parameters equally far. So the layer is trained as f_i = s_i (W_i h + b_i), with s_i in proportion to the
prior weight v_i. It is stored and used as a plain layer with the rows s_i W_i: those begin s_i times as large, and a
step of the optimiser is made s_i times as long, which for Adam is the same. Weight decay is s_i times as strong, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

_REACH = 4.0
"""Where v_i is C times the frequency, s_i is 4 times what the output is where the input tells nothing, k M p_i.
Measured: 1.6 times learns more slowly than 6.4 times, and 26 times not at all (recipes/language_model/RESULTS.md)."""


def row_scales(prior_weight: Tensor, k: float, M: float) -> Tensor:
    """s_i = 4 k (M / C) v_i, of shape (C), of the prior weights v, for the rescaling k and M."""
    return prior_weight * (_REACH * k * M / len(prior_weight))


@torch.no_grad()
def start_at_prior(layer: nn.Linear, counts: Tensor, prior_weight: Tensor, k: float, M: float) -> None:
    """Brings a new output layer to where the prior-weighted training begins.

    Its rows become s_i times as large, and its bias, if it has one, what minimises the loss where the input tells
    nothing: k M p_i / (1 + (k - 1) p_i), with the frequencies p_i of the classes.

    Args:
        layer: of C outputs, as it was made.
        counts: how often each class occurs, of shape (C).
        prior_weight: v, of shape (C).
        k, M: the rescaling.
    """
    layer.weight.mul_(row_scales(prior_weight, k, M).to(layer.weight).unsqueeze(1))
    if layer.bias is not None:
        p = counts.double() / counts.double().sum()
        layer.bias.copy_(k * M * p / (1.0 + (k - 1.0) * p))


class RowSteps:
    """Makes every step of an optimiser s_i times as long for row i of some parameters.

    Args:
        optimizer: its ``step`` calls hooks, as that of every :class:`torch.optim.Optimizer` does.
        parameters: of shape (C, ...).
        scales: s, of shape (C).
    """

    def __init__(self, optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor], scales: Tensor) -> None:
        self._parameters = parameters
        self._scales = scales
        self._before: list[Tensor] = []
        self._hooks = (
            optimizer.register_step_pre_hook(self._keep),
            optimizer.register_step_post_hook(self._scale),
        )

    def remove(self) -> None:
        """From now on the optimiser's steps are its own."""
        for hook in self._hooks:
            hook.remove()

    def _keep(self, *_: Any) -> None:
        self._before = [parameter.detach().clone() for parameter in self._parameters]

    @torch.no_grad()
    def _scale(self, *_: Any) -> None:
        for parameter, before in zip(self._parameters, self._before, strict=True):
            scales = self._scales.to(parameter).view(-1, *[1] * (parameter.dim() - 1))
            parameter.copy_(before + scales * (parameter - before))
        self._before = []


__all__ = ["RowSteps", "row_scales", "start_at_prior"]
