"""Keeps results of runs on real data, from which the report in recipes/RESULTS and the README's table are made.

    python -m tools.keep_results runs/mrpc-sweep mrpc_lstm_cnn
    python -m tools.keep_results runs/test-sweep wikitext2_bytes --task wikitext2_bytes

Every result.json below the first folder is copied to a folder of recipes/RESULTS/result_files, as it is, with two
exceptions: of the data's source the names of the files are kept, without the folders of the machine; and --task gives
the task another name, where it has that of a file.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from sqloss_plugins.command_line import check_name
from sqloss_plugins.errors import UserError, run_command
from sqloss_plugins.experiments.comparison import find_runs
from sqloss_plugins.results import Result, write_json

KEPT = Path(__file__).parent.parent / "recipes/RESULTS/result_files"


def kept(result: Result, task: str | None = None) -> Result:
    """A result as it is kept, with another name of its task if there is one."""
    name = task or result.task
    parts = result.data["source"].split(", ")
    source = ", ".join(part if part.startswith("hub: ") else Path(part).name for part in parts)
    settings = {**result.hyperparameters, **({"task": name} if "task" in result.hyperparameters else {})}
    return replace(result, task=name, data={**result.data, "source": source}, hyperparameters=settings)


def _run(folder: Path, name: str, task: str | None) -> None:
    check_name("NAME", name)
    if task is not None:
        check_name("--task", task)
    runs = find_runs([folder])
    mini = [run for run in runs if run.result.mini]
    if mini:
        raise UserError(f"{mini[0].path} is of mini data: what is kept is of real data")
    for run in runs:
        path = KEPT / name / run.path.relative_to(folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, asdict(kept(run.result, task)))
    print(f"{len(runs)} results are kept in {KEPT / name}: run make readme")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser("keep_results", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="with runs in it")
    parser.add_argument("name", metavar="NAME", help="of the folder in recipes/RESULTS/result_files")
    parser.add_argument("--task", metavar="TASK", help="another name for their task")
    args = parser.parse_args(argv)
    return run_command("keep_results", lambda: _run(args.folder, args.name, args.task))


if __name__ == "__main__":
    sys.exit(main())
