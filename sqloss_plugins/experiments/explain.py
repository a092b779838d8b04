"""Square loss or cross-entropy? Small experiments that show where the two losses differ.

    sqloss explain
    sqloss explain --figures --output explained
    sqloss explain population seeds

saturated: a start that is confidently wrong. convergence: speed by the number of classes. population: probabilities
where the true ones are known. cost: processor time of the output layer. seeds: how far accuracy varies with the seed.
Each trains models of a few thousand parameters, here and now; all of them take a minute or two of one processor, and no
network. Written are explain.json, a CSV file for every table, and with --figures PNG and SVG files.

What real models show is in the RESULTS.md of the recipes; `sqloss report` has the paper's tables.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from sqloss_plugins.command_line import OptionParser
from sqloss_plugins.errors import UserError, run_command
from sqloss_plugins.experiments.drawing import save_figure
from sqloss_plugins.experiments.page import comma_separated
from sqloss_plugins.experiments.studies import STUDIES, Study
from sqloss_plugins.experiments.study_figures import FIGURES
from sqloss_plugins.experiments.tables import Table
from sqloss_plugins.results import device_name, markdown_table, versions, write_json, write_text

PROGRAM = "sqloss explain"
RESULT_NAME = "explain.json"


def _shown(table: Table) -> str:
    rows = [list(table.columns), *([cell.text for cell in row] for row in table.rows)]
    return "\n\n".join([f"{table.title}:", markdown_table(rows), *(f"{note}." for note in table.notes)])


def write(folder: Path, studies: Sequence[Study], with_figures: bool) -> None:
    """Writes the numbers of studies, and their figures, into a folder that is there; ``explain.json`` last.

    Raises:
        UserError: it cannot be written there.
    """
    try:
        for study in studies:
            for table in study.tables:
                write_text(folder / f"{table.name}.csv", comma_separated(table))
            if with_figures:
                save_figure(folder, study.name, partial(FIGURES[study.name], study))
        content = {
            "environment": {"device": device_name("cpu"), **versions()},
            "studies": [
                {
                    "name": study.name,
                    "question": study.question,
                    "tables": [
                        {"name": table.name, "title": table.title, "notes": table.notes, "records": table.records}
                        for table in study.tables
                    ],
                }
                for study in studies
            ],
        }
        write_json(folder / RESULT_NAME, content)
    except OSError as error:
        raise _not_written(folder, error) from error


def _not_written(folder: Path, error: OSError) -> UserError:
    return UserError(f"cannot write into {folder}: {error.strerror or error}")


def _run(argv: Sequence[str] | None) -> None:
    parser = OptionParser(PROGRAM, __doc__)
    names = ", ".join(STUDIES)
    parser.add_argument("studies", nargs="*", metavar="STUDY", help=f"of {names} (default: all of them)")
    parser.add_argument("--figures", action="store_true", help="draw a figure for each")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/explain"), metavar="DIR", help="where to write (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    for name in args.studies:
        if name not in STUDIES:
            raise UserError(f"there is no study {name!r}: choose from {names}")
    if args.output.exists() and not args.output.is_dir():
        raise UserError(f"--output {args.output} is a file: name a folder")
    # Before the work: the command `sqloss` says how to install what is not there.
    for package in ("scipy", "sklearn", *(["matplotlib"] if args.figures else [])):
        importlib.import_module(package)
    try:
        args.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_written(args.output, error) from error
    wanted = [name for name in STUDIES if name in args.studies] or list(STUDIES)
    studies = []
    for i, name in enumerate(wanted, 1):
        print(f"study {i} of {len(wanted)}: {name}", file=sys.stderr, flush=True)
        studies.append(STUDIES[name]())
        print(f"\n{studies[-1].question}\n\n{_shown(studies[-1].tables[0])}", flush=True)
    write(args.output, studies, args.figures)
    print(f"\n{args.output} has {RESULT_NAME}, the tables as CSV" + (" and the figures." if args.figures else "."))


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    return run_command(PROGRAM, lambda: _run(argv))


if __name__ == "__main__":
    sys.exit(main())
