"""Lists the paper's tasks with their architectures: the command, the data, the paper's numbers, and the runs so far.

    sqloss list
    sqloss list runs recipes/an4/runs --budget
    sqloss list --json
    sqloss list --espnet

Whether data is here is told from its usual places alone, and nothing is read: "yes" is no promise that it is whole.
Numbers are the paper's on test data, with the square loss / with cross-entropy. Runs are those below the given folders,
by default runs; of mini data none count. --budget says how long the paper's runs of a task take: five seeds with either
loss, and with the square loss for cross-entropy's epochs, at the mean time of the runs that are there; where there are
none, it is unmeasured. --espnet lists ESPnet's tasks instead, whose own programs train with the losses of this package.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import datasets
from huggingface_hub.constants import HF_HUB_CACHE

from sqloss_plugins import paper
from sqloss_plugins.command_line import OptionParser
from sqloss_plugins.data import characters, glue
from sqloss_plugins.data.corpora import CORPORA
from sqloss_plugins.data.image_tasks import TASKS as IMAGE_TASKS
from sqloss_plugins.errors import UserError, run_command
from sqloss_plugins.espnet.tasks import KINDS
from sqloss_plugins.espnet.tasks import TASKS as ESPNET_TASKS
from sqloss_plugins.experiments.comparison import Run, find_runs
from sqloss_plugins.experiments.tasks import command
from sqloss_plugins.metrics import metric
from sqloss_plugins.results import markdown_table

PROGRAM = "sqloss list"
_RUNS_A_SEED = 3  # the square loss and cross-entropy with early stopping, the square loss for cross-entropy's epochs


@dataclass(frozen=True)
class Data:
    """Where a task's data is looked for.

    Attributes:
        source: where it is from, for people.
        option: the option that names a copy of one's own.
        places: files or folders, any of which has it; empty where it has no usual place.
    """

    source: str
    option: str
    places: tuple[Path, ...] = ()

    @property
    def is_here(self) -> bool | None:
        """Whether one of the places is there; None where there is none to look at."""
        return any(place.exists() for place in self.places) if self.places else None


@dataclass(frozen=True)
class Budget:
    """What the paper's runs of a task and an architecture take.

    Attributes:
        hours: of one device.
        device: which.
        measured: runs that it was measured on.
    """

    hours: float
    device: str
    measured: int

    @property
    def is_gpu(self) -> bool:
        """Whether the hours are those of a GPU."""
        return not self.device.startswith("CPU")


@dataclass(frozen=True)
class Entry:
    """A task with one of its architectures.

    Attributes:
        task, arch: by the names in the paper's tables.
        command: to type.
        data: where the data is from.
        numbers: metric -> what the paper has.
        runs: loss -> finished runs that are not of mini data.
        budget: None where nothing was measured.
    """

    task: str
    arch: str
    command: str
    data: Data
    numbers: dict[str, dict[str, float]]
    runs: dict[str, int] = field(default_factory=dict)
    budget: Budget | None = None


def _of_hub(name: str, config: str = "") -> tuple[Path, ...]:
    """Where the hub's libraries keep a data set."""
    kept = Path(datasets.config.HF_DATASETS_CACHE)
    snapshots = Path(HF_HUB_CACHE) / f"datasets--{name.replace('/', '--')}" / "snapshots"
    downloaded = [path / config for path in snapshots.glob("*")]
    return (*downloaded, kept / name.replace("/", "___").lower() / config)


def _glue(task: str) -> Data:
    return Data(f"hub: {glue.HUB}", "--data_dir", _of_hub(glue.HUB, task))


def _texts(task: str) -> Data:
    return Data("your own file", "--train_file")


def _characters(task: str) -> Data:
    server = urlsplit(characters.SERVER).hostname
    return Data(f"downloaded: {server}", "--data_dir", (characters.cache_folder() / f"{task}.zip",))


def _images(task: str) -> Data:
    known = IMAGE_TASKS[task]
    installed = (known.installed,) if known.installed else ()
    return Data(f"hub: {known.hub}", "--data_dir", (*installed, *_of_hub(known.hub)))


def _speech(task: str) -> Data:
    corpus = CORPORA[{"timit_phone": "timit_phn"}.get(task, task)]
    if corpus.download is None:
        return Data(f"sold: {corpus.source.removeprefix('https://')}", "--corpus")
    source = corpus.source.removeprefix("https://")
    return Data(f"downloaded: {source}", "--corpus", (Path("downloads") / corpus.folder_name,))


_DATA: dict[str, Callable[[str], Data]] = {
    "glue": _glue,
    "classify": _texts,
    "characters": _characters,
    "images": _images,
    "asr": _speech,
}
"""Command -> what its data is."""


def entries(runs: Sequence[Run] = ()) -> list[Entry]:
    """The paper's tasks with each of their architectures, in the order of its tables.

    Args:
        runs: finished runs, to count, and to measure by.
    """
    found = []
    for row in paper.tables()["hyperparameters"]:
        task, arch = row["task"], row["model"]
        theirs = [run for run in runs if _is_of(run, task, arch)]
        words = command(task, arch)
        numbers = {name: dict(values) for name, values in paper.test_results(task, arch).items()}
        count = dict(sorted(Counter(run.result.loss for run in theirs).items()))
        data = _DATA[words[0]](task)
        found.append(Entry(task, arch, " ".join(("sqloss", *words)), data, numbers, count, _budget(theirs)))
    return found


def _is_of(run: Run, task: str, arch: str) -> bool:
    """Whether it is of the task's real data and the paper's model, which may have the name of its pre-trained one."""
    result = run.result
    return not result.mini and result.task == task and result.arch in (arch, paper.backbone(task, arch))


def _budget(runs: Sequence[Run]) -> Budget | None:
    """By the mean time of the runs; those of the device that most of them were run on."""
    if not runs:
        return None
    device, _ = Counter(run.result.device for run in runs).most_common(1)[0]
    seconds = [run.result.wall_time_s for run in runs if run.result.device == device]
    number = int(paper.tables()["protocols"]["seeds"]) * _RUNS_A_SEED
    return Budget(number * sum(seconds) / len(seconds) / 3600, device, len(seconds))


def as_json(entry: Entry) -> dict[str, Any]:
    """An entry as it is printed by ``--json``."""
    data = {**asdict(entry.data), "places": [str(place) for place in entry.data.places], "is_here": entry.data.is_here}
    return {**asdict(entry), "data": data}


def _table(found: Sequence[Entry], with_budget: bool) -> str:
    rows = [["task", "architecture", "command", "data", "here", "the paper: square / cross-entropy", "runs"]]
    if with_budget:
        rows[0].append("hours of the paper's runs")
    for entry in found:
        numbers = [
            f"{metric(name).heading} {values['square']:.1f} / {values['cross_entropy']:.1f}"
            for name, values in entry.numbers.items()
        ]
        here = {True: "yes", False: f"no: {entry.data.option}", None: entry.data.option}[entry.data.is_here]
        runs = ", ".join(f"{number} {loss}" for loss, number in entry.runs.items()) or "-"
        row = [entry.task, entry.arch, entry.command, entry.data.source, here, ", ".join(numbers), runs]
        if with_budget:
            budget = entry.budget
            row.append(f"{budget.hours:.3g}, {budget.device}" if budget else "unmeasured")
        rows.append(row)
    return markdown_table(rows)


def _total(found: Sequence[Entry]) -> str:
    """The sum of what was measured on a GPU, and how much that is of the whole."""
    on_gpu = [entry.budget for entry in found if entry.budget and entry.budget.is_gpu]
    whole = f"{len(found)} pairs of task and architecture"
    if not on_gpu:
        return f"GPU-hours of the paper: unmeasured, as no run of its {whole} is here that was trained on a GPU."
    hours = sum(budget.hours for budget in on_gpu)
    return f"GPU-hours of {len(on_gpu)} of the paper's {whole}: {hours:.3g}. The others are unmeasured."


def _espnet_table() -> str:
    header = ("task", "what it is", "trained by", "losses replaced", "probabilities", "decoded by", "class in ESPnet3")
    rows = [header]
    for name, task in ESPNET_TASKS.items():
        replaced = ", ".join(task.criteria)
        decoded = (task.inference_module or "-").removeprefix("espnet2.bin.")
        rows.append((name, task.summary, f"{name}_train", replaced, KINDS[task.kind], decoded, task.class_name))
    return (
        f"{markdown_table(rows)}\n\n"
        "Programs are of espnet2.bin, and run by the Python of `sqloss espnet-python` or as\n"
        "python -m sqloss_plugins.espnet.bin.train TASK --model sqloss --model_conf loss=square ... (inference TASK)"
    )


def _run(argv: Sequence[str]) -> None:
    parser = OptionParser(PROGRAM, __doc__)
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="where runs are (default: runs)")
    parser.add_argument("--budget", action="store_true", help="say how long the paper's runs take, by those there are")
    parser.add_argument("--json", action="store_true", help="print JSON, with all of it")
    parser.add_argument("--espnet", action="store_true", help="list the tasks of ESPnet that the losses are for")
    args = parser.parse_args(argv)
    if args.espnet:
        if args.folders or args.budget:
            raise UserError("--espnet lists ESPnet's tasks, which have no runs here: leave folders and --budget out")
        print(
            json.dumps({name: asdict(task) for name, task in ESPNET_TASKS.items()}, indent=2)
            if args.json
            else _espnet_table()
        )
        return
    default = Path("runs")
    folders = args.folders or ([default] if default.is_dir() else [])
    found = entries(find_runs(folders, must_be=bool(args.folders)))
    if args.json:
        if args.budget:
            raise UserError("--json prints the hours as well: leave --budget out")
        print(json.dumps([as_json(entry) for entry in found], indent=2))
        return
    print(_table(found, args.budget))
    numbers = sum(len(entry.numbers) for entry in found)
    print(
        f"\n{len(found)} pairs of task and architecture, {numbers} numbers; all: sqloss sweep --tasks ... --archs all"
    )
    if args.budget:
        print(_total(found))


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    return run_command(PROGRAM, lambda: _run(sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    sys.exit(main())
