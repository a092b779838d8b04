"""Image classifiers in a script for the Trainer: which one, the size of a new one, and its image processor."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import timm
import torch
from PIL import Image
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    PreTrainedModel,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)
from transformers.models.timm_wrapper.image_processing_timm_wrapper import TimmWrapperImageProcessor

from sqloss_plugins.errors import UserError, sentence
from sqloss_plugins.hf.image_transforms import eval_transform
from sqloss_plugins.hf.options import check_at_least, refuse_given
from sqloss_plugins.hf.task import TaskArguments
from sqloss_plugins.models.temporal_convolution import (
    TemporalConvolutionConfig,
    TemporalConvolutionForImageClassification,
)
from sqloss_plugins.models.wide_resnet import WideResnetConfig, WideResnetForImageClassification

TIMM_PREFIX = "timm:"
"""What may stand before the name of a timm model in ``--arch``."""

PRE_TRAINED = "vit"
"""The paper's architecture that is fine-tuned: whose hyper-parameters a pre-trained model has by default."""

SIZES = ("image_size", "depth", "widen_factor", "hidden_size", "patch_size", "dropout", "permutation_seed")
"""Options of new models."""


@dataclass
class ImageModelArguments(TaskArguments):
    """Which model, and the size of a new one."""

    arch: str | None = field(
        default=None,
        metadata={
            "help": "A new model with random weights: tcnn (Bai et al. 2018), wide_resnet (Zagoruyko & Komodakis "
            "2016), vit (ViT-B/16), resnet50, efficientnet (B0), or the name of any other model of timm. By default "
            "the paper's first for a known task. Pre-trained weights are those of --model_name_or_path."
        },
    )
    image_processor_name: str | None = field(default=None, metadata={"help": "Image processor, if not the model's."})
    ignore_mismatched_sizes: bool = field(
        default=False, metadata={"help": "Allow a model whose head has another number of classes."}
    )
    # These have no value but for a new model that has them.
    image_size: int | None = field(default=None, metadata={"help": "New model: height and width of its images."})
    depth: int | None = field(
        default=None,
        metadata={"help": "New tcnn: residual blocks; wide_resnet: convolutions, 6 n + 4; vit: layers."},
    )
    widen_factor: int | None = field(default=None, metadata={"help": "New wide_resnet: how wide."})
    hidden_size: int | None = field(default=None, metadata={"help": "New tcnn: channels; vit: width of its layers."})
    patch_size: int | None = field(default=None, metadata={"help": "New vit: height and width of its patches."})
    dropout: float | None = field(default=None, metadata={"help": "New model: dropout."})
    permutation_seed: int | None = field(
        default=None,
        metadata={"help": "New tcnn: draws the order in which it reads the pixels; -1 for row by row."},
    )


@dataclass(frozen=True)
class Pixels:
    """How pixels become numbers.

    Attributes:
        size: height and width of the images, in pixels.
        mean, std: of red, green and blue, where black is 0 and white is 1.
    """

    size: int
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class ImageArchitecture:
    """A model that is trained from scratch.

    Attributes:
        about: for people.
        sizes: its options, and what they are at the paper's size.
        named: of these the ones that make its short name where they differ.
        mini: the same at a size for mini data, and what else differs from the common training on these.
        make: the model, for options, what its configuration says of the labels, and pixels.
        timm: what timm calls it; None where it is not timm's.
        mini_timm: the small model of timm in its place for mini data.
    """

    about: str
    make: Callable[[ImageModelArguments, dict[str, Any], Pixels], PreTrainedModel] | None = None
    sizes: Mapping[str, Any] = field(default_factory=dict)
    named: tuple[str, ...] = ()
    mini: Mapping[str, Any] = field(default_factory=dict)
    timm: str | None = None
    mini_timm: str | None = None


def _tcnn(args: ImageModelArguments, about_labels: dict[str, Any], pixels: Pixels) -> PreTrainedModel:
    config = TemporalConvolutionConfig(
        levels=args.depth,
        hidden_size=args.hidden_size,
        dropout=args.dropout,
        image_size=pixels.size,
        permutation_seed=None if args.permutation_seed == -1 else args.permutation_seed,
        **about_labels,
    )
    return TemporalConvolutionForImageClassification(config)


def _wide_resnet(args: ImageModelArguments, about_labels: dict[str, Any], pixels: Pixels) -> PreTrainedModel:
    config = WideResnetConfig(
        depth=args.depth,
        widen_factor=args.widen_factor,
        dropout=args.dropout,
        image_size=pixels.size,
        **about_labels,
    )
    return WideResnetForImageClassification(config)


def _vit(args: ImageModelArguments, about_labels: dict[str, Any], pixels: Pixels) -> PreTrainedModel:
    width = args.hidden_size or 0
    config = ViTConfig(
        image_size=pixels.size,
        patch_size=args.patch_size,
        num_hidden_layers=args.depth,
        hidden_size=width,
        num_attention_heads=max(width // 64, 1),
        intermediate_size=4 * width,
        hidden_dropout_prob=args.dropout,
        **about_labels,
    )
    return ViTForImageClassification(config)


_TCNN, _WIDE, _VIT = TemporalConvolutionConfig(), WideResnetConfig(), ViTConfig()  # at the sizes of their papers

ARCHITECTURES: Mapping[str, ImageArchitecture] = {
    "tcnn": ImageArchitecture(
        "temporal convolutional network, Bai et al. 2018",
        _tcnn,
        {
            **{"image_size": _TCNN.image_size, "depth": _TCNN.levels, "hidden_size": _TCNN.hidden_size},
            **{"dropout": _TCNN.dropout, "permutation_seed": 0},
        },
        ("depth", "hidden_size"),
        {"image_size": 8, "depth": 4},
    ),
    "wide_resnet": ImageArchitecture(
        "wide residual network, Zagoruyko & Komodakis 2016",
        _wide_resnet,
        {name: getattr(_WIDE, name) for name in ("image_size", "depth", "widen_factor", "dropout")},
        ("depth", "widen_factor"),
        {"image_size": 8, "depth": 10, "widen_factor": 1},
    ),
    "vit": ImageArchitecture(
        "vision transformer, Dosovitskiy et al. 2021",
        _vit,
        {
            **{"image_size": _VIT.image_size, "depth": _VIT.num_hidden_layers, "hidden_size": _VIT.hidden_size},
            **{"patch_size": _VIT.patch_size, "dropout": _VIT.hidden_dropout_prob},
        },
        ("depth", "hidden_size", "patch_size"),
        {
            **{"image_size": 8, "depth": 2, "hidden_size": 64, "patch_size": 2},
            **{"learning_rate": 1e-3, "num_train_epochs": 20.0, "warmup_steps": 0.1},
        },
    ),
    "resnet50": ImageArchitecture("He et al. 2016", timm="resnet50", mini_timm="test_resnet"),
    "efficientnet": ImageArchitecture("B0, Tan & Le 2019", timm="efficientnet_b0", mini_timm="test_efficientnet"),
}
"""Names as in the paper's tables -> architectures."""

_MINI_TIMM_SIZE = 32
"""Pixels to which mini images are enlarged for timm's models, which halve them five times."""


def timm_name(arch: str, mini: bool) -> str | None:
    """What timm calls an architecture; None for one that is not timm's.

    Raises:
        UserError: there is no such architecture.
    """
    entry = ARCHITECTURES.get(arch)
    if entry is not None:
        return entry.mini_timm if mini else entry.timm
    name = arch.removeprefix(TIMM_PREFIX)
    if not timm.is_model(name):
        raise UserError(
            f"--arch {arch} is neither one of {', '.join(ARCHITECTURES)} nor a model of timm {timm.__version__}; "
            "weights of a model are given by --model_name_or_path"
        )
    return name


def size_defaults(args: ImageModelArguments) -> dict[str, Any]:
    """Defaults for the sizes of a new model, and for mini data of its training."""
    entry = ARCHITECTURES.get(args.arch or "")
    return {} if entry is None else {**entry.sizes, **(entry.mini if args.mini else {})}


def check_image_model(args: ImageModelArguments, given: Collection[str], do_train: bool) -> None:
    """Refuses options that are not those of the model.

    Raises:
        UserError: for the first that is found.
    """
    if args.arch is None:
        refuse_given(given, SIZES, "is of a new model, and there is no --arch")
        if args.model_name_or_path is None:
            raise UserError("there is no model: give --arch for a new one or --model_name_or_path for a trained one")
        return
    names = ("model_name_or_path", "image_processor_name", "ignore_mismatched_sizes", "model_revision")
    refuse_given(given, names, f"is of a model with weights, and --arch {args.arch} is a new one")
    if not do_train:
        raise UserError(
            f"--arch {args.arch} is a new model, which has to be trained; a trained one is scored by "
            "--model_name_or_path with its folder, without --arch"
        )
    is_timms = timm_name(args.arch, args.mini) is not None
    possible = ("image_size", "dropout") if is_timms else ARCHITECTURES[args.arch].sizes
    refuse_given(given, [name for name in SIZES if name not in possible], f"is not of --arch {args.arch}")
    check_at_least(1, args, *SIZES[:5])
    check_at_least(-1, args, "permutation_seed")
    if args.dropout is not None and not 0.0 <= args.dropout < 1.0:
        raise UserError(f"--dropout must be at least 0 and less than 1, got {args.dropout:g}")
    if args.arch == "wide_resnet" and ((args.depth or 0) - 4) % 6:
        raise UserError(f"--depth of a wide_resnet must be 6 n + 4, such as 10, 16 or 28, got {args.depth}")
    if args.arch == "vit" and args.hidden_size is not None and args.hidden_size > 64 and args.hidden_size % 64:
        raise UserError(f"--hidden_size of a vit must be at most 64 or a multiple of it, got {args.hidden_size}")
    if args.patch_size and args.image_size and args.image_size % args.patch_size:
        raise UserError(f"--image_size {args.image_size} must be a multiple of --patch_size {args.patch_size}")


def short_name(args: ImageModelArguments) -> str:
    """A new model's name, for folders: with its sizes where they are not the paper's."""
    assert args.arch is not None, "a new model has --arch"
    name = timm_name(args.arch, args.mini)
    if name is not None:
        is_the_papers = args.arch in ARCHITECTURES and not args.mini
        return args.arch if is_the_papers else name
    entry = ARCHITECTURES[args.arch]
    sizes = [getattr(args, size) for size in entry.named]
    if sizes == [entry.sizes[size] for size in entry.named]:
        return args.arch
    return "-".join(map(str, [args.arch, *sizes]))


def about(args: ImageModelArguments) -> str:
    """A new model, for people."""
    entry = ARCHITECTURES.get(args.arch or "")
    return f" (new, {entry.about})" if entry else " (new, of timm)"


def new_image_model(
    args: ImageModelArguments, about_labels: dict[str, Any], pixels: Pixels
) -> tuple[PreTrainedModel, Any]:
    """A new model of ``--arch``, with random weights, and its image processor.

    Args:
        args: the options.
        about_labels: what the configuration says of the labels.
        pixels: how pixels become numbers.

    Raises:
        UserError: sizes that the model cannot have.
    """
    assert args.arch is not None, "a new model has --arch"
    name = timm_name(args.arch, args.mini)
    try:
        if name is not None:
            return _new_timm_model(name, args.dropout, about_labels, pixels)
        make = ARCHITECTURES[args.arch].make
        assert make is not None, "what is not timm's is made here"
        model = make(args, about_labels, pixels)
    except (ValueError, RuntimeError, TypeError, AssertionError) as error:
        raise UserError(f"--arch {args.arch} cannot be made with these sizes: {sentence(error)}") from error
    size = {"height": pixels.size, "width": pixels.size}
    return model, ViTImageProcessor(size=size, image_mean=list(pixels.mean), image_std=list(pixels.std))


def _new_timm_model(
    name: str, dropout: float | None, about_labels: dict[str, Any], pixels: Pixels
) -> tuple[PreTrainedModel, Any]:
    """A model of timm, as Transformers wraps it."""
    options: dict[str, Any] = {} if dropout is None else {"drop_rate": dropout}
    known = timm.get_pretrained_cfg(name)
    if known is not None and known.fixed_input_size:
        options["img_size"] = pixels.size
    picture = {
        "input_size": [3, pixels.size, pixels.size],
        "mean": list(pixels.mean),
        "std": list(pixels.std),
        "interpolation": known.interpolation if known else "bicubic",
        "crop_pct": known.crop_pct if known and pixels.size >= _CROPPED_FROM else 1.0,
    }
    config = TimmWrapperConfig(architecture=name, pretrained_cfg=picture, model_args=options or None, **about_labels)
    model = TimmWrapperForImageClassification(config)
    # Transformers draws the weights of all layers from N(0, 0.02^2), whatever timm has for its model.
    fresh = timm.create_model(name, num_classes=config.num_labels, **options)
    model.timm_model.load_state_dict(fresh.state_dict())
    return model, TimmWrapperImageProcessor(pretrained_cfg=picture, architecture=name)


_CROPPED_FROM = 160
"""Pixels of a side from which on images for validation are the middle of a larger one, as is usual for ImageNet."""


def pixels_for(args: ImageModelArguments, task: Pixels) -> Pixels:
    """The pixels of a new model: those of the task, at the model's size.

    Args:
        args: the options.
        task: as is usual for the task.
    """
    size = args.image_size
    if size is None:
        size = _MINI_TIMM_SIZE if args.mini else task.size
    return Pixels(size, task.mean, task.std)


def load_image_model(
    path: str, processor_path: str, ignore_mismatched_sizes: bool, about_labels: dict[str, Any], hub: dict[str, Any]
) -> tuple[PreTrainedModel, Any]:
    """A model with weights, and its image processor.

    Args:
        path: a folder or a name on the hub.
        processor_path: where the image processor is.
        ignore_mismatched_sizes: whether a head for another number of classes is left out.
        about_labels: what the configuration says of the labels.
        hub: of ``from_pretrained``.

    Raises:
        UserError: it is none.
    """
    try:
        config = AutoConfig.from_pretrained(path, **about_labels, **hub)
        processor = AutoImageProcessor.from_pretrained(processor_path, **hub)
        model = AutoModelForImageClassification.from_pretrained(
            path,
            config=config,
            ignore_mismatched_sizes=ignore_mismatched_sizes,
            dtype=torch.float32,  # whatever the file has: in 16 bits small steps are lost; --bf16 trains mixed
            **hub,
        )
    except (OSError, ValueError, RuntimeError, KeyError, AttributeError, TypeError, SafetensorError) as error:
        beside = "" if processor_path == path else f" (with {processor_path})"
        raise UserError(f"{path}{beside} cannot be loaded as an image classifier: {sentence(error)}") from error
    return model, processor


def check_together(model: PreTrainedModel, processor: Any, name: str) -> None:
    """Tries a model on one image of its image processor.

    Raises:
        UserError: they do not belong together, or the images are too small for the model.
    """
    try:
        pixels = eval_transform(processor)(Image.new("RGB", (300, 200)))
        with torch.no_grad():
            shape = tuple(model.eval()(pixels[None]).logits.shape)
        if shape != (1, model.config.num_labels):
            raise ValueError(f"it gives outputs of shape {shape} for {model.config.num_labels} classes")
    except (ValueError, RuntimeError, TypeError, AssertionError, AttributeError, KeyError) as error:
        raise UserError(
            f"{name} does not take the images of its image processor: {sentence(error)}; give another "
            "--image_size or --image_processor_name"
        ) from error
