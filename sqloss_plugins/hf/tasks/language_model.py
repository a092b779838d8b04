"""Trains a small causal language model on text files with the square loss, cross-entropy or squentropy.

    python -m sqloss_plugins.hf.tasks.language_model --mini
    python -m sqloss_plugins.hf.tasks.language_model --train_file text.txt --loss cross_entropy --learning_rate 3e-3
    python -m sqloss_plugins.hf.tasks.language_model --train_file text.txt --model_name_or_path gpt2
    python -m sqloss_plugins.hf.tasks.language_model settings.yaml

From scratch: a GPT-2 of the given size, and a byte-level BPE trained on the training text. With --model_name_or_path:
that model and its tokenizer. Takes the options below and all of transformers.TrainingArguments.
A run that was killed goes on where it was when the same command is run again; a run that is finished is not repeated.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from safetensors import SafetensorError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from sqloss_plugins.data.text import TextData, load_files, load_mini, texts
from sqloss_plugins.errors import UserError, sentence
from sqloss_plugins.hf import experiment
from sqloss_plugins.hf.hub import check_tokenizer, find_config
from sqloss_plugins.hf.options import check_at_least, refuse_given
from sqloss_plugins.hf.task import Scores, Task, TaskArguments
from sqloss_plugins.hf.token_scores import TokenScores
from sqloss_plugins.losses import LOSSES
from sqloss_plugins.metrics import perplexity
from sqloss_plugins.results import OF_OUTPUTS

_NEW_MODEL = {"vocab_size": 1024, "hidden_size": 128, "num_layers": 4, "num_heads": 4}
_ALPHABET = 256
_LARGEST_VOCABULARY = 10_000_000  # the tokenizers make room for it beforehand


@dataclass
class LanguageModelArguments(TaskArguments):
    """The text, and the size of a new model."""

    train_file: str | None = field(default=None, metadata={"help": "Text to train on, UTF-8."})
    validation_file: str | None = field(
        default=None, metadata={"help": "Text to validate on. By default a tenth of the training text is held out."}
    )
    test_file: str | None = field(
        default=None, metadata={"help": "Text to test on. By default a tenth of the training text is held out."}
    )
    # These have no value with --model_name_or_path.
    vocab_size: int | None = field(default=None, metadata={"help": "New model: tokens of its BPE."})
    hidden_size: int | None = field(default=None, metadata={"help": "New model: its width."})
    num_layers: int | None = field(default=None, metadata={"help": "New model: its layers."})
    num_heads: int | None = field(default=None, metadata={"help": "New model: heads of a layer."})
    block_size: int = field(default=128, metadata={"help": "Tokens of an example; the text is cut into such blocks."})


class LanguageModel(Task):
    """A causal language model on text."""

    program = "sqloss lm"
    arguments = LanguageModelArguments
    same_when_resumed = ("vocab_size", "block_size")
    not_decisive = ("train_file", "validation_file", "test_file")
    mini_warning = "MINI DATA: Python's own reference, and no benchmark"
    keeps_outputs = False
    name = "language_model"
    metrics = ("perplexity",)
    data: TextData

    @classmethod
    def defaults(cls, args: Any, loss: str) -> dict[str, Any]:
        """Of a new model, or for fine-tuning."""
        is_new = args.model_name_or_path is None
        return {
            **super().defaults(args, loss),
            "learning_rate": 3e-3 if is_new else 5e-5,
            "num_train_epochs": 10.0 if is_new else 3.0,
            "per_device_train_batch_size": 8,
            "per_device_eval_batch_size": 32,
            "warmup_steps": 0.1 if is_new else 0,
            "without_logits": LOSSES[loss].of_linear_layer is not None and is_new,
            **(_NEW_MODEL if is_new else {}),
        }

    def check(self) -> None:
        """Refuses sizes that no model has, and files beside mini data."""
        args = self.args
        check_at_least(2, args, "block_size")
        check_at_least(1, args, "hidden_size", "num_layers", "num_heads")
        check_at_least(_ALPHABET, args, "vocab_size")
        if args.model_name_or_path is not None:
            refuse_given(self.given, tuple(_NEW_MODEL), "is of a new model, and --model_name_or_path names one")
        elif args.hidden_size % args.num_heads:
            raise UserError(
                f"--hidden_size must be a multiple of --num_heads, got {args.hidden_size} and {args.num_heads}"
            )
        elif args.vocab_size > _LARGEST_VOCABULARY:
            raise UserError(f"--vocab_size must be at most {_LARGEST_VOCABULARY}, got {args.vocab_size}")
        for name in self.not_decisive:
            if getattr(args, name) is not None and args.mini:
                raise UserError(f"--mini and --{name} exclude each other: the embedded text or your own")
            if getattr(args, name) is not None and args.train_file is None:
                raise UserError(f"--{name} needs --train_file beside it")

    def load(self) -> TextData:
        """The files, or the embedded text."""
        args = self.args
        if args.train_file is not None:
            return load_files(args.train_file, args.validation_file, args.test_file, args.cache_dir)
        if not args.mini:
            print(
                "*** No --train_file: using the embedded MINI text, Python's own reference, which is no benchmark. ***",
                flush=True,
            )
        return load_mini(args.cache_dir)

    def find_model(self) -> tuple[str | None, str]:
        """A new GPT-2, or the named model."""
        args = self.args
        if args.model_name_or_path is None:
            self.vocabulary = int(args.vocab_size)
            return None, f"gpt2-{args.num_layers}x{args.hidden_size}"
        path = args.model_name_or_path
        config = find_config(path, self.is_hub_reachable, **args.hub)
        self.vocabulary = int(getattr(config.get_text_config(), "vocab_size", 0))
        if self.vocabulary < 2:
            raise UserError(f"--model_name_or_path {path} is no language model: it has no vocabulary")
        longest = getattr(config, "max_position_embeddings", None)
        if longest is not None and args.block_size > longest:
            raise UserError(f"--block_size {args.block_size} is more than the {longest} tokens that the model takes")
        return path, Path(path).resolve().name

    @property
    def num_outputs(self) -> int:
        """The size of the vocabulary."""
        return self.vocabulary

    def load_model(self, path: str | None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The model, from a folder or the hub or, without a path, a new one; and its tokenizer."""
        args, own = self.args, self.args.model_name_or_path
        if own is None:
            text, size = texts(self.data.splits["train"]), self.data.sizes["train"]
            tokenizer = train_tokenizer(text, args.vocab_size, size, not self.config.disable_tqdm)
        try:
            if own is not None:
                tokenizer = AutoTokenizer.from_pretrained(own, **args.hub)
            if path is None:
                config = GPT2Config(
                    vocab_size=args.vocab_size,
                    n_positions=args.block_size,
                    n_embd=args.hidden_size,
                    n_layer=args.num_layers,
                    n_head=args.num_heads,
                    bos_token_id=None,
                    eos_token_id=None,
                )
                return AutoModelForCausalLM.from_config(config), tokenizer
            # In 16 bits, which the file may have, small steps are lost; --bf16 trains mixed.
            model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, **args.hub)
        except (OSError, ValueError, RuntimeError, KeyError, AttributeError, TypeError, SafetensorError) as error:
            what = f"{path} cannot be loaded as a language model" if path else "no model of this size can be made"
            raise UserError(f"{what}: {sentence(error)}") from error
        check_tokenizer(tokenizer, str(own or path), model, "save the model's there")
        if own is not None and not _is_causal(model):
            raise UserError(f"{path} is no causal language model: its outputs depend on the tokens that follow")
        return model, tokenizer

    def encode(self, rows: Dataset) -> Dataset:
        """The tokens, cut into blocks; what is left over at the end of the text is dropped."""
        size = self.args.block_size
        options = {"rows": rows, "tokenizer": self.processor, "size": size}
        tokens = next(_tokens(rows, self.processor, size), None)
        if tokens is None or len(tokens) < size:
            split = next(name for name, others in self.data.splits.items() if others is rows)
            raise UserError(
                f"the {split} text has {0 if tokens is None else len(tokens)} tokens, less than one block of {size}: "
                "give more text, or a smaller --block_size"
            )
        return Dataset.from_generator(_blocks, cache_dir=self.args.cache_dir, gen_kwargs=options)

    def facts(self, datasets: Mapping[str, Dataset]) -> dict[str, dict[str, float]]:
        """Tokens, and the perplexity of a model that knows each token's frequency alone, which a model has to beat."""
        counts = np.ones(self.vocabulary, np.int64)  # each once more than it occurs
        for ids in _batches(datasets["train"]):
            counts += np.bincount(ids.ravel(), minlength=self.vocabulary)
        held_out = [split for split in datasets if split != "train"]
        unigram = {split: unigram_perplexity(counts, _batches(datasets[split])) for split in held_out}
        tokens = {split: len(rows) * self.args.block_size for split, rows in datasets.items()}
        return {"tokens": tokens, "unigram_perplexity": unigram}

    def trainer_options(self) -> dict[str, Any]:
        """Sums in the place of outputs; labels are the inputs, whatever the model's own loss does."""
        config = self.config
        self.tokens = TokenScores(LOSSES[config.loss].methods, config.k, config.M, shift_labels=True)
        return {"preprocess_logits_for_metrics": self.tokens, "shift_labels": True}

    def begin_scoring(self) -> None:
        """From now on every temperature is tried."""
        self.tokens.begin()

    def scores(self, outputs: Any, targets: Any) -> Scores:
        """Accuracy; negative log-likelihood and perplexity by each method.

        The temperature is fitted on the first split that is scored after training, if that is the validation data.
        """
        accuracy, nll = self.tokens.means(outputs, may_fit=self.config.do_eval)
        by_method = {name: {"perplexity": perplexity(value), "nll": value} for name, value in nll.items()}
        return {OF_OUTPUTS: {"accuracy": accuracy}, **by_method}

    def fitted(self) -> dict[str, float]:
        """The temperature."""
        return {} if self.tokens.temperature is None else {"temperature": self.tokens.temperature}

    def about(self) -> dict[str, str]:
        """Size and length."""
        origin = "fine-tuned" if self.model_path else f"new, {self.args.num_heads} heads"
        return {
            "model": f" ({origin}, {self.vocabulary} tokens)",
            "training": f", blocks of {self.args.block_size} tokens",
        }


def train_tokenizer(
    text: Iterable[str], vocab_size: int, characters: int, show_progress: bool = False
) -> PreTrainedTokenizerFast:
    """A byte-level BPE as GPT-2's, without special tokens.

    Args:
        text: lines.
        vocab_size: how many tokens it shall have.
        characters: how many the text has.
        show_progress: show a bar.

    Raises:
        UserError: the text does not support so many tokens.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=min(vocab_size, _ALPHABET + 4 * characters),  # each token more joins two; a character has 4 bytes
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=show_progress,
    )
    tokenizer.train_from_iterator(text, trainer)
    if tokenizer.get_vocab_size() < vocab_size:
        raise UserError(
            f"--vocab_size {vocab_size} is more than the training text supports: at most {tokenizer.get_vocab_size()}"
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@torch.no_grad()
def _is_causal(model: PreTrainedModel) -> bool:
    """Whether what follows leaves a model's outputs alone: of BERT, too, the libraries make a "causal" model."""
    model.eval()
    one, other = model(input_ids=torch.tensor([[0, 1], [0, 2]])).logits[:, 0]
    return torch.allclose(one, other, rtol=1e-3, atol=1e-4 * float(one.abs().max()))


def _tokens(rows: Dataset, tokenizer: PreTrainedTokenizerBase, size: int) -> Iterator[list[int]]:
    """Whole blocks of a text's tokens, some at a time, and then what is left over, if anything is."""
    ids: list[int] = []
    for batch in rows.iter(1000):
        ids += chain.from_iterable(tokenizer(batch["text"], add_special_tokens=False, verbose=False)["input_ids"])
        whole = len(ids) // size * size
        if whole:
            yield ids[:whole]
        ids = ids[whole:]
    if ids:
        yield ids


def _blocks(rows: Dataset, tokenizer: PreTrainedTokenizerBase, size: int) -> Iterator[dict[str, list[int]]]:
    for ids in _tokens(rows, tokenizer, size):
        for start in range(0, len(ids) - size + 1, size):
            block = ids[start : start + size]
            yield {"input_ids": block, "labels": block}


def _batches(rows: Dataset) -> Iterator[NDArray[np.int64]]:
    """The blocks of a split, shape (blocks, block_size), some at a time."""
    for batch in rows.with_format("numpy").iter(1000):
        yield batch["input_ids"]


def unigram_perplexity(counts: NDArray[np.int64], held_out: Iterable[NDArray[np.int64]]) -> float:
    """What knowing each token's frequency alone gives.

    Args:
        counts: how often each token occurs in the training text, none of them 0; shape (C,).
        held_out: blocks whose tokens but the first of each are predicted, some at a time, shape (blocks, block_size).
    """
    logs = -np.log(counts / counts.sum())
    targets = np.concatenate([ids[:, 1:].ravel() for ids in held_out])
    return float(np.exp(logs[targets].mean()))


def main(argv: Sequence[str] | None = None) -> int:
    """The command line ``sqloss lm``; returns the exit status."""
    return experiment.main(LanguageModel, argv)


if __name__ == "__main__":
    raise SystemExit(main())
