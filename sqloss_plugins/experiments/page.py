"""A report as Markdown, as CSV files, as JSON and as one HTML page that needs no network; all show the same tables."""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from sqloss_plugins.experiments.drawing import AnyFigure, write_figures
from sqloss_plugins.experiments.tables import Cell, Table
from sqloss_plugins.results import markdown_table, write_json, write_text

SCHEMA_VERSION = 1
"""Of ``report.json``."""


@dataclass(frozen=True)
class Section:
    """A part of a report.

    Attributes:
        name: for links.
        title: above it.
        sentences: first, each a paragraph.
        tables, figures: then these.
    """

    name: str
    title: str
    sentences: Sequence[str] = ()
    figures: Sequence[AnyFigure] = ()
    tables: Sequence[Table] = ()


@dataclass(frozen=True)
class Report:
    """A report.

    Attributes:
        title: of the whole.
        about: what it is made from, name -> value.
        sections: its parts, in order.
    """

    title: str
    about: dict[str, Any]
    sections: Sequence[Section] = field(default_factory=tuple)

    @property
    def figures(self) -> list[AnyFigure]:
        """Of all sections."""
        return [figure for section in self.sections for figure in section.figures]


def _shown(cell: Cell) -> str:
    return " ".join(filter(None, (cell.text, f"[{cell.paper}]" if cell.paper else "")))


def markdown(report: Report) -> str:
    """The report as Markdown, with links to the figures."""
    parts = [f"# {report.title}", "\n".join(f"* {name}: {value}" for name, value in report.about.items())]
    for section in report.sections:
        parts += [f"## {section.title}", *section.sentences]
        for figure in section.figures:
            parts += [f"![{figure.title}](figures/{figure.name}.png)", *_notes(figure.notes)]
        for table in section.tables:
            rows = [list(table.columns), *([_shown(cell) for cell in row] for row in table.rows)]
            parts += [f"### {table.title}", markdown_table(rows), *_notes(table.notes)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _notes(notes: Sequence[str]) -> list[str]:
    return ["\n".join(f"* {note}." for note in dict.fromkeys(notes))] if notes else []


def as_json(report: Report) -> dict[str, Any]:
    """The report as it is written to ``report.json``: every number in a field of its own, unrounded."""
    return {
        "schema_version": SCHEMA_VERSION,
        "title": report.title,
        "about": report.about,
        "sections": [
            {
                "name": section.name,
                "title": section.title,
                "sentences": list(section.sentences),
                "figures": [
                    {"name": figure.name, "title": figure.title, "notes": list(figure.notes)}
                    for figure in section.figures
                ],
                "tables": [
                    {
                        "name": table.name,
                        "title": table.title,
                        "notes": list(table.notes),
                        "columns": list(table.columns),
                        "shown": [[_shown(cell) for cell in row] for row in table.rows],
                        "records": list(table.records),
                    }
                    for table in section.tables
                ],
            }
            for section in report.sections
        ],
    }


def comma_separated(table: Table) -> str:
    """A table's records as CSV; an empty field is a number that there is not."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(table.records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table.records)
    return file.getvalue()


def page(report: Report) -> str:
    """The report as one HTML page: tables that can be sorted, plots that can be zoomed, and no network.

    Plotly's program is in it, compressed; the browser unpacks it (every one does since 2023) when the tables are shown.
    """
    from jinja2 import Environment
    from plotly.offline import get_plotlyjs

    template = resources.files(__package__).joinpath("report.html.jinja").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    # A figure's own style is left out: the page gives it the colours of the reader's light or dark theme.
    plots = {
        figure.name: json.loads(figure.interactive().update_layout(template="none").to_json())
        for figure in report.figures
    }
    packed = base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()
    return environment.from_string(template).render(report=report, plots=plots, plotly=packed)


def write_report(folder: Path, report: Report) -> list[str]:
    """Writes all files of a report into a folder that is there; returns their paths below it, report.json last.

    ``report.json`` names the others, so that a later report can take them away.
    """
    files = {"report.md": markdown(report)}
    for section in report.sections:
        files |= {f"tables/{table.name}.csv": comma_separated(table) for table in section.tables if table.records}
    files["report.html"] = page(report)
    (folder / "tables").mkdir(exist_ok=True)
    drawn = write_figures(folder / "figures", report.figures)
    for name, text in files.items():
        write_text(folder / name, text)
    names = [*(path.relative_to(folder).as_posix() for path in drawn), *files]
    write_json(folder / "report.json", {**as_json(report), "files": names})
    return [*names, "report.json"]
