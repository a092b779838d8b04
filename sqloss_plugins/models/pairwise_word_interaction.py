"""The pairwise word interaction model of He & Lin (NAACL 2016): LSTMs, a cube of similarities, and a deep CNN.

The paper's "LSTM+CNN". Both texts are read by one bidirectional LSTM; every word of the first is held against every
word of the second by twelve similarities; a focus layer keeps the pairs of words that belong together and weakens the
others; what is left is an image of two texts, which a convolutional network looks at.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from sqloss_plugins.models.pairs import BiLSTM, PairConfig, PairModel, Words

CHANNELS = 13
"""Cosine, negative Euclidean distance and dot product of four views of the words, and one that is 1 for real words."""

_COSINE, _DISTANCE = 9, 10
"""The channels by which the focus layer goes: of the sums of both directions."""

_UNFOCUSED = 0.1
_MAPS = (128, 164, 192, 192, 128)


class PairwiseWordInteractionConfig(PairConfig):
    """The sizes of He & Lin as their code has them; ``dropout`` is of the word vectors, and they have none.

    Examples:
        >>> PairwiseWordInteractionConfig(num_labels=3).hidden_size
        250
    """

    model_type = "pairwise_word_interaction"

    hidden_size: int = 250


class PairwiseWordInteractionForSequenceClassification(PairModel):
    """The pairwise word interaction model."""

    config_class = PairwiseWordInteractionConfig
    config: PairwiseWordInteractionConfig

    def __init__(self, config: PairwiseWordInteractionConfig) -> None:
        super().__init__(config)
        self.encoder = BiLSTM(config.embedding_size, config.hidden_size)
        widths = zip((CHANNELS, *_MAPS[:-1]), _MAPS, strict=True)
        self.convolutions = nn.ModuleList(nn.Conv2d(width, maps, 3, padding=1) for width, maps in widths)
        self.hidden = nn.Linear(_MAPS[-1], _MAPS[-1])
        self.classifier = nn.Linear(_MAPS[-1], config.num_labels)
        self.dropout = nn.Dropout(config.dropout)
        self.post_init()

    def compare(self, first: Words, second: Words) -> Tensor:
        """The outputs for N pairs, of shape (N, num_labels)."""
        pairs = first.mask[:, :, None] & second.mask[:, None, :]
        cube = similarity_cube(self._read(first), self._read(second)) * pairs[:, None]
        logits: Tensor = self.classifier(torch.relu(self.hidden(self._look(cube * focus(cube.detach(), pairs), pairs))))
        return logits

    def _read(self, words: Words) -> tuple[Tensor, Tensor]:
        """The words in their context, in each direction of shape (N, L, hidden_size)."""
        forwards, backwards = self.encoder(self.dropout(self.embedding(words.ids)), words)
        return forwards, backwards

    def _look(self, cube: Tensor, pairs: Tensor) -> Tensor:
        """The convolutional network, for cubes of any size (He & Lin, Table 1): (N, 13, A, B) to (N, 128).

        Every cube is looked at as if it were alone: beyond its last words there is nothing, not even what the biases
        would make of padding. The last pooling is over all that is left, as it is for the two sizes that they have.
        """
        image = cube.contiguous(memory_format=torch.channels_last)  # a fifth faster on a CPU
        real = pairs[:, None].to(cube.dtype)
        for convolution in self.convolutions:
            # In place, and the ReLU last, which is the same: these are the largest tensors.
            image = F.max_pool2d(convolution(image).mul_(real), 2, ceil_mode=True).relu_()
            real = F.max_pool2d(real, 2, ceil_mode=True)
        return image.amax((2, 3))

    def _init_weights(self, module: nn.Module) -> None:
        """As the authors' code, the LSTMs as PyTorch has them, but random word vectors are standard Gaussian.

        The authors have pre-trained ones, and small random ones (0.05) for the rest. Were all so small, the LSTM's
        biases would make all words alike at the start, and the square loss would not come away from that.
        """
        if isinstance(module, nn.Embedding):
            self._init_embedding()
        elif isinstance(module, nn.Conv2d):
            init.normal_(module.weight, std=math.sqrt(2 / (9 * module.out_channels)))
            init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            init.uniform_(module.weight, -0.1, 0.1)
            init.zeros_(module.bias)
        elif isinstance(module, nn.LSTM):
            for parameter in module.parameters():
                init.uniform_(parameter, -1 / math.sqrt(module.hidden_size), 1 / math.sqrt(module.hidden_size))


def similarity_cube(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> Tensor:
    """How similar every word of one text is to every word of the other (He & Lin, Section 5).

    Args:
        first, second: the LSTM's states of N texts, forward and backward, of shape (N, A, D) and (N, B, D) each.

    Returns:
        Shape (N, 13, A, B): cosine, negative Euclidean distance and dot product of the forward states, of the backward
        states, of both in a row, and of their sums; and 1. Where there is no word what it says has no meaning.
    """
    channels = []
    for a, b in zip(_views(*first), _views(*second), strict=True):
        channels += [F.normalize(a, dim=2) @ F.normalize(b, dim=2).transpose(1, 2), -_distances(a, b)]
        channels.append(a @ b.transpose(1, 2))
    return torch.stack([*channels, torch.ones_like(channels[0])], dim=1)


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """In float32 at least: PyTorch has none in 16 bits on a CPU, in which the whole model is with --bf16_full_eval."""
    return torch.cdist(a, b) if a.dtype == torch.float64 else torch.cdist(a.float(), b.float()).to(a.dtype)


def _views(forwards: Tensor, backwards: Tensor) -> tuple[Tensor, ...]:
    return forwards, backwards, torch.cat((forwards, backwards), dim=2), forwards + backwards


def focus(cube: Tensor, pairs: Tensor) -> Tensor:
    """The weight of every similarity (He & Lin, Algorithm 1).

    The most similar two words belong together, then the most similar two of the others, and so on, until one text has
    no words left; once by the cosine, and once by the distance, both of the sums of the two directions. What belongs
    together by either has weight 1, all else 0.1, and the last channel 1 everywhere.

    Args:
        cube: similarities, shape (N, 13, A, B).
        pairs: True for two words, False where either is padding; shape (N, A, B).

    Returns:
        Weights of the cube's shape, without gradients.
    """
    chosen = assign(torch.cat((cube[:, _COSINE], cube[:, _DISTANCE])), pairs.repeat(2, 1, 1))
    by_cosine, by_distance = chosen.chunk(2)
    weights = torch.where((by_cosine | by_distance)[:, None], 1.0, _UNFOCUSED).to(cube.dtype).repeat(1, CHANNELS, 1, 1)
    weights[:, -1] = 1.0
    return weights


def assign(scores: Tensor, pairs: Tensor) -> Tensor:
    """Pairs off rows and columns: always the two with the highest score among those that are left.

    Args:
        scores: shape (N, A, B).
        pairs: which may be chosen, True in the first rows and columns of each matrix; shape (N, A, B).

    Returns:
        True for what is chosen, shape (N, A, B): as many as a matrix has rows or columns, whichever is less.
    """
    left = scores.masked_fill(~pairs, -torch.inf)
    chosen = torch.zeros_like(pairs)
    each = torch.arange(len(scores), device=scores.device)
    for _ in range(min(scores.shape[1:])):
        value, best = left.flatten(1).max(1)
        row, column = best // scores.shape[2], best % scores.shape[2]
        chosen[each, row, column] |= value > -torch.inf  # nothing, where nothing is left
        left[each, row] = -torch.inf
        left[each, :, column] = -torch.inf
    return chosen
