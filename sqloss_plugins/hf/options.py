"""The command line of a training script: its own options, what all of them take, and all of TrainingArguments."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import HfArgumentParser, TrainingArguments
from transformers.hf_argparser import ArgumentDefaultsHelpFormatter, string_to_bool

from sqloss_plugins.command_line import OneLineErrors, read_mapping
from sqloss_plugins.errors import UserError
from sqloss_plugins.losses import LOSSES, check_rescaling

PROTOCOLS = ("early_stopping", "same_epochs")


@dataclass
class RunArguments:
    """What every training script takes: with which loss, for how long, and how to get at the hub."""

    loss: str = field(default="square", metadata={"help": "The training loss.", "choices": list(LOSSES)})
    k: float | None = field(
        default=None,
        metadata={"help": "Square loss: weight of the true class's term. By default by task or number of classes."},
    )
    M: float | None = field(
        default=None,
        metadata={"help": "Square loss: target of the true class. By default by task or number of classes."},
    )
    protocol: str = field(
        default="early_stopping",
        metadata={
            "help": "early_stopping: at most num_train_epochs epochs, stopping when the validation metric has not "
            "improved for `patience` epochs, and the best epoch's model; same_epochs: exactly num_train_epochs epochs, "
            "and the last model.",
            "choices": list(PROTOCOLS),
        },
    )
    patience: int = field(default=5, metadata={"help": "Epochs without improvement before early_stopping stops."})
    cache_dir: str | None = field(default=None, metadata={"help": "Where downloads are kept."})
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of the model."})
    token: str | None = field(default=None, metadata={"help": "Token for the hub."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Allow the model's own code from the hub."})

    @property
    def stops_early(self) -> bool:
        """Whether validation decides when training ends and which model counts."""
        return self.protocol == "early_stopping"

    @property
    def hub(self) -> dict[str, Any]:
        """Keyword arguments for every ``from_pretrained``."""
        return {
            "cache_dir": self.cache_dir,
            "revision": self.model_revision,
            "token": self.token,
            "trust_remote_code": self.trust_remote_code,
        }


Own = TypeVar("Own", bound=RunArguments)


class _Parser(OneLineErrors, HfArgumentParser):
    pass


class _HelpFormatter(ArgumentDefaultsHelpFormatter):
    """Keeps the lines of the description as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "".join(indent + line for line in text.splitlines(keepends=True))


def parse_options(
    argv: Sequence[str],
    own_type: type[Own],
    defaults: Callable[[Own], dict[str, Any]],
    **parser_options: Any,
) -> tuple[Own, TrainingArguments]:
    """The command line, or the YAML or JSON file that it names, as two data classes.

    Args:
        argv: the arguments after the program's name.
        own_type: the script's own options.
        defaults: the script's defaults, which may depend on its own options.
        **parser_options: ``prog``, ``usage`` and ``description`` of the parser.

    Raises:
        UserError: an option that does not exist, or has a value that it cannot have.
    """
    if argv and argv[0].endswith((".yaml", ".yml", ".json")):
        argv = [*_arguments_of_file(Path(argv[0])), *argv[1:]]  # the later of two values counts
    # Two passes: the defaults of the second depend on what the first finds.
    first = _Parser(own_type, add_help=False, allow_abbrev=False)
    own, rest = first.parse_args_into_dataclasses(list(argv), return_remaining_strings=True, look_for_args_file=False)
    parser = _Parser(
        (own_type, TrainingArguments), formatter_class=_HelpFormatter, allow_abbrev=False, **parser_options
    )
    parser.set_defaults(
        output_dir="",
        per_device_eval_batch_size=64,
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_strategy="epoch",
        save_total_limit=1,
        load_best_model_at_end=own.stops_early,
        restore_callback_states_from_checkpoint=True,
        report_to="none",
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    parser.set_defaults(**defaults(own))
    try:
        own, training, unknown = parser.parse_args_into_dataclasses(
            list(argv), return_remaining_strings=True, look_for_args_file=False
        )
    except (ValueError, ImportError, RuntimeError) as error:
        if own.stops_early and "load_best_model_at_end requires the save and eval strategy" in str(error):
            raise UserError(
                "--protocol early_stopping validates and saves after every epoch: leave --eval_strategy and "
                "--save_strategy out, or choose --protocol same_epochs"
            ) from error
        raise UserError(" ".join(str(error).split())) from error
    if unknown:
        raise UserError(f"unknown option or value: {' '.join(unknown)} (see --help)")
    # All three phases unless one is asked for, less those that are turned off; not read off the TrainingArguments,
    # which turn do_eval on by themselves.
    phases = _Parser(add_help=False, allow_abbrev=False)
    for name in ("train", "eval", "predict"):
        phases.add_argument(f"--do_{name}", f"--do-{name}", type=string_to_bool, nargs="?", const=True)
    told = vars(phases.parse_known_args(rest)[0])
    for name, value in told.items():
        setattr(training, name, bool(value) if any(told.values()) else value is None)
    return own, training


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


def check_options(
    args: RunArguments, training: TrainingArguments, task: str, metrics: Sequence[str], greater_is_better: bool = True
) -> None:
    """Refuses what no script can do, before anything is loaded.

    Args:
        args, training: what :func:`parse_options` returned.
        task: the task's name, for the messages.
        metrics: what early stopping may go by.
        greater_is_better: of these metrics.

    Raises:
        UserError: for the first that is found.
    """
    if args.loss != "square" and (args.k is not None or args.M is not None):
        raise UserError(f"--k and --M rescale the square loss, and --loss is {args.loss}: leave them out")
    try:
        check_rescaling(1.0 if args.k is None else args.k, 1.0 if args.M is None else args.M)
    except ValueError as error:
        raise UserError(f"--{error}") from error
    if not 0.0 <= training.label_smoothing_factor <= 1.0:
        raise UserError(f"--label_smoothing_factor must be between 0 and 1, got {training.label_smoothing_factor:g}")
    check_at_least(1, args, "patience")
    for name in (
        "learning_rate",
        "num_train_epochs",
        "per_device_train_batch_size",
        "per_device_eval_batch_size",
        "gradient_accumulation_steps",
        "eval_accumulation_steps",
    ):
        value = getattr(training, name)
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"--{name} must be a finite number greater than 0, got {value:g}")
    for name in ("seed", "data_seed"):
        value = getattr(training, name)
        if value is not None and not 0 <= value < 2**32:
            raise UserError(f"--{name} must be from 0 to {2**32 - 1}, got {value}")
    if training.max_steps != -1 and training.max_steps < 1:
        raise UserError(f"--max_steps must be at least 1 (or -1, for whole epochs), got {training.max_steps}")
    if args.stops_early and not training.load_best_model_at_end:
        raise UserError("--protocol early_stopping needs --load_best_model_at_end: leave that option at its default")
    if args.stops_early and training.metric_for_best_model not in metrics:
        raise UserError(f"--metric_for_best_model must be one of {', '.join(metrics)} for {task}")
    if args.stops_early and (training.eval_strategy != "epoch" or training.eval_delay):
        raise UserError(
            "--protocol early_stopping validates after every epoch: leave --eval_strategy and --eval_delay out"
        )
    if args.stops_early and training.greater_is_better != greater_is_better:
        raise UserError(
            f"the {'greater' if greater_is_better else 'smaller'} {training.metric_for_best_model}, the better: leave "
            "--greater_is_better out"
        )
    if not args.stops_early and training.load_best_model_at_end:
        raise UserError("--protocol same_epochs takes the last model: leave --load_best_model_at_end out")
    if training.use_liger_kernel:
        raise UserError(
            "--use_liger_kernel computes cross-entropy inside the model, whatever --loss says: leave it out"
        )
    for name, reason in (
        ("prediction_loss_only", "leaves no outputs to score"),
        ("dataloader_drop_last", "drops validation and test examples too, and with them predictions"),
        ("save_only_model", "leaves out of the checkpoints what a killed run needs to go on"),
        ("batch_eval_metrics", "scores batches, and the metrics are those of the whole set"),
    ):
        if getattr(training, name):
            raise UserError(f"--{name} {reason}: leave it out")
    if not training.eval_do_concat_batches:
        raise UserError("--eval_do_concat_batches false leaves the outputs in pieces: leave it out")


def check_at_least(least: int, args: RunArguments, *names: str) -> None:
    """Refuses whole numbers that are given and too small.

    Raises:
        UserError: for the first that is found.
    """
    for name in names:
        value = getattr(args, name)
        if value is not None and value < least:
            raise UserError(f"--{name} must be at least {least}, got {value}")


def training_line(args: RunArguments, training: TrainingArguments) -> str:
    """How training goes, in one line of a banner."""
    accumulation = training.gradient_accumulation_steps
    return (
        f"{args.protocol}, {training.num_train_epochs:g} epochs, lr {training.learning_rate:g}, "
        f"batch {training.train_batch_size}"
        + (f" x {accumulation} accumulated" if accumulation > 1 else "")
        + (f", at most {training.max_steps} steps" if training.max_steps > 0 else "")
        + f", seed {training.seed}"
    )
