"""Training on long texts with a memory: segments of parallel streams in their order, and the memory between them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from sqloss_plugins.errors import UserError
from sqloss_plugins.hf.token_scores import IGNORE_INDEX


class Segments(Dataset[dict[str, NDArray[np.int64]]]):
    """A text as equally long streams, side by side, and each cut into segments: row t B + b is segment t of stream b.

    A sequential sampler with batches of B rows thus gives each row of a batch what follows the same row of the batch
    before; with batches of B / W rows, W processes have each their own streams. Every character but the text's first is
    a label once, that of the character before it. Streams differ by one character at most, and where they do the
    shorter ones' last segments have a last label that does not count.

    Args:
        characters: the text, bytes, which may be memory-mapped.
        numbers: the class of each of the 256 bytes; -100 for bytes that are none: they are no labels, and read as
            ``stand_in``.
        streams: B.
        length: characters of a segment; the last ones of the streams are shorter.
        stand_in: a class.

    Attributes:
        labels: how many labels there are, known or not.
    """

    def __init__(
        self,
        characters: NDArray[np.uint8],
        numbers: NDArray[np.int64],
        streams: int,
        length: int,
        stand_in: int = 0,
    ) -> None:
        self.labels = len(characters) - 1
        self._characters, self._numbers, self._stand_in = characters, numbers, stand_in
        self._streams, self._length = streams, length
        self._starts = [self.labels * stream // streams for stream in range(streams + 1)]
        self._longest = -(-self.labels // streams)

    def __len__(self) -> int:
        return -(-self._longest // self._length) * self._streams

    def __getitem__(self, row: int) -> dict[str, NDArray[np.int64]]:
        """``input_ids`` and ``labels``, each of shape (L,)."""
        segment, stream = divmod(row, self._streams)
        offset = segment * self._length
        length = min(self._length, self._longest - offset)
        start = self._starts[stream] + offset
        classes = self._numbers[self._characters[start : min(start + length, self._starts[stream + 1]) + 1]]
        inputs = np.full(length, self._stand_in)
        labels = np.full(length, IGNORE_INDEX)
        inputs[: len(classes) - 1] = np.where(classes[:-1] < 0, self._stand_in, classes[:-1])
        labels[: len(classes) - 1] = classes[1:]
        return {"input_ids": inputs, "labels": labels}


class CarriedMemory(TrainerCallback):
    """Gives a model what it returned as ``memory`` for the batch before, in training and evaluation each for itself.

    Training begins every epoch with an empty memory, and evaluation every time. A checkpoint within an epoch has the
    memory, a file for each process, so that a training that goes on from there is that which was not interrupted.

    The model takes ``memory``, and returns it with the rows of the batch in its second dimension and without a graph.
    """

    def __init__(self) -> None:
        self._memory: dict[bool, Tensor | None] = {True: None, False: None}  # by whether the model is in training
        self._goes_on = False

    def _give(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**kwargs, "memory": self._memory[model.training]}

    def _take(self, model: nn.Module, args: tuple[Any, ...], outputs: Any) -> None:
        self._memory[model.training] = outputs.memory

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Takes its place before and after the model's forward pass."""
        kwargs["model"].register_forward_pre_hook(self._give, with_kwargs=True)
        kwargs["model"].register_forward_hook(self._take)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Notes whether the training goes on within an epoch."""
        self._goes_on = _is_within_an_epoch(state)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Empties the memory, or takes it from the checkpoint.

        Raises:
            UserError: the checkpoint has none.
        """
        self._memory[True] = _load(args, state) if self._goes_on else None
        self._goes_on = False

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Saves the memory before the rest of a checkpoint, whose last file makes it complete, is written."""
        if control.should_save:
            self._save(args, state)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Saves the memory for a checkpoint that was not foreseen at the end of the step."""
        if not _file(_own(args, state), args).is_file():
            self._save(args, state)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Forgets what was evaluated."""
        self._memory[False] = None

    on_predict = on_evaluate

    def _save(self, args: TrainingArguments, state: TrainerState) -> None:
        memory = self._memory[True]
        if memory is not None and _is_within_an_epoch(state):
            path = _file(_own(args, state), args)
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file({"memory": memory.contiguous()}, path)


def _is_within_an_epoch(state: TrainerState) -> bool:
    return state.global_step > 0 and not float(state.epoch or 0.0).is_integer()


def _own(args: TrainingArguments, state: TrainerState) -> Path:
    """The folder of this step's checkpoint."""
    return Path(args.output_dir or "", f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}")


def _file(checkpoint: Path, args: TrainingArguments) -> Path:
    return checkpoint / f"memory-{args.process_index}.safetensors"


def _load(args: TrainingArguments, state: TrainerState) -> Tensor:
    checkpoint = _own(args, state)
    if args.resume_from_checkpoint and not (checkpoint / "trainer_state.json").is_file():
        checkpoint = Path(args.resume_from_checkpoint)
    path = _file(checkpoint, args)
    if not path.is_file():
        raise UserError(
            f"{checkpoint} is a checkpoint within an epoch and has no {path.name}, what the model remembers there: "
            "remove it, and the same command goes on from the one before, or from the beginning"
        )
    return load_file(path)["memory"].to(args.device)


__all__ = ["CarriedMemory", "Segments"]
