"""The numbers of Hui & Belkin (ICLR 2021), typed: rescaling, hyper-parameters, protocols and published results.

All of them are read from one file, ``paper_tables.yaml``; none is written down anywhere else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml


@dataclass(frozen=True)
class Rescaling:
    """How the square loss is rescaled, and where that comes from.

    Attributes:
        k: weight of the true class's term.
        M: target of the true class.
        source: one phrase to print beside the two.
    """

    k: float
    M: float
    source: str

    def overridden(self, k: float | None, M: float | None) -> Rescaling:
        """With whichever of k and M is given (not None) in the place of its own."""
        if k is None and M is None:
            return self
        return Rescaling(self.k if k is None else float(k), self.M if M is None else float(M), "given by the user")

    def __str__(self) -> str:
        return f"k = {self.k:g}, M = {self.M:.4g} ({self.source})"

    def initial_loss(self, num_classes: int) -> float:
        """k M^2 / C: a token's loss where all outputs are 0, as at the start; cross-entropy's is ln C."""
        return self.k * self.M**2 / num_classes


@dataclass(frozen=True)
class HyperParameters:
    """How the paper trains one model on one task with one loss (Tables 10 to 12).

    Attributes:
        batch_size: examples a step; None where the paper refers to another recipe's configuration.
        max_length: tokens; None for "the longest training example", or where it does not apply.
        learning_rate: None where the paper refers to another recipe's configuration.
        epochs: None where the paper counts steps.
        steps: None where the paper counts epochs.
        dropout: None where the paper gives none.
        backbone: the pre-trained model's name, None where there is none.
        config: the configuration that the paper refers to, None where it gives the values.
    """

    batch_size: int | None
    max_length: int | None
    learning_rate: float | None
    epochs: int | None
    steps: int | None
    dropout: float | None
    backbone: str | None
    config: str | None


@cache
def tables() -> Mapping[str, Any]:
    """All tables as the file has them; see its comments for which table each is."""
    text = resources.files("sqloss_plugins").joinpath("paper_tables.yaml").read_text(encoding="utf-8")
    content: dict[str, Any] = yaml.safe_load(text)
    return content


def tasks() -> tuple[str, ...]:
    """The paper's tasks, by the names that this package uses."""
    return tuple(row["task"] for row in tables()["rescaling"])


def rescaling(task: str | None = None, num_classes: int | None = None) -> Rescaling:
    """k and M for a task: the paper's where it names the task (Table 9), else by the number of classes.

    The rule for other tasks extends the paper's table: (1, 1) below 42 classes, (1, 15) from 42 and (15, 30) from
    1000. Between 52 and 1000 classes the paper has one task, enwik8 (204), which it does not rescale.

    Raises:
        ValueError: the paper does not name the task, and there is no number of classes to go by.
    """
    for row in tables()["rescaling"]:
        if row["task"] == task:
            return Rescaling(float(row["k"]), float(row["M"]), f"the paper's Table 9 for {task}")
    if num_classes is None or num_classes < 1:
        raise ValueError(f"the paper has no task {task!r}; give the number of classes, or k and M")
    if num_classes < 42:
        k, M = 1.0, 1.0
    elif num_classes < 1000:
        k, M = 1.0, 15.0
    else:
        k, M = 15.0, 30.0
    return Rescaling(k, M, f"the rule for {num_classes} classes, after the paper's Table 9")


def num_classes(task: str) -> int | None:
    """How many classes the paper has for a task, the vocabulary's size in speech; None for a task that is not its."""
    return next((int(row["classes"]) for row in tables()["rescaling"] if row["task"] == task), None)


def level_rescaling(num_classes: int) -> Rescaling:
    """A rule of this package, not of the paper: k = 15 and M = sqrt(C ln C / 15).

    With it a token's loss at the start, k M^2 / C, is that of cross-entropy, ln C. That matters where the loss is added
    to another one, as in speech recognition with CTC.
    """
    k = 15.0
    M = math.sqrt(num_classes * math.log(num_classes) / k)
    return Rescaling(k, M, f"the level rule for {num_classes} classes")


RULES: dict[str, Callable[[int], Rescaling]] = {
    "paper": lambda num_classes: rescaling(num_classes=num_classes),
    "level": level_rescaling,
}
"""Rules for tasks that the paper does not name: number of classes -> rescaling."""


def hyperparameters(task: str, model: str, loss: str) -> HyperParameters | None:
    """What the paper trains ``model`` on ``task`` with; None where it does not have that pair.

    Args:
        task, model: names as in the file, such as ``mrpc`` and ``bert``.
        loss: ``square`` has the paper's values for the square loss; every other loss those for cross-entropy.
    """
    column = 0 if loss == "square" else 1
    for row in tables()["hyperparameters"]:
        if row["task"] == task and row["model"] == model:

            def pick(name: str, row: Mapping[str, Any] = row) -> Any:
                return row[name][column] if name in row else None

            return HyperParameters(
                batch_size=row.get("batch"),
                max_length=row.get("max_length"),
                learning_rate=pick("lr"),
                epochs=pick("epochs"),
                steps=pick("steps"),
                dropout=row.get("dropout"),
                backbone=row.get("backbone"),
                config=row.get("config"),
            )
    return None


def test_results(task: str, model: str) -> dict[str, Mapping[str, float]]:
    """The paper's test results of one model on one task by metric (Tables 2, 3, 5, 7 and 8), in per cent.

    Returns:
        metric -> {``square``, ``cross_entropy``, ``same_epochs``} and, where the paper gives them,
        ``std_square`` and ``std_cross_entropy``. Empty where the paper does not have the pair.
    """
    found: dict[str, Mapping[str, float]] = {}
    for row in tables()["test_results"]:
        if row["task"] == task and row["model"] == model:
            found[row["metric"]] = {key: row[key] for key in row if key not in ("task", "model", "metric")}
    return found
