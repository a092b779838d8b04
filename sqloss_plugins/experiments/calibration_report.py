"""The calibration report: its tables, its Markdown and its JSON."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sqloss_plugins.experiments.calibration import MEASURES, Calibrated, Measured
from sqloss_plugins.experiments.comparison import BASELINE, MINI_WARNING, Group
from sqloss_plugins.experiments.statistics import difference_cells, shown_mean
from sqloss_plugins.metrics import metric
from sqloss_plugins.results import markdown_table

_SHOWN_COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.5)


@dataclass(frozen=True)
class Report:
    """The runs of one group at the chosen learning rates.

    Attributes:
        group: what they have in common.
        runs: by loss, in the order of their seeds.
    """

    group: Group
    runs: dict[str, list[Calibrated]]

    def measured(self, split: str) -> dict[tuple[str, str], dict[int, Measured]]:
        """Loss and method -> seed -> what came out on a split."""
        found: dict[tuple[str, str], dict[int, Measured]] = defaultdict(dict)
        for label, runs in self.runs.items():
            for run in runs:
                for method, measured in run.measured.get(split, {}).items():
                    found[label, method][run.run.result.seed] = measured
        return dict(found)

    @property
    def splits(self) -> list[str]:
        """Every split that was measured."""
        return list(dict.fromkeys(split for runs in self.runs.values() for run in runs for split in run.measured))


def _cell(name: str, by_seed: dict[int, Measured]) -> str:
    """Mean and sample standard deviation over seeds; of one seed the value, with its interval."""
    one, measured = metric(name), list(by_seed.values())
    cell = shown_mean(one, [each.values[name] for each in measured])
    interval = measured[0].intervals.get(name) if len(measured) == 1 else None
    return cell + (f" [{', '.join(map(one.shown, interval))}]" if interval else "")


def tables(report: Report) -> list[tuple[str, str]]:
    """Titles and Markdown tables of a report."""
    found = []
    for split in report.splits:
        measured = report.measured(split)
        rows = [["loss", "method", "seeds", *(metric(name).heading for name in MEASURES), "mean confidence %"]]
        for (label, method), by_seed in measured.items():
            cells = [_cell(name, by_seed) for name in MEASURES]
            confidence = sum(one.confidence for one in by_seed.values()) / len(by_seed)
            rows.append([label, method, str(len(by_seed)), *cells, f"{100 * confidence:.2f}"])
        caution = ", to which temperature and floor were fitted" if split == "validation" else ""
        found.append((split + caution, markdown_table(rows)))
        found += _differences(split, measured)
        rows = [["loss", "method", *(f"{100 * share:g} %" for share in _SHOWN_COVERAGES)]]
        for (label, method), by_seed in measured.items():
            means = [sum(one.risks[share] for one in by_seed.values()) / len(by_seed) for share in _SHOWN_COVERAGES]
            rows.append([label, method, *(f"{100 * value:.2f}" for value in means)])
        found.append((f"{split}: errors in % among the most confident examples", markdown_table(rows)))
        found += _unknown(split, report)
    rows = [["loss", "seed", "learning rate", "method", "temperature", "floor x C"]]
    for label, runs in report.runs.items():
        for run in runs:
            for method, fitted in run.fitted.items():
                floor = f"{fitted['floor'] * run.classes:.3g}" if "floor" in fitted else "-"
                place = [label, str(run.run.result.seed), _shown_rate(run), method]
                rows.append([*place, f"{fitted['temperature']:.4g}", floor])
    return [*found, ("fitted on validation data", markdown_table(rows))]


def _shown_rate(run: Calibrated) -> str:
    rate = run.run.learning_rate
    return "-" if math.isnan(rate) else f"{rate:g}"


def _differences(split: str, measured: dict[tuple[str, str], dict[int, Measured]]) -> list[tuple[str, str]]:
    """Each method of other losses against cross-entropy with its temperature, seed by seed."""
    baseline = measured.get((BASELINE, "temperature"), {})
    rows = [["loss", "method", "metric", "mean difference", "by seed", "seeds better"]]
    for (label, method), by_seed in measured.items():
        common = [seed for seed in by_seed if seed in baseline]
        if label == BASELINE or not common:
            continue
        for name in ("nll", "brier", "ece"):
            one = metric(name)
            values = [by_seed[seed].values[name] - baseline[seed].values[name] for seed in common]
            rows.append([label, method, one.heading, *difference_cells(one, values)])
    return [(f"{split}: minus {BASELINE} with its temperature", markdown_table(rows))] if len(rows) > 1 else []


def _unknown(split: str, report: Report) -> list[tuple[str, str]]:
    """How well the largest probability tells other data."""
    rows = [["loss", "method", "seeds", "AUROC %"]]
    for label, runs in report.runs.items():
        by_method: dict[str, list[float]] = defaultdict(list)
        for run in runs:
            for method, value in run.unknown.get(split, {}).items():
                by_method[method].append(value)
        for method, values in by_method.items():
            rows.append([label, method, str(len(values)), f"{100 * sum(values) / len(values):.2f}"])
    return (
        [(f"{split}, told from other data by the largest probability", markdown_table(rows))] if len(rows) > 1 else []
    )


def as_markdown(reports: Sequence[Report], notes: Sequence[str], figures: Sequence[Sequence[Path]]) -> str:
    """The report; paths of figures are relative to it."""
    groups = [report.group for report in reports]
    parts = ["# Calibration"]
    for report, paths in zip(reports, figures, strict=True):
        parts.append(f"## {report.group.title(groups)}")
        if report.group.mini:
            parts.append(MINI_WARNING)
        for title, table in tables(report):
            parts += [f"**{title[0].upper()}{title[1:]}**", table]
        parts += [f"![{path.stem.replace('_', ' ')}]({path.name})" for path in paths]
    parts += [f"Left out: {note}." for note in notes]
    return "\n\n".join(parts) + "\n"


def as_json(report: Report) -> dict[str, Any]:
    """A report as it is written to a file."""
    return {
        **asdict(report.group),
        "runs": [
            {
                "path": str(run.run.path.parent),
                "loss": label,
                "seed": run.run.result.seed,
                "learning_rate": run.run.learning_rate,
                "fitted": run.fitted,
                "splits": {
                    split: {method: asdict(one) for method, one in methods.items()}
                    for split, methods in run.measured.items()
                },
                "auroc_of_other_data": run.unknown,
            }
            for label, runs in report.runs.items()
            for run in runs
        ],
    }
