"""The command ``sqloss``: one subcommand for everything that this package runs.

Also ``python -m sqloss_plugins``. A subcommand's module is imported when it is asked for, so that a plain installation,
without the extras of the hosts, has those that need none.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from sqloss_plugins.errors import UserError, run_command, sentence

PROGRAM = "sqloss"


class _Command(NamedTuple):
    module: str  # its main(argv) returns the exit status
    extra: str  # of this package, with which its imports are installed
    summary: str


COMMANDS = {
    "glue": _Command("sqloss_plugins.hf.tasks.glue", "hf", "fine-tune a pre-trained model on a GLUE task"),
    "classify": _Command("sqloss_plugins.hf.tasks.classification", "hf", "fine-tune one on labelled texts of your own"),
    "reverse_dictionary": _Command(
        "sqloss_plugins.hf.tasks.reverse_dictionary", "hf", "train a reverse dictionary on WordNet: 86,571 classes"
    ),
    "extreme": _Command("sqloss_plugins.hf.tasks.extreme", "hf", "train on texts with any number of very many labels"),
    "images": _Command("sqloss_plugins.hf.tasks.images", "vision", "train or fine-tune an image classifier"),
    "lm": _Command(
        "sqloss_plugins.hf.tasks.language_model", "hf", "train or fine-tune a language model, causal or masked"
    ),
    "characters": _Command("sqloss_plugins.hf.tasks.characters", "hf", "train a Transformer-XL on characters"),
    "asr": _Command("sqloss_plugins.espnet.recipe", "espnet", "a speech recipe, from audio to error rates"),
    "espnet-python": _Command(
        "sqloss_plugins.espnet.interpreter", "espnet", "the path of a Python for the recipes of ESPnet's egs2"
    ),
    "sweep": _Command("sqloss_plugins.experiments.sweep", "sweep", "run a whole comparison of losses, and report it"),
    "list": _Command("sqloss_plugins.experiments.listing", "hf", "the paper's tasks: commands, data, numbers"),
    "compare": _Command("sqloss_plugins.experiments.compare", "hf", "compare losses over finished runs"),
    "report": _Command("sqloss_plugins.experiments.report", "report", "the paper's tables and figures, and statistics"),
    "export": _Command("sqloss_plugins.hf.export", "hf", "a copy of a classifier whose softmax is its probabilities"),
    "calibrate": _Command(
        "sqloss_plugins.experiments.calibrate", "report", "how good the probabilities of finished runs are"
    ),
    "explain": _Command("sqloss_plugins.experiments.explain", "report", "small experiments: square or cross-entropy?"),
}


def usage() -> str:
    """What ``sqloss --help`` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"usage: {PROGRAM} COMMAND [options]", "", "commands:"]
    lines += [f"  {name:{width}s} {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join([*lines, "", f"{PROGRAM} COMMAND --help shows the options of a command."])


def _run(name: str, argv: Sequence[str]) -> int:
    command = COMMANDS[name]
    try:
        status: int = importlib.import_module(command.module).main(argv)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing == __package__:
            raise
        reason = f"needs the package {missing}, which is not installed"
        if not missing:  # Transformers says in words what it could not import
            reason = f"cannot be imported ({sentence(error)})"
        raise UserError(f"{name} {reason}: pip install 'sqloss_plugins[{command.extra}]'") from error
    return status


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0, 1 for a failed run, 2 for a mistake in the options."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0
    if arguments[0] == "--version":
        from sqloss_plugins import __version__

        print(f"{PROGRAM} {__version__}")
        return 0
    name, *rest = arguments
    status = 0

    def run() -> None:
        nonlocal status
        if name not in COMMANDS:
            raise UserError(f"there is no command {name!r}: choose from {', '.join(COMMANDS)} (see --help)")
        status = _run(name, rest)

    return run_command(PROGRAM, run) or status


if __name__ == "__main__":
    sys.exit(main())
