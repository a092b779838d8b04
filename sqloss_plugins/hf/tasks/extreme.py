"""Trains an extreme classifier: texts with any number of very many labels.

    sqloss extreme --data_dir LF-AmazonTitles-131K --propensity_a 0.6 --propensity_b 2.6
    sqloss extreme --data_dir LF-AmazonTitles-131K --factorised_head --head_learning_rate 1000
    sqloss extreme --data_dir /usr/share/wordnet --loss cross_entropy
    sqloss extreme --mini

The folder is one of the Extreme Classification Repository, with raw text: trn.json, tst.json, lbl.json, or each with
.gz, and perhaps filter_labels_test.txt. Or it has WordNet's files, where the labels of a definition are all words that
it defines. Without a folder it takes made-up mini data of 160 labels, as with --mini, and says so.
Measured is how many of the first one, three and five answers are right (precision_at_1, _3, _5), and the same where a
rare label counts for more (psp_at_1, _3, _5: propensity-scored precision). The first five answers to each test text are
in predict_results.tsv in the folder of the run.
--loss square trains the output layer without the outputs of labels that are not true; cross_entropy, which is binary
cross-entropy here, makes all of them.
Takes the options below and all of transformers.TrainingArguments. A run that was killed goes on where it was when the
same command is run again; a run that is finished is not repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sqloss_plugins.command_line import check_name
from sqloss_plugins.data.extreme import LabelLists, load_label_lists, load_mini
from sqloss_plugins.data.task_data import TaskData
from sqloss_plugins.errors import UserError
from sqloss_plugins.hf import experiment
from sqloss_plugins.hf.label_lists import LabelListCollator
from sqloss_plugins.hf.options import option, refuse_given
from sqloss_plugins.hf.task import Scores
from sqloss_plugins.hf.tasks.many_classes import ManyClasses, ManyClassesArguments
from sqloss_plugins.losses import LOSSES
from sqloss_plugins.ranking_metrics import (
    COUNTS,
    NAMES,
    NO_ANSWER,
    inverse_propensities,
    ranking_metrics,
    without_filtered,
)
from sqloss_plugins.results import OF_OUTPUTS


@dataclass
class ExtremeArguments(ManyClassesArguments):
    """Where the texts are, and how rare labels count."""

    data_dir: str | None = option("Folder in the repository's layout, or with WordNet's files. By default mini data.")
    content: bool = option("Take the content after the title, where there is one.", False)
    held_out: int | None = option(
        "Texts of the training data to validate on; of WordNet as many to test on, too. By default 5000, or a "
        "twentieth of all where that is less."
    )
    propensity_a: float = option("A of the labels' propensities: 0.6 for Amazon's data, 0.5 for Wikipedia's.", 0.55)
    propensity_b: float = option("B of the labels' propensities: 2.6 for Amazon's data, 0.4 for Wikipedia's.", 1.5)


class ExtremeClassification(ManyClasses):
    """Any number of very many labels for a text."""

    program = "sqloss extreme"
    arguments = ExtremeArguments
    not_decisive = ("data_dir",)
    name = "extreme"
    metrics = NAMES
    mini_warning = "MINI DATA: made-up texts and labels, and no real task"
    is_multi_label = True
    found: LabelLists

    @property
    def paper_task(self) -> None:
        """None: a folder may have any name."""

    @classmethod
    def defaults(cls, args: Any, loss: str) -> dict[str, Any]:
        """With k and M by the level rule: with k = M = 1 next to nothing is learnt of so many labels."""
        return {**super().defaults(args, loss), **({"rescaling": "level"} if LOSSES[loss].is_rescaled else {})}

    def check(self) -> None:
        """Refuses sources that contradict each other, and numbers that cannot be."""
        super().check()
        if self.args.mini or self.args.data_dir is None:
            refuse_given(self.given, ("data_dir", "content"), "is of a folder of real texts, and this is mini data")
        if self.config.num_sampled is not None:
            raise UserError("--num_sampled is for texts with one true class, and these have several: leave it out")
        for name in ("propensity_a", "propensity_b"):
            if not 0.0 <= getattr(self.args, name) < np.inf:
                raise UserError(f"--{name} must be a finite number of at least 0, got {getattr(self.args, name):g}")

    def load(self) -> TaskData:
        """The folder, or the mini data."""
        args = self.args
        if args.data_dir is None:
            if not args.mini:
                print("No --data_dir: using MINI data, made-up texts and labels.", flush=True)
            self.found = load_mini(args.held_out, args.shuffle_seed)
        else:
            folder = Path(args.data_dir)
            if not folder.is_dir():
                raise UserError(f"--data_dir {folder} is no folder")
            self.found = load_label_lists(folder, args.content, args.held_out, args.shuffle_seed)
            self.name = folder.resolve().name.lower()
            check_name("--data_dir", self.name)
        self.labels = self.found.labels
        self._weights = inverse_propensities(self.found.counts, self.found.count, args.propensity_a, args.propensity_b)
        return self.limited(self.found.data)

    def label_frequencies(self) -> torch.Tensor:
        """1 / C for each: most labels have one text or two."""
        return torch.full((len(self.labels),), 1 / len(self.labels))

    def collator(self) -> Callable[..., Any]:
        """With the lists of labels, padded."""
        return LabelListCollator(super().collator())

    @property
    def num_answers(self) -> int:
        """So many that enough are left of those that do not count."""
        found = self.found.filtered.values()
        return max(COUNTS) + max((len(classes) for rows in found for classes in rows.values()), default=0)

    def trainer_options(self) -> dict[str, Any]:
        """Labels in lists."""
        return {**super().trainer_options(), "label_lists": True}

    def counted(self, split: str, outputs: Any) -> Any:
        """The answers without those that are the text itself."""
        rows = self.found.filtered.get(split, {})
        own = {row: classes for row, classes in rows.items() if row < len(outputs)}
        return without_filtered(outputs, own, min(max(COUNTS), outputs.shape[1]))

    def scores(self, outputs: Any, targets: Any) -> Scores:
        """How many of the first answers are right."""
        return {OF_OUTPUTS: ranking_metrics(outputs.astype(np.int64), targets, self._weights)}

    def predicted(self, split: str, outputs: Any, targets: Any | None) -> list[str]:
        """Writes the answers to the test texts, with their labels."""
        if split != "test":
            return []
        rows, names = self.data.splits[split], self.names
        return self.write_answers(
            ["text", "labels", *(f"answer {i + 1}" for i in range(outputs.shape[1]))],
            (
                [text, "; ".join(names[i] for i in labels), *("" if i == NO_ANSWER else names[int(i)] for i in answers)]
                for text, labels, answers in zip(rows["text"], rows["label"], outputs, strict=True)
            ),
        )

    def notes(self) -> list[str]:
        """How many labels there are, and how many a text has."""
        notes = [f"{len(self.labels)} labels, {self.found.counts.sum() / self.found.count:.3g} for each text"]
        unseen = int((self.found.counts == 0).sum())
        if unseen:
            notes.append(f"labels that no text to train or validate on has: {unseen}")
        return notes if self.config.do_train else [*notes, "NO TRAINING"]


def main(argv: Sequence[str] | None = None) -> int:
    """The command line ``sqloss extreme``; returns the exit status."""
    return experiment.main(ExtremeClassification, argv)


if __name__ == "__main__":
    raise SystemExit(main())
