"""``espnet2.bin.TASK_inference`` for models of this package, for every task of the table that decodes.

    python -m sqloss_plugins.espnet.bin.inference mt --method square --mt_train_config exp/mt/config.yaml ...

The first argument is the task, as ``sqloss list --espnet`` names it; the others are ESPnet's, and these two.
``--method``: how outputs become probabilities: ``softmax``, ``square`` (the default for models that were trained with
the square loss) or ``temperature`` (softmax(f / T), with ``--temperature T``).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from sqloss_plugins.command_line import OptionParser
from sqloss_plugins.errors import run_command
from sqloss_plugins.espnet.tasks import find_task
from sqloss_plugins.probability import METHODS
from sqloss_plugins.processes import die_with_parent

PROGRAM = "inference"

if __name__ == "__main__":
    die_with_parent()  # before ESPnet's long import


def main(cmd: Sequence[str] | None = None) -> int:
    """Decodes as ESPnet does; returns the exit status."""
    return run_decoding(PROGRAM, __doc__, cmd)


def run_decoding(program: str, description: str | None, cmd: Sequence[str] | None, task: str | None = None) -> int:
    """Decodes on a command line; returns the exit status.

    Args:
        program: the name that errors begin with.
        description: of the program, for ``--help``.
        cmd: the arguments, by default the process's.
        task: a name of :data:`sqloss_plugins.espnet.tasks.TASKS`; None for the first argument.
    """
    arguments = list(sys.argv[1:] if cmd is None else cmd)
    parser = OptionParser(program, description, add_help=False)
    parser.add_argument("--method", choices=METHODS, help="how outputs become probabilities")
    parser.add_argument("--temperature", type=float, metavar="T", help="T, for --method temperature")
    if "--help" in arguments or "-h" in arguments:
        parser.print_help()

    def decode() -> None:
        if task is None and arguments[:1] in (["-h"], ["--help"]):
            return
        name, words = find_task(arguments if task is None else [task, *arguments])
        own, rest = parser.parse_known_args(words)

        from sqloss_plugins.espnet.inference import decode

        decode(name, rest, own.method, own.temperature)

    return run_command(program, decode)


if __name__ == "__main__":
    sys.exit(main())
