"""The speech recipes: ``sqloss asr RECIPE``, from audio to error rates, with ESPnet's wheel alone.

A recipe is a folder with ``conf/recipe.yaml``, which names the corpus, the task, the tokens and the metrics. The stages
are in :mod:`sqloss_plugins.espnet.recipe.flow`, in one table.
"""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout

from sqloss_plugins.errors import run_command

PROGRAM = "sqloss asr"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line: a recipe's name or folder, and options; returns the exit status."""
    from sqloss_plugins.espnet.recipe.parsing import parse

    def run() -> None:
        options = parse(sys.argv[1:] if argv is None else argv)
        # ESPnet and PyTorch take seconds to import, and a mistake in the options is said before.
        with redirect_stdout(io.StringIO()), warnings.catch_warnings():  # it says what else could be installed
            warnings.simplefilter("ignore", FutureWarning)  # PyTorch's, of ESPnet's calls
            from sqloss_plugins.espnet.recipe.flow import run_recipe

        run_recipe(options)

    return run_command(PROGRAM, run)
