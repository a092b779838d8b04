"""``espnet2.bin.lm_train``, the same in all, but safe to kill at any moment."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from espnet2.tasks.lm import LMTask

from sqloss_plugins.errors import run_command
from sqloss_plugins.espnet.resume import make_saves_atomic, prepare

make_saves_atomic()


def main(cmd: Sequence[str] | None = None) -> int:
    """Trains as ESPnet does; returns the exit status."""
    arguments = list(sys.argv[1:] if cmd is None else cmd)

    def train() -> None:
        prepare(arguments)
        LMTask.main(cmd=arguments)

    return run_command("lm_train", train)


if __name__ == "__main__":
    sys.exit(main())
