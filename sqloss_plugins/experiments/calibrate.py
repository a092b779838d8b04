"""How good are the probabilities? A report on finished runs, for every method.

    sqloss calibrate runs/mrpc
    sqloss calibrate runs/mnist --out_of_distribution runs/fashion
    sqloss calibrate mine.npz --loss square --k 1 --M 1

Reads result.json and outputs.npz of every run below the given folders. Of each loss the runs at its chosen learning
rate count (as in `sqloss compare`). Methods: softmax, of the outputs f; square, what they stand for after the square
loss; temperature, softmax(f / T); and `square, fitted`, p^(1/T), normalised, with p at least a floor. T and the floor
are fitted on validation data. What is reported is measured on the test data; where a run has none, or with --split
validation, on the validation data itself, where what was fitted looks better than it is. Several seeds: mean +- sample
standard deviation, and differences to cross-entropy with its temperature, seed by seed. One seed: in brackets the 95 %
interval of a bootstrap over examples.

nll: negative log-likelihood. brier: squared distance to the true class. ece, ece_adaptive: expected calibration error
of the largest probability, in bins of equal width and of equally many examples. aurc: share of errors where only the
most confident examples are answered, as a mean over how many.

mine.npz: outputs of a program of your own, saved by numpy.savez, as validation_outputs and test_outputs (N x C), with
validation_targets and test_targets (N class numbers).
"""

from __future__ import annotations

import importlib
import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from sqloss_plugins.command_line import OptionParser
from sqloss_plugins.errors import UserError, run_command
from sqloss_plugins.experiments.calibration import (
    FITTED_SQUARE,
    SAVED_SUFFIX,
    Calibrated,
    Unknown,
    calibrate,
    read_outputs,
    read_unknown,
    saved_run,
)
from sqloss_plugins.experiments.calibration_report import Report, as_json, as_markdown, tables
from sqloss_plugins.experiments.comparison import MINI_WARNING, Group, Run, compare_group, find_runs, grouped
from sqloss_plugins.losses import LOSSES, check_loss
from sqloss_plugins.results import write_json, write_text

PROGRAM = "sqloss calibrate"
CONFIG_NAME = "config.json"
"""Of a Transformers model, in its run's folder."""


def measure_all(
    folders: Sequence[Path],
    wanted: str | None,
    resamples: int,
    bins: int,
    unknown: Sequence[Path] = (),
    saved: Sequence[Run] = (),
) -> tuple[list[Report], list[str]]:
    """Measures all runs below the folders, and saved outputs.

    Args:
        folders: where the runs are; may be empty where there are saved outputs.
        wanted: ``test`` for all test splits, or ``validation``; None for test, and validation where a run has no test.
        resamples: of the bootstrap.
        bins: of the calibration errors.
        unknown: folders with outputs of the same models on data of another kind.
        saved: outputs beside no result.

    Returns:
        A report for every group, and a sentence for every run and loss that is left out.

    Raises:
        UserError: nothing can be measured, or outputs on other data that are of none of the runs, or of one twice.
    """
    others: dict[Path, Unknown] = {}
    for folder in unknown:
        other = read_unknown(folder)
        if others.setdefault(other.model, other) is not other:
            raise UserError(f"--out_of_distribution has {other.model} twice: name one folder for each run")
    reports = [Report(Group.of(run), {run.label: [_measure(run, wanted, resamples, bins, None)]}) for run in saved]
    notes = []
    for group, runs in grouped(find_runs(folders) if folders else []).items():
        found: dict[str, list[Calibrated]] = {}
        summaries = compare_group(group, runs).summaries
        for label in sorted({run.label for run in runs} - summaries.keys()):
            notes.append(f"no seed of {label}, {group.task}, {group.arch} was run with every learning rate")
        for label, summary in summaries.items():
            for run in summary.runs:
                its_unknown = others.pop(run.path.parent.resolve(), None)
                try:
                    made = _measure(run, wanted, resamples, bins, its_unknown)
                except UserError as error:
                    notes.append(str(error))
                else:
                    found.setdefault(label, []).append(made)
                    print(f"measured {run.path.parent}", file=sys.stderr, flush=True)
        if found:
            reports.append(Report(group, found))
    if not reports:
        raise UserError(notes[0])
    if others:
        raise UserError(
            f"--out_of_distribution has outputs of {next(iter(others))}, which is none of the runs measured"
        )
    return reports, notes


def _measure(run: Run, wanted: str | None, resamples: int, bins: int, unknown: Unknown | None) -> Calibrated:
    outputs = read_outputs(run)
    splits = [name for name in outputs.splits if name.partition("_")[0] == (wanted or "test")]
    if not splits and wanted is None:
        splits = ["validation"]
    if not splits:
        raise UserError(f"{run.path.parent} has no outputs on {wanted} data with labels: see --split")
    return calibrate(outputs, splits, resamples, bins, unknown)


def _run(argv: Sequence[str] | None) -> None:
    parser = OptionParser(PROGRAM, __doc__)
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="a folder of runs, or an NPZ file")
    parser.add_argument("--loss", choices=tuple(LOSSES), help="of NPZ files: what their models were trained with")
    parser.add_argument("--k", type=float, help="of NPZ files, for the square loss (default: 1)")
    parser.add_argument("--M", type=float, help="of NPZ files, for the square loss (default: 1)")
    parser.add_argument("--split", choices=("test", "validation"), help="what is reported on")
    parser.add_argument("--bins", type=int, default=15, help="of the calibration errors (default: %(default)s)")
    parser.add_argument("--bootstrap", type=int, default=1000, metavar="N", help="resamples (default: %(default)s)")
    parser.add_argument(
        "--out_of_distribution",
        nargs="+",
        type=Path,
        default=[],
        metavar="FOLDER",
        help="what --do_predict --model_name_or_path RUN left of data of another kind",
    )
    parser.add_argument(
        "--save",
        action="store_true",
        help="keep the fitted floor and temperature of `square` with the models, where pipelines find them",
    )
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="write calibration.md, .json and figures there")
    args = parser.parse_args(argv)
    for name, value, least in (("--bins", args.bins, 1), ("--bootstrap", args.bootstrap, 0)):
        if value < least:
            raise UserError(f"{name} must be at least {least}, got {value}")
    if args.output is not None and args.output.exists() and not args.output.is_dir():
        raise UserError(f"--output {args.output} is a file: name a folder")
    if args.output is not None:
        importlib.import_module("matplotlib")  # before the work: the command `sqloss` says how to install it
    files = [path for path in args.paths if path.suffix == SAVED_SUFFIX]
    folders = [path for path in args.paths if path.suffix != SAVED_SUFFIX]
    saved = _saved_runs(files, args)
    reports, notes = measure_all(folders, args.split, args.bootstrap, args.bins, args.out_of_distribution, saved)
    groups = [report.group for report in reports]
    for report in reports:
        print(f"\n{report.group.title(groups)}")
        if report.group.mini:
            print(MINI_WARNING)
        for title, table in tables(report):
            print(f"\n{title}:\n\n{table}")
    for note in notes:
        print(f"\nLeft out: {note}.")
    if args.output is not None:
        _write(args.output, reports, notes)
    if args.save:
        _save([run for report in reports for runs in report.runs.values() for run in runs])


def _saved_runs(files: Sequence[Path], args: Namespace) -> list[Run]:
    """The NPZ files of the command line, if the options for them are what they need."""
    if not files:
        if (args.loss, args.k, args.M) != (None, None, None):
            raise UserError("--loss, --k and --M are of NPZ files: the runs below a folder say what theirs are")
        return []
    if args.loss is None:
        raise UserError(f"say what the model of {files[0]} was trained with: --loss {' or '.join(LOSSES)}")
    if args.save:
        raise UserError("--save is for runs with a model: an NPZ file has none to keep anything with")
    try:
        spec = check_loss(args.loss, args.k, args.M)
    except ValueError as error:
        raise UserError(str(error)) from error
    k, M = (args.k or 1.0, args.M or 1.0) if spec.is_rescaled else (None, None)
    return [saved_run(path, args.loss, k, M) for path in files]


def _write(folder: Path, reports: Sequence[Report], notes: Sequence[str]) -> None:
    from sqloss_plugins.experiments.calibration_figures import draw

    try:
        folder.mkdir(parents=True, exist_ok=True)
        figures = [draw(report, folder, i) for i, report in enumerate(reports, 1)]
        write_json(folder / "calibration.json", [as_json(report) for report in reports])
        write_text(folder / "calibration.md", as_markdown(reports, notes, figures))
    except OSError as error:
        raise UserError(f"cannot write into {folder}: {error.strerror or error}") from error
    print(f"\nThe report is {folder / 'calibration.md'}.")


def _save(runs: Sequence[Calibrated]) -> None:
    """Puts what was fitted for ``square`` into the configurations of the models, for whoever reads their outputs."""
    for run in runs:
        path, result = run.run.path.parent / CONFIG_NAME, run.run.result
        fitted = run.fitted.get(FITTED_SQUARE)
        if fitted is None:
            print(f"Nothing is kept in {path.parent}: {result.loss} has no outputs that `square` reads.")
            continue
        if not path.exists():  # a speech recipe's, whose decoding has its own calibration
            print(f"Nothing is kept in {path.parent}: it has no {CONFIG_NAME} of a Transformers model.")
            continue
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
            write_json(path, {**config, "square_loss": {"k": result.k, "M": result.M, **fitted}})
        except (OSError, ValueError, TypeError) as error:  # of a file that holds no object the last
            raise UserError(f"{path} cannot be read as a model's configuration, or not be written: {error}") from error
        print(f"Kept in {path}: floor {fitted['floor']:.4g}, temperature {fitted['temperature']:.4g}.")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    return run_command(PROGRAM, lambda: _run(argv))


if __name__ == "__main__":
    sys.exit(main())
