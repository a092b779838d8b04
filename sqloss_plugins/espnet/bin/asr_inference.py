"""``espnet2.bin.asr_inference`` for models of this package: the same arguments, and a choice of method.

    python -m sqloss_plugins.espnet.bin.asr_inference --method square --asr_train_config exp/asr/config.yaml ...

``--method``: how beam search takes probabilities from the decoder's outputs: ``softmax`` (as in the paper), ``square``
(the class probabilities that square-loss outputs stand for; the default for such models) or ``temperature``
(softmax(f / T), with ``--temperature T``).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from sqloss_plugins.espnet.bin.inference import run_decoding
from sqloss_plugins.processes import die_with_parent

PROGRAM = "asr_inference"

if __name__ == "__main__":
    die_with_parent()  # before ESPnet's long import


def main(cmd: Sequence[str] | None = None) -> int:
    """Decodes as ESPnet does; returns the exit status."""
    return run_decoding(PROGRAM, __doc__, cmd, "asr")


if __name__ == "__main__":
    sys.exit(main())
