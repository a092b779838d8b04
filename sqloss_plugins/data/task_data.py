"""What every reader for the Trainer returns: the splits of a task, memory-mapped, and where they come from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from datasets import DatasetDict


@dataclass(frozen=True)
class TaskData:
    """A task's data, checked.

    Attributes:
        splits: ``train``, ``validation`` and, where there is one, ``test``; others begin with one of these names. A
            split whose labels are not public has no ``label`` column.
        source: where it came from, for people.
        mini: whether it is mini data of this package.
        notes: what a person should know about the reading, such as lines left out.
        numbers: split -> for each example the row of its source that it is, from 0. Not there for a split that has the
            first rows of its source, in order.
    """

    splits: DatasetDict
    source: str
    mini: bool = False
    notes: tuple[str, ...] = ()
    numbers: Mapping[str, npt.NDArray[np.int64]] = field(default_factory=dict, kw_only=True)

    @property
    def sizes(self) -> dict[str, int]:
        """Examples by split."""
        return dict(self.splits.num_rows)

    @property
    def unit(self) -> str:
        """What :attr:`sizes` counts."""
        return "examples"

    @cached_property
    def fingerprint(self) -> str:
        """Of the training and the validation data: equal data has equal fingerprints, wherever it came from."""
        return self.digest(("train", "validation"))

    @cached_property
    def test_fingerprints(self) -> dict[str, str]:
        """Of every other split."""
        return {split: self.digest((split,)) for split in self.splits if split not in ("train", "validation")}

    def digest(self, splits: Sequence[str]) -> str:
        """SHA-256 of all rows of some splits, in order; of those that are there."""
        digest = hashlib.sha256()
        for split in sorted(set(splits) & set(self.splits)):
            names = self.splits[split].column_names
            digest.update(json.dumps([split, names]).encode())
            for batch in self.splits[split].iter(1000):
                for row in zip(*(batch[name] for name in names), strict=True):
                    # The hub's files have STS-B's similarities in single precision.
                    plain = [float(f"{value:.6g}") if isinstance(value, float) else value for value in row]
                    digest.update(json.dumps(plain, ensure_ascii=False).encode())
        return digest.hexdigest()

    def limited(self, limits: Mapping[str, int | None]) -> TaskData:
        """With the first rows of each split only.

        Args:
            limits: ``train``, ``validation`` or ``test`` -> so many rows; None for all.
        """
        splits = DatasetDict(self.splits)
        numbers = dict(self.numbers)
        for split, rows in splits.items():
            limit = limits.get(split.partition("_")[0])
            if limit is not None and limit < len(rows):
                splits[split] = rows.select(range(limit))
                if split in numbers:
                    numbers[split] = numbers[split][:limit]
        return replace(self, splits=splits, numbers=numbers)

    def relabelled(self, numbers: Sequence[int]) -> TaskData:
        """With other numbers for the labels, as a saved model has them. The fingerprints stay: it is the same data.

        Args:
            numbers: the new number of each label, by its old one. The columns of label sets are put in this order, so
                that for them it has to be a permutation.
        """
        splits = DatasetDict(self.splits)
        for split, rows in splits.items():
            if "label" in rows.column_names:
                splits[split] = rows.map(
                    lambda batch: {"label": [_renumbered(label, numbers) for label in batch["label"]]},
                    batched=True,
                    features=rows.features,
                )
        data = replace(self, splits=splits)
        vars(data).update(fingerprint=self.fingerprint, test_fingerprints=self.test_fingerprints)
        return data


def _renumbered(label: Any, numbers: Sequence[int]) -> Any:
    if not isinstance(label, list):
        return numbers[label]
    if all(isinstance(value, int) for value in label):  # a list of class numbers
        return [numbers[value] for value in label]
    permuted = [0.0] * len(numbers)
    for value, number in zip(label, numbers, strict=True):
        permuted[number] = value
    return permuted
