"""From images to what a model takes: augmentation for training, the image processor's own way for all else.

Sizes, mean and standard deviation are those of the model's image processor, which does the last step itself in training
too. Images for validation and test go through it unchanged, so that they are scored as Transformers' pipeline does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from sqloss_plugins.data.images import as_rgb

AUGMENTATIONS = ("none", "crop_flip", "resized_crop")
"""Kinds of augmentation; see :func:`train_transform`."""

Transform = Callable[[Image.Image], Tensor]
"""An image of any size and mode to float32 values, of shape (3, H, W)."""

_PADDING = 8  # the share of a side that is padded before a crop: 4 of CIFAR's 32 pixels


def image_size(processor: Any) -> tuple[int, int]:
    """Height and width, in pixels, of the images that a processor gives a model.

    Raises:
        ValueError: it does not say them.
    """
    if (timm := _timm_config(processor)) is not None:
        return int(timm["input_size"][-2]), int(timm["input_size"][-1])
    size = processor.crop_size if getattr(processor, "do_center_crop", False) else processor.size
    side = size.get("shortest_edge")
    height, width = size.get("height") or side, size.get("width") or side
    if height is None or width is None:
        raise ValueError(f"{type(processor).__name__} does not say the size of its images: {size}")
    return int(height), int(width)


def eval_transform(processor: Any) -> Transform:
    """The image processor, for one image.

    Raises:
        ValueError: it does not give all images one size, so that there are no batches of them.
    """
    transform = _Transform(None, _Processor(processor, {}))
    size = image_size(processor)
    found = tuple(transform(Image.new("RGB", (size[1] + 8, 2 * size[0]))).shape[-2:])
    if found != size:
        raise ValueError(f"{type(processor).__name__} gives images of different sizes, such as {found} beside {size}")
    return transform


def train_transform(processor: Any, kind: str) -> Transform:
    """An image for training.

    * ``none``: as for validation.
    * ``crop_flip``: the whole image, padded by an eighth of its side (4 of 32 pixels) by reflection, a random crop of
      its size, and flipped from left to right or not; as is usual for CIFAR (Zagoruyko & Komodakis, 2016).
    * ``resized_crop``: a random piece, of 8 to 100 % of the area and with sides from 3:4 to 4:3, brought to size, and
      flipped or not; as is usual for ImageNet (Szegedy et al., 2015).

    Args:
        processor: the model's image processor.
        kind: one of :data:`AUGMENTATIONS`.

    Raises:
        ValueError: another kind; or a processor that does not give all images one size.
    """
    plain = eval_transform(processor)
    if kind not in AUGMENTATIONS:
        raise ValueError(f"unknown augmentation {kind!r}: choose from {', '.join(AUGMENTATIONS)}")
    if kind == "none":
        return plain
    size, interpolation = image_size(processor), _interpolation(processor)
    flip = v2.RandomHorizontalFlip()
    if kind == "crop_flip":
        padding = [size[1] // _PADDING, size[0] // _PADDING]  # left and right, top and bottom
        crop = v2.RandomCrop(size, padding=padding, padding_mode="reflect")
        augment = v2.Compose([v2.Resize(size, interpolation), crop, flip])
    else:
        augment = v2.Compose([v2.RandomResizedCrop(size, interpolation=interpolation), flip])
    return _Transform(augment, _without_resizing(processor))


@dataclass(frozen=True)
class ImageCollator:
    """Puts images together to a batch, and mixes them where it is asked to (for training only).

    Attributes:
        num_classes: C; for mixing.
        mixup_alpha: pairs of images are averaged, with a weight from Beta(alpha, alpha) (Zhang et al., 2018); 0: not.
        cutmix_alpha: a piece of an image comes from another one, of an area from Beta(alpha, alpha) (Yun et al.,
            2019); 0: not. With both, one of the two for each batch.
    """

    num_classes: int = 0
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """A batch.

        Args:
            examples: N times ``pixel_values``, of shape (3, H, W), and ``labels``, a class number, which test data
                may lack.

        Returns:
            ``pixel_values``, float32, of shape (N, 3, H, W); ``labels``, int64 of shape (N,), or, of mixed images,
            class probabilities, float32 of shape (N, C).
        """
        pixels = torch.stack([example["pixel_values"] for example in examples])
        if "labels" not in examples[0]:
            return {"pixel_values": pixels}
        labels = torch.tensor([int(example["labels"]) for example in examples])
        ways = [
            mix(alpha=alpha, num_classes=self.num_classes)
            for mix, alpha in ((v2.MixUp, self.mixup_alpha), (v2.CutMix, self.cutmix_alpha))
            if alpha > 0.0
        ]
        if ways:
            pixels, labels = v2.RandomChoice(ways)(pixels, labels)
        return {"pixel_values": pixels, "labels": labels}


@dataclass(frozen=True)
class _Transform:
    """Augmentation, or none, and the image processor; a class, so that it can be sent to worker processes."""

    augment: v2.Compose | None
    processor: Callable[[Image.Image], Tensor]

    def __call__(self, image: Image.Image) -> Tensor:
        image = as_rgb(image)
        return self.processor(image if self.augment is None else self.augment(image))


@dataclass(frozen=True)
class _Processor:
    """An image processor, with options, for one image."""

    processor: Any
    options: dict[str, bool]

    def __call__(self, image: Image.Image) -> Tensor:
        values: Tensor = self.processor(image, return_tensors="pt", **self.options)["pixel_values"][0]
        return values


def _without_resizing(processor: Any) -> Callable[[Image.Image], Tensor]:
    """An image processor for images that have its size already."""
    if (timm := _timm_config(processor)) is not None:  # which takes no options
        from timm.data import create_transform

        transform: Callable[[Image.Image], Tensor] = create_transform(**{**timm, "crop_pct": 1.0}, is_training=False)
        return transform
    names = ("do_resize", "do_center_crop")
    return _Processor(processor, {name: False for name in names if getattr(processor, name, None)})


def _timm_config(processor: Any) -> dict[str, Any] | None:
    """Size, mean and standard deviation of a processor of timm's models; None for any other processor."""
    found: dict[str, Any] | None = getattr(processor, "data_config", None)
    return found


def _interpolation(processor: Any) -> InterpolationMode:
    """How the processor resizes."""
    if (timm := _timm_config(processor)) is not None:
        return InterpolationMode(timm["interpolation"])
    number = getattr(processor, "resample", None)
    return InterpolationMode.BILINEAR if number is None else InterpolationMode(Image.Resampling(number).name.lower())


__all__ = ["AUGMENTATIONS", "ImageCollator", "as_rgb", "eval_transform", "image_size", "train_transform"]
