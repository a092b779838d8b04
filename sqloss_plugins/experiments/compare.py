"""Compares losses over finished runs.

    sqloss compare runs/mrpc
    sqloss compare --overview runs

Reads every result.json below the given folders. Runs of one task, model, protocol and data with equal settings form a
group. In a group each loss gets the learning rate with the best validation metric (over the seeds that were run with
every rate). Shown are mean and sample standard deviation over all seeds of that rate, and paired differences, seed by
seed, against cross-entropy, with the p value of the paired t-test.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sqloss_plugins.command_line import OptionParser
from sqloss_plugins.errors import UserError, run_command
from sqloss_plugins.experiments.comparison import (
    BASELINE,
    MINI_WARNING,
    Column,
    Comparison,
    Summary,
    best_learning_rate,
    compare_group,
    find_runs,
    grouped,
)
from sqloss_plugins.experiments.statistics import difference_cells, shown_mean
from sqloss_plugins.metrics import Metric
from sqloss_plugins.results import markdown_table, write_json

PROGRAM = "sqloss compare"


def _cell(metric: Metric, summary: Summary, column: Column) -> str:
    """A column's mean, with the number of seeds where not all have a value."""
    values = summary.values.get(column, {})
    if not values:
        return "-"
    lacking = f" ({len(values)} of {len(summary.seeds)} seeds)" if len(values) < len(summary.seeds) else ""
    return shown_mean(metric, list(values.values())) + lacking


def _headings(comparison: Comparison, columns: Iterable[Column]) -> dict[Column, str]:
    """What each column is called; test data is told apart only where there is more than one of the same name."""
    columns = list(columns)
    found = {}
    for column in columns:
        others = {other.fingerprint for other in columns if other.split == column.split}
        method = f" ({column.method})" if column.method else ""
        data = f" [data {(column.fingerprint or 'unknown')[:12]}]" if len(others) > 1 else ""
        found[column] = f"{column.split}{data} {comparison.metrics[column.metric].heading}{method}"
    return found


def _columns(comparison: Comparison, by_method: bool) -> list[Column]:
    every = dict.fromkeys(column for summary in comparison.summaries.values() for column in summary.values)
    return [column for column in every if by_method or column.method is None]


def compare(folders: Sequence[Path]) -> list[Comparison]:
    """The comparison of every group of runs that is below the folders.

    Raises:
        UserError: files that cannot be compared.
    """
    return [compare_group(group, runs) for group, runs in grouped(find_runs(folders)).items()]


def show_overview(comparisons: Sequence[Comparison]) -> None:
    """Prints one table with a line for every group and loss: the metric that decides, on every split."""
    groups = [comparison.group for comparison in comparisons]
    splits: dict[str, None] = {}
    for comparison in comparisons:
        splits |= dict.fromkeys(column.split for column in _columns(comparison, by_method=False))
    rows = [["task", "model", "protocol", "loss", "lr", "seeds", "metric", *splits]]
    for comparison in comparisons:
        group, metric = comparison.group, comparison.metrics[comparison.group.selection]
        peculiarities = group.peculiarities(groups)
        task = group.task + (" (MINI)" if group.mini else "") + (f" ({peculiarities})" if peculiarities else "")
        for label, summary in comparison.summaries.items():
            cells = []
            for split in splits:
                columns = [c for c in summary.values if (c.split, c.metric, c.method) == (split, metric.name, None)]
                cells.append("; ".join(_cell(metric, summary, column) for column in columns) or "-")
            rate, seeds = f"{summary.learning_rate:g}", str(len(summary.seeds))
            rows.append([task, group.arch, group.protocol, label, rate, seeds, metric.heading, *cells])
    print(f"\n{markdown_table(rows)}")
    for comparison in comparisons:
        for note in comparison.notes:
            print(f"\nNote on {comparison.group.task}: {note}.")
    if any(group.mini for group in groups):
        print(f"\n{MINI_WARNING}")


def _summary_table(comparison: Comparison, headings: dict[Column, str]) -> str:
    selection = comparison.metrics[comparison.group.selection]
    rows = [["loss", "lr", f"lr tried: validation {selection.heading}", "seeds", *headings.values()]]
    for label, summary in comparison.summaries.items():
        tried = ", ".join(f"{rate:g}: {selection.shown(value)}" for rate, value in summary.rates.items())
        cells = [_cell(comparison.metrics[column.metric], summary, column) for column in headings]
        rows.append([label, f"{summary.learning_rate:g}", tried, str(len(summary.seeds)), *cells])
    return markdown_table(rows)


def _difference_table(comparison: Comparison, headings: dict[Column, str]) -> str:
    """Empty where there are no differences."""
    rows = [[f"minus {BASELINE}", "metric", "mean difference", "by seed", "seeds better", "paired t, p"]]
    for item in comparison.differences:
        if item.column not in headings:
            continue
        cells = difference_cells(comparison.metrics[item.column.metric], list(item.differences.values()))
        p_value = "-" if item.p_value is None else f"{item.p_value:.3f}"
        rows.append([item.loss, headings[item.column], *cells, p_value])
    return markdown_table(rows) if len(rows) > 1 else ""


def show(comparisons: Sequence[Comparison], by_method: bool = False) -> None:
    """Prints every comparison.

    Args:
        comparisons: all of them.
        by_method: show the metrics by every method, too, beside the one that counts.
    """
    groups = [comparison.group for comparison in comparisons]
    for comparison in comparisons:
        print(f"\n{comparison.group.title(groups)}")
        if comparison.group.mini:
            print(MINI_WARNING)
        headings = _headings(comparison, _columns(comparison, by_method))
        if comparison.summaries:
            print(f"\n{_summary_table(comparison, headings)}")
        table = _difference_table(comparison, headings)
        if table:
            print(f"\n{table}")
        for note in comparison.notes:
            print(f"\nNote: {note}.")


def as_json(comparison: Comparison) -> dict[str, Any]:
    """A comparison as it is written to a file."""
    return {
        **asdict(comparison.group),
        "directions": {name: metric.direction for name, metric in comparison.metrics.items()},
        "summaries": [
            {
                "loss": summary.loss,
                "learning_rate": summary.learning_rate,
                "rates": summary.rates,
                "seeds": summary.seeds,
                "values": [{**asdict(column), "by_seed": values} for column, values in summary.values.items()],
            }
            for summary in comparison.summaries.values()
        ],
        "differences": [
            {"loss": item.loss, **asdict(item.column), "by_seed": item.differences, "p_value": item.p_value}
            for item in comparison.differences
        ],
        "notes": comparison.notes,
    }


def write(path: Path, comparisons: Sequence[Comparison]) -> None:
    """Writes every comparison to a JSON file.

    Raises:
        UserError: it cannot be written.
    """
    try:
        write_json(path, [as_json(comparison) for comparison in comparisons])
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def _run(argv: Sequence[str] | None) -> None:
    parser = OptionParser(PROGRAM, __doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="where the runs are")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the comparison there as well")
    parser.add_argument("--by_method", action="store_true", help="show the metrics by every method, too")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--overview", action="store_true", help="print one table over all tasks and nothing else")
    instead.add_argument("--best_lr", metavar="LOSS", help="print that loss's chosen learning rate and nothing else")
    args = parser.parse_args(argv)
    if args.by_method and (args.overview or args.best_lr):
        raise UserError("--by_method belongs to the whole comparison: leave out --overview and --best_lr")
    if args.json and args.best_lr:
        raise UserError("--best_lr prints a number and nothing else: leave out --json")
    if args.best_lr:
        print(f"{best_learning_rate(args.folders, args.best_lr):g}")
        return
    comparisons = compare(args.folders)
    if args.overview:
        show_overview(comparisons)
    else:
        show(comparisons, args.by_method)
    if args.json:
        write(args.json, comparisons)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    return run_command(PROGRAM, lambda: _run(argv))


if __name__ == "__main__":
    sys.exit(main())
