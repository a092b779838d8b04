"""A task of one's own, with its own CSV: all that it takes beside the package."""

from dataclasses import dataclass, field
from pathlib import Path

from datasets import ClassLabel, DatasetDict, load_dataset

from sqloss_plugins.data.task_data import TaskData
from sqloss_plugins.errors import UserError
from sqloss_plugins.hf import experiment
from sqloss_plugins.hf.tasks.sequence_classification import SequenceClassification, SequenceClassificationArguments


@dataclass
class MoodArguments(SequenceClassificationArguments):
    """Where the files are."""

    folder: str = field(default=".", metadata={"help": "Folder with train.csv and validation.csv."})


class Mood(SequenceClassification):
    """Is a sentence glad or sad?"""

    program = name = "mood"
    arguments = MoodArguments
    not_decisive = ("folder",)
    labels = ("sad", "glad")
    metrics = ("accuracy", "f1")

    def load(self):
        files = {split: str(Path(self.args.folder, f"{split}.csv")) for split in ("train", "validation")}
        try:
            splits = load_dataset("csv", data_files=files, cache_dir=self.args.cache_dir)
            splits = splits.cast_column("label", ClassLabel(names=list(self.labels)))
        except (OSError, ValueError) as error:
            raise UserError(f"--folder {self.args.folder}: {error}") from error
        return TaskData(DatasetDict(splits), self.args.folder)


def main(argv=None):
    return experiment.main(Mood, argv)


if __name__ == "__main__":
    raise SystemExit(main())
