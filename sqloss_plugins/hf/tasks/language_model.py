"""Trains a language model on text files with the square loss, cross-entropy or squentropy.

    sqloss lm --mini
    sqloss lm --train_file text.txt --loss cross_entropy --learning_rate 3e-3
    sqloss lm --train_file text.txt --model_name_or_path gpt2
    sqloss lm --objective masked --train_file text.txt
    sqloss lm --do_predict --model_name_or_path runs/language_model/... --test_file new.txt
    sqloss lm settings.yaml

Without --train_file the text is the embedded one of --mini, Python's own reference, which is no benchmark.
From scratch: a GPT-2 of the given size, or with --objective masked a BERT, and a byte-level BPE trained on the training
text. With --model_name_or_path: that model and its tokenizer. Takes the options below (--objective masked --help shows
those of masked models) and all of transformers.TrainingArguments. --do_eval and --do_predict score a saved model, whose
loss is its own, on files alone.
A run that was killed goes on where it was when the same command is run again; a run that is finished is not repeated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sqloss_plugins.data.progress import MANY_BYTES, bar_if
from sqloss_plugins.data.text import TextData, load_files, load_mini, texts
from sqloss_plugins.data.tokens import causal_examples, column, token_blocks, unigram_perplexity
from sqloss_plugins.errors import UserError
from sqloss_plugins.hf import experiment
from sqloss_plugins.hf.hub import find_config
from sqloss_plugins.hf.language_models import ALPHABET, SPECIAL_TOKENS, load_model, new_config, train_tokenizer
from sqloss_plugins.hf.options import check_at_least, option, refuse_given
from sqloss_plugins.hf.task import Task, TaskArguments
from sqloss_plugins.hf.token_task import TokenTask
from sqloss_plugins.losses import LOSSES

_NEW_MODEL = {"vocab_size": 1024, "hidden_size": 128, "num_layers": 4, "num_heads": 4}
_LARGEST_VOCABULARY = 10_000_000  # the tokenizers make room for it beforehand


@dataclass
class LanguageModelArguments(TaskArguments):
    """The text, and the size of a new model."""

    objective: str = option(
        "causal: each token is predicted from those before it; masked: some are masked, and predicted from all others.",
        "causal",
        choices=["causal", "masked"],
    )
    train_file: str | None = option("Text to train on, UTF-8.")
    validation_file: str | None = option("Text to validate on. By default a tenth of the training text is held out.")
    test_file: str | None = option("Text to test on. By default a tenth of the training text is held out.")
    # These have no value with --model_name_or_path.
    vocab_size: int | None = option("New model: tokens of its BPE.")
    hidden_size: int | None = option("New model: its width.")
    num_layers: int | None = option("New model: its layers.")
    num_heads: int | None = option("New model: heads of a layer.")
    tie_word_embeddings: bool | None = option(
        "New model: its output layer has the weights of its embedding. By default it has, and with --prior_exponent, "
        "which needs a layer of its own, it has not."
    )


@dataclass
class CausalArguments(LanguageModelArguments):
    """How the text is cut."""

    block_size: int = option("Tokens of an example; the text is cut into such blocks.", 128)


class LanguageModel(TokenTask):
    """A causal language model on text, and what all objectives share.

    Attributes:
        objective: as ``--objective`` says.
        architecture: short name of a new model, without its size.
        length_option: the option that says how many tokens an example has at most.
        new_learning_rate: the default for a new model.
    """

    program = "sqloss lm"
    arguments: ClassVar[type[LanguageModelArguments]] = CausalArguments  # type: ignore[misc]
    not_decisive = ("train_file", "validation_file", "test_file")
    counts_classes = True
    metrics = ("perplexity",)
    likelihood = "perplexity"
    shift_labels = True
    of_new_model = (*_NEW_MODEL, "tie_word_embeddings")
    data: TextData
    name = "language_model"
    objective = "causal"
    architecture = "gpt2"
    length_option = "block_size"
    new_learning_rate: ClassVar[float] = 3e-3
    same_when_resumed = ("vocab_size", "block_size")

    @classmethod
    def chosen_by(cls, given: Mapping[str, str]) -> type[Task]:
        """By the objective; options of another one are refused."""
        from sqloss_plugins.hf.tasks.masked_language_model import MaskedLanguageModel

        kinds = {kind.objective: kind for kind in (LanguageModel, MaskedLanguageModel)}
        chosen = kinds.get(given.get("objective", ""), cls)
        own = {entry.name for entry in fields(chosen.arguments)}
        for objective, other in kinds.items():
            for entry in fields(other.arguments):
                if entry.name in given and entry.name not in own:
                    raise UserError(f"--{entry.name} is of --objective {objective}: leave it out, or give that")
        return chosen

    @classmethod
    def defaults(cls, args: Any, loss: str) -> dict[str, Any]:
        """Of a new model, or for fine-tuning."""
        is_new = args.model_name_or_path is None
        return {
            **super().defaults(args, loss),
            "learning_rate": cls.new_learning_rate if is_new else 5e-5,
            "num_train_epochs": 10.0 if is_new else 3.0,
            "per_device_train_batch_size": 8,
            "per_device_eval_batch_size": 32,
            "warmup_steps": 0.1 if is_new else 0,
            "without_logits": LOSSES[loss].of_linear_layer is not None and is_new,
            **(_NEW_MODEL if is_new else {}),
        }

    def check(self) -> None:
        """Refuses sizes that no model has, and files beside mini data."""
        super().check()
        args = self.args
        check_at_least(2, args, self.length_option)
        check_at_least(ALPHABET + len(SPECIAL_TOKENS[self.objective]), args, "vocab_size")
        if args.vocab_size is not None and args.vocab_size > _LARGEST_VOCABULARY:
            raise UserError(f"--vocab_size must be at most {_LARGEST_VOCABULARY}, got {args.vocab_size}")
        own = [name for name in self.not_decisive if getattr(args, name) is not None]
        if own and args.mini:
            raise UserError(f"--mini and --{own[0]} exclude each other: the embedded text or your own")
        if own and args.train_file is None:
            if self.config.do_train:
                raise UserError("training needs --train_file; a saved model is scored by --do_eval or --do_predict")
            refuse_given(self.given, ("prior_exponent",), "is of training text, and there is none")
        if self.config.prior_exponent is not None and args.tie_word_embeddings:
            raise UserError("--prior_exponent needs an output layer of its own: leave --tie_word_embeddings out")

    def load(self) -> TextData:
        """The files, or the embedded text."""
        args = self.args
        if any(getattr(args, name) is not None for name in self.not_decisive):
            return load_files(args.train_file, args.validation_file, args.test_file, args.cache_dir)
        if not args.mini:
            print(
                "*** No --train_file: using the embedded MINI text, Python's own reference, which is no benchmark. ***",
                flush=True,
            )
        return load_mini(args.cache_dir)

    @property
    def length(self) -> int:
        """Tokens of an example, at most."""
        return int(getattr(self.args, self.length_option))

    def find_model(self) -> tuple[str | None, str]:
        """A new model, or the named one."""
        args = self.args
        if args.model_name_or_path is None:
            self.vocabulary = int(args.vocab_size)
            return None, f"{self.architecture}-{args.num_layers}x{args.hidden_size}"
        path = args.model_name_or_path
        config = find_config(path, self.is_hub_reachable, **args.hub)
        self.vocabulary = int(getattr(config.get_text_config(), "vocab_size", 0))
        if self.vocabulary < 2:
            raise UserError(f"--model_name_or_path {path} is no language model: it has no vocabulary")
        longest = getattr(config, "max_position_embeddings", None)
        if longest is not None and self.length > longest:
            raise UserError(
                f"--{self.length_option} {self.length} is more than the {longest} tokens that the model takes"
            )
        return path, Path(path).resolve().name

    @property
    def ties_embeddings(self) -> bool:
        """Whether the output layer of a new model has the weights of its embedding."""
        given: bool | None = self.args.tie_word_embeddings
        return self.config.prior_exponent is None if given is None else given

    @property
    def num_outputs(self) -> int:
        """The size of the vocabulary."""
        return self.vocabulary

    def load_model(self, path: str | None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The model, from a folder or the hub or, without a path, a new one; and its tokenizer."""
        args, tokenizer, new = self.args, None, None
        if args.model_name_or_path is None:
            tokenizer = train_tokenizer(
                texts(self.data.splits["train"]),
                args.vocab_size,
                self.data.sizes["train"],
                not self.config.disable_tqdm,
                SPECIAL_TOKENS[self.objective],
            )
            sizes = {name: getattr(args, name) for name in _NEW_MODEL}
            new = new_config(self.objective, **sizes, length=self.length, tie_word_embeddings=self.ties_embeddings)
        return load_model(self.objective, path, new, tokenizer, args.model_name_or_path, self.length, **args.hub)

    def split_of(self, rows: Dataset) -> str:
        """The name of a split of the data."""
        name: str = next(name for name, others in self.data.splits.items() if others is rows)
        return name

    def encode(self, rows: Dataset, for_training: bool = False) -> Dataset:
        """The tokens, cut into blocks; what is left over at the end of the text is dropped."""
        options = {"rows": rows, "tokenizer": self.processor, "size": self.length}
        self.check_blocks(rows, False)
        with bar_if(rows.data.nbytes >= MANY_BYTES):
            return Dataset.from_generator(causal_examples, cache_dir=self.args.cache_dir, gen_kwargs=options)

    def check_blocks(self, rows: Dataset, special_tokens: bool) -> None:
        """Refuses a split that has not one block."""
        first = next(token_blocks(rows, self.processor, self.length, special_tokens), [])
        if len(first) < self.length:
            raise UserError(
                f"the {self.split_of(rows)} text has {len(first)} tokens, less than one block of {self.length}: "
                f"give more text, or a smaller --{self.length_option}"
            )

    def targets(self, rows: Dataset) -> Iterator[NDArray[np.int64]]:
        """What is predicted in an encoded split, some tokens at a time: all but the first of a block."""
        return (ids.reshape(-1, self.length)[:, 1:].ravel() for ids in column(rows, "input_ids"))

    def facts(self, datasets: Mapping[str, Dataset]) -> dict[str, dict[str, float]]:
        """Tokens, and the perplexity of a model that knows each token's frequency alone, which a model has to beat."""
        counts = np.zeros(self.vocabulary, np.int64)
        tokens: dict[str, float] = dict.fromkeys(datasets, 0)
        for split, rows in datasets.items():
            for ids in column(rows, "input_ids"):
                tokens[split] += ids.size
                if split == "train":
                    counts += np.bincount(ids, minlength=self.vocabulary)
        counts[self.processor.all_special_ids] = 0
        self.counts = counts + 1  # each once more than it occurs
        if "train" not in datasets:
            return {"tokens": tokens}
        held_out = [split for split in datasets if split != "train"]
        unigram = {split: unigram_perplexity(self.counts, self.targets(datasets[split])) for split in held_out}
        return {"tokens": tokens, "unigram_perplexity": unigram}

    def trainer_options(self) -> dict[str, Any]:
        """With how often each token occurs, where the loss goes by that."""
        counts = None if self.config.prior_exponent is None else self.counts.tolist()
        return {**super().trainer_options(), "class_counts": counts}

    def about(self) -> dict[str, str]:
        """Size and length."""
        origin = "fine-tuned" if self.model_path else f"new, {self.args.num_heads} heads"
        return {
            "model": f" ({origin}, {self.vocabulary} tokens)",
            "training": f", blocks of {self.length} tokens",
        }


def main(argv: Sequence[str] | None = None) -> int:
    """The command line ``sqloss lm``; returns the exit status."""
    return experiment.main(LanguageModel, argv)


if __name__ == "__main__":
    raise SystemExit(main())
