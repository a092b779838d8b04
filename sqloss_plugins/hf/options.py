"""The command line of a task: its own options, what all tasks take, and everything of SquareLossConfig."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from transformers import HfArgumentParser
from transformers.hf_argparser import ArgumentDefaultsHelpFormatter

from sqloss_plugins.command_line import OneLineErrors, read_mapping
from sqloss_plugins.errors import UserError
from sqloss_plugins.hf.config import SquareLossConfig
from sqloss_plugins.losses import LOSSES
from sqloss_plugins.metrics import metric


@dataclass
class TaskArguments:
    """What every task takes beside the SquareLossConfig."""

    mini: bool = field(
        default=False, metadata={"help": "Use the embedded mini data: no download, and no real task or benchmark."}
    )
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Pre-trained model: a name on the hub, or a folder."}
    )
    cross_entropy_run: str | None = field(
        default=None,
        metadata={
            "help": "With --protocol same_epochs: folder of the cross-entropy run, of the same seed and with "
            "early stopping, whose number of epochs is taken. By default the best run in the default folders."
        },
    )
    cache_dir: str | None = field(default=None, metadata={"help": "Where downloads and data sets are kept."})
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of the model."})
    token: str | None = field(default=None, metadata={"help": "Token for the hub."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Allow the model's own code from the hub."})

    @property
    def hub(self) -> dict[str, Any]:
        """Keyword arguments for every ``from_pretrained``."""
        return {
            "cache_dir": self.cache_dir,
            "revision": self.model_revision,
            "token": self.token,
            "trust_remote_code": self.trust_remote_code,
        }


Own = TypeVar("Own", bound=TaskArguments)


@dataclass(frozen=True)
class Options(Generic[Own]):
    """A command line.

    Attributes:
        args: the task's own options.
        config: the rest.
        given: names of the options that are there, rather than at their default.
    """

    args: Own
    config: SquareLossConfig
    given: frozenset[str]


class _Parser(OneLineErrors, HfArgumentParser):
    pass


class _HelpFormatter(ArgumentDefaultsHelpFormatter):
    """Keeps the lines of the description as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "".join(indent + line for line in text.splitlines(keepends=True))


def parse_options(
    argv: Sequence[str],
    own_type: type[Own],
    task_defaults: Callable[[Own, str, str], Mapping[str, Any]],
    **parser_options: Any,
) -> Options[Own]:
    """The command line, or the YAML or JSON file that it names.

    Args:
        argv: the arguments after the program's name.
        own_type: the task's own options.
        task_defaults: called with those, the loss and the protocol; the task's defaults for options of either kind.
        **parser_options: ``prog``, ``usage`` and ``description`` of the parser.

    Raises:
        UserError: an option that does not exist, or has a value that it cannot have.
        SystemExit: after ``--help``.
    """
    if argv and argv[0].endswith((".yaml", ".yml", ".json")):
        argv = [*_arguments_of_file(Path(argv[0])), *argv[1:]]  # the later of two values counts
    kinds = (own_type, SquareLossConfig)
    parser = _Parser(kinds, formatter_class=_HelpFormatter, allow_abbrev=False, add_help=False, **parser_options)
    parser.add_argument("-h", "--help", action="store_true", help="Show this, and end.")
    names = [entry.name for kind in kinds for entry in fields(kind) if entry.init]
    values = {name: parser.get_default(name) for name in names}
    # What the namespace has already takes no default, so that the rest is what is given.
    namespace, unknown = parser.parse_known_args(list(argv), argparse.Namespace(**dict.fromkeys(names, MISSING)))
    given = {name: value for name, value in vars(namespace).items() if value is not MISSING}
    wants_help = given.pop("help")
    protocol = given.get("protocol") or "early_stopping"
    own = own_type(**{name: given[name] for name in (entry.name for entry in fields(own_type)) if name in given})
    values |= {
        "output_dir": "",
        "protocol": protocol,
        "per_device_eval_batch_size": 64,
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "logging_strategy": "epoch",
        "save_total_limit": 1,
        "load_best_model_at_end": protocol == "early_stopping",
        "restore_callback_states_from_checkpoint": True,
        "report_to": "none",
        "dataloader_pin_memory": torch.cuda.is_available(),
    }
    values |= {**task_defaults(own, given.get("loss", values["loss"]), protocol), **given}
    if wants_help:
        parser.set_defaults(**values)
        parser.print_help()
        raise SystemExit(0)
    if unknown:
        raise UserError(f"unknown option or value: {' '.join(unknown)} (see --help)")
    # All three phases unless one is asked for, less those that are turned off.
    phases = {name: given.get(name) for name in ("do_train", "do_eval", "do_predict")}
    wanted = {name: bool(told) if any(phases.values()) else told is None for name, told in phases.items()}
    if not any(wanted.values()):
        raise UserError("--do_train, --do_eval and --do_predict are all false, so that there is nothing to do")
    own_values, values = ({entry.name: values[entry.name] for entry in fields(kind) if entry.init} for kind in kinds)
    try:
        config = SquareLossConfig(**values | wanted)
    except Exception as error:  # files that options name, back ends that are not installed, and so on
        raise UserError(f"the training options cannot be used: {sentence(error)}") from error
    for name, value in wanted.items():
        setattr(config, name, value)  # TrainingArguments turn do_eval on by themselves
    return Options(own_type(**own_values), config, frozenset(given))


def sentence(error: BaseException) -> str:
    """What another library says of a mistake, on one line."""
    text = " ".join(str(error).split())
    return text if text and not isinstance(error, KeyError) else f"{type(error).__name__} {text}".strip()


def _arguments_of_file(path: Path) -> list[str]:
    """A settings file as command-line arguments, so that both are checked alike."""
    arguments: list[str] = []
    for name, value in read_mapping(path).items():
        if value is None:
            continue
        if value is False and name.endswith("_strategy"):
            value = "no"  # which YAML takes for a truth value
        values = value if isinstance(value, list) else [json.dumps(value) if isinstance(value, dict) else value]
        arguments += [f"--{name}", *map(str, values)]
    return arguments


_POSITIVE: tuple[str, ...] = (
    "learning_rate",
    "num_train_epochs",
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
)
_POSITIVE += ("gradient_accumulation_steps", "eval_accumulation_steps", "torch_empty_cache_steps", "logging_steps")
_POSITIVE += ("save_steps", "eval_steps", "save_total_limit", "neftune_noise_alpha", "dataloader_prefetch_factor")
_POSITIVE += ("ddp_bucket_cap_mb", "ddp_timeout")
_NOT_NEGATIVE: tuple[str, ...] = (
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "warmup_steps",
)
_NOT_NEGATIVE += ("eval_delay", "dataloader_num_workers")
_MAPPINGS = ("lr_scheduler_kwargs", "gradient_checkpointing_kwargs", "activation_checkpointing_kwargs")
_REFUSED = {
    "use_liger_kernel": "computes cross-entropy inside the model, whatever --loss says",
    "prediction_loss_only": "leaves no outputs to score",
    "dataloader_drop_last": "drops validation and test examples too, and with them predictions",
    "save_only_model": "leaves out of the checkpoints what a killed run needs to go on",
    "batch_eval_metrics": "scores batches, and the metrics are those of the whole set",
}


def check_options(options: Options[Any], task: str, metrics: Sequence[str]) -> None:
    """Refuses what no task can do, before anything is loaded.

    Args:
        options: what :func:`parse_options` returned.
        task: the task's name, for the messages.
        metrics: what early stopping may go by.

    Raises:
        UserError: for the first that is found.
    """
    config = options.config
    _check_values(config)
    if options.args.model_name_or_path == "":
        raise UserError("--model_name_or_path is empty: give a name or a folder, or leave it out")
    if not LOSSES[config.loss].is_rescaled:
        refuse_given(options.given, ("rescaling", "paper_task"), f"is of the square loss, and --loss is {config.loss}")
    if config.k is not None and config.M is not None:
        refuse_given(options.given, ("rescaling", "paper_task"), "chooses k and M, and both are given")
    if config.stops_early:
        refuse_given(options.given, ("cross_entropy_run",), "is of --protocol same_epochs")
        if config.metric_for_best_model not in metrics:
            raise UserError(f"--metric_for_best_model must be one of {', '.join(metrics)} for {task}")
        is_higher = metric(config.metric_for_best_model).higher_is_better
        if config.greater_is_better != is_higher:
            raise UserError(
                f"the {'greater' if is_higher else 'smaller'} {config.metric_for_best_model}, the better: leave "
                "--greater_is_better out"
            )
    else:
        refuse_given(options.given, ("patience",), "is of --protocol early_stopping")
        if "num_train_epochs" in options.given:
            refuse_given(options.given, ("cross_entropy_run",), "says how many epochs, and so does --num_train_epochs")


def refuse_given(given: Collection[str], names: Sequence[str], reason: str) -> None:
    """Refuses options that would have no effect.

    Raises:
        UserError: for the first that is given.
    """
    for name in names:
        if name in given:
            raise UserError(f"--{name} {reason}: leave it out")


def _check_values(config: SquareLossConfig) -> None:
    """Refuses values that an option cannot have, and options that this package has no use for."""
    for names, least, limit in ((_POSITIVE, math.ulp(0.0), "greater than 0"), (_NOT_NEGATIVE, 0.0, "of at least 0")):
        for name in names:
            value = getattr(config, name)
            if value is not None and not least <= value < math.inf:
                raise UserError(f"--{name} must be a finite number {limit}, got {value:g}")
    for name in ("seed", "data_seed"):
        value = getattr(config, name)
        if value is not None and not 0 <= value < 2**32:
            raise UserError(f"--{name} must be from 0 to {2**32 - 1}, got {value}")
    if config.max_steps != -1 and config.max_steps < 1:
        raise UserError(f"--max_steps must be at least 1 (or -1, for whole epochs), got {config.max_steps}")
    for name in _MAPPINGS:
        if isinstance(getattr(config, name), str):
            raise UserError(f"--{name} must be a mapping in JSON, got {getattr(config, name)!r}")
    if config.dataloader_persistent_workers and not config.dataloader_num_workers:
        raise UserError("--dataloader_persistent_workers needs --dataloader_num_workers 1 or more")
    for name, reason in _REFUSED.items():
        if getattr(config, name):
            raise UserError(f"--{name} {reason}: leave it out")
    if not config.eval_do_concat_batches:
        raise UserError("--eval_do_concat_batches false leaves the outputs in pieces: leave it out")


def check_at_least(least: int, args: TaskArguments, *names: str) -> None:
    """Refuses whole numbers that are given and too small.

    Raises:
        UserError: for the first that is found.
    """
    for name in names:
        value = getattr(args, name)
        if value is not None and value < least:
            raise UserError(f"--{name} must be at least {least}, got {value}")
