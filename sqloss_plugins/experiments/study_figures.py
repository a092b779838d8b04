"""The figures of :mod:`sqloss_plugins.experiments.studies`, each drawn from the records of a study's tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sqloss_plugins.experiments.comparison import BASELINE
from sqloss_plugins.experiments.drawing import LOSSES, Line, Lines, Mark
from sqloss_plugins.experiments.figures import deviation_figure
from sqloss_plugins.experiments.findings import paper_test_table
from sqloss_plugins.experiments.studies import BEHIND_SIGMOID, BEHIND_SOFTMAX, CROSS_ENTROPY, SQUARE, Study
from sqloss_plugins.experiments.tables import Table

if TYPE_CHECKING:
    import matplotlib.figure

Record = Mapping[str, Any]

_GREY, _GREEN = "#8a8a8a", "#009e73"
_STYLES: dict[str, tuple[str, str]] = {
    CROSS_ENTROPY: (LOSSES[BASELINE], "-"),
    SQUARE: (LOSSES["square"], "-"),
    BEHIND_SIGMOID: (_GREY, "-"),
    BEHIND_SOFTMAX: (_GREY, "-"),
    "square, k = M = 1": (LOSSES["square"], ":"),
    "square, paper's rule": (LOSSES["square"], "--"),
    "square, level rule": (LOSSES["square"], "-"),
    "square without outputs": (_GREEN, "-"),
}
"""Loss -> its colour and kind of line."""
_WIDTH = 8.0  # inches


def _panels(number: int, titles: Sequence[str]) -> tuple[matplotlib.figure.Figure, Sequence[Any]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, 0.9 + _WIDTH / number * 0.72), layout="constrained")
    panels = list(figure.subplots(1, number, squeeze=False).flat)
    for panel, title in zip(panels, titles, strict=True):
        panel.set_title(title, fontsize=9)
        panel.tick_params(labelsize=8)
        panel.xaxis.label.set_size(8)
        panel.yaxis.label.set_size(8)
    return figure, panels


def _by(records: Sequence[Record], field: str) -> dict[Any, list[Record]]:
    """The records by the value of a field, in the order of the first of each."""
    return {
        value: [each for each in records if each[field] == value] for value in dict.fromkeys(r[field] for r in records)
    }


def _draw(panel: Any, records: Sequence[Record], x: str, y: str, marker: str = "") -> None:
    """A line for each loss; what has no number is left out."""
    for loss, of_loss in _by(records, "loss").items():
        color, style = _STYLES[loss]
        found = [(each[x], each[y]) for each in of_loss if each[y] is not None]
        if found:
            panel.plot(
                *zip(*found, strict=True), style, color=color, marker=marker, markersize=4, linewidth=1.5, label=loss
            )


def saturated(study: Study) -> matplotlib.figure.Figure:
    """A single neuron's output by step; steps until networks have learned, by their start."""
    networks, neuron, curves = (table.records for table in study.tables)
    settings = [("SGD", "centred"), ("Adam", "centred")]
    titles = [
        f"one neuron, from {curves[0]['start']:g} to 0",
        "one neuron",
        *(f"digits, {name}" for name, _ in settings),
    ]
    figure, panels = _panels(len(titles), titles)
    _draw(panels[0], curves, "step", "output")
    panels[0].axhline(0.5, color="0.8", linewidth=1)
    panels[0].set(xlabel="step", ylabel="output", xlim=(-1, 100), ylim=(-0.1, 2))
    _draw(panels[1], neuron, "start", "steps", "o")
    panels[1].set(xlabel="start", ylabel="steps until right", yscale="symlog")
    for panel, (optimizer, inputs) in zip(panels[2:], settings, strict=True):
        shown = [each for each in networks if (each["optimizer"], each["inputs"]) == (optimizer, inputs)]
        _draw(panel, shown, "start", "steps", "o")
        panel.set(xlabel="start of one bias", ylabel="steps until 90 % right", ylim=(0, None))
    labels = dict(zip(*reversed(panels[0].get_legend_handles_labels()), strict=True))
    labels |= dict(zip(*reversed(panels[2].get_legend_handles_labels()), strict=True))
    labels.pop(BEHIND_SOFTMAX, None)  # it has the colour of the sigmoid
    figure.legend(labels.values(), [name.replace("sigmoid", "sigmoid, softmax") for name in labels],
                  loc="outside lower center", ncols=3, fontsize=8)  # fmt: skip
    return figure


def convergence(study: Study) -> matplotlib.figure.Figure:
    """Accuracy by step, a panel for each number of classes."""
    by_classes = _by(study.tables[1].records, "classes")
    figure, panels = _panels(len(by_classes), [f"{classes} classes" for classes in by_classes])
    for panel, records in zip(panels, by_classes.values(), strict=True):
        _draw(panel, records, "step", "accuracy_%")
        panel.set(xlabel="step", ylim=(0, 101))
    panels[0].set_ylabel("test accuracy, %")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    return figure


def population(study: Study) -> matplotlib.figure.Figure:
    """How far the likelihood of each method is from the best that there is."""
    records = study.tables[0].records
    figure, panels = _panels(2, ["likelihood", "confidence"])
    classes = list(_by(records, "classes"))
    shown = {
        (CROSS_ENTROPY, "softmax"): "-",
        (SQUARE, "square"): "-",
        (SQUARE, "temperature"): "--",
        (SQUARE, "softmax"): ":",
    }
    for (loss, method), style in shown.items():
        found = [each for each in records if (each["loss"], each["method"]) == (loss, method)]
        # Cross-entropy's lines lie below those of the method `square`, and are broad enough to be seen there.
        width = 5 if loss == CROSS_ENTROPY else 1.5
        look = {"color": _STYLES[loss][0], "marker": "o", "linewidth": width, "markersize": 3 + width}
        look |= {"label": f"{loss}: {method}"}
        panels[0].plot(classes, [each["nll"] / each["entropy"] for each in found], style, **look)
        panels[1].plot(classes, [each["mean_confidence"] for each in found], style, **look)
    truth = [of_classes[0]["mean_largest_p"] for of_classes in _by(records, "classes").values()]
    panels[1].plot(classes, truth, "x", color="black", label="the true probabilities")
    panels[0].set(xlabel="classes", ylabel="NLL / entropy (1 is best)", xscale="log")
    panels[1].set(xlabel="classes", ylabel="mean largest probability", xscale="log", ylim=(0, 1))
    figure.legend(*panels[1].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    return figure


def cost(study: Study) -> matplotlib.figure.Figure:
    """Processor time beside cross-entropy's."""
    figure, (panel,) = _panels(1, ["the last layer and its loss"])
    figure.set_size_inches(_WIDTH / 2, _WIDTH / 2.6)
    _draw(panel, study.tables[0].records, "classes", "time_/_cross-entropy", "o")
    panel.set(xlabel="classes", ylabel="processor time / cross-entropy", xscale="log", ylim=(0, None))
    panel.legend(fontsize=8)
    return figure


def seeds(study: Study) -> matplotlib.figure.Figure:
    """The paper's ratios of standard deviations, and ours below them."""
    of_paper = deviation_figure(paper_test_table(), Table("std", "", [], [], []), [])
    ours = [
        Line(f"{each['task']} (this study)", None, Mark(each["ratio"], each["low"], each["high"]))
        for each in study.tables[0].records
        if each["ratio"] is not None
    ]
    return Lines(**{**vars(of_paper), "lines": [*of_paper.lines, *ours]}).drawn()


FIGURES: dict[str, Callable[[Study], matplotlib.figure.Figure]] = {
    "saturated": saturated,
    "convergence": convergence,
    "population": population,
    "cost": cost,
    "seeds": seeds,
}
"""Name of a study -> its figure."""
