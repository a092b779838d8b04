"""``espnet2.bin.asr_inference`` for models of this package: the same arguments, and a choice of score.

    python -m sqloss_plugins.espnet.bin.asr_inference --score link --asr_train_config exp/asr/config.yaml ...

``--score``: what beam search takes the decoder's outputs for: ``softmax`` (as in the paper), ``link`` (the class
probabilities that square-loss outputs stand for; the default for such models) or ``scale`` (softmax(s f), with
``--score_scale s``).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from espnet2.bin import asr_inference

from sqloss_plugins.errors import run_command
from sqloss_plugins.espnet import Speech2Text
from sqloss_plugins.probability import SCORES


def main(cmd: Sequence[str] | None = None) -> int:
    """Decodes as ESPnet does; returns the exit status."""
    arguments = list(sys.argv[1:] if cmd is None else cmd)
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
        allow_abbrev=False,
    )
    parser.add_argument("--score", choices=SCORES, help="what the decoder's outputs are taken for")
    parser.add_argument("--score_scale", type=float, metavar="S", help="s, for --score scale")
    if "--help" in arguments or "-h" in arguments:
        parser.print_help()
    own, rest = parser.parse_known_args(arguments)

    class Scored(Speech2Text):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, score=own.score, scale=own.score_scale, **kwargs)

    def decode() -> None:
        original = asr_inference.Speech2Text
        asr_inference.Speech2Text = Scored
        try:
            asr_inference.main(rest)
        finally:
            asr_inference.Speech2Text = original

    return run_command("asr_inference", decode)


if __name__ == "__main__":
    sys.exit(main())
