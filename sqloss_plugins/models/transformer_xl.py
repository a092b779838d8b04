"""Transformer-XL (Dai et al. 2019, arXiv 1901.02860) for characters: relative positions, and a memory of what was read.

The paper's model for text8 and enwik8. A text is read segment by segment, and each segment attends to the hidden states
of those before it. Of the original's parts for words, adaptive softmax and adaptive inputs, there is none here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput


class TransformerXLConfig(PreTrainedConfig):
    """The sizes of the original's base model for enwik8 and text8: some 41 million parameters.

    Attributes:
        vocab_size: classes of characters.
        hidden_size: width of the hidden states.
        num_hidden_layers: layers.
        num_attention_heads: heads of a layer.
        head_dim: width of a head.
        intermediate_size: width of the feed-forward part of a layer.
        dropout: what share of values is dropped in training.
        attention_dropout: what share of the attention's weights is dropped in training.
        memory_length: how many positions before a segment are remembered; 0 for no memory.
        initializer_range: standard deviation of the weights at the start.
        tie_word_embeddings: whether the output layer has the embedding's weights, as in the original. With the square
            loss a model learns much slower then: its outputs are to be small, and so are the inputs.

    Examples:
        >>> TransformerXLConfig(vocab_size=27).num_hidden_layers
        12
    """

    model_type = "sqloss_transformer_xl"
    keys_to_ignore_at_inference = ["memory"]  # noqa: RUF012

    vocab_size: int = 204
    hidden_size: int = 512
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    head_dim: int = 64
    intermediate_size: int = 2048
    dropout: float = 0.1
    attention_dropout: float = 0.0
    memory_length: int = 512
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False


@dataclass
class TransformerXLOutput(ModelOutput):
    """What the model returns for N segments of L characters.

    Attributes:
        loss: Transformers' own, where there were labels.
        logits: shape (N, L, vocab_size).
        memory: for the segments that follow: what each layer has read of the last positions, without their graph, shape
            (num_hidden_layers, N, at most memory_length, hidden_size).
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    memory: Tensor | None = None


class RelativeAttention(nn.Module):
    """Attention with relative positions (Dai et al., Section 3.3).

    For a query at i and a key at j <= i the score is (q_i + u)^T k_j + (q_i + v)^T r_{i-j}, over the root of the head's
    width, where r is a linear map of the sinusoid of the distance i - j. The biases u and v are the same in all layers.

    Args:
        config: the model's sizes.
    """

    def __init__(self, config: TransformerXLConfig) -> None:
        super().__init__()
        self.heads, self.width = config.num_attention_heads, config.head_dim
        inner = self.heads * self.width
        self.queries = nn.Linear(config.hidden_size, inner, bias=False)
        self.keys_and_values = nn.Linear(config.hidden_size, 2 * inner, bias=False)
        self.positions = nn.Linear(config.hidden_size, inner, bias=False)
        self.output = nn.Linear(inner, config.hidden_size, bias=False)
        self.dropout = config.attention_dropout

    def forward(self, hidden: Tensor, context: Tensor, sinusoids: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """What each position takes from itself and from those before it.

        Args:
            hidden: the segments, shape (N, L, hidden_size).
            context: memory and segments, shape (N, K, hidden_size); the last L positions are the segments'.
            sinusoids: of the distances K - 1, K - 2, ..., 0, shape (K, hidden_size).
            u, v: shape (num_attention_heads, head_dim).

        Returns:
            Shape (N, L, hidden_size).
        """
        length, total = hidden.shape[1], context.shape[1]
        q = self._by_head(self.queries(hidden))
        k, values = (self._by_head(part) for part in self.keys_and_values(context).chunk(2, dim=-1))
        r = self._by_head(self.positions(sinusoids))
        bias = _shifted((q + v[:, None]) @ r.transpose(-1, -2)) * self.width**-0.5
        is_later = torch.ones(length, total, dtype=torch.bool, device=hidden.device).triu(1 + total - length)
        found = F.scaled_dot_product_attention(
            q + u[:, None],
            k,
            values,
            attn_mask=bias.masked_fill(is_later, -torch.inf),
            dropout_p=self.dropout if self.training else 0.0,
        )
        joined: Tensor = self.output(found.transpose(1, 2).flatten(2))
        return joined

    def _by_head(self, values: Tensor) -> Tensor:
        """From (..., L, heads * width) to (..., heads, L, width)."""
        return values.view(*values.shape[:-1], self.heads, self.width).transpose(-2, -3)


def _shifted(scores: Tensor) -> Tensor:
    """From scores by distance to scores by position: row i is moved to the left by L - 1 - i.

    Args:
        scores: shape (..., L, K); column c is of the distance K - 1 - c.

    Returns:
        The same shape; column j is of the distance of key j from query i, and means nothing where the key comes later.
    """
    *batch, length, total = scores.shape
    padded = F.pad(scores, (1, 0)).view(*batch, total + 1, length)
    return padded[..., 1:, :].reshape(*batch, length, total)


class TransformerXLLayer(nn.Module):
    """Attention and a feed-forward part, each followed by a layer normalisation.

    Args:
        config: the model's sizes.
    """

    def __init__(self, config: TransformerXLConfig) -> None:
        super().__init__()
        self.attention = RelativeAttention(config)
        self.attention_norm = nn.LayerNorm(config.hidden_size)
        self.feed_forward = nn.Sequential(
            nn.Linear(config.hidden_size, config.intermediate_size),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.intermediate_size, config.hidden_size),
        )
        self.feed_forward_norm = nn.LayerNorm(config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden: Tensor, context: Tensor, *positions: Tensor) -> Tensor:
        """The next layer's hidden states; arguments as those of :class:`RelativeAttention`."""
        hidden = self.attention_norm(hidden + self.dropout(self.attention(hidden, context, *positions)))
        normed: Tensor = self.feed_forward_norm(hidden + self.dropout(self.feed_forward(hidden)))
        return normed


class TransformerXLForCausalLM(PreTrainedModel):
    """The model, with an output for each class of characters, without a softmax.

    Examples:
        >>> sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 4}
        >>> model = TransformerXLForCausalLM(TransformerXLConfig(vocab_size=27, intermediate_size=8, **sizes))
        >>> model(torch.zeros(1, 5, dtype=torch.int64)).logits.shape
        torch.Size([1, 5, 27])
    """

    config_class = TransformerXLConfig
    config: TransformerXLConfig
    base_model_prefix = "model"
    _tied_weights_keys = {"lm_head.weight": "embedding.weight"}  # noqa: RUF012

    def __init__(self, config: TransformerXLConfig) -> None:
        super().__init__(config)
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.u = nn.Parameter(torch.empty(config.num_attention_heads, config.head_dim))
        self.v = nn.Parameter(torch.empty(config.num_attention_heads, config.head_dim))
        self.layers = nn.ModuleList(TransformerXLLayer(config) for _ in range(config.num_hidden_layers))
        self.dropout = nn.Dropout(config.dropout)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """The vectors of the characters."""
        return self.embedding

    def forward(
        self, input_ids: Tensor, memory: Tensor | None = None, labels: Tensor | None = None
    ) -> TransformerXLOutput:
        """The outputs for a batch of N segments of L characters.

        Args:
            input_ids: class numbers, shape (N, L), int64.
            memory: what was returned for the segments before; None at the beginning of a text.
            labels: as ``input_ids``, -100 where they do not count. With them there is Transformers' own ``loss``, too,
                of each character after the first.

        Raises:
            ValueError: the memory of another number of segments.
        """
        if memory is not None and memory.shape[1] != len(input_ids):
            raise ValueError(f"there are {len(input_ids)} segments, and the memory is that of {memory.shape[1]}")
        hidden = self.dropout(self.embedding(input_ids) * self.config.hidden_size**0.5)
        total = input_ids.shape[1] + (0 if memory is None else memory.shape[2])
        sinusoids = self.dropout(_sinusoids(total, hidden))
        kept = []
        for number, layer in enumerate(self.layers):
            context = hidden if memory is None else torch.cat([memory[number].to(hidden.dtype), hidden], dim=1)
            kept.append(context[:, max(0, total - self.config.memory_length) :].detach())
            hidden = layer(hidden, context, sinusoids, self.u, self.v)
        logits = self.lm_head(self.dropout(hidden))
        loss = None if labels is None else self.loss_function(logits, labels, vocab_size=self.config.vocab_size)
        return TransformerXLOutput(loss=loss, logits=logits, memory=torch.stack(kept))

    def _init_weights(self, module: nn.Module) -> None:
        """As the authors' code: all weights normal, those of layer normalisations around 1, and no biases."""
        std = self.config.initializer_range
        if isinstance(module, nn.Linear | nn.Embedding):
            init.normal_(module.weight, std=std)
        elif isinstance(module, nn.LayerNorm):
            init.normal_(module.weight, mean=1.0, std=std)
        elif module is self:
            init.normal_(self.u, std=std)
            init.normal_(self.v, std=std)
        bias: Any = getattr(module, "bias", None)
        if bias is not None:
            init.zeros_(bias)


def _sinusoids(total: int, like: Tensor) -> Tensor:
    """Of the distances total - 1, ..., 0: sines and then cosines of geometric frequencies, shape (total, hidden_size).

    Args:
        total: K, how many.
        like: hidden states, whose width, dtype and device they have.
    """
    width = like.shape[-1]
    # In float32 at least: bfloat16 has no whole numbers from 256 on.
    dtype = torch.promote_types(like.dtype, torch.float32)
    distances = torch.arange(total - 1, -1, -1, dtype=dtype, device=like.device)
    frequencies = 10000.0 ** (-torch.arange(0, width, 2, dtype=dtype, device=like.device) / width)
    angles = torch.outer(distances, frequencies)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)[:, :width].to(like.dtype)


__all__ = ["TransformerXLConfig", "TransformerXLForCausalLM", "TransformerXLOutput"]
