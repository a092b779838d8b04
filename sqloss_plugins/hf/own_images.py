"""Labelled images in a script for the Trainer: the options that say where they are, and their reading."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqloss_plugins.command_line import check_name
from sqloss_plugins.data.hold_out import HoldOut
from sqloss_plugins.data.image_tasks import TASKS, load_task
from sqloss_plugins.data.images import LabelledImages, load, load_from_hub
from sqloss_plugins.data.mini_images import load_mini
from sqloss_plugins.errors import UserError, is_full_disk, sentence
from sqloss_plugins.folders import SPLIT_NAMES, name_of_data
from sqloss_plugins.hf.options import option, refuse_empty, refuse_given
from sqloss_plugins.hf.task import TaskArguments

_FOLDERS = ("train_dir", "validation_dir", "test_dir")
SOURCES = (*_FOLDERS, "dataset_name", "data_dir")
"""Options that name data."""

_OF_TRAINING_DATA = ("train_val_split", "shuffle_seed", "max_train_samples")
_READING = ("image_column_name", "label_column_name")
_USUAL_SHARE = 0.15


@dataclass
class ImageDataArguments(TaskArguments):
    """Where the images are; names as in Transformers' run_image_classification.py."""

    task: str | None = option(
        f"{', '.join(TASKS)}: a known task, its data and the paper's hyper-parameters. Any other name is for folders "
        "and tables of images of your own."
    )
    data_dir: str | None = option("With a known task: folder with its files. By default they come from the hub.")
    train_dir: str | None = option(
        "Folder to train on, with a folder of images for each class; or with parquet files, or webdataset shards."
    )
    validation_dir: str | None = option("The same to validate on. By default --train_val_split of the training data.")
    test_dir: str | None = option("The same to test on; images without class folders have no labels.")
    dataset_name: str | None = option("Data set on the hub, or a folder that has one.")
    dataset_config_name: str | None = option("Configuration of the data set.")
    image_column_name: str | None = option("Column of the images, where there are columns. By default found.")
    label_column_name: str | None = option("Column of the labels. By default found.")
    train_val_split: float | None = option(
        "What is held out of the training data for validation: a share below 1, or a number of images. By default "
        f"{_USUAL_SHARE}, and of the known tasks 10,000 (MNIST, Fashion-MNIST) or 5,000 (CIFAR-10)."
    )
    shuffle_seed: int = option("Seed of what is held out, and of which images --max_..._samples takes.", 42)
    max_corrupt_share: float = option("The share of images of a split that may be left out as corrupt.", 0.0)
    preprocessing_num_workers: int | None = option("Processes that check the images. By default one for each core.")
    max_train_samples: int | None = option("Train on so many images, drawn by --shuffle_seed.")
    max_eval_samples: int | None = option("Validate on so many images, drawn likewise.")
    max_predict_samples: int | None = option("Test on so many images, drawn likewise.")

    @property
    def sources(self) -> list[str]:
        """The options that are given of those that name data."""
        return [name for name in SOURCES if getattr(self, name) is not None]

    @property
    def known_task(self) -> str | None:
        """The task, where its data is known and no images of one's own take its place."""
        own = (*_FOLDERS, "dataset_name")
        return self.task if self.task in TASKS and not any(getattr(self, name) for name in own) else None


def check_source(args: ImageDataArguments, given: Collection[str], do_train: bool) -> None:
    """Refuses sources that contradict each other, and options that have no effect.

    Raises:
        UserError: for the first that is found.
    """
    refuse_empty(vars(args))
    sources, tasks = args.sources, ", ".join(TASKS)
    if not sources and args.known_task is None:
        lacking = "--mini needs" if args.mini else "there are no images: give --train_dir, --dataset_name, or"
        raise UserError(f"{lacking} --task with one of {tasks}")
    if args.mini and sources:
        raise UserError(f"--mini and --{sources[0]} exclude each other: the mini data or your own")
    if args.data_dir and args.known_task is None:
        other = f", not for --{sources[0]}" if args.task in TASKS else ""
        raise UserError(f"--data_dir is for --task with one of {tasks}{other}; folders of your own are --train_dir")
    if args.dataset_name and len(sources) > 1:
        raise UserError(f"--{sources[0]} and --dataset_name exclude each other: folders or a data set")
    has_training_data = bool(args.train_dir or args.dataset_name or args.known_task)
    if do_train and not has_training_data:
        raise UserError("training needs --train_dir; a saved model is scored by --do_eval or --do_predict")
    is_divided = args.known_task is None or TASKS[args.known_task].validation_size > 0
    is_limited = any(
        size is not None for size in (args.max_train_samples, args.max_eval_samples, args.max_predict_samples)
    )
    for is_of_use, names, reason in (
        (args.dataset_name, ("dataset_config_name",), "is of --dataset_name"),
        (args.known_task is None, _READING, f"is of images of your own, and --task {args.task} is known"),
        (not args.mini, ("train_val_split", "max_corrupt_share", "preprocessing_num_workers"), "is not of mini data"),
        (has_training_data, _OF_TRAINING_DATA, "is of training data, and there is none"),
        (not args.mini or is_limited, ("shuffle_seed",), "changes nothing where all of the mini data are taken"),
        (not args.validation_dir, ("train_val_split",), "is of data that is held out, not of --validation_dir"),
        (is_divided, ("train_val_split",), f"is of data that is held out, and {args.task} has validation data"),
    ):
        if not is_of_use:
            refuse_given(given, names, reason)
    for name in _FOLDERS:
        _refuse_splits(name, getattr(args, name))
    if not 0.0 <= args.max_corrupt_share < 1.0:
        raise UserError(f"--max_corrupt_share must be at least 0 and less than 1, got {args.max_corrupt_share:g}")


def _refuse_splits(option: str, value: str | None) -> None:
    """Refuses a folder one level too high, whose splits would be taken for classes."""
    folder = Path(value or "")
    if value is None or not folder.is_dir():
        return
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(names) > 1 and all(name.lower() in SPLIT_NAMES for name in names):
        raise UserError(
            f"--{option} {folder} has the folders {', '.join(names)}, which are splits and no classes: name one of "
            f"them, such as {folder / names[0]}"
        )


def source_name(args: ImageDataArguments) -> str:
    """A short name for the data: of a folder, or the one it is in where it is called train, for example.

    Raises:
        UserError: it cannot be part of a path.
    """
    source = args.sources[0]
    path = Path(getattr(args, source))
    name = path.name if source == "dataset_name" else name_of_data(path)
    try:
        check_name(f"--{source}", name)
    except UserError as error:
        raise UserError(f"{error}; or name the task by --task") from error
    return name


def read(args: ImageDataArguments, is_hub_reachable: bool, labels: Sequence[str] | None = None) -> LabelledImages:
    """The task's data, the folders, the data set, or the mini data.

    Args:
        args: the options.
        is_hub_reachable: for the message.
        labels: names of a saved model's classes, where there is no training data.

    Raises:
        UserError: what is wrong, and where.
    """
    if args.mini:
        assert args.known_task is not None, "check_source refuses mini data of other tasks"
        return load_mini(args.known_task)
    options: dict[str, Any] = {
        "max_corrupt_share": args.max_corrupt_share,
        "cache_dir": args.cache_dir,
        "num_proc": args.preprocessing_num_workers,
    }
    task, share = args.known_task, args.train_val_split
    try:
        if task is not None:
            hold_out = HoldOut(TASKS[task].validation_size if share is None else share, seed=args.shuffle_seed)
            folder = Path(args.data_dir) if args.data_dir else None
            return load_task(task, folder, hold_out=hold_out, token=args.token, **options)
        hold_out = HoldOut(_USUAL_SHARE if share is None else share, seed=args.shuffle_seed)
        options |= {name: getattr(args, name) for name in _READING}
        if not args.dataset_name:
            sources = {name.removesuffix("_dir"): Path(getattr(args, name)) for name in args.sources}
            return load(sources, hold_out, labels=labels, **options)
        name, config = args.dataset_name, args.dataset_config_name
        return load_from_hub(name, config, hold_out, labels=labels, token=args.token, **options)
    except (OSError, ValueError) as error:
        if is_full_disk(error):
            raise
        if task is not None and not args.data_dir:
            hint = "" if is_hub_reachable else ", and the hub cannot be reached"
            raise UserError(
                f"the data of {task} is not on this machine{hint}: give its folder by --data_dir, or take --mini "
                f"({sentence(error)})"
            ) from error
        source = f"--{args.sources[0]} {getattr(args, args.sources[0])}"
        raise UserError(f"{source} cannot be read: {sentence(error)}") from error
