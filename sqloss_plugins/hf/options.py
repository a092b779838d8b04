"""The command line of a task: its own options, and everything of SquareLossConfig."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, field, fields
from pathlib import Path
from typing import Any

import torch
from transformers import HfArgumentParser
from transformers.hf_argparser import ArgumentDefaultsHelpFormatter

from sqloss_plugins.command_line import OneLineErrors, read_mapping
from sqloss_plugins.errors import UserError, sentence
from sqloss_plugins.hf.config import SquareLossConfig
from sqloss_plugins.hf.task import Task, TaskArguments
from sqloss_plugins.losses import DEFAULT_LOSS, LOSSES
from sqloss_plugins.metrics import metric


class _Parser(OneLineErrors, HfArgumentParser):
    pass


class _HelpFormatter(ArgumentDefaultsHelpFormatter):
    """Keeps the lines of the description as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "".join(indent + line for line in text.splitlines(keepends=True))


def parse(task_type: type[Task], argv: Sequence[str]) -> Task:
    """A command line, or the YAML or JSON file that it names, as a task.

    Raises:
        UserError: an option that does not exist, or has a value that it cannot have.
        SystemExit: after ``--help``.
    """
    if argv and argv[0].endswith((".yaml", ".yml", ".json")):
        argv = [*_arguments_of_file(Path(argv[0])), *argv[1:]]  # the later of two values counts
    program = task_type.program  # as the user has typed it
    task_type = task_type.chosen_by(_as_typed(argv))
    kinds = (task_type.arguments, SquareLossConfig)
    names = [[entry.name for entry in fields(kind) if entry.init] for kind in kinds]
    parser = _Parser(
        kinds,
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
        add_help=False,
        prog=program,
        usage=f"{program} [options]",
        description=sys.modules[task_type.__module__].__doc__,
    )
    parser.add_argument("-h", "--help", action="store_true", help="Show this, and end.")
    # What the namespace has already takes no default, so that the rest is what is given.
    empty = argparse.Namespace(**dict.fromkeys([*names[0], *names[1]], MISSING))
    namespace, unknown = parser.parse_known_args(list(argv), empty)
    given = {name: value for name, value in vars(namespace).items() if value is not MISSING}
    wants_help = given.pop("help")
    values = {name: parser.get_default(name) for name in [*names[0], *names[1]]}
    values |= {**_defaults(task_type, given), **given}
    if wants_help:
        parser.set_defaults(**values)
        parser.print_help()
        raise SystemExit(0)
    if unknown:
        raise UserError(f"unknown option or value: {' '.join(unknown)} (see --help)")
    values |= (phases := _phases(given))
    own, rest = ({name: values[name] for name in of_kind} for of_kind in names)
    try:
        config = SquareLossConfig(**rest)
    except Exception as error:  # files that options name, back ends that are not installed, and so on
        raise UserError(f"the training options cannot be used: {sentence(error)}") from error
    for name, value in phases.items():
        setattr(config, name, value)  # TrainingArguments turn do_eval on by themselves
    task = task_type(task_type.arguments(**own), config, frozenset(given))
    task.check()
    _check(task)
    return task


def _as_typed(argv: Sequence[str]) -> dict[str, str]:
    """Option -> its value, as far as can be told without knowing the options; of several values the first one."""
    found = {}
    for word, following in zip(argv, [*argv, ""][1:], strict=True):
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            found[name.replace("-", "_")] = value if equals else following  # the parser takes both
    return found


def _defaults(task_type: type[Task], given: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults that are not TrainingArguments' own, and depend on what is given."""
    names = {entry.name for entry in fields(task_type.arguments)}
    own = task_type.arguments(**{name: value for name, value in given.items() if name in names})
    values = task_type.defaults(own, given.get("loss", DEFAULT_LOSS))
    chosen_by = values.pop("metric_for_best_model")
    if given.get("num_sampled") is not None:
        values["without_logits"] = True
    protocol = given.get("protocol") or "early_stopping"
    if protocol == "early_stopping":
        values |= {"metric_for_best_model": chosen_by, "greater_is_better": metric(chosen_by).higher_is_better}
    if "lr_scheduler_type" in given:
        values |= {"lr_milestones": None, "lr_decay": None}
    elif "lr_milestones" in given:
        values["lr_scheduler_type"] = "constant"
    return {
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
        **values,
    }


def _phases(given: Mapping[str, Any]) -> dict[str, bool]:
    """All three phases unless one is asked for, less those that are turned off."""
    told = {name: given.get(name) for name in ("do_train", "do_eval", "do_predict")}
    wanted = {name: bool(value) if any(told.values()) else value is None for name, value in told.items()}
    if not any(wanted.values()):
        raise UserError("--do_train, --do_eval and --do_predict are all false, so that there is nothing to do")
    return wanted


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
_OF_TRAINING: tuple[str, ...] = (
    "learning_rate",
    "num_train_epochs",
    "max_steps",
    "protocol",
    "patience",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "max_train_samples",
)
_OF_TRAINING += ("lr_scheduler_type", "lr_scheduler_kwargs", "lr_milestones", "lr_decay", "warmup_steps", "optim")
_OF_TRAINING += ("optim_args", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm")
_OF_TRAINING += ("gradient_checkpointing", "neftune_noise_alpha", "train_sampling_strategy", "eval_strategy")
_OF_TRAINING += ("eval_steps", "save_strategy", "save_steps", "save_total_limit", "load_best_model_at_end")
_MAPPINGS = ("lr_scheduler_kwargs", "gradient_checkpointing_kwargs", "activation_checkpointing_kwargs")
_REFUSED = {
    "use_liger_kernel": "computes cross-entropy inside the model, whatever --loss says",
    "prediction_loss_only": "leaves no outputs to score",
    "dataloader_drop_last": "drops validation and test examples too, and with them predictions",
    "save_only_model": "leaves out of the checkpoints what a killed run needs to go on",
    "batch_eval_metrics": "scores batches, and the metrics are those of the whole set",
}


def _check(task: Task) -> None:
    """Refuses what no task can do, before anything is loaded.

    Raises:
        UserError: for the first that is found.
    """
    config, given, chosen_by = task.config, task.given, task.config.metric_for_best_model
    _check_values(config)
    if task.args.model_name_or_path == "":
        raise UserError("--model_name_or_path is empty: give a name or a folder, or leave it out")
    if not LOSSES[config.loss].is_rescaled:
        refuse_given(given, ("rescaling", "paper_task"), f"is of the square loss, and --loss is {config.loss}")
    if config.k is not None and config.M is not None:
        refuse_given(given, ("rescaling", "paper_task"), "chooses k and M, and both are given")
    if config.teacher is None:
        refuse_given(given, ("distillation_weight",), "is the share of --teacher, and there is none")
    if not task.counts_classes:
        refuse_given(given, ("prior_exponent",), "is for language models")
    if not config.do_train:
        of_training = (
            "teacher",
            "prior_exponent",
            "factorised_head",
            "head_learning_rate",
            "num_sampled",
            "score_train",
        )
        refuse_given(given, of_training, "is for training, and nothing is trained")
    if config.stops_early:
        refuse_given(given, ("cross_entropy_run",), "is of --protocol same_epochs")
        if chosen_by not in task.metrics:
            raise UserError(f"--metric_for_best_model must be one of {', '.join(task.metrics)} for {task.name}")
        is_higher = metric(chosen_by).higher_is_better
        if config.greater_is_better != is_higher:
            better = "greater" if is_higher else "smaller"
            raise UserError(f"the {better} {chosen_by}, the better: leave --greater_is_better out")
    else:
        refuse_given(given, ("patience",), "is of --protocol early_stopping")
        if "num_train_epochs" in given:
            refuse_given(given, ("cross_entropy_run",), "says how many epochs, and so does --num_train_epochs")


def without_effect(task: Task) -> list[str]:
    """A note of options of training where nothing is trained: a script may give the same ones to both."""
    names = [] if task.config.do_train else [f"--{name}" for name in _OF_TRAINING if name in task.given]
    return [f"WITHOUT EFFECT, as nothing is trained: {', '.join(names)}"] if names else []


def option(text: str, default: Any = None, **more: Any) -> Any:
    """A field of arguments: its help, its default, and more that ``argparse`` takes."""
    return field(default=default, metadata={"help": text, **more})


def refuse_empty(values: Mapping[str, Any]) -> None:
    """Refuses options that are given as an empty text, such as a variable of a script that is not set.

    Raises:
        UserError: for the first that is found.
    """
    for name, value in values.items():
        if value == "":
            raise UserError(f"--{name} is empty: give a value, or leave it out")


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
