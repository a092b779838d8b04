"""The square loss in the models of ESPnet1, which ESPnet has up to 202511: ``espnet.nets``, unpatched.

    without_chainer()
    from espnet.nets.pytorch_backend.e2e_asr_transformer import E2E  # or e2e_asr, or e2e_asr_conformer

    model = E2E(idim, odim, args)
    use_square_loss(model, k=15, M=30)
    loss = model(features, lengths, tokens)

For training loops of one's own. ESPnet1's own trainer, ``espnet.bin.asr_train``, needs chainer, whose last release
(7.8.1) does not import beside NumPy 2: it cannot run in a current environment, with this module or without.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from sqloss_plugins.espnet.model import AttentionLoss
from sqloss_plugins.losses import DEFAULT_LOSS
from sqloss_plugins.paper import Rescaling, choose_rescaling

try:
    from espnet.asr import asr_utils
    from espnet.nets.pytorch_backend.rnn.decoders import Decoder
    from espnet.utils import dummy_chainer
except ImportError as error:
    raise ImportError("ESPnet1 is part of ESPnet up to 202511: install espnet==202511, on Python 3.11") from error

_LOWEST = -500.0  # ESPnet1 takes the exponential of a cross-entropy, which overflows from 709 on


def without_chainer() -> None:
    """Lets ESPnet1's models be imported and called where chainer is not installed; to be called before their import.

    Attention plots and reports of a model's losses, which chainer's trainer shows, are then left out.
    """
    if asr_utils.PlotAttentionReport is None:
        asr_utils.PlotAttentionReport = object
        dummy_chainer.Reporter.report = lambda self, *args, **kwargs: None


def use_square_loss(
    model: nn.Module,
    *,
    k: float | None = None,
    M: float | None = None,
    rescaling: str = "auto",
    paper_task: str | None = None,
) -> Rescaling:
    """Puts the square loss in the place of the cross-entropy of a model's attention objective; CTC stays as it is.

    The names of the parameters, and so the files of trained models, stay as well. Decoding takes the softmax of the
    outputs, as the paper does.

    * The recurrent ``E2E``: the mean of all tokens times the mean number of characters, as ESPnet1 has it. Unigram
      label smoothing (``--lsm-type unigram --lsm-weight``; without the former, ESPnet1 does not smooth) is the
      expectation of the loss over the smoothed targets. (ESPnet1's cross-entropy counts padding in its second part,
      which this does not.)
    * The ``E2E`` of Transformers and Conformers: smoothing (``--lsm-weight``) and
      ``--transformer-length-normalized-loss`` as they are for cross-entropy.

    Args:
        model: the ``E2E`` of ``e2e_asr``, ``e2e_asr_transformer``, ``e2e_asr_conformer`` or another module of
            ``espnet.nets.pytorch_backend`` with the same decoder or criterion. It is changed in place.
        k, M: rescaling of the square loss.
        rescaling, paper_task: the rule for whichever of k and M is not given; see
            :func:`sqloss_plugins.paper.choose_rescaling`.

    Returns:
        k and M.

    Raises:
        ValueError: the model has no attention objective; k, M or the rule is wrong.
    """
    host: Any = model
    decoder, criterion = getattr(host, "dec", None), getattr(host, "criterion", None)
    alpha = float(getattr(host, "mtlalpha", 0.0))
    if alpha == 1.0 or not (isinstance(decoder, Decoder) or criterion is not None):
        raise ValueError(f"the square loss is for an attention objective, and this {type(model).__name__} has none")
    num_classes = decoder.odim if decoder is not None else host.odim
    chosen = choose_rescaling(num_classes, task=paper_task, beside_ctc=alpha > 0.0, rule=rescaling, k=k, M=M)
    if decoder is not None:
        share = None if decoder.labeldist is None else torch.as_tensor(decoder.labeldist).float()
        smoothing = 0.0 if share is None else decoder.lsm_weight
        decoder.criterion = AttentionLoss(
            DEFAULT_LOSS, chosen.k, chosen.M, num_classes, decoder.ignore_id, smoothing, share, normalize_length=True
        )
        decoder.__class__ = SquareLossDecoder
    elif criterion is not None:
        host.criterion = AttentionLoss(
            DEFAULT_LOSS,
            chosen.k,
            chosen.M,
            num_classes,
            host.ignore_id,
            criterion.smoothing,
            normalize_length=criterion.normalize_length,
        )
    return chosen


class SquareLossDecoder(Decoder):
    """ESPnet1's recurrent decoder with another criterion; :func:`use_square_loss` makes a decoder one."""

    criterion: AttentionLoss
    output: nn.Module

    def forward(
        self, hs_pad: Any, hlens: Any, ys_pad: Tensor, strm_idx: int = 0, lang_ids: Tensor | None = None
    ) -> tuple[Tensor, float, float]:
        """The loss, the accuracy, and the perplexity by softmax; arguments as in ESPnet1.

        Args:
            hs_pad: outputs of the encoder, shape (utterances, frames, features); a list of them for several encoders.
            hlens: their lengths.
            ys_pad: targets, padded with ``ignore_id``, shape (utterances, tokens), int64.
            strm_idx, lang_ids: as in ESPnet1.
        """
        layer = self.output
        self.output = kept = _KeptOutputs(layer)
        try:
            _, accuracy, perplexity = super().forward(hs_pad, hlens, ys_pad, strm_idx, lang_ids)
        finally:
            self.output = layer
        end = ys_pad.new_tensor([self.eos])
        targets = [torch.cat([row[row != self.ignore_id], end]) for row in ys_pad]
        padded = pad_sequence(targets, batch_first=True, padding_value=self.ignore_id)
        characters = sum(map(len, targets)) / len(targets) - 1  # in this order, ESPnet1's rounding
        self.loss = self.criterion(kept.outputs.view(*padded.shape, -1), padded) * characters
        return self.loss, accuracy, perplexity


class _KeptOutputs(nn.Module):
    """An output layer that keeps its last outputs; the host gets what its accuracy and perplexity can be made of."""

    outputs: Tensor

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, hidden: Tensor) -> Tensor:
        self.outputs = self.layer(hidden)
        relative = self.outputs.detach() - self.outputs.detach().amax(-1, keepdim=True)
        return relative.clamp(min=_LOWEST)
