"""The folder of a Trainer's run: how far it came, what it may go on from, and whether there is room for it."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

from safetensors import SafetensorError, safe_open
from transformers import TrainerState, TrainingArguments

from sqloss_plugins.errors import UserError
from sqloss_plugins.folders import SETTINGS_NAME, read_settings
from sqloss_plugins.results import RESULT_NAME, Result, read_result


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
        state: the Trainer's with it.
        is_finished: whether training ended with it.
        best: where the model that counts is, if so.
    """

    checkpoint: Path
    state: TrainerState
    is_finished: bool
    best: Path


def earlier_progress(folder: Path) -> Progress | None:
    """The newest complete checkpoint: with ``trainer_state.json``, which the Trainer writes last, and no torn file."""
    for checkpoint in sorted(_checkpoints(folder), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True):
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
        return Progress(checkpoint, state, is_finished, folder / Path(state.best_model_checkpoint or checkpoint).name)
    return None


def _checkpoints(folder: Path) -> list[Path]:
    return [path for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]


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
        UserError: less is free than the run still takes, beside what its own earlier checkpoints take already.
    """
    if not training.do_train or training.save_strategy == "no":
        return
    folder = Path(training.output_dir)
    kept = (training.save_total_limit or int(training.num_train_epochs)) + 2
    files = [path for checkpoint in _checkpoints(folder) for path in checkpoint.rglob("*") if path.is_file()]
    needed = kept * 3 * 4 * parameters - sum(path.stat().st_size for path in files)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{folder} has {_in_bytes(free)} free, and the checkpoints of this run take up to {_in_bytes(needed)} "
            "more: make room, or choose another --output_dir"
        )


def _in_bytes(size: float) -> str:
    """A size in the unit that shows it best."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.4g} TB"


def best_epoch(state: TrainerState, stops_early: bool) -> float | None:
    """The epoch whose model counts: the best one's, or the last."""
    if not stops_early:
        return None if state.epoch is None else float(state.epoch)
    epochs: list[float] = [entry["epoch"] for entry in state.log_history if entry.get("step") == state.best_global_step]
    return epochs[-1] if epochs else None


def curves(state: TrainerState, names: Iterable[str]) -> dict[str, dict[str, dict[str, float]]]:
    """The validation metrics of every epoch, as :attr:`sqloss_plugins.results.Result.curves` has them."""
    by_metric = {}
    for name in names:
        logged = [(entry["epoch"], entry[f"eval_{name}"]) for entry in state.log_history if f"eval_{name}" in entry]
        by_metric[name] = {f"{epoch:g}": float(value) for epoch, value in logged if math.isfinite(value)}
    found = {name: values for name, values in by_metric.items() if values}
    return {"validation": found} if found else {}


def epochs_of(run: Path | None, default: Path, expected: Mapping[str, Any]) -> float:
    """The number of epochs after which early stopping chose a run's model.

    Args:
        run: the run's folder; None for the best run at the default place.
        default: that place, a pattern: the learning rate is a ``*``.
        expected: fields of the result, and what they must be.

    Raises:
        UserError: no such run is finished, or it is another one.
    """
    folders = [run] if run else [path.parent for path in sorted(default.parent.glob(f"{default.name}/{RESULT_NAME}"))]
    try:
        results = [read_result(folder) for folder in folders]
    except (ValueError, OSError) as error:
        raise UserError(f"the number of epochs cannot be read: {error}") from error
    if not results:
        raise UserError(
            f"--protocol same_epochs takes the number of epochs of the cross-entropy run with the same seed, and "
            f"none is finished in {default}: run that first, name it by --cross_entropy_run, or give --num_train_epochs"
        )
    for folder, result in zip(folders, results, strict=True):
        for name, wanted in expected.items():
            found = result.data.get(name) if name == "fingerprint" else getattr(result, name)
            if found != wanted:
                raise UserError(f"{folder} has {name} {found}, and its epochs are wanted for a run with {wanted}")
    return _best(results, folders)


def _best(results: Sequence[Result], folders: Sequence[Path]) -> float:
    from sqloss_plugins.metrics import metric

    values = [result.value("validation", result.selection) for result in results]
    best = metric(results[0].selection).best([float("nan") if value is None else value for value in values])
    epochs = results[best].best_epoch
    if epochs is None:
        raise UserError(f"{folders[best]} does not say after how many epochs its model was the best")
    return epochs
