"""The numbers of Hui & Belkin (ICLR 2021), typed: rescaling, hyper-parameters, protocols and published results.

All of them are read from one file, ``paper_tables.yaml``; none is written down anywhere else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

import yaml

from sqloss_plugins.losses import LOSSES


@dataclass(frozen=True)
class Rescaling:
    """How the square loss is rescaled, and where that comes from.

    Attributes:
        k: weight of the true class's term.
        M: target of the true class.
        source: one phrase to print beside the two.

    Examples:
        >>> rescaling = Rescaling(k=15, M=30, source="my choice")
        >>> print(rescaling)
        k = 15, M = 30 (my choice)
        >>> rescaling.initial_loss(num_classes=1000)  # k M^2 / C
        13.5
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

    For images the values that the paper takes from another configuration are that configuration's.

    Attributes:
        batch_size: examples a step; None where the paper refers to a recipe for speech.
        max_length: tokens; None for "the longest training example", or where it does not apply.
        learning_rate: of a step, or, where ``rate_per`` is given, of a step of so many examples; None where the paper
            refers to a recipe for speech.
        epochs: None where the paper counts steps of text.
        steps: None where the paper counts epochs.
        dropout: None where the paper gives none.
        backbone: the pre-trained model's name, None where there is none.
        config: the configuration that the paper refers to, None where it gives the values.
        rate_per: None where the rate is that of the batch; see :meth:`rate`.
        augmentation: of images; None where there are none.
        training: more of SquareLossConfig: optimiser, schedule, regularisation.
        source: where what the paper does not say is from; None where there is nothing of the kind.

    Examples:
        >>> ours = hyperparameters("mrpc", "bert", "square")
        >>> ours.batch_size, ours.learning_rate, ours.epochs
        (32, 5e-05, 5)
    """

    batch_size: int | None
    max_length: int | None
    learning_rate: float | None
    epochs: int | None
    steps: int | None
    dropout: float | None
    backbone: str | None
    config: str | None
    rate_per: int | None = None
    augmentation: str | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    source: str | None = None

    def rate(self, batch: int) -> float | None:
        """The learning rate of a step of ``batch`` examples, over all processes: in proportion, where that is said."""
        if self.learning_rate is None or self.rate_per is None:
            return self.learning_rate
        return self.learning_rate * batch / self.rate_per


@cache
def tables() -> Mapping[str, Any]:
    """All tables as the file has them; see its comments for which table each is.

    Examples:
        >>> tables()["names"]["tasks"]["mrpc"]
        'MRPC'
    """
    text = resources.files("sqloss_plugins").joinpath("paper_tables.yaml").read_text(encoding="utf-8")
    content: dict[str, Any] = yaml.safe_load(text)
    return content


def tasks() -> tuple[str, ...]:
    """The paper's tasks, by the names that this package uses.

    Examples:
        >>> from sqloss_plugins.paper import tasks
        >>> tasks()[:3]
        ('mrpc', 'sst2', 'qnli')
    """
    return tuple(row["task"] for row in tables()["rescaling"])


RULES = ("auto", "paper", "level")
"""Rules for k and M; see :func:`choose_rescaling`."""


def choose_rescaling(
    num_classes: int,
    *,
    task: str | None = None,
    beside_ctc: bool = False,
    is_multi_label: bool = False,
    rule: str = "auto",
    k: float | None = None,
    M: float | None = None,
) -> Rescaling:
    """k and M of the square loss: the one function that chooses them, for every host.

    * ``auto``: the paper's (Table 9) where it names the task and has as many classes; else (1, 1) below 42 classes,
      unless the loss is added to CTC; else ``level``.
    * ``paper``: the paper's for the task, however many classes there are; for a task that it does not name, its table
      read as a rule: (1, 1) below 42 classes, (1, 15) from 42 and (15, 30) from 1000. (Between 52 and 1000 classes the
      paper has one task, enwik8 with 204, which it does not rescale.)
    * ``level``: k = 15 and M = sqrt(C ln C / 15). A token's loss at the start, k M^2 / C, is then that of
      cross-entropy, ln C. This matters where the loss is added to another one, as in speech recognition with CTC.

    In multi-label classification, which the paper does not have, every class is a regression of its own, however many
    there are: ``auto`` is (1, 1). ``level`` is as above, so that a true class costs ln C at the start, as much as in
    cross-entropy with one true class; for very many classes, few of which are true. There is no other rule.

    Args:
        num_classes: C, the outputs of the model.
        task: the paper's name of the task; None for a task of one's own, and for mini data.
        beside_ctc: whether the loss is one part of a CTC/attention objective.
        is_multi_label: whether it is multi-label classification, with one class or more.
        rule: one of :data:`RULES`.
        k, M: given by the user: they take the place of the rule's.

    Raises:
        ValueError: an unknown rule, or one that multi-label classification does not have; less than two classes.

    Examples:
        >>> from sqloss_plugins.paper import choose_rescaling
        >>> choose_rescaling(1000, task="imagenet")
        Rescaling(k=15.0, M=30.0, source="the paper's Table 9 for imagenet")
        >>> choose_rescaling(2)
        Rescaling(k=1.0, M=1.0, source='not rescaled, as the paper below 42 classes')
        >>> choose_rescaling(30522)
        Rescaling(k=15.0, M=144.9543303699155, source='the level rule for 30522 classes')
    """
    if rule not in RULES:
        raise ValueError(f"unknown rescaling {rule!r}: choose from {', '.join(RULES)}")
    if is_multi_label:
        if rule == "paper":
            raise ValueError(
                "the rescaling paper is for examples with one true class, and this is multi-label classification: "
                "leave it at auto, take level, or give k and M"
            )
        if rule == "level" and num_classes > 1:
            return _level(num_classes).overridden(k, M)
        return Rescaling(1.0, 1.0, "not rescaled, for multi-label classification").overridden(k, M)
    if num_classes < 2:
        raise ValueError(f"k and M are for two classes and more, and there are {num_classes}")
    row = next((row for row in tables()["rescaling"] if row["task"] == task), None)
    has_few_classes = num_classes < tables()["claims"]["rescale_from"]
    if row is not None and (rule == "paper" or (rule == "auto" and int(row["classes"]) == num_classes)):
        found = Rescaling(float(row["k"]), float(row["M"]), f"the paper's Table 9 for {task}")
    elif rule == "paper":
        steps = (1.0, 1.0) if has_few_classes else (1.0, 15.0) if num_classes < 1000 else (15.0, 30.0)
        found = Rescaling(*steps, f"after the paper's Table 9, for {num_classes} classes")
    elif rule == "auto" and has_few_classes and not beside_ctc:
        found = Rescaling(1.0, 1.0, "not rescaled, as the paper below 42 classes")
    else:
        found = _level(num_classes)
    return found.overridden(k, M)


def _level(num_classes: int) -> Rescaling:
    k = 15.0
    M = math.sqrt(num_classes * math.log(num_classes) / k)
    return Rescaling(k, M, f"the level rule for {num_classes} classes")


def num_classes(task: str) -> int | None:
    """How many classes the paper has for a task, the vocabulary's size in speech; None for a task that is not its.

    Examples:
        >>> from sqloss_plugins.paper import num_classes
        >>> num_classes("timit_phone")
        42
    """
    return next((int(row["classes"]) for row in tables()["rescaling"] if row["task"] == task), None)


def hyperparameters(task: str, model: str, loss: str) -> HyperParameters | None:
    """What the paper trains ``model`` on ``task`` with; None where it does not have that pair.

    Args:
        task, model: names as in the file, such as ``mrpc`` and ``bert``.
        loss: a loss of this package; one that the paper does not have takes cross-entropy's values.

    Examples:
        >>> from sqloss_plugins.paper import hyperparameters
        >>> found = hyperparameters("mrpc", "bert", "square")
        >>> found.batch_size, found.learning_rate, found.epochs
        (32, 5e-05, 5)
    """
    column = ("square", "cross_entropy").index(LOSSES[loss].paper_column)
    row = _row("hyperparameters", task, model)
    if row is None:
        return None
    reference = _row("references", task, model) or {}
    row = {**reference, **row}

    def pick(name: str) -> Any:
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
        rate_per=row.get("lr_per"),
        augmentation=row.get("augmentation"),
        training=_training(reference, pick("epochs")),
        source=row.get("source"),
    )


def _row(table: str, task: str, model: str) -> Mapping[str, Any] | None:
    return next((row for row in tables()[table] if row["task"] == task and row["model"] == model), None)


def _training(reference: Mapping[str, Any], epochs: float) -> dict[str, Any]:
    """A reference's training arguments, with its schedule in shares of the training."""
    training = dict(reference.get("training", {}))
    milestones = reference.get("milestones", [])
    if every := reference.get("decay_every"):
        milestones = [every * n for n in range(1, math.ceil(epochs / every))]
    if milestones:
        training["lr_scheduler_type"] = "constant"
        training["lr_milestones"] = [round(milestone / epochs, 6) for milestone in milestones]
        training["lr_decay"] = reference["lr_decay"]
    if warmup := reference.get("warmup"):
        training |= {"lr_scheduler_type": "constant_with_warmup", "warmup_steps": round(warmup / epochs, 6)}
    return training


def test_results(task: str, model: str) -> dict[str, Mapping[str, float]]:
    """The paper's test results of one model on one task by metric (Tables 2, 3, 5, 7 and 8), in per cent.

    Returns:
        metric -> {``square``, ``cross_entropy``, ``same_epochs``} and, where the paper gives them,
        ``std_square`` and ``std_cross_entropy``. Empty where the paper does not have the pair.

    Examples:
        >>> from sqloss_plugins.paper import test_results
        >>> test_results("mrpc", "bert")["accuracy"]["square"]
        83.8
    """
    return {row.metric: row.values for row in published("test_results") if (row.task, row.model) == (task, model)}


@dataclass(frozen=True)
class Published:
    """One row of one of the paper's tables of results.

    Attributes:
        task, model, metric: names as in the file.
        domain: ``text``, ``speech`` or ``vision``.
        values: ``square``, ``cross_entropy`` and ``same_epochs``, and where the paper gives them ``std_square`` and
            ``std_cross_entropy``, in per cent. Of Table 20 ``cross_entropy`` alone.

    Examples:
        >>> row = next(row for row in published("test_results") if row.task == "mrpc")
        >>> row.model, row.metric, row.values["square"], row.values["cross_entropy"]
        ('bert', 'accuracy', 83.8, 82.1)
    """

    task: str
    model: str
    metric: str
    domain: str
    values: Mapping[str, float]

    @property
    def model_name(self) -> str:
        """The model as the paper's tables have it."""
        return str(tables()["names"]["models"][self.model])

    @property
    def task_name(self) -> str:
        """The task as the paper's tables have it, with its metric but for text."""
        name, metric = tables()["names"]["tasks"][self.task], tables()["names"]["metrics"][self.metric]
        return str(name) if self.domain == "text" else f"{name} ({metric})"


def published(block: str) -> list[Published]:
    """The rows of ``test_results``, ``validation_results``, ``train_results`` or ``table_20``, in the paper's order.

    Examples:
        >>> from sqloss_plugins.paper import published
        >>> row = published("test_results")[0]
        >>> row.task_name, row.model_name, row.metric
        ('MRPC', 'BERT', 'accuracy')
    """
    domains = {task: domain for domain, its_tasks in tables()["names"]["domains"].items() for task in its_tasks}
    names = ("task", "model", "metric")
    return [
        Published(
            task=row["task"],
            model=row["model"],
            metric=row["metric"],
            domain=domains[row["task"]],
            values={key: row[key] for key in row if key not in names},
        )
        for row in tables()[block]
    ]


def backbone(task: str, model: str) -> str | None:
    """The pre-trained model that the paper's ``model`` is; None for one without.

    Examples:
        >>> from sqloss_plugins.paper import backbone
        >>> backbone("mrpc", "bert")
        'bert-base-cased'
    """
    row = _row("hyperparameters", task, model)
    return None if row is None else row.get("backbone")
