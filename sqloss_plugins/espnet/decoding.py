"""Scores for beam search out of a decoder that was trained with the square loss.

ESPnet's decoders apply ``log_softmax`` to their output layer inside their scoring methods. A forward hook on that layer
returns normalised log-probabilities instead of outputs while such a method runs: ``log_softmax`` leaves those as they
are. Teacher-forced outputs, and the state_dict, are not touched.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from espnet2.bin import asr_inference
from torch import Tensor, nn

from sqloss_plugins.errors import UserError
from sqloss_plugins.probability import SCORES, log_probabilities

OUTPUT_LAYERS = ("output_layer", "output")  # the Transformer decoders' and the RNN decoder's
_SCORING_METHODS = ("score", "batch_score", "forward_one_step", "forward_partially_AR")


def default_score(model: nn.Module) -> str:
    """``link`` for a model trained with the square loss, else ``softmax``."""
    return "link" if getattr(model, "rescaling", None) else "softmax"


def _output_layer(model: nn.Module) -> nn.Module:
    for name in OUTPUT_LAYERS:
        layer = getattr(model.decoder, name, None)
        if isinstance(layer, nn.Module):
            return layer
    raise UserError(f"scores other than softmax are not there for the decoder {type(model.decoder).__name__}")


def _scorer(model: nn.Module, score: str, scale: float | None) -> Callable[[Tensor], Tensor]:
    """The function from outputs to log-probabilities."""
    rescaling = getattr(model, "rescaling", None)
    if score not in SCORES:
        raise UserError(f"unknown score {score!r}: choose from {', '.join(SCORES)}")
    if (score == "scale") != (scale is not None):
        raise UserError("score scale and a number for it go together: give both or neither")
    if score == "link" and rescaling is None:
        raise UserError(
            "score link is for models trained with the square loss, and this one is not: use softmax or scale"
        )
    k, M = (rescaling.k, rescaling.M) if rescaling else (1.0, 1.0)
    if scale is not None and not 0.0 < scale < float("inf"):
        raise UserError(f"the scale must be a positive finite number, got {scale}")

    def scorer(outputs: Tensor) -> Tensor:
        return log_probabilities(outputs, score, k=k, M=M, scale=scale or 1.0).to(outputs.dtype)

    return scorer


@contextmanager
def scoring(model: nn.Module, score: str, scale: float | None = None) -> Iterator[None]:
    """Within the block the decoder's output layer returns log-probabilities by the score, however it is called."""
    if score == "softmax":
        yield
        return
    scorer = _scorer(model, score, scale)
    handle = _output_layer(model).register_forward_hook(lambda module, inputs, outputs: scorer(outputs))
    try:
        yield
    finally:
        handle.remove()


def use_score(model: nn.Module, score: str, scale: float | None = None) -> None:
    """Makes beam search score with this score, for the rest of the model's life; once a model.

    Args:
        model: an ASR model with a Transformer-like or RNN attention decoder; changed in place.
        score: one of :data:`sqloss_plugins.probability.SCORES`.
        scale: s, for the score ``scale``.

    Raises:
        UserError: a score that the model cannot have.
    """
    scorer = _scorer(model, score, scale)
    if score == "softmax":
        return
    depth = 0  # scoring methods call each other

    def hook(module: nn.Module, inputs: Any, outputs: Tensor) -> Tensor | None:
        return scorer(outputs) if depth else None

    def while_scoring(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal depth
            depth += 1
            try:
                return method(*args, **kwargs)
            finally:
                depth -= 1

        return wrapped

    _output_layer(model).register_forward_hook(hook)
    for name in _SCORING_METHODS:
        if hasattr(model.decoder, name):
            setattr(model.decoder, name, while_scoring(getattr(model.decoder, name)))


class Speech2Text(asr_inference.Speech2Text):
    """ESPnet's ``Speech2Text`` with a choice of score.

    Args:
        *args, **kwargs: of ESPnet's.
        score: one of :data:`sqloss_plugins.probability.SCORES`; None for the model's: ``link`` for one trained with
            the square loss, else ``softmax``.
        scale: s, for the score ``scale``.
    """

    def __init__(self, *args: Any, score: str | None = None, scale: float | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.score = score or default_score(self.asr_model)
        use_score(self.asr_model, self.score, scale)

    @classmethod
    def from_pretrained(cls, model_tag: str | None = None, **kwargs: Any) -> Speech2Text:
        """As ESPnet's, which makes ESPnet's own class.

        Args:
            model_tag: of a model that ``espnet_model_zoo`` knows.
            **kwargs: of this class.
        """
        if model_tag is not None:
            from espnet_model_zoo.downloader import ModelDownloader

            kwargs.update(ModelDownloader().download_and_unpack(model_tag))
        return cls(**kwargs)
