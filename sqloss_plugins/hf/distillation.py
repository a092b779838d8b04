"""Distillation: a trained classifier, the teacher, has a share in the targets of another one's training.

Of an example of class c the target is q = (1 - w) onehot(c) + w p, with p the teacher's class probabilities (Hinton,
Vinyals & Dean, 2015, with temperature 1). Every loss takes such targets. Outputs become probabilities by the method of
the teacher's own loss: a model that was trained with the square loss says so in its configuration.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
)

import sqloss_plugins.models  # noqa: F401, its architectures are registered by it
from sqloss_plugins.errors import UserError, listed, sentence
from sqloss_plugins.hf.pipelines import class_probabilities

DEFAULT_WEIGHT = 0.5
"""The teacher's share in the targets."""

_CLASSIFIERS = ("ForSequenceClassification", "ForImageClassification")  # how the names of such models end


class Distillation:
    """Targets of training, from labels and a teacher.

    Args:
        teacher: a classifier with one true class for each example; it is not trained, and has no dropout.
        model: the model that is trained.

    Raises:
        ValueError: one of the two is no such classifier, or their classes are not the same.
    """

    def __init__(self, teacher: PreTrainedModel, model: nn.Module) -> None:
        theirs, ours = (class_names(one) for one in (teacher, model))
        check_classes(theirs, ours)
        self.teacher = teacher.eval().requires_grad_(False)
        self.order = [theirs.index(name) for name in ours]
        self.num_classes = len(ours)
        self.takes = inspect.signature(teacher.forward).parameters.keys()

    @torch.no_grad()
    def __call__(self, inputs: Mapping[str, Any], labels: Tensor, weight: float) -> Tensor:
        """The targets of a batch.

        Args:
            inputs: what the model takes; the teacher gets of it what it takes itself.
            labels: class numbers, shape (N,), or class probabilities, shape (N, C); -100 where they do not count.
            weight: w, from 0 to 1.

        Returns:
            Class probabilities, float32 of shape (N, C), with a row of -100 for an example that does not count.
        """
        inputs = {name: value for name, value in inputs.items() if name in self.takes and name != "labels"}
        outputs = self.teacher.to(labels.device)(**inputs).logits[:, self.order]
        found = class_probabilities(self.teacher.config, outputs)
        counts = (labels if labels.dim() == 1 else labels[:, 0]) >= 0
        known = labels if labels.is_floating_point() else F.one_hot(labels.clamp_min(0), self.num_classes)
        targets = (1.0 - weight) * known + weight * found
        return targets.where(counts[:, None], torch.tensor(-100.0, device=targets.device))


def class_names(model: nn.Module) -> list[str]:
    """The names of a classifier's classes, in the order of its outputs.

    Raises:
        ValueError: it is no classifier of whole examples with one true class each.
    """
    return _names(getattr(model, "config", None), type(model).__name__)


def _names(config: Any, model: str) -> list[str]:
    """The same from a configuration and the name of the model's class."""
    names = [str(found) for _, found in sorted((getattr(config, "id2label", None) or {}).items())]
    is_multi_label = getattr(config, "problem_type", None) == "multi_label_classification"
    if not model.endswith(_CLASSIFIERS) or len(names) < 2 or is_multi_label:
        raise ValueError(f"teacher and model must be classifiers of texts or images, of one class each: not {model}")
    return names


def check_classes(theirs: Sequence[str], ours: Sequence[str]) -> None:
    """Refuses a teacher of other classes.

    Raises:
        ValueError: their names are not the same; the order may be another one.
    """
    if sorted(theirs) != sorted(ours):
        raise ValueError(
            f"the teacher has {len(theirs)} classes, {listed(theirs)}, and the model has {len(ours)}, {listed(ours)}: "
            "they must be the same"
        )


def load_teacher(name: str, labels: Sequence[str] | None = None, **hub: Any) -> PreTrainedModel:
    """The model of ``--teacher``.

    Args:
        name: a folder, or a name on the hub.
        labels: the names of the classes that it must have; None for any.
        **hub: of ``from_pretrained``.

    Raises:
        UserError: it is no trained classifier of texts or images, or one of other classes.
    """
    try:
        config = AutoConfig.from_pretrained(name, **hub)
        kinds: dict[Any, Any] = {
            AutoModelForImageClassification: MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
            AutoModelForSequenceClassification: MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
        }
        kind = next((kind for kind, configurations in kinds.items() if type(config) in configurations), None)
        if kind is None:
            raise ValueError(f"a model of the type {config.model_type} is no classifier of texts or images")
        theirs = _names(config, (config.architectures or ["TimmWrapperForImageClassification"])[0])  # timm says none
        if labels is not None:
            check_classes(theirs, labels)
        model, loading = kind.from_pretrained(name, dtype=torch.float32, output_loading_info=True, **hub)
        if loading["missing_keys"]:
            raise ValueError(f"it lacks trained weights: {listed(sorted(loading['missing_keys']))}")
    except (OSError, ValueError, RuntimeError, KeyError, AttributeError, TypeError, SafetensorError) as error:
        raise UserError(f"--teacher {name} cannot be the teacher: {sentence(error)}") from error
    found: PreTrainedModel = model
    return found


def check_inputs(name: str, processor: Any, **hub: Any) -> None:
    """Refuses a teacher that reads texts or images in another way than the model that is trained.

    Args:
        name: the teacher's folder, or its name on the hub.
        processor: tokenizer or image processor of the model that is trained.
        **hub: of ``from_pretrained``.

    Raises:
        UserError: its tokenizer has another vocabulary; or its image processor has another size, mean or deviation.
    """
    is_text = isinstance(processor, PreTrainedTokenizerBase)
    try:
        theirs = (AutoTokenizer if is_text else AutoImageProcessor).from_pretrained(name, **hub)
        is_same = theirs.get_vocab() == processor.get_vocab() if is_text else _have_same_pixels(theirs, processor)
    except (OSError, ValueError, RuntimeError, KeyError, AttributeError, TypeError) as error:
        what = "tokenizer" if is_text else "image processor"
        raise UserError(f"--teacher {name} has no {what} that can be used: {sentence(error)}") from error
    if not is_same:
        what = "vocabulary" if is_text else "size, mean or deviation of images"
        raise UserError(f"--teacher {name} has another {what} than the model that is trained: they must be the same")


def _have_same_pixels(one: Any, other: Any) -> bool:
    """Whether two image processors give models images of one size, by one mean and one standard deviation."""
    from PIL import Image

    from sqloss_plugins.hf.image_transforms import eval_transform, image_size

    height, width = image_size(other)
    if image_size(one) != (height, width):
        return False
    # Of one colour, so that how they resize makes no difference.
    colours = [Image.new("RGB", (width, height), colour) for colour in ("black", "white", "navy")]
    ours, theirs = (eval_transform(processor) for processor in (other, one))
    return all(torch.allclose(ours(colour), theirs(colour), atol=1e-5) for colour in colours)


__all__ = ["DEFAULT_WEIGHT", "Distillation", "check_classes", "check_inputs", "class_names", "load_teacher"]
