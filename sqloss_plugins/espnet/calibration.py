"""How well each way from outputs to probabilities fits a trained model, teacher-forced on held-out speech."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import soundfile
import torch
from espnet2.tasks.asr import ASRTask
from espnet2.torch_utils.device_funcs import to_device
from torch import Tensor

from sqloss_plugins.errors import RunError, UserError
from sqloss_plugins.espnet.decoding import methods_of
from sqloss_plugins.espnet.model_files import load_model
from sqloss_plugins.probability import TEMPERATURES, log_probabilities


class TeacherForced(NamedTuple):
    """What the attention decoder puts out for utterances whose tokens it is told.

    Attributes:
        names: of the utterances.
        lengths: how many rows are of each; the last of them is the end of the sentence.
        outputs: floating point, shape (rows, C).
        targets: int64, shape (rows,).
    """

    names: list[str]
    lengths: list[int]
    outputs: Tensor
    targets: Tensor


def teacher_forced_outputs(
    model: Any, train_args: Any, data_dir: Path, batch_size: int, device: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """Outputs, shape (tokens, C), and targets, shape (tokens,), of the attention decoder, batch by batch."""
    for batch in teacher_forced(model, train_args, data_dir / "wav.scp", data_dir / "text", batch_size, device):
        yield batch.outputs, batch.targets


def teacher_forced(
    model: Any, train_args: Any, wav_scp: Path, text: Path, batch_size: int, device: str, kind: str = "text"
) -> Iterator[TeacherForced]:
    """The attention decoder's outputs, batch by batch.

    Args:
        model, train_args: made by :func:`sqloss_plugins.espnet.model_files.load_model`.
        wav_scp: names of the utterances with their audio.
        text: the same names, in the same order, each with what the decoder is told.
        batch_size: utterances at a time.
        device: PyTorch's name of it.
        kind: ``text`` for words, ``text_int`` for the numbers of tokens.
    """
    loader = ASRTask.build_streaming_iterator(
        [(str(wav_scp), "speech", "sound"), (str(text), "text", kind)],
        dtype="float32",
        batch_size=batch_size,
        preprocess_fn=ASRTask.build_preprocess_fn(train_args, False),
        collate_fn=ASRTask.build_collate_fn(train_args, False),
        inference=False,
    )
    for names, batch in loader:
        order = batch["speech_lengths"].argsort(descending=True)  # as recurrent encoders want it
        batch = to_device({name: value[order] for name, value in batch.items()}, device)
        encoded, lengths = model.encode(batch["speech"], batch["speech_lengths"])
        if isinstance(encoded, tuple):
            encoded = encoded[0]
        told, text_lengths = batch["text"].long(), batch["text_lengths"]
        inputs = torch.cat([told.new_full((len(told), 1), model.sos), told.clamp(min=0)], dim=1)
        outputs, _ = model.decoder(encoded, lengths, inputs, text_lengths + 1)
        targets = torch.cat([told, told.new_full((len(told), 1), -1)], dim=1)
        targets.scatter_(1, text_lengths[:, None], model.eos)
        kept = torch.arange(targets.shape[1], device=targets.device) <= text_lengths[:, None]
        names = [names[i] for i in order.tolist()]
        yield TeacherForced(names, (text_lengths + 1).tolist(), outputs[kept].float(), targets[kept])


def check_data_dir(data_dir: Path) -> None:
    """Refuses a folder whose ``wav.scp`` and ``text`` are missing, empty or do not fit together.

    Raises:
        UserError: in one sentence.
    """
    values: dict[str, dict[str, str]] = {}
    for name in ("wav.scp", "text"):
        try:
            lines = (data_dir / name).read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"{data_dir / name} cannot be read: {reason}") from error
        pairs = (line.strip().partition(" ") for line in lines if line.strip())
        values[name] = {key: value.strip() for key, _, value in pairs}
        if not values[name]:
            raise UserError(f"{data_dir / name} is empty: there is nothing to calibrate on")
    single = sorted(values["wav.scp"].keys() ^ values["text"].keys())
    if single:
        raise UserError(f"the utterance {single[0]} is in one of wav.scp and text alone, in {data_dir}")
    for key, path in values["wav.scp"].items():
        if not Path(path).is_file():
            raise UserError(f"{data_dir / 'wav.scp'} names {path} for {key}, and there is no such file")


class _Sums:
    """Sums over tokens of one way to probabilities."""

    def __init__(self, method: str, k: float = 1.0, M: float = 1.0, temperature: float = 1.0) -> None:
        self.method, self.k, self.M, self.temperature = method, k, M, temperature
        self.nll = self.confidence = 0.0

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        logs = log_probabilities(outputs, self.method, k=self.k, M=self.M, temperature=self.temperature)
        self.nll -= float(logs.gather(1, targets[:, None]).sum())
        self.confidence += float(logs.amax(1).exp().sum())


@torch.inference_mode()
def calibrate(config: Path, model_file: Path, data_dir: Path, batch_size: int, device: str) -> dict[str, Any]:
    """Likelihood and confidence by method, accuracy, and the temperature with which softmax(f / T) is most likely.

    Args:
        config, model_file: of the trained model.
        data_dir: folder with ``wav.scp`` and ``text``.
        batch_size: utterances at a time.
        device: PyTorch's name of it.

    Returns:
        ``parameters`` (how many the model has), ``tokens``, ``accuracy``, ``temperature``, and by method the mean
        ``nll`` (in nats) and ``confidence`` of a token.

    Raises:
        UserError: files that are missing, damaged, or do not belong together; a model without an attention decoder.
        RunError: the model's outputs are not numbers.
    """
    check_data_dir(data_dir)
    model, train_args = load_model(config, model_file, device)
    if model.decoder is None or not hasattr(model, "criterion_att"):  # of CTC alone, a transducer
        raise UserError(f"{model_file} has no attention decoder, whose outputs could become probabilities")
    k, M = (model.rescaling.k, model.rescaling.M) if getattr(model, "rescaling", None) else (1.0, 1.0)
    methods = [_Sums(name, k=k, M=M) for name in methods_of(model) if name != "temperature"]
    temperatures = [_Sums("temperature", temperature=value) for value in TEMPERATURES]
    count = right = 0
    try:
        for outputs, targets in teacher_forced_outputs(model, train_args, data_dir, batch_size, device):
            count += len(targets)
            right += int((outputs.argmax(1) == targets).sum())
            for sums in (*methods, *temperatures):
                sums.add(outputs, targets)
    except (OSError, soundfile.LibsndfileError) as error:
        reason = str(error.args[0]).strip().rpartition("\n")[2]  # of a data loader's process: behind its traceback
        raise UserError(f"the audio of {data_dir / 'wav.scp'} cannot be read: {reason}") from error
    if not all(math.isfinite(sums.nll) for sums in methods):
        raise RunError(f"the outputs of {model_file} are not numbers: its training diverged")
    best = min(temperatures, key=lambda sums: sums.nll)
    found = {sums.method: sums for sums in (*methods, best)}
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "tokens": count,
        "accuracy": right / count,
        "temperature": best.temperature,
        "nll": {name: sums.nll / count for name, sums in found.items()},
        "confidence": {name: sums.confidence / count for name, sums in found.items()},
    }
