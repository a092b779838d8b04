"""What evaluation keeps of outputs, where there are too many of them.

Of language models these are a few sums over each row of tokens, of classifiers with very many classes the likeliest
classes of each example.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from transformers.trainer_pt_utils import LabelSmoother

from sqloss_plugins.probability import TEMPERATURES, log_probabilities

IGNORE_INDEX: int = LabelSmoother.ignore_index
"""What the Trainer's own counting of targets leaves out: -100."""

_AT_ONCE = {"cpu": 1 << 21, "cuda": 1 << 24}
"""Outputs that are turned into probabilities at once, by the kind of device: there are some copies of them. On a CPU
so few that the copies are made in memory that the process has already."""


def parts_that_count(labels: Tensor, num_classes: int) -> Iterator[Tensor]:
    """The positions of labels that are not ignored, so many at a time that their outputs need little memory.

    Args:
        labels: of shape (N); or lists of classes, of shape (N, L), of which none is ignored.
        num_classes: outputs of a position.
    """
    at_once = _AT_ONCE.get(labels.device.type, _AT_ONCE["cuda"])
    counts = labels != IGNORE_INDEX if labels.dim() == 1 else torch.ones_like(labels[:, 0], dtype=torch.bool)
    yield from torch.split(counts.nonzero().squeeze(1), max(1, at_once // num_classes))


class OutputScores(ABC):
    """The Trainer's ``preprocess_logits_for_metrics`` that needs the outputs of some targets at a time only.

    Given to a SquareLossTrainer with ``without_logits``, the outputs of a whole batch are never built.
    """

    @abstractmethod
    def __call__(self, outputs: Tensor | tuple[Tensor, ...], labels: Tensor) -> Tensor:
        """What is kept of each row, from outputs of shape (rows, ..., C) and labels of shape (rows, ...)."""

    @abstractmethod
    def no_values(self, targets: Tensor) -> Tensor:
        """What :meth:`of_tokens` gives for targets that do not count, of shape (N, columns); targets: shape (N)."""

    @abstractmethod
    def of_tokens(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """What is kept of each target by itself, of shape (n, columns).

        Args:
            outputs: float32, of shape (n, C).
            targets: the true classes, of shape (n).
        """

    def of_rows(self, values: Tensor) -> Tensor:
        """What is kept of each row: the sums over its targets.

        Args:
            values: of the targets, of shape (rows, ..., columns).

        Returns:
            Shape (rows, columns).
        """
        return values.flatten(1, -2).sum(1) if values.dim() > 2 else values


class BestClasses(OutputScores):
    """The numbers of the classes with the largest outputs, the largest first, of a classifier.

    They are float32, which is exact up to 16.7 million classes.

    Args:
        count: how many are wanted, and at most as many as there are.

    Examples:
        >>> import torch
        >>> BestClasses(2)(torch.tensor([[0.1, 0.7, 0.3]]), torch.tensor([0]))
        tensor([[1., 2.]])
    """

    def __init__(self, count: int) -> None:
        self._count = count

    def __call__(self, outputs: Tensor | tuple[Tensor, ...], labels: Tensor) -> Tensor:
        """Of outputs of shape (N, C), shape (N, count)."""
        return self.of_tokens(outputs[0] if isinstance(outputs, tuple) else outputs, labels)

    def no_values(self, targets: Tensor) -> Tensor:
        """-1, which is no class."""
        return torch.full((len(targets), self._count), -1.0, device=targets.device)

    def of_tokens(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The classes of each row, of shape (n, count)."""
        return outputs.topk(self._count).indices.float()


class TokenScores(OutputScores):
    """The Trainer's ``preprocess_logits_for_metrics`` of a language model, and what follows from its sums.

    Called with outputs, of shape (rows, length, C), and labels, of shape (rows, length), it returns, of shape (rows,
    2 + methods + temperatures), how many tokens count, how many of them are right, and the negative log-likelihood of
    the true ones in nats by each method, that of ``temperature`` for each of :data:`TEMPERATURES`. Given to a
    SquareLossTrainer with ``without_logits``, it has the outputs of some tokens at a time, and those of a whole batch
    are never built.

    Args:
        methods: the methods of the loss.
        k, M: its rescaling; None means 1.
        shift_labels: whether outputs are held against the next label.

    Attributes:
        temperature: the one that was fitted; None before.

    Examples:
        >>> import torch
        >>> scores = TokenScores(("square",), k=1, M=1, shift_labels=False)
        >>> scores(torch.tensor([[[0.8, 0.2], [0.4, 0.6]]]), torch.tensor([[0, 0]]))[0, :2]  # of two, one is right
        tensor([2., 1.])
    """

    def __init__(self, methods: Sequence[str], k: float | None, M: float | None, shift_labels: bool) -> None:
        self._methods = [method for method in methods if method != "temperature"]
        self._has_temperature = "temperature" in methods
        self._k, self._M = (1.0 if k is None else k), (1.0 if M is None else M)
        self._shift_labels = shift_labels
        self._temperatures: Sequence[float] = ()
        self._fitted: int | None = None

    @property
    def temperature(self) -> float | None:
        """The temperature that was fitted; None before."""
        return None if self._fitted is None else TEMPERATURES[self._fitted]

    def begin(self) -> None:
        """From now on every temperature is tried, and the first scores fit it."""
        self._temperatures = TEMPERATURES if self._has_temperature else ()
        self._fitted = None

    def __call__(self, outputs: Tensor | tuple[Tensor, ...], labels: Tensor) -> Tensor:
        """The sums of each row."""
        logits = outputs[0] if isinstance(outputs, tuple) else outputs  # some models return more than their logits
        if self._shift_labels:
            labels = F.pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX)
        flat, targets = logits.flatten(0, 1), labels.flatten()
        values = self.no_values(targets)
        for part in parts_that_count(targets, flat.shape[1]):
            values[part] = self.of_tokens(flat[part].float(), targets[part])
        return self.of_rows(values.view(*labels.shape, -1))

    def no_values(self, targets: Tensor) -> Tensor:
        """What :meth:`of_tokens` gives for tokens that do not count: zeros, of shape (N, columns)."""
        columns = 2 + len(self._methods) + len(self._temperatures)
        return torch.zeros(len(targets), columns, device=targets.device)

    def of_tokens(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """What is summed, of each token by itself.

        Args:
            outputs: float32, of shape (n, C).
            targets: the true classes, of shape (n).

        Returns:
            float32, of shape (n, columns).
        """

        def nll(method: str, temperature: float = 1.0) -> Tensor:
            logs = log_probabilities(outputs, method, k=self._k, M=self._M, temperature=temperature)
            return -logs.gather(1, targets[:, None])[:, 0]

        right = (outputs.argmax(1) == targets).float()
        columns = [torch.ones_like(right), right, *(nll(method) for method in self._methods)]
        columns += [nll("temperature", value) for value in self._temperatures]
        return torch.stack(columns, dim=1)

    def means(self, sums: NDArray[np.floating], may_fit: bool) -> tuple[float, dict[str, float]]:
        """Accuracy, and the mean negative log-likelihood of a token in nats by method.

        Args:
            sums: of a split.
            may_fit: whether the temperature is fitted on it, where none is yet.
        """
        count, right, *nll = sums.astype(np.float64).sum(axis=0)
        values = np.array(nll) / count
        by_method = {name: float(value) for name, value in zip(self._methods, values, strict=False)}
        by_temperature = values[len(self._methods) :]
        if len(by_temperature) and self._fitted is None and may_fit:
            self._fitted = int(by_temperature.argmin())
        if len(by_temperature) and self._fitted is not None:
            by_method["temperature"] = float(by_temperature[self._fitted])
        return float(right / count), by_method


__all__ = ["IGNORE_INDEX", "BestClasses", "OutputScores", "TokenScores", "parts_that_count"]
