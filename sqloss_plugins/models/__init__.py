"""The paper's architectures that no maintained library has: for pairs of texts, small images, and characters.

Importing this package registers them with Transformers, so that ``AutoConfig`` and the ``AutoModelFor...`` of
sequence classification, image classification and causal language models know what they saved. A new architecture on
words is one file and one entry in :data:`ARCHITECTURES`; another is one file and is registered at this file's end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
)

from sqloss_plugins.models.bag_of_words import BagOfWordsConfig, BagOfWordsForSequenceClassification
from sqloss_plugins.models.esim import EsimConfig, EsimForSequenceClassification
from sqloss_plugins.models.pairs import PairConfig, WordModel
from sqloss_plugins.models.pairwise_word_interaction import (
    PairwiseWordInteractionConfig,
    PairwiseWordInteractionForSequenceClassification,
)
from sqloss_plugins.models.temporal_convolution import (
    TemporalConvolutionConfig,
    TemporalConvolutionForImageClassification,
)
from sqloss_plugins.models.transformer_xl import TransformerXLConfig, TransformerXLForCausalLM
from sqloss_plugins.models.wide_resnet import WideResnetConfig, WideResnetForImageClassification


@dataclass(frozen=True)
class Architecture:
    """A model that is trained from scratch, on words.

    Attributes:
        config: its configuration; the defaults are the original paper's.
        model: the model itself.
        about: one line for people.
        training: defaults for TrainingArguments: what the toolkit of Lan & Xu (2018) trains it with.
        trains_word_vectors: whether word vectors from a file are trained further.
        mini: defaults for mini data in the place of the paper's, whose rate is too small for an epoch of a few batches.
    """

    config: type[PairConfig]
    model: type[WordModel]
    about: str
    training: Mapping[str, Any]
    trains_word_vectors: bool
    mini: Mapping[str, Any] = field(default_factory=dict)


ARCHITECTURES: dict[str, Architecture] = {
    "lstm_attention": Architecture(
        EsimConfig,
        EsimForSequenceClassification,
        "ESIM, two LSTMs with attention between (Chen et al. 2017)",
        {"lr_scheduler_type": "constant", "max_grad_norm": 10.0},  # and Adam, which AdamW without decay is
        trains_word_vectors=True,
        mini={"learning_rate": 2e-3, "per_device_train_batch_size": 16},
    ),
    "lstm_cnn": Architecture(
        PairwiseWordInteractionConfig,
        PairwiseWordInteractionForSequenceClassification,
        "the pairwise word interaction model, an LSTM and a deep CNN (He & Lin 2016)",
        {"lr_scheduler_type": "constant", "max_grad_norm": 0.0, "optim": "rmsprop"},
        trains_word_vectors=False,
    ),
}
"""Names as in the paper's tables -> architectures, for pairs of texts."""

OF_ONE_TEXT: dict[str, Architecture] = {
    "bag_of_words": Architecture(
        BagOfWordsConfig,
        BagOfWordsForSequenceClassification,
        "the mean of the words' vectors, and a hidden layer",
        {"learning_rate": 1e-3, "num_train_epochs": 20.0, "per_device_train_batch_size": 256},
        trains_word_vectors=True,
        mini={"learning_rate": 1e-2, "per_device_train_batch_size": 32},
    ),
}
"""Architectures for single texts, which the paper does not have."""

for _entry in (*ARCHITECTURES.values(), *OF_ONE_TEXT.values()):
    AutoConfig.register(_entry.config.model_type, _entry.config)
    AutoModelForSequenceClassification.register(_entry.config, _entry.model)

for _config, _model in (
    (TemporalConvolutionConfig, TemporalConvolutionForImageClassification),
    (WideResnetConfig, WideResnetForImageClassification),
):
    AutoConfig.register(_config.model_type, _config)
    AutoModelForImageClassification.register(_config, _model)

AutoConfig.register(TransformerXLConfig.model_type, TransformerXLConfig)
AutoModelForCausalLM.register(TransformerXLConfig, TransformerXLForCausalLM)

__all__ = ["ARCHITECTURES", "OF_ONE_TEXT", "Architecture"]
