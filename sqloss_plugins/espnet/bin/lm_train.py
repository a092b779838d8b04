"""``espnet2.bin.lm_train``, the same in all, but safe to kill at any moment."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from sqloss_plugins.espnet.resume import prepare_process, run_training

prepare_process(__name__, "lm")


def main(cmd: Sequence[str] | None = None) -> int:
    """Trains as ESPnet does; returns the exit status."""
    return run_training("lm_train", "lm", cmd)


if __name__ == "__main__":
    sys.exit(main())
