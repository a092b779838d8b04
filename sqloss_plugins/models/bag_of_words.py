"""A text as the mean of its words' vectors, with a hidden layer: small and fast, for very many classes.

The model of fastText (Joulin et al., EACL 2017, arXiv 1607.01759), without its n-grams and with a hidden layer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.modeling_outputs import SequenceClassifierOutput

from sqloss_plugins.models.pairs import PairConfig, WordModel


class BagOfWordsConfig(PairConfig):
    """Its sizes.

    Attributes:
        dropout: of the mean and of the hidden layer's outputs.

    Examples:
        >>> BagOfWordsConfig(num_labels=1000).embedding_size
        128
    """

    model_type = "bag_of_words"

    embedding_size: int = 128
    hidden_size: int = 128


class BagOfWordsForSequenceClassification(WordModel):
    """The mean of the words' vectors, a hidden layer with tanh, and an output for each class, without a softmax.

    Examples:
        >>> model = BagOfWordsForSequenceClassification(BagOfWordsConfig(vocab_size=10, num_labels=3))
        >>> model(torch.tensor([[4, 5, 6]])).logits.shape
        torch.Size([1, 3])
    """

    config_class = BagOfWordsConfig
    config: BagOfWordsConfig

    def __init__(self, config: BagOfWordsConfig) -> None:
        super().__init__(config)
        self.hidden = nn.Linear(config.embedding_size, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """The outputs for a batch of N texts.

        Args:
            input_ids: word numbers, shape (N, T), int64.
            attention_mask: 0 for padding, shape (N, T); None: padding is what has its number.
            token_type_ids: taken, as tokenizers give them, and not read.
            labels: class numbers, shape (N,). With them there is Transformers' own ``loss``, too.

        Returns:
            ``logits`` of shape (N, num_labels).
        """
        is_word = input_ids != self.config.pad_token_id if attention_mask is None else attention_mask.bool()
        vectors = self.embedding(input_ids) * is_word[..., None]
        mean = vectors.sum(1) / is_word.sum(1, keepdim=True).clamp_min(1)
        logits = self.classifier(self.dropout(torch.tanh(self.hidden(self.dropout(mean)))))
        loss = None if labels is None else self.loss_function(labels, logits, self.config)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    def _init_weights(self, module: nn.Module) -> None:
        """Gaussian word vectors and hidden layer; all outputs are 0 at the start, as most of them are at the end."""
        if isinstance(module, nn.Embedding):
            self._init_embedding()
        elif isinstance(module, nn.Linear):
            init.normal_(module.weight, std=0.0 if module is self.classifier else module.in_features**-0.5)
            init.zeros_(module.bias)
