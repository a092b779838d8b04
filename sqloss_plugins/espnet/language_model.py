"""ESPnet's language model with a choice of loss.

ESPnet computes the cross-entropy inside of ``nll``, which perplexity and rescoring use as well. Here training has a
loss of its own, and ``nll`` stays what it says: the negative log-likelihood, by the probabilities that fit the loss.
"""

from __future__ import annotations

from typing import Any

import torch
from espnet2.lm.espnet_model import ESPnetLanguageModel
from espnet2.torch_utils.device_funcs import force_gatherable
from torch import Tensor, nn

from sqloss_plugins.espnet.decoding import ESPNETS_LOSS, log_probability_outputs, methods_of, use_method
from sqloss_plugins.espnet.model import WithLoss
from sqloss_plugins.espnet.tasks import TASKS
from sqloss_plugins.losses import make_loss
from sqloss_plugins.paper import Rescaling


class SquareLossLanguageModel(WithLoss, ESPnetLanguageModel):  # type: ignore[misc]
    """``ESPnetLanguageModel`` that is trained with a loss of one's choice; see :class:`WithLoss`.

    Beam search gets log-probabilities by the usual method of the loss from its network ``lm``.
    """

    espnet_task = TASKS["lm"]

    def _replace(self, name: str, size: int, rescaling: Rescaling | None, unigram: str | None) -> None:
        k, M = (rescaling.k, rescaling.M) if rescaling else (None, None)
        self.token_loss = make_loss(self.loss, k=k, M=M, reduction="none")
        use_method(self, methods_of(self)[0])

    def nll(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Negative log-likelihood of each token, shape (sentences, tokens), and the numbers of tokens."""
        with log_probability_outputs(self, methods_of(self)[0]):
            result: tuple[Tensor, Tensor] = super().nll(*args, **kwargs)
        return result

    def forward(
        self, text: Tensor, text_lengths: Tensor, **kwargs: Any
    ) -> tuple[Tensor, dict[str, Tensor | None], Tensor]:
        """The mean loss of a token, what is logged, and the number of tokens.

        Args:
            text: tokens, shape (sentences, tokens), int64.
            text_lengths: shape (sentences,), int64.
        """
        if self.loss == ESPNETS_LOSS:
            result: tuple[Tensor, dict[str, Tensor | None], Tensor] = super().forward(text, text_lengths, **kwargs)
            return result
        text = text[:, : int(text_lengths.max())]
        lengths = text_lengths + 1  # with the end of the sentence
        inputs = nn.functional.pad(text, (1, 0), value=self.sos)
        targets = nn.functional.pad(text, (0, 1), value=self.ignore_id).scatter(1, text_lengths[:, None], self.eos)
        outputs = self.lm(inputs, None)[0]
        kept = torch.arange(targets.shape[1], device=text.device) < lengths[:, None]
        rows, classes = outputs[kept], targets[kept]
        loss = self.token_loss(rows, classes).sum() / lengths.sum()
        stats = {"loss": loss.detach(), "acc": (rows.argmax(-1) == classes).float().mean()}
        gathered: tuple[Tensor, dict[str, Tensor | None], Tensor] = force_gatherable(
            (loss, stats, lengths.sum()), loss.device
        )
        return gathered
