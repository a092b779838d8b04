"""What a sweep is asked for: from its command line and its YAML file to a plan."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqloss_plugins.command_line import OptionParser, check_name, read_mapping
from sqloss_plugins.errors import UserError
from sqloss_plugins.experiments.comparison import BASELINE
from sqloss_plugins.experiments.execution import CLUSTERS
from sqloss_plugins.experiments.plan import FOLLOWING, SEARCHED_BY, Cell, Plan, option_name
from sqloss_plugins.experiments.tasks import COMMANDS, WITHOUT_ARCH, architectures, command
from sqloss_plugins.folders import name_of_data
from sqloss_plugins.losses import LOSSES

PROGRAM = "sqloss sweep"

OWN_COMMANDS = ("glue", "classify", "reverse_dictionary", "extreme", "images", "lm", "characters", "asr")
"""Commands that a sweep can be of."""

_OF_SWEEP = ("tasks", "archs", "losses", "seeds", "protocols", "grid", "exp", "workers", "scheduler", "dry_run")
_VARIED = ("loss", "learning_rate", "seed", "protocol", "output_dir", "cross_entropy_run")
_VARIED_OF_SPEECH = ("loss", "seed", "asr_exp", "tag", "asr_tag")
_NAMES = ("task", "task_name", "train_file", "train_dir", "dataset_name")
"""Options of the Trainer's commands that name the task, or its data; the first that is given counts."""


@dataclass
class Request:
    """What is asked for, from the command line and the file.

    Attributes:
        command: one of :data:`OWN_COMMANDS`; None with ``tasks``.
        options: words for the runs.
        tasks, archs, losses, seeds, protocols, rates: lists; None where not given.
        exp: the folder; None for one below ``runs``.
        parallel: ``env``, ``n_workers``, ``options`` and ``scheduler``.
    """

    command: str | None = None
    options: list[str] = field(default_factory=list)
    tasks: list[str] | None = None
    archs: list[str] | None = None
    losses: list[str] | None = None
    seeds: list[int] | None = None
    protocols: list[str] | None = None
    rates: list[str] | None = None
    exp: str | None = None
    parallel: dict[str, Any] = field(default_factory=dict)


# ---------------------------------------------------------------- reading


def _parser(description: str | None) -> OptionParser:
    parser = OptionParser(PROGRAM, description)
    parser.usage = f"{PROGRAM} COMMAND [options]  |  {PROGRAM} --tasks TASK,... [options] [-- options of the runs]"
    add = parser.add_argument
    add("--tasks", metavar="TASK,...", help=f"tasks by name: {', '.join(COMMANDS)}")
    add(
        "--archs", metavar="ARCH,...", help="architectures, each as --arch of the command; all: the paper's for --tasks"
    )
    add("--losses", metavar="LOSS,...", help=f"of {', '.join(LOSSES)} (default: square,cross_entropy)")
    add("--seeds", metavar="N", help="so many, from 1 on; or the seeds themselves, as 1,2,7 (default: 5)")
    add("--protocols", metavar="PROTOCOL,...", help=f"{SEARCHED_BY}, {FOLLOWING} (default: {SEARCHED_BY})")
    add("--grid", metavar="learning_rate=RATE,...", help="learning rates to choose from (default: each command's own)")
    add("--exp", metavar="FOLDER", help="where everything goes (default: runs/NAMES-sweep)")
    add("--workers", metavar="N", help="runs at a time (default: as many as there are GPUs, or 1)")
    add("--scheduler", metavar="ADDRESS", help="a Dask scheduler that is there already, as tcp://host:8786")
    add("--config", metavar="FILE", type=Path, help="YAML file with any of this")
    add("--dry_run", action="store_true", help="print the commands, and run nothing")
    return parser


def _items(value: Any, name: str) -> list[str]:
    """A list, or text with commas or spaces between the items.

    Raises:
        UserError: it is empty, has an item twice, or is something else.
    """
    if isinstance(value, str):
        value = re.split(r"[,\s]+", value.strip(", \t\n"))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        value = [value]
    if not isinstance(value, list) or not all(isinstance(item, str | int | float) for item in value):
        raise UserError(f"--{name} must be a list, got {value!r}")
    items = [str(item) for item in value if item != ""]
    if not items:
        raise UserError(f"--{name} is empty: give a value, or leave it out")
    return items


def _once(items: list[Any], name: str) -> list[Any]:
    for item in items:
        if items.count(item) > 1:
            raise UserError(f"--{name} has {item} twice")
    return items


def _names(value: Any, name: str) -> list[str]:
    return _once(_items(value, name), name)


def _seeds(value: Any, name: str) -> list[int]:
    items = _items(value, name)
    try:
        numbers = [int(item) for item in items]
    except ValueError:
        raise UserError(f"--{name} must be whole numbers, got {value!r}") from None
    is_count = len(numbers) == 1 and not isinstance(value, list) and "," not in str(value)
    if is_count and numbers[0] < 1:
        raise UserError(f"--{name} must be at least 1, got {numbers[0]}")
    if not all(0 <= number < 2**32 for number in numbers):
        raise UserError(f"--{name} must be from 0 to {2**32 - 1}, got {value!r}")
    return list(range(1, numbers[0] + 1)) if is_count else _once(numbers, name)


def _rates(value: Any, name: str) -> list[str]:
    """The learning rates of a grid, each written in one way."""
    if isinstance(value, str):
        key, _, text = value.partition("=")
        value = {key.strip(): text}
    if not isinstance(value, Mapping) or list(value) != ["learning_rate"]:
        raise UserError(f"--{name} has learning rates and nothing else, as learning_rate=2e-5,5e-5; got {value!r}")
    rates = []
    for item in _items(value["learning_rate"], name):
        try:
            rate = float(item)
        except ValueError:
            rate = math.nan
        if not 0 < rate < math.inf:
            raise UserError(f"--{name}: a learning rate must be a finite number greater than 0, got {item}")
        rates.append(f"{rate:g}")
    return _once(rates, name)


def _number(value: Any, name: str) -> int:
    try:
        number = int(str(value))
    except ValueError:
        number = 0
    if number < 1:
        raise UserError(f"--{name} must be a whole number of at least 1, got {value!r}")
    return number


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value:
        raise UserError(f"--{name} must be a text, got {value!r}")
    return value


def _words(value: Any, name: str) -> list[str]:
    """Options for the runs: words of a command line, or a mapping."""
    if isinstance(value, str):
        raise UserError(f"{name} must be a mapping, or a list of words, got {value!r}")
    if isinstance(value, Mapping):
        words = []
        for key, item in value.items():
            if item is None or isinstance(item, Mapping):
                raise UserError(f"{name}: {key} must have a value, got {item!r}")
            values = item if isinstance(item, list) else [item]
            words += [f"--{key}", *(str(one).lower() if isinstance(one, bool) else str(one) for one in values)]
        return words
    return _items(value, name)


def _parallel(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not set(value) <= {"env", "n_workers", "options", "scheduler"}:
        raise UserError(f"{name} must be a mapping of env, n_workers, options and scheduler, got {value!r}")
    found = dict(value)
    if "n_workers" in found:
        found["n_workers"] = _number(found["n_workers"], f"{name}.n_workers")
    env = found.get("env", "local")
    if env not in ("local", *CLUSTERS):
        raise UserError(f"{name}: there is no env {env!r}; choose from local, {', '.join(CLUSTERS)}")
    if not isinstance(found.get("options", {}), Mapping):
        raise UserError(f"{name}.options must be a mapping, got {found['options']!r}")
    return found


_READERS: Mapping[str, Callable[[Any, str], Any]] = {
    "command": _text,
    "options": _words,
    "tasks": _names,
    "archs": _names,
    "losses": _names,
    "seeds": _seeds,
    "protocols": _names,
    "grid": _rates,
    "exp": _text,
    "workers": _number,
    "scheduler": _text,
    "parallel": _parallel,
}
"""Name on the command line or in the file -> what reads its value."""


def read_request(argv: Sequence[str], description: str | None) -> tuple[Request, bool]:
    """The request, and whether it is only to be shown.

    Args:
        argv: the command line.
        description: for ``--help``.

    Raises:
        UserError: an option that there is not, or has a value that it cannot have.
    """
    words = list(argv)
    end = words.index("--") if "--" in words else len(words)
    own, after = words[:end], words[end + 1 :]
    given: dict[str, Any] = {}
    if own and not own[0].startswith("-"):
        given["command"] = own.pop(0)
    namespace, rest = _parser(description).parse_known_args(own)
    values = vars(namespace)
    is_dry, path = values.pop("dry_run"), values.pop("config")
    given |= {name: value for name, value in values.items() if value is not None}
    from_file = read_mapping(path) if path else {}
    unknown = [name for name in from_file if name not in _READERS]
    if unknown:
        raise UserError(f"{path} has {unknown[0]}, which is no option of a sweep: choose from {', '.join(_READERS)}")
    read = {name: _READERS[name](value, name) for name, value in {**from_file, **given}.items() if value is not None}
    if rest and "command" not in read:
        if rest[0] in OWN_COMMANDS and "tasks" not in read:
            raise UserError(f"{rest[0]} must be the first word: {PROGRAM} {rest[0]} ... (see --help)")
        raise UserError(f"unknown option or value: {' '.join(rest)} (see --help); options of the runs come after --")
    parallel = read.get("parallel", {})
    parallel |= {"n_workers": read["workers"]} if "workers" in read else {}
    parallel |= {"scheduler": read["scheduler"]} if "scheduler" in read else {}
    if "scheduler" in parallel and len(parallel) > 1:
        raise UserError(f"--scheduler {parallel['scheduler']} has workers already: leave out how many, and where from")
    lists = {name: read.get(name) for name in ("tasks", "archs", "losses", "seeds", "protocols", "exp")}
    options = [*read.get("options", []), *rest, *after]
    request = Request(read.get("command"), options, **lists, rates=read.get("grid"), parallel=parallel)
    return request, is_dry


# ---------------------------------------------------------------- checking


def _value_of(words: Sequence[str], name: str) -> str | None:
    """The last value that an option has in words of a command line."""
    found = None
    for word, following in zip(words, [*words, ""][1:], strict=True):
        if option_name(word) == name:
            found = word.partition("=")[2] if "=" in word else following
    return found


def _refuse_options(request: Request, names: Sequence[str], reason: str) -> None:
    given = {option_name(word) for word in request.options}
    for name in names:
        if name in given:
            raise UserError(f"--{name} {reason}")


def _own_cells(request: Request) -> list[Cell]:
    """The cells of a command with its options."""
    name, options = str(request.command), request.options
    if name not in OWN_COMMANDS:
        raise UserError(f"there is no sweep of {name!r}: choose from {', '.join(OWN_COMMANDS)}, or give --tasks")
    if name == "asr":
        if not options or options[0].startswith("-"):
            raise UserError("asr needs the name of a recipe, as in: sqloss sweep asr an4")
        task = Path(options[0]).resolve().name if options[0].endswith(("/", ".")) else Path(options[0]).name
    else:
        option, value = next(((n, v) for n in _NAMES if (v := _value_of(options, n)) is not None), ("", name))
        names = {"train_file": lambda path: path.stem, "train_dir": name_of_data}
        task = names.get(option, lambda path: path.name)(Path(value))
    if name == "glue" and task == "stsb":
        raise UserError("stsb is a regression, which both losses train alike: see sqloss glue")
    check_name("the name of the task", task)
    if request.archs and name in WITHOUT_ARCH:
        raise UserError(f"--archs is for commands with --arch, and {name} has none: leave it out")
    if request.archs and "all" in request.archs:
        raise UserError("--archs all is for --tasks, which the paper has architectures for: name them")
    if not request.archs:
        return [Cell(task, (name, *options))]
    return [Cell(f"{task}/{arch}", (name, *options, "--arch", arch)) for arch in request.archs]


def _cells_of_tasks(request: Request) -> list[Cell]:
    """The cells of tasks by name, each with those of the architectures that it has."""
    cells, archs = [], request.archs
    for task in request.tasks or []:
        if task not in COMMANDS:
            raise UserError(f"--tasks: there is no task {task!r}: choose from {', '.join(COMMANDS)} (see sqloss list)")
        theirs = architectures(task)
        if archs is None:
            cells.append(Cell(task, (*command(task), *request.options)))
            continue
        wanted = theirs if "all" in archs else [arch for arch in archs if arch in theirs or not theirs]
        if not wanted:
            raise UserError(f"--archs has none of {task}'s architectures: {', '.join(theirs) or 'the paper has none'}")
        cells += [Cell(f"{task}/{arch}", (*command(task, arch), *request.options)) for arch in wanted]
    for arch in archs or []:
        if arch != "all" and not any(cell.name.endswith(f"/{arch}") for cell in cells):
            raise UserError(f"--archs: none of the tasks has an architecture {arch!r}")
    return cells


def make_plan(request: Request) -> Plan:
    """The runs that are asked for.

    Raises:
        UserError: something that cannot be, or would have no effect.
    """
    if (request.command is None) == (request.tasks is None):
        raise UserError(
            f"a sweep is of a command, such as {PROGRAM} classify --train_file ..., or of --tasks: give one of the two"
        )
    losses = request.losses or ["square", BASELINE]
    protocols = request.protocols or [SEARCHED_BY]
    for option, names, choices in (
        ("losses", losses, tuple(LOSSES)),
        ("protocols", protocols, (SEARCHED_BY, FOLLOWING)),
    ):
        for name in names:
            if name not in choices:
                raise UserError(f"--{option}: there is no {name!r}; choose from {', '.join(choices)}")
    _refuse_options(request, _OF_SWEEP, "is of the sweep: give it before --")
    see = "is what a sweep varies: see --losses, --grid, --seeds, --protocols and --exp"
    if request.tasks:
        _refuse_options(request, ("task", "task_name"), "is what --tasks says: leave it out")
    if request.archs:
        _refuse_options(request, ("arch",), "is what --archs says: leave it out")
    cells = _own_cells(request) if request.command else _cells_of_tasks(request)
    has_speech = any(cell.is_speech for cell in cells)
    _check_rescaling(request, losses, has_speech)
    if has_speech:
        _refuse_options(request, _VARIED_OF_SPEECH, see)
        if request.rates and any(word.partition("=")[0] == "lr" for word in request.options):
            raise UserError(f"--optim_conf lr {see}")
    if any(not cell.is_speech for cell in cells):
        _refuse_options(request, _VARIED, see)
        _check_protocols(request, losses, protocols)
    elif request.protocols:
        raise UserError("--protocols is not for speech: a recipe trains as many epochs as its configuration says")
    name = "-".join(dict.fromkeys(cell.name.partition("/")[0] for cell in cells))
    folder = Path(request.exp or f"runs/{name if len(name) <= 60 else 'tasks'}-sweep")
    return Plan(
        folder,
        tuple(cells),
        tuple(losses),
        tuple(request.seeds or range(1, 6)),
        tuple(protocols),
        tuple(request.rates or ()),
    )


def _check_rescaling(request: Request, losses: Sequence[str], has_speech: bool) -> None:
    """Refuses options that one of the losses does not have, before the runs of the others have taken their time."""
    for loss in losses:
        if not LOSSES[loss].is_rescaled:
            _refuse_options(
                request,
                ("k", "M", "prior_exponent", *(("rescaling",) if has_speech else ())),
                f"is not for {loss}: sweep the losses with it in another folder (--losses, --exp), and compare both "
                "folders by sqloss compare",
            )


def _check_protocols(request: Request, losses: Sequence[str], protocols: Sequence[str]) -> None:
    if FOLLOWING not in protocols:
        return
    if SEARCHED_BY in protocols:
        if BASELINE not in losses:
            raise UserError(f"--protocols {FOLLOWING} takes {BASELINE}'s numbers of epochs: add it to --losses")
    elif not {"num_train_epochs", "max_steps"} & {option_name(word) for word in request.options}:
        raise UserError(
            f"--protocols {FOLLOWING} takes the numbers of epochs of {BASELINE}'s early stopping: add {SEARCHED_BY}, "
            "or give --num_train_epochs"
        )


def notes(plan: Plan, request: Request) -> list[str]:
    """What is said of speech among other tasks."""
    speech = [cell.name for cell in plan.cells if cell.is_speech]
    if not speech or len(speech) == len(plan.cells):
        return []
    said = []
    if request.protocols:
        said.append(f"{', '.join(speech)}: trained for the epochs of the configuration, whatever --protocols says")
    if request.rates:
        said.append(f"{', '.join(speech)}: trained at the learning rate of the configuration, not those of --grid")
    return said
