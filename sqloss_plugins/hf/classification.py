"""What tasks share that give each example one label of several, any number of them, or a number."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from sqloss_plugins.data.task_data import TaskData
from sqloss_plugins.errors import UserError, listed
from sqloss_plugins.hf.task import Scores, Task
from sqloss_plugins.losses import LOSSES
from sqloss_plugins.metrics import compute, metric
from sqloss_plugins.probability import label_probabilities, probabilities
from sqloss_plugins.results import OF_OUTPUTS

LIMITS: Mapping[str, str] = {
    "train": "max_train_samples",
    "validation": "max_eval_samples",
    "test": "max_predict_samples",
}
"""Split -> the option that says how many of its examples are taken."""


class Classification(Task):
    """One label, any number of labels, or a number for each example.

    Attributes:
        labels: names of the classes in the order of their numbers; empty for a regression.
        names: of the labels in the order of the model's outputs; its own names, where it has had the same labels.
        order: for each of the model's outputs the number that its label has in the task; ``data`` and ``labels`` have
            the model's numbers, once they are settled.
        label_delimiter: between the labels of one example, where predictions are written.
    """

    labels: Sequence[str]
    metrics: tuple[str, ...] = ("accuracy",)
    label_delimiter = ","
    names: Sequence[str]
    order: Sequence[int]

    @property
    def num_outputs(self) -> int:
        """Classes, or 1 for a regression."""
        return max(len(self.labels), 1)

    @property
    def has_classes(self) -> bool:
        """Whether it is no regression."""
        return bool(self.labels)

    @property
    def method(self) -> str:
        """The method that turns outputs into probabilities."""
        return (self.is_multi_label and LOSSES[self.config.loss].multilabel_method) or super().method

    @property
    def own_names(self) -> tuple[str, ...]:
        """The names that the model comes with for its labels, in the order of its outputs; empty where it has none."""
        numbered = getattr(self.origin, "id2label", None) or {}
        names = tuple(str(name) for _, name in sorted(numbered.items()))
        return () if all(name == f"LABEL_{i}" for i, name in enumerate(names)) else names

    def settle(self) -> None:
        """The order of the labels, too, is the model's where it has had the same.

        Raises:
            UserError: the model is scored as it is, and has other labels.
        """
        theirs = self.own_names
        order = _order(theirs, self.labels)
        self.names, self.order = (self.labels, range(len(self.labels))) if order is None else (theirs, order)
        if list(self.order) != sorted(self.order):
            self.data = self.data.relabelled(np.argsort(self.order).tolist())
            self.labels = [self.labels[i] for i in self.order]
        if not self.config.do_train and self.has_classes and theirs and order is None:
            raise UserError(
                f"{self.arch} has the labels {listed(theirs)}, and the data of {self.name} has {listed(self.labels)}: "
                "train it, or score data with its labels"
            )
        super().settle()

    def decided(self, outputs: Any) -> Any:
        """What the model says, in the numbers of the task, whichever order the model's outputs have; NumPy.

        Returns:
            Class numbers (the largest output), of shape (N,); of multi-label classification 1 for each class whose
            probability is at least 1/2, else 0, of shape (N, C); of a regression numbers, of shape (N,).
        """
        return self._numbered(self._decided(outputs))

    def _decided(self, outputs: Any) -> Any:
        """The same in the model's numbers."""
        if not self.has_classes:
            return np.squeeze(outputs, -1)
        if self.is_multi_label:
            return (self.class_probabilities(outputs) >= 0.5).astype(np.int64)
        return np.argmax(outputs, axis=-1)

    def class_probabilities(self, outputs: Any) -> Any:
        """The probability of each class by the loss's own method; NumPy, of shape (N, C)."""
        f = torch.as_tensor(outputs)
        options: dict[str, Any] = {"k": self.config.k or 1.0, "M": self.config.M or 1.0}
        if self.is_multi_label:
            return label_probabilities(f, self.method, **options).numpy()
        own = {} if self.config.do_train else getattr(self.origin, "square_loss", {})
        if own.items() >= options.items():
            options = own  # with what was fitted to the model's outputs
        return probabilities(f, self.method, **options).numpy()

    def scores(self, outputs: Any, targets: Any) -> Scores:
        """The task's metrics, which no method decides; in the numbers of the task, because F1 is of class 1."""
        decided, numbered = self.decided(outputs), self._numbered(targets)
        found = {}
        for name in self.metrics:
            is_of_outputs = metric(name).inputs == "outputs"
            found[name] = compute(name, outputs, targets) if is_of_outputs else compute(name, decided, numbered)
        return {OF_OUTPUTS: found}

    def _numbered(self, of_model: Any) -> Any:
        if not self.has_classes:
            return of_model
        return of_model[:, np.argsort(self.order)] if of_model.ndim == 2 else np.asarray(self.order)[of_model]

    def predicted(self, split: str, outputs: Any, targets: Any | None) -> list[str]:
        """Writes the predictions on test data."""
        if not split.startswith("test"):
            return []
        path = self.folder / f"predict_results{split.removeprefix('test')}.tsv"
        decided = self._decided(outputs)
        columns = [f"p({name})" for name in self.names]
        likely = self.class_probabilities(outputs) if self.has_classes else [()] * len(outputs)
        files, numbers = self.files(split), self.data.numbers.get(split, range(len(outputs)))
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, delimiter="\t", lineterminator="\n")
            writer.writerow(["index", *(["file"] if files else []), "prediction", *columns])
            for i, (number, one, values) in enumerate(zip(numbers, decided, likely, strict=True)):
                named = [files[i], self._named(one)] if files else [self._named(one)]
                writer.writerow([number, *named, *(f"{value:.6g}" for value in values)])
        return [f"Predictions for {split} are in {path}."]

    def files(self, split: str) -> Sequence[str]:
        """The examples' own files; empty where they have none."""
        return ()

    def _named(self, decided: Any) -> str:
        """What the model says of one example, for people."""
        if not self.has_classes:
            return f"{decided:.6g}"
        if self.is_multi_label:
            return self.label_delimiter.join(self.names[int(i)] for i in np.flatnonzero(decided))
        return str(self.names[int(decided)])

    def limited(self, data: TaskData) -> TaskData:
        """With as many examples as the options say."""
        limits = {split: getattr(self.args, name) for split, name in LIMITS.items()}
        return data.limited(limits)

    def notes(self) -> list[str]:
        """What looks wrong with the data, and how a model is scored that is not trained."""
        notes = []
        for split, rows in self.data.splits.items():
            if not self.has_classes or self.is_multi_label or "label" not in rows.column_names:
                continue
            found = set(rows.unique("label"))
            lacking = [name for i, name in enumerate(self.labels) if i not in found]
            if lacking:
                is_useless = split == "train" and len(found) == 1
                hint = "nothing can be learnt" if is_useless else f"is it data of {self.name}?"
                notes.append(f"WARNING: no example of {listed(lacking)} in the {split} data: {hint}")
        if not self.config.do_train:
            notes.append("NO TRAINING: the model is scored as it is, and a head that it lacks is random")
        return notes


def _order(names: Sequence[str], labels: Sequence[str]) -> list[int] | None:
    """For each of a model's names the number of the label that it is; None where they are not the same labels.

    Labels that are only numbered take the names as they come; upper and lower case are the same where that is clear.
    """
    if len(names) != len(labels):
        return None
    is_numbered = list(labels) == [str(i) for i in range(len(labels))] and set(names) != set(labels)
    if is_numbered or list(labels) == list(names):
        return list(range(len(labels)))
    for form in (str, str.casefold):
        ours, theirs = ([form(name) for name in side] for side in (labels, names))
        if set(ours) == set(theirs) and len(set(ours)) == len(ours):
            return [ours.index(name) for name in theirs]
    return None
