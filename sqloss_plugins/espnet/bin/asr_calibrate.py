r"""How well each score fits a trained model's outputs, teacher-forced on held-out speech; fits the scale.

    python -m sqloss_plugins.espnet.bin.asr_calibrate --data_dir data/dev --asr_train_config exp/asr/config.yaml \
        --asr_model_file exp/asr/valid.acc.ave.pth --output exp/asr/calibration.json

Writes the negative log-likelihood (in nats) and the mean confidence of a token by score, beside the accuracy, and
the scale s with which softmax(s f) is most likely.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from sqloss_plugins.errors import run_command
from sqloss_plugins.espnet.calibration import calibrate
from sqloss_plugins.results import write_json


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, required=True, help="folder with wav.scp and text")
    parser.add_argument("--asr_train_config", type=Path, required=True)
    parser.add_argument("--asr_model_file", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--ngpu", type=int, default=0)
    args = parser.parse_args(argv)

    def run() -> None:
        device = "cuda" if args.ngpu else "cpu"
        found = calibrate(args.asr_train_config, args.asr_model_file, args.data_dir, args.batch_size, device)
        write_json(args.output, found)
        for name, value in found["nll"].items():
            said = f"{name} (s = {found['scale']:.3g})" if name == "scale" else name
            print(f"{said:18s} NLL {value:.3f}  confidence {found['confidence'][name]:.3f}")
        print(f"{'':18s} accuracy {found['accuracy']:.3f} on {found['tokens']} tokens")

    return run_command("asr_calibrate", run)


if __name__ == "__main__":
    sys.exit(main())
