"""What an experiment has to know of a task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from datasets import Dataset
from transformers import PretrainedConfig, PreTrainedModel, TrainerCallback, default_data_collator

from sqloss_plugins import paper
from sqloss_plugins.data.task_data import TaskData
from sqloss_plugins.hf.config import SquareLossConfig
from sqloss_plugins.hf.hub import find_config
from sqloss_plugins.losses import LOSSES
from sqloss_plugins.paper import Rescaling
from sqloss_plugins.results import OF_OUTPUTS

Scores = dict[str, dict[str, float]]
"""Method -> metric -> value; :data:`sqloss_plugins.results.OF_OUTPUTS` for what no method decides."""


@dataclass
class TaskArguments:
    """What every task takes beside the SquareLossConfig."""

    mini: bool = field(
        default=False, metadata={"help": "Use the embedded mini data: no download, and no real task or benchmark."}
    )
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Pre-trained model: a name on the hub, or a folder."}
    )
    cross_entropy_run: str | None = field(
        default=None,
        metadata={
            "help": "With --protocol same_epochs: folder of the cross-entropy run, of the same seed and with "
            "early stopping, whose number of epochs is taken. By default the best run in the default folders."
        },
    )
    score_train: bool = field(
        default=False,
        metadata={
            "help": "Score the training data, too, with the trained model (the paper's Tables 16, 17 and 19); its "
            "examples are not varied for that."
        },
    )
    cache_dir: str | None = field(default=None, metadata={"help": "Where downloads and data sets are kept."})
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of the model."})
    token: str | None = field(default=None, metadata={"help": "Token for the hub."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Allow the model's own code from the hub."})

    @property
    def hub(self) -> dict[str, Any]:
        """Keyword arguments for every ``from_pretrained``."""
        return {
            "cache_dir": self.cache_dir,
            "revision": self.model_revision,
            "token": self.token,
            "trust_remote_code": self.trust_remote_code,
        }


class Task(ABC):
    """A task, and one run of it.

    Attributes:
        program: the name that its messages begin with.
        arguments: its own options.
        same_when_resumed: of its settings those that a checkpoint given by hand must agree in.
        not_decisive: of its own options those that do not decide the result.
        mini_warning: what is said of mini data.
        keeps_outputs: whether what the Trainer predicts goes into ``outputs.npz``.
        counts_classes: whether it gives the Trainer ``class_counts``, which ``--prior_exponent`` needs.
        is_multi_label: whether an example has any number of classes, each of them a decision of its own.
        name: its short name, for folders and results.
        metrics: by which early stopping may go, the usual one first.
        args, config: the command line: its own options, and the rest.
        given: names of the options that are given, rather than at their default.
        is_hub_reachable: whether the hub is there, where it may be needed.
        data: once it is loaded.
        model_path: a folder or a name on the hub; None for a new model.
        arch: the model's short name.
        rescaling: k and M, and where they come from; None where the loss has none.
        processor: tokenizer or image processor, once the model is loaded.
        teacher: the model of ``--teacher``; None where there is none.
    """

    program: ClassVar[str]
    arguments: ClassVar[type[TaskArguments]] = TaskArguments
    same_when_resumed: ClassVar[tuple[str, ...]] = ()
    not_decisive: ClassVar[tuple[str, ...]] = ()
    mini_warning: ClassVar[str] = "MINI DATA: not the real task"
    keeps_outputs: ClassVar[bool] = True
    counts_classes: ClassVar[bool] = False
    is_multi_label: bool = False
    name: str
    metrics: tuple[str, ...]
    data: TaskData
    model_path: str | None
    arch: str
    rescaling: Rescaling | None = None
    processor: Any
    teacher: PreTrainedModel | None = None

    def __init__(self, args: Any, config: SquareLossConfig, given: frozenset[str]) -> None:
        self.args = args
        self.config = config
        self.given = given
        self.is_hub_reachable = True

    # What a task says.

    @classmethod
    def chosen_by(cls, given: Mapping[str, str]) -> type[Task]:
        """The task that a command line is for: this one, or another that takes these options, each with its value.

        Raises:
            UserError: they are of several tasks.
        """
        return cls

    @classmethod
    def defaults(cls, args: Any, loss: str) -> dict[str, Any]:
        """Defaults for options, its own and those of SquareLossConfig; without early stopping no metric chooses."""
        return {"metric_for_best_model": cls.metrics[0]}

    def check(self) -> None:  # noqa: B027
        """Refuses, by a UserError, what cannot work, before anything is loaded."""

    def from_hub(self) -> list[str]:
        """What the run needs that is a folder here or else a name on the hub."""
        names = (self.args.model_name_or_path,)
        return [name for name in names if name is not None]

    @abstractmethod
    def load(self) -> TaskData:
        """Reads and checks the data; the model is found already."""

    @cached_property
    def origin(self) -> PretrainedConfig | None:
        """The configuration that the model comes with; None for a new model."""
        path = self.model_path
        return None if path is None else find_config(path, self.is_hub_reachable, **self.args.hub)

    def settle(self) -> None:
        """Settles what data and model decide together, or refuses them, by a UserError, where they do not fit.

        Of a model that is scored as it is, the loss is its own, unless one is given.
        """
        if self.config.do_train or self.origin is None or {"loss", "k", "M", "rescaling", "paper_task"} & self.given:
            return
        found = getattr(self.origin, "square_loss", None)
        name = str(getattr(self.origin, "trained_with", ""))
        self.config.loss = "square" if found else name if name in LOSSES else "cross_entropy"
        if found and self.has_classes:
            self.rescaling = Rescaling(found["k"], found["M"], "the model's own")

    @property
    @abstractmethod
    def num_outputs(self) -> int:
        """Outputs of the model: classes, or 1 for a regression; once the data is loaded."""

    @abstractmethod
    def find_model(self) -> tuple[str | None, str]:
        """The model's path and its short name."""

    @abstractmethod
    def load_model(self, path: str | None) -> tuple[PreTrainedModel, Any]:
        """The model, with the weights of ``path``, and its tokenizer or image processor."""

    def encode(self, rows: Dataset, for_training: bool = False) -> Dataset:
        """A split as the model takes it, with ``labels`` where they are public; ``processor`` is there.

        Args:
            rows: one of the splits of the data.
            for_training: whether it is to be trained on, and not scored.
        """
        return rows

    def collator(self) -> Callable[..., Any]:
        """Puts examples together to a batch."""
        return default_data_collator  # type: ignore[no-any-return]

    def trainer_options(self) -> dict[str, Any]:
        """More keyword arguments for the SquareLossTrainer."""
        # Some models return more than their logits.
        return {
            "preprocess_logits_for_metrics": lambda outputs, _: outputs[0] if isinstance(outputs, tuple) else outputs
        }

    def callbacks(self) -> list[TrainerCallback]:
        """More callbacks for the Trainer."""
        return []

    @abstractmethod
    def scores(self, outputs: Any, targets: Any) -> Scores:
        """The metrics of a labelled split, by method.

        Args:
            outputs: what the Trainer predicted, NumPy.
            targets: the labels, NumPy.
        """

    def begin_scoring(self) -> None:  # noqa: B027
        """Called when training has ended, before the splits are scored: validation first."""

    def counted(self, split: str, outputs: Any) -> Any:
        """What of the outputs on a split counts when it is scored after training: all of them."""
        return outputs

    def predicted(self, split: str, outputs: Any, targets: Any | None) -> list[str]:
        """Called with the outputs on every split that is scored, by the first process; returns lines to print.

        Args:
            split: its name.
            outputs: what the Trainer predicted, NumPy.
            targets: the labels, NumPy; None for a split without labels.
        """
        return []

    def facts(self, datasets: Mapping[str, Dataset]) -> dict[str, dict[str, float]]:
        """About the encoded data, for people and for ``Result.data``: name -> split -> value."""
        return {}

    def fitted(self) -> dict[str, float]:
        """What was fitted on the validation data after training, for ``Result.data``."""
        return {}

    @property
    def paper_task(self) -> str | None:
        """The paper's name of the task, for k and M; None for a task that it does not have."""
        return self.name if self.name in paper.tasks() else None

    @property
    def has_classes(self) -> bool:
        """Whether the outputs are those of classes."""
        return self.num_outputs > 1

    @property
    def method(self) -> str:
        """The method whose metrics count."""
        return LOSSES[self.config.loss].methods[0] if self.has_classes else OF_OUTPUTS

    def about(self) -> dict[str, str]:
        """What is added to lines of the banner: ``model`` or ``training`` -> text."""
        return {}

    def notes(self) -> list[str]:
        """Lines for the end of the banner."""
        return [] if self.config.do_train else ["NO TRAINING: the model is scored as it is"]

    # What follows from it.

    @property
    def folder(self) -> Path:
        """Where everything goes."""
        return Path(self.config.output_dir)

    def compute_metrics(self, prediction: Any) -> dict[str, float]:
        """For the Trainer: the metrics that count."""
        scores = self.scores(prediction.predictions, prediction.label_ids)
        return {**scores.get(OF_OUTPUTS, {}), **scores.get(self.method, {})}
