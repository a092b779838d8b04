"""Trains a Transformer-XL on characters with the square loss or another: the paper's text8 and enwik8, or other text.

    sqloss characters --task text8 --data_dir corpora --loss square
    sqloss characters --task enwik8 --loss square --rescaling level
    sqloss characters --task text8 --mini
    sqloss characters --train_file text.txt --loss cross_entropy

A character is a byte. --data_dir has the file text8 or enwik8, or its zip archive; without it that is downloaded. The
defaults are the paper's; for a file of one's own, those of a small model. The text is read by as many streams side by
side as --per_device_train_batch_size says, each with a memory that goes on from segment to segment. Takes the options
below and all of transformers.TrainingArguments. A run that was killed goes on where it was when the same command is
run again; a run that is finished is not repeated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from datasets import Dataset
from safetensors import SafetensorError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast, TrainerCallback
from transformers.convert_slow_tokenizer import bytes_to_unicode

from sqloss_plugins import paper
from sqloss_plugins.command_line import check_name
from sqloss_plugins.data.characters import MD5, CharacterData, download, load_files, load_mini, load_task, mapped
from sqloss_plugins.errors import UserError, sentence
from sqloss_plugins.hf import experiment
from sqloss_plugins.hf.options import check_at_least, option, refuse_empty, refuse_given
from sqloss_plugins.hf.streams import CarriedMemory, Segments
from sqloss_plugins.hf.task import TaskArguments
from sqloss_plugins.hf.token_scores import IGNORE_INDEX
from sqloss_plugins.hf.token_task import TokenTask
from sqloss_plugins.models.transformer_xl import TransformerXLConfig, TransformerXLForCausalLM

_FILES = ("train_file", "validation_file", "test_file")
_ORIGINAL = {"hidden_size": 512, "num_layers": 12, "num_heads": 8}
_SMALL = {"hidden_size": 128, "num_layers": 2, "num_heads": 4}
_AUTHORS = {"lr_scheduler_type": "cosine", "max_grad_norm": 0.25, "weight_decay": 0.0}  # Transformer-XL's train.py
_VALIDATED_EVERY = 4000  # steps; also there
_UNKNOWN = 1e-3  # the share of bytes that training does not have and a text may have
_REFUSED = {
    "num_sampled": "is for many classes, and there are at most 256",
    "without_logits": "is for many classes, and there are at most 256",
    "torch_compile": "would compile the memory in",
    "auto_find_batch_size": "would change the number of streams",
    "fsdp": "is not for a model with a memory",
    "deepspeed": "is not for a model with a memory",
}


@dataclass
class CharactersArguments(TaskArguments):
    """The text, the size of a new model, and how the text is cut."""

    task: str | None = option("The paper's task.", choices=list(MD5))
    data_dir: str | None = option("Folder with the task's file, or its zip archive. By default it is downloaded.")
    keep_newlines: bool = option("enwik8: take the newlines, too, which its usual preparation leaves out.", False)
    train_file: str | None = option("File of your own to train on, of any encoding.")
    validation_file: str | None = option("File to validate on. By default a tenth of the training text.")
    test_file: str | None = option("File to test on. By default a tenth of the training text.")
    # These have no value with --model_name_or_path.
    hidden_size: int | None = option("New model: its width.")
    num_layers: int | None = option("New model: its layers.")
    num_heads: int | None = option("New model: heads of a layer.")
    dropout: float | None = option("New model: share of values that are dropped in training.")
    tie_word_embeddings: bool = option("New model: its output layer has the embedding's weights.", False)
    segment_length: int = option("Characters of a segment.", 70)
    memory_length: int | None = option("Characters before a segment that are remembered. By default its length.")
    eval_streams: int = option("Streams that a text is cut into for its evaluation, each with an empty memory.", 10)


class Characters(TokenTask):
    """A Transformer-XL on characters."""

    program = "sqloss characters"
    arguments = CharactersArguments
    same_when_resumed = ("segment_length", "memory_length", "total_train_batch_size")
    not_decisive = ("data_dir", *_FILES)
    name = "characters"
    metrics = ("accuracy", "bpc")
    likelihood = "bpc"
    shift_labels = False  # labels are the characters that follow, also those of the next segment
    of_new_model = ("hidden_size", "num_layers", "num_heads", "dropout", "tie_word_embeddings")
    data: CharacterData

    @classmethod
    def defaults(cls, args: Any, loss: str) -> dict[str, Any]:
        """The paper's for its tasks, else those of a small model."""
        found = None if args.mini else paper.hyperparameters(args.task or "", "transformer_xl", loss)
        values = {"train_sampling_strategy": "sequential", "per_device_eval_batch_size": args.eval_streams, **_AUTHORS}
        if found is None:
            values |= {"learning_rate": 3e-3, "num_train_epochs": 3.0 if args.mini else 10.0}
            values |= {"per_device_train_batch_size": 16, "warmup_steps": 0.1, "max_grad_norm": 1.0}
        else:
            values |= {
                "learning_rate": found.learning_rate,
                "max_steps": found.steps,
                "per_device_train_batch_size": found.batch_size,
                "segment_length": found.max_length,
                "patience": 100,  # so many validations as there are: five epochs are more than all steps
                **dict.fromkeys(("eval_strategy", "save_strategy", "logging_strategy"), "steps"),
                **dict.fromkeys(("eval_steps", "save_steps"), _VALIDATED_EVERY),
                "logging_steps": 200,
            }
        if args.model_name_or_path is None:
            values |= {"dropout": 0.1, **(_ORIGINAL if found else _SMALL)}
        return {**super().defaults(args, loss), **values}

    def check(self) -> None:
        """Refuses sizes that no model has, sources that contradict each other, and options that have no effect."""
        args, config, given = self.args, self.config, self.given
        refuse_empty(vars(args))
        super().check()
        check_at_least(1, args, "segment_length", "eval_streams")
        check_at_least(0, args, "memory_length")
        if args.memory_length is None:
            args.memory_length = args.segment_length
        if args.dropout is not None and not 0.0 <= args.dropout < 1.0:
            raise UserError(f"--dropout must be at least 0 and less than 1, got {args.dropout:g}")
        self._check_sources()
        for name, reason in _REFUSED.items():
            if getattr(config, name):
                raise UserError(f"--{name} {reason}: leave it out")
        refuse_given(given, ("per_device_eval_batch_size",), "is what --eval_streams says")
        if config.train_sampling_strategy != "sequential":
            raise UserError("--train_sampling_strategy must be sequential: a segment follows that before it")
        if config.n_gpu > 1:
            raise UserError(f"the memory cannot be shared by {config.n_gpu} GPUs of one process: start it by torchrun")
        if args.eval_streams % config.world_size:
            raise UserError(f"--eval_streams must be a multiple of the {config.world_size} processes: each has as many")
        config.per_device_eval_batch_size = args.eval_streams // config.world_size
        if "max_steps" not in given and ("num_train_epochs" in given or not config.stops_early):
            config.max_steps = -1  # the paper's would count, and not the epochs

    def _check_sources(self) -> None:
        args, own = self.args, [name for name in _FILES if getattr(self.args, name) is not None]
        for one, names in (("task", _FILES), ("mini", (*_FILES, "data_dir"))):
            for name in names:
                if getattr(args, one) and getattr(args, name) is not None:
                    raise UserError(f"--{one} and --{name} exclude each other: it has its own text")
        if not (own or args.task or args.mini):
            raise UserError(f"there is no text: give --task {' or '.join(MD5)}, --train_file, or --mini")
        if args.task is None:
            refuse_given(self.given, ("data_dir",), "is of --task")
        if args.task != "enwik8" or args.mini:
            refuse_given(self.given, ("keep_newlines",), "is of --task enwik8")
        if own and "train_file" not in own and self.config.do_train:
            raise UserError(f"--{own[0]} needs --train_file beside it, or a model that is scored as it is")
        self.name = args.task or (Path(getattr(args, own[0])).stem if own else self.name)
        check_name(f"--{own[0] if own else 'task'}", self.name)

    @property
    def paper_task(self) -> str | None:
        """Only where the user says so: a file may have any name."""
        return super().paper_task if self.args.task else None

    def load(self) -> CharacterData:
        """The paper's files, those of one's own, or the embedded text."""
        args = self.args
        with self.config.main_process_first():  # which writes what the others find
            if args.mini:
                return load_mini(args.task, args.cache_dir)
            if args.task is None:
                given = {name.removesuffix("_file"): getattr(args, name) for name in _FILES}
                return load_files({split: Path(path) for split, path in given.items() if path is not None})
            folder = args.data_dir
            if folder is None:
                try:
                    folder = download(args.task, args.cache_dir)
                except OSError as error:
                    raise UserError(
                        f"{args.task} cannot be downloaded ({sentence(error)}): give the folder that has it by "
                        "--data_dir, or --mini for the embedded text, which is no benchmark"
                    ) from error
            return load_task(args.task, Path(folder), args.keep_newlines, args.cache_dir)

    def find_model(self) -> tuple[str | None, str]:
        """A new Transformer-XL, or the named one."""
        args = self.args
        self.model_path = args.model_name_or_path
        if self.model_path is None:
            sizes = {name: getattr(args, name) for name in _ORIGINAL}
            size = "" if sizes == _ORIGINAL else f"-{args.num_layers}x{args.hidden_size}"
            return None, f"transformer_xl{size}"
        if not isinstance(self.origin, TransformerXLConfig):
            raise UserError(f"--model_name_or_path {self.model_path} is no Transformer-XL that this command has saved")
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(self.model_path, **args.hub)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"the tokenizer of {self.model_path} cannot be loaded: {sentence(error)}") from error
        return self.model_path, Path(self.model_path).resolve().name

    def settle(self) -> None:
        """The alphabet, and the bytes that are not in it."""
        self.alphabet = self.data.alphabet
        if self.model_path is not None:
            self.alphabet = alphabet_of(self.tokenizer, self.model_path)
        super().settle()
        self.unknown = {}
        for split, counts in self.data.counts.items():
            found = np.delete(counts, self.alphabet)
            if found.sum() > _UNKNOWN * counts.sum():
                worst = int(np.setdiff1d(np.flatnonzero(counts), self.alphabet)[0])
                whose = "the training text" if self.model_path is None else str(self.model_path)
                raise UserError(
                    f"{found.sum() / counts.sum():.2%} of the {split} text are bytes that {whose} does not have, such "
                    f"as 0x{worst:02X}: give a text of the same kind and encoding"
                )
            if found.any():
                self.unknown[split] = int(found.sum())
        if len(self.alphabet) < 2:
            raise UserError("the training text has one kind of byte: there is nothing to learn")

    @property
    def num_outputs(self) -> int:
        """The size of the alphabet."""
        return len(self.alphabet)

    def load_model(self, path: str | None) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
        """The model, from a folder or, without a path, a new one; and its tokenizer, of bytes."""
        args = self.args
        if path is None:
            config = TransformerXLConfig(
                vocab_size=self.num_outputs,
                hidden_size=args.hidden_size,
                num_hidden_layers=args.num_layers,
                num_attention_heads=args.num_heads,
                head_dim=args.hidden_size // args.num_heads,
                intermediate_size=4 * args.hidden_size,
                dropout=args.dropout,
                memory_length=args.memory_length,
                tie_word_embeddings=args.tie_word_embeddings,
            )
            return TransformerXLForCausalLM(config), byte_tokenizer(self.alphabet)
        try:
            model = TransformerXLForCausalLM.from_pretrained(
                path, dtype=torch.float32, **args.hub, memory_length=args.memory_length
            )
        except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
            raise UserError(f"{path} cannot be loaded as a Transformer-XL: {sentence(error)}") from error
        return model, byte_tokenizer(self.alphabet)

    def encode(self, rows: Dataset, for_training: bool = False) -> Dataset:
        """The segments of as many streams as a step of training or evaluation has rows."""
        config, characters = self.config, mapped(rows)
        streams = self.args.eval_streams
        if for_training:
            streams = config.per_device_train_batch_size * config.world_size
        if len(characters) <= streams:
            what = "per_device_train_batch_size" if for_training else "eval_streams"
            raise UserError(
                f"a text of {len(characters)} bytes is too short for {streams} streams: give a smaller --{what}"
            )
        numbers = np.full(256, IGNORE_INDEX)
        numbers[list(self.alphabet)] = np.arange(self.num_outputs)
        return cast("Dataset", Segments(characters, numbers, streams, self.args.segment_length, self._commonest))

    @property
    def _commonest(self) -> int:
        """The class of the commonest byte, in whose place unknown ones are read."""
        counts = sum(self.data.counts.values(), np.zeros(256, np.int64))
        return int(counts[list(self.alphabet)].argmax())

    def facts(self, datasets: Mapping[str, Dataset]) -> dict[str, dict[str, float]]:
        """What a model scores that knows each character's frequency alone, which a model has to beat."""
        if "train" not in self.data.splits:
            return {}
        counts = {split: values[list(self.alphabet)] for split, values in self.data.counts.items()}
        frequencies = (counts["train"] + 1) / (counts["train"] + 1).sum()  # a given model may know others
        held_out = {split: values / values.sum() for split, values in counts.items() if split != "train"}
        return {
            "unigram_bpc": {split: float(-(shares @ np.log2(frequencies))) for split, shares in held_out.items()},
            "unigram_accuracy": {split: float(shares[frequencies.argmax()]) for split, shares in held_out.items()},
        }

    def callbacks(self) -> list[TrainerCallback]:
        """The memory between the segments."""
        return [CarriedMemory()]

    def about(self) -> dict[str, str]:
        """Size and lengths."""
        args, config = self.args, self.config
        origin = "fine-tuned" if self.model_path else f"new, {args.num_heads} heads"
        streams = config.per_device_train_batch_size * config.world_size
        return {
            "model": f" ({origin}, {self.num_outputs} classes)",
            "training": f", {streams} streams, segments of {args.segment_length}, memory of {args.memory_length}",
        }

    def notes(self) -> list[str]:
        """With a word on bytes that training does not have."""
        unknown = [
            f"{number} bytes of the {split} text are not in the alphabet: not scored, and read as the commonest one"
            for split, number in self.unknown.items()
        ]
        return [*super().notes(), *unknown]


def byte_tokenizer(alphabet: Sequence[int]) -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are bytes; those that are not in the alphabet, it leaves out.

    Args:
        alphabet: the byte of each token.
    """
    names = bytes_to_unicode()
    tokenizer = Tokenizer(models.BPE(vocab={names[byte]: i for i, byte in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=["input_ids"])


def alphabet_of(tokenizer: Any, path: str) -> tuple[int, ...]:
    """The byte of each token of what :func:`byte_tokenizer` made.

    Raises:
        UserError: naming the ``path``: the tokenizer is another one.
    """
    bytes_of = {name: byte for byte, name in bytes_to_unicode().items()}
    tokens = sorted(tokenizer.get_vocab().items(), key=lambda entry: int(entry[1]))
    if not tokens or any(token not in bytes_of for token, _ in tokens):
        raise UserError(f"the tokens of {path} are no bytes: it is no model of characters that this command has saved")
    return tuple(bytes_of[token] for token, _ in tokens)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line ``sqloss characters``; returns the exit status."""
    return experiment.main(Characters, argv)


if __name__ == "__main__":
    raise SystemExit(main())
