"""New models on words in a script for the Trainer: their options, their defaults, and how one is made."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from sqloss_plugins.errors import UserError
from sqloss_plugins.hf.options import check_at_least, refuse_given
from sqloss_plugins.hf.task import TaskArguments
from sqloss_plugins.models import ARCHITECTURES, OF_ONE_TEXT
from sqloss_plugins.models.pairs import WordModel
from sqloss_plugins.models.words import WordVectors, longest, read_word_vectors, set_word_vectors, train_tokenizer
from sqloss_plugins.paper import hyperparameters

WORD_MODELS = frozenset(entry.config.model_type for entry in ARCHITECTURES.values())
"""Names by which configurations tell the models on words."""

PRE_TRAINED = "bert"
_STAND_IN = "mrpc"
"""The paper's task whose values are the defaults for tasks that it does not have."""

_SIZES = ("word_vectors", "embedding_size", "hidden_size", "dropout")
_OF_PRE_TRAINED = ("model_name_or_path", "config_name", "tokenizer_name", "ignore_mismatched_sizes")


@dataclass
class WordModelArguments(TaskArguments):
    """Which architecture, and the size of a new model."""

    arch: str = field(
        default=PRE_TRAINED,
        metadata={
            "help": "bert: the pre-trained model of --model_name_or_path, of whatever architecture. The others are new "
            f"models for pairs of texts: {'; '.join(f'{name}, {it.about}' for name, it in ARCHITECTURES.items())}.",
            "choices": [PRE_TRAINED, *ARCHITECTURES],
        },
    )
    word_vectors: str | None = field(
        default=None,
        metadata={
            "help": "New model: text file of word vectors, GloVe's or fastText's, for words of the training text. The "
            "other words' vectors are random."
        },
    )
    # These have no value with --arch bert.
    embedding_size: int | None = field(
        default=None, metadata={"help": "New model: width of random word vectors; those of a file have theirs."}
    )
    hidden_size: int | None = field(default=None, metadata={"help": "New model: width of its LSTMs."})
    dropout: float | None = field(default=None, metadata={"help": "New model: dropout."})


def word_model_defaults(args: WordModelArguments, task: str | None, loss: str) -> dict[str, Any]:
    """Defaults for ``--arch`` and a loss: the paper's (Table 10) for the task, for other tasks those for MRPC.

    Mini data has some of its own where the paper's do not suit so few examples.
    """
    entry = ARCHITECTURES[args.arch]
    values = hyperparameters(task or "", args.arch, loss) or hyperparameters(_STAND_IN, args.arch, loss)
    assert values is not None, f"the paper's tables lack {_STAND_IN} with {args.arch}"
    return {
        **entry.training,
        "learning_rate": values.learning_rate,
        "num_train_epochs": float(values.epochs or 0),
        "per_device_train_batch_size": values.batch_size,
        "max_seq_length": values.max_length,
        "dropout": values.dropout,
        "embedding_size": None if args.word_vectors else entry.config().embedding_size,
        "hidden_size": entry.config().hidden_size,
        **(entry.mini if args.mini else {}),
    }


def check_word_model(args: WordModelArguments, given: Collection[str], do_train: bool) -> None:
    """Refuses options that are not those of ``--arch``.

    Raises:
        UserError: for the first that is found.
    """
    if args.arch == PRE_TRAINED:
        refuse_given(given, _SIZES, f"is of a new model, and --arch is {PRE_TRAINED}")
        return
    refuse_given(given, _OF_PRE_TRAINED, f"is of a pre-trained model, and --arch {args.arch} is a new one")
    if not do_train:
        raise UserError(
            f"--arch {args.arch} is a new model, which has to be trained; a trained one is scored by "
            "--model_name_or_path with its folder, without --arch"
        )
    check_at_least(1, args, "embedding_size", "hidden_size")
    if args.dropout is not None and not 0.0 <= args.dropout < 1.0:
        raise UserError(f"--dropout must be at least 0 and less than 1, got {args.dropout:g}")
    if args.word_vectors is not None:
        refuse_given(given, ["embedding_size"], "is what --word_vectors decides")
        if not Path(args.word_vectors).is_file():
            raise UserError(f"--word_vectors {args.word_vectors} is no file")


def new_word_model(
    args: WordModelArguments,
    texts: Callable[[], Iterable[str]],
    longest_text: int | None,
    about_labels: dict[str, Any],
) -> tuple[WordModel, PreTrainedTokenizerBase]:
    """A new model of ``--arch``, with random weights, and its tokenizer.

    Args:
        args: the options.
        texts: gives the training texts.
        longest_text: how many words of each text are kept; None for as many as the longest has.
        about_labels: what the configuration says of the labels.

    Raises:
        UserError: the training texts have no words; or word vectors that cannot be read, or are of other words.
    """
    entry, tokenizer = {**ARCHITECTURES, **OF_ONE_TEXT}[args.arch], train_tokenizer(texts())
    words = set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)
    if not words:
        raise UserError("there are no words in the training texts")
    vectors: WordVectors | None = None
    if args.word_vectors is not None:
        vectors = read_word_vectors(Path(args.word_vectors), words)
    model = entry.model(
        entry.config(
            vocab_size=len(tokenizer),
            embedding_size=vectors.size if vectors else args.embedding_size,
            hidden_size=args.hidden_size,
            dropout=args.dropout,
            longest_text=longest_text or longest(tokenizer, texts()),
            train_embeddings=vectors is None or entry.trains_word_vectors,
            words_with_vectors=len(vectors.rows) if vectors else 0,
            pad_token_id=tokenizer.pad_token_id,
            **about_labels,
        )
    )
    set_word_vectors(model.embedding, tokenizer, vectors)
    return model, tokenizer
