"""What is measured: every metric says its own direction and unit, here and nowhere else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """A metric.

    Attributes:
        name: as in results, options and tables.
        higher_is_better: its direction.
        unit: ``%`` for a fraction that is shown in per cent; ``bits``, ``nats`` or nothing for a plain number.
        is_comparable: whether it means the same for every loss; the training loss does not.
    """

    name: str
    higher_is_better: bool
    unit: str = "%"
    is_comparable: bool = True

    @property
    def heading(self) -> str:
        """The name with its unit, for a table."""
        return f"{self.name} {self.unit}".rstrip()

    def shown(self, value: float, sign: str = "") -> str:
        """A value as a table shows it, without the unit; ``sign`` is ``+`` for differences."""
        digits = 2 if self.unit == "%" or abs(value) >= 10 else 4
        return f"{100 * value if self.unit == '%' else value:{sign}.{digits}f}"

    def is_better(self, value: float, other: float) -> bool:
        """Whether ``value`` is better than ``other``; what is not a number is worse than any number."""
        if math.isnan(value) or math.isnan(other):
            return math.isnan(other) and not math.isnan(value)
        return value > other if self.higher_is_better else value < other

    def best(self, values: Sequence[float]) -> int:
        """The index of the best value, of equals the first."""
        best = 0
        for i, value in enumerate(values):
            if self.is_better(value, values[best]):
                best = i
        return best


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("accuracy", higher_is_better=True),
        Metric("top5", higher_is_better=True),
        Metric("f1", higher_is_better=True),
        Metric("matthews_correlation", higher_is_better=True, unit=""),
        Metric("pearson", higher_is_better=True, unit=""),
        Metric("spearmanr", higher_is_better=True, unit=""),
        Metric("wer", higher_is_better=False),
        Metric("per", higher_is_better=False),
        Metric("cer", higher_is_better=False),
        Metric("ter", higher_is_better=False),
        Metric("ser", higher_is_better=False),
        Metric("perplexity", higher_is_better=False, unit=""),
        Metric("bpc", higher_is_better=False, unit="bits"),
        Metric("nll", higher_is_better=False, unit="nats"),
        Metric("brier", higher_is_better=False, unit=""),
        Metric("ece", higher_is_better=False),
        Metric("mse", higher_is_better=False, unit=""),
        Metric("loss", higher_is_better=False, unit="", is_comparable=False),
    )
}
"""Name -> metric. Fractions are kept as fractions; the unit says how they are shown."""


def metric(name: str) -> Metric:
    """The metric of that name.

    Raises:
        ValueError: there is none, so that nobody knows its direction.
    """
    try:
        return METRICS[name]
    except KeyError:
        raise ValueError(f"unknown metric {name!r}: choose from {', '.join(METRICS)}") from None
