"""Error rates of words, characters and phones."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sqloss_plugins.errors import UserError
from sqloss_plugins.metrics import Edits, count_edits

ERROR_RATES = ("wer", "cer", "per")
"""The metrics that a recipe may name. The token and sentence error rates come by themselves."""


def read_text(path: Path) -> dict[str, str]:
    """ESPnet's ``text``: utterance -> words, which may be none."""
    lines = path.read_text(encoding="utf-8").split("\n")
    return {name: text.strip() for name, _, text in (line.partition(" ") for line in lines if line)}


def read_folding(path: Path) -> dict[str, str]:
    """A file with a token and what it counts as in each line, or with a token alone that is left out.

    Raises:
        UserError: it cannot be read, or has another form.
    """
    try:
        lines = [line.split() for line in path.read_text(encoding="utf-8").split("\n")]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"folding: {path} cannot be read: {error}") from error
    for number, words in enumerate(lines, start=1):
        if len(words) > 2:
            raise UserError(f"folding: {path} line {number} has more than a token and what it counts as")
    return {words[0]: words[1] if len(words) == 2 else "" for words in lines if words}


def fold(text: str, folding: Mapping[str, str]) -> str:
    """The text with its tokens folded."""
    return " ".join(word for word in (folding.get(word, word) for word in text.split()) if word) if folding else text


def count_errors(
    references: Mapping[str, str],
    hypotheses: Mapping[str, str],
    metrics: Sequence[str],
    folding: Mapping[str, str] | None = None,
    tokenize: Callable[[str], Sequence[str]] | None = None,
) -> dict[str, Edits]:
    """Errors over all utterances together, by metric.

    Args:
        references, hypotheses: utterance -> text.
        metrics: of :data:`ERROR_RATES`.
        folding: which tokens count as which.
        tokenize: cuts a text into tokens that have no spaces in them; with it ``ter`` is counted as well.

    Raises:
        UserError: the two do not have the same utterances.
    """
    missing = sorted(references.keys() ^ hypotheses.keys())
    if missing:
        raise UserError(f"{len(missing)} utterances have only one of reference and hypothesis, such as {missing[0]}")
    names = sorted(references)
    said, heard = ([fold(texts[name], folding or {}) for name in names] for texts in (references, hypotheses))
    found = {metric: count_edits(metric, heard, said) for metric in metrics}
    if tokenize:
        heard, said = ([" ".join(tokenize(text)) for text in texts] for texts in (heard, said))
        found["ter"] = count_edits("ter", heard, said)
    return found


def word_auroc(
    references: Mapping[str, str],
    hypotheses: Mapping[str, str],
    confidence: Mapping[str, Sequence[float]],
    folding: Mapping[str, str] | None = None,
) -> float:
    """How well its confidence tells a right word of the hypotheses from a wrong one: the area under the ROC curve.

    A word is right where jiwer's alignment has it equal to one of the reference.

    Args:
        references, hypotheses: utterance -> text.
        confidence: utterance -> a number for each word of the hypothesis.
        folding: which tokens count as which; of those that are left out the confidence does not count.

    Returns:
        From 0 to 1; nan where all words are right, or all are wrong.

    Raises:
        UserError: an utterance has not as many numbers as words.
    """
    import jiwer
    import torch
    from torchmetrics.functional.classification import binary_auroc

    kept: list[float] = []
    names = sorted(hypotheses)
    for name in names:
        words = hypotheses[name].split()
        numbers = confidence.get(name, ())
        if len(words) != len(numbers):
            raise UserError(f"{name} has {len(words)} words and the confidence of {len(numbers)}: begin with --stage 7")
        kept += [value for word, value in zip(words, numbers, strict=True) if fold(word, folding or {})]
    said, heard = ([fold(texts[name], folding or {}) for name in names] for texts in (references, hypotheses))
    right: list[int] = []
    for text, chunks in zip(heard, jiwer.process_words(said, heard).alignments, strict=True):
        is_right = [0] * len(text.split())
        for chunk in chunks:
            if chunk.type == "equal":
                is_right[chunk.hyp_start_idx : chunk.hyp_end_idx] = [1] * (chunk.hyp_end_idx - chunk.hyp_start_idx)
        right += is_right
    if len(set(right)) < 2:
        return math.nan
    return float(binary_auroc(torch.tensor(kept, dtype=torch.float64), torch.tensor(right)))
