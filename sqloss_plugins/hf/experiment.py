"""One experiment with the Trainer, from a command line to a result: the only flow, for every task.

A task is a subclass of :class:`sqloss_plugins.hf.task.Task`, which says what is peculiar to it; :func:`main` does the
rest. A run that was killed goes on where it was when the same command is run again; a run that is finished is not
repeated.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stdout
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from datasets import Dataset
from datasets.exceptions import DatasetsError
from transformers import PreTrainedModel, Trainer, TrainerState, set_seed

from sqloss_plugins.data.progress import bars_for_long_work
from sqloss_plugins.errors import RunError, UserError, is_full_disk, listed, run_command, sentence
from sqloss_plugins.folders import claim_folder, lock_folder
from sqloss_plugins.hf.config import SquareLossConfig
from sqloss_plugins.hf.distillation import DEFAULT_WEIGHT, check_inputs, load_teacher
from sqloss_plugins.hf.divergence import DivergenceCallback
from sqloss_plugins.hf.hub import reach_hub
from sqloss_plugins.hf.options import parse, without_effect
from sqloss_plugins.hf.run_folder import (
    Progress,
    best_epoch,
    check_checkpoint,
    check_space,
    curves,
    earlier_progress,
    epochs_of,
)
from sqloss_plugins.hf.task import Scores, Task
from sqloss_plugins.hf.trainer import SquareLossTrainer
from sqloss_plugins.metrics import metric
from sqloss_plugins.results import (
    OF_OUTPUTS,
    RESULT_NAME,
    Result,
    device_name,
    markdown_table,
    read_result,
    run_folder,
    versions,
    write_result,
)

# Options that do not decide the result: where things are, what is shown, what is kept, and what other settings say.
_NOT_DECISIVE = {"output_dir", "resume_from_checkpoint", "report_to", "run_name", "project", "disable_tqdm"}
_NOT_DECISIVE |= {"log_level", "log_level_replica", "log_on_each_node", "logging_steps", "logging_strategy"}
_NOT_DECISIVE |= {"logging_first_step", "logging_nan_inf_filter", "save_total_limit", "local_rank"}
_NOT_DECISIVE |= {"per_device_eval_batch_size", "eval_accumulation_steps", "rescaling", "paper_task", "token"}
_NOT_DECISIVE |= {"model_name_or_path", "cross_entropy_run", "cache_dir"}
_NOT_DECISIVE_PREFIXES = ("hub_", "push_to_hub", "trackio_", "dataloader_")
_SAME_WHEN_RESUMED: tuple[str, ...] = ("task", "loss", "k", "M", "prior_exponent", "factorised_head", "num_sampled")
_SAME_WHEN_RESUMED += ("model", "data_fingerprint")
_NEEDS = (("do_train", "train"), ("do_train", "validation"), ("do_eval", "validation"), ("do_predict", "test"))
_BASELINE = "cross_entropy"


def main(task: type[Task], argv: Sequence[str] | None = None) -> int:
    """The command line of a task; returns the exit status."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return run_command(task.program, lambda: run(task, sys.argv[1:] if argv is None else argv))


def run(task_type: type[Task], argv: Sequence[str]) -> None:
    """Does what a command line says.

    Raises:
        UserError: for every mistake of the user's, before training begins.
        RunError: the training diverged.
    """
    was_in_group = _is_in_group()
    task = parse(task_type, argv)
    with quiet_libraries(task.config):
        _prepare(task)
        _run_once(task)
    if _is_in_group() and not was_in_group:
        # Else a process may end while a thread of Gloo's is at work, and abort.
        torch.distributed.destroy_process_group()


def _is_in_group() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


@contextmanager
def quiet_libraries(config: SquareLossConfig) -> Iterator[None]:
    """For the length of the block only the first of several processes prints, and the libraries only warn."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    transformers.utils.logging.set_verbosity(config.get_process_log_level())
    with ExitStack() as stack:
        is_first = config.process_index == 0
        stack.enter_context(bars_for_long_work(is_first and not config.disable_tqdm))
        trainer_log = logging.getLogger("sqloss_plugins.hf.trainer")
        stack.callback(trainer_log.setLevel, trainer_log.level)
        trainer_log.setLevel(logging.ERROR)  # the banner says it
        if not is_first:
            stack.enter_context(redirect_stdout(stack.enter_context(open(os.devnull, "w", encoding="utf-8"))))
        yield


def _prepare(task: Task) -> None:
    """Finds data and model, and settles k, M, the epochs and the folder."""
    config = task.config
    teacher = [config.teacher] if config.teacher else []
    if config.push_to_hub or not all(Path(name).is_dir() for name in [*task.from_hub(), *teacher]):
        task.is_hub_reachable = reach_hub(config.push_to_hub)
    task.model_path, task.arch = task.find_model()
    try:
        task.data = task.load()
    except (OSError, DatasetsError) as error:
        if is_full_disk(error):
            raise
        raise UserError(f"the data cannot be read, or not be kept in --cache_dir: {sentence(error)}") from error
    splits = {split.partition("_")[0] for split in task.data.splits}
    for phase, split in _NEEDS:
        is_wanted = getattr(config, phase) and (phase in task.given or phase == "do_train")
        if is_wanted and split not in splits:
            remedy = "give it, or hold some out of the training data" if split == "validation" else "give it"
            raise UserError(f"--{phase} needs {split} data, and there is none: {remedy}")
    if not config.do_train and not any(_is_wanted(task, split) for split in task.data.splits):
        raise UserError("there is no data to score: give validation or test data")
    task.settle()
    if config.teacher:
        labels = getattr(task, "labels", ())
        if not labels or task.is_multi_label:
            raise UserError(f"--teacher is for examples of one class each, not for {task.name}: leave it out")
        task.teacher = load_teacher(config.teacher, labels, **_teacher_hub(task))
    if config.paper_task is None:
        config.paper_task = task.paper_task
    try:
        config.check_sample(task.num_outputs)
        task.rescaling = task.rescaling or config.choose_rescaling(task.num_outputs, task.is_multi_label)
    except ValueError as error:
        raise UserError(str(error)) from error
    if task.rescaling:
        config.k, config.M = task.rescaling.k, task.rescaling.M
    place = (task.name, task.arch)
    if not config.stops_early and not {"num_train_epochs", "max_steps"} & task.given and config.do_train:
        pattern = run_folder(*place, _BASELINE, None, None, 0.0, "early_stopping", config.seed, task.data.mini)
        named = task.args.cross_entropy_run
        config.num_train_epochs = epochs_of(
            Path(named) if named else None,
            pattern.with_name(pattern.name.replace("-lr0-", "-lr*-")),
            {
                "loss": _BASELINE,
                "protocol": "early_stopping",
                "seed": config.seed,
                "task": task.name,
                "arch": task.arch,
                "fingerprint": task.data.fingerprint,
            },
        )
    if not config.output_dir:
        rate, protocol, mini = config.learning_rate, config.protocol or "", task.data.mini
        loss, k, M = config.loss, config.k, config.M
        folder = run_folder(*place, loss, k, M, rate, protocol, config.seed, mini, _variant(config))
        config.output_dir = str(folder)


def _variant(config: SquareLossConfig) -> str:
    """What the name of the folder says of the loss beside k and M."""
    prior = [] if config.prior_exponent is None else [f"prior{config.prior_exponent:g}"]
    head = [f"factorised-headlr{config.head_learning_rate:g}"] if config.factorised_head else []
    sampled = [] if config.num_sampled is None else [f"sampled{config.num_sampled}"]
    return "-".join([*prior, *head, *sampled])


def _settings(task: Task) -> dict[str, Any]:
    """Everything that decides the result, as JSON has it: two runs with equal settings are the same run."""
    config = task.config
    left_out = {*_NOT_DECISIVE, *task.not_decisive}
    merged = {
        name: value
        for name, value in {**config.to_dict(), **asdict(task.args)}.items()
        if name not in left_out and not name.startswith(_NOT_DECISIVE_PREFIXES)
    }
    merged |= {"task": task.name, "model": task.args.model_name_or_path or task.arch}
    merged |= {"mini": task.data.mini, "data_fingerprint": task.data.fingerprint}
    merged["test_fingerprints"] = task.data.test_fingerprints
    if not config.do_train:  # the same folder may have another model later
        merged["model_weights"] = _digest(task.model_path)
    if config.teacher:
        merged["teacher_weights"] = _digest(config.teacher)
    # The batch of a process alone does not say it: that of a step is of all GPUs.
    rows = config.train_batch_size * config.world_size * config.gradient_accumulation_steps
    merged["total_train_batch_size"] = rows
    settings: dict[str, Any] = json.loads(json.dumps(merged, default=str, sort_keys=True))
    return settings


def _defaults(task: Task) -> dict[str, Any]:
    """The settings without an option given, for those that have a default of their own."""
    options = [*fields(task.config), *fields(task.args)]
    defaults = {option.name: option.default for option in options if option.default is not MISSING}
    found: dict[str, Any] = json.loads(json.dumps(defaults, default=str))  # as the settings are written
    return found


def _digest(model: str | None) -> str | None:
    """SHA-256 of the weights in a model's folder; None where it is a name on the hub."""
    if model is None or not Path(model).is_dir():
        return None
    digest = hashlib.sha256()
    for path in sorted([*Path(model).glob("*.safetensors"), *Path(model).glob("*.bin")]):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _run_once(task: Task) -> None:
    """Does a run's work in its folder, unless the folder has the result already, and shows the result."""
    config, folder, settings = task.config, task.folder, _settings(task)
    versions()  # of the code that begins, whatever becomes of the checkout in the meantime
    if config.resume_from_checkpoint:
        names = (*_SAME_WHEN_RESUMED, *task.same_when_resumed)
        check_checkpoint(Path(config.resume_from_checkpoint), settings, names)
    is_first = config.process_index == 0
    with lock_folder(folder) if is_first else nullcontext():
        if is_first:
            kept = ("checkpoint-*", RESULT_NAME, "config.json", "*.safetensors")
            claim_folder(folder, settings, kept, defaults=_defaults(task))
        else:
            folder.mkdir(parents=True, exist_ok=True)  # the first process may not have come so far
        if not (folder / RESULT_NAME).is_file():
            _show(task, _work(task, settings))
            return
        try:
            finished = read_result(folder)
        except ValueError as error:
            raise UserError(f"{error}; remove it, and the same command makes it anew") from error
        print("This run is finished already; its result:")
        _show(task, finished)


def _work(task: Task, settings: dict[str, Any]) -> Result:
    """Trains, scores, and writes everything that the run leaves behind."""
    config, folder = task.config, task.folder
    _print_banner(task)
    set_seed(config.seed)
    progress = earlier_progress(folder) if config.do_train else None
    finished = progress if progress and progress.is_finished else None
    model, task.processor = task.load_model(str(finished.best) if finished else task.model_path)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if not finished:
        check_space(config, parameters)
    splits = task.data.splits
    datasets = {split: task.encode(rows, config.do_train and split == "train") for split, rows in splits.items()}
    facts = task.facts(datasets)
    _print_lines([*((name, _by_split(values)) for name, values in facts.items()), ("parameters", str(parameters))])
    trainer = _trainer(task, model, datasets)
    if config.prior_exponent is not None and task.model_path is None and not finished:
        trainer.begin_at_prior()

    start = time.monotonic()
    state = _train(trainer, progress) if config.do_train else None
    metrics: dict[str, Scores] = {}
    logged = [entry["loss"] for entry in state.log_history if "loss" in entry] if state else []
    if logged:  # not what train() returns: after a resumption that is a mean over the wrong number of steps
        metrics["train"] = {OF_OUTPUTS: {"loss": logged[-1]}}
    measured = curves(state, task.metrics) if state else {}  # before the predictions, which are logged as well
    if task.args.score_train:  # last, because what is fitted is fitted on the first
        del datasets["train"]
        datasets["train"] = task.encode(splits["train"])
    scored, outputs, lines = _score(task, trainer, datasets)
    about_data = {name: getattr(task.data, name) for name in ("source", "fingerprint", "test_fingerprints", "sizes")}
    ended_early = state is not None and state.global_step < state.max_steps
    result = Result(
        task=task.name,
        arch=task.arch,
        loss=config.loss if task.has_classes else "mean_squared_error",
        k=config.k,
        M=config.M,
        rescaling_source=task.rescaling.source if task.rescaling else None,
        protocol=str(config.protocol),
        ended_by=None if state is None else "early stopping" if ended_early else "maximum",
        epochs=(state.epoch or 0.0) if state else 0.0,
        best_epoch=best_epoch(state, config.stops_early) if state else None,
        seed=config.seed,
        mini=task.data.mini,
        hyperparameters={name: value for name, value in settings.items() if name != "test_fingerprints"},
        data={**about_data, **facts, **task.fitted()},
        parameters=parameters,
        device=device_name(config.device),
        wall_time_s=time.monotonic() - start,
        resumed=progress is not None or bool(config.resume_from_checkpoint),
        metrics={**metrics, **scored},
        curves=measured,
        method=task.method,
        selection=task.metrics[0],
    )
    if trainer.is_world_process_zero():
        write_result(folder, result, outputs)
        for line in lines:
            print(line, flush=True)
    return result


def _teacher_hub(task: Task) -> dict[str, Any]:
    """Keyword arguments for ``from_pretrained`` of the teacher; the revision is that of the other model."""
    return {name: value for name, value in task.args.hub.items() if name != "revision"}


def _trainer(task: Task, model: PreTrainedModel, datasets: Mapping[str, Dataset]) -> SquareLossTrainer:
    """The Trainer, for options that it can take.

    Raises:
        UserError: it cannot take them; or the teacher does not read what the model reads.
    """
    if task.teacher is not None:
        check_inputs(str(task.config.teacher), task.processor, **_teacher_hub(task))
    try:
        trainer = SquareLossTrainer(
            model=model,
            args=task.config,
            train_dataset=datasets.get("train"),
            # Where nothing is trained there may be none, which the Trainer does not take with early stopping.
            eval_dataset=datasets.get("validation", next(iter(datasets.values()))),
            processing_class=task.processor,
            data_collator=task.collator(),
            compute_metrics=task.compute_metrics,
            callbacks=[DivergenceCallback(), *task.callbacks()],
            teacher=task.teacher,
            **task.trainer_options(),
        )
        head = trainer.compute_loss_func.head
        if head is not None:
            inputs = dict(trainer.data_collator([next(iter(datasets.values()))[0]]))
            inputs.pop("labels", None)
            head.try_out(model, **inputs)
        if task.config.do_train and not (trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled):
            # Once before training, for options that the optimiser, the schedule or the loader of the data refuses.
            with torch.random.fork_rng(devices=[]):
                trainer.create_optimizer_and_scheduler(1000)
                trainer.get_train_dataloader()
            trainer.optimizer = trainer.lr_scheduler = None
            trainer.accelerator.free_memory()
    except (ImportError, OSError, RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"the Trainer refuses these options: {sentence(error)}") from error
    return trainer


def _train(trainer: Trainer, progress: Progress | None) -> TrainerState:
    """Trains, from where an earlier process came to, and saves the model; returns the state at the end of training."""
    if progress is not None and progress.is_finished:
        print("Training was finished before; its model is used.", flush=True)
        state = progress.state
    else:
        resume = str(progress.checkpoint) if progress else trainer.args.resume_from_checkpoint
        if resume:
            print(f"Going on from {resume}.", flush=True)
        trainer.train(resume_from_checkpoint=resume)
        state = trainer.state
    trainer.save_model()
    return state


def _score(
    task: Task, trainer: Trainer, datasets: Mapping[str, Dataset]
) -> tuple[dict[str, Scores], dict[str, Any], list[str]]:
    """Predicts every split that is asked for; returns metrics, outputs, and lines to print.

    Raises:
        RunError: outputs that are not finite.
    """
    metrics: dict[str, Scores] = {}
    outputs: dict[str, Any] = {}
    lines: list[str] = []
    task.begin_scoring()
    for split, rows in datasets.items():
        if not _is_wanted(task, split):
            continue
        predicted = trainer.predict(rows, metric_key_prefix=split)
        if not np.isfinite(predicted.predictions).all():
            raise RunError(
                f"not all outputs on {split} are finite: the training diverged, or the model was broken before; a "
                "smaller --learning_rate may help"
            )
        found = task.counted(split, predicted.predictions)
        keeps_outputs = task.keeps_outputs and split != "train"
        if keeps_outputs:
            outputs[f"{split}_outputs"] = found
        if trainer.is_world_process_zero():
            lines += task.predicted(split, found, predicted.label_ids)
        if predicted.label_ids is None:
            continue
        if keeps_outputs:
            outputs[f"{split}_targets"] = predicted.label_ids
        metrics[split] = task.scores(found, predicted.label_ids)
        of_outputs = metrics[split].pop(OF_OUTPUTS, {})
        loss = float(predicted.metrics[f"{split}_loss"])
        metrics[split] = {OF_OUTPUTS: {"loss": loss, **of_outputs}, **metrics[split]}
    return metrics, outputs, lines


def _is_wanted(task: Task, split: str) -> bool:
    """Whether a split is to be scored."""
    config = task.config
    wanted = {"train": task.args.score_train, "validation": config.do_eval, "test": config.do_predict}
    return bool(wanted[split.partition("_")[0]])


def _print_lines(lines: Sequence[tuple[str, str]]) -> None:
    """Prints names, or nothing where a line belongs to the one above, and what is to be said of them."""
    for name, text in lines:
        print(f"  {name.replace('_', ' '):10s} {text}", flush=True)


def _by_split(values: Mapping[str, float]) -> str:
    return ", ".join(
        f"{value if isinstance(value, int) else f'{value:.5g}'} {split}" for split, value in values.items()
    )


def _print_banner(task: Task) -> None:
    """Says what is about to run."""
    config, data, about = task.config, task.data, task.about()
    loss = f"{config.loss}, {task.rescaling}" if task.rescaling else config.loss
    if not task.has_classes:
        loss = f"mean squared error ({task.name} is a regression; --loss {config.loss} makes no difference)"
    if config.prior_exponent is not None:
        loss += f"; prior exponent {config.prior_exponent:g}"
    if config.factorised_head:
        loss += f"; factorised output layer, lr {config.head_learning_rate:g}"
    if config.num_sampled is not None:
        loss += f"; sampled softmax with {config.num_sampled} of {task.num_outputs} classes"
    if config.teacher:
        share = DEFAULT_WEIGHT if config.distillation_weight is None else config.distillation_weight
        loss += f"; {share:g} of the targets by the teacher {config.teacher}"
    _print_lines(
        [
            ("task", f"{task.name}{f'   *** {task.mini_warning} ***' if data.mini else ''}"),
            ("data", f"{_by_split(data.sizes)} {data.unit} ({data.source})"),
            *(("", note) for note in data.notes),
            ("model", task.arch + about.get("model", "")),
            ("loss", loss),
            ("training", _training(config, about) if config.do_train else "none; the model is scored as it is"),
            *(("", note) for note in [*task.notes(), *without_effect(task)]),
            ("folder", str(task.folder)),
        ]
    )


def _training(config: SquareLossConfig, about: Mapping[str, str]) -> str:
    """How the model is trained."""
    steps = config.gradient_accumulation_steps
    return (
        f"{config.protocol}, {config.num_train_epochs:g} epochs, lr {config.learning_rate:g}, "
        f"batch {config.train_batch_size}"
        + (f" x {steps} accumulated" if steps > 1 else "")
        + (f", at most {config.max_steps} steps" if config.max_steps > 0 else "")
        + (f", {_milestones(config)}" if config.lr_milestones else "")
        + f", seed {config.seed}"
        + about.get("training", "")
    )


def _milestones(config: SquareLossConfig) -> str:
    """When the learning rate falls, and by how much."""
    shares = [f"{100 * share:.4g} %" for share in config.lr_milestones or []]
    return f"lr x {config.lr_decay:g} after {listed(shares)} of the training"


def _show(task: Task, result: Result) -> None:
    """Prints a result."""
    shown = {split: scores for split, scores in result.metrics.items() if split != "train" or task.args.score_train}
    columns = dict.fromkeys(
        (name, method) for scores in shown.values() for method, values in scores.items() for name in values
    )
    rows = [
        ["split", *(metric(n).heading + ("" if m == OF_OUTPUTS else f" ({m})") for n, m in columns)],
    ]
    for split, scores in shown.items():
        values = [scores.get(m, {}).get(n) for n, m in columns]
        cells = ["-" if v is None else metric(n).shown(v) for v, (n, _) in zip(values, columns, strict=True)]
        rows.append([split, *cells])
    mini = f" ({task.mini_warning})" if result.mini else ""
    if columns:
        print(f"\n{result.task}{mini}, {result.loss}, seed {result.seed}:\n\n{markdown_table(rows)}\n")
    for name, value in result.data.items():
        if name not in ("source", "fingerprint", "test_fingerprints", "sizes"):
            print(f"{name.replace('_', ' ')}: {_by_split(value) if isinstance(value, dict) else f'{value:.4g}'}")
    best = (
        "" if result.best_epoch is None else f" (ended by {result.ended_by}; the model of epoch {result.best_epoch:g})"
    )
    what = f"Trained {result.epochs:g} epochs{best}" if result.epochs else "Scored without training"
    print(f"{what} in {result.wall_time_s:.0f} s on {result.device}.")
    print(f"Everything is in {task.folder}.", flush=True)
