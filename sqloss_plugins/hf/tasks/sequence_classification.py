"""What tasks share that give one label, or one number, to a text or a pair of texts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors import SafetensorError
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    default_data_collator,
)

from sqloss_plugins.data.progress import MANY_ROWS, bar_if
from sqloss_plugins.errors import UserError, sentence
from sqloss_plugins.hf.classification import LIMITS, Classification
from sqloss_plugins.hf.hub import EMBEDDED_MODEL, check_tokenizer, embedded_model, find_config
from sqloss_plugins.hf.options import check_at_least, refuse_given
from sqloss_plugins.hf.word_models import (
    PRE_TRAINED,
    WORD_MODELS,
    WordModelArguments,
    check_word_model,
    new_word_model,
    word_model_defaults,
)
from sqloss_plugins.models import ARCHITECTURES
from sqloss_plugins.models.words import encode_pairs
from sqloss_plugins.paper import HyperParameters, hyperparameters

COMMON = HyperParameters(
    batch_size=32,
    max_length=128,
    learning_rate=2e-5,
    epochs=3,
    steps=None,
    dropout=None,
    backbone="bert-base-cased",
    config=None,
)
"""For tasks that the paper does not have: what its Table 10 has for most of those it does."""

_VERY_LONG = 50
"""Characters of a text for each token that the model takes, from which on a text is cut before it is tokenised."""


def training_defaults(args: SequenceClassificationArguments, task: str | None, loss: str) -> dict[str, Any]:
    """Options as the paper has them for its task, architecture and loss; for other tasks common ones."""
    if args.arch != PRE_TRAINED:
        return word_model_defaults(args, task, loss)
    values = hyperparameters(task or "", PRE_TRAINED, loss) or COMMON
    return {
        "learning_rate": values.learning_rate,
        "num_train_epochs": float(values.epochs or COMMON.epochs or 0),
        "per_device_train_batch_size": values.batch_size,
        "max_seq_length": values.max_length or COMMON.max_length,
    }


@dataclass
class SequenceClassificationArguments(WordModelArguments):
    """Model, length and numbers of examples."""

    config_name: str | None = field(default=None, metadata={"help": "Configuration, if not the model's."})
    tokenizer_name: str | None = field(default=None, metadata={"help": "Tokenizer, if not the model's."})
    ignore_mismatched_sizes: bool = field(
        default=False, metadata={"help": "Allow a model whose head has another number of classes."}
    )
    max_seq_length: int | None = field(
        default=128,
        metadata={
            "help": "Tokens; longer inputs are cut. With a model on words: words of each text; of a new one None is as "
            "many as the longest training text has, and a saved one has its own limit."
        },
    )
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
        quantity: what a regression's output is called in the model's configuration.
        model_config: the model's configuration, once it is loaded.
    """

    arguments = SequenceClassificationArguments
    texts: Sequence[str] = ("text",)
    default_model = EMBEDDED_MODEL
    quantity = "similarity"
    model_config: Any

    def check(self) -> None:
        """Refuses numbers of tokens and examples that are too small."""
        check_at_least(1, self.args, "max_seq_length", *LIMITS.values())
        check_word_model(self.args, self.given, self.config.do_train)

    def from_hub(self) -> list[str]:
        """The model, and what else is named."""
        args = self.args
        if args.arch != PRE_TRAINED:
            return []
        model = args.model_name_or_path or (EMBEDDED_MODEL if args.mini else self.default_model)
        names = [model, args.tokenizer_name, args.config_name]
        return [name for name in names if name and name != EMBEDDED_MODEL]

    def find_model(self) -> tuple[str | None, str]:
        """A new model; the named one; else the embedded one for mini data, and where the default is not at hand."""
        if self.args.arch != PRE_TRAINED:
            return None, self.args.arch
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

    @property
    def takes_words(self) -> bool:
        """Whether it is a model for pairs on words."""
        return self.origin is None or self.origin.model_type in WORD_MODELS

    def settle(self) -> None:
        """The length of texts, too, is a saved model's.

        Raises:
            UserError: the model is for pairs, and there is one text, or the other way round; and as for every
                classification.
        """
        if self.takes_words and len(self.texts) != 2:
            raise UserError(f"{self.arch} is a model for pairs of texts, and those of {self.name} are single")
        kinds = {1: "single texts", 2: "pairs of texts"}
        trained_on, given = kinds.get(getattr(self.origin, "num_texts", 0)), kinds[len(self.texts)]
        if not self.config.do_train and trained_on not in (None, given):
            raise UserError(
                f"{self.arch} was trained on {trained_on}, and {self.name} has {given} ({', '.join(self.texts)}): give "
                "data with as many columns of text"
            )
        if self.takes_words:
            refuse_given(self.given, ["pad_to_max_length"], f"has no use: {self.arch} does not depend on padding")
            if self.origin is not None and "max_seq_length" not in self.given:
                self.args.max_seq_length = getattr(self.origin, "longest_text", None)
        super().settle()

    @property
    def problem_type(self) -> str:
        """What Transformers calls it."""
        if not self.has_classes:
            return "regression"
        return "multi_label_classification" if self.is_multi_label else "single_label_classification"

    def load_model(self, path: str | None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The model with a head for the task, and its tokenizer."""
        args, hub = self.args, self.args.hub
        names = dict(enumerate(self.names)) or {0: self.quantity}
        about_labels = {
            "num_labels": self.num_outputs,
            "id2label": names,
            "label2id": {name: i for i, name in names.items()},
            "finetuning_task": self.name,
        }
        if path is None:
            model, tokenizer = new_word_model(args, self._training_texts, args.max_seq_length, about_labels)
            model.config.problem_type = self.problem_type
            self.model_config = model.config
            self.begin(model, [name for name, _ in model.named_parameters()])
            return model, tokenizer
        tokenizer_path = str(args.tokenizer_name or self.model_path or path)
        try:
            config = AutoConfig.from_pretrained(args.config_name or path, **about_labels, **hub)
            config.problem_type = self.problem_type
            config.num_texts = len(self.texts)
            tokenizer = AutoTokenizer.from_pretrained(tokenizer_path, **hub)
            if tokenizer.pad_token is None:  # GPT-2's and Llama's have none
                tokenizer.pad_token = tokenizer.eos_token
            if config.pad_token_id is None:
                config.pad_token_id = tokenizer.pad_token_id
            model, loading = AutoModelForSequenceClassification.from_pretrained(
                path,
                output_loading_info=True,
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
        self.model_config = model.config
        self.begin(model, [*loading["missing_keys"], *(name for name, *_ in loading["mismatched_keys"])])
        if not self.takes_words:
            self._check_length(tokenizer, config)
        elif args.max_seq_length is not None:
            model.config.longest_text = args.max_seq_length
        return model, tokenizer

    def begin(self, model: PreTrainedModel, new: Sequence[str]) -> None:
        """With binary cross-entropy each label of a new head has its frequency as its probability at the start.

        Else it begins at 1/2, and nothing may be learnt in the first epochs (recipes/text20/RESULTS.md): the bias of a
        rare label needs thousands of Adam's steps to come to where it belongs. Lin et al. (2017, Section 3.3) have the
        same for rare classes. A head without a bias begins at 1/2.

        Args:
            model: of the task.
            new: names of its parameters that no file had.
        """
        if not (self.config.do_train and self.is_multi_label and self.method == "sigmoid"):
            return
        weights = dict(model.named_parameters())
        biases = [weights[name] for name in new if name.endswith("bias") and weights[name].shape == (self.num_outputs,)]
        if biases:
            with torch.no_grad():
                biases[-1].copy_(torch.logit(self.label_frequencies().double()))

    def label_frequencies(self) -> Tensor:
        """The share of the training texts that has each label, never 0 or 1; of shape (C)."""
        rows = self.data.splits["train"]
        counts = torch.stack([torch.tensor(part["label"]).sum(0) for part in rows.iter(1000)]).sum(0)
        return (counts + 1) / (len(rows) + 2)

    def _training_texts(self) -> Iterator[str]:
        for rows in self.data.splits["train"].iter(1000):
            for name in self.texts:
                yield from rows[name]

    def _check_length(self, tokenizer: PreTrainedTokenizerBase, config: Any) -> None:
        length = self.args.max_seq_length
        shortest = tokenizer.num_special_tokens_to_add(len(self.texts) == 2) + len(self.texts)
        longest = min(tokenizer.model_max_length, getattr(config, "max_position_embeddings", None) or sys.maxsize)
        if length < shortest:
            raise UserError(f"--max_seq_length must be at least {shortest} for {self.name}, got {length}")
        if length > longest:
            raise UserError(f"--max_seq_length {length} is more than the {longest} tokens that the model takes")

    def encode(self, rows: Dataset, for_training: bool = False) -> Dataset:
        """Tokens in the place of texts."""
        if self.takes_words:
            length = self.model_config.longest_text
            pairs = partial(_words, tokenizer=self.processor, texts=tuple(self.texts), max_length=length)
            return self._mapped(rows, pairs)
        padding = "max_length" if self.args.pad_to_max_length else False
        options = {"padding": padding, "truncation": True, "max_length": self.args.max_seq_length}
        tokenize = partial(_tokenize, tokenizer=self.processor, texts=tuple(self.texts), options=options)
        return self._mapped(rows, tokenize)

    def _mapped(self, rows: Dataset, encode: Callable[..., Any]) -> Dataset:
        with bar_if(len(rows) >= MANY_ROWS):
            return rows.map(encode, batched=True, remove_columns=list(self.texts), desc="Texts to tokens")

    def collator(self) -> Callable[..., Any]:
        """Pads to the longest of a batch, unless all are padded already."""
        if self.args.pad_to_max_length:
            return default_data_collator  # type: ignore[no-any-return]
        multiple = 8 if self.config.fp16 else None
        return DataCollatorWithPadding(self.processor, pad_to_multiple_of=multiple)  # type: ignore[no-any-return]

    def about(self) -> dict[str, str]:
        """The length; of a new model, that it is one."""
        if not self.takes_words:
            return {"training": f", {self.args.max_seq_length} tokens"}
        limit = self.args.max_seq_length
        limited = "of any length" if limit is None else f"of up to {limit} words"
        origin = f" (new, {ARCHITECTURES[self.arch].about})" if self.origin is None else ""
        return {"model": origin, "training": f", texts {limited}"}

    def facts(self, datasets: Mapping[str, Dataset]) -> dict[str, dict[str, float]]:
        """Of a model on words: how many it knows, and for how many a file had vectors."""
        if not self.takes_words:
            return super().facts(datasets)
        words: dict[str, float] = {"known": len(self.processor) - len(self.processor.all_special_ids)}
        if self.model_config.words_with_vectors:
            words["with_vectors"] = self.model_config.words_with_vectors
        return {**super().facts(datasets), "words": words}


def _words(
    rows: dict[str, list[Any]], tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int | None
) -> Any:
    first, second = texts
    return encode_pairs(tokenizer, rows[first], rows[second], max_length)


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
