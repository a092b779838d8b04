"""The paper's Figures 1 to 3 and one on the sensitivity to the seed: files by Matplotlib, for the page by Plotly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sqloss_plugins import paper
from sqloss_plugins.experiments.comparison import BASELINE
from sqloss_plugins.experiments.evidence import OWN, PAPER, Evidence
from sqloss_plugins.experiments.findings import Ahead, paper_advantage
from sqloss_plugins.experiments.statistics import standard_deviation
from sqloss_plugins.experiments.tables import Table, match, scaled, test_split

if TYPE_CHECKING:
    import matplotlib.figure
    import plotly.graph_objects

_OURS, _PAPER = "#0072b2", "#8a8a8a"
_LOSSES = {"square": _OURS, BASELINE: "#d55e00"}
_LOSS_NAMES = {"square": "square", BASELINE: "cross-entropy"}


class Mark(NamedTuple):
    """A number in a figure with its bar, and the values of the seeds that it is of."""

    x: float
    low: float | None = None
    high: float | None = None
    points: Sequence[float] = ()


class Line(NamedTuple):
    """A line of a figure of many tasks: the paper's number and ours, None where there is none."""

    label: str
    paper: Mark | None
    ours: Mark | None


@dataclass(frozen=True)
class Lines:
    """A figure with a line for every task.

    Attributes:
        name: of its files.
        title: above it.
        axis: what the numbers are.
        reference: the number that stands for no difference.
        lines: from the top.
        notes: below it, one sentence each.
        is_log: whether the axis is logarithmic.
    """

    name: str
    title: str
    axis: str
    reference: float
    lines: Sequence[Line]
    notes: Sequence[str]
    is_log: bool = False

    def drawn(self) -> matplotlib.figure.Figure:
        """By Matplotlib."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7.5, 1.3 + 0.23 * len(self.lines)), layout="constrained")
        axes = figure.subplots()
        axes.axvline(self.reference, color="#cccccc", linewidth=1)
        for name, color, shift, marker in (("paper", _PAPER, 0.16, "D"), ("ours", _OURS, -0.16, "o")):
            for y, line in enumerate(self.lines):
                mark: Mark | None = getattr(line, name)
                if mark is None:
                    continue
                bar = None if mark.low is None or mark.high is None else [[mark.x - mark.low], [mark.high - mark.x]]
                axes.errorbar(mark.x, y + shift, xerr=bar, color=color, marker=marker, markersize=4, linewidth=1)
                axes.scatter(mark.points, [y + shift] * len(mark.points), color=color, s=6, alpha=0.5, linewidths=0)
            axes.errorbar([], [], color=color, marker=marker, markersize=4, linewidth=1, label=name)
        axes.set_yticks(range(len(self.lines)), [line.label for line in self.lines], fontsize=8)
        axes.set_ylim(len(self.lines) - 0.5, -0.5)
        if self.is_log:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlabel(self.axis)
        figure.suptitle(self.title, fontsize=10)
        axes.legend(fontsize=8)
        return figure

    def interactive(self) -> plotly.graph_objects.Figure:
        """By Plotly."""
        import plotly.graph_objects as go

        figure = go.Figure()
        labels = [line.label for line in self.lines]
        for name, color, symbol in (("paper", _PAPER, "diamond-open"), ("ours", _OURS, "circle")):
            found = [(line.label, mark) for line in self.lines if (mark := getattr(line, name)) is not None]
            error = {
                "type": "data",
                "symmetric": False,
                "array": [None if mark.high is None else mark.high - mark.x for _, mark in found],
                "arrayminus": [None if mark.low is None else mark.x - mark.low for _, mark in found],
                "thickness": 1,
                "visible": any(mark.low is not None for _, mark in found),
            }
            figure.add_scatter(
                x=[mark.x for _, mark in found],
                y=[label for label, _ in found],
                error_x=error,
                mode="markers",
                name=name,
                marker={"color": color, "symbol": symbol, "size": 8},
                hovertemplate="%{y}: %{x:.3g}<extra>" + name + "</extra>",
            )
            figure.add_scatter(
                x=[point for _, mark in found for point in mark.points],
                y=[label for label, mark in found for _ in mark.points],
                mode="markers",
                name=f"{name}, by seed",
                showlegend=any(mark.points for _, mark in found),
                marker={"color": color, "size": 4, "opacity": 0.5},
                hovertemplate="%{y}: %{x:.3g}<extra>one seed</extra>",
            )
        figure.add_vline(self.reference, line_width=1, line_color="#999999")
        rows = {"categoryorder": "array", "categoryarray": labels, "range": [len(labels) - 0.5, -0.5]}
        figure.update_yaxes(**rows, automargin=True)
        figure.update_xaxes(title=self.axis, type="log" if self.is_log else "linear")
        figure.update_layout(height=110 + 20 * len(labels))
        return figure


class Panel(NamedTuple):
    """One task of Figure 3: loss -> the paper's mean and standard deviation, and our values by seed."""

    title: str
    axis: str
    paper: Mapping[str, tuple[float, float]]
    ours: Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Panels:
    """A figure with a panel for every task: both losses side by side.

    Attributes:
        name, title, notes: as of :class:`Lines`.
        panels: from the top left.
    """

    name: str
    title: str
    panels: Sequence[Panel]
    notes: Sequence[str]

    def drawn(self) -> matplotlib.figure.Figure:
        """By Matplotlib, five panels a row."""
        from matplotlib.figure import Figure

        across = 5
        down = -(-len(self.panels) // across)
        height = 0.9 + 1.75 * down
        figure = Figure(figsize=(11, height))
        # A layout that fits itself takes seconds with so many panels.
        space = {"left": 0.05, "right": 0.99, "top": 1 - 0.7 / height, "bottom": 0.3 / height}
        grid = figure.subplots(
            down, across, squeeze=False, gridspec_kw={**space, "wspace": 0.32, "hspace": 0.45}
        ).ravel()
        for axes, panel in zip(grid, self.panels, strict=False):
            for x, (loss, color) in enumerate(_LOSSES.items()):
                if loss in panel.paper:
                    mean, deviation = panel.paper[loss]
                    axes.errorbar(x - 0.12, mean, deviation, color=_PAPER, marker="D", markersize=4, capsize=2)
                values = panel.ours.get(loss, ())
                if len(values):
                    middle, spread = sum(values) / len(values), standard_deviation(values) or 0.0
                    axes.errorbar(x + 0.12, middle, spread, color=color, marker="o", markersize=4, capsize=2)
                    axes.scatter([x + 0.24] * len(values), values, color=color, s=6, alpha=0.5, linewidths=0)
            axes.set_xticks(range(len(_LOSSES)), _LOSS_NAMES.values(), fontsize=7)
            axes.set_xlim(-0.5, 1.5)
            axes.tick_params(axis="y", labelsize=7)
            axes.set_title(panel.title, fontsize=7)
        for axes in grid[len(self.panels) :]:
            axes.set_axis_off()
        figure.suptitle(f"{self.title} (grey: paper)", fontsize=10)
        return figure

    def interactive(self) -> plotly.graph_objects.Figure:
        """By Plotly, one panel at a time, chosen from a list."""
        import plotly.graph_objects as go

        figure = go.Figure()
        shown = next((i for i, panel in enumerate(self.panels) if panel.ours), 0)
        owners = []
        for i, panel in enumerate(self.panels):
            for loss, color in _LOSSES.items():
                if loss in panel.paper:
                    mean, deviation = panel.paper[loss]
                    figure.add_scatter(
                        x=[_LOSS_NAMES[loss]],
                        y=[mean],
                        error_y={"type": "data", "array": [deviation]},
                        mode="markers",
                        marker={"color": _PAPER, "symbol": "diamond-open", "size": 10},
                        name=f"paper, {_LOSS_NAMES[loss]}",
                        visible=i == shown,
                    )
                    owners.append(i)
                if values := panel.ours.get(loss, ()):
                    figure.add_scatter(
                        x=[_LOSS_NAMES[loss]] * len(values),
                        y=list(values),
                        mode="markers",
                        marker={"color": color, "size": 8},
                        name=f"ours, {_LOSS_NAMES[loss]}",
                        visible=i == shown,
                    )
                    owners.append(i)
        buttons = [
            {
                "label": panel.title,
                "method": "update",
                "args": [{"visible": [owner == i for owner in owners]}, {"yaxis.title.text": panel.axis}],
            }
            for i, panel in enumerate(self.panels)
        ]
        menu = {"buttons": buttons, "active": shown, "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"}
        figure.update_xaxes(categoryorder="array", categoryarray=list(_LOSS_NAMES.values()), range=[-0.5, 1.5])
        figure.update_yaxes(title=self.panels[shown].axis, automargin=True)
        figure.update_layout(updatemenus=[menu], height=420, margin_t=50, showlegend=False)
        return figure


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
    for each in differences:
        if each.evidence.section == OWN and each.is_main:
            group = each.evidence.group
            label = f"{group.task}, {group.arch}"
            label += (
                "" if each.family == ("square", "early_stopping") else f", {each.difference.loss}, {group.protocol}"
            )
            if (
                label not in {line.label for line in lines}
                and each.evidence.comparison.metrics[group.selection].unit == "%"
            ):
                lines.append(Line(label, None, _mark(each)))
    notes = [
        "Positive: the square loss (or the loss that is named) is better than cross-entropy, for error rates too. "
        "Ours: the mean over seeds with a bar of one standard deviation, and every seed",
        "The paper gives its means as numbers; its values by seed are in its own Figure 1 alone",
    ]
    title = "Figure 1: difference to cross-entropy on test data, by initialization"
    return Lines("figure1", title, "points ahead of cross-entropy", 0.0, lines, notes)


def _mark(each: Ahead) -> Mark:
    values = list(each.by_seed.values())
    mean = sum(values) / len(values)
    deviation = standard_deviation(values)
    return Mark(mean, deviation and mean - deviation, deviation and mean + deviation, values)


def figure_3(evidence: Sequence[Evidence]) -> Panels:
    """Figure 3: test results of every seed with a bar of one standard deviation, square loss and cross-entropy."""
    from sqloss_plugins.metrics import metric

    panels = []
    for row in paper.published("test_results"):
        if "std_square" not in row.values:
            continue
        found = match(evidence, row.task, row.model)
        kind = metric(row.metric)
        measured = {loss: found.measured(loss, test_split(row.task), kind).by_seed for loss in _LOSSES}
        ours = {loss: list(by_seed.values()) for loss, by_seed in measured.items() if by_seed}
        theirs = {loss: (row.values[loss], row.values[f"std_{loss}"]) for loss in _LOSSES}
        panels.append(Panel(_label(row), kind.heading, theirs, ours))
    for item in evidence:
        summaries = {each.name: each for each in item.comparison.summaries.values() if each.name in _LOSSES}
        baseline = summaries.get(BASELINE)
        column = item.main_column(baseline.values) if baseline else None
        if item.section == OWN and column is not None and len(summaries) == len(_LOSSES):
            kind = item.comparison.metrics[column.metric]
            ours = {
                loss: [scaled(kind, value) for value in each.values.get(column, {}).values()]
                for loss, each in summaries.items()
            }
            panels.append(Panel(f"{item.group.task}, {item.group.arch}", f"{column.split} {kind.heading}", {}, ours))
    notes = [
        "Grey diamonds: the paper's means and standard deviations (Tables 2, 5, 7 and 8); it gives its values by "
        "seed in no table. Coloured: our seeds"
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
    others = []
    for record in ours.records:
        if record["ratio"] is None:
            continue
        mark = Mark(record["ratio"], record["low"], record["high"])
        model = models.get((record["task"], record["arch"]))
        if model and record["loss"].startswith("square") and record["protocol"] != "same_epochs":
            marks[record["task"], model, record["metric"]] = mark
        else:
            others.append(Line(f"{record['task']}, {record['arch']}, {record['loss']}", None, mark))
    published = {(row.task, row.model, row.metric): row for row in paper.published("test_results")}
    lines = []
    for record in paper_tests.records:
        place = record["task"], record["model"], record["metric"]
        mark = Mark(record["std_ratio"], record["low"], record["high"])
        lines.append(Line(_label(published[place]), mark, marks.get(place)))
    title = "Sensitivity to the seed: standard deviation, square loss / cross-entropy"
    notes = ["With the 95 % F interval; left of 1 the square loss is less sensitive"]
    return Lines("seed_sensitivity", title, "ratio of std", 1.0, [*lines, *others], notes, is_log=True)


def write_figures(folder: Path, figures: Sequence[Lines | Panels]) -> list[Path]:
    """Writes every figure as PNG and as SVG, whose text can be searched; returns the paths."""
    import matplotlib

    paths = []
    folder.mkdir(parents=True, exist_ok=True)
    for figure in figures:
        with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": figure.name}):
            drawn = figure.drawn()
            for kind, metadata in (("png", {}), ("svg", {"Date": None})):
                path = folder / f"{figure.name}.{kind}"
                drawn.savefig(path, dpi=150, facecolor="white", metadata=metadata)
                paths.append(path)
    return paths
