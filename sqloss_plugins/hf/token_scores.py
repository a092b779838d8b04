"""Scores of language models: a few sums over each row of tokens, rather than an output for every class of each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sqloss_plugins.hf.trainer import IGNORE_INDEX
from sqloss_plugins.probability import TEMPERATURES, log_probabilities

_AT_ONCE = 1 << 24
"""Outputs that are turned into probabilities at once: for each method there is a copy of them."""


class TokenScores:
    """The Trainer's ``preprocess_logits_for_metrics`` of a language model, and what follows from its sums.

    Called with outputs, of shape (rows, length, C), and labels, of shape (rows, length), it returns, of shape (rows,
    2 + methods + temperatures), how many tokens count, how many of them are right, and the negative log-likelihood of
    the true ones in nats by each method, that of ``temperature`` for each of :data:`TEMPERATURES`.

    Args:
        methods: the methods of the loss.
        k, M: its rescaling; None means 1.
        shift_labels: whether outputs are held against the next label.

    Attributes:
        temperature: the one that was fitted; None before.
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
            logits, labels = logits[:, :-1], labels[:, 1:]
        rows = max(1, _AT_ONCE // max(logits[0].numel(), 1))
        parts = zip(torch.split(logits, rows), torch.split(labels, rows), strict=True)
        return torch.cat([self._sums(f.float(), y) for f, y in parts])

    def _sums(self, outputs: Tensor, labels: Tensor) -> Tensor:
        counts = labels != IGNORE_INDEX
        targets = labels.clamp_min(0)

        def nll(method: str, temperature: float = 1.0) -> Tensor:
            logs = log_probabilities(outputs, method, k=self._k, M=self._M, temperature=temperature)
            return -(logs.gather(2, targets[..., None])[..., 0] * counts).sum(1)

        right = (outputs.argmax(2) == labels).sum(1)
        fixed = [nll(method) for method in self._methods]
        fixed += [nll("temperature", value) for value in self._temperatures]
        return torch.stack([counts.sum(1).float(), right.float(), *fixed], dim=1)

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


__all__ = ["TokenScores"]
