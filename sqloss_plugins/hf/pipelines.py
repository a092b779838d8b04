"""Saved classifiers whose scores are probabilities, in Transformers' own pipelines.

``SquareLossTrainer`` saves with a model what its outputs mean, as ``config.square_loss``: k and M, and floor and
temperature where they were fitted. With :mod:`sqloss_plugins.hf` imported, the pipelines of :data:`PIPELINES` read it:
those for the classification of texts, tokens, images and audio, and for masked words. Models without it are scored as
before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AudioClassificationPipeline,
    FillMaskPipeline,
    ImageClassificationPipeline,
    Pipeline,
    PretrainedConfig,
    TextClassificationPipeline,
    TokenClassificationPipeline,
)
from transformers.pipelines import PIPELINE_REGISTRY

from sqloss_plugins.probability import label_probabilities, log_probabilities

_EPS = 1e-7  # probabilities so near to 0 or 1 have no finite logit in float32


def class_probabilities(config: PretrainedConfig, outputs: Tensor) -> Tensor:
    """What a classifier's outputs say, as its configuration has it.

    Args:
        config: of the model; ``square_loss`` in it is what a training with the square loss has left.
        outputs: raw outputs, floating point, shape (..., C).

    Returns:
        Probabilities, float32 or wider, shape (..., C): of the classes, or in multi-label classification of each label
        by itself. Without ``square_loss`` softmax and sigmoid.

    Examples:
        >>> import torch
        >>> from transformers import BertConfig
        >>> from sqloss_plugins.hf import class_probabilities
        >>> config = BertConfig(num_labels=2)
        >>> config.square_loss = {"k": 1.0, "M": 1.0}  # as SquareLossTrainer leaves it
        >>> class_probabilities(config, torch.tensor([[0.8, 0.2]]))
        tensor([[0.8000, 0.2000]])
    """
    logits = as_logits(config, outputs)
    return logits.sigmoid() if _is_multi_label(config) else logits.softmax(-1)


def as_logits(config: PretrainedConfig, outputs: Tensor) -> Tensor:
    """Outputs of which softmax, or for multi-label classification sigmoid, makes the right probabilities.

    Arguments are those of :func:`class_probabilities`; the shape is that of the outputs.

    Examples:
        >>> import torch
        >>> from transformers import BertConfig
        >>> config = BertConfig(num_labels=2)
        >>> config.square_loss = {"k": 1, "M": 1}
        >>> as_logits(config, torch.tensor([[0.8, 0.2]])).softmax(dim=1)
        tensor([[0.8000, 0.2000]])
    """
    reading: dict[str, Any] | None = getattr(config, "square_loss", None)
    if not reading:
        return outputs
    if _is_multi_label(config):
        rescaling = {name: reading[name] for name in ("k", "M")}
        return torch.logit(label_probabilities(outputs, "square", **rescaling), eps=_EPS)
    return log_probabilities(outputs, "square", **reading)


def _is_multi_label(config: PretrainedConfig) -> bool:
    return str(config.problem_type) == "multi_label_classification"


class _RightScores:
    """A pipeline's ``postprocess`` with the outputs as its softmax or sigmoid wants them."""

    model: Any

    def postprocess(self, model_outputs: Any, **options: Any) -> Any:
        """Labels and scores of one example; a ``function_to_apply`` that is given gets the raw outputs.

        Args:
            model_outputs: of the model, with ``logits``; of a pipeline that cuts an example into parts, a list of them.
            **options: of Transformers' pipeline.
        """
        if options.get("function_to_apply") is None:
            parts = model_outputs if isinstance(model_outputs, list) else [model_outputs]
            read = [
                type(part)({**part, "logits": as_logits(self.model.config, part["logits"].float())}) for part in parts
            ]
            model_outputs = read if isinstance(model_outputs, list) else read[0]
        return super().postprocess(model_outputs, **options)  # type: ignore[misc]


class SquareLossTextClassificationPipeline(_RightScores, TextClassificationPipeline):
    """Transformers' pipeline, reading ``config.square_loss``."""


class SquareLossTokenClassificationPipeline(_RightScores, TokenClassificationPipeline):
    """Transformers' pipeline, reading ``config.square_loss``."""


class SquareLossImageClassificationPipeline(_RightScores, ImageClassificationPipeline):
    """Transformers' pipeline, reading ``config.square_loss``."""


class SquareLossAudioClassificationPipeline(_RightScores, AudioClassificationPipeline):
    """Transformers' pipeline, reading ``config.square_loss``."""


class SquareLossFillMaskPipeline(_RightScores, FillMaskPipeline):
    """Transformers' pipeline, reading ``config.square_loss``."""


PIPELINES: Mapping[str, type[Pipeline]] = {
    "text-classification": SquareLossTextClassificationPipeline,
    "token-classification": SquareLossTokenClassificationPipeline,
    "image-classification": SquareLossImageClassificationPipeline,
    "audio-classification": SquareLossAudioClassificationPipeline,
    "fill-mask": SquareLossFillMaskPipeline,
}
"""Transformers' name of a task -> its pipeline here."""


def register_pipelines() -> None:
    """Makes these the pipelines of their tasks, for this process.

    Examples:
        >>> from transformers.pipelines import PIPELINE_REGISTRY
        >>> register_pipelines()
        >>> PIPELINE_REGISTRY.check_task("text-classification")[1]["impl"].__name__
        'SquareLossTextClassificationPipeline'
    """
    for task, pipeline in PIPELINES.items():
        PIPELINE_REGISTRY.supported_tasks[task]["impl"] = pipeline


def about_outputs(k: float, M: float) -> str:
    """The section of a model card that says what the outputs of a square-loss model mean."""
    return f"""
## Outputs

Trained with the square loss, k = {k:g}, M = {M:g}, on raw outputs, whose softmax is no probability. Where
`sqloss_plugins.hf` is imported, Transformers' pipelines for classification and for masked words give the probabilities
that the outputs stand for; in code:

```python
from sqloss_plugins.hf import class_probabilities

probabilities = class_probabilities(model.config, model(**inputs).logits)
```
"""


__all__ = [
    "PIPELINES",
    "SquareLossAudioClassificationPipeline",
    "SquareLossFillMaskPipeline",
    "SquareLossImageClassificationPipeline",
    "SquareLossTextClassificationPipeline",
    "SquareLossTokenClassificationPipeline",
    "about_outputs",
    "as_logits",
    "class_probabilities",
    "register_pipelines",
]
