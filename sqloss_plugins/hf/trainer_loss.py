"""The loss of a batch as the Trainer wants it: ``TrainerLoss``, for its ``compute_loss_func``.

Every loss goes through that hook, cross-entropy too. It is the one with which the gradient of an accumulated or
distributed batch is that of the whole batch: the sum of the losses is divided by the number of targets in all
micro-batches on all ranks. The cross-entropy that many models compute themselves (BERT's sequence classification, for
one) ignores that number, and a comparison against it would compare learning rates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from sqloss_plugins.hf.label_lists import multi_hot
from sqloss_plugins.hf.token_scores import IGNORE_INDEX
from sqloss_plugins.hf.without_logits import HeadWithoutLogits
from sqloss_plugins.losses import DEFAULT_LOSS, make_loss


class TrainerLoss:
    """A loss for ``Trainer(compute_loss_func=...)``: sum over the targets / number of targets in the whole batch.

    Serves every head that returns ``logits`` with the classes last: sequence and token classification, multiple
    choice, masked and causal language models. The ``labels`` are class indices, or class probabilities of the logits'
    shape (mixup, distillation). One output (``num_labels=1``) is regression, where there are no classes, and the loss
    the mean squared error. In multi-label classification the labels have the logits' shape and hold, for each class by
    itself, 1 where it is true and 0 where it is not, or a probability.

    Args:
        loss: a key of :data:`sqloss_plugins.losses.LOSSES`.
        k, M: rescaling of the square loss; None means 1.
        label_smoothing: in [0, 1].
        shift_labels: True for causal language models: outputs at position i are held against label i + 1. Then pair
            it with a model whose targets the Trainer counts likewise, or use :class:`SquareLossTrainer`, which sees to
            that, and to DataParallel, where a plain Trainer's scale is off.
        multi_label: whether it is multi-label classification. Cross-entropy is binary cross-entropy then.
        label_lists: whether the labels of multi-label classification are lists of class numbers, int64, of shape (N,
            L), padded with -100, rather than a value for each class. Every example counts, one without a class, too.
        weight: a weight for each class, as that of cross-entropy, all positive. The weighted losses are divided by
            the number of targets, not by their summed weights: with weights whose mean over the training data is 1
            the gradient is as large as without.
        prior_weight: of the prior-weighted square loss; see :func:`sqloss_plugins.losses.square_loss`.

    Raises:
        ValueError: unknown loss; k or M not positive; k, M or a prior weight given to a loss that has none; weights
            that are not positive; for multi-label classification a loss that has no form for it, label smoothing, class
            weights, shifted labels; lists of classes without it.
        RuntimeError: label smoothing outside [0, 1].

    Examples:
        >>> import torch
        >>> loss = TrainerLoss("square")
        >>> outputs = {"logits": torch.tensor([[0.5, 0.0], [0.0, 1.0]])}
        >>> loss(outputs, torch.tensor([0, 1]), num_items_in_batch=4)  # of which two are in this micro-batch
        tensor(0.0312)
    """

    def __init__(
        self,
        loss: str = DEFAULT_LOSS,
        *,
        k: float | None = None,
        M: float | None = None,
        label_smoothing: float = 0.0,
        shift_labels: bool = False,
        multi_label: bool = False,
        label_lists: bool = False,
        weight: Sequence[float] | None = None,
        prior_weight: Tensor | None = None,
    ) -> None:
        if label_lists and not multi_label:
            raise ValueError("lists of classes are the labels of multi-label classification, and this is none")
        self.name = loss
        self.shift_labels = shift_labels
        self.label_smoothing = label_smoothing
        self.multi_label = multi_label
        self.label_lists = label_lists
        self.options: dict[str, Any] = {"reduction": "sum"}
        if multi_label:
            _refuse_for_multi_label(label_smoothing, shift_labels, weight)
        else:
            self.options |= {"ignore_index": IGNORE_INDEX, "label_smoothing": label_smoothing}
        self.options |= {name: value for name, value in (("k", k), ("M", M)) if value is not None}
        made_with = self.options if prior_weight is None else {**self.options, "prior_weight": prior_weight}
        self.loss = make_loss(loss, is_multi_label=multi_label, weight=_class_weights(weight), **made_with)
        self.head: HeadWithoutLogits | None = None

    def __call__(self, outputs: Any, labels: Tensor | None, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """The loss of one micro-batch.

        Args:
            outputs: what the model returned: a mapping with ``logits``, or a tuple that starts with them.
            labels: class indices, -100 where they do not count; or class probabilities, floating point, of the
                logits' shape, with a row of -100 where they do not count; for regression, floating point values; for
                multi-label classification lists of classes, or values from 0 to 1 of any dtype, of the logits' shape,
                with a row of -100 for an example that does not count.
            num_items_in_batch: how many values of the labels in the whole accumulated batch, on all ranks, are not
                -100, as the Trainer counts them: of class probabilities and multi-label targets, every target has as
                many as there are classes. Of a regression all values count, and of lists of classes all examples.
                None for "as many as are here".

        Raises:
            ValueError: no labels or no logits, or labels that are none of these.
        """
        logits = _logits(outputs)
        if labels is None or logits is None:
            raise ValueError(f"the {self.name} loss needs `labels` in the batch and `logits` among the model's outputs")
        labels = labels.to(logits.device)
        if logits.shape[-1] == 1 and not self.multi_label:
            total, values_each = self._squared_error(logits, labels), 1
            count = torch.tensor(labels.numel())
        elif self.label_lists:
            total, values_each = self._of_lists(logits, labels), 1
            count = torch.tensor(len(labels))
        else:
            total, labels = self._classification(logits, labels)
            values_each = labels.shape[-1] if labels.is_floating_point() else 1
            count = (labels != IGNORE_INDEX).sum()
        if num_items_in_batch is not None:
            # In DataParallel there is one number for each GPU, all the same.
            count = torch.as_tensor(num_items_in_batch).reshape(-1)[0]
        return total / (count.to(total.device) / values_each).clamp_min(1)

    def _squared_error(self, outputs: Tensor, labels: Tensor) -> Tensor:
        if self.label_smoothing:
            raise ValueError("label smoothing needs classes, and a model with one output is a regression")
        if outputs.numel() != labels.numel():
            raise ValueError(f"{outputs.numel()} outputs and {labels.numel()} labels: a regression needs as many")
        return F.mse_loss(outputs.reshape(-1).float(), labels.reshape(-1).float(), reduction="sum")

    def _of_lists(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The sum of the losses of examples with lists of classes."""
        if labels.dim() != 2 or labels.dtype != torch.int64 or len(labels) != len(logits):
            raise ValueError(
                f"the labels are of shape {tuple(labels.shape)}, {labels.dtype}: lists of classes are int64, of shape "
                f"({len(logits)}, L), padded with {IGNORE_INDEX}"
            )
        loss = self.loss.to(logits.device)

        def of_outputs(outputs: Tensor, lists: Tensor) -> Tensor:
            total: Tensor = loss(outputs.float(), multi_hot(lists, outputs.shape[-1]))
            return total

        head = self.head if self.head is not None and self.head.is_open else None
        if head is None:
            return of_outputs(logits, labels)
        return head.loss(logits, labels) if torch.is_grad_enabled() else head.evaluate(logits, labels, of_outputs)

    def _classification(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The sum of the losses, and the labels that it is of: (N) indices, or (N, C) for all others."""
        head = self.head if self.head is not None and self.head.is_open else None
        if self.multi_label or labels.is_floating_point():
            if head is not None:
                raise ValueError("class probabilities need all outputs: leave --without_logits out")
            if self.multi_label:
                _check_label_sets(labels, logits.shape)
            else:
                self._check_probabilities(labels, logits.shape)
            counted = _that_count(labels)
            rows, labels = logits[counted], labels[counted].float()
        else:
            if self.shift_labels:
                labels = F.pad(labels, (0, 1), value=IGNORE_INDEX)[..., 1:]
            rows, labels = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
        loss = self.loss.to(logits.device)  # where its class weights must be
        if head is not None:
            if not torch.is_grad_enabled():
                return head.evaluate(logits, labels, loss), labels
            weights = cast("Tensor | None", loss.weight), getattr(loss, "prior_weight", None)
            return head.loss(logits, labels, *weights), labels
        # float32, as in the Trainer's own losses: a sum over many tokens has no room in 16 bits.
        total: Tensor = loss(rows.float(), labels)
        return total, labels

    def _check_probabilities(self, labels: Tensor, shape: torch.Size) -> None:
        if labels.shape != shape:
            raise ValueError(
                f"the labels are floating point, of shape {tuple(labels.shape)}: labels are class indices, or class "
                f"probabilities of the outputs' shape, {tuple(shape)}"
            )
        if self.shift_labels:
            raise ValueError(
                "class probabilities are not shifted: give those that belong to the outputs at the same position, and "
                "shift_labels=False"
            )
        sums = labels.float().sum(-1)[_that_count(labels)]
        if sums.numel() and not bool(((sums - 1.0).abs() < 0.01).all()):
            raise ValueError(
                "the labels are floating point, and a row of them does not sum to 1, as class probabilities do: for "
                "multi-label classification set model.config.problem_type to 'multi_label_classification', or give "
                "TrainerLoss multi_label=True"
            )


def _check_label_sets(labels: Tensor, shape: torch.Size) -> None:
    if labels.shape != shape:
        raise ValueError(
            f"the labels are of shape {tuple(labels.shape)}: in multi-label classification they have a value for each "
            f"class, 1 where it is true, else 0, and thus the outputs' shape, {tuple(shape)}"
        )
    values = labels[_that_count(labels)].float()
    wrong = values[~((values >= 0.0) & (values <= 1.0))]
    if wrong.numel():
        raise ValueError(
            f"in multi-label classification the labels are values from 0 to 1 for each class, and one is {wrong[0]:g}; "
            f"an example that does not count has {IGNORE_INDEX} for every class"
        )


def _that_count(labels: Tensor) -> Tensor:
    """Of labels of shape (..., C) those that are not -100 throughout; bool, of shape (...)."""
    return (labels != IGNORE_INDEX).any(-1)


def _refuse_for_multi_label(label_smoothing: float, shift_labels: bool, weight: Sequence[float] | None) -> None:
    """Refuses what is for classes of which one is true."""
    for given, what in (
        (label_smoothing, "label smoothing is"),
        (shift_labels, "shifted labels are"),
        (weight is not None, "class weights are"),
    ):
        if given:
            raise ValueError(f"{what} for examples with one true class, and this is multi-label classification")


def _class_weights(weight: Sequence[float] | None) -> Tensor | None:
    """The weights as the losses take them."""
    if weight is None:
        return None
    found = torch.as_tensor(weight, dtype=torch.float32)
    if found.dim() != 1 or not bool(((found > 0.0) & found.isfinite()).all()):
        raise ValueError(f"class weights are positive finite numbers, one for each class, got {weight}")
    return found


def _logits(outputs: Any) -> Tensor | None:
    """The logits among what a model returned; None where there are none."""
    if isinstance(outputs, dict):
        found = outputs.get("logits")
    else:
        found = outputs[0] if isinstance(outputs, tuple) and outputs else None
    return found if isinstance(found, Tensor) else None


__all__ = ["TrainerLoss"]
