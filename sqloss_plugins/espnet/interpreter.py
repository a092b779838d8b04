"""A Python interpreter for egs2's recipes: ESPnet's programs that this package has are this package's.

    ./run.sh --python "$(sqloss espnet-python)" --asr_args "--model sqloss --model_conf loss=square"

ESPnet's recipes run all their programs by ``${python} -m espnet2.bin.PROGRAM``, and let the user choose ``python``.
:func:`run` is what ``sqloss-espnet-python`` does, the program whose path ``sqloss espnet-python`` prints.
"""

from __future__ import annotations

import os
import re
import sys
import sysconfig
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from sqloss_plugins.errors import UserError, run_command
from sqloss_plugins.espnet.tasks import TASKS

PROGRAM = "sqloss espnet-python"
SCRIPT = "sqloss-espnet-python"
"""The installed program, an entry point of setup.py."""
_UPSTREAM, _OWN = "espnet2.bin", "sqloss_plugins.espnet.bin"
PROGRAMS = {
    **{f"{name}_train": ("train", name) for name in TASKS},
    **{f"{name}_inference": ("inference", name) for name, task in TASKS.items() if task.inference},
    **{name: (name,) for name in ("asr_train", "asr_inference", "lm_train", "lm_calc_perplexity")},
}
"""Module of ``espnet2.bin`` -> the module of ``sqloss_plugins.espnet.bin`` in its place, and its first argument."""

# Single letters, of which only the last can have a value: behind it, or in the next word.
_LETTERS = re.compile(r"-(?P<flags>[^-cmWX][^cmWX]*)?(?P<option>[cmWX])(?P<value>.*)", re.DOTALL)
_WITH_A_WORD = "--check-hash-based-pycs"


def translate(arguments: Sequence[str]) -> list[str]:
    """An interpreter's arguments, with this package's module in the place of ESPnet's where there is one.

    Args:
        arguments: those of ``python``, without its name.

    Examples:
        >>> translate(["-m", "espnet2.bin.asr_train", "--config", "a.yaml"])[:2]
        ['-m', 'sqloss_plugins.espnet.bin.asr_train']
    """
    words = list(arguments)
    at = 0
    while at < len(words) and words[at].startswith("-") and words[at] not in ("-", "--"):
        found = _LETTERS.fullmatch(words[at]) if words[at][:2] != "--" else None
        if found is None:
            at += 2 if words[at] == _WITH_A_WORD else 1
            continue
        if found["option"] == "c":
            break
        if found["option"] == "m":
            if found["value"]:
                words[at : at + 1] = [words[at].removesuffix(found["value"]), found["value"]]
            words[at + 1 : at + 2] = _module(*words[at + 1 : at + 2])
            break
        at += 1 if found["value"] else 2
    return words


def _module(name: str = "") -> list[str]:
    """The module to run in the place of another, and its first argument."""
    package, _, program = name.rpartition(".")
    if package != _UPSTREAM or program not in PROGRAMS:
        return [name] if name else []
    module, *first = PROGRAMS[program]
    return [f"{_OWN}.{module}", *first]


def run() -> None:
    """Goes on as the real interpreter, in this process: its number, its streams and its signals stay."""
    os.execv(sys.executable, [sys.executable, *translate(sys.argv[1:])])


def script() -> Path:
    """The path of the installed program.

    Raises:
        UserError: ESPnet or the program is not installed.
    """
    if find_spec("espnet2") is None:
        raise UserError("ESPnet is not installed: pip install 'sqloss_plugins[espnet]'")
    package = Path(__file__).resolve().parent.parent
    # Where pip puts programs: of this environment, of the user (--user), and beside a folder of packages (--target).
    folders = [Path(sysconfig.get_path("scripts")), Path(sysconfig.get_path("scripts", f"{os.name}_user"))]
    for folder in (*folders, package.parent / "bin"):
        if os.access(folder / SCRIPT, os.X_OK):
            return folder / SCRIPT
    raise UserError(f"the program {SCRIPT} is not in {folders[0]}: install sqloss_plugins anew by pip")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line ``sqloss espnet-python``; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)

    def show() -> None:
        from sqloss_plugins.command_line import OptionParser

        OptionParser(PROGRAM, f"Prints the path of this program.\n\n{__doc__}").parse_args(arguments)
        print(script())

    return run_command(PROGRAM, show)


if __name__ == "__main__":
    run()
