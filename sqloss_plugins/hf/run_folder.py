"""A Trainer's run and its folder: what the run is, how far it came, and going on from there."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import transformers
from datasets.utils.logging import disable_progress_bar
from safetensors import SafetensorError, safe_open
from transformers import Trainer, TrainerState, TrainingArguments

from sqloss_plugins.data.glue import GlueData
from sqloss_plugins.data.text import TextData
from sqloss_plugins.errors import UserError
from sqloss_plugins.folders import SETTINGS_NAME, claim_folder, lock_folder, read_settings
from sqloss_plugins.hf.options import RunArguments
from sqloss_plugins.paper import Rescaling
from sqloss_plugins.results import RESULT_NAME, Result, device_name, read_result, run_folder, versions

# Arguments that do not decide the result: where things go, what is shown, what is kept.
_ASIDE = {"output_dir", "resume_from_checkpoint", "report_to", "run_name", "project", "disable_tqdm", "log_level"}
_ASIDE |= {"logging_steps", "logging_strategy", "logging_first_step", "save_total_limit", "local_rank"}
_ASIDE |= {
    "log_level_replica",
    "log_on_each_node",
    "hub_token",
    "per_device_eval_batch_size",
    "eval_accumulation_steps",
}
_ASIDE_PREFIXES = ("hub_", "push_to_hub", "trackio_", "dataloader_")
_OWN_ASIDE = {"token", "cache_dir"}


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run, every choice made; without an output folder it gets the one that follows from the rest.

    Attributes:
        task, arch: short names of the task and of the model.
        args, training: the options of the script, and the Trainer's.
        data: the task's data.
        rescaling: k and M; None where the loss has none.
    """

    task: str
    arch: str
    args: RunArguments
    training: TrainingArguments
    data: GlueData | TextData
    rescaling: Rescaling | None

    def __post_init__(self) -> None:
        training = self.training
        if not training.output_dir:
            names = (self.task, self.arch, self.args.loss, self.k, self.M)
            training.output_dir = str(run_folder(*names, training.learning_rate, training.seed, self.data.mini))

    @property
    def folder(self) -> Path:
        """Where everything goes."""
        return Path(self.training.output_dir)

    @property
    def k(self) -> float | None:
        """Of the rescaling, if there is one."""
        return self.rescaling.k if self.rescaling else None

    @property
    def M(self) -> float | None:
        """Of the rescaling, if there is one."""
        return self.rescaling.M if self.rescaling else None

    def settings(self, aside: Iterable[str], **others: Any) -> dict[str, Any]:
        """Everything that decides the result, as JSON has it: two runs with equal settings are the same run.

        Args:
            aside: options of the script that do not decide it: the data is known by its content, wherever it lies.
            **others: what does, beside the options.
        """
        merged = {
            name: value
            for name, value in self.training.to_dict().items()
            if name not in _ASIDE and not name.startswith(_ASIDE_PREFIXES)
        }
        merged |= {name: value for name, value in asdict(self.args).items() if name not in {*_OWN_ASIDE, *aside}}
        # The batch of a process alone does not say it: that of a step is of all GPUs.
        rows = self.training.train_batch_size * self.training.world_size * self.training.gradient_accumulation_steps
        merged |= {"total_train_batch_size": rows}
        merged |= {"task": self.task, "mini": self.data.mini, "data_fingerprint": self.data.fingerprint}
        if self.rescaling:
            merged |= {"k": self.k, "M": self.M}
        settings: dict[str, Any] = json.loads(json.dumps({**merged, **others}, default=str, sort_keys=True))
        return settings

    def result(self, *, data: Mapping[str, Any] | None = None, **rest: Any) -> Result:
        """What came out, with what the run says of itself.

        Args:
            data: more about the data.
            **rest: the other fields of :class:`sqloss_plugins.results.Result`; ``loss`` if it is not the one asked for.
        """
        about_data = {"source": self.data.source, "fingerprint": self.data.fingerprint, "sizes": self.data.sizes}
        fields = {
            "task": self.task,
            "arch": self.arch,
            "loss": self.args.loss,
            "k": self.k,
            "M": self.M,
            "rescaling_source": self.rescaling.source if self.rescaling else None,
            "protocol": self.args.protocol,
            "seed": self.training.seed,
            "mini": self.data.mini,
            "data": {**about_data, **(data or {})},
            "device": device_name(self.training.device),
        }
        return Result(**{**fields, **rest})


def check_checkpoint(checkpoint: Path, settings: Mapping[str, Any], names: Sequence[str]) -> None:
    """Refuses to go on from a checkpoint of a run that differs in one of the named settings.

    Raises:
        UserError: it does, or no run of this program made the checkpoint.
    """
    if not (checkpoint / "trainer_state.json").is_file():
        raise UserError(
            f"--resume_from_checkpoint {checkpoint} is no checkpoint's folder; a run goes on by itself where its own "
            "output folder has one"
        )
    path = checkpoint.resolve().parent / SETTINGS_NAME
    if not path.is_file():
        raise UserError(
            f"--resume_from_checkpoint {checkpoint}: no {SETTINGS_NAME} beside it says what it was trained on"
        )
    theirs = read_settings(path)
    for name in names:
        if theirs.get(name) != settings.get(name):
            raise UserError(
                f"--resume_from_checkpoint {checkpoint} is of a run with {name} {theirs.get(name)}, and this one has "
                f"{settings.get(name)}"
            )


@dataclass(frozen=True)
class Progress:
    """How far an earlier process came.

    Attributes:
        checkpoint: the newest complete checkpoint.
        is_finished: whether training ended with it.
        best: where the model that counts is, if so.
        epochs: epochs trained.
    """

    checkpoint: Path
    is_finished: bool
    best: Path
    epochs: float


def earlier_progress(folder: Path) -> Progress | None:
    """The newest complete checkpoint: with ``trainer_state.json``, which the Trainer writes last, and no torn file."""
    numbered = [path for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
    for checkpoint in sorted(numbered, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True):
        try:
            state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        except (OSError, ValueError, TypeError):
            continue
        torn = next((path for path in sorted(checkpoint.iterdir()) if not _is_whole(path)), None)
        if torn is not None:
            print(f"{torn} is damaged: its checkpoint is left out.", flush=True)
            continue
        control = state.stateful_callbacks.get("TrainerControl", {}).get("args", {})
        is_finished = bool(control.get("should_training_stop")) or state.global_step >= state.max_steps
        best = folder / Path(state.best_model_checkpoint or checkpoint).name
        return Progress(checkpoint, is_finished, best, state.epoch or 0.0)
    return None


def _is_whole(path: Path) -> bool:
    """Whether a file of a checkpoint has both its ends, as far as its format tells."""
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, "pt"):
                return True
        except (OSError, SafetensorError):
            return False
    return path.suffix not in (".pt", ".pth", ".bin") or is_zipfile(path)


def check_space(training: TrainingArguments, parameters: int) -> None:
    """Refuses to begin where the checkpoints would not fit; each has the model and two moments in float32.

    Args:
        training: says where they go and how many are kept; while one is written there are up to two more.
        parameters: how many the model has.

    Raises:
        UserError: less is free than the run takes.
    """
    if not training.do_train or training.save_strategy == "no":
        return
    kept = (training.save_total_limit or int(training.num_train_epochs)) + 2
    needed = kept * 3 * 4 * parameters
    free = shutil.disk_usage(training.output_dir).free
    if free < needed:
        raise UserError(
            f"{training.output_dir} has {free / 1e9:.1f} GB free, and the checkpoints of this run take up to "
            f"{needed / 1e9:.1f} GB: make room, or choose another --output_dir"
        )


@contextmanager
def one_voice(training: TrainingArguments) -> Iterator[None]:
    """For the length of the block the script speaks: of several processes the first one, of the libraries warnings."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    transformers.utils.logging.set_verbosity(training.get_process_log_level())
    disable_progress_bar()
    with ExitStack() as stack:
        trainer_log = logging.getLogger("sqloss_plugins.hf.trainer")
        stack.callback(trainer_log.setLevel, trainer_log.level)
        trainer_log.setLevel(logging.ERROR)  # the banner says it
        if training.process_index != 0:
            stack.enter_context(redirect_stdout(stack.enter_context(open(os.devnull, "w", encoding="utf-8"))))
        yield


def run_once(
    training: TrainingArguments,
    settings: Mapping[str, Any],
    same_when_resumed: Sequence[str],
    work: Callable[[], Result],
    show: Callable[[Path, Result], None],
) -> None:
    """Does a run's work in its folder, ``training.output_dir``, unless the folder has the result already; shows it.

    Args:
        training: says where.
        settings: what :meth:`Run.settings` returned.
        same_when_resumed: the settings that a checkpoint given by hand must agree in.
        work: trains, and writes the result.
        show: prints the result of a folder.

    Raises:
        UserError: the folder is another run's or cannot be written, or its result is damaged; and what ``work`` raises.
    """
    folder = Path(training.output_dir)
    versions()  # of the code that begins, whatever becomes of the checkout in the meantime
    if training.resume_from_checkpoint:
        check_checkpoint(Path(training.resume_from_checkpoint), settings, same_when_resumed)
    is_first = training.process_index == 0
    with lock_folder(folder) if is_first else nullcontext():
        if is_first:
            claim_folder(folder, settings, ("checkpoint-*", RESULT_NAME, "config.json", "*.safetensors"))
        if not (folder / RESULT_NAME).is_file():
            show(folder, work())
            return
        try:
            finished = read_result(folder)
        except ValueError as error:
            raise UserError(f"{error}; remove it, and the same command makes it anew") from error
        print("This run is finished already; its result:")
        show(folder, finished)


def print_banner(lines: Iterable[tuple[str, str]]) -> None:
    """Prints names, or nothing where a line belongs to the one above, and what is to be said of them."""
    for name, text in lines:
        print(f"  {name:9s} {text}", flush=True)


@contextmanager
def trainer_refusals() -> Iterator[None]:
    """Turns what a Trainer raises while it is being made, for options that it cannot take, into a UserError."""
    try:
        yield
    except (ImportError, OSError, RuntimeError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"the Trainer refuses these options: {' '.join(str(error).split())}") from error


def rehearse(trainer: Trainer) -> None:
    """Makes optimiser and schedule once before training, for options that neither takes."""
    if trainer.args.do_train and not (trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled):
        trainer.create_optimizer_and_scheduler(1000)
        trainer.optimizer = trainer.lr_scheduler = None


def train(trainer: Trainer, progress: Progress | None) -> tuple[float, dict[str, dict[str, float]]]:
    """Trains, from where an earlier process came to, and saves the model.

    Args:
        trainer: with the best model of the earlier process, if that finished the training.
        progress: of the earlier process, if there was one.

    Returns:
        How many epochs were trained, and the metrics of the training data: the loss that was logged last, if any.
    """
    metrics: dict[str, dict[str, float]] = {}
    if progress is not None and progress.is_finished:
        print("Training was finished before; its model is used.", flush=True)
        epochs = progress.epochs
    else:
        resume = str(progress.checkpoint) if progress else trainer.args.resume_from_checkpoint
        if resume:
            print(f"Going on from {resume}.", flush=True)
        trainer.train(resume_from_checkpoint=resume)
        # Not what train() returns: after a resumption that is a mean over the wrong number of steps.
        logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        if logged:
            metrics["train"] = {"loss": logged[-1]}
        epochs = trainer.state.epoch or 0.0
    trainer.save_model()
    return epochs, metrics
