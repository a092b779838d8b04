"""Reports on finished runs: the paper's tables and figures with our numbers, and what they show.

    sqloss report
    sqloss report runs/mrpc more_runs --output mrpc_report

Reads every result.json below the given folders, by default below `runs`. In the paper's tables each cell has our mean
and standard deviation (number of seeds) beside the paper's number, and is empty where nothing was run. Runs on other
tasks, with other models or on parts of the data are in a section of their own, and so are mini runs. Differences to
cross-entropy are tested seed by seed. Written are report.md, report.json, report.html (one page that needs no network),
a CSV file for every table and PNG and SVG files for every figure; an earlier report there is replaced.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from sqloss_plugins.command_line import OptionParser
from sqloss_plugins.errors import UserError, run_command
from sqloss_plugins.experiments.comparison import MINI_WARNING
from sqloss_plugins.experiments.evidence import MINI, OWN, PAPER, Evidence, gather
from sqloss_plugins.experiments.figures import deviation_figure, figure_1, figure_2, figure_3
from sqloss_plugins.experiments.findings import (
    TASKS,
    ahead,
    count_table,
    deviation_table,
    difference_table,
    paper_remarks,
    paper_test_table,
    result_table,
)
from sqloss_plugins.experiments.page import Report, Section, write_report
from sqloss_plugins.experiments.tables import Cell, Table, paper_tables
from sqloss_plugins.results import markdown_table, versions

PROGRAM = "sqloss report"
_NO_CURVES = (
    "The paper's Figure 2 has curves of training. It gives no numbers for them, and no run here has recorded any: "
    "there is nothing to draw."
)
_LEGEND = (
    "Ours: mean +- standard deviation (number of seeds), in per cent. In brackets, or below, is the paper's number; "
    "where it stands alone, nothing was run. Ours are runs of the paper's task and model on the whole data, each loss "
    "with the learning rate that was best on validation data; their other settings are in their result.json."
)


def make_report(evidence: Sequence[Evidence], folders: Sequence[Path]) -> Report:
    """The report on compared runs.

    Args:
        evidence: made by :func:`sqloss_plugins.experiments.evidence.gather`.
        folders: where they are from.
    """
    parts = {name: [item for item in evidence if item.section == name] for name in (PAPER, OWN, MINI)}
    differences = {name: ahead(items) for name, items in parts.items()}
    real = [*parts[PAPER], *parts[OWN]]
    tests, curves = paper_test_table(), figure_2(real)
    deviations = deviation_table("std", "Standard deviations over seeds", real)
    of_paper = {PAPER: "the paper's tasks", OWN: "other tasks and models"}
    counts = count_table({of_paper[name]: differences[name] for name in of_paper})
    sections = [
        Section("found", "What is found", _found(counts), tables=[counts]),
        Section(
            "figures",
            "Figures",
            [] if curves else [_NO_CURVES],
            figures=[
                figure_1([*differences[PAPER], *differences[OWN]]),
                *([curves] if curves else []),
                figure_3(real),
                deviation_figure(tests, deviations, real),
            ],
        ),
        Section("paper_tables", "The paper's tables", [_LEGEND], tables=paper_tables(evidence)),
        Section(
            "differences",
            "Differences by seed",
            [] if differences[PAPER] else ["On none of the paper's tasks two losses have a seed in common."],
            tables=_filled(
                difference_table("differences", "On the paper's tasks", differences[PAPER], evidence), deviations
            ),
        ),
        Section(
            "own",
            "Other tasks and models",
            [] if parts[OWN] else ["There are no runs of other tasks or models, or on parts of the data."],
            tables=_filled(
                result_table("own_results", "Results", parts[OWN], evidence),
                difference_table("own_differences", "Differences by seed", differences[OWN], evidence),
            ),
        ),
        Section(
            "mini",
            "Mini runs",
            [MINI_WARNING if parts[MINI] else "There are no mini runs."],
            tables=_filled(
                result_table("mini_results", "Results on mini data", parts[MINI], evidence),
                difference_table("mini_differences", "Differences by seed on mini data", differences[MINI], evidence),
            ),
        ),
        Section("paper", "The paper's own numbers", paper_remarks(tests), tables=[tests]),
        Section("runs", "Runs", tables=[_run_table(evidence)]),
    ]  # fmt: skip
    return Report("Square loss and cross-entropy", _about(evidence, folders), sections)


def _about(evidence: Sequence[Evidence], folders: Sequence[Path]) -> dict[str, str]:
    """What the report is made of."""
    runs = [run for item in evidence for run in item.runs]
    return {
        "runs": f"{len(runs)}, {sum(run.result.mini for run in runs)} of them mini",
        "from": ", ".join(map(str, folders)),
        "training time": f"{sum(run.result.wall_time_s for run in runs) / 3600:.1f} hours",
        "made by": f"sqloss_plugins {versions()['sqloss_plugins']} ({versions().get('git') or 'no checkout'})",
    }


def _filled(*tables: Table) -> list[Table]:
    return [table for table in tables if table.rows]


def _found(counts: Table) -> list[str]:
    """The counts of our runs, a sentence each."""
    sentences = [
        f"{record['compared']}, over {record['over']}: better than cross-entropy in {record['wins']}, equal in "
        f"{record['ties']}, worse in {record['losses']} of {record['tasks']}"
        + ("." if record["p_value"] is None else f" (sign test: p = {record['p_value']:.3f}).")
        for record in counts.records
        if record["source"] == "ours"
    ]
    return sentences or ["No loss has a seed in common with cross-entropy: there is nothing to count."]


def _run_table(evidence: Sequence[Evidence]) -> Table:
    rows, records = [], []
    for item in evidence:
        for run in item.runs:
            result = run.result
            record = {
                "task": result.task,
                "arch": result.arch,
                "loss": run.label,
                "protocol": result.protocol,
                "seed": result.seed,
                "learning_rate": run.learning_rate,
                "epochs": result.epochs,
                "mini": result.mini,
                "minutes": result.wall_time_s / 60,
                "device": result.device,
                "git": result.versions.get("git"),
                "path": str(run.path),
            }
            records.append(record)
            rows.append(
                [
                    *(Cell(str(record[name])) for name in ("task", "arch", "loss", "protocol")),
                    Cell(str(result.seed), result.seed),
                    Cell(f"{run.learning_rate:g}", run.learning_rate),
                    Cell(f"{result.epochs:g}", result.epochs),
                    Cell("yes" if result.mini else ""),
                    Cell(f"{record['minutes']:.1f}", result.wall_time_s),
                    Cell(str(run.path)),
                ]
            )
    columns = ["task", "model", "loss", "protocol", "seed", "lr", "epochs", "mini", "minutes", "file"]
    return Table("runs", "Every run", columns, rows, records)


def replace_report(folder: Path, report: Report) -> None:
    """Writes a report, each file in one step when all of them are made, and takes away those of an earlier one.

    Other files in the folder stay.

    Raises:
        UserError: it cannot be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        earlier = _files(folder / "report.json")
        with tempfile.TemporaryDirectory(dir=folder, prefix=".report.", suffix=".partial") as partial:
            made = Path(partial)
            names = write_report(made, report)
            for name in names:
                (folder / name).parent.mkdir(exist_ok=True)
                os.replace(made / name, folder / name)
            for left in set(earlier) - set(names):
                (folder / left).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot write the report to {folder}: {error.strerror or error}") from error


def _files(path: Path) -> list[str]:
    """The files of the report that a ``report.json`` belongs to, none where there is no such; never one elsewhere."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    folders = ("figures", "tables")
    return [
        name for name in found if isinstance(name, str) and len(parts := Path(name).parts) == 2 and parts[0] in folders
    ]


def _run(argv: Sequence[str] | None) -> None:
    parser = OptionParser(PROGRAM, __doc__)
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="where the runs are (default: runs)")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/report"), metavar="DIR", help="where to write (default: runs/report)"
    )
    args = parser.parse_args(argv)
    folders = args.folders or [Path("runs")]
    # Before any work, and before the folder is made.
    if args.output.exists() and not args.output.is_dir():
        raise UserError(f"--output {args.output} is a file: name a folder")
    report = make_report(gather(folders), folders)
    replace_report(args.output, report)
    _show(report, args.output)


def _show(report: Report, folder: Path) -> None:
    """Prints what is found and where the report is."""
    found = report.sections[0]
    print("\n".join(f"{name}: {value}" for name, value in report.about.items()))
    (counts,) = found.tables
    rows = [[cell.text for cell in row] for row, record in zip(counts.rows, counts.records, strict=True)
            if record["source"] == "ours" or record["over"] == TASKS]  # fmt: skip
    print(f"\n{markdown_table([list(counts.columns), *rows])}\n")
    print(f"{folder / 'report.html'} for a browser, {folder / 'report.md'}, {folder / 'report.json'};")
    print(f"{folder / 'tables'} and {folder / 'figures'} for the tables as CSV and the figures.")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    return run_command(PROGRAM, lambda: _run(argv))


if __name__ == "__main__":
    sys.exit(main())
