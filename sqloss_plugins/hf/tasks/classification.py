"""Fine-tunes a pre-trained model on labelled texts of your own with the square loss, cross-entropy or squentropy.

    sqloss classify --train_file train.csv
    sqloss classify --train_file train.csv --test_file test.csv --loss cross_entropy --learning_rate 5e-5 --seed 1
    sqloss classify --train_file news.tsv --text_column_names headline,body --label_column_name section
    sqloss classify --train_file posts.jsonl --label_column_name tags --label_column_delimiter ,
    sqloss classify --train_file essays.csv --label_column_name grade --do_regression
    sqloss classify --dataset_name imdb
    sqloss classify --do_predict --model_name_or_path runs/train/... --test_file new.csv
    sqloss classify settings.yaml

Files are CSV, TSV, JSON (one object a line, or an array) or parquet. A text, or a pair of them, is classified: one
label, any number of labels, or a number. What there is no validation data for is held out of the training data.
--task text5 and --task text20 are the paper's tasks, with its columns, sizes and hyper-parameters.
Takes the options below and all of transformers.TrainingArguments. What decides is accuracy, for several labels
f1_micro, for numbers mse; --metric_name names another metric. The predictions on test data are in predict_results.tsv
in the folder of the run. --do_eval and --do_predict score a saved model, whose labels and loss are its own.
A run that was killed goes on where it was when the same command is run again; a run that is finished is not repeated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import DatasetDict
from numpy.typing import NDArray
from sklearn.utils.class_weight import compute_class_weight

from sqloss_plugins import paper
from sqloss_plugins.command_line import check_name
from sqloss_plugins.data.labelled_text import Columns, HoldOut, LabelledText, load_files, load_from_hub
from sqloss_plugins.data.tables import read_table
from sqloss_plugins.data.task_data import TaskData
from sqloss_plugins.errors import UserError
from sqloss_plugins.hf import experiment
from sqloss_plugins.hf.options import refuse_given, sentence
from sqloss_plugins.hf.task import listed
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
"""The paper's tasks that are files of one's own: their columns."""

METRICS: Mapping[str, tuple[str, ...]] = {
    "single_label": ("accuracy", "f1_macro"),
    "multi_label": ("f1_micro", "f1_macro", "accuracy"),
    "regression": ("mse", "pearson", "spearmanr"),
}
"""Kind -> what is measured, the metric that decides first."""

_DESCRIBED = {"single_label": "one label", "multi_label": "several labels", "regression": "a regression"}
_KINDS = {
    "single_label_classification": "single_label",
    "multi_label_classification": "multi_label",
    "regression": "regression",
}
_ROUNDED = 0.01  # by which share the paper's sizes, which are rounded, may differ from those of its files
_ON_REQUEST: Mapping[str, tuple[str, ...]] = {"single_label": ("f1_micro", "matthews_correlation")}
_FILES = ("train_file", "validation_file", "test_file")
_OF_HUB = ("dataset_config_name", "train_split_name", "validation_split_name", "test_split_name", "remove_splits")
_OF_COLUMNS = ("text_column_names", "text_column_delimiter", "label_column_name", "label_column_delimiter")
_OF_COLUMNS += ("do_regression", "remove_columns")
_OF_TRAINING = ("class_weights", "shuffle_train_dataset", "shuffle_seed", "validation_size", "test_size")
_OF_TRAINING += ("max_train_samples",)
_NOT_EMPTY = ("task", "dataset_name", "text_column_names", "label_column_name", "label_column_delimiter")


@dataclass
class ClassifyArguments(SequenceClassificationArguments):
    """Where the data is, and what it looks like."""

    task: str | None = field(
        default=None,
        metadata={
            "help": "Name of the task, for folders and tables; text5 and text20 are the paper's. By default that of "
            "the training file, or of the data set."
        },
    )
    train_file: str | None = field(default=None, metadata={"help": "File to train on."})
    validation_file: str | None = field(
        default=None, metadata={"help": "File to validate on. By default --validation_size of the training data."}
    )
    test_file: str | None = field(default=None, metadata={"help": "File to test on, with or without labels."})
    dataset_name: str | None = field(default=None, metadata={"help": "Data set on the hub, or a folder that has one."})
    dataset_config_name: str | None = field(default=None, metadata={"help": "Configuration of the data set."})
    train_split_name: str | None = field(default=None, metadata={"help": "The data set's split to train on."})
    validation_split_name: str | None = field(default=None, metadata={"help": "Its split to validate on."})
    test_split_name: str | None = field(default=None, metadata={"help": "Its split to test on."})
    remove_splits: str | None = field(default=None, metadata={"help": "Its splits to leave out, separated by commas."})
    remove_columns: str | None = field(default=None, metadata={"help": "Columns to leave out, separated by commas."})
    text_column_names: str | None = field(
        default=None,
        metadata={"help": "Columns of the texts, separated by commas: one, or the two of a pair; more are joined."},
    )
    text_column_delimiter: str | None = field(
        default=None, metadata={"help": "Join the columns to one text, with this in between."}
    )
    label_column_name: str | None = field(default=None, metadata={"help": "Column of the labels. By default label."})
    label_column_delimiter: str | None = field(
        default=None, metadata={"help": "Several labels in a field, with this in between: multi-label classification."}
    )
    do_regression: bool | None = field(
        default=None, metadata={"help": "Labels are numbers to predict. By default where they are not whole numbers."}
    )
    validation_size: float = field(
        default=0.1,
        metadata={"help": "Held out of the training data for validation: a share below 1, or a number of examples."},
    )
    test_size: float = field(default=0.0, metadata={"help": "The same for testing; the paper's for its tasks."})
    shuffle_train_dataset: bool = field(
        default=False, metadata={"help": "Shuffle the training data before --max_train_samples takes the first."}
    )
    shuffle_seed: int = field(default=42, metadata={"help": "Seed of that, and of what is held out."})
    metric_name: str | None = field(default=None, metadata={"help": "The metric that decides."})
    class_weights: str = field(
        default="none",
        metadata={
            "help": "balanced: weigh every class by what it is short of in the training data, as scikit-learn does.",
            "choices": ["none", "balanced"],
        },
    )


class Classify(SequenceClassification):
    """Classification of labelled texts."""

    program = "sqloss classify"
    description = __doc__
    arguments = ClassifyArguments
    not_decisive = (*_FILES, "dataset_name")
    mini_warning = "MINI DATA: not the real task"
    default_model = str(COMMON.backbone)
    quantity = "score"
    metrics = ("accuracy", "f1", "f1_macro", "f1_micro", "matthews_correlation", "mse", "pearson", "spearmanr")

    @classmethod
    def defaults(cls, args: Any, loss: str) -> dict[str, Any]:
        """The paper's hyper-parameters for its tasks, else common ones."""
        task = args.task if args.task in PAPER_TASKS else None
        kind = "regression" if args.do_regression else "multi_label" if args.label_column_delimiter else "single_label"
        chosen_by = args.metric_name if args.metric_name in cls.metrics else METRICS[kind][0]
        return {**training_defaults(args, task, loss), "metric_for_best_model": chosen_by}

    def check(self) -> None:
        """Refuses sources that contradict each other, and options that have no effect."""
        args, given = self.args, self.given
        super().check()
        for name in (*_FILES, *_OF_HUB, *_NOT_EMPTY):
            if getattr(args, name) == "":
                raise UserError(f"--{name} is empty: give a value, or leave it out")
        files = [name for name in _FILES if getattr(args, name) is not None]
        sources = [*files, *(["dataset_name"] if args.dataset_name else [])]
        self.is_mini = args.mini or (args.task in PAPER_TASKS and not sources)
        if args.mini and sources:
            raise UserError(f"--mini and --{sources[0]} exclude each other: the mini data or your own")
        if files and args.dataset_name:
            raise UserError(f"--dataset_name and --{files[0]} exclude each other: a data set or files")
        if args.mini and args.task not in PAPER_TASKS:
            raise UserError(f"--mini needs --task: choose from {', '.join(PAPER_TASKS)}")
        if not sources and not self.is_mini:
            raise UserError("there is no data: give --train_file, --dataset_name, or --task text5 --mini")
        if not args.dataset_name:
            refuse_given(given, _OF_HUB, "is of --dataset_name")
        if self.is_mini:
            fixed = (*_OF_COLUMNS, "validation_size", "test_size")
            refuse_given(given, fixed, "is of your own data, and this is the embedded mini data")
        has_training = bool(args.train_file or args.dataset_name or self.is_mini)
        if not has_training and self.config.do_train:
            raise UserError("training needs --train_file; a saved model is scored by --do_eval or --do_predict")
        if not has_training:
            refuse_given(given, _OF_TRAINING, "is of training data")
        for name in ("validation", "test"):
            if getattr(args, f"{name}_file") is not None:
                refuse_given(given, [f"{name}_size"], f"is of data that is held out, and --{name}_file names a file")
        if not self.config.do_train:
            refuse_given(given, ["class_weights"], "is of training, and nothing is trained")
        if args.metric_name is not None:
            refuse_given(given, ["metric_for_best_model"], "is what --metric_name says")
            if args.metric_name not in self.metrics:
                raise UserError(f"--metric_name must be one of {', '.join(self.metrics)}, got {args.metric_name!r}")
        if args.task is not None:
            check_name("--task", args.task)
        self.name = args.task or _name_of(args)
        self.label_delimiter = args.label_column_delimiter or ","
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
        self.texts, self.labels, self.is_multi_label = found.texts, found.labels, found.kind == "multi_label"
        if found.kind == "regression":
            options = ("k", "M", "rescaling", "paper_task", "label_smoothing_factor")
            refuse_given(self.given, options, f"needs classes, and {self.name} is a regression")
        self._choose_metrics(found.kind)
        data = found.data
        if self.args.shuffle_train_dataset:
            splits = DatasetDict(data.splits)
            splits["train"] = splits["train"].shuffle(seed=self.args.shuffle_seed)
            data = replace(data, splits=splits)
        data = self.limited(data)
        if self.args.class_weights == "balanced":
            self.class_weights = self._balanced(data)
        return data

    def _read(self) -> LabelledText:
        args = self.args
        if self.is_mini:
            from sqloss_plugins.data.mini_text import load_mini

            if not args.mini:
                print(
                    f"No data for {self.name}: using the embedded MINI data, which is not the real {self.name}. "
                    "For the real one give --train_file.",
                    flush=True,
                )
            return load_mini(self.name)
        preset = PAPER_TASKS.get(self.name, Columns())
        columns = Columns(
            texts=_names(args.text_column_names) or preset.texts,
            label=args.label_column_name or preset.label,
            text_delimiter=args.text_column_delimiter,
            label_delimiter=args.label_column_delimiter,
            is_regression=args.do_regression,
            removed=_names(args.remove_columns),
        )
        options: dict[str, Any] = {"cache_dir": args.cache_dir}
        if not self.config.do_train and args.train_file is None:
            options |= self._of_model()
        if not args.dataset_name:
            files = {name.removesuffix("_file"): Path(getattr(args, name)) for name in _FILES if getattr(args, name)}
            hold_out, notes = self._hold_out(columns)
            found = load_files(files, columns, hold_out, **options)
            return replace(found, data=replace(found.data, notes=(*found.data.notes, *notes)))
        splits = {split: getattr(args, f"{split}_split_name") for split in ("train", "validation", "test")}
        try:
            return load_from_hub(
                args.dataset_name,
                args.dataset_config_name,
                {split: name for split, name in splits.items() if name},
                columns,
                HoldOut(args.validation_size, args.test_size, args.shuffle_seed),
                remove_splits=_names(args.remove_splits),
                token=args.token,
                **options,
            )
        except (OSError, ValueError) as error:
            raise UserError(f"--dataset_name {args.dataset_name} cannot be read: {sentence(error)}") from error

    def _hold_out(self, columns: Columns) -> tuple[HoldOut, list[str]]:
        """What is held out of the training file: for the paper's tasks, to test on, as many as the paper has."""
        args = self.args
        hold_out = HoldOut(args.validation_size, args.test_size, args.shuffle_seed)
        if self.name not in PAPER_TASKS or "test_size" in self.given or args.test_file or not args.train_file:
            return hold_out, []
        sizes = next(row for row in paper.tables()["datasets"] if row["task"] == self.name)
        rows, total = len(read_table(Path(args.train_file), args.cache_dir).rows), sizes["train"] + sizes["test"]
        if abs(rows - total) <= _ROUNDED * total:
            return replace(hold_out, test_size=sizes["test"]), []
        note = f"the paper's {self.name} has {total} examples, and the file {rows}: tested is on the same share of them"
        return replace(hold_out, test_size=sizes["test"] / total), [note]

    def _of_model(self) -> dict[str, Any]:
        """Kind and labels of a saved model, for data without a training split."""
        kind = _KINDS.get(getattr(self.origin, "problem_type", None) or "")
        count = getattr(self.origin, "num_labels", 0)
        if kind is None:
            kind = "regression" if count == 1 else "single_label"
        labels = self.own_names or tuple(map(str, range(count)))
        return {"kind": kind, "labels": () if kind == "regression" else labels}

    def _choose_metrics(self, kind: str) -> None:
        """The metrics of this kind; the one that is asked for decides."""
        usual = METRICS[kind] + (("f1",) if len(self.labels) == 2 and kind == "single_label" else ())
        chosen_by = self.args.metric_name
        if "metric_for_best_model" in self.given:
            chosen_by = self.config.metric_for_best_model
        if chosen_by is not None and chosen_by not in (*usual, *_ON_REQUEST.get(kind, ())):
            possible = ", ".join((*usual, *_ON_REQUEST.get(kind, ())))
            raise UserError(f"{chosen_by} is no metric for {_DESCRIBED[kind]}: choose from {possible}")
        self.metrics = tuple(dict.fromkeys((chosen_by or usual[0], *usual)))
        if self.config.stops_early:
            self.config.metric_for_best_model = self.metrics[0]
            self.config.greater_is_better = metric(self.metrics[0]).higher_is_better

    def _balanced(self, data: TaskData) -> NDArray[np.float64]:
        """Weights by the labels' own numbers, of shape (C,)."""
        if self.is_multi_label or not self.has_classes:
            kind = "multi_label" if self.is_multi_label else "regression"
            raise UserError(f"--class_weights weighs examples with one label, and this is {_DESCRIBED[kind]}")
        labels = np.asarray(data.splits["train"]["label"])
        lacking = [name for i, name in enumerate(self.labels) if i not in labels]
        if lacking:
            raise UserError(f"--class_weights balanced: no example of {listed(lacking)} in the training data")
        weights: NDArray[np.float64] = compute_class_weight("balanced", classes=np.arange(len(self.labels)), y=labels)
        return weights

    def trainer_options(self) -> dict[str, Any]:
        """The weights of the classes, in the order of the model's outputs."""
        options = super().trainer_options()
        if self.args.class_weights == "balanced":
            options["class_weights"] = self.class_weights[np.asarray(self.order)].tolist()
        return options

    def about(self) -> dict[str, str]:
        """The kind, too."""
        about = super().about()
        weights = ", balanced class weights" if self.args.class_weights == "balanced" else ""
        return {**about, "training": about["training"] + weights}


def _names(text: str | None) -> tuple[str, ...]:
    """Names that are separated by commas."""
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


def _name_of(args: ClassifyArguments) -> str:
    """The name of the task where none is given.

    Raises:
        UserError: the file's, or the data set's, cannot be part of a path.
    """
    option = next(name for name in (*_FILES, "dataset_name") if getattr(args, name))
    path = Path(getattr(args, option))
    name = path.name if option == "dataset_name" else path.stem
    try:
        check_name("--task", name)
    except UserError as error:
        raise UserError(f"--{option} {path} gives the task no name: give one by --task") from error
    return name


def main(argv: Sequence[str] | None = None) -> int:
    """The command line ``sqloss classify``; returns the exit status."""
    return experiment.main(Classify, argv)


if __name__ == "__main__":
    raise SystemExit(main())
