"""The last of stage 7: the decoder's outputs for the transcripts, and how sure it is of each word that was decoded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from sqloss_plugins.espnet.calibration import teacher_forced
from sqloss_plugins.espnet.confidence import kept_outputs, token_log_probabilities, word_confidence
from sqloss_plugins.espnet.decoding import log_probabilities_of
from sqloss_plugins.espnet.model_files import load_model
from sqloss_plugins.espnet.recipe.error_rates import read_text
from sqloss_plugins.espnet.recipe.paths import DataFolder, RunFolder, read_json
from sqloss_plugins.espnet.recipe.preparation import tokenizer
from sqloss_plugins.probability import METHODS, probabilities
from sqloss_plugins.results import OF_OUTPUTS, write_arrays, write_text

_BATCH = 8
_LONG = 60 * 16000  # samples; with longer utterances a batch has fewer


def batch_size(lengths: Path) -> int:
    """Utterances at a time: 8, and fewer where some are so long that a batch of them would not fit into memory.

    Args:
        lengths: a file with the number of samples of each utterance; it may be missing.
    """
    longest = max(map(int, read_text(lengths).values()), default=1) if lengths.is_file() else 1
    return max(1, min(_BATCH, _BATCH * _LONG // longest))


def measure_decoder(data: DataFolder, asr_exp: RunFolder, subsets: Sequence[str], device: str) -> None:
    """Keeps the decoder's outputs for these subsets, and the confidence of whatever words were decoded; once.

    Args:
        data: the subsets.
        asr_exp: the trained model and its hypotheses.
        subsets: of which the hypotheses are.
        device: PyTorch's name of it.
    """

    @cache
    def loaded() -> tuple[Any, Any]:
        print("  how sure the decoder is of tokens and words", flush=True)
        return load_model(asr_exp.config, asr_exp.model, device)

    for subset in subsets:
        path, folder, size = asr_exp.outputs(subset), data.subset(subset), batch_size(data.lengths_file(subset))
        if not path.is_file():
            batches = teacher_forced(*loaded(), folder / "wav.scp", folder / "text", size, device)
            outputs, targets = kept_outputs(batches)
            write_arrays(path, {"outputs": outputs.numpy(), "targets": targets.numpy()})
        for method in METHODS:
            decoded, path = asr_exp.decoded(subset, method), asr_exp.confidence(subset, method)
            if (decoded / "text").is_file() and not path.is_file():
                temperature = read_json(asr_exp.calibration)["temperature"] if method == "temperature" else None
                _write_confidence(data, folder / "wav.scp", decoded, path, *loaded(), method, temperature, size, device)


def _write_confidence(
    data: DataFolder,
    wav_scp: Path,
    decoded: Path,
    path: Path,
    model: Any,
    train_args: Any,
    method: str,
    temperature: float | None,
    size: int,
    device: str,
) -> None:
    """A line for each utterance: its name, and a number for each word of ``text`` beside it."""
    tokens = {name: text.split() for name, text in read_text(decoded / "1best_recog" / "token").items()}
    numbers = {
        name: list(map(int, text.split())) for name, text in read_text(decoded / "1best_recog/token_int").items()
    }
    convert = log_probabilities_of(model, method, temperature)
    logs = token_log_probabilities(model, train_args, read_text(wav_scp), numbers, convert, size, device)
    join = None if data.token_type == "phn" else tokenizer(data).tokens2text
    lines = []
    for name in sorted(tokens):
        confidence = word_confidence(tokens[name], logs.get(name, []), join)
        lines.append(" ".join([name, *(f"{value:.6g}" for value in confidence.tolist())]) + "\n")
    write_text(path, "".join(lines))


def tell_of_unmeasured(asr_exp: RunFolder, decoded: Iterable[tuple[str, str]]) -> None:
    """Names the sets of which the table of probabilities will be silent, as those are that were decoded before.

    Args:
        asr_exp: the run.
        decoded: subset and method.
    """
    lacking = {
        subset: None
        for subset, method in decoded
        if not (asr_exp.outputs(subset).is_file() and asr_exp.confidence(subset, method).is_file())
    }
    if lacking:
        print(f"  without all probabilities of {', '.join(lacking)}: --stage 7 measures them, and decodes nothing anew")


def read_outputs(asr_exp: RunFolder, splits: Mapping[str, str]) -> dict[str, tuple[Any, Any]]:
    """Split -> outputs, shape (tokens, C), and targets, shape (tokens,), of the subsets of which they were kept."""
    found = {}
    for subset, split in splits.items():
        if asr_exp.outputs(subset).is_file():
            with np.load(asr_exp.outputs(subset), allow_pickle=False) as arrays:
                found[split] = (arrays["outputs"], arrays["targets"])
    return found


def token_metrics(
    outputs: Any, targets: Any, methods: Sequence[str], k: float | None, M: float | None, temperature: float
) -> dict[str, dict[str, float]]:
    """By method: likelihood, Brier score and calibration error of the tokens; and their accuracy.

    Args:
        outputs, targets: made by :func:`read_outputs`.
        methods: those that fit the loss.
        k, M: of the loss; None for one that has neither.
        temperature: T of the method ``temperature``.
    """
    import torch

    from sqloss_plugins.metrics import compute

    options: dict[str, dict[str, Any]] = {"square": {"k": k, "M": M}, "temperature": {"temperature": temperature}}
    found = {OF_OUTPUTS: {"accuracy": float((outputs.argmax(1) == targets).mean())}}
    for method in methods:
        p = probabilities(torch.from_numpy(outputs).double(), method, **options.get(method, {})).numpy()
        found[method] = {name: compute(name, p, targets) for name in ("nll", "brier", "ece")}
    return found
