"""How image classifiers are trained in a script for the Trainer: the paper's way, or a common one."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sqloss_plugins.errors import UserError
from sqloss_plugins.hf.image_models import PRE_TRAINED, ImageModelArguments, Pixels, size_defaults
from sqloss_plugins.hf.image_transforms import AUGMENTATIONS
from sqloss_plugins.hf.options import option, refuse_given
from sqloss_plugins.hf.own_images import ImageDataArguments
from sqloss_plugins.paper import HyperParameters, hyperparameters
from sqloss_plugins.processes import usable_cpus

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

IMAGENET = Pixels(224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""What is usual for all other images."""

_FINE_TUNED = {"learning_rate": 5e-5, "num_train_epochs": 5.0, "per_device_train_batch_size": 32}
_FROM_SCRATCH = {"learning_rate": 1e-3, "num_train_epochs": 90.0, "per_device_train_batch_size": 64}
_MINI = {"learning_rate": 2e-3, "num_train_epochs": 10.0, "per_device_train_batch_size": 32}
_OF_TRAINING = ("augmentation", "mixup_alpha", "cutmix_alpha")


@dataclass
class ImagesArguments(ImageModelArguments, ImageDataArguments):
    """Where the images are, which model, and how images are varied in training."""

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


def image_values(args: ImagesArguments, loss: str) -> HyperParameters | None:
    """The paper's hyper-parameters, of pre-trained models those of its own; None where it has no such pair."""
    task = _STAND_INS.get(args.task or "", args.task)
    return hyperparameters(task or "", args.arch or PRE_TRAINED, loss)


def image_defaults(args: ImagesArguments, loss: str) -> dict[str, Any]:
    """Defaults for a task, an architecture and a loss: the paper's, else common ones."""
    if args.arch is None and args.model_name_or_path is None and args.known_task is not None:
        args = replace(args, arch=DEFAULT_ARCHITECTURES[args.known_task])
    common = {
        "arch": args.arch,
        "remove_unused_columns": False,  # the transforms need the image
        "dataloader_num_workers": 0 if args.mini else min(8, usable_cpus() - 1),
        **size_defaults(args),
    }
    if args.mini:
        return {**_MINI, **common, "augmentation": "none"}
    values = image_values(args, loss)
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


def check_image_training(args: ImagesArguments, given: Collection[str], do_train: bool) -> None:
    """Refuses ways to vary images that cannot be, or have no effect.

    Raises:
        UserError: for the first that is found.
    """
    if not do_train:
        refuse_given(given, _OF_TRAINING, "is of training, and nothing is trained")
    for name in ("mixup_alpha", "cutmix_alpha"):
        if not 0.0 <= getattr(args, name) < math.inf:
            raise UserError(f"--{name} must be a finite number of at least 0, got {getattr(args, name):g}")


def about_images(args: ImagesArguments) -> str:
    """How images are varied, for people."""
    mixed = [name for name in ("mixup", "cutmix") if getattr(args, f"{name}_alpha")]
    return ", ".join([f", augmentation {args.augmentation}", *(f"{n} {getattr(args, f'{n}_alpha'):g}" for n in mixed)])
