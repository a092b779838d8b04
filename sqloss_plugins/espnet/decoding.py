"""Log-probabilities for beam search out of a decoder that was trained with the square loss.

ESPnet's decoders apply ``log_softmax`` to their output layer inside their scoring functions. A forward hook on that
layer returns normalised log-probabilities instead of outputs while such a function runs: ``log_softmax`` leaves those
as they are. Teacher-forced outputs, and the state_dict, are not touched.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from espnet2.asr.decoder.rnn_decoder import initial_att
from espnet2.bin import asr_inference
from torch import Tensor, nn

from sqloss_plugins.errors import UserError
from sqloss_plugins.espnet.model_files import load_state, read_config, read_state, told_of_files
from sqloss_plugins.losses import LOSSES
from sqloss_plugins.paper import Rescaling
from sqloss_plugins.probability import METHODS, log_probabilities

OUTPUT_LAYERS = ("output_layer", "output")  # the Transformer decoders' and the RNN decoder's
_OF_LANGUAGE_MODELS = ("lm_head", "decoder")  # OPT's, whose decoder is the network; and the others'
_ATTENTIONS = importlib.import_module(initial_att.__module__)  # ESPnet 202611 has it in another place than 202511
_CHANGED_MODELS = ("quantize_asr_model", "quantize_s2t_model", "hugging_face_decoder")  # with other parameters then
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


def _output_layer(scorer: nn.Module, names: tuple[str, ...]) -> str:
    """The name of the output layer of what beam search asks."""
    for name in names:
        if isinstance(getattr(scorer, name, None), nn.Module):
            return name
    raise UserError(f"the decoder {type(scorer).__name__} has no method but softmax: give --method softmax")


def _output_layer_names(model: nn.Module) -> tuple[str, ...]:
    return _OF_LANGUAGE_MODELS if hasattr(model, "lm") else OUTPUT_LAYERS


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
    return _conversion(getattr(model, "rescaling", None), method, temperature)


def _conversion(rescaling: Rescaling | None, method: str, temperature: float | None) -> Callable[[Tensor], Tensor]:
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
    scorer = _scorer(model)
    name = _output_layer(scorer, _output_layer_names(model))
    layer = getattr(scorer, name)
    # Not by a hook: copies of a model on several GPUs (DataParallel) have their hooks in common, but not their layers.
    setattr(scorer, name, _Converted(layer, log_probabilities_of(model, method, temperature)))
    try:
        yield
    finally:
        setattr(scorer, name, layer)


class _Converted(nn.Module):
    """An output layer that returns log-probabilities."""

    def __init__(self, layer: nn.Module, convert: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer = layer
        self.convert = convert

    def forward(self, hidden: Tensor) -> Tensor:
        return self.convert(self.layer(hidden))


class _Hook:
    """Of an output layer: log-probabilities while one of the scoring functions runs."""

    def __init__(self, convert: Callable[[Tensor], Tensor]) -> None:
        self.convert = convert
        self.depth = 0  # scoring functions call each other

    def __call__(self, module: nn.Module, inputs: Any, outputs: Tensor) -> Tensor | None:
        return self.convert(outputs) if self.depth else None


class _WhileScoring:
    """A scoring function that tells the hook when it runs.

    An object, and no function inside of another, so that a copy of the model, which quantisation makes, calls the
    copy's scoring function.
    """

    def __init__(self, function: Callable[..., Any], hook: _Hook) -> None:
        functools.update_wrapper(self, function)  # ESPnet looks at its parameters
        self.function = function
        self.hook = hook

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.hook.depth += 1
        try:
            return self.function(*args, **kwargs)
        finally:
            self.hook.depth -= 1


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
    _convert_while_scoring(_scorer(model), _output_layer_names(model), convert)
    if getattr(model, "use_multidecoder", False):  # translation of what another decoder recognises first
        for name, rescaling in getattr(model, "further_rescalings", {}).items():
            further = _conversion(rescaling, method, temperature)
            _convert_while_scoring(getattr(model, name), OUTPUT_LAYERS, further)


def _convert_while_scoring(
    scorer: nn.Module, output_layers: tuple[str, ...], convert: Callable[[Tensor], Tensor]
) -> None:
    hook = _Hook(convert)
    getattr(scorer, _output_layer(scorer, output_layers)).register_forward_hook(hook)
    for name in _SCORING_FUNCTIONS:
        if hasattr(scorer, name):
            setattr(scorer, name, _WhileScoring(getattr(scorer, name), hook))


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
    if "ctc" not in getattr(search, "part_scorers", ()):
        return

    def limit(module: Any, inputs: tuple[Any, ...], options: dict[str, Any]) -> Any:
        given = inspect.signature(module.forward).bind(*inputs, **options).arguments
        source, ratio = given["x"] if given.get("pre_x") is None else given["pre_x"], given.get("maxlenratio", 0.0)
        longest = -ratio if ratio < 0 else ratio * len(source)
        if source.dim() > 2 or longest <= len(source):
            return None
        return (), {**given, "maxlenratio": 1.0}

    search.register_forward_pre_hook(limit, with_kwargs=True)
    bounds = getattr(search, "_length_bounds", None)
    if bounds is not None:  # ESPnet 202611's, of several utterances at a time

        def limited(frames: list[int], *ratios: float) -> tuple[list[int], list[int]]:
            longest, shortest = bounds(frames, *ratios)
            return [min(pair) for pair in zip(longest, frames, strict=True)], shortest

        search._length_bounds = limited


def check_loaded(model: Any, arguments: Mapping[str, Any]) -> None:
    """Refuses a model of this package that was made of two files that do not fit.

    ESPnet takes a file that lacks parameters, and leaves those random. Its own models are left to it, because it
    renames parameters of some; and so are models with adapters, whose files may have no more than these.

    Args:
        model: that was made.
        arguments: of ESPnet's class that decodes, such as ``asr_train_config`` and ``asr_model_file``.

    Raises:
        UserError: parameters are missing, are too many, or have another shape.
    """
    if not _is_ours(model) or any(arguments.get(name) for name in _CHANGED_MODELS):
        return
    for name, config in arguments.items():
        model_file = arguments.get(name.replace("_train_config", "_model_file"))
        if (
            name.endswith("_train_config")
            and config
            and model_file
            and not read_config(Path(config)).get("use_adapter")
        ):
            load_state(model, read_state(Path(model_file)), Path(config), Path(model_file))


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
        check_loaded(self.asr_model, given)
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
