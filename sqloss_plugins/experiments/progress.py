"""How far a sweep has come, and how it is shown: one live table in a terminal, else a line when a run ends."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sqloss_plugins.errors import UserError
from sqloss_plugins.experiments.plan import Plan, Run
from sqloss_plugins.results import RESULT_NAME, read_result

_SHOWN = 12
"""Runs that ended which the live table has."""


class State(enum.Enum):
    """What became of a run."""

    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    REFUSED = "refused"  # its command took the options for a mistake


@dataclass
class Status:
    """Of one run.

    Attributes:
        state: as it is now.
        began: time of the monotonic clock.
        seconds: how long it took, once it has ended.
        reason: why it failed.
    """

    state: State
    began: float = 0.0
    seconds: float = 0.0
    reason: str = ""


class Progress:
    """Which runs there are, and what became of each.

    Args:
        plan: the sweep.
        choose: the best learning rate of the runs of a search that have ended; None where none is finished.

    Attributes:
        plan: the sweep.
        total: how many runs there are where none fails.
        workers: how many runs can be carried out at a time.
    """

    def __init__(self, plan: Plan, choose: Callable[[Sequence[Run]], str | None]) -> None:
        self.plan = plan
        self.total = len(plan.all())
        self.workers = 0
        self._choose = choose
        self._chosen: dict[tuple[Run, ...], str | None] = {}
        self._statuses: dict[Run, Status] = {}

    def known(self) -> list[Run]:
        """All runs that can be told by now."""
        return list(self.plan.known(self.chosen, self._is_finished))

    def _is_finished(self, run: Run) -> bool:
        status = self.status(run)
        return status is not None and status.state is State.FINISHED

    def chosen(self, search: Sequence[Run]) -> str | None:
        """The learning rate that a search came to; None before its end, and where none of its runs is finished."""
        key = tuple(search)
        if key not in self._chosen:
            if any(self._is_open(run) for run in search):
                return None
            self._chosen[key] = self._choose(search)
        return self._chosen[key]

    def status(self, run: Run) -> Status | None:
        """Of a run; None where it was not begun.

        Raises:
            UserError: it has a result that cannot be read.
        """
        if run not in self._statuses and (run.folder / RESULT_NAME).is_file():
            try:
                self._statuses[run] = Status(State.FINISHED, seconds=read_result(run.folder).wall_time_s)
            except ValueError as error:
                raise UserError(f"{error}; remove it, and the same command makes it anew") from error
        return self._statuses.get(run)

    def _is_open(self, run: Run) -> bool:
        status = self.status(run)
        return (status is None or status.state is State.RUNNING) and not self._is_hopeless(run)

    def _is_hopeless(self, run: Run) -> bool:
        """Whether its options were refused before; one that had a result would show that they can be taken."""
        of_cell = [status for other, status in self._statuses.items() if other.cell == run.cell]
        states = {status.state for status in of_cell}
        return State.REFUSED in states and State.FINISHED not in states

    def waiting(self) -> list[Run]:
        """Runs that can be begun."""
        return [run for run in self.known() if self.status(run) is None and not self._is_hopeless(run)]

    def begin(self, run: Run) -> None:
        """A run is at work."""
        self._statuses[run] = Status(State.RUNNING, began=time.monotonic())

    def end(self, run: Run, state: State, seconds: float, reason: str) -> None:
        """A run has ended."""
        self._statuses[run] = Status(state, seconds=seconds, reason=reason)

    def in_state(self, *states: State) -> list[tuple[Run, Status]]:
        """The runs in one of these states, in the order in which they came to be known."""
        return [(run, status) for run, status in self._statuses.items() if status.state in states]

    @property
    def failures(self) -> list[tuple[Run, Status]]:
        """Runs that failed."""
        return self.in_state(State.FAILED, State.REFUSED)

    @property
    def lacking(self) -> int:
        """How many runs were not begun, because of those that failed."""
        return self.total - len(self._statuses)

    def summary(self) -> str:
        """Counts, and the time left: by the mean time of the runs that are finished."""
        finished, running = len(self.in_state(State.FINISHED)), len(self.in_state(State.RUNNING))
        failed = len(self.failures)
        parts = [f"{finished} of {self.total} finished", f"{running} running"]
        if failed:
            parts.append(f"{failed} failed")
        seconds = [status.seconds for _, status in self.in_state(State.FINISHED) if status.seconds > 0]
        open_runs = self.total - finished - failed
        if seconds and open_runs and self.workers:
            left = open_runs * sum(seconds) / len(seconds) / min(self.workers, open_runs)
            parts.append(f"about {duration(left)} left")
        if not self.workers:
            parts.append("waiting for workers")
        return ", ".join(parts)


def duration(seconds: float) -> str:
    """For people: ``48 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Display:
    """Shows a sweep while it runs."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        console = Console()
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._waits = False

    def __enter__(self) -> Display:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def update(self) -> None:
        """Draws the live table anew; without one says when there are no workers."""
        waits = not self._progress.workers
        if waits and not self._waits and not self._live:
            print(self._progress.summary(), flush=True)
        self._waits = waits
        if self._live:
            self._live.update(Group(Text(self._progress.summary()), _table(self._progress)), refresh=True)

    def ended(self, run: Run) -> None:
        """A run has ended."""
        status = self._progress.status(run)
        if self._live is None and status is not None:
            reason = f" ({status.reason})" if status.reason else ""
            line = f"{status.state.value:8s}  {run.name}  {duration(status.seconds)}{reason}"
            print(f"{line}; {self._progress.summary()}", flush=True)


def _table(progress: Progress) -> Table:
    """What runs first, because a low terminal cuts the end off; then failures; of what is finished the last."""
    table = Table("run", "state", "time")
    rows = progress.in_state(State.RUNNING) + progress.failures + progress.in_state(State.FINISHED)[-_SHOWN:]
    for run, status in rows:
        is_running = status.state is State.RUNNING
        seconds = time.monotonic() - status.began if is_running else status.seconds
        table.add_row(run.name, status.state.value, duration(seconds), style="bold" if is_running else None)
    return table
