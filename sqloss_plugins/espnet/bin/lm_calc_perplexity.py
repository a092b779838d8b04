"""``espnet2.bin.lm_calc_perplexity``, the same in all, but for models of this package as well."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from sqloss_plugins.command_line import OptionParser
from sqloss_plugins.errors import run_command

PROGRAM = "lm_calc_perplexity"


def main(cmd: Sequence[str] | None = None) -> int:
    """Computes perplexity as ESPnet does; returns the exit status."""
    arguments = list(sys.argv[1:] if cmd is None else cmd)
    parser = OptionParser(PROGRAM, None, add_help=False)
    parser.add_argument("--train_config")
    parser.add_argument("--model_file")

    def compute() -> None:
        given = parser.parse_known_args(arguments)[0]

        from espnet2.bin import lm_calc_perplexity

        from sqloss_plugins.espnet.model_files import told_of_files
        from sqloss_plugins.espnet.registration import register

        register("lm")
        with told_of_files((given.train_config, None), (None, given.model_file)):
            lm_calc_perplexity.main(arguments)

    return run_command(PROGRAM, compute)


if __name__ == "__main__":
    sys.exit(main())
