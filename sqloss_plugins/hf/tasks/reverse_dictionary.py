"""Trains a reverse dictionary on WordNet: a definition is given, and the word that it defines is wanted.

    sqloss reverse_dictionary --loss cross_entropy --learning_rate 2e-3 --seed 1
    sqloss reverse_dictionary --parts_of_speech verb
    sqloss reverse_dictionary --model_name_or_path minilm-l6
    sqloss reverse_dictionary --mini

Without options it takes all of the WordNet that is installed (see --data_dir), which needs many minutes on a CPU.
--parts_of_speech takes a part of it; --mini takes made-up words and needs some seconds. Where no WordNet is installed,
it takes these, too, and says so.
Each of WordNet's 86,571 words is a class. Held out are definitions of words that have another one in training.
Measured is how often the word is the first answer (accuracy), among the first five (top5) and among the first ten
(top10); the ten answers to each definition of the test set are in predict_results.tsv in the folder of the run.
Takes the options below and all of transformers.TrainingArguments. A run that was killed goes on where it was when the
same command is run again; a run that is finished is not repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sqloss_plugins.data.task_data import TaskData
from sqloss_plugins.data.wordnet import DEFAULT_DIR, PARTS, load_definitions, load_mini
from sqloss_plugins.errors import UserError
from sqloss_plugins.hf import experiment
from sqloss_plugins.hf.options import option, refuse_given
from sqloss_plugins.hf.task import Scores
from sqloss_plugins.hf.tasks.many_classes import ManyClasses, ManyClassesArguments
from sqloss_plugins.metrics import hit_rate
from sqloss_plugins.results import OF_OUTPUTS

_ANSWERS = {"accuracy": 1, "top5": 5, "top10": 10}


@dataclass
class ReverseDictionaryArguments(ManyClassesArguments):
    """Where WordNet is, and what of it is used."""

    data_dir: str | None = option(
        f"Folder with WordNet's files, data.noun and so on. By default {DEFAULT_DIR}; where that is not, the mini data."
    )
    parts_of_speech: list[str] | None = field(
        default=None, metadata={"help": "The files that are read. By default all.", "nargs": "+", "choices": [*PARTS]}
    )
    held_out: int | None = option(
        "Definitions to validate on, and as many to test on, at most: words with one definition have none to spare. By "
        "default 5000, or a twentieth of all where that is less."
    )


class ReverseDictionary(ManyClasses):
    """A word for a definition."""

    program = "sqloss reverse_dictionary"
    arguments = ReverseDictionaryArguments
    not_decisive = ("data_dir",)
    name = "reverse_dictionary"
    metrics = tuple(_ANSWERS)
    mini_warning = "MINI DATA: made-up words, and no real dictionary"

    @property
    def num_answers(self) -> int:
        """As many as the metrics need."""
        return max(_ANSWERS.values())

    def check(self) -> None:
        """Refuses sources that contradict each other, and numbers that are too small."""
        super().check()
        if self.args.mini:
            refuse_given(self.given, ("data_dir", "parts_of_speech"), "is of WordNet, and --mini is made-up data")

    def load(self) -> TaskData:
        """WordNet, or the mini data; as many definitions as are asked for."""
        args, folder = self.args, Path(self.args.data_dir or DEFAULT_DIR)
        options = {"held_out": args.held_out, "seed": args.shuffle_seed}
        is_mini = args.mini or not (args.data_dir or folder.is_dir())
        if is_mini and not args.mini:
            if args.parts_of_speech:
                raise UserError(f"--parts_of_speech is of WordNet, and there is none in {folder}: give --data_dir")
            print(f"No WordNet in {folder}: using MINI data, made-up words. Else give --data_dir.", flush=True)
        parts = tuple(dict.fromkeys(args.parts_of_speech or PARTS))
        found = load_mini(**options) if is_mini else load_definitions(folder, parts, **options)
        self.labels = found.labels
        return self.limited(found.data)

    def scores(self, outputs: Any, targets: Any) -> Scores:
        """How often the word is among the first answers."""
        return {OF_OUTPUTS: {name: hit_rate(outputs[:, :count], targets) for name, count in _ANSWERS.items()}}

    def predicted(self, split: str, outputs: Any, targets: Any | None) -> list[str]:
        """Writes the answers to the definitions of the test set."""
        if split != "test":
            return []
        rows, names = self.data.splits[split], self.names
        numbers = np.column_stack((rows["label"], outputs.astype(np.int64)))
        return self.write_answers(
            ["definition", "word", *(f"answer {i + 1}" for i in range(outputs.shape[1]))],
            ([text, *(names[i] for i in row)] for text, row in zip(rows["text"], numbers, strict=True)),
        )

    def notes(self) -> list[str]:
        """How many words there are; and, where nobody chose it, that a training on all of them takes long."""
        notes = [f"{len(self.labels)} words to choose from"]
        if not self.config.do_train:
            notes.append("NO TRAINING")
        elif not (self.data.mini or self.args.data_dir or self.args.parts_of_speech):
            notes.append("all of WordNet: many minutes on a CPU; --parts_of_speech takes a part, --mini needs seconds")
        return notes


def main(argv: Sequence[str] | None = None) -> int:
    """The command line ``sqloss reverse_dictionary``; returns the exit status."""
    return experiment.main(ReverseDictionary, argv)


if __name__ == "__main__":
    raise SystemExit(main())
