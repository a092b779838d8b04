"""How sure an attention decoder is of each word that was decoded, and of each token of a transcript."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sqloss_plugins.espnet.calibration import TeacherForced, teacher_forced

MOST_NUMBERS = 2**24
"""How many outputs are kept of a data set; 64 MiB."""


def word_numbers(tokens: Sequence[str], join: Callable[[Sequence[str]], str] | None) -> list[int]:
    """The word of each token, counted from 0; what ends a word, such as a space, belongs to it.

    Args:
        tokens: of one utterance.
        join: makes a text of tokens, with spaces between its words; None where each token is a word, as phones are.

    Returns:
        As many numbers as tokens; empty where they make no word.
    """
    if join is None:
        return list(range(len(tokens)))
    words = [len(join(tokens[: i + 1]).split()) for i in range(len(tokens))]
    return [max(number, 1) - 1 for number in words] if words and words[-1] else []


def word_confidence(
    tokens: Sequence[str], logs: Sequence[float], join: Callable[[Sequence[str]], str] | None
) -> Tensor:
    """The probability of each word, given the words before it: the product of those of its tokens.

    Args:
        tokens: of one utterance.
        logs: the natural logarithm of each token's probability.
        join: as in :func:`word_numbers`.

    Returns:
        float64, shape (words,).
    """
    numbers = word_numbers(tokens, join)
    if not numbers:
        return torch.zeros(0, dtype=torch.float64)
    sums = torch.zeros(numbers[-1] + 1, dtype=torch.float64)
    return sums.index_add(0, torch.tensor(numbers), torch.tensor(logs, dtype=torch.float64)).exp()


@torch.inference_mode()
def token_log_probabilities(
    model: Any,
    train_args: Any,
    audio: Mapping[str, str],
    hypotheses: Mapping[str, Sequence[int]],
    convert: Callable[[Tensor], Tensor],
    batch_size: int,
    device: str,
) -> dict[str, list[float]]:
    """The logarithm of the probability that the decoder gives each token of a hypothesis, given those before it.

    Args:
        model, train_args: made by :func:`sqloss_plugins.espnet.model_files.load_model`.
        audio: utterance -> what ``wav.scp`` has for it.
        hypotheses: utterance -> the numbers of its tokens, without the end of the sentence; those without tokens are
            left out.
        convert: from outputs to log-probabilities.
        batch_size: utterances at a time.
        device: PyTorch's name of it.
    """
    found: dict[str, list[float]] = {}
    names = [name for name, numbers in hypotheses.items() if numbers]
    if not names:
        return found
    with tempfile.TemporaryDirectory() as folder:
        wav_scp, tokens = Path(folder, "wav.scp"), Path(folder, "token_int")
        wav_scp.write_text("".join(f"{name} {audio[name]}\n" for name in names), encoding="utf-8")
        lines = (f"{name} {' '.join(map(str, hypotheses[name]))}\n" for name in names)
        tokens.write_text("".join(lines), encoding="utf-8")
        for batch in teacher_forced(model, train_args, wav_scp, tokens, batch_size, device, "text_int"):
            logs = torch.split(convert(batch.outputs).gather(1, batch.targets[:, None])[:, 0], batch.lengths)
            # The end of the sentence belongs to no word.
            found |= {name: of_one[:-1].tolist() for name, of_one in zip(batch.names, logs, strict=True)}
    return found


@torch.inference_mode()
def kept_outputs(batches: Iterator[TeacherForced], most: int = MOST_NUMBERS) -> tuple[Tensor, Tensor]:
    """The decoder's outputs and targets, of every token or of every second, fourth, ... where there are too many.

    Args:
        batches: made by :func:`sqloss_plugins.espnet.calibration.teacher_forced`.
        most: how many numbers to keep.

    Returns:
        float32, shape (tokens, C), and int64, shape (tokens,), on the CPU.
    """
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    count, stride = 0, 1
    for batch in batches:
        places = torch.arange(count, count + len(batch.targets))
        count += len(batch.targets)
        parts.append((places, batch.outputs.cpu(), batch.targets.cpu()))
        while -(-count // stride) * batch.outputs.shape[1] > most and stride < count:
            stride *= 2
        parts = [tuple(array[part[0] % stride == 0] for array in part) for part in parts]  # type: ignore[misc]
    return torch.cat([part[1] for part in parts]), torch.cat([part[2] for part in parts])
