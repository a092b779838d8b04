"""How many frames the encoder makes of audio, and the transcripts that are too long for CTC with so many.

CTC puts a token on a frame, and a blank between two equal tokens: an utterance with more of them than frames has an
infinite loss. ESPnet's CTC (``zero_infinity``) counts that as 0, without a gradient and without a word, so that such an
utterance trains the attention branch alone.
"""

from __future__ import annotations

import argparse
import inspect
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from espnet2.tasks.asr import encoder_choices, frontend_choices

from sqloss_plugins.errors import UserError, listed
from sqloss_plugins.espnet.recipe.error_rates import read_text
from sqloss_plugins.espnet.recipe.paths import DataFolder
from sqloss_plugins.espnet.recipe.preparation import UNKNOWN, tokenizer

# Kernel and stride in time of ESPnet's layers that subsample.
_INPUT_LAYERS = {
    "conv1d1": ((3, 1), (3, 1)),
    "conv1d2": ((3, 1), (3, 2)),
    "conv1d3": ((3, 1), (5, 3)),
    "conv2d1": ((3, 1), (3, 1)),
    "conv2d2": ((3, 2), (3, 1)),
    "conv2d": ((3, 2), (3, 2)),
    "conv2d6": ((3, 2), (5, 3)),
    "conv2d8": ((3, 2), (3, 2), (3, 2)),
}
_VGG = ((1, 2), (1, 2))  # its pooling rounds up


@dataclass(frozen=True)
class Subsampling:
    """From samples to frames of the encoder.

    Attributes:
        hop_length: samples from one frame of the features to the next.
        layers: kernel and stride of each layer that subsamples.
    """

    hop_length: int
    layers: Sequence[tuple[int, int]]

    def frames(self, samples: int) -> int:
        """The encoder's frames of an utterance alone; padded in a batch it may have one more."""
        frames = 1 + samples // self.hop_length
        for kernel, stride in self.layers:
            frames = max(0, (frames - kernel) // stride + 1)
        return frames

    @property
    def fewest_samples(self) -> int:
        """With fewer ESPnet's encoders refuse an utterance, as it would have no frame (its ``check_short_utt``)."""
        frames = 1
        for kernel, stride in reversed(self.layers):
            frames = (frames - 1) * stride + kernel
        return max(1, (frames - 1) * self.hop_length)


def subsampling(espnet: argparse.Namespace) -> Subsampling | None:
    """The subsampling of a model; None where it is not known.

    Args:
        espnet: the arguments of the training, as ESPnet reads them.
    """
    usual_of_frontend, usual = (
        {name: found.default for name, found in inspect.signature(choice).parameters.items()}
        for choice in (frontend_choices.classes["default"], encoder_choices.classes[espnet.encoder])
    )
    frontend, encoder = {**usual_of_frontend, **espnet.frontend_conf}, {**usual, **espnet.encoder_conf}
    layers: Sequence[tuple[int, int]]
    if espnet.encoder == "rnn":
        strides = list(encoder["subsample"] or ())[: encoder["num_layers"]] if encoder["use_projection"] else []
        layers = [(stride - 1, stride) for stride in strides if stride > 1]
    elif espnet.encoder == "vgg_rnn":
        layers = _VGG
    else:
        layers = _INPUT_LAYERS.get(str(encoder.get("input_layer")), ())
    if espnet.frontend != "default" or not frontend["center"] or not (layers or espnet.encoder == "rnn"):
        return None
    return Subsampling(frontend["hop_length"], layers)


def frames_for_ctc(tokens: Sequence[str]) -> int:
    """The fewest frames on which CTC can put the tokens."""
    return len(tokens) + sum(before == after for before, after in itertools.pairwise(tokens))


def check_for_ctc(train: str, dev: str, data: DataFolder, found: Subsampling, ctc_conf: Mapping[str, Any]) -> None:
    """Says which transcripts are too long for CTC, and how many; nothing is left out.

    Args:
        train, dev: names of the subsets; of one that was prepared without lengths nothing is known.
        data: where they are, with their tokens.
        found: the encoder's subsampling.
        ctc_conf: ESPnet's.

    Raises:
        UserError: all training utterances, of which CTC would learn nothing, or any where infinite losses are not set
            to 0.
    """
    known, tokenize = set(data.tokens), tokenizer(data).text2tokens
    for subset in (train, dev):
        path = data.lengths_file(subset)
        lengths = read_text(path) if path.is_file() else {}
        texts = read_text(data.subset(subset) / "text")
        long: list[str] = []
        for name, samples in lengths.items():
            tokens = [token if token in known else UNKNOWN for token in tokenize(texts[name])]
            needed, frames = frames_for_ctc(tokens), found.frames(int(samples))
            if needed > frames:
                long.append(f"{name} ({needed} for {frames})")
        if not long:
            continue
        what = (
            f"{len(long)} of {len(lengths)} utterance(s) of {subset} have more tokens than CTC can put on the "
            f"encoder's frames: {listed(long)}"
        )
        zeroed = ctc_conf.get("ignore_nan_grad")
        is_zeroed = ctc_conf.get("zero_infinity", True) if zeroed is None else zeroed
        if not is_zeroed or (subset == train and len(long) == len(lengths)):
            raise UserError(
                f"{what}: choose an encoder that subsamples less, longer tokens, or --model_conf ctc_weight=0"
                + ("" if is_zeroed else "; or let ctc_conf have zero_infinity: true")
            )
        print(f"  note: {what}; they train the attention branch alone", flush=True)
