"""Training an output layer in factorised form by SGD of its own, beside any optimiser for the rest of the model.

While a training lasts, the memory of the layer's weight holds what
:class:`sqloss_plugins.losses.FactorisedSquareHead` keeps there. Before an evaluation or a checkpoint reads it, it is
made the weight again, so that models are saved and loaded as ever. A checkpoint has nothing more: what else the head
keeps it computes anew from the weight, here as after a resumption, so that both go on alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sqloss_plugins.errors import RunError
from sqloss_plugins.hf.label_lists import classes_and_offsets
from sqloss_plugins.hf.without_logits import HeadWithoutLogits
from sqloss_plugins.losses import FactorisedSquareHead


class FactorisedHead(HeadWithoutLogits):
    """The output layer of a model, in training with steps of its own, and in evaluation.

    While it is in use the layer's parameters require no gradient.

    Args:
        model: a language model, or a classifier with one linear layer whose outputs are the labels.
        num_classes: how many classes the layer has.
        learning_rate: of its SGD.
        **options: of :class:`sqloss_plugins.losses.FactorisedSquareHead`.

    Raises:
        ValueError: no such layer, or one that cannot be trained so; with the reason.
    """

    def __init__(self, model: nn.Module, num_classes: int, learning_rate: float, **options: Any) -> None:
        super().__init__(model, _no_loss, num_classes)
        self.learning_rate = learning_rate
        layer = self.layer
        inputs = model.get_input_embeddings() if isinstance(model, PreTrainedModel) else None
        reason = None
        if getattr(inputs, "weight", None) is layer.weight:
            reason = "has the weights of the input embeddings"
        elif not layer.weight.requires_grad or (layer.bias is not None and not layer.bias.requires_grad):
            reason = "is not to be trained"
        elif layer.weight.dtype not in (torch.float32, torch.float64):
            reason = f"is of dtype {layer.weight.dtype}"
        if reason is not None:
            raise ValueError(
                f"--factorised_head needs an output layer of its own in float32, and that of {self.name} "
                f"{reason}: leave it out"
            )
        sizes: dict[str, Any] = {"bias": layer.bias is not None, "device": "meta", "dtype": layer.weight.dtype}
        self._factorised = FactorisedSquareHead(layer.in_features, layer.out_features, **sizes, **options)
        # In the place of its own parameters; all that they have to be is the same memory.
        for name, parameter in layer.named_parameters():
            self._factorised.register_parameter(name, parameter)
        layer.requires_grad_(False)

    def loss(
        self, returned: Tensor, labels: Tensor, weight: Tensor | None = None, prior_weight: Tensor | None = None
    ) -> Tensor:
        """The loss of the layer's outputs; see :meth:`HeadWithoutLogits.loss`. There are no weights here."""
        hidden = self._check(returned)
        targets = (labels,) if labels.dim() == 1 else classes_and_offsets(labels)
        loss: Tensor = self._factorised(hidden.reshape(-1, hidden.shape[-1]), *targets)
        return loss

    def clip(self, parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
        """Clips the gradients of a model, this layer's with them, as if all were those of parameters.

        Args:
            parameters: the model's.
            max_norm: of all gradients together.

        Returns:
            Their norm before.
        """
        others = [parameter for parameter in parameters if parameter.grad is not None]
        norms = (get_total_norm([p.grad for p in others if p.grad is not None]), self._factorised.gradient_norm())
        norm: Tensor = torch.stack([value.double().to(self.layer.weight.device) for value in norms]).norm()
        clip_grads_with_norm_(others, max_norm, norm)
        self._factorised.scale_gradient((max_norm / (norm + 1e-6)).clamp_max(1.0))
        return norm

    def step(self, share: float, shrink: float) -> None:
        """An SGD step.

        Args:
            share: of the learning rate, as the schedule has it.
            shrink: by how much the weight is made smaller beforehand: 1e-4 makes it 0.9999 times as large.

        Raises:
            RunError: the training diverged.
        """
        rate = share * self.learning_rate
        try:
            self._factorised.step(rate, shrink / rate if rate else 0.0)
        except FloatingPointError as error:
            raise RunError(f"the training diverged: {error}") from error

    def fold(self) -> None:
        """Makes the memory of the layer's weight the weight again."""
        self._factorised.fold()

    def drop_gradient(self) -> None:
        """Forgets what is left of a step that was not made."""
        self._factorised.zero_grad()

    def release(self) -> None:
        """The layer is a plain one again, as it was before."""
        self.drop_gradient()
        self.fold()
        self.layer.requires_grad_(True)


class StepHead(TrainerCallback):
    """Makes the step of a factorised head with every one of the optimiser's.

    The learning rate follows the schedule, and weight decay makes the weight smaller by as much as AdamW does others.
    """

    def __init__(self, head: FactorisedHead) -> None:
        self._head = head

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Nothing is left of a training that was broken off."""
        self._head.drop_gradient()

    def on_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        optimizer: Any = None,
        **kwargs: Any,
    ) -> None:
        """After the optimiser's step, and before the schedule's."""
        rate = optimizer.param_groups[0]["lr"]
        self._head.step(rate / args.learning_rate, rate * args.weight_decay)


class FactorisedHeadTrainer(Trainer):
    """A Trainer whose ``compute_loss_func.head`` may be a :class:`FactorisedHead`."""

    compute_loss_func: Any

    @property
    def _factorised_head(self) -> FactorisedHead | None:
        head = getattr(self.compute_loss_func, "head", None)
        return head if isinstance(head, FactorisedHead) else None

    def _with_steps(self, head: FactorisedHead) -> FactorisedHead:
        """The head, which from now on makes its steps."""
        self.add_callback(StepHead(head))
        return head

    def _fold_head(self) -> None:
        """Before anything reads or writes the model's weights, in the middle of a training."""
        if self._factorised_head is not None:
            self._factorised_head.fold()

    def _release_head(self) -> None:
        """Before the loss is made anew."""
        if self._factorised_head is not None:
            self._factorised_head.release()
            self.pop_callback(StepHead)

    def train(self, *args: Any, **keywords: Any) -> Any:
        """The Trainer's; after it the output layer is a plain one."""
        try:
            return super().train(*args, **keywords)
        finally:
            if self._factorised_head is not None:
                self._factorised_head.release()

    def evaluation_loop(self, *args: Any, **keywords: Any) -> Any:
        """The Trainer's, of the weights as they are now."""
        self._fold_head()
        return super().evaluation_loop(*args, **keywords)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        self._fold_head()
        super()._save(output_dir, state_dict)

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        """The Trainer's, with the layer's gradient among the others."""
        if self._factorised_head is None:
            return super()._clip_grad_norm(model)
        return self._factorised_head.clip(model.parameters(), self.args.max_grad_norm)


def _no_loss(*args: Any, **options: Any) -> Tensor:
    raise AssertionError("a factorised head has its own")


__all__ = ["FactorisedHead", "FactorisedHeadTrainer", "StepHead"]
