"""The README's table and figure, made from the results of runs on real data.

    make readme                          # or: python -m tools.front_page
    python -m tools.front_page --check   # writes nothing; exit status 1 where the README is not up to date

Reads recipes/RESULTS/report.json, the report on the results in recipes/RESULTS/result_files, and of earlier runs, whose
result files were not kept, recipes/EARLIER_RESULTS/report.json and runs.yaml. Writes the lines between the two markers
of README.md, and docs/images/results.svg.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from sqloss_plugins import paper
from sqloss_plugins.errors import UserError, run_command
from sqloss_plugins.experiments.drawing import Line, Lines, Mark, save_figure
from sqloss_plugins.experiments.statistics import mean_interval
from sqloss_plugins.metrics import metric
from sqloss_plugins.results import markdown_table

ROOT = Path(__file__).parent.parent
REPORT = ROOT / "recipes/RESULTS/report.json"
EARLIER_REPORT = ROOT / "recipes/EARLIER_RESULTS/report.json"
EARLIER_RUNS = ROOT / "recipes/EARLIER_RESULTS/runs.yaml"
README = ROOT / "README.md"
FIGURE = ROOT / "docs/images/results.svg"
BEGIN, END = "<!-- results: made by `make readme` -->", "<!-- end of the results -->"

_TASKS = {
    "an4": "AN4, characters (speech)",
    "an4_phone": "AN4, phones (speech)",
    "debtags": "Debian package tags (several labels)",
    "fashion_mnist": "Fashion-MNIST (images)",
    "mnist": "MNIST, permuted (images)",
    "mrpc": "MRPC (sentence pairs)",
    "stackoverflow20": "Stack Overflow titles, 20 tags",
    "cifar10": "CIFAR-10 (images)",
    "text5": "text5 (paper titles)",
    "tiny_imagenet100": "Tiny ImageNet, 100 classes (images)",
    "wikitext2_bytes": "WikiText-2, bytes",
    "wikitext2_letters": "WikiText-2, 27 letters",
    "wordnet_verbs": "WordNet, the verb of a definition",
    "wordnet_verbs_synonyms": "WordNet, all verbs of a definition",
}
"""What tasks are called here; others have the name that is in their results."""
_MODELS = {
    "bag_of_words": "words' mean",
    "minilm-l6": "MiniLM-L6",
    "conformer": "Conformer",
    "transformer_xl-2x64": "Transformer-XL",
    "wide_resnet-10-2": "WRN-10-2",
    "wide_resnet-16-2": "WRN-16-2",
}
"""Likewise for models that the paper does not have."""

LEAST_SEEDS = 3
"""Of a row: with fewer there is next to nothing to say."""
_ERRORS = ("per", "cer", "wer")
"""The metrics of speech."""


class Row(NamedTuple):
    """The square loss and cross-entropy on one task.

    Attributes:
        task, model: by their names in results.
        metric: the one that decides.
        square, cross_entropy: mean +- standard deviation on test data.
        ahead: points of the square loss ahead of cross-entropy, seed by seed; positive is better.
        origin: ``paper``: the paper's task, model and data. ``own``: others, or a part of the data.
        is_part: whether it is a part of the data.
        is_kept: whether there are the result files of its runs.
    """

    task: str
    model: str
    metric: str
    square: str
    cross_entropy: str
    ahead: Sequence[float]
    origin: str
    is_part: bool = False
    is_kept: bool = True

    @property
    def mean(self) -> float:
        """Of the seeds."""
        return sum(self.ahead) / len(self.ahead)

    @property
    def published(self) -> float | None:
        """By how many points the square loss is ahead in the paper; None where that is not the same."""
        values = paper.test_results(self.task, self.model).get(self.metric)
        if values is None or self.origin != "paper":
            return None
        sign = 1 if metric(self.metric).higher_is_better else -1
        return round(sign * (values["square"] - values["cross_entropy"]), 1) + 0.0


class Reports(NamedTuple):
    """What two report.json say.

    Attributes:
        kept: of runs whose result files there are.
        earlier: of those whose result files were not kept.
    """

    kept: Mapping[str, Any]
    earlier: Mapping[str, Any]


def read_reports() -> Reports:
    """The reports in recipes/.

    Raises:
        UserError: there is none.
    """
    if not REPORT.exists():
        raise UserError(f"there is no {REPORT.relative_to(ROOT)}: run make readme")
    return Reports(*(json.loads(path.read_text(encoding="utf-8")) for path in (REPORT, EARLIER_REPORT)))


def records_by_table(report: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Table -> its records."""
    return {table["name"]: table["records"] for section in report["sections"] for table in section["tables"]}


def rows_of_report(report: Mapping[str, Any]) -> list[Row]:
    """A row for every task and model of a report on which both losses were run, on real data, with their own rates.

    Of several k and M, protocols, or groups of runs that differ in settings, the one with most seeds, and of those with
    as many the one that is best on validation data; runs for cross-entropy's epochs do not count.

    Raises:
        UserError: the report does not say which means belong to a difference.
    """
    tables = records_by_table(report)
    chosen: dict[tuple[str, str], dict[str, Any]] = {}
    origins = {"differences": "paper", "own_differences": "own"}
    for record in ({**each, "origin": origins[name]} for name in origins for each in tables.get(name, [])):
        if not (record["is_main"] and record["loss"].startswith("square") and record["protocol"] != "same_epochs"):
            continue
        other = chosen.setdefault((record["task"], record["arch"]), record)
        if (record["seeds"], _on_validation(tables, record)) > (other["seeds"], _on_validation(tables, other)):
            chosen[record["task"], record["arch"]] = record
    rows = []
    for (task, model), record in chosen.items():
        ahead = [float(pair.partition(":")[2]) for pair in record["by_seed"].split()]
        square, baseline = (_measured(tables, record, loss) for loss in (record["loss"], "cross_entropy"))
        is_part = any("a part of the data" in about for about in _about(tables, record))
        row = Row(task, _paper_name(task, model), record["metric"], square, baseline, ahead, record["origin"], is_part)
        rows.append(row)
    return rows


def _on_validation(tables: Mapping[str, list[dict[str, Any]]], record: Mapping[str, Any]) -> float:
    """How far the same loss is ahead on validation data."""
    names = ("task", "arch", "protocol", "loss", "metric", "about")
    table = tables["differences" if record["origin"] == "paper" else "own_differences"]
    same = [each for each in table if all(each.get(name) == record.get(name) for name in names)]
    return max((each["mean"] for each in same if each["split"] == "validation"), default=-math.inf)


def _paper_name(task: str, model: str) -> str:
    """The paper's name of a model that is one of its pre-trained ones."""
    return next((row["model"] for row in paper.tables()["hyperparameters"]
                 if row["task"] == task and model == row.get("backbone")), model)  # fmt: skip


def _about(tables: Mapping[str, list[dict[str, Any]]], record: Mapping[str, Any]) -> set[str]:
    """What a report says of the runs of a difference."""
    return {own["about"] for own in _own_results(tables, record, ("task", "arch", "protocol"))}


def _own_results(
    tables: Mapping[str, list[dict[str, Any]]], record: Mapping[str, Any], names: Sequence[str]
) -> list[dict[str, Any]]:
    """The results of the group of runs that a difference is of, with the same values in some columns."""
    same = (*names, *(["about"] if "about" in record else []))  # reports of earlier versions do not have it
    own = tables.get("own_results", []) if record["origin"] == "own" else []
    return [each for each in own if all(each[name] == record[name] for name in same)]


def _measured(tables: Mapping[str, list[dict[str, Any]]], record: Mapping[str, Any], loss: str) -> str:
    """Mean +- standard deviation of a loss in the column of a difference."""
    own = _own_results(tables, record, ("task", "arch", "protocol", "split", "metric"))
    found = [each for each in own if each["loss"] == loss]
    groups = {each.get("about") for each in tables.get("differences", []) if _is_beside(each, record)}
    if len(found) > 1 or len(groups) > 1:
        raise UserError(
            f"the report has several groups of runs of {record['task']}, {record['arch']}, {record['protocol']}, and "
            "does not say which means belong to a difference: make it anew with one of them"
        )
    if found:
        return _spread(found[0]["mean"], found[0]["std"])
    column = "cross_entropy" if loss == "cross_entropy" else "square"
    for name in ("table2", "table3", "table5", "table7"):
        for row in tables.get(name, []):
            model = _paper_name(record["task"], record["arch"])
            if (row["task"], row["model"], row["metric"]) == (record["task"], model, record["metric"]):
                return _spread(row[f"{column}_test_mean"], row[f"{column}_test_std"])
    return ""


def _is_beside(other: Mapping[str, Any], record: Mapping[str, Any]) -> bool:
    """Whether another difference is of the same task, model and protocol of the paper's."""
    return record["origin"] == "paper" and all(other[name] == record[name] for name in ("task", "arch", "protocol"))


def _spread(mean: float, deviation: float | None) -> str:
    return f"{mean:.2f}" + ("" if deviation is None else f" +- {deviation:.2f}")


def earlier_rows(text: str) -> list[Row]:
    """The rows of recipes/EARLIER_RESULTS/runs.yaml."""
    names = ("task", "model", "metric", "square", "cross_entropy", "ahead")
    return [Row(**{name: entry[name] for name in names}, origin="own") for entry in yaml.safe_load(text)]


def all_rows(reports: Reports) -> list[Row]:
    """Every comparison, speech last; of the earlier runs those whose task and model the others do not have."""
    found = {(row.task, row.model): row for row in rows_of_report(reports.kept)}
    for row in (*rows_of_report(reports.earlier), *earlier_rows(EARLIER_RUNS.read_text("utf-8"))):
        found.setdefault((row.task, row.model), row._replace(is_kept=False))
    return sorted(found.values(), key=lambda row: (row.metric in _ERRORS, _name(row), row.model))


def _name(row: Row) -> str:
    return _TASKS.get(row.task, row.task) + (", part of the data" if row.is_part else "")


def _model(row: Row) -> str:
    return str(paper.tables()["names"]["models"].get(row.model, _MODELS.get(row.model, row.model)))


def _measure(row: Row) -> str:
    """The metric, with its usual capitals."""
    heading = metric(row.metric).heading.replace("_at_", " at ")
    return heading.replace(row.metric, row.metric.upper()) if row.metric in _ERRORS else heading


def _interval(row: Row) -> str:
    interval = mean_interval(list(row.ahead))
    return "no interval" if interval is None else f"{interval.low:+.1f} to {interval.high:+.1f}"


def table(rows: Iterable[Row]) -> str:
    """The table, in Markdown."""
    heading = ["task, model: measured", "square", "cross-entropy", "ahead by (95 % interval)", "seeds", "paper"]
    shown = [heading]
    for row in rows:
        published = "" if row.published is None else f"{row.published:+.1f}"
        cells = [f"{_name(row)}, {_model(row)}: {_measure(row)}", row.square, row.cross_entropy]
        ahead = f"{row.mean:+.2f} ({_interval(row)})" + ("" if row.is_kept else " †")
        shown.append([*cells, ahead, str(len(row.ahead)), published])
    return markdown_table(shown)


def _enough(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if len(row.ahead) >= LEAST_SEEDS]


def not_run(reports: Reports) -> str:
    """Which of the paper's results were run with its model on its data, and what is in no row; one paragraph."""
    of_reports = [
        [record for name in ("table2", "table5", "table7") for record in tables[name] if record["metric"] != "top5"]
        for tables in map(records_by_table, reports)
    ]
    records = of_reports[0]
    run = {
        (each["task"], each["model"], each["metric"]): each
        for of_report in of_reports
        for each in of_report
        if each["square_test_seeds"] and each["cross_entropy_test_seeds"]
    }
    names = paper.tables()["names"]
    ran = dict.fromkeys(
        f"{names['tasks'][each['task']]} with {names['models'][each['model']]}" for each in run.values()
    )
    those = f" ({', '.join(ran)})" if ran else ""
    left_out = [row for row in all_rows(reports) if len(row.ahead) < LEAST_SEEDS]
    few = f" ({'; '.join(f'{_name(row)}, {_model(row)}' for row in left_out)})" if left_out else ""
    words = (
        f"**What was not run.** The paper's Tables 2, 5 and 7 have {len(records)} results without Top-5. With the "
        f"paper's own model and data, {len(run)} of them were run here{those}, and {len(records) - len(run)} were not: "
        "most need a GPU for days or data that is sold. Their commands are ready. Runs on synthetic data are in no "
        f"row, nor are those with fewer than {LEAST_SEEDS} seeds{few}."
    )
    return textwrap.fill(words, 120, break_long_words=False)


def text(reports: Reports) -> str:
    """What stands between the markers."""
    return f"{table(_enough(all_rows(reports)))}\n\n{not_run(reports)}\n"


def figure(rows: Sequence[Row]) -> Lines:
    """The same differences, drawn: ours with their intervals and seeds, and the paper's."""
    lines = []
    for row in rows:
        low, high = mean_interval(list(row.ahead)) or (None, None)
        ours = Mark(row.mean, low, high, row.ahead)
        theirs = None if row.published is None else Mark(row.published)
        lines.append(Line(f"{_name(row).partition(' (')[0]}, {_model(row)}", theirs, ours))
    title = "Square loss against cross-entropy on test data: right of 0 the square loss is better"
    return Lines("results", title, "points ahead of cross-entropy (mean, 95 % interval, seeds)", 0.0, lines, [])


def replaced(page: str, made: str) -> str:
    """A page with new text between its markers.

    Raises:
        UserError: it does not have both markers.
    """
    if BEGIN not in page or END not in page:
        raise UserError(f"README.md lacks the line {BEGIN} or {END}: put both back where the table belongs")
    pattern = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.DOTALL)
    return pattern.sub(lambda _: f"{BEGIN}\n{made}\n{END}", page, count=1)


def _run(check: bool) -> None:
    reports = read_reports()
    page = README.read_text(encoding="utf-8")
    new = replaced(page, text(reports))
    if check:
        if new != page:
            raise UserError("README.md is not what the reports in recipes/ say: run make readme")
        return
    README.write_text(new, encoding="utf-8")
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    drawn = figure(_enough(all_rows(reports))).drawn
    for path in save_figure(FIGURE.parent, "results", drawn):
        if path != FIGURE:
            path.unlink()
    print(f"{README.name} and {FIGURE.relative_to(ROOT)} are made from the reports in recipes/")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser("front_page", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing: say whether the README is up to date")
    args = parser.parse_args(argv)
    return run_command("front_page", lambda: _run(args.check))


if __name__ == "__main__":
    sys.exit(main())
