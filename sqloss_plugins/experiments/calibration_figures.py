"""The figures of the calibration report: reliability, and errors against coverage."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sqloss_plugins.experiments.calibration_report import Report
from sqloss_plugins.experiments.comparison import BASELINE
from sqloss_plugins.experiments.drawing import save_figure

if TYPE_CHECKING:
    import matplotlib.figure

_COLUMNS = 3
_SIZE = 3.2  # inches of a panel


def draw(report: Report, folder: Path, number: int) -> list[Path]:
    """Draws a report's figures as PNG and SVG; returns the PNG files.

    Args:
        report: of one group.
        folder: where the files go.
        number: of the report, which is part of the files' names.
    """
    mini = "-mini" if report.group.mini else ""
    name = f"{report.group.task}-{report.group.arch}{mini}-{number}".replace("/", "-")
    paths = []
    for split in report.splits:
        for kind, make in (("reliability", _reliability), ("coverage", _coverage)):
            path, _ = save_figure(folder, f"{name}-{split.replace(' ', '-')}-{kind}", partial(make, report, split))
            paths.append(path)
    return paths


def _reliability(report: Report, split: str) -> matplotlib.figure.Figure:
    """Accuracy against confidence, a panel for each loss and method, a line for each seed."""
    from matplotlib.figure import Figure

    measured = report.measured(split)
    rows = -(-len(measured) // _COLUMNS)
    figure = Figure(figsize=(_COLUMNS * _SIZE, rows * _SIZE), layout="constrained")
    panels = figure.subplots(rows, _COLUMNS, sharex=True, sharey=True, squeeze=False).flat
    for panel, ((label, method), by_seed) in zip(panels, measured.items(), strict=False):
        panel.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle="--")
        for seed, one in by_seed.items():
            confidence, accuracy, counts = zip(*one.reliability, strict=True)
            panel.plot(confidence, accuracy, linewidth=1, label=f"seed {seed}")
            panel.scatter(confidence, accuracy, s=[4 + 60 * count / max(counts) for count in counts])
        ece = sum(one.values["ece"] for one in by_seed.values()) / len(by_seed)
        panel.set_title(f"{label}\n{method}: ECE {100 * ece:.2f} %", fontsize=9)
        panel.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    for panel in panels:
        panel.set_visible(False)  # the last row may have more panels than there are methods
    figure.supxlabel("largest probability")
    figure.supylabel("share that is right")
    return figure


def _coverage(report: Report, split: str) -> matplotlib.figure.Figure:
    """Errors among the most confident examples, a line for each loss and method, the mean over seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2 * _SIZE, 1.4 * _SIZE), layout="constrained")
    panel = figure.subplots()
    for (label, method), by_seed in report.measured(split).items():
        shares = list(next(iter(by_seed.values())).risks)
        means = [100 * sum(one.risks[share] for one in by_seed.values()) / len(by_seed) for share in shares]
        style = "--" if label == BASELINE else "-"
        panel.plot([100 * share for share in shares], means, style, label=f"{label}, {method}")
    panel.set(xlabel="examples answered, the most confident first, %", ylabel="errors among them, %", xlim=(0, 100))
    panel.set_ylim(bottom=0)
    panel.legend(fontsize=8)
    return figure
