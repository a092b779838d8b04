"""Trains a masked language model on text files with the square loss, cross-entropy or squentropy.

    sqloss lm --objective masked --mini
    sqloss lm --objective masked --train_file text.txt --loss cross_entropy
    sqloss lm --objective masked --train_file text.txt --model_name_or_path bert-base-cased --line_by_line

From scratch: a BERT of the given size, and a byte-level BPE trained on the training text. With --model_name_or_path:
that model and its tokenizer. Training masks anew in every epoch; the masks of validation and test text are always the
same. Takes the options below, which have the names of Transformers' run_mlm.py, and all of
transformers.TrainingArguments. A run that was killed goes on where it was when the same command is run again; a run
that is finished is not repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray
from transformers import DataCollatorForLanguageModeling, DataCollatorForTokenClassification

from sqloss_plugins.data.progress import MANY_BYTES, bar_if
from sqloss_plugins.data.tokens import column, masked_examples, token_lines
from sqloss_plugins.errors import UserError
from sqloss_plugins.hf.hub import find_config
from sqloss_plugins.hf.options import option, refuse_given
from sqloss_plugins.hf.tasks.language_model import LanguageModel, LanguageModelArguments
from sqloss_plugins.hf.token_scores import IGNORE_INDEX


@dataclass
class MaskedArguments(LanguageModelArguments):
    """How the text is cut, and what is masked."""

    mlm_probability: float = option("The share of the tokens that are masked, and predicted.", 0.15)
    max_seq_length: int = option("Tokens of an example, at most.", 128)
    line_by_line: bool = option("Every line is an example, rather than every block of --max_seq_length tokens.", False)
    pad_to_max_length: bool = option(
        "With --line_by_line: pad all examples to --max_seq_length, rather than to the longest of a batch.", False
    )


class MaskedLanguageModel(LanguageModel):
    """A masked language model on text."""

    arguments = MaskedArguments
    name = "masked_language_model"
    objective = "masked"
    architecture = "bert"
    shift_labels = False
    length_option = "max_seq_length"
    new_learning_rate = 1e-3  # with 3e-3 a new BERT stays at the frequencies of the tokens
    same_when_resumed = ("vocab_size", "max_seq_length")

    def check(self) -> None:
        """Refuses shares that are none, and padding of what needs none."""
        super().check()
        args = self.args
        if not 0.0 < args.mlm_probability <= 1.0:
            raise UserError(f"--mlm_probability must be greater than 0 and at most 1, got {args.mlm_probability:g}")
        if not args.line_by_line:
            refuse_given(self.given, ("pad_to_max_length",), "is of --line_by_line, and blocks are all of one length")

    def find_model(self) -> tuple[str | None, str]:
        """A new BERT, or the named model, which is an encoder."""
        found = super().find_model()
        if found[0] is not None and find_config(found[0], self.is_hub_reachable, **self.args.hub).is_encoder_decoder:
            raise UserError(f"--model_name_or_path {found[0]} has a decoder, too: give a model such as BERT")
        return found

    def encode(self, rows: Dataset, for_training: bool = False) -> Dataset:
        """Blocks or lines; the held-out ones with their masks."""
        args, split = self.args, self.split_of(rows)
        if not args.line_by_line:
            self.check_blocks(rows, True)
        elif next(token_lines(rows, self.processor, self.length), None) is None:
            raise UserError(f"no line of the {split} text has text in it: give more text")
        options = {"rows": rows, "tokenizer": self.processor, "size": self.length, "by_line": args.line_by_line}
        options["probability"] = None if for_training else args.mlm_probability
        with bar_if(rows.data.nbytes >= MANY_BYTES):
            made = Dataset.from_generator(masked_examples, cache_dir=args.cache_dir, gen_kwargs=options)
        if not for_training and not any(targets.size for targets in self.targets(made)):
            raise UserError(f"no token of the {split} text is masked: give more text, or a greater --mlm_probability")
        return made

    def targets(self, rows: Dataset) -> Iterator[NDArray[np.int64]]:
        """What is predicted in an encoded split: the masked tokens."""
        return (labels[labels != IGNORE_INDEX] for labels in column(rows, "labels"))

    def facts(self, datasets: Mapping[str, Dataset]) -> dict[str, dict[str, float]]:
        """With the number of tokens that are predicted."""
        held_out = [split for split in datasets if split != "train"]
        masked: dict[str, float] = {}
        for split in held_out:
            masked[split] = sum(some.size for some in self.targets(datasets[split]))
        return {**super().facts(datasets), "masked_tokens": masked}

    def _padding(self) -> int | None:
        """All examples are padded to a multiple of this."""
        return self.length if self.args.pad_to_max_length else None

    def collator(self) -> Callable[..., Any]:
        """Pads what is masked already."""
        pad: Callable[..., Any] = DataCollatorForTokenClassification(self.processor, pad_to_multiple_of=self._padding())
        return pad

    def trainer_options(self) -> dict[str, Any]:
        """In training another collator, which masks."""
        mask = DataCollatorForLanguageModeling(
            self.processor, mlm_probability=self.args.mlm_probability, pad_to_multiple_of=self._padding()
        )
        return {**super().trainer_options(), "train_collator": mask}

    def about(self) -> dict[str, str]:
        """Size, length and the share of what is masked."""
        kind = "lines of at most" if self.args.line_by_line else "blocks of"
        training = f", {kind} {self.length} tokens, {100 * self.args.mlm_probability:.4g} % of them masked"
        return {**super().about(), "training": training}
