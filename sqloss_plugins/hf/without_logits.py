"""Training and evaluating a model's output layer without the layer's outputs of a whole batch.

For the time of a step the output layer hands its input through, so that what the model returns as logits are the hidden
states. In training the loss is computed from those and the layer's parameters; in evaluation loss and scores are
computed from the outputs of some tokens at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from sqloss_plugins.hf.token_scores import OutputScores, parts_that_count
from sqloss_plugins.losses import GradientAccumulation
from sqloss_plugins.losses._products import NARROW


class HeadWithoutLogits:
    """The output layer of a model in training and evaluation.

    Args:
        model: a language model, or a classifier with one linear layer whose outputs are the labels.
        loss: called as :func:`sqloss_plugins.losses.linear_square_loss`, with those of ``weight``, ``prior_weight`` and
            ``accumulation`` that there are.
        num_classes: how many classes the layer has.
        accumulation_steps: micro-batches of an optimiser step; from two on they share what they can.

    Attributes:
        sums: what the scores of the last batch that was evaluated add up to, by row; None where there were none.

    Raises:
        ValueError: no such layer; with the reason.
    """

    def __init__(
        self, model: nn.Module, loss: Callable[..., Tensor], num_classes: int, accumulation_steps: int = 1
    ) -> None:
        self.name = type(model).__name__
        self._loss = loss
        self.layer = output_layer(model, num_classes)
        self.accumulation: GradientAccumulation | None = None
        if accumulation_steps > 1:
            self.accumulation = GradientAccumulation(self.layer.weight, self.layer.bias, steps=accumulation_steps)
        self.sums: Tensor | None = None
        self._scores: OutputScores | None = None
        self._given: Tensor | None = None
        self._dtype = self.layer.weight.dtype
        self._checked = False

    @property
    def is_open(self) -> bool:
        """Whether the model returns hidden states instead of logits now."""
        return "forward" in vars(self.layer)

    @contextmanager
    def opened(self, scores: OutputScores | None = None) -> Iterator[None]:
        """While this lasts, the layer hands its input through.

        Args:
            scores: in evaluation, the scores that are wanted beside the loss.
        """
        self.layer.forward = self._pass  # type: ignore[assignment, method-assign]
        self._scores, self.sums = scores, None
        try:
            yield
        finally:
            del self.layer.forward
            self._given = None

    def _pass(self, hidden: Tensor) -> Tensor:
        passed: Tensor = _Pass.apply(hidden, self.layer.weight, self.layer.bias)  # type: ignore[no-untyped-call]
        self._given = passed
        device = hidden.device.type  # the layer's outputs would be of this dtype
        self._dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        return passed

    def loss(
        self, returned: Tensor, labels: Tensor, weight: Tensor | None = None, prior_weight: Tensor | None = None
    ) -> Tensor:
        """The loss of the layer's outputs.

        Args:
            returned: what the model returned as its logits, of shape (..., d).
            labels: class indices, of shape (N), or lists of classes, of shape (N, L).
            weight: a weight for each class, of shape (C).
            prior_weight: of the prior-weighted loss, of shape (C).

        Raises:
            ValueError: the model does more to its logits than the layer does.
        """
        hidden = self._check(returned)
        # As under mixed precision, so that the sum is in float32 also where the whole model is in 16 bits.
        options = {"weight": weight, "prior_weight": prior_weight, "accumulation": self.accumulation}
        given = {name: value for name, value in options.items() if value is not None}  # a loss may not have the others
        with torch.autocast(hidden.device.type, dtype=hidden.dtype, enabled=hidden.dtype in NARROW):
            rows = hidden.reshape(-1, hidden.shape[-1])
            return self._loss(rows, self.layer.weight, labels, linear_bias=self.layer.bias, **given)

    def evaluate(self, returned: Tensor, labels: Tensor, loss: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """The sum of the losses, and in :attr:`sums` the scores, of the outputs of some tokens at a time.

        The outputs are those that the layer would give, and figures thus the same as with logits, rounding apart.

        Args:
            returned: what the model returned as its logits, of shape (..., d).
            labels: class indices, of shape (N); those that do not count cost nothing. Or lists of classes, (N, L).
            loss: of outputs, float32 of shape (n, C), and labels, of shape (n): the sum over them.

        Raises:
            ValueError: the model does more to its logits than the layer does.
        """
        hidden, scores = self._check(returned), self._scores
        weight = self.layer.weight.to(self._dtype)
        bias = None if self.layer.bias is None else self.layer.bias.to(self._dtype)
        rows = hidden.reshape(-1, hidden.shape[-1])
        values = None if scores is None else scores.no_values(labels)
        total = torch.zeros((), device=hidden.device)
        for part in parts_that_count(labels, len(weight)):
            outputs = F.linear(rows[part].to(self._dtype), weight, bias).float()
            total = total + loss(outputs, labels[part])
            if values is not None and scores is not None:
                values[part] = scores.of_tokens(outputs, labels[part])
        self.sums = None
        if values is not None and scores is not None:
            self.sums = scores.of_rows(values.view(*returned.shape[:-1], -1))
        return total

    @torch.no_grad()
    def try_out(self, model: nn.Module, **inputs: Tensor) -> None:
        """Finds out beforehand whether the model returns the outputs of the layer as they are.

        Args:
            model: the model, on whatever device.
            **inputs: a batch for it, without labels.

        Raises:
            ValueError: it does not.
        """
        was_training = model.training
        model.eval()  # dropout would draw random numbers that training draws otherwise
        device = self.layer.weight.device
        with self.opened():
            self._check(model(**{name: value.to(device) for name, value in inputs.items()}).logits)
        model.train(was_training)

    def _check(self, returned: Tensor) -> Tensor:
        """The layer's input, if what the model returned is just that."""
        hidden = self._given
        if hidden is not None and returned.shape == hidden.shape:
            # Once is enough: how a model is made does not change. accelerate's mixed precision changes the dtype only.
            self._checked = self._checked or torch.equal(returned.to(hidden.dtype), hidden)
            if self._checked:
                return hidden
        raise ValueError(
            f"{self.name} does not return the outputs of its output layer as they are (it picks, scales or caps "
            "them), so that the loss must see them: leave --without_logits out"
        )

    def drop_gradient(self) -> None:
        """Forgets what is left of a step that was broken off."""
        if self.accumulation is not None:
            steps = self.accumulation.steps
            self.accumulation = GradientAccumulation(self.layer.weight, self.layer.bias, steps=steps)

    def finish_step(self) -> None:
        """Completes the gradient of an optimiser step."""
        if self.accumulation is not None:
            self.accumulation.finish()


class _Pass(torch.autograd.Function):
    """The identity, in whose graph the parameters are all the same: DistributedDataParallel looks there for them."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return hidden.view_as(hidden)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient, None, None


def output_layer(model: nn.Module, num_classes: int, option: str = "--without_logits") -> nn.Linear:
    """The linear layer whose outputs are those of the model: of a classifier the one with as many outputs as labels.

    Args:
        model: a language model, or a classifier with one such layer.
        num_classes: how many outputs it has.
        option: the option that needs it, for the message.

    Raises:
        ValueError: there is not one such layer, or it is not a plain one.
    """
    name = type(model).__name__
    layer = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    if layer is None:
        layers = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == num_classes]
        if len(layers) != 1:
            raise ValueError(
                f"{name} has {len(layers)} linear layers with {num_classes} outputs, and {option} needs to "
                "know the one: leave it out"
            )
        layer = layers[0]
    # An own forward is what accelerate gives the layers of a model that it has spread over devices.
    if type(layer) is not nn.Linear or "forward" in vars(layer):
        wrapped = "wrapped " if type(layer) is nn.Linear else ""
        raise ValueError(
            f"the output layer of {name} is a {wrapped}{type(layer).__name__}, and {option} is for a plain linear "
            "layer: leave it out"
        )
    return layer
