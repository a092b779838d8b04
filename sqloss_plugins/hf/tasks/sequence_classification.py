"""What tasks share that give one label, or one number, to a text or a pair of texts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    default_data_collator,
)

from sqloss_plugins.errors import UserError
from sqloss_plugins.hf.hub import EMBEDDED_MODEL, check_tokenizer, embedded_model, find_config
from sqloss_plugins.hf.options import check_at_least, sentence
from sqloss_plugins.hf.task import Classification, TaskArguments

_VERY_LONG = 50
"""Characters of a text for each token that the model takes, from which on a text is cut before it is tokenised."""


@dataclass
class SequenceClassificationArguments(TaskArguments):
    """Model, length and numbers of examples."""

    config_name: str | None = field(default=None, metadata={"help": "Configuration, if not the model's."})
    tokenizer_name: str | None = field(default=None, metadata={"help": "Tokenizer, if not the model's."})
    ignore_mismatched_sizes: bool = field(
        default=False, metadata={"help": "Allow a model whose head has another number of classes."}
    )
    max_seq_length: int = field(default=128, metadata={"help": "Tokens; longer inputs are cut."})
    pad_to_max_length: bool = field(
        default=False, metadata={"help": "Pad every batch to max_seq_length rather than to its longest input."}
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "Train on the first so many examples."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Validate on the first so many examples."})
    max_predict_samples: int | None = field(default=None, metadata={"help": "Test on the first so many examples."})


class SequenceClassification(Classification):
    """One label, or one number, for a text or a pair of texts.

    Attributes:
        texts: the one or two text columns.
        default_model: the model where none is named: a name on the hub or :data:`EMBEDDED_MODEL`.
    """

    arguments = SequenceClassificationArguments
    texts: Sequence[str] = ("text",)
    default_model = EMBEDDED_MODEL

    def check(self) -> None:
        """Refuses numbers of tokens and examples that are too small."""
        check_at_least(1, self.args, "max_seq_length", "max_train_samples", "max_eval_samples", "max_predict_samples")

    def from_hub(self) -> list[str]:
        """The model, and what else is named."""
        args = self.args
        model = args.model_name_or_path or (EMBEDDED_MODEL if args.mini else self.default_model)
        names = [model, args.tokenizer_name, args.config_name]
        return [name for name in names if name and name != EMBEDDED_MODEL]

    def find_model(self) -> tuple[str, str]:
        """The named model; else the embedded one for mini data, and where the default is not at hand."""
        named = self.args.model_name_or_path
        name = named or (EMBEDDED_MODEL if self.args.mini else self.default_model)
        if Path(name).is_dir():
            return name, Path(name).resolve().name
        if name != EMBEDDED_MODEL:
            try:
                find_config(name, self.is_hub_reachable, **self.args.hub)
                return name, Path(name).name
            except UserError as error:
                if named or self.is_hub_reachable:
                    raise UserError(f"{error}, or {EMBEDDED_MODEL} for the embedded one") from error
            print(f"No {name} at hand: using the embedded model {EMBEDDED_MODEL}.", flush=True)
        return str(embedded_model()), EMBEDDED_MODEL

    def load_model(self, path: str | None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The model with a head for the task, and its tokenizer."""
        args, hub = self.args, self.args.hub
        names = dict(enumerate(self.labels)) or {0: "similarity"}
        tokenizer_path = str(args.tokenizer_name or self.model_path)
        try:
            config = AutoConfig.from_pretrained(
                args.config_name or path,
                num_labels=self.num_outputs,
                id2label=names,
                label2id={name: i for i, name in names.items()},
                finetuning_task=self.name,
                **hub,
            )
            if not self.has_classes:
                config.problem_type = "regression"
            tokenizer = AutoTokenizer.from_pretrained(tokenizer_path, **hub)
            if tokenizer.pad_token is None:  # GPT-2's and Llama's have none
                tokenizer.pad_token = tokenizer.eos_token
            if config.pad_token_id is None:
                config.pad_token_id = tokenizer.pad_token_id
            model = AutoModelForSequenceClassification.from_pretrained(
                path,
                config=config,
                ignore_mismatched_sizes=args.ignore_mismatched_sizes,
                dtype=torch.float32,  # whatever the file has: in 16 bits small steps are lost; --bf16 trains mixed
                **hub,
            )
        except (OSError, ValueError, RuntimeError, KeyError, AttributeError, TypeError, SafetensorError) as error:
            others = [name for name in (args.config_name, args.tokenizer_name) if name]
            beside = f" (with {', '.join(others)})" if others else ""
            raise UserError(f"{path}{beside} cannot be loaded as a classifier: {sentence(error)}") from error
        check_tokenizer(tokenizer, tokenizer_path, model, "give one by --tokenizer_name")
        if tokenizer.pad_token is None:
            raise UserError(f"the tokenizer of {tokenizer_path} has no token to pad with: give one by --tokenizer_name")
        self._check_length(tokenizer, config)
        return model, tokenizer

    def _check_length(self, tokenizer: PreTrainedTokenizerBase, config: Any) -> None:
        length = self.args.max_seq_length
        shortest = tokenizer.num_special_tokens_to_add(len(self.texts) == 2) + len(self.texts)
        longest = min(tokenizer.model_max_length, getattr(config, "max_position_embeddings", None) or sys.maxsize)
        if length < shortest:
            raise UserError(f"--max_seq_length must be at least {shortest} for {self.name}, got {length}")
        if length > longest:
            raise UserError(f"--max_seq_length {length} is more than the {longest} tokens that the model takes")

    def encode(self, rows: Dataset) -> Dataset:
        """Tokens in the place of texts."""
        padding = "max_length" if self.args.pad_to_max_length else False
        options = {"padding": padding, "truncation": True, "max_length": self.args.max_seq_length}
        tokenize = partial(_tokenize, tokenizer=self.processor, texts=tuple(self.texts), options=options)
        return rows.map(tokenize, batched=True, remove_columns=list(self.texts))

    def collator(self) -> Callable[..., Any]:
        """Pads to the longest of a batch, unless all are padded already."""
        if self.args.pad_to_max_length:
            return default_data_collator  # type: ignore[no-any-return]
        multiple = 8 if self.config.fp16 else None
        return DataCollatorWithPadding(self.processor, pad_to_multiple_of=multiple)  # type: ignore[no-any-return]

    def about(self) -> dict[str, str]:
        """The length."""
        return {"training": f", {self.args.max_seq_length} tokens"}


def _tokenize(
    rows: dict[str, list[Any]], tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], options: dict[str, Any]
) -> Any:
    length = options["max_length"]
    return tokenizer(*([_cut(tokenizer, text, length) for text in rows[name]] for name in texts), **options)


def _cut(tokenizer: PreTrainedTokenizerBase, text: str, length: int) -> str:
    """A very long text without what is cut anyway, if it can be up to the next space.

    The tokenizers keep everything that they cut off, of a pair in every combination: of two books that is gigabytes.
    """
    if len(text) <= _VERY_LONG * length or not tokenizer.is_fast:
        return text
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    if len(offsets) <= length:
        return text
    latest = offsets[min(4 * length, len(offsets) - 1)][0]
    end = text.find(" ", offsets[length][0], latest)
    return text[: latest if end == -1 else end]
