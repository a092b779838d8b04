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

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sqloss_plugins.data.task_data import TaskData
from sqloss_plugins.data.wordnet import DEFAULT_DIR, PARTS, load_definitions, load_mini
from sqloss_plugins.errors import UserError
from sqloss_plugins.hf import experiment
from sqloss_plugins.hf.options import check_at_least, option, refuse_empty, refuse_given
from sqloss_plugins.hf.task import Scores
from sqloss_plugins.hf.tasks.sequence_classification import SequenceClassification, SequenceClassificationArguments
from sqloss_plugins.hf.token_scores import BestClasses
from sqloss_plugins.hf.word_models import PRE_TRAINED, new_word_model
from sqloss_plugins.losses import LOSSES
from sqloss_plugins.metrics import hit_rate
from sqloss_plugins.models import OF_ONE_TEXT
from sqloss_plugins.results import OF_OUTPUTS

_NEW = "bag_of_words"
_FINE_TUNING = {"learning_rate": 1e-4, "num_train_epochs": 3.0, "per_device_train_batch_size": 32}
_ANSWERS = {"accuracy": 1, "top5": 5, "top10": 10}


@dataclass
class ReverseDictionaryArguments(SequenceClassificationArguments):
    """Where WordNet is, and what of it is used."""

    arch: str = option(f"{PRE_TRAINED}: any pre-trained model. {_NEW}: a new one.", _NEW, choices=[_NEW, PRE_TRAINED])
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
    shuffle_seed: int = option("Seed of what is held out.", 42)


class ReverseDictionary(SequenceClassification):
    """A word for a definition."""

    program = "sqloss reverse_dictionary"
    arguments = ReverseDictionaryArguments
    not_decisive = ("data_dir",)
    name = "reverse_dictionary"
    metrics = tuple(_ANSWERS)
    mini_warning = "MINI DATA: made-up words, and no real dictionary"
    keeps_outputs = False

    @property
    def takes_words(self) -> bool:
        """False: this task makes its word models itself."""
        return False

    @classmethod
    def defaults(cls, args: Any, loss: str) -> dict[str, Any]:
        """Of a new model, or for fine-tuning."""
        new, is_new = OF_ONE_TEXT[_NEW], args.model_name_or_path is None and args.arch == _NEW
        sizes = {name: getattr(new.config(), name) for name in ("embedding_size", "hidden_size", "dropout")}
        return {
            "metric_for_best_model": cls.metrics[0],
            "arch": _NEW if is_new else PRE_TRAINED,
            "max_seq_length": 64,
            "without_logits": LOSSES[loss].of_linear_layer is not None,
            "adam_epsilon": 1e-15,  # gradients of a mean over so many classes are small
            **({**sizes, **new.training, **(new.mini if args.mini else {})} if is_new else _FINE_TUNING),
        }

    def check(self) -> None:
        """Refuses sources that contradict each other, and numbers that are too small."""
        super().check()
        check_at_least(1, self.args, "held_out")
        refuse_empty({"data_dir": self.args.data_dir})
        if self.args.mini:
            refuse_given(self.given, ("data_dir", "parts_of_speech"), "is of WordNet, and --mini is made-up data")

    def find_model(self) -> tuple[str | None, str]:
        """A new model, or the named one."""
        return (None, _NEW) if self.args.arch == _NEW else super().find_model()

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

    def load_model(self, path: str | None) -> Any:
        """The model with an output for each word, and its tokenizer."""
        if path is not None:
            return super().load_model(path)
        about = {"id2label": dict(enumerate(self.names)), "problem_type": self.problem_type}
        about["label2id"] = {word: i for i, word in enumerate(self.names)}
        return new_word_model(self.args, self._training_texts, self.args.max_seq_length, about)

    def trainer_options(self) -> dict[str, Any]:
        """The best answers in the place of all outputs."""
        return {"preprocess_logits_for_metrics": BestClasses(min(max(_ANSWERS.values()), len(self.labels)))}

    def scores(self, outputs: Any, targets: Any) -> Scores:
        """How often the word is among the first answers."""
        return {OF_OUTPUTS: {name: hit_rate(outputs[:, :count], targets) for name, count in _ANSWERS.items()}}

    def predicted(self, split: str, outputs: Any, targets: Any | None) -> list[str]:
        """Writes the answers to the definitions of the test set."""
        if split != "test":
            return []
        path, rows = self.folder / "predict_results.tsv", self.data.splits[split]
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, delimiter="\t", lineterminator="\n")
            writer.writerow(["definition", "word", *(f"answer {i + 1}" for i in range(outputs.shape[1]))])
            numbers = np.column_stack((rows["label"], outputs.astype(np.int64)))
            writer.writerows(
                [text, *(self.names[i] for i in row)] for text, row in zip(rows["text"], numbers, strict=True)
            )
        return [f"The answers are in {path}."]

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
