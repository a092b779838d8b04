"""Fine-tunes a pre-trained model on a GLUE task with the square loss, cross-entropy or squentropy.

    python run_glue_sq.py --task mrpc
    python run_glue_sq.py --task mrpc --loss cross_entropy --learning_rate 5e-5 --seed 1
    python run_glue_sq.py --task sst2 --data_dir GLUE/SST-2 --model_name_or_path bert-large-cased
    python run_glue_sq.py settings.yaml

Takes the options below and all of transformers.TrainingArguments. What is not given is the paper's (Table 10: batch
size, length, learning rate, epochs, per loss), for tasks that the paper does not have its common fine-tuning values;
with --protocol same_epochs the number of epochs is cross-entropy's. --help shows the defaults of the --task, --loss and
--protocol that are given beside it.
A run that was killed goes on where it was when the same command is run again; a run that is finished is not repeated.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainingArguments,
    default_data_collator,
    set_seed,
)

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
from sqloss_plugins.hf.hub import EMBEDDED_MODEL, check_tokenizer, embedded_model, reach_hub
from sqloss_plugins.hf.options import RunArguments, check_at_least, check_options, parse_options, training_line
from sqloss_plugins.hf.run_folder import (
    Run,
    check_space,
    earlier_progress,
    one_voice,
    print_banner,
    rehearse,
    run_once,
    train,
    trainer_refusals,
)
from sqloss_plugins.hf.trainer import SquareLossTrainer
from sqloss_plugins.paper import HyperParameters, hyperparameters, rescaling
from sqloss_plugins.results import Result, write_result

PROGRAM = "run_glue_sq.py"
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
class GlueArguments(RunArguments):
    """What to train, on what."""

    task: str | None = field(
        default=None, metadata={"help": "The GLUE task.", "choices": list(TASKS), "aliases": ["--task_name"]}
    )
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


@dataclass(frozen=True, kw_only=True)
class _Run(Run):
    args: GlueArguments
    data: GlueData
    model_path: str


def parse(argv: Sequence[str]) -> tuple[GlueArguments, TrainingArguments]:
    """The command line, or the YAML or JSON file that it names, as two data classes.

    Raises:
        UserError: an option that does not exist, or has a value that it cannot have.
    """
    glue, training = parse_options(
        argv,
        GlueArguments,
        _defaults,
        prog=PROGRAM,
        usage=f"{PROGRAM} --task TASK [options]",
        description=__doc__,
    )
    _check(glue, training)
    return glue, training


def _defaults(glue: GlueArguments) -> dict[str, Any]:
    values = _paper_values(glue)
    task = TASKS.get(glue.task or "")
    return {
        "learning_rate": values.learning_rate,
        "num_train_epochs": float(values.epochs or 3),
        "per_device_train_batch_size": values.batch_size,
        "max_seq_length": values.max_length,
        "metric_for_best_model": task.metrics[0] if task and glue.stops_early else None,
        "greater_is_better": True if glue.stops_early else None,
    }


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
    check_options(glue, training, task.name, task.metrics)
    if task.is_regression and (glue.k is not None or glue.M is not None):
        raise UserError(f"--k and --M rescale the true class, and {task.name} is a regression: leave them out")
    if training.label_smoothing_factor and task.is_regression:
        raise UserError(f"--label_smoothing_factor needs classes, and {task.name} is a regression")
    check_at_least(1, glue, "max_seq_length", "max_train_samples", "max_eval_samples", "max_predict_samples")
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
        reachable = reach_hub(training.push_to_hub)
    data = _find_data(task, glue, reachable)
    model_path, arch = _find_model(glue, is_local, reachable)
    rescaled = None
    if glue.loss == "square" and not task.is_regression:
        rescaled = rescaling(task.name, task.num_outputs).overridden(glue.k, glue.M)
    return _Run(
        task=task.name,
        arch=arch,
        args=glue,
        training=training,
        data=data,
        rescaling=rescaled,
        model_path=model_path,
    )


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
        AutoConfig.from_pretrained(name, **glue.hub)
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


def _banner(run: _Run) -> None:
    """Says what is about to run."""
    task, data, training = run.data.task, run.data, run.training
    if task.is_regression:
        loss = f"mean squared error ({task.name} is a regression; --loss {run.args.loss} makes no difference)"
    elif run.rescaling:
        loss = f"square, {run.rescaling}"
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
            f"{training_line(run.args, training)}, {run.args.max_seq_length or _COMMON.max_length} tokens",
        ),
        ("folder", str(run.folder)),
    ]
    if run.args.loss == "squentropy" and not task.is_regression:
        lines.insert(-1, ("", "the paper has no squentropy: its cross-entropy's hyper-parameters are the defaults"))
    if not training.do_train:
        lines.insert(-1, ("", "NO TRAINING: the model is scored as it is, and a head that it lacks is random"))
    print_banner(lines)


def _load_model(run: _Run, path: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model with a head for the task, and its tokenizer."""
    args, task = run.args, run.data.task
    hub = args.hub
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
        names_given = [name for name in (args.config_name, args.tokenizer_name) if name]
        beside = f" (with {', '.join(names_given)})" if names_given else ""
        raise UserError(f"{path}{beside} cannot be loaded as a classifier: {' '.join(str(error).split())}") from error
    check_tokenizer(tokenizer, tokenizer_path, model, "give one by --tokenizer_name")
    if tokenizer.pad_token is None:
        raise UserError(f"the tokenizer of {tokenizer_path} has no token to pad with: give one by --tokenizer_name")
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
        texts = [batch[name] for name in run.data.task.texts]
        return tokenizer(*texts, padding=padding, truncation=True, max_length=length)

    dataset = Dataset.from_dict(columns)
    return dataset.map(tokenize, batched=True, remove_columns=list(run.data.task.texts))


def _train(run: _Run, settings: dict[str, Any]) -> Result:
    """Trains, predicts, and writes everything that the run leaves behind."""
    task, training = run.data.task, run.training
    _banner(run)
    set_seed(training.seed)
    progress = earlier_progress(run.folder) if training.do_train else None
    finished = progress is not None and progress.is_finished
    model, tokenizer = _load_model(run, str(progress.best) if progress and finished else run.model_path)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    check_space(training, parameters)

    def compute_metrics(prediction: Any) -> dict[str, float]:
        return glue_metrics(task, _decided(task, prediction.predictions), prediction.label_ids)

    datasets = {split: _tokenized(run, tokenizer, columns) for split, columns in run.data.splits.items()}
    if not training.do_train:  # then there is nothing to select
        training.load_best_model_at_end = False
    with trainer_refusals():
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
            callbacks=[EarlyStoppingCallback(run.args.patience)] if training.load_best_model_at_end else None,
            loss=run.args.loss,
            k=run.k,
            M=run.M,
        )
        rehearse(trainer)

    start = time.monotonic()
    metrics: dict[str, dict[str, float]] = {}
    epochs = 0.0
    if training.do_train:
        epochs, metrics = train(trainer, progress)
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
    result = run.result(
        loss="mean_squared_error" if task.is_regression else run.args.loss,
        epochs=epochs,
        hyperparameters=settings,
        parameters=parameters,
        wall_time_s=time.monotonic() - start,
        resumed=progress is not None or bool(training.resume_from_checkpoint),
        metrics=metrics,
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
    with one_voice(training):
        run = _prepare(glue, training)
        model = run.arch if run.arch == EMBEDDED_MODEL else run.model_path
        settings = run.settings(["data_dir"], model_name_or_path=model)
        run_once(training, settings, _SAME_WHEN_RESUMED, lambda: _train(run, settings), _print_result)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line ``run_glue_sq.py`` and ``python -m sqloss_plugins.hf.glue``; returns the exit status."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return run_command(PROGRAM, lambda: run_glue(sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    raise SystemExit(main())
