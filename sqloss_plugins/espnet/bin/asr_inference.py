"""``espnet2.bin.asr_inference`` for models of this package: the same arguments, and a choice of method.

    python -m sqloss_plugins.espnet.bin.asr_inference --method square --asr_train_config exp/asr/config.yaml ...

``--method``: how beam search takes probabilities from the decoder's outputs: ``softmax`` (as in the paper), ``square``
(the class probabilities that square-loss outputs stand for; the default for such models) or ``temperature``
(softmax(f / T), with ``--temperature T``).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from sqloss_plugins.command_line import OptionParser
from sqloss_plugins.errors import run_command
from sqloss_plugins.probability import METHODS
from sqloss_plugins.processes import die_with_parent

PROGRAM = "asr_inference"

if __name__ == "__main__":
    die_with_parent()  # before ESPnet's long import


def main(cmd: Sequence[str] | None = None) -> int:
    """Decodes as ESPnet does; returns the exit status."""
    arguments = list(sys.argv[1:] if cmd is None else cmd)
    parser = OptionParser(PROGRAM, __doc__, add_help=False)
    parser.add_argument("--method", choices=METHODS, help="how outputs become probabilities")
    parser.add_argument("--temperature", type=float, metavar="T", help="T, for --method temperature")
    if "--help" in arguments or "-h" in arguments:
        parser.print_help()

    def decode() -> None:
        own, rest = parser.parse_known_args(arguments)

        from espnet2.bin import asr_inference

        from sqloss_plugins.espnet import Speech2Text

        class WithMethod(Speech2Text):
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, method=own.method, temperature=own.temperature, **kwargs)

        original = asr_inference.Speech2Text
        asr_inference.Speech2Text = WithMethod
        try:
            asr_inference.main(rest)
        finally:
            asr_inference.Speech2Text = original

    return run_command(PROGRAM, decode)


if __name__ == "__main__":
    sys.exit(main())
