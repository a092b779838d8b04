"""What the models on words share, and those of pairs: two texts out of one row of words, and a bidirectional LSTM."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import SequenceClassifierOutput


class PairConfig(PreTrainedConfig):
    """What the configurations of all models on words have.

    Attributes:
        vocab_size: words, padding and the unknown word included.
        embedding_size: width of the word vectors.
        hidden_size: width of the LSTMs in each direction, or of the hidden layer.
        dropout: what share of values is dropped in training.
        longest_text: how many words of each text the model is trained on; None for all.
        train_embeddings: whether the word vectors are trained.
        words_with_vectors: words whose vectors came from a file.
        pad_token_id: the word number of padding.
    """

    vocab_size: int = 30000
    embedding_size: int = 300
    hidden_size: int = 300
    dropout: float = 0.0
    longest_text: int | None = None
    train_embeddings: bool = True
    words_with_vectors: int = 0
    pad_token_id: int = 0


@dataclass(frozen=True)
class Words:
    """One text of each pair of a batch of N, its words first and padding after them.

    Attributes:
        ids: word numbers, shape (N, L), int64; L is the longest text's length.
        lengths: words of each text, shape (N,), int64, at least 1: a text without words is one word of padding.
    """

    ids: Tensor
    lengths: Tensor

    @property
    def mask(self) -> Tensor:
        """True for words, False for padding; shape (N, L), bool."""
        return torch.arange(self.ids.shape[1], device=self.ids.device) < self.lengths[:, None]


def take_apart(
    input_ids: Tensor, token_type_ids: Tensor | None, attention_mask: Tensor | None, pad_token_id: int
) -> tuple[Words, Words]:
    """The two texts of each pair, wherever in the row their words and the padding are.

    Args:
        input_ids: word numbers, shape (N, T), int64.
        token_type_ids: 0 for words of the first text, 1 for those of the second; shape (N, T).
        attention_mask: 0 for padding, shape (N, T); None where the padding is what has ``pad_token_id``.
        pad_token_id: the word number of padding.

    Raises:
        ValueError: no ``token_type_ids``.
    """
    if token_type_ids is None:
        raise ValueError("a model of pairs needs token_type_ids: 0 for the first text, 1 for the second")
    is_word = input_ids != pad_token_id if attention_mask is None else attention_mask.bool()
    return (
        _one_text(input_ids, is_word & (token_type_ids == 0), pad_token_id),
        _one_text(input_ids, is_word & (token_type_ids == 1), pad_token_id),
    )


def _one_text(input_ids: Tensor, is_its: Tensor, pad_token_id: int) -> Words:
    lengths = is_its.sum(1).clamp_min(1)
    order = (~is_its).to(torch.uint8).argsort(dim=1, stable=True)[:, : int(lengths.max())]
    ids = input_ids.masked_fill(~is_its, pad_token_id).gather(1, order)
    return Words(ids, lengths)


def _states(lstm: nn.LSTM, inputs: Tensor) -> Tensor:
    """The states of a layer, also under CPU autocast without AVX-512, where oneDNN has no LSTM and PyTorch fails.

    Packed sequences do not go to oneDNN.
    """
    mixed = inputs.device.type == "cpu" and torch.is_autocast_enabled("cpu")
    if not mixed or torch.backends.cpu.get_cpu_capability() == "AVX512":
        states, _ = lstm(inputs)
    else:
        packed, _ = lstm(pack_padded_sequence(inputs, torch.full((len(inputs),), inputs.shape[1]), batch_first=True))
        states, _ = pad_packed_sequence(packed, batch_first=True)
    return cast(Tensor, states)


class BiLSTM(nn.Module):
    """A bidirectional LSTM whose states do not depend on padding.

    Two LSTMs, of which one reads each text from its own last word on. On a CPU that is twice as fast in training as
    PyTorch's packed sequences.

    Args:
        input_size: width of what it reads.
        hidden_size: width of the states of one direction.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.forwards = nn.LSTM(input_size, hidden_size, batch_first=True)
        self.backwards = nn.LSTM(input_size, hidden_size, batch_first=True)

    def forward(self, inputs: Tensor, words: Words) -> tuple[Tensor, Tensor]:
        """The states of both directions, each of shape (N, L, hidden_size) and 0 on padding.

        Args:
            inputs: shape (N, L, input_size).
            words: whose they are.
        """
        mask = words.mask
        position = torch.arange(inputs.shape[1], device=inputs.device)
        turned = torch.where(mask, words.lengths[:, None] - 1 - position, position)[..., None]
        forwards = _states(self.forwards, inputs)
        backwards = _states(self.backwards, inputs.gather(1, turned.expand_as(inputs)))
        backwards = backwards.gather(1, turned.expand_as(backwards))
        return forwards * mask[..., None], backwards * mask[..., None]


class WordModel(PreTrainedModel):
    """A model with a vector for each word."""

    base_model_prefix = "model"
    config: PairConfig

    def __init__(self, config: PairConfig) -> None:
        super().__init__(config)
        self.embedding = nn.Embedding(config.vocab_size, config.embedding_size, padding_idx=config.pad_token_id)
        self.embedding.requires_grad_(config.train_embeddings)

    def get_input_embeddings(self) -> nn.Embedding:
        """The word vectors."""
        return self.embedding

    def _init_embedding(self, std: float = 1.0) -> None:
        """Gaussian word vectors, and 0 for padding."""
        weight = self.embedding.weight
        if not getattr(weight, "_is_hf_initialized", False):  # or they come from a file
            init.normal_(weight, std=std)
            init.zeros_(weight[self.config.pad_token_id])


class PairModel(WordModel):
    """A model that gives a pair of texts as many outputs as there are classes, without a softmax.

    What is left to an architecture: its layers, after this class's ``__init__``; ``compare``; and ``_init_weights``.
    """

    @abstractmethod
    def compare(self, first: Words, second: Words) -> Tensor:
        """The outputs for N pairs, of shape (N, num_labels)."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """The outputs for a batch of N pairs.

        Args:
            input_ids: word numbers, shape (N, T), int64.
            attention_mask: 0 for padding, shape (N, T); None: padding is what has its number.
            token_type_ids: 0 for words of the first text, 1 for those of the second; shape (N, T).
            labels: class numbers, shape (N,). With them there is Transformers' own ``loss``, too.

        Returns:
            ``logits`` of shape (N, num_labels).

        Raises:
            ValueError: no ``token_type_ids``.
        """
        logits = self.compare(*take_apart(input_ids, token_type_ids, attention_mask, self.config.pad_token_id))
        loss = None if labels is None else self.loss_function(labels, logits, self.config)
        return SequenceClassifierOutput(loss=loss, logits=logits)
