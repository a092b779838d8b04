"""The kinds of figures of a report: each is drawn by Matplotlib for files, and by Plotly for the page."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sqloss_plugins.experiments.comparison import BASELINE
from sqloss_plugins.experiments.statistics import standard_deviation

if TYPE_CHECKING:
    import matplotlib.figure
    import plotly.graph_objects

_OURS, _PAPER, _OTHER = "#1f83c4", "#8a8a8a", "#009e73"
LOSSES = {"square": _OURS, BASELINE: "#d55e00"}
"""The two losses of the paper -> their colours."""
_DASHES = {"solid": "solid", "dash": "dashed", "dot": "dotted", "dashdot": "dashdot"}
"""Kinds of lines: Plotly's names -> Matplotlib's."""
_LABEL_WIDTH = 26
"""Characters of a label beside an axis, or in a list."""
_FILE_LABEL_WIDTH = 56
"""Likewise in files, which are as wide as a page."""
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

        labels = ["\n".join(textwrap.wrap(line.label, _FILE_LABEL_WIDTH)) for line in self.lines]
        row = 0.16 + 0.07 * max((label.count("\n") + 1 for label in labels), default=1)
        figure = Figure(figsize=(7.5, 1.3 + row * len(self.lines)), layout="constrained")
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
        axes.set_yticks(range(len(self.lines)), labels, fontsize=8)
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
                name="seeds",
                showlegend=any(mark.points for _, mark in found),
                marker={"color": color, "size": 4, "opacity": 0.5},
                hovertemplate="%{y}: %{x:.3g}<extra>one seed</extra>",
            )
        figure.add_vline(self.reference, line_width=1, line_color="#999999")
        # Plotly's own margin leaves no room for the plot beside long labels on a narrow screen.
        wrapped = [textwrap.wrap(label, _LABEL_WIDTH) for label in labels]
        rows = {"categoryorder": "array", "categoryarray": labels, "range": [len(labels) - 0.5, -0.5]}
        texts = {"tickvals": labels, "ticktext": ["<br>".join(lines) for lines in wrapped]}
        figure.update_yaxes(**rows, **texts)
        figure.update_xaxes(title=self.axis, **({"type": "log", "dtick": 1} if self.is_log else {}))
        # All rows are equally high: two lines have room, and the few labels of three touch their neighbours'.
        height = 110 + (8 + 12 * min(2, max(map(len, wrapped), default=1))) * len(labels)
        figure.update_layout(height=height, margin_l=7 * _LABEL_WIDTH)
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
        figure, grid = _grid(len(self.panels), across=5)
        for axes, panel in zip(grid, self.panels, strict=False):
            for x, (loss, color) in enumerate(LOSSES.items()):
                if loss in panel.paper:
                    mean, deviation = panel.paper[loss]
                    axes.errorbar(x - 0.12, mean, deviation, color=_PAPER, marker="D", markersize=4, capsize=2)
                values = panel.ours.get(loss, ())
                if len(values):
                    middle, spread = sum(values) / len(values), standard_deviation(values) or 0.0
                    axes.errorbar(x + 0.12, middle, spread, color=color, marker="o", markersize=4, capsize=2)
                    axes.scatter([x + 0.24] * len(values), values, color=color, s=6, alpha=0.5, linewidths=0)
            axes.set_xticks(range(len(LOSSES)), _LOSS_NAMES.values(), fontsize=7)
            axes.set_xlim(-0.5, 1.5)
            axes.tick_params(axis="y", labelsize=7)
            axes.set_title(panel.title, fontsize=7)
        figure.suptitle(f"{self.title} (grey: paper)", fontsize=10)
        return figure

    def interactive(self) -> plotly.graph_objects.Figure:
        """By Plotly, one panel at a time, chosen from a list."""
        import plotly.graph_objects as go

        figure = go.Figure()
        shown = next((i for i, panel in enumerate(self.panels) if panel.ours), 0)
        owners = []
        for i, panel in enumerate(self.panels):
            for loss, color in LOSSES.items():
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
        menu = _menu([(panel.title, panel.axis) for panel in self.panels], owners, shown)
        figure.update_xaxes(categoryorder="array", categoryarray=list(_LOSS_NAMES.values()), range=[-0.5, 1.5])
        figure.update_yaxes(title=self.panels[shown].axis, automargin=True)
        figure.update_layout(updatemenus=[menu], height=420, margin_t=50, showlegend=False)
        return figure


class Curve(NamedTuple):
    """One run of a figure of curves: its loss, with k and M, its seed, and epoch -> value."""

    loss: str
    seed: int
    by_epoch: Mapping[float, float]

    @property
    def color(self) -> str:
        """Of its loss."""
        return LOSSES.get(self.loss.partition(" ")[0], _OTHER)


class CurvePanel(NamedTuple):
    """One task of a figure of curves."""

    title: str
    axis: str
    curves: Sequence[Curve]

    def dash(self, curve: Curve) -> str:
        """How a line is drawn, by Plotly's name: a solid one for the first loss of its colour, and others for more."""
        losses = dict.fromkeys(each.loss for each in self.curves if each.color == curve.color)
        return list(_DASHES)[list(losses).index(curve.loss) % len(_DASHES)]


@dataclass(frozen=True)
class Curves:
    """A figure with a panel for every task: a metric by epoch, a line for every run.

    Attributes:
        name, title, notes: as of :class:`Lines`.
        panels: from the top left; at least one.
    """

    name: str
    title: str
    panels: Sequence[CurvePanel]
    notes: Sequence[str]

    def drawn(self) -> matplotlib.figure.Figure:
        """By Matplotlib, three panels a row at most."""
        from matplotlib.ticker import MaxNLocator

        figure, grid = _grid(len(self.panels), across=min(3, len(self.panels)), height=2.6)
        for axes, panel in zip(grid, self.panels, strict=False):
            named = set()
            for curve in panel.curves:
                label = None if curve.loss in named else "\n".join(textwrap.wrap(curve.loss, _LABEL_WIDTH))
                named.add(curve.loss)
                epochs, values = zip(*curve.by_epoch.items(), strict=True)
                line = {"color": curve.color, "linestyle": _DASHES[panel.dash(curve)]}
                axes.plot(epochs, values, linewidth=1, marker=".", markersize=3, label=label, **line)
            axes.tick_params(labelsize=7)
            axes.set_title(panel.title, fontsize=7)
            axes.set_xlabel("epoch", fontsize=7)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.set_ylabel(panel.axis, fontsize=7)
            axes.legend(fontsize=6)
        figure.suptitle(self.title, fontsize=10)
        return figure

    def interactive(self) -> plotly.graph_objects.Figure:
        """By Plotly, one panel at a time, chosen from a list."""
        import plotly.graph_objects as go

        figure = go.Figure()
        owners = []
        for i, panel in enumerate(self.panels):
            for curve in panel.curves:
                figure.add_scatter(
                    x=list(curve.by_epoch),
                    y=list(curve.by_epoch.values()),
                    mode="lines+markers",
                    line={"color": curve.color, "width": 1.5, "dash": panel.dash(curve)},
                    name=f"{curve.loss}, seed {curve.seed}",
                    visible=i == 0,
                )
                owners.append(i)
        menu = _menu([(panel.title, panel.axis) for panel in self.panels], owners, 0)
        figure.update_xaxes(title="epoch")
        figure.update_yaxes(title=self.panels[0].axis, automargin=True)
        figure.update_layout(updatemenus=[menu], height=420, margin_t=50, showlegend=False)
        return figure


def _grid(number: int, across: int, height: float = 1.75) -> tuple[matplotlib.figure.Figure, Sequence[Any]]:
    """So many axes, each ``height`` inches high; those that are left over in the last row are hidden."""
    from matplotlib.figure import Figure

    down = -(-number // across)
    whole = 0.9 + height * down
    figure = Figure(figsize=(2.2 * 5 if across > 2 else 4 * across, whole))
    # A layout that fits itself takes seconds with so many panels.
    space = {"left": 0.4 / across**1.3, "right": 0.99, "top": 1 - 0.7 / whole, "bottom": 0.45 / whole}
    grid = figure.subplots(down, across, squeeze=False, gridspec_kw={**space, "wspace": 0.32, "hspace": 0.45}).ravel()
    for axes in grid[number:]:
        axes.set_axis_off()
    return figure, list(grid)


def _menu(panels: Sequence[tuple[str, str]], owners: Sequence[int], shown: int) -> dict[str, Any]:
    """Plotly's list to choose a panel from.

    Args:
        panels: title and axis of each.
        owners: the panel of each trace.
        shown: the panel that is shown at first.
    """
    buttons = [
        {
            "label": textwrap.shorten(title, _LABEL_WIDTH + 18, placeholder=" ..."),
            "method": "update",
            "args": [{"visible": [owner == i for owner in owners]}, {"yaxis.title.text": axis}],
        }
        for i, (title, axis) in enumerate(panels)
    ]
    return {"buttons": buttons, "active": shown, "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"}


AnyFigure = Lines | Panels | Curves
"""Every kind of figure."""


def save_figure(folder: Path, name: str, draw: Callable[[], matplotlib.figure.Figure]) -> list[Path]:
    """Writes what ``draw`` makes as PNG and as SVG, whose text can be searched; returns the two paths."""
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        drawn = draw()
        paths = []
        for kind, metadata in (("png", {}), ("svg", {"Date": None})):
            paths.append(folder / f"{name}.{kind}")
            drawn.savefig(paths[-1], dpi=150, facecolor="white", metadata=metadata)
    return paths


def write_figures(folder: Path, figures: Sequence[AnyFigure]) -> list[Path]:
    """Writes every figure by :func:`save_figure`; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    return [path for figure in figures for path in save_figure(folder, figure.name, figure.drawn)]
