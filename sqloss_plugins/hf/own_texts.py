"""Labelled texts of one's own in a script for the Trainer: the options that say where they are, and their reading."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqloss_plugins.command_line import check_name
from sqloss_plugins.data.hold_out import HoldOut
from sqloss_plugins.data.labelled_text import LabelledText, load_files, load_from_hub
from sqloss_plugins.data.labels import Columns
from sqloss_plugins.errors import UserError, is_full_disk, sentence
from sqloss_plugins.hf.options import option, refuse_empty, refuse_given
from sqloss_plugins.hf.task import TaskArguments

_FILES = ("train_file", "validation_file", "test_file")
SOURCES = (*_FILES, "dataset_name")
"""Options that name data."""

_OF_HUB = ("dataset_config_name", "train_split_name", "validation_split_name", "test_split_name", "remove_splits")
_OF_OWN_DATA = (
    "text_column_names",
    "text_column_delimiter",
    "label_column_name",
    "label_column_delimiter",
    "do_regression",
    "remove_columns",
    "validation_size",
    "test_size",
)
_OF_TRAINING_DATA = ("validation_size", "test_size", "shuffle_train_dataset", "shuffle_seed", "max_train_samples")


@dataclass
class LabelledTextArguments(TaskArguments):
    """Where the data is, and what it looks like; names as in Transformers' run_classification.py."""

    train_file: str | None = option("File to train on.")
    validation_file: str | None = option("File to validate on. By default --validation_size of the training data.")
    test_file: str | None = option("File to test on, with or without labels.")
    dataset_name: str | None = option("Data set on the hub, or a folder that has one.")
    dataset_config_name: str | None = option("Configuration of the data set.")
    train_split_name: str | None = option("The data set's split to train on. By default train.")
    validation_split_name: str | None = option("Its split to validate on. By default validation, if it has that.")
    test_split_name: str | None = option("Its split to test on. By default test, if it has that.")
    remove_splits: str | None = option("Its splits to leave out, separated by commas.")
    remove_columns: str | None = option("Columns to leave out, separated by commas.")
    text_column_names: str | None = option(
        "Columns of the texts, separated by commas: one, the two of a pair, or more to join. By default found by their "
        "usual names."
    )
    text_column_delimiter: str | None = option("Join the texts of a row to one, with this in between.")
    label_column_name: str | None = option("Column of the labels. By default label or labels.")
    label_column_delimiter: str | None = option("What is between the labels of a field that has several.")
    do_regression: bool | None = option(
        "Labels are numbers to predict. By default where some of them are not whole numbers.", nargs="?", const=True
    )
    validation_size: float = option(
        "What is held out of the training data for validation: a share below 1, or a number of examples.", 0.1
    )
    test_size: float = option("The same for testing. For the paper's tasks by default the paper's.", 0.0)
    shuffle_train_dataset: bool = option("Shuffle the training data, before --max_train_samples.", False)
    shuffle_seed: int = option("Seed of that, and of what is held out.", 42)

    @property
    def sources(self) -> list[str]:
        """The options that are given of those that name data."""
        return [name for name in SOURCES if getattr(self, name) is not None]

    @property
    def columns(self) -> Columns:
        """What is said of the columns."""
        return Columns(
            _names(self.text_column_names),
            self.label_column_name,
            self.text_column_delimiter,
            self.label_column_delimiter,
            self.do_regression,
            _names(self.remove_columns),
        )

    @property
    def hold_out(self) -> HoldOut:
        """What is held out of the training data."""
        return HoldOut(self.validation_size, self.test_size, self.shuffle_seed)


def check_source(args: LabelledTextArguments, given: Collection[str], do_train: bool) -> None:
    """Refuses sources that contradict each other, and options that have no effect.

    Raises:
        UserError: for the first that is found.
    """
    refuse_empty({name: value for name, value in vars(args).items() if not name.endswith("delimiter")})
    sources = args.sources
    if args.mini and sources:
        raise UserError(f"--mini and --{sources[0]} exclude each other: the mini data or your own")
    if args.dataset_name and len(sources) > 1:
        raise UserError(f"--{sources[0]} and --dataset_name exclude each other: files or a data set")
    has_training_data = bool(args.train_file or args.dataset_name or not sources)
    if do_train and not has_training_data:
        raise UserError("training needs --train_file; a saved model is scored by --do_eval or --do_predict")
    for is_of_use, names, reason in (
        (args.dataset_name, _OF_HUB, "is of --dataset_name"),
        (sources, _OF_OWN_DATA, "is of your own data, and this is the embedded mini data"),
        (has_training_data, _OF_TRAINING_DATA, "is of training data, and there is none"),
        (
            sources or args.shuffle_train_dataset,
            ("shuffle_seed",),
            "changes nothing in mini data, which are always the same",
        ),
        (not args.validation_file, ("validation_size",), "is of data that is held out, not of --validation_file"),
        (not args.test_file, ("test_size",), "is of data that is held out, not of --test_file"),
        (do_train, ("shuffle_train_dataset",), "is of training, and nothing is trained"),
    ):
        if not is_of_use:
            refuse_given(given, names, reason)


def source_name(args: LabelledTextArguments) -> str:
    """A short name for the data: that of the file, without its suffix, or of the data set.

    Raises:
        UserError: it cannot be part of a path.
    """
    source = args.sources[0]
    path = Path(getattr(args, source))
    name = path.name if source == "dataset_name" else path.stem
    try:
        check_name(f"--{source}", name)
    except UserError as error:
        raise UserError(f"{error}; or name the task by --task") from error
    return name


def read(
    args: LabelledTextArguments,
    columns: Columns,
    hold_out: HoldOut,
    kind: str | None = None,
    labels: Sequence[str] | None = None,
) -> LabelledText:
    """The files, or the data set.

    Args:
        args: the options.
        columns, hold_out, kind, labels: as for :func:`sqloss_plugins.data.labelled_text.load_files`.

    Raises:
        UserError: what is wrong, and where.
    """
    options: dict[str, Any] = {"kind": kind, "labels": labels, "cache_dir": args.cache_dir}
    if not args.dataset_name:
        files = {name.removesuffix("_file"): Path(getattr(args, name)) for name in args.sources}
        return load_files(files, columns, hold_out, **options)
    named = {split: getattr(args, f"{split}_split_name") for split in ("train", "validation", "test")}
    splits = {split: name for split, name in named.items() if name}
    options |= {"remove_splits": _names(args.remove_splits), "token": args.token}
    try:
        return load_from_hub(args.dataset_name, args.dataset_config_name, splits, columns, hold_out, **options)
    except (OSError, ValueError) as error:
        if is_full_disk(error):
            raise
        raise UserError(f"--dataset_name {args.dataset_name} cannot be read: {sentence(error)}") from error


def _names(text: str | None) -> tuple[str, ...]:
    """Names that are separated by commas."""
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())
