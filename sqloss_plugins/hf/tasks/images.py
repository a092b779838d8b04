"""Trains or fine-tunes image classifiers with the square loss, cross-entropy or squentropy.

    sqloss images --task cifar10 --data_dir cifar-10-batches-bin
    sqloss images --task mnist --loss cross_entropy --seed 1
    sqloss images --task imagenet --arch resnet50 --data_dir imagenet --per_device_train_batch_size 256 --bf16
    sqloss images --task cifar10 --arch vit --mini
    sqloss images --train_dir photos/train --model_name_or_path timm/resnet50.a1_in1k --ignore_mismatched_sizes
    sqloss images --train_dir photos/train --validation_dir photos/val --arch resnet18
    sqloss images --do_predict --model_name_or_path runs/photos/... --test_dir new
    sqloss images settings.yaml

The known tasks are mnist (tcnn reads its pixels in a permuted order, as in the paper), fashion_mnist, cifar10 and
imagenet; without --data_dir they come from the hub. Images of your own are folders with a folder for each class,
parquet files, webdataset shards, or a data set on the hub. --arch is a new model with random weights, the paper's or
any of timm; --model_name_or_path has weights.

Takes the options below and all of transformers.TrainingArguments. The defaults are the paper's for its tasks and
architectures. What decides is accuracy; with more than five classes there is top5, too. The predictions on test data
are in predict_results.tsv in the folder of the run. --do_eval and --do_predict score a saved model, whose labels and
loss are its own. A run that was killed goes on where it was when the same command is run again; a run that is finished
is not repeated.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, Image
from transformers import PreTrainedModel

from sqloss_plugins import paper
from sqloss_plugins.command_line import check_name
from sqloss_plugins.data.images import TASKS
from sqloss_plugins.data.task_data import TaskData
from sqloss_plugins.errors import UserError
from sqloss_plugins.hf import experiment
from sqloss_plugins.hf.classification import LIMITS, Classification
from sqloss_plugins.hf.hub import find_config
from sqloss_plugins.hf.image_models import (
    PRE_TRAINED,
    ImageModelArguments,
    Pixels,
    about,
    check_image_model,
    check_together,
    load_image_model,
    new_image_model,
    pixels_for,
    short_name,
    size_defaults,
)
from sqloss_plugins.hf.image_transforms import AUGMENTATIONS, ImageCollator, eval_transform, train_transform
from sqloss_plugins.hf.options import check_at_least, refuse_given
from sqloss_plugins.hf.own_images import SOURCES, ImageDataArguments, check_source, read, source_name
from sqloss_plugins.hf.own_texts import option
from sqloss_plugins.paper import HyperParameters

PIXELS: Mapping[str, Pixels] = {
    "mnist": Pixels(28, (0.1307,) * 3, (0.3081,) * 3),
    "fashion_mnist": Pixels(28, (0.2860,) * 3, (0.3530,) * 3),
    "cifar10": Pixels(32, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
}
"""Known tasks of small images: their size, and mean and standard deviation of their training data."""

DEFAULT_ARCHITECTURES: Mapping[str, str] = {
    "mnist": "tcnn",
    "fashion_mnist": "tcnn",
    "cifar10": "wide_resnet",
    "imagenet": "resnet50",
}
"""Known tasks, and the paper's first architecture for them."""

_STAND_INS = {"fashion_mnist": "mnist"}
"""Tasks that the paper does not have, and whose hyper-parameters they have."""

_IMAGENET = Pixels(224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

_FINE_TUNED = {"learning_rate": 5e-5, "num_train_epochs": 5.0, "per_device_train_batch_size": 32}
_FROM_SCRATCH = {"learning_rate": 1e-3, "num_train_epochs": 90.0, "per_device_train_batch_size": 64}
_MINI = {"learning_rate": 2e-3, "num_train_epochs": 10.0, "per_device_train_batch_size": 32}
_TOP5_FROM = 6
_OF_TRAINING = ("augmentation", "mixup_alpha", "cutmix_alpha")


@dataclass
class ImagesArguments(ImageModelArguments, ImageDataArguments):
    """The task, and how its images are varied in training."""

    augmentation: str = option(
        "How training images are varied. none; crop_flip: a shifted piece, perhaps mirrored; resized_crop: a piece of "
        "any size, perhaps mirrored.",
        "resized_crop",
        choices=list(AUGMENTATIONS),
    )
    mixup_alpha: float = option(
        "Training images are averaged in pairs, with a weight from Beta(alpha, alpha), and their labels with them; 0: "
        "not.",
        0.0,
    )
    cutmix_alpha: float = option(
        "A piece of each training image comes from another one, with an area from Beta(alpha, alpha), and the labels "
        "in proportion; 0: not. With both, a batch has one of the two.",
        0.0,
    )


class Images(Classification):
    """Classification of images.

    Attributes:
        values: the paper's hyper-parameters for the task and the architecture; None where it has none.
    """

    program = "sqloss images"
    arguments = ImagesArguments
    not_decisive = (*SOURCES, "preprocessing_num_workers")
    metrics: tuple[str, ...] = ("accuracy", "top5")
    values: HyperParameters | None = None

    @classmethod
    def defaults(cls, args: Any, loss: str) -> dict[str, Any]:
        """The paper's hyper-parameters where it has the task and the architecture, else common ones."""
        if args.arch is None and args.model_name_or_path is None and args.known_task is not None:
            args = replace(args, arch=DEFAULT_ARCHITECTURES[args.known_task])
        common = {
            "arch": args.arch,
            "metric_for_best_model": cls.metrics[0],
            "remove_unused_columns": False,  # the transforms need the image
            "dataloader_num_workers": 0 if args.mini else min(8, (os.cpu_count() or 1) - 1),
            **size_defaults(args),
        }
        if args.mini:
            return {**_MINI, **common, "augmentation": "none"}
        values = _values(args, loss)
        if values is None:
            common |= _FROM_SCRATCH if args.arch else _FINE_TUNED
            is_plain = args.task in ("mnist", "fashion_mnist")
            kind = "none" if is_plain else "crop_flip" if args.task in PIXELS and args.arch else "resized_crop"
            return {**common, "augmentation": kind}
        return {
            **common,
            "learning_rate": values.learning_rate,  # of a step of so many examples, where it is so
            "num_train_epochs": float(values.epochs or 0),
            "per_device_train_batch_size": values.batch_size,
            "augmentation": values.augmentation,
            **({"dropout": values.dropout} if "dropout" in common else {}),
            **values.training,
        }

    def check(self) -> None:
        """Refuses sources that contradict each other, and options that have no effect."""
        args, given, do_train = self.args, self.given, self.config.do_train
        check_at_least(1, args, *LIMITS.values(), "preprocessing_num_workers")
        check_source(args, given, do_train)
        check_image_model(args, given, do_train)
        if not do_train:
            refuse_given(given, _OF_TRAINING, "is of training, and nothing is trained")
        for name in ("mixup_alpha", "cutmix_alpha"):
            if not 0.0 <= getattr(args, name) < math.inf:
                raise UserError(f"--{name} must be a finite number of at least 0, got {getattr(args, name):g}")
        refuse_given(given, ["greater_is_better"], "is what the metric says")
        refuse_given(given, ["remove_unused_columns"], "is for tables, and these are images")
        if args.task is not None:
            check_name("--task", args.task)
        self.name = args.task or source_name(args)
        self.values = None if args.mini else _values(args, self.config.loss)
        if self.values is not None and "learning_rate" not in given:
            config = self.config
            batch = config.train_batch_size * config.world_size * config.gradient_accumulation_steps
            config.learning_rate = self.values.rate(batch) or config.learning_rate

    @property
    def paper_task(self) -> str | None:
        """Only where the user says so: a folder may have any name."""
        return super().paper_task if self.args.task else None

    def from_hub(self) -> list[str]:
        """The data and the model, where they are not on this machine."""
        args, task = self.args, self.args.known_task
        names = [args.model_name_or_path, args.image_processor_name, args.dataset_name]
        is_elsewhere = task is not None and not args.mini and not args.data_dir and TASKS[task].default_dir is None
        return [name for name in names if name] + ([TASKS[task].hub] if is_elsewhere and task else [])

    def find_model(self) -> tuple[str | None, str]:
        """A new model, or the named one."""
        if self.args.arch is not None:
            return None, short_name(self.args)
        name = str(self.args.model_name_or_path)
        if not Path(name).is_dir():
            find_config(name, self.is_hub_reachable, **self.args.hub)
        return name, Path(name).resolve().name

    def load(self) -> TaskData:
        """The images; as many as are asked for."""
        labels = None
        if not self.config.do_train and not self.args.train_dir and self.origin is not None:
            labels = self.own_names or tuple(map(str, range(self.origin.num_labels)))
        found = read(self.args, self.is_hub_reachable, labels)
        self.labels = found.labels
        if len(self.labels) < _TOP5_FROM:
            self.metrics = ("accuracy",)
            refuse = self.config.stops_early and self.config.metric_for_best_model == "top5"
            if refuse:
                raise UserError(f"top5 is for more than five classes, and {self.name} has {len(self.labels)}")
        return self.limited(found.data)

    def limited(self, data: TaskData) -> TaskData:
        """As many examples as the options say, of all classes: the images of a folder are sorted by them."""
        splits = DatasetDict(data.splits)
        for split, rows in splits.items():
            limit = getattr(self.args, LIMITS[split])
            if limit is not None and limit < len(rows):
                splits[split] = rows.shuffle(seed=self.args.shuffle_seed)
        return super().limited(replace(data, splits=splits))

    def load_model(self, path: str | None) -> tuple[PreTrainedModel, Any]:
        """The model with a head for the task, and its image processor."""
        args, names = self.args, dict(enumerate(self.names))
        about_labels = {"num_labels": len(names), "id2label": names, "label2id": {v: k for k, v in names.items()}}
        about_labels |= {"problem_type": "single_label_classification"}
        if path is None:
            pixels = pixels_for(args, PIXELS.get(self.name, _IMAGENET))
            model, processor = new_image_model(args, about_labels, pixels)
        else:
            place = args.image_processor_name or self.model_path or path
            model, processor = load_image_model(path, place, args.ignore_mismatched_sizes, about_labels, args.hub)
        check_together(model, processor, self.arch)
        return model, processor

    def encode(self, rows: Dataset) -> Dataset:
        """Images become numbers when they are used: those of the training split varied, those of the others not."""
        is_training = self.config.do_train and rows is self.data.splits.get("train")
        kind = self.args.augmentation
        transform = train_transform(self.processor, kind) if is_training else eval_transform(self.processor)
        return rows.with_transform(_Encoder(transform))

    def collator(self) -> Callable[..., Any]:
        """Images of one size to a batch."""
        return ImageCollator()

    def trainer_options(self) -> dict[str, Any]:
        """With the mixing of training images."""
        args = self.args
        mixing = ImageCollator(len(self.labels), args.mixup_alpha, args.cutmix_alpha)
        return {**super().trainer_options(), "train_collator": mixing}

    def files(self, split: str) -> Sequence[str]:
        """The files, where every image is one."""
        rows = self.data.splits[split].cast_column("image", Image(decode=False))
        paths = [image["path"] for image in rows["image"]]
        return paths if all(paths) else ()

    def about(self) -> dict[str, str]:
        """That the model is new; how images are varied, and where the learning rate is from."""
        args = self.args
        training = f", augmentation {args.augmentation}" if self.config.do_train else ""
        mixed = [name for name in ("mixup", "cutmix") if getattr(args, f"{name}_alpha")]
        training += "".join(f", {name} {getattr(args, f'{name}_alpha'):g}" for name in mixed)
        if self.values is not None and self.values.rate_per and "learning_rate" not in self.given:
            training += f" (lr: {self.values.learning_rate:g} for {self.values.rate_per} images a step)"
        return {"model": about(args) if args.arch else "", "training": training}


@dataclass(frozen=True)
class _Encoder:
    """For ``Dataset.with_transform``; a class, so that it can be sent to worker processes."""

    transform: Callable[[Any], Any]

    def __call__(self, batch: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
        encoded = {"pixel_values": [self.transform(image) for image in batch["image"]]}
        return encoded if "label" not in batch else {**encoded, "labels": batch["label"]}


def _values(args: ImagesArguments, loss: str) -> HyperParameters | None:
    """The paper's hyper-parameters; of pre-trained models those of its own."""
    task = _STAND_INS.get(args.task or "", args.task)
    return paper.hyperparameters(task or "", args.arch or PRE_TRAINED, loss)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line ``sqloss images``; returns the exit status."""
    return experiment.main(Images, argv)


if __name__ == "__main__":
    raise SystemExit(main())
