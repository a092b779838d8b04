"""What a sweep runs: which commands there are, and which of them can be given already.

Every run is a command that a user would type. What is run depends on what came out before, so that runs become known
bit by bit: a loss's other seeds when its learning rate is chosen, and a run of the protocol ``same_epochs`` when the
run of cross-entropy is finished whose epochs it takes.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqloss_plugins.experiments.comparison import BASELINE

SEARCHED_BY = "early_stopping"
FOLLOWING = "same_epochs"
BEST = "BEST"
"""Stands for a learning rate that is not chosen yet."""

_NOT_OF_FOLLOWING = ("num_train_epochs", "max_steps", "patience")
"""Options that say how early stopping ends; the other protocol has the number of epochs from another run."""


@dataclass(frozen=True)
class Cell:
    """One task with one model: what a sweep compares the losses on.

    Attributes:
        name: its folder below that of the sweep.
        words: the command without what the sweep varies: ``("glue", "--task", "mrpc", ...)``.
    """

    name: str
    words: tuple[str, ...]

    @property
    def is_speech(self) -> bool:
        """Whether it is a recipe of ESPnet's, which has the number of epochs and the learning rate in a file."""
        return self.words[0] == "asr"


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        cell, loss, seed: what is run.
        rate: the learning rate, as it is written; None for the command's own.
        protocol: None where the command has but one.
        folder: where it goes.
        words: the whole command, after ``sqloss``.
        epochs_of: the run whose number of epochs it takes; None for its own.
    """

    cell: Cell
    loss: str
    rate: str | None
    seed: int
    protocol: str | None
    folder: Path
    words: tuple[str, ...]
    epochs_of: Run | None = None

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.cell.name}/{self.folder.name}"

    @property
    def command(self) -> str:
        """As a user would type it."""
        return shlex.join(("sqloss", *self.words))

    @property
    def is_settled(self) -> bool:
        """Whether the learning rates that it depends on are chosen."""
        return BEST not in (self.rate, self.epochs_of.rate if self.epochs_of else None)


@dataclass(frozen=True)
class Plan:
    """What is asked for.

    Attributes:
        folder: where everything goes.
        cells: the tasks and their models.
        losses, seeds, protocols: as on the command line; the first seed is that of the search.
        rates: learning rates to choose from, as they are written; empty: each command's own.
    """

    folder: Path
    cells: tuple[Cell, ...]
    losses: tuple[str, ...]
    seeds: tuple[int, ...]
    protocols: tuple[str, ...]
    rates: tuple[str, ...] = ()

    def protocol(self, cell: Cell) -> str | None:
        """By which the learning rate of a cell is chosen."""
        if cell.is_speech:
            return None
        return SEARCHED_BY if SEARCHED_BY in self.protocols else self.protocols[0]

    def has_rates(self, cell: Cell) -> bool:
        """Whether the rates are for a cell: those of the Trainer's tasks are not for speech beside them."""
        return not cell.is_speech or all(other.is_speech for other in self.cells)

    def search(self, cell: Cell, loss: str) -> list[Run]:
        """The first seed with every learning rate."""
        rates = (self.rates if self.has_rates(cell) else ()) or (None,)
        return [self.run(cell, loss, rate, self.seeds[0], self.protocol(cell)) for rate in rates]

    def known(self, choose: Callable[[Sequence[Run]], str | None], is_finished: Callable[[Run], bool]) -> Iterator[Run]:
        """The runs that can be told by now.

        Args:
            choose: the learning rate that the runs of a search end in; called only where there is more than one, and
                None where it cannot be said.
            is_finished: whether a run has its result.
        """
        for cell in self.cells:
            protocol, chosen = self.protocol(cell), {}
            for loss in self.losses:
                search = self.search(cell, loss)
                yield from search
                rate = search[0].rate if len(search) == 1 else choose(search)
                if len(search) == 1 or rate is not None:
                    chosen[loss] = rate
                    for seed in self.seeds[1:]:
                        yield self.run(cell, loss, rate, seed, protocol)
            if protocol == SEARCHED_BY and FOLLOWING in self.protocols and BASELINE in chosen:
                for seed in self.seeds:
                    theirs = self.run(cell, BASELINE, chosen[BASELINE], seed, protocol)
                    if is_finished(theirs):
                        for loss, rate in chosen.items():
                            yield self.run(cell, loss, rate, seed, FOLLOWING, theirs)

    def all(self) -> list[Run]:
        """As many runs as there are where none fails, with :data:`BEST` for rates that are not chosen."""
        return list(self.known(lambda _: BEST, lambda _: True))

    def run(
        self, cell: Cell, loss: str, rate: str | None, seed: int, protocol: str | None, epochs_of: Run | None = None
    ) -> Run:
        """One run; ``epochs_of`` is that whose number of epochs it takes."""
        parts = [loss, *([f"lr{rate}"] if rate else []), *([protocol] if protocol else []), f"s{seed}"]
        folder = self.folder / cell.name / "-".join(parts)
        words = without(cell.words, _NOT_OF_FOLLOWING) if epochs_of else list(cell.words)
        words += ["--loss", loss]
        if rate:
            words += ["--optim_conf", f"lr={rate}"] if cell.is_speech else ["--learning_rate", rate]
        words += ["--seed", str(seed)]
        if protocol:
            words += ["--protocol", protocol]
        if epochs_of:
            words += ["--cross_entropy_run", str(epochs_of.folder)]
        words += ["--asr_exp" if cell.is_speech else "--output_dir", str(folder)]
        return Run(cell, loss, rate, seed, protocol, folder, tuple(words), epochs_of)


def option_name(word: str) -> str | None:
    """The option that a word of a command line names, with ``_`` for ``-``; None where it names none."""
    return word[2:].partition("=")[0].replace("-", "_") if word.startswith("--") else None


def without(words: Sequence[str], names: Sequence[str]) -> list[str]:
    """Words of a command line without some options and their values."""
    kept, is_left_out = [], False
    for word in words:
        name = option_name(word)
        is_left_out = name in names if name is not None else is_left_out
        if not is_left_out:
            kept.append(word)
    return kept
