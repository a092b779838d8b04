"""What finished runs show: the comparison of every group of runs, and whether it is the paper's, one's own, or mini."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqloss_plugins import paper
from sqloss_plugins.experiments.comparison import (
    BASELINE,
    Column,
    Comparison,
    Difference,
    Group,
    Run,
    Summary,
    compare_group,
    find_runs,
    grouped,
    paired_differences,
)

PAPER, OWN, MINI = "paper", "own", "mini"
"""Where a comparison belongs: the paper's task, model and data; other tasks, models, parts of the data; mini data."""

_ENOUGH = 0.9
"""The share of the paper's examples, which it rounds, that the whole data has at least."""


@dataclass(frozen=True)
class Evidence:
    """One group of runs and its comparison.

    Attributes:
        comparison: of the losses.
        runs: its runs.
        section: :data:`PAPER`, :data:`OWN` or :data:`MINI`.
        reason: why it is not the paper's, in some words; empty where it is.
        model: the paper's name of the model, where it is the paper's.
        differences: to cross-entropy: the comparison's own, or for the protocol ``same_epochs`` those to
            cross-entropy with early stopping, as in the paper.
    """

    comparison: Comparison
    runs: Sequence[Run]
    section: str
    reason: str
    model: str | None
    differences: Sequence[Difference]

    @property
    def group(self) -> Group:
        """What its runs have in common."""
        return self.comparison.group

    def main_column(self, values: Mapping[Column, object] | Iterable[Column]) -> Column | None:
        """Of some columns that of the metric that decides: on test data, else on validation data."""
        for split in ("test", "validation"):
            for column in values:
                if (column.split, column.metric, column.method) == (split, self.group.selection, None):
                    return column
        return None


def gather(folders: Sequence[Path]) -> list[Evidence]:
    """Everything below the folders, compared.

    Raises:
        UserError: files that cannot be read or compared; see :func:`find_runs` and :func:`compare_group`.
    """
    compared = [(compare_group(group, runs), runs) for group, runs in grouped(find_runs(folders)).items()]
    found = []
    for comparison, runs in compared:
        model = _paper_model(comparison.group)
        reasons = [reason for run in runs if (reason := _departure(run, model))]
        section = MINI if comparison.group.mini else OWN if reasons else PAPER
        baseline = _baseline(comparison, [other for other, _ in compared])
        differences = comparison.differences if baseline is None else _against(comparison, baseline)
        reason = next(iter(reasons), "")
        found.append(Evidence(comparison, runs, section, reason, model if section == PAPER else None, differences))
    return found


def _paper_model(group: Group) -> str | None:
    """The paper's name of a group's model; None where the paper does not have it on this task."""
    for row in paper.published("test_results"):
        if row.task == group.task and group.arch in (row.model, paper.backbone(row.task, row.model)):
            return row.model
    return None


def _departure(run: Run, model: str | None) -> str:
    """Why a run is not one of the paper's, in some words; empty where it is."""
    result = run.result
    if result.mini:
        return "mini data"
    parts = [name for name in result.hyperparameters if name.startswith("max_") and name.endswith("_samples")]
    part = "a part of the data" if any(result.hyperparameters[name] for name in parts) else ""
    if result.task not in paper.tasks():
        return "; ".join(filter(None, ("not a task of the paper's", part)))
    if model is None:
        return "; ".join(filter(None, ("not a model of the paper's", part)))
    if part:
        return part
    sizes = {name: size for name, size in result.data.get("sizes", {}).items() if "_sp" not in name}
    trained_on = sizes.get("train", max(sizes.values(), default=0))
    utterances = paper.tables()["utterances"].get(result.task)
    # The paper's number has what it holds out of the training data in it.
    there = trained_on if utterances else trained_on + sizes.get("validation", 0)
    whole = utterances or next(row["train"] for row in paper.tables()["datasets"] if row["task"] == result.task)
    return "" if there >= _ENOUGH * whole else f"{there} of {whole} examples"


def _baseline(comparison: Comparison, others: Iterable[Comparison]) -> Summary | None:
    """For runs with as many epochs as cross-entropy with early stopping: that one; else None.

    Of several groups it is that with the most like settings, and of these that with most seeds.
    """
    group = comparison.group
    if group.protocol != "same_epochs":
        return None

    def key(of: Group) -> tuple[object, ...]:
        return of.task, of.arch, of.mini, of.fingerprint

    there = [
        other
        for other in others
        if BASELINE in other.summaries and other.group.protocol == "early_stopping" and key(other.group) == key(group)
    ]
    there.sort(key=lambda other: (len(group.differing(other.group)), -len(other.summaries[BASELINE].seeds)))
    return there[0].summaries[BASELINE] if there else None


def _against(comparison: Comparison, baseline: Summary) -> list[Difference]:
    return [
        difference
        for label, summary in comparison.summaries.items()
        if label != BASELINE
        for difference in paired_differences(summary, baseline)[0]
    ]
