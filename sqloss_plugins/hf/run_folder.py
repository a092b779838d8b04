"""The folder of a Trainer's run: how far the run came, and whether there is room for it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerState, TrainingArguments

from sqloss_plugins.errors import UserError
from sqloss_plugins.folders import SETTINGS_NAME, read_settings

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
