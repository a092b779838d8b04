"""Which runs can be compared, and what comes out: one learning rate for each loss, and differences seed by seed."""

from __future__ import annotations

import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from sqloss_plugins.errors import UserError
from sqloss_plugins.experiments.statistics import paired_p_value
from sqloss_plugins.metrics import Metric
from sqloss_plugins.results import OF_OUTPUTS, RESULT_NAME, Result, read_result

BASELINE = "cross_entropy"

MINI_WARNING = (
    "MINI: data that this package makes; it shows that everything works, and says nothing about the real task."
)
"""For what is shown of mini runs."""

_VARIED = {"learning_rate", "seed", "loss", "k", "M", "prior_exponent", "num_train_epochs", "lsm_weight"}
_VARIED |= {"without_logits", "factorised_head", "head_learning_rate"}
"""Settings in which runs of a group differ: the loss and what belongs to it, as how its output layer is trained; the
paper's epochs and label smoothing, which differ by loss; and training without logits is the same training."""
_OF_SCORING = {"data_fingerprint", "test_fingerprints", "do_predict", "max_predict_samples", "score_train"}
"""Settings of what is scored after training, and the fingerprint that a group has already."""


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        path: its result file.
        result: what it says.
    """

    path: Path
    result: Result

    @property
    def label(self) -> str:
        """The loss, with k and M where it has them, and what else belongs to it."""
        result, settings = self.result, self.result.hyperparameters
        parts = [] if result.k is None else [f"k={result.k:g}", f"M={result.M:.4g}"]
        if settings.get("prior_exponent") is not None:
            parts.append(f"prior exponent {settings['prior_exponent']:g}")
        if settings.get("factorised_head"):
            parts.append(f"factorised head at lr {settings['head_learning_rate']:g}")
        return f"{result.loss} ({', '.join(parts)})" if parts else result.loss

    @property
    def learning_rate(self) -> float:
        """The learning rate."""
        return float(self.result.hyperparameters["learning_rate"])

    def values(self) -> dict[Column, float]:
        """All values but those of metrics that are not comparable, such as the training loss."""
        result = self.result
        fingerprints = result.data.get("test_fingerprints", {})
        found = {}
        for split, methods in result.metrics.items():
            for method, values in methods.items():
                for name, value in values.items():
                    if not result.metric(name).is_comparable:
                        continue
                    if method in (result.method, OF_OUTPUTS):
                        found[Column(split, name, None, fingerprints.get(split))] = value
                    if method != OF_OUTPUTS:
                        found[Column(split, name, method, fingerprints.get(split))] = value
        return found


@dataclass(frozen=True, order=True)
class Group:
    """What runs have in common that can be compared; they differ in loss, learning rate and seed.

    Attributes:
        task, arch, protocol, mini, selection: as in :class:`sqloss_plugins.results.Result`.
        fingerprint: of the training and the validation data.
        settings: all other settings that are set, as JSON.
    """

    task: str
    arch: str
    protocol: str
    mini: bool
    selection: str
    fingerprint: str
    settings: str

    @classmethod
    def of(cls, run: Run) -> Group:
        """The group of a run."""
        result = run.result
        left_out = _VARIED | _OF_SCORING
        # An option that was not given, or a switch that is off, is one that an earlier version did not have.
        settings = {
            name: value
            for name, value in result.hyperparameters.items()
            if name not in left_out and value is not None and value is not False
        }
        return cls(
            result.task,
            result.arch,
            result.protocol,
            result.mini,
            result.selection,
            result.data.get("fingerprint", ""),
            json.dumps(settings, sort_keys=True),
        )

    def differing(self, other: Group) -> set[str]:
        """The settings in which another group differs."""
        ours, theirs = json.loads(self.settings), json.loads(other.settings)
        return {name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)}

    def peculiarities(self, groups: Iterable[Group]) -> str:
        """What tells this group from the others of the same task, model and protocol; empty where there are none."""
        ours = json.loads(self.settings)
        names: set[str] = set()
        has_other_data = False
        for other in groups:
            if (other.task, other.arch, other.protocol) == (self.task, self.arch, self.protocol):
                names |= self.differing(other)
                has_other_data = has_other_data or other.fingerprint != self.fingerprint
        data = [f"data {self.fingerprint[:12]}"] if has_other_data else []
        return ", ".join([*data, *(f"{name} {ours.get(name)}" for name in sorted(names))])

    def title(self, groups: Iterable[Group]) -> str:
        """Task, model, protocol and what tells it from the others."""
        peculiarities = self.peculiarities(groups)
        return f"{self.task}, {self.arch}, {self.protocol}" + (f" ({peculiarities})" if peculiarities else "")


@dataclass(frozen=True)
class Column:
    """One thing that is measured.

    Attributes:
        split, metric: which metric on which data.
        method: how outputs became probabilities; None for the method that counts, whichever it is.
        fingerprint: of the test data; None for the validation data.
    """

    split: str
    metric: str
    method: str | None
    fingerprint: str | None


@dataclass(frozen=True)
class Summary:
    """One loss with its chosen learning rate.

    Attributes:
        runs: those at the chosen rate, in the order of their seeds; at least one.
        rates: every rate tried -> the mean validation metric that it was chosen by.
        values: column -> seed -> value, of the seeds that have one.
    """

    runs: list[Run]
    rates: dict[float, float]
    values: dict[Column, dict[int, float]]

    @property
    def loss(self) -> str:
        """The loss, with k and M where it has them."""
        return self.runs[0].label

    @property
    def name(self) -> str:
        """The loss alone."""
        return self.runs[0].result.loss

    @property
    def rescaling(self) -> tuple[float, float] | None:
        """Its k and M; None where it has none."""
        result = self.runs[0].result
        return None if result.k is None or result.M is None else (result.k, result.M)

    @property
    def learning_rate(self) -> float:
        """The chosen one."""
        return self.runs[0].learning_rate

    @property
    def seeds(self) -> list[int]:
        """The seeds run at the chosen rate."""
        return [run.result.seed for run in self.runs]


@dataclass(frozen=True)
class Difference:
    """A loss minus the baseline, seed by seed.

    Attributes:
        loss, column: what is compared.
        differences: seed -> difference, for the seeds that both were run with.
        p_value: of the paired t-test, two-sided; None below three seeds, or where all differences are equal.
    """

    loss: str
    column: Column
    differences: dict[int, float]
    p_value: float | None


@dataclass(frozen=True)
class Comparison:
    """The comparison of a group.

    Attributes:
        group: what its runs have in common.
        metrics: by name, for every metric that occurs.
        summaries: by loss.
        differences: of every loss to the baseline.
        notes: what could not be compared, one sentence each.
    """

    group: Group
    metrics: dict[str, Metric]
    summaries: dict[str, Summary]
    differences: list[Difference]
    notes: list[str]


def find_runs(folders: Iterable[Path], must_be: bool = True) -> list[Run]:
    """Every run below the folders; not those in which a saved model did no more than predict.

    Args:
        folders: where they are.
        must_be: whether there has to be one.

    Raises:
        UserError: a folder that is not there, a file that is not a result or has nothing to compare by, or no run.
    """
    folders = list(folders)
    paths: dict[str, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder")
        for path in _result_paths(folder):
            paths.setdefault(os.path.realpath(path), path)
    if not paths and must_be:
        raise UserError(f"no {RESULT_NAME} below {', '.join(map(str, folders))}: no run is finished there")
    runs = [run for path in paths.values() if (run := _read_run(path))]
    if not runs and must_be:
        raise UserError(f"{next(iter(paths.values()))} is of predictions alone: give the folder of a training")
    return runs


def _result_paths(folder: Path) -> list[Path]:
    """Everything below a folder that is called like a result, whether it can be read or not."""

    def refuse(error: OSError) -> NoReturn:
        raise UserError(f"{error.filename} cannot be read: {error.strerror}") from error

    found = []
    for root, folders, files in os.walk(folder, onerror=refuse):
        if RESULT_NAME in (*folders, *files):
            found.append(Path(root) / RESULT_NAME)
    return sorted(found)


def _read_run(path: Path) -> Run | None:
    """A run; None for predictions alone."""
    try:
        run = Run(path, read_result(path))
    except ValueError as error:
        raise UserError(str(error)) from error
    if not run.result.epochs and "validation" not in run.result.metrics:
        return None
    rate = run.result.hyperparameters.get("learning_rate")
    if not isinstance(rate, int | float) or isinstance(rate, bool) or not 0 <= rate <= sys.float_info.max:
        raise UserError(f"{path} has no learning rate among its hyperparameters")
    if run.result.value("validation", run.result.selection) is None:
        raise UserError(f"{path} has no {run.result.selection} of validation data to compare by")
    return run


def grouped(runs: Iterable[Run]) -> dict[Group, list[Run]]:
    """Runs by group, sorted."""
    groups: dict[Group, list[Run]] = defaultdict(list)
    for run in runs:
        groups[Group.of(run)].append(run)
    return dict(sorted(groups.items()))


def compare_group(group: Group, runs: Sequence[Run]) -> Comparison:
    """Compares the runs of one group.

    Raises:
        UserError: two runs of the same loss, rate and seed; different numbers of epochs for one loss; runs that
            disagree on a metric's direction.
    """
    metrics = _metrics(runs)
    by_loss: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_loss[run.label].append(run)
    summaries: dict[str, Summary] = {}
    notes = []
    for label, its_runs in sorted(by_loss.items()):
        summary = summarise(its_runs, metrics[group.selection])
        if summary:
            summaries[label] = summary
        else:
            notes.append(f"{label} is left out: no seed was run with every learning rate, so that none can be chosen")
    differences: list[Difference] = []
    for label, summary in summaries.items():
        if label != BASELINE and BASELINE in summaries:
            found, missing = paired_differences(summary, summaries[BASELINE])
            differences += found
            notes += missing
    return Comparison(group, metrics, summaries, differences, notes)


def _metrics(runs: Sequence[Run]) -> dict[str, Metric]:
    found: dict[str, tuple[Metric, Run]] = {}
    for run in runs:
        for name in run.result.directions:
            metric, other = found.setdefault(name, (run.result.metric(name), run))
            if metric != run.result.metric(name):
                raise UserError(f"{other.path} and {run.path} do not agree on the direction or the unit of {name}")
    return {name: metric for name, (metric, _) in found.items()}


def summarise(runs: Sequence[Run], selection: Metric) -> Summary | None:
    """Chooses the learning rate of one loss, and gathers its seeds.

    Args:
        runs: of one loss in one group.
        selection: the metric of the validation data to choose by.

    Returns:
        None where no seed was run with every rate.

    Raises:
        UserError: two runs of the same rate and seed, or different numbers of epochs.
    """
    by_rate: dict[float, dict[int, Run]] = defaultdict(dict)
    for run in runs:
        other = by_rate[run.learning_rate].setdefault(run.result.seed, run)
        if other is not run:
            raise UserError(f"{other.path} and {run.path} are runs of the same settings and seed: remove one of them")
        epochs, first = (each.result.hyperparameters.get("num_train_epochs") for each in (run, runs[0]))
        # With the protocol same_epochs every seed has its own number.
        if epochs != first and run.result.protocol != "same_epochs":
            raise UserError(
                f"{runs[0].path} and {run.path} have different num_train_epochs, {first} and {epochs}: compare them in "
                "separate folders"
            )
    common = set.intersection(*(set(by_seed) for by_seed in by_rate.values()))
    if not common:
        return None
    rates = {rate: _mean_validation(by_rate[rate], common, selection.name) for rate in sorted(by_rate)}
    chosen = list(rates)[selection.best(list(rates.values()))]
    its_runs = [run for _, run in sorted(by_rate[chosen].items())]
    values: dict[Column, dict[int, float]] = defaultdict(dict)
    for run in its_runs:
        for column, value in run.values().items():
            values[column][run.result.seed] = value
    return Summary(its_runs, rates, dict(values))


def _mean_validation(by_seed: Mapping[int, Run], seeds: Iterable[int], name: str) -> float:
    import numpy as np

    return float(np.mean([by_seed[seed].result.value("validation", name) for seed in sorted(seeds)]))


def paired_differences(summary: Summary, baseline: Summary) -> tuple[list[Difference], list[str]]:
    """Differences seed by seed in every column that both have, and what could not be compared, a sentence each."""
    if not set(summary.seeds) & set(baseline.seeds):
        return [], [f"{summary.loss} and {baseline.loss} have no seed in common: there are no differences to show"]
    found, notes = [], []
    fingerprints = {(column.split, column.fingerprint) for column in baseline.values}
    splits = {split for split, _ in fingerprints}
    for column, values in summary.values.items():
        theirs = baseline.values.get(column, {})
        paired = {seed: value - theirs[seed] for seed, value in values.items() if seed in theirs}
        if paired:
            found.append(Difference(summary.loss, column, paired, paired_p_value(list(paired.values()))))
        elif column.split in splits and (column.split, column.fingerprint) not in fingerprints:
            notes.append(f"{summary.loss} and {baseline.loss} have different data for {column.split}: not compared")
    return found, list(dict.fromkeys(notes))


def best_learning_rate(folders: Sequence[Path], loss: str) -> float:
    """The learning rate that the comparison chooses for a loss.

    Raises:
        UserError: no such runs, runs of several groups or several k and M, or none that can be chosen.
    """
    runs = [run for run in find_runs(folders) if run.result.loss == loss]
    if not runs:
        raise UserError(f"no run of {loss} is below {', '.join(map(str, folders))}")
    if len(grouped(runs)) > 1 or len({run.label for run in runs}) > 1:
        raise UserError(
            f"the runs of {loss} differ in more than learning rate and seed, in task, model, protocol, data, k, M or "
            "another setting, so that there is not one best rate: name the folder of one comparison"
        )
    summary = summarise(runs, runs[0].result.metric(runs[0].result.selection))
    if summary is None:
        raise UserError(f"no seed of {loss} was run with every learning rate, so that none can be chosen")
    return summary.learning_rate
