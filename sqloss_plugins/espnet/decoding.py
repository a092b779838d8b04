"""Log-probabilities for beam search out of a decoder that was trained with the square loss.

ESPnet's decoders apply ``log_softmax`` to their output layer inside their scoring functions. A forward hook on that
layer returns normalised log-probabilities instead of outputs while such a function runs: ``log_softmax`` leaves those
as they are. Teacher-forced outputs, and the state_dict, are not touched.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from espnet2.asr.decoder.rnn_decoder import initial_att
from espnet2.bin import asr_inference
from torch import Tensor, nn

from sqloss_plugins.errors import UserError
from sqloss_plugins.espnet.model_files import check_fit, read_state, told_of_files
from sqloss_plugins.losses import LOSSES
from sqloss_plugins.probability import METHODS, log_probabilities

OUTPUT_LAYERS = ("output_layer", "output")  # the Transformer decoders' and the RNN decoder's
_OF_LANGUAGE_MODELS = ("decoder",)
_ATTENTIONS = importlib.import_module(initial_att.__module__)  # ESPnet 202611 has it in another place than 202511
_SCORING_FUNCTIONS = ("score", "batch_score", "forward_one_step", "forward_partially_AR")
ESPNETS_LOSS = "cross_entropy"
"""What ESPnet's own models are trained with."""


def _is_ours(model: nn.Module) -> bool:
    return hasattr(model, "rescaling")


def methods_of(model: Any) -> tuple[str, ...]:
    """The methods that fit the loss that the model was trained with, the usual one first."""
    return LOSSES[model.loss if _is_ours(model) else ESPNETS_LOSS].methods


def _scorer(model: Any) -> nn.Module:
    """The part of a model that beam search asks: the decoder, or the network of a language model."""
    scorer: nn.Module = model.lm if hasattr(model, "lm") else model.decoder
    return scorer


def _output_layer(model: nn.Module) -> nn.Module:
    scorer = _scorer(model)
    for name in _OF_LANGUAGE_MODELS if hasattr(model, "lm") else OUTPUT_LAYERS:
        layer = getattr(scorer, name, None)
        if isinstance(layer, nn.Module):
            return layer
    raise UserError(f"methods other than softmax are not there for the decoder {type(scorer).__name__}")


def log_probabilities_of(model: nn.Module, method: str, temperature: float | None) -> Callable[[Tensor], Tensor]:
    """The function from a model's outputs to log-probabilities.

    Raises:
        UserError: a method that the model cannot have.
    """
    if method not in METHODS:
        raise UserError(f"unknown method {method!r}: choose from {', '.join(METHODS)}")
    if (method == "temperature") != (temperature is not None):
        raise UserError("the method temperature and a number for it go together: give both or neither")
    fitting = methods_of(model)
    if method not in fitting:
        raise UserError(f"the method {method} does not fit the model's loss: choose from {', '.join(fitting)}")
    if temperature is not None and not 0.0 < temperature < float("inf"):
        raise UserError(f"the temperature must be a positive finite number, got {temperature}")
    rescaling = getattr(model, "rescaling", None)
    k, M = (rescaling.k, rescaling.M) if rescaling else (1.0, 1.0)

    def convert(outputs: Tensor) -> Tensor:
        return log_probabilities(outputs, method, k=k, M=M, temperature=temperature or 1.0).to(outputs.dtype)

    return convert


@contextmanager
def log_probability_outputs(model: nn.Module, method: str, temperature: float | None = None) -> Iterator[None]:
    """Within the block the decoder's output layer returns log-probabilities, however it is called.

    ``softmax`` is ESPnet's own, so that nothing is changed for it.
    """
    if method == "softmax":
        yield
        return
    convert = log_probabilities_of(model, method, temperature)
    handle = _output_layer(model).register_forward_hook(lambda module, inputs, outputs: convert(outputs))
    try:
        yield
    finally:
        handle.remove()


def use_method(model: nn.Module, method: str, temperature: float | None = None) -> None:
    """Makes beam search take its probabilities by this method, for the rest of the model's life; once a model.

    Args:
        model: with a Transformer-like or RNN attention decoder, or a language model; changed in place.
        method: one of :data:`sqloss_plugins.probability.METHODS`.
        temperature: T, for the method ``temperature``.

    Raises:
        UserError: a method that the model cannot have.
    """
    convert = log_probabilities_of(model, method, temperature)
    if method == "softmax":
        return
    depth = 0  # scoring functions call each other

    def hook(module: nn.Module, inputs: Any, outputs: Tensor) -> Tensor | None:
        return convert(outputs) if depth else None

    def while_scoring(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal depth
            depth += 1
            try:
                return function(*args, **kwargs)
            finally:
                depth -= 1

        return wrapped

    _output_layer(model).register_forward_hook(hook)
    scorer = _scorer(model)
    for name in _SCORING_FUNCTIONS:
        if hasattr(scorer, name):
            setattr(scorer, name, while_scoring(getattr(scorer, name)))


def keep_coverage_apart(model: nn.Module) -> None:
    """Lets each hypothesis of a beam have a coverage of its own, for the rest of the model's life.

    ESPnet's attention with coverage appends each step's weights to the list that it is given. In ESPnet2's beam search
    all hypotheses hold the same list, so that each would take for covered what the others attended to; ESPnet1's copied
    it. Here the attention gets a copy.
    """

    def copy_list(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(list(value) if isinstance(value, list) else value for value in inputs)

    for module in model.modules():
        if isinstance(module, _ATTENTIONS.AttCov | _ATTENTIONS.AttCovLoc):
            module.register_forward_pre_hook(copy_list)


def keep_within_frames(search: Any) -> None:
    """Lets no hypothesis have more tokens than there are encoded frames, for the rest of the beam search's life.

    With so many tokens CTC has nothing left; where ``maxlenratio`` allows for more, ESPnet's beam search goes on, and
    its CTC scorer ends with an IndexError. Without CTC, or at most so many, nothing is changed.

    Args:
        search: ESPnet's beam search; one that has no CTC scorer, or is none, is left alone.
    """

    def limit(module: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> Any:
        frames, ratio = len(options["x"]), options["maxlenratio"]
        longest = -ratio if ratio < 0 else ratio * frames
        return inputs, {**options, "maxlenratio": 1.0} if longest > frames else options

    if "ctc" in getattr(search, "part_scorers", ()):
        search.register_forward_pre_hook(limit, with_kwargs=True)


class Speech2Text(asr_inference.Speech2Text):
    """ESPnet's ``Speech2Text`` with a choice of how outputs become probabilities.

    Args:
        *args, **kwargs: of ESPnet's.
        method: one of :data:`sqloss_plugins.probability.METHODS`; None for the usual one of the loss that the model
            was trained with.
        temperature: T, for the method ``temperature``.

    Raises:
        UserError: files that do not exist, are damaged, or do not belong together; a method that the model cannot have.
    """

    def __init__(self, *args: Any, method: str | None = None, temperature: float | None = None, **kwargs: Any) -> None:
        from sqloss_plugins.espnet.registration import register  # which needs what is above

        for task in ("asr", "lm"):
            register(task)
        given = {**dict(zip(("asr_train_config", "asr_model_file"), args, strict=False)), **kwargs}
        config, model_file = given.get("asr_train_config"), given.get("asr_model_file")
        with told_of_files((config, model_file), (given.get("lm_train_config"), given.get("lm_file"))):
            super().__init__(*args, **kwargs)
        # ESPnet renames parameters of some other models.
        if _is_ours(self.asr_model) and config and model_file and not given.get("quantize_asr_model"):
            check_fit(self.asr_model, read_state(Path(model_file)), Path(config), Path(model_file))
        keep_coverage_apart(self.asr_model)
        keep_within_frames(self.beam_search)
        self.method = method or methods_of(self.asr_model)[0]
        use_method(self.asr_model, self.method, temperature)

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
