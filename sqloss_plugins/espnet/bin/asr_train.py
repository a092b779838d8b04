r"""``espnet2.bin.asr_train`` with the model choice ``sqloss``: the same arguments, and these keys of ``--model_conf``.

    python -m sqloss_plugins.espnet.bin.asr_train --config conf/train_asr.yaml --model sqloss \
        --model_conf loss=square --model_conf k=15 --model_conf M=30 ...

``loss``: square, cross_entropy or squentropy; ``k``, ``M``: rescaling of the square loss, or ``rescaling``: the rule
for it, auto, paper or level, and ``paper_task``: the paper's name of the task, which the first two look up;
``lsm_type``: uniform or unigram, the latter with ``lsm_unigram``: a file of token counts;
``initialization``: espnet1 for that of ESPnet1's recurrent models.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from sqloss_plugins.espnet.resume import prepare_process, run_training

# At the top of the module that is run: for several GPUs ESPnet starts processes that import this module and no other.
prepare_process(__name__, "asr")


def main(cmd: Sequence[str] | None = None) -> int:
    """Trains as ESPnet does; returns the exit status."""
    return run_training("asr_train", "asr", cmd, __doc__)


if __name__ == "__main__":
    sys.exit(main())
