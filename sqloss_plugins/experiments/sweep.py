"""Runs a whole comparison of losses: every loss at its own best learning rate, over seeds, and the tables at the end.

    sqloss sweep classify --train_file reviews.csv --grid learning_rate=2e-5,5e-5,1e-4
    sqloss sweep images --train_dir photos/train --arch resnet18 --seeds 3
    sqloss sweep asr an4 --corpus AN4 --grid learning_rate=5e-4,1e-3 --seeds 1,2,3
    sqloss sweep glue --task mrpc --data_dir GLUE/MRPC --protocols early_stopping,same_epochs
    sqloss sweep --tasks mrpc,text5,mnist --losses square,cross_entropy,squentropy -- --mini
    sqloss sweep --config sweep.yaml --workers 4
    sqloss sweep classify --train_file reviews.csv --dry_run

After the name of a command, options that are not listed below are that command's; with --tasks they come after --.
Each run is one such command, which --dry_run prints. The learning rates of --grid are tried with the first seed, each
loss takes the one with the best validation metric, and the other seeds are run with that. same_epochs takes, seed by
seed, the epochs after which cross-entropy's early stopping chose its model. Beside other tasks, speech has the learning
rate and the epochs of its configuration, whatever --grid and --protocols say; a sweep of speech alone takes --grid. A
run that is finished is not repeated, so that the same command goes on where an earlier one was stopped. Runs that fail
are listed at the end.

--config names a YAML file of the options below (lists as lists, grid as a mapping), with command: and options: for a
command and its options, and parallel: as ESPnet3 has it: env (local, slurm, pbs, lsf, ...), n_workers, options. What
the command line has counts. What was asked for is in sweep.yaml in the folder of the sweep, beside comparison.json.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from sqloss_plugins.command_line import read_mapping
from sqloss_plugins.errors import RunError, UserError, run_command
from sqloss_plugins.experiments.compare import compare, show, write
from sqloss_plugins.experiments.execution import Parallel, carry_out, choose_rate, last_words
from sqloss_plugins.experiments.plan import BEST, Plan
from sqloss_plugins.experiments.progress import Progress, State
from sqloss_plugins.experiments.request import PROGRAM, Request, make_plan, notes, read_request
from sqloss_plugins.folders import lock_folder
from sqloss_plugins.results import RESULT_NAME, markdown_table, read_result, write_json, write_text

SWEEP_NAME = "sweep.yaml"
COMPARISON_NAME = "comparison.json"
SEARCH_NAME = "search.json"


# ---------------------------------------------------------------- what is left behind


def _record(plan: Plan, request: Request) -> None:
    """Writes what was asked for, if the folder has no results of other commands.

    Raises:
        UserError: it has.
    """
    path = plan.folder / SWEEP_NAME
    grid = {"learning_rate": list(plan.rates)} if plan.rates else None
    asked = {
        "command": request.command,
        "tasks": request.tasks,
        "archs": request.archs,
        "losses": list(plan.losses),
        "seeds": list(plan.seeds),
        "protocols": list(plan.protocols) if any(not cell.is_speech for cell in plan.cells) else None,
        "grid": grid,
        "exp": str(plan.folder),
        "options": request.options,
        "parallel": request.parallel,
    }
    if path.is_file() and any(plan.folder.rglob(RESULT_NAME)):
        earlier = read_mapping(path)
        for name in ("command", "options"):
            before, now = earlier.get(name), asked[name] or None
            if before != now:
                raise UserError(
                    f"{plan.folder} holds a sweep with {_shown(name, before)}, and this one has {_shown(name, now)}: "
                    "choose another --exp"
                )
    content = {name: value for name, value in asked.items() if value}
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=1000)
    write_text(path, f"# sqloss sweep --config {path}\n{text}")


def _shown(name: str, value: Any) -> str:
    if not value:
        return f"no {name}"
    return f"the {name} {value if isinstance(value, str) else ' '.join(value)}"


def _search_costs(progress: Progress) -> list[dict[str, Any]]:
    """What choosing the learning rates took, by cell and loss."""
    plan, costs = progress.plan, []
    for cell in plan.cells:
        for loss in plan.losses:
            search = plan.search(cell, loss)
            finished = [run for run in search if (run.folder / RESULT_NAME).is_file()]
            if len(search) > 1 and finished:
                costs.append(
                    {
                        "cell": cell.name,
                        "loss": loss,
                        "rates": [run.rate for run in search],
                        "chosen": progress.chosen(search),
                        "runs": len(finished),
                        "seconds": sum(read_result(run.folder).wall_time_s for run in finished),
                    }
                )
    return costs


def _report_search(costs: Sequence[Mapping[str, Any]]) -> None:
    if not costs:
        return
    rows = [["search", "loss", "learning rates", "chosen", "runs", "seconds"]]
    for cost in costs:
        rates, seconds = ", ".join(cost["rates"]), f"{cost['seconds']:.0f}"
        rows.append([cost["cell"], cost["loss"], rates, cost["chosen"], str(cost["runs"]), seconds])
    print(f"\n{markdown_table(rows)}")
    runs, total = sum(cost["runs"] for cost in costs), sum(cost["seconds"] for cost in costs)
    print(
        f"\nThe search took {runs} runs and {total:.0f} s of training; those of the chosen rates are part of the "
        "comparison."
    )


# ---------------------------------------------------------------- the command


def _dry_run(plan: Plan, said: Sequence[str]) -> None:
    """Prints every command; as comments what is said of them, and those that wait for a learning rate."""
    for note in said:
        print(f"# {note}")
    progress = Progress(plan, choose_rate)
    for run in plan.known(lambda search: progress.chosen(search) or BEST, lambda _: True):
        print(run.command if run.is_settled else f"# {run.command}")


def _run(argv: Sequence[str]) -> None:
    request, is_dry = read_request(argv, __doc__)
    plan = make_plan(request)
    if is_dry:
        _dry_run(plan, notes(plan, request))
        return
    for note in notes(plan, request):
        print(note, flush=True)
    with lock_folder(plan.folder):
        _record(plan, request)
        progress = Progress(plan, choose_rate)
        before = sum((run.folder / RESULT_NAME).is_file() for run in progress.known())
        done = f", {before} of them finished before" if before else ""
        print(f"{progress.total} runs in {plan.folder}{done}", flush=True)
        carry_out(progress, Parallel(**request.parallel))
        costs = _search_costs(progress)
        failures = [
            {"run": run.name, "command": run.command, "reason": status.reason} for run, status in progress.failures
        ]
        write_json(plan.folder / SEARCH_NAME, {"search": costs, "failures": failures})
        refused = progress.in_state(State.REFUSED)
        if refused and not progress.in_state(State.FINISHED):
            log = last_words(refused[0][0].folder)
            raise UserError(f"the runs cannot begin: {log.rpartition(chr(10))[2]}")
        if progress.in_state(State.FINISHED):
            comparisons = compare([plan.folder])
            show(comparisons)
            write(plan.folder / COMPARISON_NAME, comparisons)
        _report_search(costs)
        for run, status in progress.failures:
            print(f"\nFAILED, {status.reason}: {run.command}\n{_indented(last_words(run.folder))}")
        print(f"\nEverything is in {plan.folder}. Figures and more tables: sqloss report {plan.folder}", flush=True)
        if progress.failures:
            lacking = f", and because of that {progress.lacking} not begun" if progress.lacking else ""
            raise RunError(f"of {progress.total} runs {len(progress.failures)} failed{lacking}")


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    return run_command(PROGRAM, lambda: _run(sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    sys.exit(main())
