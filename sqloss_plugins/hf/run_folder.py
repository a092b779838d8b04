"""The folder of a Trainer's run: whose it is, how far the run came, and whether there is room for it."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from transformers import TrainerState, TrainingArguments

from sqloss_plugins.errors import UserError
from sqloss_plugins.results import RESULT_NAME, write_json

SETTINGS_NAME = "settings.json"

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


def run_settings(training: TrainingArguments, others: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that decides the result of a run, as JSON has it: two runs with equal settings are the same run."""
    merged = {
        name: value
        for name, value in training.to_dict().items()
        if name not in _ASIDE and not name.startswith(_ASIDE_PREFIXES)
    }
    settings: dict[str, Any] = json.loads(json.dumps({**merged, **others}, default=str, sort_keys=True))
    return settings


def claim_folder(folder: Path, settings: Mapping[str, Any]) -> None:
    """Makes the folder this run's, or refuses it; nothing in it is changed but the settings file.

    Settings alone, with nothing trained beside them, are what a start that failed leaves: they bind nobody.

    Raises:
        UserError: the folder cannot be written, or has another run in it.
    """
    path = folder / SETTINGS_NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"cannot write to the output folder {folder}: {error.strerror or error}") from error
    is_used = any(any(folder.glob(name)) for name in ("checkpoint-*", RESULT_NAME, "config.json", "*.safetensors"))
    if not is_used:
        write_json(path, settings)
    elif path.is_file():
        theirs = _read_settings(path)
        changed = sorted(key for key in settings.keys() | theirs.keys() if settings.get(key) != theirs.get(key))
        if changed:
            differences = ", ".join(f"{key} {theirs.get(key)!r} -> {settings.get(key)!r}" for key in changed[:3])
            raise UserError(
                f"the output folder {folder} holds another run ({differences}{', ...' if len(changed) > 3 else ''}): "
                "choose another --output_dir, or remove that one"
            )
    else:
        raise UserError(
            f"the output folder {folder} holds checkpoints or results of something else: choose another --output_dir"
        )


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return content
    except (OSError, ValueError):
        pass
    raise UserError(f"{path} is damaged, so that nobody can tell whose run is there: choose another --output_dir")


def lock_folder(folder: Path) -> FileLock:
    """Keeps other processes out of the folder until the lock is released, or its process ends, however it ends.

    Raises:
        UserError: another process is at work there.
    """
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(
            f"another process is at work in {folder}: wait for it, or choose another --output_dir"
        ) from error
    return lock


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
    theirs = _read_settings(path)
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
    """The newest complete checkpoint: one with ``trainer_state.json``, which the Trainer writes last."""
    numbered = [path for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
    for checkpoint in sorted(numbered, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True):
        try:
            state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        except (OSError, ValueError, TypeError):
            continue
        control = state.stateful_callbacks.get("TrainerControl", {}).get("args", {})
        is_finished = bool(control.get("should_training_stop")) or state.global_step >= state.max_steps
        best = folder / Path(state.best_model_checkpoint or checkpoint).name
        return Progress(checkpoint, is_finished, best, state.epoch or 0.0)
    return None


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
