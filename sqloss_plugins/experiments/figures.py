"""The paper's Figures 1 to 3 with our runs, and one on the sensitivity to the seed."""

from __future__ import annotations

from collections.abc import Sequence

from sqloss_plugins import paper
from sqloss_plugins.experiments.comparison import BASELINE
from sqloss_plugins.experiments.drawing import LOSSES, Curve, CurvePanel, Curves, Line, Lines, Mark, Panel, Panels
from sqloss_plugins.experiments.evidence import OWN, PAPER, Evidence
from sqloss_plugins.experiments.findings import Ahead, paper_advantage
from sqloss_plugins.experiments.statistics import standard_deviation
from sqloss_plugins.experiments.tables import Table, match, scaled, test_split
from sqloss_plugins.metrics import metric


def _label(row: paper.Published) -> str:
    task = row.task_name if row.domain != "text" or row.metric != "f1" else f"{row.task_name} (F1)"
    return f"{task}, {row.model_name}"


def figure_1(differences: Sequence[Ahead]) -> Lines:
    """Figure 1: the difference to cross-entropy for each seed, with a bar of one standard deviation."""
    lines = []
    for row in paper.published("test_results"):
        ours = [
            each
            for each in differences
            if (each.evidence.group.task, each.evidence.model) == (row.task, row.model)
            and (each.difference.column.split, each.difference.column.metric) == (test_split(row.task), row.metric)
            and each.family[0] == "square"
            and each.family[1] != "same_epochs"
        ]
        best = max(ours, key=lambda each: len(each.by_seed), default=None)
        lines.append(Line(_label(row), Mark(round(paper_advantage(row, "square"), 3)), best and _mark(best)))
    own = [each for each in differences if each.evidence.section == OWN and each.is_main]
    own = [each for each in own if each.evidence.comparison.metrics[each.evidence.group.selection].unit == "%"]
    lines += [Line(label, None, _mark(each)) for label, each in zip(_own_labels(own), own, strict=True)]
    notes = [
        "Positive: the square loss (or the loss that is named) is better than cross-entropy, for error rates too. "
        "Ours: the mean over seeds with a bar of one standard deviation, and every seed",
        "The paper gives its means as numbers; its values by seed are in its own Figure 1 alone",
    ]
    title = "Figure 1: difference to cross-entropy on test data, by initialization"
    return Lines("figure1", title, "points ahead of cross-entropy", 0.0, lines, notes)


def _own_labels(own: Sequence[Ahead]) -> list[str]:
    """Task and model; where that is not all, the loss and the protocol; and what else tells groups of runs apart."""
    groups = [each.evidence.group for each in own]
    names = [f"{group.task}, {group.arch}" for group in groups]
    labels = []
    for each, group, name in zip(own, groups, names, strict=True):
        is_usual = each.family == ("square", "early_stopping") and names.count(name) == 1
        parts = [name] if is_usual else [name, each.difference.loss, group.protocol]
        labels.append(", ".join([*parts, *filter(None, [group.peculiarities(groups)])]))
    return labels


def _mark(each: Ahead) -> Mark:
    values = list(each.by_seed.values())
    mean = sum(values) / len(values)
    deviation = standard_deviation(values)
    return Mark(mean, deviation and mean - deviation, deviation and mean + deviation, values)


def figure_2(evidence: Sequence[Evidence]) -> Curves | None:
    """Figure 2: validation results by epoch, of the chosen learning rates; None where no run has any."""
    panels = []
    for item in evidence:
        curves, headings = [], {}
        for run in (run for summary in item.comparison.summaries.values() for run in summary.runs):
            measured = run.result.curves.get("validation", {})
            if not measured:
                continue
            name = item.group.selection if item.group.selection in measured else next(iter(measured))
            kind = item.comparison.metrics.get(name) or metric(name)
            headings[name] = f"validation {kind.heading}"
            by_epoch = {float(epoch): scaled(kind, value) for epoch, value in measured[name].items()}
            curves.append(Curve(run.label, run.result.seed, dict(sorted(by_epoch.items()))))
        if curves:
            group = item.group
            panels.append(
                CurvePanel(f"{group.task}, {group.arch}, {group.protocol}", next(iter(headings.values())), curves)
            )
    if not panels:
        return None
    notes = [
        "A line for every seed, at the chosen learning rate; blue: square loss, dashed with another k and M; orange: "
        "cross-entropy; green: others",
        "Ours alone: the paper gives its curves (QNLI, Librispeech, ImageNet) in no table",
        "In speech it is the accuracy of the attention decoder that is told the true history, as in the paper",
    ]
    return Curves("figure2", "Figure 2: training curves", panels, notes)


def figure_3(evidence: Sequence[Evidence]) -> Panels:
    """Figure 3: test results of every seed with a bar of one standard deviation, square loss and cross-entropy."""
    panels = []
    for row in paper.published("test_results"):
        if "std_square" not in row.values:
            continue
        found = match(evidence, row.task, row.model)
        kind = metric(row.metric)
        measured = {loss: found.measured(loss, test_split(row.task), kind).by_seed for loss in LOSSES}
        ours = {loss: list(by_seed.values()) for loss, by_seed in measured.items() if by_seed}
        theirs = {loss: (row.values[loss], row.values[f"std_{loss}"]) for loss in LOSSES}
        panels.append(Panel(_label(row), kind.heading, theirs, ours))
    for item in evidence:
        baseline = item.comparison.summaries.get(BASELINE)
        column = item.main_column(baseline.values) if baseline else None
        squares = [each for each in item.comparison.summaries.values() if each.name == "square"]
        if item.section != OWN or baseline is None or column is None:
            continue
        kind = item.comparison.metrics[column.metric]
        for square in squares:
            ours = {
                each.name: [scaled(kind, value) for value in each.values.get(column, {}).values()]
                for each in (square, baseline)
            }
            title = f"{item.group.task}, {item.group.arch}" + (f", {square.loss}" if len(squares) > 1 else "")
            panels.append(Panel(title, f"{column.split} {kind.heading}", {}, ours))
    notes = [
        "Grey diamonds: the paper's means and standard deviations (Tables 2, 5, 7 and 8); it gives its values by "
        "seed in no table. Blue and orange: our seeds"
    ]
    return Panels("figure3", "Figure 3: test results of the seeds", panels, notes)


def deviation_figure(paper_tests: Table, ours: Table, evidence: Sequence[Evidence]) -> Lines:
    """The ratio of the standard deviations with its F interval, of the paper's Table 8 and of our runs.

    Args:
        paper_tests: made by :func:`sqloss_plugins.experiments.findings.paper_test_table`.
        ours: made by :func:`sqloss_plugins.experiments.findings.deviation_table`, of ``evidence``.
        evidence: our runs, none of them mini.
    """
    models = {(item.group.task, item.group.arch): item.model for item in evidence if item.section == PAPER}
    marks: dict[tuple[str, str, str], Mark] = {}
    others: list[Line] = []
    shown = [record for record in ours.records if record["ratio"] is not None]
    names = [f"{record['task']}, {record['arch']}" for record in shown]
    for record, name in zip(shown, names, strict=True):
        mark = Mark(record["ratio"], record["low"], record["high"])
        model = models.get((record["task"], record["arch"]))
        if model and record["loss"].startswith("square") and record["protocol"] != "same_epochs":
            marks[record["task"], model, record["metric"]] = mark
        else:
            is_usual = record["loss"].startswith("square") and names.count(name) == 1
            others.append(Line(name if is_usual else f"{name}, {record['loss']}, {record['protocol']}", None, mark))
    published = {(row.task, row.model, row.metric): row for row in paper.published("test_results")}
    lines = []
    for record in paper_tests.records:
        place = record["task"], record["model"], record["metric"]
        mark = Mark(record["std_ratio"], record["low"], record["high"])
        lines.append(Line(_label(published[place]), mark, marks.get(place)))
    title = "Sensitivity to the seed: standard deviation, square loss / cross-entropy"
    notes = ["With the 95 % F interval; left of 1 the square loss is less sensitive"]
    return Lines("seed_sensitivity", title, "ratio of std", 1.0, [*lines, *others], notes, is_log=True)
