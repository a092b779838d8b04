"""What tasks share whose texts have very many classes: a small model on words, and the best answers for all outputs."""

from __future__ import annotations

import csv
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqloss_plugins.hf.options import check_at_least, option, refuse_empty
from sqloss_plugins.hf.tasks.sequence_classification import SequenceClassification, SequenceClassificationArguments
from sqloss_plugins.hf.token_scores import BestClasses
from sqloss_plugins.hf.word_models import PRE_TRAINED, new_word_model
from sqloss_plugins.losses import LOSSES
from sqloss_plugins.models import OF_ONE_TEXT

_NEW = "bag_of_words"
_FINE_TUNING = {"learning_rate": 1e-4, "num_train_epochs": 3.0, "per_device_train_batch_size": 32}


@dataclass
class ManyClassesArguments(SequenceClassificationArguments):
    """The model, and what is held out."""

    arch: str = option(f"{PRE_TRAINED}: any pre-trained model. {_NEW}: a new one.", _NEW, choices=[_NEW, PRE_TRAINED])
    data_dir: str | None = None
    held_out: int | None = None
    shuffle_seed: int = option("Seed of what is held out.", 42)


class ManyClasses(SequenceClassification):
    """Very many classes."""

    keeps_outputs = False

    @property
    @abstractmethod
    def num_answers(self) -> int:
        """How many of the best answers are looked at."""

    @property
    def takes_words(self) -> bool:
        """False: these tasks make their word models themselves."""
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
        """Refuses numbers that are too small, and a folder without a name."""
        super().check()
        check_at_least(1, self.args, "held_out")
        refuse_empty({"data_dir": self.args.data_dir})

    def find_model(self) -> tuple[str | None, str]:
        """A new model, or the named one."""
        return (None, _NEW) if self.args.arch == _NEW else super().find_model()

    def load_model(self, path: str | None) -> Any:
        """The model with an output for each class, and its tokenizer."""
        if path is not None:
            return super().load_model(path)
        about = {"id2label": dict(enumerate(self.names)), "problem_type": self.problem_type}
        about["label2id"] = {name: i for i, name in enumerate(self.names)}
        model, tokenizer = new_word_model(self.args, self._training_texts, self.args.max_seq_length, about)
        self.begin(model, [name for name, _ in model.named_parameters()])
        return model, tokenizer

    def trainer_options(self) -> dict[str, Any]:
        """The best answers in the place of all outputs."""
        return {"preprocess_logits_for_metrics": BestClasses(min(self.num_answers, len(self.labels)))}

    def write_answers(self, heading: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
        """Writes the best answers to the texts of the test set; returns a line to print."""
        path: Path = self.folder / "predict_results.tsv"
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, delimiter="\t", lineterminator="\n")
            writer.writerow(heading)
            writer.writerows(rows)
        return [f"The answers are in {path}."]
