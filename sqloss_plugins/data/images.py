"""Labelled images, from files or from the hub, as a task: checked, memory-mapped, decoded only when they are used."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Image, Value
from PIL import Image as Pictures

from sqloss_plugins.data.labelled_text import HoldOut
from sqloss_plugins.data.task_data import TaskData

_BATCH = 1000

FEATURES: Mapping[str, Any] = {"image": Image(), "label": Value("int64")}
"""Columns of every split; a test split may lack the labels."""


@dataclass(frozen=True)
class ImageData(TaskData):
    """The splits of an image task: columns ``image`` (``datasets.Image``, a PIL image when read) and ``label``."""

    @property
    def unit(self) -> str:
        """What :attr:`sizes` counts."""
        return "images"

    def digest(self, splits: Sequence[str]) -> str:
        """SHA-256 of all rows of some splits, in order; of those that are there.

        Of an image that is a file of its own it takes name and size, else the encoded bytes; nothing is decoded.
        """
        digest = hashlib.sha256()
        for split in sorted(set(splits) & set(self.splits)):
            rows = self.splits[split].cast_column("image", Image(decode=False))
            digest.update(json.dumps([split, rows.column_names]).encode())
            for batch in rows.iter(_BATCH):
                for image, label in zip(batch["image"], batch.get("label", [None] * len(batch["image"])), strict=True):
                    if image["bytes"] is None:
                        content = [os.path.basename(image["path"]), os.path.getsize(image["path"])]
                    else:
                        content = [hashlib.sha256(image["bytes"]).hexdigest()]
                    digest.update(json.dumps([label, *content]).encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class LabelledImages:
    """Images with labels.

    Attributes:
        data: the splits, with the columns ``image`` and ``label`` (int64). A test split without labels has no such
            column.
        labels: names of the classes in the order of their numbers.
    """

    data: ImageData
    labels: tuple[str, ...]


@dataclass(frozen=True)
class ImageTask:
    """A task of the paper, or a usual one.

    Attributes:
        name: as in the paper's tables, where it is there.
        num_classes: how many classes it has.
        labels: their names; empty for those of the data, which are ImageNet's numbers of WordNet.
        hub: name of the data set on the hub.
        validation_size: images to hold out of the training data, ours to choose as the paper does not say; 0 where the
            task has a validation split.
        sizes: images by split of the real task.
        installed: folder where a package of Debian puts it.
    """

    name: str
    num_classes: int
    labels: tuple[str, ...]
    hub: str
    validation_size: int
    sizes: Mapping[str, int]
    installed: Path | None = None

    @property
    def default_dir(self) -> Path | None:
        """The folder of an installed package that has the data, if it is there."""
        return self.installed if self.installed is not None and self.installed.is_dir() else None


_DIGITS = tuple(map(str, range(10)))
_CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

TASKS: Mapping[str, ImageTask] = {
    task.name: task
    for task in (
        ImageTask("mnist", 10, _DIGITS, "ylecun/mnist", 10_000, {"train": 60_000, "test": 10_000}),
        ImageTask(
            "fashion_mnist",
            10,
            _CLOTHES,
            "zalando-datasets/fashion_mnist",
            10_000,
            {"train": 60_000, "test": 10_000},
            Path("/usr/share/datasets/fashion-mnist"),
        ),
        ImageTask("cifar10", 10, _CIFAR, "uoft-cs/cifar10", 5_000, {"train": 50_000, "test": 10_000}),
        ImageTask("imagenet", 1000, (), "ILSVRC/imagenet-1k", 0, {"train": 1_281_167, "validation": 50_000}),
    )
}


def load(
    sources: Mapping[str, Path],
    hold_out: HoldOut,
    *,
    image_column_name: str | None = None,
    label_column_name: str | None = None,
    labels: Sequence[str] | None = None,
    max_corrupt_share: float = 0.0,
    cache_dir: str | None = None,
    num_proc: int | None = None,
) -> LabelledImages:
    """Reads images with labels.

    Args:
        sources: ``train``, ``validation`` or ``test`` -> a folder with a folder of images for each class, a folder of
            parquet files or of webdataset shards (``*.tar``), a parquet file, or an idx file of images, beside which
            the labels are under MNIST's name for them. A test folder may have images and no class folders.
        hold_out: what is taken from the training data for the validation split if that is lacking, by class.
        image_column_name, label_column_name: columns of parquet files, fields of webdataset shards; by default found.
        labels: names of a saved model's classes, in order; needed where there is no training data.
        max_corrupt_share: the share of a split's images that may be left out because they cannot be decoded.
        cache_dir: where memory-mapped copies are kept; by default where ``datasets`` keeps all.
        num_proc: processes that check the images; by default as many as there are processors, for many images.

    Raises:
        UserError: what is wrong, and in which file.
    """
    raise NotImplementedError


def load_from_hub(
    name: str,
    config: str | None,
    hold_out: HoldOut,
    *,
    image_column_name: str | None = None,
    label_column_name: str | None = None,
    labels: Sequence[str] | None = None,
    max_corrupt_share: float = 0.0,
    cache_dir: str | None = None,
    num_proc: int | None = None,
    token: str | None = None,
) -> LabelledImages:
    """Reads images with labels from the hub, from the local cache of it, or from a folder with a data set's files.

    Args:
        name: of the data set, of which the splits ``train``, ``validation`` and ``test`` are taken.
        config: its configuration, if it has several.
        token: for the hub.
        hold_out, image_column_name, label_column_name, labels, max_corrupt_share, cache_dir, num_proc: as for
            :func:`load`.

    Raises:
        ConnectionError, OSError, ValueError: the hub cannot be reached and the cache has no copy.
        UserError: as for :func:`load`.
    """
    raise NotImplementedError


def load_task(
    task: str,
    data_dir: Path | None = None,
    *,
    hold_out: HoldOut | None = None,
    max_corrupt_share: float = 0.0,
    cache_dir: str | None = None,
    num_proc: int | None = None,
    token: str | None = None,
) -> LabelledImages:
    """Reads a known task, by its names of the classes.

    Args:
        task: a key of :data:`TASKS`.
        data_dir: its files as they are distributed: the four idx files of MNIST, compressed or not; CIFAR-10's batches
            (binary or Python version); ImageNet's folders ``train`` and ``val`` with a folder for each class; or
            parquet files as on the hub. By default an installed package's folder, else the hub.
        hold_out: by default :attr:`ImageTask.validation_size` images.
        max_corrupt_share, cache_dir, num_proc, token: as for :func:`load` and :func:`load_from_hub`.

    Raises:
        ConnectionError, OSError, ValueError: the hub cannot be reached and the cache has no copy.
        UserError: as for :func:`load`; the number of classes is not the task's.
    """
    raise NotImplementedError


def to_rgb(image: Pictures.Image) -> Pictures.Image:
    """An image of any mode with 8 bits for each of red, green and blue.

    Grey levels of 16 bits are scaled to 8; what is transparent is shown as if it were not, as Transformers and
    torchvision do.

    Raises:
        ValueError: the mode has no such conversion, such as floating-point pixels.
    """
    if image.mode == "F":
        raise ValueError("it has floating-point pixels, whose scale is not known")
    if image.mode.startswith("I"):
        pixels = np.asarray(image)
        if pixels.min() < 0 or pixels.max() > 0xFFFF:
            raise ValueError("it has pixels of more than 16 bits")
        image = Pictures.fromarray((pixels.astype(np.float32) / 257).round().astype(np.uint8))
    return image if image.mode == "RGB" else image.convert("RGB")
