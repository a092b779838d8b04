"""``espnet2.bin.lm_calc_perplexity``, the same in all, but for models of this package as well."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from sqloss_plugins.errors import run_command


def main(cmd: Sequence[str] | None = None) -> int:
    """Computes perplexity as ESPnet does; returns the exit status."""

    def compute() -> None:
        from espnet2.bin import lm_calc_perplexity

        from sqloss_plugins.espnet.registration import register

        register("lm")
        lm_calc_perplexity.main(list(sys.argv[1:] if cmd is None else cmd))

    return run_command("lm_calc_perplexity", compute)


if __name__ == "__main__":
    sys.exit(main())
