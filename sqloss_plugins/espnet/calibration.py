"""How well each score fits a trained model's outputs, teacher-forced on held-out speech."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from espnet2.tasks.asr import ASRTask
from espnet2.torch_utils.device_funcs import to_device
from torch import Tensor

import sqloss_plugins.espnet  # noqa: F401
from sqloss_plugins.probability import SCALES, log_probabilities


def teacher_forced_outputs(
    model: Any, train_args: Any, data_dir: Path, batch_size: int, device: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """Outputs, shape (tokens, C), and targets, shape (tokens,), of the attention decoder, batch by batch."""
    loader = ASRTask.build_streaming_iterator(
        [(str(data_dir / "wav.scp"), "speech", "sound"), (str(data_dir / "text"), "text", "text")],
        dtype="float32",
        batch_size=batch_size,
        preprocess_fn=ASRTask.build_preprocess_fn(train_args, False),
        collate_fn=ASRTask.build_collate_fn(train_args, False),
        inference=False,
    )
    for _, batch in loader:
        order = batch["speech_lengths"].argsort(descending=True)  # as recurrent encoders want it
        batch = to_device({name: value[order] for name, value in batch.items()}, device)
        encoded, lengths = model.encode(batch["speech"], batch["speech_lengths"])
        if isinstance(encoded, tuple):
            encoded = encoded[0]
        text, text_lengths = batch["text"], batch["text_lengths"]
        inputs = torch.cat([text.new_full((len(text), 1), model.sos), text.clamp(min=0)], dim=1)
        outputs, _ = model.decoder(encoded, lengths, inputs, text_lengths + 1)
        targets = torch.cat([text, text.new_full((len(text), 1), -1)], dim=1)
        targets.scatter_(1, text_lengths[:, None], model.eos)
        kept = torch.arange(targets.shape[1], device=targets.device) <= text_lengths[:, None]
        yield outputs[kept].float(), targets[kept]


@torch.inference_mode()
def calibrate(config: Path, model_file: Path, data_dir: Path, batch_size: int, device: str) -> dict[str, Any]:
    """Likelihood and confidence by score, accuracy, and the scale with which softmax(s f) is most likely.

    Args:
        config, model_file: of the trained model.
        data_dir: folder with ``wav.scp`` and ``text``.
        batch_size: utterances at a time.
        device: PyTorch's name of it.

    Returns:
        ``parameters`` (how many the model has), ``tokens``, ``accuracy``, ``scale``, and by score the mean ``nll`` (in
        nats) and ``confidence`` of a token.
    """
    model, train_args = ASRTask.build_model_from_file(str(config), str(model_file), device)
    model.eval()
    rescaling = getattr(model, "rescaling", None)
    names = ["softmax", "link"] if rescaling else ["softmax"]
    k, M = (rescaling.k, rescaling.M) if rescaling else (1.0, 1.0)
    count = right = 0
    nll = dict.fromkeys(names, 0.0)
    confidence = dict.fromkeys(names, 0.0)
    by_scale, confidence_by_scale = [0.0] * len(SCALES), [0.0] * len(SCALES)
    for outputs, targets in teacher_forced_outputs(model, train_args, data_dir, batch_size, device):
        count += len(targets)
        right += int((outputs.argmax(1) == targets).sum())

        def measure(logs: Tensor, targets: Tensor = targets) -> tuple[float, float]:
            return -float(logs.gather(1, targets[:, None]).sum()), float(logs.amax(1).exp().sum())

        for name in names:
            loss, sure = measure(log_probabilities(outputs, name, k=k, M=M))
            nll[name] += loss
            confidence[name] += sure
        for i, scale in enumerate(SCALES):
            loss, sure = measure(log_probabilities(outputs, "scale", scale=scale))
            by_scale[i] += loss
            confidence_by_scale[i] += sure
    best = min(range(len(SCALES)), key=by_scale.__getitem__)
    nll["scale"], confidence["scale"] = by_scale[best], confidence_by_scale[best]
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "tokens": count,
        "accuracy": right / count,
        "scale": SCALES[best],
        "nll": {name: value / count for name, value in nll.items()},
        "confidence": {name: value / count for name, value in confidence.items()},
    }
