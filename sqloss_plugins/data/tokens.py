"""A text's tokens as the examples of a language model: blocks or lines, and those of them that are to be predicted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MASK_SEED = 0
"""The masks of held-out text are the same in every run, whatever its own seed is."""


def token_blocks(
    rows: Dataset, tokenizer: PreTrainedTokenizerBase, size: int, special_tokens: bool = False
) -> Iterator[list[int]]:
    """A split of :class:`~sqloss_plugins.data.text.TextData` as blocks; last of all what is left over, if anything is.

    Args:
        rows: the split.
        tokenizer: what makes tokens of it.
        size: tokens of a block.
        special_tokens: whether every line gets the special tokens that the tokenizer puts around a text. If there are
            any, lines without text are left out.
    """
    ids: list[int] = []
    leaves_out = special_tokens and tokenizer.num_special_tokens_to_add() > 0
    for batch in rows.iter(1000):
        texts = [text for text in batch["text"] if not (leaves_out and text.isspace())]
        if texts:
            encoded = tokenizer(texts, add_special_tokens=special_tokens, verbose=False)
            ids += chain.from_iterable(encoded["input_ids"])
        whole = len(ids) // size * size
        for start in range(0, whole, size):
            yield ids[start : start + size]
        ids = ids[whole:]
    if ids:
        yield ids


def token_lines(rows: Dataset, tokenizer: PreTrainedTokenizerBase, size: int) -> Iterator[list[int]]:
    """The lines of a split that have text in them, with special tokens, cut off after ``size`` tokens."""
    for batch in rows.iter(1000):
        texts = [text for text in batch["text"] if not text.isspace()]
        if texts:
            yield from filter(None, tokenizer(texts, truncation=True, max_length=size)["input_ids"])


def causal_examples(rows: Dataset, tokenizer: PreTrainedTokenizerBase, size: int) -> Iterator[dict[str, list[int]]]:
    """Blocks, each of which is its own labels; what is left over at the end of the text is dropped."""
    for block in token_blocks(rows, tokenizer, size):
        if len(block) == size:
            yield {"input_ids": block, "labels": block}


def masked_examples(
    rows: Dataset, tokenizer: PreTrainedTokenizerBase, size: int, by_line: bool, probability: float | None
) -> Iterator[dict[str, list[int]]]:
    """Blocks or lines for a masked language model, masked already where they are held out.

    Args:
        rows, tokenizer, size: as for :func:`token_blocks`.
        by_line: lines, each an example, rather than blocks.
        probability: the share of the tokens that are masked, the same ones every time; None for training data, which
            is masked anew whenever it is read.
    """
    from transformers import DataCollatorForLanguageModeling

    if by_line:
        found = token_lines(rows, tokenizer, size)
    else:
        found = (block for block in token_blocks(rows, tokenizer, size, special_tokens=True) if len(block) == size)
    if probability is None:
        yield from ({"input_ids": ids} for ids in found)
        return
    mask = DataCollatorForLanguageModeling(tokenizer, mlm_probability=probability, seed=_MASK_SEED)
    for ids in found:
        batch = mask([{"input_ids": ids}])
        yield {name: batch[name][0].tolist() for name in ("input_ids", "labels")}


def column(rows: Dataset, name: str) -> Iterator[NDArray[np.int64]]:
    """All values of a column of lists, one after the other, those of some rows at a time; shape (values,)."""
    for batch in rows.iter(1000):
        yield np.fromiter(chain.from_iterable(batch[name]), np.int64)


def unigram_perplexity(counts: NDArray[np.int64], targets: Iterable[NDArray[np.int64]]) -> float:
    """What knowing each token's frequency alone gives.

    Args:
        counts: how often each token occurs in the training text, none of them 0; shape (C,).
        targets: the tokens that are predicted, some at a time, each of shape (n,).
    """
    logs = -np.log(counts / counts.sum())
    return float(np.exp(np.concatenate([logs[some] for some in targets]).mean()))
