"""Fine-tunes a pre-trained model on labelled texts of your own with the square loss, cross-entropy or squentropy.

    sqloss classify --train_file train.csv
    sqloss classify --train_file train.csv --test_file test.csv --loss cross_entropy --learning_rate 5e-5 --seed 1
    sqloss classify --train_file news.tsv --text_column_names headline,body --label_column_name section
    sqloss classify --train_file posts.jsonl --label_column_name tags --label_column_delimiter ,
    sqloss classify --train_file essays.csv --label_column_name grade --do_regression
    sqloss classify --dataset_name imdb
    sqloss classify --do_predict --model_name_or_path runs/train/... --test_file new.csv
    sqloss classify settings.yaml

Files are CSV, TSV, JSON (one object a line, or an array) or parquet. A text, or a pair of them, has one label, any
number of labels, or a number. Validation data that is not given is held out of the training data. --task text5 and
--task text20 are the paper's tasks, with its columns, sizes and hyper-parameters. For several labels cross_entropy is
binary cross-entropy, and each label of a new head has its frequency as its probability at the start.

Takes the options below and all of transformers.TrainingArguments. What decides is accuracy, for several labels
f1_micro, for numbers mse; --metric_name names another metric. The predictions on test data are in predict_results.tsv
in the folder of the run. --do_eval and --do_predict score a saved model, whose labels and loss are its own.
A run that was killed goes on where it was when the same command is run again; a run that is finished is not repeated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import DatasetDict
from sklearn.utils.class_weight import compute_class_weight

from sqloss_plugins import paper
from sqloss_plugins.command_line import check_name
from sqloss_plugins.data.hold_out import HoldOut
from sqloss_plugins.data.labelled_text import LabelledText
from sqloss_plugins.data.labels import Columns
from sqloss_plugins.data.mini_text import load_mini
from sqloss_plugins.data.tables import read_table
from sqloss_plugins.data.task_data import TaskData
from sqloss_plugins.errors import UserError, listed
from sqloss_plugins.hf import experiment
from sqloss_plugins.hf.options import option, refuse_given
from sqloss_plugins.hf.own_texts import SOURCES, LabelledTextArguments, check_source, read, source_name
from sqloss_plugins.hf.tasks.sequence_classification import (
    COMMON,
    SequenceClassification,
    SequenceClassificationArguments,
    training_defaults,
)
from sqloss_plugins.metrics import metric

PAPER_TASKS: Mapping[str, Columns] = {
    "text5": Columns(texts=("title",), label="conference"),
    "text20": Columns(texts=("post",), label="tags"),
}
"""The paper's tasks that are files of one's own, and their columns."""

KINDS: Mapping[str, tuple[str, str]] = {
    "single_label": ("single_label_classification", "one label"),
    "multi_label": ("multi_label_classification", "several labels"),
    "regression": ("regression", "a number"),
}
"""Kinds of data; what Transformers calls them, and for people what an example has."""

METRICS: Mapping[str, tuple[str, ...]] = {
    "single_label": ("accuracy", "f1_macro"),
    "multi_label": ("f1_micro", "f1_macro", "accuracy"),
    "regression": ("mse", "pearson", "spearmanr"),
}
"""Kind -> what is measured; the first decides."""

_ON_REQUEST: Mapping[str, tuple[str, ...]] = {"single_label": ("f1_micro", "matthews_correlation")}
_OF_CLASSES: Mapping[str, tuple[str, ...]] = {
    "multi_label": ("rescaling", "paper_task", "label_smoothing_factor", "class_weights"),
    "regression": ("k", "M", "rescaling", "paper_task", "label_smoothing_factor", "class_weights"),
}
"""Kind -> options that are for one true class."""

_ROUNDED = 0.01  # the share by which a file's rows may differ from the paper's, which are rounded


@dataclass
class ClassifyArguments(LabelledTextArguments, SequenceClassificationArguments):
    """The task, and what counts in it."""

    task: str | None = option(
        "Name of the task, for folders and tables; text5 and text20 are the paper's. By default that of the file, or "
        "of the data set."
    )
    metric_name: str | None = option("The metric that decides. By default the usual one for the kind of the labels.")
    class_weights: str = option(
        "balanced: classes weigh in the loss as scikit-learn's balanced weights, in inverse proportion to their number "
        "of training examples.",
        "none",
        choices=["none", "balanced"],
    )


class Classify(SequenceClassification):
    """Classification of labelled texts.

    Attributes:
        kind: a key of :data:`KINDS`, once the data is loaded.
        is_mini: whether its data is the embedded one.
    """

    program = "sqloss classify"
    arguments = ClassifyArguments
    not_decisive = SOURCES
    default_model = str(COMMON.backbone)
    quantity = "score"
    metrics: tuple[str, ...] = (
        "accuracy",
        "f1",
        "f1_macro",
        "f1_micro",
        "matthews_correlation",
        "mse",
        "pearson",
        "spearmanr",
    )

    @classmethod
    def defaults(cls, args: Any, loss: str) -> dict[str, Any]:
        """The paper's hyper-parameters for its tasks, else common ones."""
        kind = "regression" if args.do_regression else "multi_label" if args.label_column_delimiter else "single_label"
        chosen_by = args.metric_name if args.metric_name in cls.metrics else METRICS[kind][0]
        task = args.task if args.task in PAPER_TASKS else None
        return {**training_defaults(args, task, loss), "metric_for_best_model": chosen_by}

    def check(self) -> None:
        """Refuses sources that contradict each other, and options that have no effect."""
        args, given, do_train = self.args, self.given, self.config.do_train
        super().check()
        self.is_mini = not args.sources and args.task in PAPER_TASKS
        if not args.sources and not self.is_mini:
            lacking = "--mini needs" if args.mini else "there is no data: give --train_file, --dataset_name, or"
            raise UserError(f"{lacking} --task {' or '.join(PAPER_TASKS)}")
        check_source(args, given, do_train)
        if not do_train:
            refuse_given(given, ["class_weights"], "is of training, and nothing is trained")
        refuse_given(given, ["greater_is_better"], "is what the metric says")
        if args.metric_name is not None:
            refuse_given(given, ["metric_for_best_model"], "is what --metric_name says")
            if args.metric_name not in self.metrics:
                raise UserError(f"--metric_name must be one of {', '.join(self.metrics)}, got {args.metric_name!r}")
        if args.task is not None:
            check_name("--task", args.task)
        self.name = args.task or source_name(args)
        self.label_delimiter = args.label_column_delimiter or self.label_delimiter
        self.quantity = args.label_column_name or self.quantity

    @property
    def paper_task(self) -> str | None:
        """Only where the user says so: a file may have any name."""
        return super().paper_task if self.args.task else None

    def from_hub(self) -> list[str]:
        """The data, too."""
        return [*super().from_hub(), *([self.args.dataset_name] if self.args.dataset_name else [])]

    def load(self) -> TaskData:
        """The files, the hub's, or the mini data; as many examples as are asked for."""
        found = self._read()
        self.kind, self.texts, self.labels = found.kind, found.texts, found.labels
        self.is_multi_label = self.kind == "multi_label"
        names = _OF_CLASSES.get(self.kind, ())
        refuse_given(self.given, names, f"is for one label of several, and an example has {KINDS[self.kind][1]}")
        self._choose_metrics()
        data = found.data
        if self.args.shuffle_train_dataset and "train" in data.splits:
            shuffled = data.splits["train"].shuffle(seed=self.args.shuffle_seed)
            others = {split: rows for split, rows in data.numbers.items() if split != "train"}
            data = replace(data, splits=DatasetDict({**data.splits, "train": shuffled}), numbers=others)
        return self.limited(data)

    def _read(self) -> LabelledText:
        args = self.args
        if self.is_mini:
            if not args.mini:
                print(
                    f"No data for {self.name}: using the embedded MINI data, which is not the real {self.name}. "
                    "For the real one give --train_file.",
                    flush=True,
                )
            return load_mini(self.name)
        columns, preset = args.columns, PAPER_TASKS.get(args.task or "", Columns())
        columns = replace(columns, texts=columns.texts or preset.texts, label=columns.label or preset.label)
        hold_out, notes = self._as_in_paper(args.hold_out)
        found = read(args, columns, hold_out, **self._of_model())
        return replace(found, data=replace(found.data, notes=(*found.data.notes, *notes)))

    def _as_in_paper(self, hold_out: HoldOut) -> tuple[HoldOut, list[str]]:
        """For the paper's tasks as many examples to test on as the paper has; and what is to be said of it."""
        args = self.args
        if args.task not in PAPER_TASKS or not args.train_file or args.test_file or "test_size" in self.given:
            return hold_out, []
        sizes = next(row for row in paper.tables()["datasets"] if row["task"] == args.task)
        rows, total = len(read_table(Path(args.train_file), args.cache_dir).rows), sizes["train"] + sizes["test"]
        if abs(rows - total) <= _ROUNDED * total:
            return replace(hold_out, test_size=sizes["test"]), []
        share = sizes["test"] / total
        note = f"the paper's {args.task} has {total} examples, and this file {rows}: the share to test on is the same"
        return replace(hold_out, test_size=share), [note]

    def _of_model(self) -> dict[str, Any]:
        """Kind and labels of the model, for data without a training split."""
        if self.config.do_train or self.args.train_file or self.origin is None:
            return {}
        found = {theirs: kind for kind, (theirs, _) in KINDS.items()}.get(self.origin.problem_type or "")
        kind = found or ("regression" if self.origin.num_labels == 1 else "single_label")
        numbers = map(str, range(self.origin.num_labels))
        return {"kind": kind, "labels": () if kind == "regression" else self.own_names or tuple(numbers)}

    def _choose_metrics(self) -> None:
        """The metrics for the kind of the labels; the one that is asked for decides."""
        is_binary = self.kind == "single_label" and len(self.labels) == 2
        usual: tuple[str, ...] = (*METRICS[self.kind], *(["f1"] if is_binary else []))
        possible = (*usual, *_ON_REQUEST.get(self.kind, ()))
        wanted = self.args.metric_name
        if "metric_for_best_model" in self.given:
            wanted = self.config.metric_for_best_model
        if wanted and wanted not in possible:
            is_of_two = wanted == "f1" and self.kind == "single_label"
            where = f"there are {len(self.labels)} classes" if is_of_two else f"an example has {KINDS[self.kind][1]}"
            raise UserError(f"{wanted} is no metric where {where}: choose from {', '.join(possible)}")
        self.metrics = tuple(dict.fromkeys([wanted or usual[0], *usual]))
        if self.config.stops_early:
            self.config.metric_for_best_model = self.metrics[0]
            self.config.greater_is_better = metric(self.metrics[0]).higher_is_better

    def settle(self) -> None:
        """The weights of the classes, too."""
        super().settle()
        self.class_weights: list[float] | None = None
        if self.args.class_weights == "balanced":
            labels = np.asarray(self.data.splits["train"]["label"][:])
            lacking = [self.labels[i] for i in np.setdiff1d(np.arange(len(self.labels)), labels)]
            if lacking:
                raise UserError(f"--class_weights balanced: no training example has the label {listed(lacking)}")
            weights = compute_class_weight("balanced", classes=np.arange(len(self.labels)), y=labels)
            self.class_weights = weights.tolist()

    def trainer_options(self) -> dict[str, Any]:
        """With the weights of the classes."""
        return {**super().trainer_options(), "class_weights": self.class_weights}

    def about(self) -> dict[str, str]:
        """Whether classes are weighted, too."""
        about = super().about()
        return {**about, "training": about["training"] + (", balanced classes" if self.class_weights else "")}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line ``sqloss classify``; returns the exit status."""
    return experiment.main(Classify, argv)


if __name__ == "__main__":
    raise SystemExit(main())
