"""Fine-tunes a pre-trained model on a GLUE task with the square loss, cross-entropy or squentropy.

    python run_glue_sq.py --task mrpc
    python run_glue_sq.py --task mrpc --loss cross_entropy --learning_rate 5e-5 --seed 1
    python run_glue_sq.py --task sst2 --data_dir GLUE/SST-2 --model_name_or_path bert-large-cased
    python run_glue_sq.py settings.yaml

Takes the options below and all of transformers.TrainingArguments. What is not given is the paper's (Table 10: batch
size, length, learning rate, epochs, per loss), for tasks that the paper does not have its common fine-tuning values.
A run that was killed goes on where it was when the same command is run again; a run that is finished is not repeated.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from datasets import Dataset
from datasets.utils.logging import disable_progress_bar
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    HfArgumentParser,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainingArguments,
    default_data_collator,
    set_seed,
)
from transformers.hf_argparser import string_to_bool

from sqloss_plugins.command_line import OneLineErrors, read_mapping
from sqloss_plugins.data.glue import (
    TASKS,
    Columns,
    GlueData,
    GlueTask,
    glue_metrics,
    load_from_dir,
    load_from_hub,
    write_submission,
)
from sqloss_plugins.data.mini_glue import load_mini
from sqloss_plugins.errors import UserError, run_command
from sqloss_plugins.folders import claim_folder, lock_folder
from sqloss_plugins.hf.hub import EMBEDDED_MODEL, embedded_model, go_offline, hub_is_reachable
from sqloss_plugins.hf.run_folder import (
    check_checkpoint,
    check_space,
    earlier_progress,
    run_settings,
)
from sqloss_plugins.hf.trainer import SquareLossTrainer
from sqloss_plugins.losses import LOSSES, check_rescaling
from sqloss_plugins.paper import HyperParameters, Rescaling, hyperparameters, rescaling
from sqloss_plugins.results import (
    RESULT_NAME,
    Result,
    device_name,
    read_result,
    run_folder,
    versions,
    write_result,
)

PROGRAM = "run_glue_sq.py"
PROTOCOLS = ("early_stopping", "same_epochs")
_SAME_WHEN_RESUMED = ("task", "loss", "k", "M", "model_name_or_path", "data_fingerprint")
_COMMON = HyperParameters(
    batch_size=32,
    max_length=128,
    learning_rate=2e-5,
    epochs=3,
    steps=None,
    dropout=None,
    backbone="bert-base-cased",
    config=None,
)
"""For the GLUE tasks that the paper does not have: what Table 10 has for most of those it does."""


@dataclass
class GlueArguments:
    """What to train, on what, with which loss."""

    task: str | None = field(
        default=None, metadata={"help": "The GLUE task.", "choices": list(TASKS), "aliases": ["--task_name"]}
    )
    loss: str = field(default="square", metadata={"help": "The training loss.", "choices": list(LOSSES)})
    k: float | None = field(
        default=None,
        metadata={"help": "Square loss: weight of the true class's term. By default the paper's for the task."},
    )
    M: float | None = field(
        default=None, metadata={"help": "Square loss: target of the true class. By default the paper's for the task."}
    )
    protocol: str = field(
        default="early_stopping",
        metadata={
            "help": "early_stopping: at most num_train_epochs epochs, stopping when the validation metric has not "
            "improved for `patience` epochs, and the best epoch's model; same_epochs: exactly num_train_epochs epochs "
            "(by default those that the paper's cross-entropy takes), and the last model.",
            "choices": list(PROTOCOLS),
        },
    )
    patience: int = field(default=5, metadata={"help": "Epochs without improvement before early_stopping stops."})
    data_dir: str | None = field(
        default=None, metadata={"help": "Folder with the task's TSV or parquet files, instead of the hub."}
    )
    mini: bool = field(
        default=False, metadata={"help": "Use the embedded mini data and model: no download, and not the real task."}
    )
    model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": f"Pre-trained model: a name on the hub, a folder, or {EMBEDDED_MODEL} for the embedded one. By "
            "default the paper's, bert-base-cased."
        },
    )
    config_name: str | None = field(default=None, metadata={"help": "Configuration, if not the model's."})
    tokenizer_name: str | None = field(default=None, metadata={"help": "Tokenizer, if not the model's."})
    cache_dir: str | None = field(default=None, metadata={"help": "Where downloads are kept."})
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of the model."})
    token: str | None = field(default=None, metadata={"help": "Token for the hub."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Allow the model's own code from the hub."})
    ignore_mismatched_sizes: bool = field(
        default=False, metadata={"help": "Allow a model whose head has another number of classes."}
    )
    max_seq_length: int | None = field(default=None, metadata={"help": "Tokens; longer inputs are cut. Default 128."})
    pad_to_max_length: bool = field(
        default=False, metadata={"help": "Pad every batch to max_seq_length rather than to its longest input."}
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "Train on the first so many examples."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Validate on the first so many examples."})
    max_predict_samples: int | None = field(default=None, metadata={"help": "Test on the first so many examples."})


class _Parser(OneLineErrors, HfArgumentParser):
    pass


@dataclass(frozen=True)
class _Run:
    """One run, every choice made."""

    task: GlueTask
    args: GlueArguments
    training: TrainingArguments
    rescaling: Rescaling | None
    data: GlueData
    model_path: str
    arch: str

    @property
    def folder(self) -> Path:
        return Path(self.training.output_dir)


def parse(argv: Sequence[str]) -> tuple[GlueArguments, TrainingArguments]:
    """The command line, or the YAML or JSON file that it names, as two data classes.

    Raises:
        UserError: an option that does not exist, or has a value that it cannot have.
    """
    if argv and argv[0].endswith((".yaml", ".yml", ".json")):
        argv = [*_arguments_of_file(Path(argv[0])), *argv[1:]]  # the later of two values counts
    # Two passes: the defaults of the second depend on the task and the loss that the first finds.
    first = _Parser(GlueArguments, add_help=False, allow_abbrev=False)
    glue, rest = first.parse_args_into_dataclasses(list(argv), return_remaining_strings=True, look_for_args_file=False)
    parser = _Parser(
        (GlueArguments, TrainingArguments),
        prog=PROGRAM,
        usage=f"{PROGRAM} --task TASK [options]",
        description=__doc__,
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
    )
    defaults = _paper_values(glue)
    task = TASKS.get(glue.task or "")
    early = glue.protocol == "early_stopping"
    parser.set_defaults(
        output_dir="",
        learning_rate=defaults.learning_rate,
        num_train_epochs=float(defaults.epochs or 3),
        per_device_train_batch_size=defaults.batch_size,
        per_device_eval_batch_size=64,
        max_seq_length=defaults.max_length,
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_strategy="epoch",
        save_total_limit=1,
        load_best_model_at_end=early,
        metric_for_best_model=task.metrics[0] if task and early else None,
        greater_is_better=True if early else None,
        restore_callback_states_from_checkpoint=True,
        report_to="none",
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    try:
        glue, training, unknown = parser.parse_args_into_dataclasses(
            list(argv), return_remaining_strings=True, look_for_args_file=False
        )
    except (ValueError, ImportError, RuntimeError) as error:
        raise UserError(" ".join(str(error).split())) from error
    if unknown:
        raise UserError(f"unknown option or value: {' '.join(unknown)} (see --help)")
    _check(glue, training)
    # All three phases unless one is asked for, less those that are turned off; not read off the TrainingArguments,
    # which turn do_eval on by themselves.
    phases = _Parser(add_help=False, allow_abbrev=False)
    for name in ("train", "eval", "predict"):
        phases.add_argument(f"--do_{name}", f"--do-{name}", type=string_to_bool, nargs="?", const=True)
    told = vars(phases.parse_known_args(rest)[0])
    for name, value in told.items():
        setattr(training, name, bool(value) if any(told.values()) else value is None)
    return glue, training


class _HelpFormatter(transformers.hf_argparser.ArgumentDefaultsHelpFormatter):
    """Keeps the lines of the description as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "".join(indent + line for line in text.splitlines(keepends=True))


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


def _paper_values(glue: GlueArguments) -> HyperParameters:
    """Hyper-parameters of the paper for the task and loss, or the common ones."""
    own = hyperparameters(glue.task or "", "bert", glue.loss) or _COMMON
    if glue.protocol == "same_epochs":
        other = hyperparameters(glue.task or "", "bert", "cross_entropy") or _COMMON
        own = dataclasses.replace(own, epochs=other.epochs)
    return own


def _check(glue: GlueArguments, training: TrainingArguments) -> None:
    """Refuses what cannot work before anything is loaded."""
    if glue.task is None:
        raise UserError(f"--task is missing: choose from {', '.join(TASKS)}")
    task = TASKS[glue.task]
    if glue.loss != "square" and (glue.k is not None or glue.M is not None):
        raise UserError(f"--k and --M rescale the square loss, and --loss is {glue.loss}: leave them out")
    if task.is_regression and (glue.k is not None or glue.M is not None):
        raise UserError(f"--k and --M rescale the true class, and {task.name} is a regression: leave them out")
    try:
        check_rescaling(1.0 if glue.k is None else glue.k, 1.0 if glue.M is None else glue.M)
    except ValueError as error:
        raise UserError(f"--{error}") from error
    smoothing = training.label_smoothing_factor
    if not 0.0 <= smoothing <= 1.0:
        raise UserError(f"--label_smoothing_factor must be between 0 and 1, got {smoothing:g}")
    if smoothing and task.is_regression:
        raise UserError(f"--label_smoothing_factor needs classes, and {task.name} is a regression")
    for name in ("max_seq_length", "max_train_samples", "max_eval_samples", "max_predict_samples", "patience"):
        value = getattr(glue, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} must be at least 1, got {value}")
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
    if glue.protocol == "early_stopping" and not training.load_best_model_at_end:
        raise UserError("--protocol early_stopping needs --load_best_model_at_end: leave that option at its default")
    if glue.protocol == "early_stopping" and training.metric_for_best_model not in task.metrics:
        raise UserError(f"--metric_for_best_model must be one of {', '.join(task.metrics)} for {task.name}")
    if glue.protocol == "early_stopping" and (training.eval_strategy != "epoch" or training.eval_delay):
        raise UserError(
            "--protocol early_stopping validates after every epoch: leave --eval_strategy and --eval_delay out"
        )
    if glue.protocol == "early_stopping" and not training.greater_is_better:
        raise UserError(f"the greater {training.metric_for_best_model}, the better: leave --greater_is_better out")
    if glue.protocol == "same_epochs" and training.load_best_model_at_end:
        raise UserError("--protocol same_epochs takes the last model: leave --load_best_model_at_end out")
    if training.use_liger_kernel:
        raise UserError(
            "--use_liger_kernel computes cross-entropy inside the model, whatever --loss says: leave it out"
        )
    for name, reason in (
        ("prediction_loss_only", "leaves no outputs to score"),
        ("dataloader_drop_last", "drops validation and test examples too, and with them predictions"),
        ("batch_eval_metrics", "scores batches, and F1 and the correlations are of the whole set"),
    ):
        if getattr(training, name):
            raise UserError(f"--{name} {reason}: leave it out")
    if not training.eval_do_concat_batches:
        raise UserError("--eval_do_concat_batches false leaves the outputs in pieces: leave it out")
    if glue.data_dir == "":
        raise UserError("--data_dir is empty: give a folder, or leave it out")
    if glue.mini and glue.data_dir:
        raise UserError("--mini and --data_dir exclude each other: the mini data or your own")


def _prepare(glue: GlueArguments, training: TrainingArguments) -> _Run:
    """Finds the data and the model, says what is used, and settles the folder."""
    assert glue.task is not None
    task = TASKS[glue.task]
    model = glue.model_name_or_path
    is_local = model is not None and (model == EMBEDDED_MODEL or Path(model).is_dir())
    reachable = True
    others = [name for name in (glue.tokenizer_name, glue.config_name) if name and not Path(name).is_dir()]
    if training.push_to_hub or others or not (glue.mini or (glue.data_dir and is_local)):
        reachable = hub_is_reachable()
        if not reachable:
            print("The Hugging Face hub cannot be reached: only what is on this machine can be used.", flush=True)
            go_offline()
            if training.push_to_hub:
                raise UserError("--push_to_hub needs the hub: leave it out")

    data = _find_data(task, glue, reachable)
    model_path, arch = _find_model(glue, is_local, reachable)
    rescaled = None
    if glue.loss == "square" and not task.is_regression:
        rescaled = rescaling(task.name, task.num_outputs).overridden(glue.k, glue.M)
    if not training.output_dir:
        k, M = (rescaled.k, rescaled.M) if rescaled else (None, None)
        folder = run_folder(task.name, arch, glue.loss, k, M, training.learning_rate, training.seed, data.mini)
        training.output_dir = str(folder)
    return _Run(task, glue, training, rescaled, data, model_path, arch)


def _find_data(task: GlueTask, glue: GlueArguments, reachable: bool) -> GlueData:
    if glue.data_dir:
        data = load_from_dir(task, Path(glue.data_dir))
    elif glue.mini:
        data = _mini_data(task)
    else:
        try:
            data = load_from_hub(task, glue.cache_dir, glue.token)
        except (OSError, ValueError) as error:  # what datasets raises where hub and cache have nothing
            if reachable:
                raise UserError(f"{task.name} cannot be read from the hub: {' '.join(str(error).split())}") from error
            print(
                f"No {task.name} data at hand: using the embedded MINI data, which is not the real {task.name}. "
                "For the real one give --data_dir, or run where the hub can be reached.",
                flush=True,
            )
            data = _mini_data(task)
    for limit, split in (
        (glue.max_train_samples, "train"),
        (glue.max_eval_samples, "validation"),
        (glue.max_predict_samples, "test"),
    ):
        for name in (split, f"{split}_mismatched"):
            if limit is not None and name in data.splits:
                data.splits[name] = {column: values[:limit] for column, values in data.splits[name].items()}
    return data


def _mini_data(task: GlueTask) -> GlueData:
    with tempfile.TemporaryDirectory() as folder:
        return load_mini(task.name, Path(folder))


def _find_model(glue: GlueArguments, is_local: bool, reachable: bool) -> tuple[str, str]:
    """The path or hub name of the pre-trained model, and its short name."""
    model = glue.model_name_or_path
    if model == EMBEDDED_MODEL or (model is None and glue.mini):
        return str(embedded_model()), EMBEDDED_MODEL
    if is_local:
        assert model is not None
        return model, Path(model).resolve().name
    name = model or _paper_values(glue).backbone or ""
    try:
        AutoConfig.from_pretrained(
            name,
            cache_dir=glue.cache_dir,
            revision=glue.model_revision,
            token=glue.token,
            trust_remote_code=glue.trust_remote_code,
        )
    except (OSError, ValueError) as error:
        if model is None and not reachable:
            print(f"No {name} at hand: using the embedded model {EMBEDDED_MODEL}.", flush=True)
            return str(embedded_model()), EMBEDDED_MODEL
        hint = "" if reachable else ", and the hub cannot be reached"
        raise UserError(
            f"--model_name_or_path {name} is neither a model's folder nor a model on the hub{hint}; give another, or "
            f"{EMBEDDED_MODEL} for the embedded one"
        ) from error
    return name, name.rsplit("/", 1)[-1]


def _settings(run: _Run) -> dict[str, Any]:
    """What makes this run this run; the data is known by its content, wherever it lies."""
    others = {k: v for k, v in dataclasses.asdict(run.args).items() if k not in ("token", "cache_dir", "data_dir")}
    others["model_name_or_path"] = run.arch if run.arch == EMBEDDED_MODEL else run.model_path
    others |= {"mini": run.data.mini, "data_fingerprint": run.data.fingerprint}
    if run.rescaling:
        others |= {"k": run.rescaling.k, "M": run.rescaling.M}
    return run_settings(run.training, others)


def _banner(run: _Run) -> None:
    """Says what is about to run."""
    task, data, training = run.task, run.data, run.training
    if task.is_regression:
        loss = f"mean squared error ({task.name} is a regression; --loss {run.args.loss} makes no difference)"
    elif run.rescaling:
        loss = f"square, k = {run.rescaling.k:g}, M = {run.rescaling.M:g} ({run.rescaling.source})"
    else:
        loss = run.args.loss
    sizes = ", ".join(f"{size} {split}" for split, size in data.sizes.items())
    lines = [
        ("task", f"{task.name}{'   *** MINI DATA: not the real task ***' if data.mini else ''}"),
        ("data", f"{sizes} ({data.source})"),
        *(("", note) for note in data.notes),
        ("model", run.arch),
        ("loss", loss),
        (
            "training",
            f"{run.args.protocol}, {training.num_train_epochs:g} epochs, lr {training.learning_rate:g}, "
            f"batch {training.train_batch_size}"
            + (f" x {accumulation} accumulated" if (accumulation := training.gradient_accumulation_steps) > 1 else "")
            + (f", at most {training.max_steps} steps" if training.max_steps > 0 else "")
            + f", {run.args.max_seq_length or _COMMON.max_length} tokens, seed {training.seed}",
        ),
        ("folder", str(run.folder)),
    ]
    if run.args.loss == "squentropy" and not task.is_regression:
        lines.insert(-1, ("", "the paper has no squentropy: its cross-entropy's hyper-parameters are the defaults"))
    if not training.do_train:
        lines.insert(-1, ("", "NO TRAINING: the model is scored as it is, and a head that it lacks is random"))
    for name, text in lines:
        print(f"  {name:9s} {text}", flush=True)


def _load_model(run: _Run, path: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model with a head for the task, and its tokenizer."""
    args, task = run.args, run.task
    hub = {
        "cache_dir": args.cache_dir,
        "revision": args.model_revision,
        "token": args.token,
        "trust_remote_code": args.trust_remote_code,
    }
    names = dict(enumerate(task.labels)) or {0: "similarity"}
    try:
        config = AutoConfig.from_pretrained(
            args.config_name or path,
            num_labels=task.num_outputs,
            id2label=names,
            label2id={name: i for i, name in names.items()},
            finetuning_task=task.name,
            **hub,
        )
        if task.is_regression:
            config.problem_type = "regression"
        tokenizer_path = args.tokenizer_name or run.model_path
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_path, **hub)
        if config.pad_token_id is None:
            config.pad_token_id = tokenizer.pad_token_id
        model = AutoModelForSequenceClassification.from_pretrained(
            path, config=config, ignore_mismatched_sizes=args.ignore_mismatched_sizes, **hub
        )
    except (OSError, ValueError, RuntimeError, KeyError, AttributeError, TypeError, SafetensorError) as error:
        names_given = [name for name in (args.config_name, args.tokenizer_name) if name]
        beside = f" (with {', '.join(names_given)})" if names_given else ""
        raise UserError(f"{path}{beside} cannot be loaded as a classifier: {' '.join(str(error).split())}") from error
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise UserError(f"{tokenizer_path} has no tokenizer with words in it: give one by --tokenizer_name")
    rows = model.get_input_embeddings().weight.shape[0]
    if max(tokenizer.get_vocab().values()) >= rows:
        raise UserError(
            f"the tokenizer of {tokenizer_path} has {len(tokenizer)} tokens, and the model only {rows} embeddings: "
            "they do not belong together"
        )
    shortest = tokenizer.num_special_tokens_to_add(len(task.texts) == 2) + len(task.texts)
    if (args.max_seq_length or shortest) < shortest:
        raise UserError(f"--max_seq_length must be at least {shortest} for {task.name}, got {args.max_seq_length}")
    longest = min(tokenizer.model_max_length, getattr(config, "max_position_embeddings", None) or sys.maxsize)
    if (args.max_seq_length or 0) > longest:
        raise UserError(
            f"--max_seq_length {args.max_seq_length} is more than the {longest} tokens that the model takes"
        )
    return model, tokenizer


def _tokenized(run: _Run, tokenizer: PreTrainedTokenizerBase, columns: Columns) -> Dataset:
    """A split as the Trainer takes it."""
    length = min(run.args.max_seq_length or 128, tokenizer.model_max_length)
    padding = "max_length" if run.args.pad_to_max_length else False

    def tokenize(batch: dict[str, list[Any]]) -> Any:
        texts = [batch[name] for name in run.task.texts]
        return tokenizer(*texts, padding=padding, truncation=True, max_length=length)

    dataset = Dataset.from_dict(columns)
    return dataset.map(tokenize, batched=True, remove_columns=list(run.task.texts))


def _train(run: _Run, settings: dict[str, Any]) -> Result:
    """Trains, predicts, and writes everything that the run leaves behind."""
    task, training = run.task, run.training
    set_seed(training.seed)
    progress = earlier_progress(run.folder) if training.do_train else None
    finished = progress is not None and progress.is_finished
    model, tokenizer = _load_model(run, str(progress.best) if progress and finished else run.model_path)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    check_space(training, parameters)

    def compute_metrics(prediction: Any) -> dict[str, float]:
        return glue_metrics(task, _decided(task, prediction.predictions), prediction.label_ids)

    datasets = {split: _tokenized(run, tokenizer, columns) for split, columns in run.data.splits.items()}
    early = run.args.protocol == "early_stopping" and training.do_train
    if not training.do_train:  # then there is nothing to select
        training.load_best_model_at_end = False
    try:
        trainer = SquareLossTrainer(
            model=model,
            args=training,
            train_dataset=datasets["train"],
            eval_dataset=datasets["validation"],
            processing_class=tokenizer,
            data_collator=default_data_collator
            if run.args.pad_to_max_length
            else DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8 if training.fp16 else None),
            compute_metrics=compute_metrics,
            # Some models return more than their logits.
            preprocess_logits_for_metrics=lambda outputs, _: outputs[0] if isinstance(outputs, tuple) else outputs,
            callbacks=[EarlyStoppingCallback(run.args.patience)] if early else None,
            loss=run.args.loss,
            k=run.rescaling.k if run.rescaling else None,
            M=run.rescaling.M if run.rescaling else None,
        )
        if training.do_train and not (trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled):
            trainer.create_optimizer_and_scheduler(1000)  # a rehearsal, for options that neither takes
            trainer.optimizer = trainer.lr_scheduler = None
    except (ImportError, OSError, RuntimeError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"the Trainer refuses these options: {' '.join(str(error).split())}") from error

    start = time.monotonic()
    metrics: dict[str, dict[str, float]] = {}
    epochs = 0.0
    if training.do_train:
        if finished and progress:
            print("Training was finished before; its model is used.", flush=True)
            epochs = progress.epochs
        else:
            resume = str(progress.checkpoint) if progress else training.resume_from_checkpoint
            if resume:
                print(f"Going on from {resume}.", flush=True)
            trainer.train(resume_from_checkpoint=resume)
            # Not what train() returns: after a resumption that is a mean over the wrong number of steps.
            logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
            if logged:
                metrics["train"] = {"loss": logged[-1]}
            epochs = trainer.state.epoch or 0.0
        trainer.save_model()
    outputs: dict[str, Any] = {}
    submissions = []
    for split in run.data.splits:
        if not (training.do_predict if split.startswith("test") else training.do_eval and split != "train"):
            continue
        predicted = trainer.predict(datasets[split], metric_key_prefix=split)
        outputs[f"{split}_outputs"] = predicted.predictions
        if not np.isfinite(predicted.predictions).all():
            print(
                f"WARNING: not all outputs on {split} are finite: training diverged. Lower --learning_rate.", flush=True
            )
        if predicted.label_ids is None:
            if trainer.is_world_process_zero():
                decided = _decided(task, predicted.predictions)
                submissions.append(write_submission(task, split, decided, run.folder))
        else:
            outputs[f"{split}_targets"] = predicted.label_ids
            names = ("loss", *task.metrics)
            metrics[split] = {name: float(predicted.metrics[f"{split}_{name}"]) for name in names}
    result = Result(
        task=task.name,
        arch=run.arch,
        loss="mean_squared_error" if task.is_regression else run.args.loss,
        k=run.rescaling.k if run.rescaling else None,
        M=run.rescaling.M if run.rescaling else None,
        rescaling_source=run.rescaling.source if run.rescaling else None,
        protocol=run.args.protocol,
        epochs=epochs,
        seed=training.seed,
        mini=run.data.mini,
        hyperparameters=settings,
        data={"source": run.data.source, "fingerprint": run.data.fingerprint, "sizes": run.data.sizes},
        parameters=parameters,
        device=device_name(training.device),
        wall_time_s=time.monotonic() - start,
        resumed=progress is not None or bool(training.resume_from_checkpoint),
        metrics=metrics,
        versions=versions(),
    )
    if trainer.is_world_process_zero():
        write_result(run.folder, result, outputs)
        for path in submissions:
            print(f"Labels are not public: predictions for GLUE's server are in {path}.", flush=True)
    return result


def _decided(task: GlueTask, outputs: Any) -> Any:
    """Class numbers (the largest output), or similarities."""
    return np.squeeze(outputs, -1) if task.is_regression else np.argmax(outputs, axis=-1)


def _print_result(folder: Path, result: Result) -> None:
    mini = " (MINI DATA: not the real task)" if result.mini else ""
    print(f"\n{result.task}{mini}, {result.loss}, seed {result.seed}:")
    for split, values in result.metrics.items():
        if split != "train":
            print(f"  {split:22s}" + "  ".join(f"{name} {value:.4f}" for name, value in values.items()))
    print(f"  {'trained':22s}{result.epochs:g} epochs in {result.wall_time_s:.0f} s on {result.device}")
    print(f"Everything is in {folder}.", flush=True)


def run_glue(argv: Sequence[str]) -> None:
    """Does what the module says, for a command line.

    Raises:
        UserError: for every mistake of the user's, before training begins.
    """
    glue, training = parse(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    transformers.utils.logging.set_verbosity(training.get_process_log_level())
    disable_progress_bar()
    with ExitStack() as stack:
        trainer_log = logging.getLogger("sqloss_plugins.hf.trainer")
        stack.callback(trainer_log.setLevel, trainer_log.level)
        trainer_log.setLevel(logging.ERROR)  # the banner says it
        if training.process_index != 0:  # of several processes the first one speaks
            stack.enter_context(redirect_stdout(stack.enter_context(open(os.devnull, "w", encoding="utf-8"))))
        _execute(glue, training, stack)


def _execute(glue: GlueArguments, training: TrainingArguments, stack: ExitStack) -> None:
    run = _prepare(glue, training)
    settings = _settings(run)
    if training.resume_from_checkpoint:
        check_checkpoint(Path(training.resume_from_checkpoint), settings, _SAME_WHEN_RESUMED)
    claim_folder(run.folder, settings, ("checkpoint-*", RESULT_NAME, "config.json", "*.safetensors"))
    if training.process_index == 0:
        stack.enter_context(lock_folder(run.folder))
    if (run.folder / RESULT_NAME).is_file():
        try:
            finished = read_result(run.folder)
        except ValueError as error:
            raise UserError(f"{error}; remove it, and the same command makes it anew") from error
        print("This run is finished already; its result:")
        _print_result(run.folder, finished)
        return
    _banner(run)
    result = _train(run, settings)
    _print_result(run.folder, result)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line ``run_glue_sq.py`` and ``python -m sqloss_plugins.hf.glue``; returns the exit status."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return run_command(PROGRAM, lambda: run_glue(sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    raise SystemExit(main())
