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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict, Image
from transformers import PreTrainedModel

from sqloss_plugins.command_line import check_name
from sqloss_plugins.data.image_tasks import TASKS
from sqloss_plugins.data.task_data import TaskData
from sqloss_plugins.errors import UserError
from sqloss_plugins.hf import experiment
from sqloss_plugins.hf.classification import LIMITS, Classification
from sqloss_plugins.hf.hub import find_config
from sqloss_plugins.hf.image_models import (
    PRE_TRAINED,
    about,
    check_image_model,
    check_together,
    load_image_model,
    new_image_model,
    pixels_for,
    short_name,
)
from sqloss_plugins.hf.image_training import (
    IMAGENET,
    PIXELS,
    ImagesArguments,
    about_images,
    check_image_training,
    image_defaults,
    image_values,
)
from sqloss_plugins.hf.image_transforms import ImageCollator, eval_transform, train_transform
from sqloss_plugins.hf.options import check_at_least, refuse_given
from sqloss_plugins.hf.own_images import SOURCES, check_source, read, source_name
from sqloss_plugins.paper import HyperParameters


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
        return {"metric_for_best_model": cls.metrics[0], **image_defaults(args, loss)}

    def check(self) -> None:
        """Refuses sources that contradict each other, and options that have no effect."""
        args, given, do_train = self.args, self.given, self.config.do_train
        check_at_least(1, args, *LIMITS.values(), "preprocessing_num_workers")
        check_source(args, given, do_train)
        check_image_model(args, given, do_train)
        check_image_training(args, given, do_train)
        refuse_given(given, ["greater_is_better"], "is what the metric says")
        refuse_given(given, ["remove_unused_columns"], "is for tables, and these are images")
        if args.task is not None:
            check_name("--task", args.task)
        self.name = args.task or source_name(args)
        self.values = None if args.mini else image_values(args, self.config.loss)
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
        with self.config.main_process_first():  # which checks the images, and keeps for the others what it finds
            found = read(self.args, self.is_hub_reachable, labels)
        self.labels = found.labels
        if self.args.known_task == "imagenet" and len(self.own_names) == len(self.labels):
            self.labels = self.own_names  # in words, some of them twice; the order is that of the numbers of WordNet
        if len(self.labels) <= 5:
            self.metrics = ("accuracy",)
            if self.config.stops_early and self.config.metric_for_best_model == "top5":
                raise UserError(f"top5 is for more than five classes, and {self.name} has {len(self.labels)}")
        return self.limited(found.data)

    def limited(self, data: TaskData) -> TaskData:
        """As many examples as the options say, of all classes: the images of a folder are sorted by them."""
        splits, numbers = DatasetDict(data.splits), dict(data.numbers)
        for split, rows in splits.items():
            limit = getattr(self.args, LIMITS[split])
            if limit is not None and limit < len(rows):
                order = np.random.default_rng(self.args.shuffle_seed).permutation(len(rows))
                splits[split] = rows.select(order)
                numbers[split] = numbers[split][order] if split in numbers else order
        return super().limited(replace(data, splits=splits, numbers=numbers))

    def settle(self) -> None:
        """Refuses, too, to put a new output layer in the place of a trained one, unless that is asked for."""
        theirs, ours = len(self.own_names), len(self.labels)
        if self.config.do_train and theirs not in (0, ours) and not self.args.ignore_mismatched_sizes:
            raise UserError(
                f"{self.arch} has {theirs} classes, and the data of {self.name} has {ours}: add "
                "--ignore_mismatched_sizes for a new output layer"
            )
        super().settle()

    def load_model(self, path: str | None) -> tuple[PreTrainedModel, Any]:
        """The model with a head for the task, and its image processor."""
        args, names = self.args, dict(enumerate(self.names))
        about_labels = {"num_labels": len(names), "id2label": names, "label2id": {v: k for k, v in names.items()}}
        about_labels |= {"problem_type": "single_label_classification"}
        if path is None:
            pixels = pixels_for(args, PIXELS.get(self.name, IMAGENET))
            model, processor = new_image_model(args, about_labels, pixels)
        else:
            place = args.image_processor_name or self.model_path or path
            model, processor = load_image_model(path, place, args.ignore_mismatched_sizes, about_labels, args.hub)
        check_together(model, processor, self.arch)
        return model, processor

    def encode(self, rows: Dataset, for_training: bool = False) -> Dataset:
        """Images become numbers when they are used: varied for training, and else not."""
        kind = self.args.augmentation
        transform = train_transform(self.processor, kind) if for_training else eval_transform(self.processor)
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

    def notes(self) -> list[str]:
        """That the paper's model has been trained before, too, and this one has not."""
        is_new = self.args.arch == PRE_TRAINED and self.values is not None
        told = (
            f"WARNING: a new {PRE_TRAINED} has random weights, and the paper's, whose settings these are, was trained "
        )
        told += "before: name such a one by --model_name_or_path"
        return [*super().notes(), *([told] if is_new else [])]

    def about(self) -> dict[str, str]:
        """That the model is new; how images are varied, and where the learning rate is from."""
        training = about_images(self.args) if self.config.do_train else ""
        if self.values is not None and self.values.rate_per and "learning_rate" not in self.given:
            training += f" (lr: {self.values.learning_rate:g} for {self.values.rate_per} images a step)"
        return {"model": about(self.args) if self.args.arch else "", "training": training}


@dataclass(frozen=True)
class _Encoder:
    """For ``Dataset.with_transform``; a class, so that it can be sent to worker processes."""

    transform: Callable[[Any], Any]

    def __call__(self, batch: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
        encoded = {"pixel_values": [self.transform(image) for image in batch["image"]]}
        return encoded if "label" not in batch else {**encoded, "labels": batch["label"]}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line ``sqloss images``; returns the exit status."""
    return experiment.main(Images, argv)


if __name__ == "__main__":
    raise SystemExit(main())
