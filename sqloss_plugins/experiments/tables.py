"""The tables of a report; among them the paper's, each cell with our runs beside the paper's number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqloss_plugins import paper
from sqloss_plugins.experiments.comparison import BASELINE, Comparison, Summary
from sqloss_plugins.experiments.evidence import Evidence
from sqloss_plugins.experiments.statistics import deviation_interval, standard_deviation
from sqloss_plugins.metrics import Metric, metric

COLUMNS = {"square": "square loss", BASELINE: "cross-entropy", "same_epochs": "square loss w/ same epochs as CE"}
"""The columns of the paper's tables of results."""


class Cell(NamedTuple):
    """What a table shows in one place.

    Attributes:
        text: empty where there is nothing.
        value: the number to sort by; None for text.
        paper: the paper's number beside it; empty where it has none.
    """

    text: str
    value: float | None = None
    paper: str = ""


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        name: of its files.
        title: above it.
        columns: the headings of what is shown.
        rows: what is shown.
        records: the same with every number in a field of its own, one a row; the fields of all of them are the same.
        notes: below it, one sentence each.
    """

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    records: Sequence[Mapping[str, Any]]
    notes: Sequence[str] = field(default_factory=tuple)


def number(value: float | None, digits: int = 2, sign: str = "") -> Cell:
    """A cell with a number; empty where there is none."""
    return Cell("") if value is None else Cell(f"{value:{sign}.{digits}f}", value)


def scaled(metric: Metric, value: float) -> float:
    """A value in the unit that tables have: per cent for fractions."""
    return 100 * value if metric.unit == "%" else value


class Measured(NamedTuple):
    """What our runs have for one of the paper's numbers.

    Attributes:
        by_seed: seed -> value, in the paper's unit; empty where nothing was run or measured.
    """

    by_seed: Mapping[int, float]

    @property
    def mean(self) -> float | None:
        """Of the seeds."""
        import numpy as np

        return float(np.mean(list(self.by_seed.values()))) if self.by_seed else None

    @property
    def deviation(self) -> float | None:
        """The sample standard deviation; None below two seeds."""
        return standard_deviation(list(self.by_seed.values()))

    def cell(self, published: float | None = None) -> Cell:
        """Mean +- standard deviation (seeds), beside the paper's number."""
        beside = "" if published is None else f"{published:.1f}"
        if self.mean is None:
            return Cell("", published, beside)
        spread = "" if self.deviation is None else f" +- {self.deviation:.2f}"
        return Cell(f"{self.mean:.2f}{spread} ({len(self.by_seed)})", self.mean, beside)


class Match(NamedTuple):
    """Our runs for one model and task of the paper's: one summary a column, None where there is none."""

    summaries: Mapping[str, Summary | None]
    notes: Sequence[str]

    def measured(self, column: str, split: str, metric: Metric) -> Measured:
        """What a column has of a metric; of several test sets the one with most seeds."""
        summary = self.summaries[column]
        if summary is None:
            return Measured({})
        found = [
            values
            for place, values in summary.values.items()
            if (place.split, place.metric, place.method) == (split, metric.name, None)
        ]
        values = max(found, key=len, default={})
        return Measured({seed: scaled(metric, value) for seed, value in values.items()})


def match(evidence: Sequence[Evidence], task: str, model: str) -> Match:
    """Finds the runs of one model and task of the paper's: of several settings those with most seeds.

    Early stopping goes before a fixed number of epochs; of several k and M the paper's go before others.
    """
    ours = [item.comparison for item in evidence if (item.group.task, item.model) == (task, model)]
    notes: list[str] = []

    def pick(protocols: Sequence[str]) -> Comparison | None:
        for protocol in protocols:
            there = [each for each in ours if each.group.protocol == protocol and each.summaries]
            if len(there) > 1:
                notes.append(
                    f"{len(there)} groups of runs differ in settings ({protocol}): shown is that with most seeds"
                )
            if there:
                if protocol == "fixed_epochs":
                    notes.append("a fixed number of epochs, without early stopping")
                return max(there, key=lambda each: sum(len(summary.seeds) for summary in each.summaries.values()))
        return None

    def square(comparison: Comparison | None) -> Summary | None:
        usual = paper.choose_rescaling(2, task=task, rule="paper")
        summaries = [each for each in comparison.summaries.values() if each.name == "square"] if comparison else []
        summaries.sort(key=lambda each: (each.rescaling != (usual.k, usual.M), -len(each.seeds)))
        if summaries and (len(summaries) > 1 or summaries[0].rescaling != (usual.k, usual.M)):
            others = f" of {len(summaries)}" if len(summaries) > 1 else ""
            notes.append(f"{summaries[0].loss}{others}; the paper has k={usual.k:g}, M={usual.M:g}")
        return summaries[0] if summaries else None

    main, same = pick(("early_stopping", "fixed_epochs")), pick(("same_epochs",))
    baseline = main.summaries.get(BASELINE) if main else None
    return Match({"square": square(main), BASELINE: baseline, "same_epochs": square(same)}, list(dict.fromkeys(notes)))


def test_split(task: str) -> str:
    """Where our runs have what the paper calls the test result: of ImageNet it reports validation."""
    return "validation" if task == "imagenet" else "test"


def paper_tables(evidence: Sequence[Evidence]) -> list[Table]:
    """The paper's tables of results, by number, with our runs."""
    return [
        _deviations(number, about, evidence) if about.get("std") else _results(number, about, evidence)
        for number, about in paper.tables()["published"].items()
    ]


def _rows(about: Mapping[str, Any], block: str) -> list[paper.Published]:
    return [
        row
        for row in paper.published(block)
        if row.metric in about["metrics"] and about.get("domain", row.domain) == row.domain
    ]


def _results(number: int, about: Mapping[str, Any], evidence: Sequence[Evidence]) -> Table:
    splits = {"validation_results": "validation", "train_results": "train", "test_results": "test"}
    blocks = [about["block"], *([about["with"]] if "with" in about else [])]
    headings = [
        f"{heading}, {splits[block]}" if len(blocks) > 1 else heading
        for heading in COLUMNS.values()
        for block in blocks
    ]
    rows, records, notes = [], [], []
    for places in zip(*(_rows(about, block) for block in blocks), strict=True):
        row = places[0]
        found = match(evidence, row.task, row.model)
        notes += [f"{row.model_name}, {row.task_name}: {note}" for note in found.notes]
        cells = [Cell(row.model_name), Cell(row.task_name)]
        record: dict[str, Any] = {"model": row.model, "task": row.task, "metric": row.metric}
        for column in COLUMNS:
            for block, published in zip(blocks, places, strict=True):
                split = splits[block]
                there = test_split(row.task) if split == "test" else split
                ours = found.measured(column, there, metric(row.metric))
                cells.append(ours.cell(published.values[column]))
                place = f"{column}_{split}"
                record |= {
                    f"{place}_mean": ours.mean,
                    f"{place}_std": ours.deviation,
                    f"{place}_seeds": len(ours.by_seed),
                    f"{place}_paper": published.values[column],
                }
        rows.append(cells)
        records.append(record)
    if "train_results" in blocks and not any(record["square_train_seeds"] for record in records):
        how = "" if about.get("domain") == "speech" else " (a run with --score_train has)"
        notes.append(f"No run has measured its training data{how}: of it there is the paper's alone")
    title = f"Table {number}: {about['title']}"
    return Table(f"table{number}", title, ["model", "task", *headings], rows, records, notes)


def _deviations(number: int, about: Mapping[str, Any], evidence: Sequence[Evidence]) -> Table:
    rows, records = [], []
    for row in _rows(about, about["block"]):
        found = match(evidence, row.task, row.model)
        cells = [Cell(row.model_name), Cell(row.task_name)]
        record: dict[str, Any] = {"model": row.model, "task": row.task, "metric": row.metric}
        for column in ("square", BASELINE):
            ours = found.measured(column, test_split(row.task), metric(row.metric))
            published = row.values[f"std_{column}"]
            interval = None if ours.deviation is None else deviation_interval(ours.deviation, len(ours.by_seed))
            text = ""
            if ours.deviation is not None and interval is not None:
                text = f"{ours.deviation:.3f} [{interval.low:.2f}, {interval.high:.2f}] ({len(ours.by_seed)})"
            cells.append(Cell(text, published if ours.deviation is None else ours.deviation, f"{published:g}"))
            record |= {
                f"{column}_std": ours.deviation,
                f"{column}_low": interval.low if interval else None,
                f"{column}_high": interval.high if interval else None,
                f"{column}_seeds": len(ours.by_seed),
                f"{column}_paper": published,
            }
        rows.append(cells)
        records.append(record)
    notes = ["In brackets the 95 % chi-square interval of the standard deviation, in points"]
    title = f"Table {number}: {about['title']}"
    columns = ["model", "task", COLUMNS["square"], COLUMNS[BASELINE]]
    return Table(f"table{number}", title, columns, rows, records, notes)
