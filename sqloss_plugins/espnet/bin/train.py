r"""``espnet2.bin.TASK_train`` with the model choice ``sqloss``, for every task of the table.

    python -m sqloss_plugins.espnet.bin.train mt --config conf/train_mt.yaml --model sqloss --model_conf loss=square ...

The first argument is the task, as ``sqloss list --espnet`` names it; the others are ESPnet's. The keys of
``--model_conf`` are those that ``python -m sqloss_plugins.espnet.bin.asr_train --help`` tells of.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from sqloss_plugins.errors import run_command
from sqloss_plugins.espnet.resume import prepare_process, run_training
from sqloss_plugins.espnet.tasks import find_task

# At the top of the module that is run: for several GPUs ESPnet starts processes that import this module and no other.
prepare_process(__name__)

PROGRAM = "train"


def main(cmd: Sequence[str] | None = None) -> int:
    """Trains as ESPnet does; returns the exit status."""
    status = 0

    def train() -> None:
        nonlocal status
        words = list(sys.argv[1:] if cmd is None else cmd)
        if words[:1] in (["-h"], ["--help"]):
            print(__doc__)
            return
        task, arguments = find_task(words)
        status = run_training(f"{task}_train", task, arguments, __doc__)

    return run_command(PROGRAM, train) or status


if __name__ == "__main__":
    sys.exit(main())
