"""Several labels for each example as a list of class numbers, for so many classes that a value for each is too much.

In a batch they are of shape (N, L), int64; shorter lists end with -100, and one that has nothing else is an example
with no true class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sqloss_plugins.hf.token_scores import IGNORE_INDEX


class LabelListCollator:
    """Puts the lists of a batch together, and leaves everything else to another collator.

    Args:
        collator: of the rest; what it returns is a mapping.
        name: of the lists in an example. In the batch they are ``labels``.

    Examples:
        >>> from transformers import default_data_collator
        >>> collate = LabelListCollator(default_data_collator)
        >>> collate([{"input_ids": [1, 2], "label": [7]}, {"input_ids": [3, 4], "label": [0, 5]}])["labels"]
        tensor([[   7, -100],
                [   0,    5]])
    """

    def __init__(self, collator: Callable[..., Any], name: str = "label") -> None:
        self._collator, self._name = collator, name

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> Any:
        """The batch."""
        batch = self._collator([{key: one[key] for key in one if key != self._name} for one in examples])
        if all(self._name in one for one in examples):
            batch["labels"] = padded([one[self._name] for one in examples])
        return batch


def padded(lists: Sequence[Sequence[int]]) -> Tensor:
    """Lists of class numbers as they are in a batch, of shape (N, L), L at least 1.

    Examples:
        >>> from sqloss_plugins.hf.label_lists import padded
        >>> padded([[3, 1], []])
        tensor([[   3,    1],
                [-100, -100]])
    """
    rows = [torch.tensor(one or [IGNORE_INDEX], dtype=torch.int64) for one in lists]
    return pad_sequence(rows, batch_first=True, padding_value=IGNORE_INDEX)


def classes_and_offsets(labels: Tensor) -> tuple[Tensor, Tensor]:
    """The lists of a batch as :func:`sqloss_plugins.losses.linear_multilabel_square_loss` takes them.

    Examples:
        >>> import torch
        >>> from sqloss_plugins.hf.label_lists import classes_and_offsets
        >>> classes_and_offsets(torch.tensor([[3, 1], [-100, -100], [2, -100]]))
        (tensor([3, 1, 2]), tensor([0, 2, 2]))
    """
    is_class = labels != IGNORE_INDEX
    counts = is_class.sum(1)
    return labels[is_class], counts.cumsum(0) - counts


def multi_hot(labels: Tensor, num_classes: int) -> Tensor:
    """1 for each class of a list and 0 for the others, float32, of shape (N, C).

    Raises:
        IndexError: a class out of range.

    Examples:
        >>> import torch
        >>> from sqloss_plugins.hf.label_lists import multi_hot
        >>> multi_hot(torch.tensor([[3, 1], [-100, -100]]), 4)
        tensor([[0., 1., 0., 1.],
                [0., 0., 0., 0.]])
    """
    is_class = labels != IGNORE_INDEX
    outside = labels[is_class & ((labels < 0) | (labels >= num_classes))]
    if len(outside):
        raise IndexError(f"Target {int(outside[0])} is out of bounds for {num_classes} classes.")
    targets = torch.zeros(len(labels), num_classes, device=labels.device)
    targets[is_class.nonzero()[:, 0], labels[is_class]] = 1.0
    return targets


def loss_of_lists(loss: Callable[..., Tensor], input: Tensor, weight: Tensor, labels: Tensor, **options: Any) -> Tensor:
    """A loss of a linear layer and sparse targets, for lists as they are in a batch.

    Args:
        loss: called as :func:`sqloss_plugins.losses.linear_multilabel_square_loss`.
        input, weight: what it takes first.
        labels: the lists.
        **options: its options.
    """
    return loss(input, weight, *classes_and_offsets(labels), **options)


__all__ = ["LabelListCollator", "classes_and_offsets", "loss_of_lists", "multi_hot", "padded"]
