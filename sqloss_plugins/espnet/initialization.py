"""ESPnet1's initialisation of its recurrent models, which ESPnet2 has up to 202511 only (``init: chainer``)."""

from __future__ import annotations

import torch
from torch import nn

from sqloss_plugins.errors import UserError

INITIALIZATIONS = ("espnet1",)
"""Values of ``model_conf: initialization``."""


def check_initialization(name: str | None) -> None:
    """Refuses an initialisation that is not known.

    Raises:
        UserError: it is neither None nor one of :data:`INITIALIZATIONS`.
    """
    if name not in (None, *INITIALIZATIONS):
        raise UserError(f"model_conf: unknown initialization {name!r}: choose from {', '.join(INITIALIZATIONS)}")


@torch.no_grad()
def initialize_as_espnet1(model: nn.Module) -> None:
    """Initialises all parameters of a model, in place.

    Weights are drawn from a normal distribution with mean 0 and variance 1 / (inputs of a unit), embeddings with
    variance 1. Biases are 0, those of LSTMs' forget gates 1. The weights of normalisation layers stay as they are.
    """
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        elif ".bias" in name:
            nn.init.zeros_(parameter)
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight)
        elif isinstance(module, nn.LSTM | nn.LSTMCell):
            for name, parameter in module.named_parameters():
                # A cell's two biases are added: one of them is enough. Of LSTM both are set, as in ESPnet.
                if "bias" in name and not (isinstance(module, nn.LSTMCell) and name == "bias_hh"):
                    gate = len(parameter) // 4  # input, forget, cell, output
                    parameter[gate : 2 * gate] = 1.0
