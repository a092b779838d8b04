"""ESIM, the sequential inference model of Chen et al. (ACL 2017, arXiv 1609.06038): two LSTMs with attention between.

The paper's "LSTM+Attention". Both texts are read by one bidirectional LSTM; every word is held against what the
attention finds for it in the other text; a second bidirectional LSTM reads that, and its states are pooled.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import initialization as init

from sqloss_plugins.models.pairs import BiLSTM, PairConfig, PairModel, Words


class EsimConfig(PairConfig):
    """The sizes of Chen et al., Section 4.

    Attributes:
        hidden_size: width of every hidden layer, too.
        dropout: of word vectors and of the inputs and outputs of the feed-forward layers.
        initializer_range: standard deviation of the feed-forward layers' weights at the start; word vectors have 1.

    Examples:
        >>> EsimConfig(num_labels=3).hidden_size
        300
    """

    model_type = "esim"

    dropout: float = 0.5
    initializer_range: float = 0.01


class EsimForSequenceClassification(PairModel):
    """ESIM.

    Examples:
        >>> sizes = {"vocab_size": 10, "embedding_size": 4, "hidden_size": 4, "num_labels": 2}
        >>> model = EsimForSequenceClassification(EsimConfig(**sizes))
        >>> words = torch.tensor([[5, 6, 7, 8, 9]])  # two words of the first text, three of the second
        >>> model(words, token_type_ids=torch.tensor([[0, 0, 1, 1, 1]])).logits.shape
        torch.Size([1, 2])
    """

    config_class = EsimConfig
    config: EsimConfig

    def __init__(self, config: EsimConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.encoder = BiLSTM(config.embedding_size, width)
        self.projection = nn.Linear(8 * width, width)
        self.composition = BiLSTM(width, width)
        self.hidden = nn.Linear(8 * width, width)
        self.classifier = nn.Linear(width, config.num_labels)
        self.dropout = nn.Dropout(config.dropout)
        self.post_init()

    def compare(self, first: Words, second: Words) -> Tensor:
        """The outputs for N pairs, of shape (N, num_labels)."""
        features = self.dropout(torch.cat(self.features(first, second), dim=1))
        logits: Tensor = self.classifier(self.dropout(torch.tanh(self.hidden(features))))
        return logits

    def features(self, first: Words, second: Words) -> tuple[Tensor, Tensor]:
        """What is known of each text beside the other (Equations 1 to 19); each of shape (N, 4 hidden_size)."""
        a, b = self._read(first), self._read(second)
        weights_a, weights_b = attention(a, b, first.mask, second.mask)
        return self._composed(a, weights_a @ b, first), self._composed(b, weights_b @ a, second)

    def _read(self, words: Words) -> Tensor:
        """The words in their context (Equations 1 and 2), of shape (N, L, 2 hidden_size)."""
        return torch.cat(self.encoder(self.dropout(self.embedding(words.ids)), words), dim=2)

    def _composed(self, own: Tensor, other: Tensor, words: Words) -> Tensor:
        """Each word beside what the other text has for it (Equations 14 to 17), read again, and pooled (18, 19)."""
        local = torch.cat((own, other, own - other, own * other), dim=2)
        local = self.dropout(torch.relu(self.projection(local)))
        states = torch.cat(self.composition(local, words), dim=2)
        mean = states.sum(1) / words.lengths[:, None]
        largest = states.masked_fill(~words.mask[..., None], -torch.inf).amax(1)
        return torch.cat((mean, largest), dim=1)

    def _init_weights(self, module: nn.Module) -> None:
        """As the authors' code: orthogonal LSTMs, small Gaussian layers, standard Gaussian word vectors."""
        if isinstance(module, nn.Embedding):
            self._init_embedding()
        elif isinstance(module, nn.Linear):
            init.normal_(module.weight, std=self.config.initializer_range)
            init.zeros_(module.bias)
        elif isinstance(module, nn.LSTM):
            for name, parameter in module.named_parameters():
                if "bias" in name:
                    init.zeros_(parameter)
                else:  # each of the four gates is a matrix of its own
                    init.copy_(parameter, torch.cat([nn.init.orthogonal_(gate.clone()) for gate in parameter.chunk(4)]))


def attention(a: Tensor, b: Tensor, mask_a: Tensor, mask_b: Tensor) -> tuple[Tensor, Tensor]:
    """How much each word looks at each word of the other text (Chen et al., Equations 11 to 13).

    Args:
        a, b: the words of two texts in their context, shapes (N, A, D) and (N, B, D).
        mask_a, mask_b: True for words, False for padding; shapes (N, A) and (N, B); at least one word a row.

    Returns:
        Weights of shapes (N, A, B) and (N, B, A). The rows of words sum to 1; what is of padding is 0.
    """
    scores = a @ b.transpose(1, 2)
    weights_a = scores.masked_fill(~mask_b[:, None, :], -torch.inf).softmax(2)
    weights_b = scores.transpose(1, 2).masked_fill(~mask_a[:, None, :], -torch.inf).softmax(2)
    return weights_a * mask_a[..., None], weights_b * mask_b[..., None]
