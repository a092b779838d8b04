"""Words in the place of word pieces: a tokenizer made of a training text, and word vectors from a file."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from sqloss_plugins.errors import UserError
from sqloss_plugins.text_files import decoded_lines

PADDING, UNKNOWN = "[PAD]", "[UNK]"


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A tokenizer whose vocabulary is every word of some texts; every other word is ``[UNK]``.

    Words are as BERT has them before its word pieces: in lower case, cut at white space, and every punctuation mark and
    every Chinese character on its own. Of a pair, the words of the first text have token type 0, those of the second 1,
    and nothing is between them. Equal texts give equal tokenizers: words are in the order of frequency, then spelling.
    """
    tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.BertNormalizer(strip_accents=False, lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A:0", pair="$A:0 $B:1", special_tokens=[])
    trainer = trainers.WordLevelTrainer(
        vocab_size=2**31 - 1, special_tokens=[PADDING, UNKNOWN], show_progress=False, min_frequency=1
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PADDING,
        unk_token=UNKNOWN,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def encode_pairs(
    tokenizer: PreTrainedTokenizerBase, first: Sequence[str], second: Sequence[str], max_length: int | None
) -> dict[str, list[list[int]]]:
    """Pairs of texts as a model of pairs takes them: what the tokenizer gives, but each text is cut for itself.

    Args:
        tokenizer: of :func:`train_tokenizer`.
        first, second: as many texts.
        max_length: the words of a text that are kept; None for all.
    """
    halves = [
        [ids[:max_length] for ids in tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]]
        for texts in (first, second)
    ]
    rows: dict[str, list[list[int]]] = {"input_ids": [], "token_type_ids": [], "attention_mask": []}
    for a, b in zip(*halves, strict=True):
        padding = [] if a or b else [tokenizer.pad_token_id]  # a row has at least one column
        rows["input_ids"].append(a + b + padding)
        rows["token_type_ids"].append([0] * len(a) + [1] * len(b) + [0] * len(padding))
        rows["attention_mask"].append([1] * (len(a) + len(b)) + [0] * len(padding))
    return rows


def longest(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> int:
    """Words of the longest text, and at least 1."""
    found, texts = 1, iter(texts)
    while some := list(islice(texts, 1000)):
        found = max(found, *map(len, tokenizer(some, add_special_tokens=False, verbose=False)["input_ids"]))
    return found


@dataclass(frozen=True)
class WordVectors:
    """Word vectors for the words of a vocabulary.

    Attributes:
        rows: word -> vector, shape (size,), float32; only words that were asked for.
        size: width of a vector.
    """

    rows: dict[str, NDArray[np.float32]]
    size: int


def read_word_vectors(path: Path, words: Collection[str]) -> WordVectors:
    """Reads vectors from a text file as GloVe and fastText have them: a word and its numbers on each line.

    A first line of two whole numbers is fastText's: how many vectors there are, and how wide. A word may have spaces in
    it, as some of GloVe's have. Of a word that is there twice the first vector counts. The file is never in memory.

    Args:
        path: the file, UTF-8.
        words: those that are wanted, spelt as in the file.

    Raises:
        UserError: the file cannot be read, is empty, cut short or no such file, or has none of the words.
    """
    what = f"--word_vectors {path}"
    wanted = frozenset(words)
    rows: dict[str, NDArray[np.float32]] = {}
    announced: int | None = None
    size = number = 0
    for number, line in enumerate(decoded_lines(path, what), start=1):
        fields = line.strip("\r\n ").split(" ")
        if number == 1 and len(fields) == 2 and all(field.isdecimal() for field in fields):
            announced, size = int(fields[0]), int(fields[1])
            continue
        size = size or len(fields) - 1
        is_whole = len(fields) == size + 1 or (len(fields) > size + 1 and not _is_number(fields[-size - 1]))
        if size < 1 or not is_whole:
            raise UserError(f"{what}, line {number}: {_numbers(fields)} numbers, and a vector has {max(size, 1)}")
        word = fields[0] if len(fields) == size + 1 else " ".join(fields[:-size])
        if word in wanted and word not in rows:
            try:
                with np.errstate(over="ignore"):
                    rows[word] = np.array(fields[-size:], np.float32)
            except ValueError:
                rows[word] = np.full(size, np.nan, np.float32)
            if not np.isfinite(rows[word]).all():
                raise UserError(f"{what}, line {number}: not all of the {size} values of {word!r} are finite numbers")
    found = number - (announced is not None)
    if found < 1:
        raise UserError(f"{what} has no vectors in it")
    if announced is not None and found < announced:
        raise UserError(f"{what} is cut short: {found} of the {announced} vectors that its first line says")
    if not rows:
        raise UserError(f"{what} has none of the {len(wanted)} words of the training text: are they in lower case?")
    return WordVectors(rows, size)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _numbers(fields: Sequence[str]) -> int:
    """How many numbers a line ends with; its first field is a word whatever it looks like."""
    return next((i for i, field in enumerate(reversed(fields[1:])) if not _is_number(field)), len(fields) - 1)


@torch.no_grad()
def set_word_vectors(
    embedding: nn.Embedding, tokenizer: PreTrainedTokenizerBase, vectors: WordVectors | None = None
) -> None:
    """Puts word vectors into an embedding, and 0 for unknown words, of which training has none.

    Args:
        embedding: of the tokenizer's words, random. What has no vector stays so, but is scaled to the spread of those
            that have: Gaussian with the standard deviation of all their values.
        tokenizer: of :func:`train_tokenizer`.
        vectors: for some of its words, as wide as the embedding.
    """
    if vectors:
        embedding.weight *= float(np.std(list(vectors.rows.values())))
    embedding.weight[tokenizer.unk_token_id] = 0.0
    for word, row in (vectors.rows if vectors else {}).items():
        embedding.weight[tokenizer.convert_tokens_to_ids(word)] = torch.from_numpy(row)
