"""Fine-tunes a pre-trained model on a GLUE task with the square loss, cross-entropy or squentropy.

    python run_glue_sq.py --task mrpc
    python run_glue_sq.py --task mrpc --loss cross_entropy --learning_rate 5e-5 --seed 1
    python run_glue_sq.py --task sst2 --data_dir GLUE/SST-2 --model_name_or_path bert-large-cased
    python run_glue_sq.py --task mrpc --arch lstm_attention --word_vectors glove.840B.300d.txt
    python run_glue_sq.py --train_file pairs.csv --validation_file more.csv
    python run_glue_sq.py settings.yaml

With --train_file or --dataset_name in the place of --task it is sqloss classify, whose --help shows the options.
Takes the options below and all of transformers.TrainingArguments. What is not given is the paper's (Table 10: batch
size, length, learning rate, epochs, per loss), for tasks that the paper does not have its common fine-tuning values.
--help shows the defaults of the --task, --loss and --protocol that are given beside it.
A run that was killed goes on where it was when the same command is run again; a run that is finished is not repeated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqloss_plugins.data.glue import HUB, TASKS, load_from_dir, load_from_hub, write_submission
from sqloss_plugins.data.mini_glue import load_mini
from sqloss_plugins.data.task_data import TaskData
from sqloss_plugins.errors import UserError, is_full_disk, sentence
from sqloss_plugins.hf import experiment
from sqloss_plugins.hf.options import refuse_given
from sqloss_plugins.hf.own_texts import SOURCES
from sqloss_plugins.hf.task import Task
from sqloss_plugins.hf.tasks.classification import Classify
from sqloss_plugins.hf.tasks.sequence_classification import (
    COMMON,
    SequenceClassification,
    SequenceClassificationArguments,
    training_defaults,
)
from sqloss_plugins.losses import LOSSES
from sqloss_plugins.paper import HyperParameters, hyperparameters


@dataclass
class GlueArguments(SequenceClassificationArguments):
    """Which task, and where its data is."""

    task: str | None = field(
        default=None, metadata={"help": "The GLUE task.", "choices": list(TASKS), "aliases": ["--task_name"]}
    )
    data_dir: str | None = field(
        default=None, metadata={"help": "Folder with the task's TSV or parquet files, instead of the hub."}
    )


class Glue(SequenceClassification):
    """One task of GLUE."""

    program = "sqloss glue"
    arguments = GlueArguments
    not_decisive = ("data_dir",)

    @classmethod
    def chosen_by(cls, given: Mapping[str, str]) -> type[Task]:
        """Files, or a data set, of one's own are for the task of classifying texts."""
        is_glue = not set(SOURCES) & set(given) or {"task", "task_name"} & set(given)
        return cls if is_glue else Classify

    def check(self) -> None:
        """Refuses what cannot work, and takes the properties of the task."""
        if self.args.task is None:
            raise UserError(f"--task is missing: choose from {', '.join(TASKS)}")
        task = self.task = TASKS[self.args.task]
        self.name, self.texts, self.labels, self.metrics = task.name, task.texts, task.labels, task.metrics
        self.default_model = _paper_values(self.args, self.config.loss).backbone or str(COMMON.backbone)
        super().check()
        if task.is_regression:
            options = ("k", "M", "rescaling", "paper_task", "label_smoothing_factor")
            refuse_given(self.given, options, f"needs classes, and {task.name} is a regression")
        if self.args.data_dir == "":
            raise UserError("--data_dir is empty: give a folder, or leave it out")
        if self.args.mini and self.args.data_dir:
            raise UserError("--mini and --data_dir exclude each other: the mini data or your own")

    @classmethod
    def defaults(cls, args: Any, loss: str) -> dict[str, Any]:
        """The paper's hyper-parameters for the task and the loss."""
        task = TASKS.get(args.task or "")
        chosen_by = task.metrics[0] if task else "accuracy"
        return {**training_defaults(args, args.task, loss), "metric_for_best_model": chosen_by}

    def from_hub(self) -> list[str]:
        """The data, too."""
        has_data = self.args.mini or self.args.data_dir
        return [*super().from_hub(), *([] if has_data else [HUB])]

    def load(self) -> TaskData:
        """The files of ``--data_dir``, the hub's, or the mini data."""
        args, task = self.args, self.task
        if args.data_dir:
            data = load_from_dir(task, Path(args.data_dir), args.cache_dir)
        elif args.mini:
            data = load_mini(task)
        else:
            try:
                data = load_from_hub(task, args.cache_dir, args.token)
            except (OSError, ValueError) as error:  # what datasets raises where hub and cache have nothing
                if is_full_disk(error):
                    raise  # no reason to take other data
                if self.is_hub_reachable:
                    raise UserError(f"{task.name} cannot be read from the hub: {sentence(error)}") from error
                print(
                    f"No {task.name} data at hand: using the embedded MINI data, which is not the real {task.name}. "
                    "For the real one give --data_dir, or run where the hub can be reached.",
                    flush=True,
                )
                data = load_mini(task)
        return self.limited(data)

    def predicted(self, split: str, outputs: Any, targets: Any | None) -> list[str]:
        """Of data without labels also the predictions for GLUE's server."""
        lines = super().predicted(split, outputs, targets)
        if targets is not None:
            return lines
        path = write_submission(self.task, split, self.decided(outputs), self.folder)
        return [*lines, f"Labels are not public: predictions for GLUE's server are in {path}."]

    def notes(self) -> list[str]:
        """With a word on losses that the paper does not have."""
        loss, column = self.config.loss, LOSSES[self.config.loss].paper_column
        if loss == column or not self.has_classes:
            return super().notes()
        return [*super().notes(), f"the paper has no {loss}: its {column}'s hyper-parameters are the defaults"]


def _paper_values(args: GlueArguments, loss: str) -> HyperParameters:
    return hyperparameters(args.task or "", "bert", loss) or COMMON


def main(argv: Sequence[str] | None = None) -> int:
    """The command line ``run_glue_sq.py`` and ``sqloss glue``; returns the exit status."""
    return experiment.main(Glue, argv)


if __name__ == "__main__":
    raise SystemExit(main())
