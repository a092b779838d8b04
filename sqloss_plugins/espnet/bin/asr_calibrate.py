r"""How well each method fits a trained model's outputs, teacher-forced on held-out speech; fits the temperature.

    python -m sqloss_plugins.espnet.bin.asr_calibrate --data_dir data/dev --asr_train_config exp/asr/config.yaml \
        --asr_model_file exp/asr/valid.acc.ave.pth --output exp/asr/calibration.json

Writes the negative log-likelihood (in nats) and the mean confidence of a token by method, beside the accuracy, and
the temperature T with which softmax(f / T) is most likely.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from sqloss_plugins.command_line import OptionParser
from sqloss_plugins.errors import UserError, run_command

PROGRAM = "asr_calibrate"


def run(argv: Sequence[str]) -> None:
    """Does what the command line says.

    Raises:
        UserError: for every mistake of the user's.
    """
    parser = OptionParser(PROGRAM, __doc__)
    parser.add_argument("--data_dir", type=Path, required=True, help="folder with wav.scp and text")
    parser.add_argument("--asr_train_config", type=Path, required=True, help="config.yaml of the training")
    parser.add_argument("--asr_model_file", type=Path, required=True, help="the trained model")
    parser.add_argument("--output", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--batch_size", type=int, default=8, help="utterances at a time (default: %(default)s)")
    parser.add_argument("--ngpu", type=int, choices=(0, 1), default=0, help="GPUs (default: %(default)s)")
    args = parser.parse_args(argv)
    if args.batch_size < 1:
        raise UserError(f"--batch_size must be at least 1, got {args.batch_size}")
    if not args.output.parent.is_dir() or args.output.is_dir():
        raise UserError(f"--output {args.output} must be a file in a folder that exists")

    import torch

    if args.ngpu > torch.cuda.device_count():
        raise UserError(f"--ngpu {args.ngpu}: this machine has {torch.cuda.device_count()} GPUs")

    from sqloss_plugins.espnet.calibration import calibrate
    from sqloss_plugins.results import write_json

    device = "cuda" if args.ngpu else "cpu"
    found = calibrate(args.asr_train_config, args.asr_model_file, args.data_dir, args.batch_size, device)
    try:
        write_json(args.output, found)
    except OSError as error:
        raise UserError(f"cannot write --output {args.output}: {error.strerror or error}") from error
    for name, value in found["nll"].items():
        shown = f"{name} (T = {found['temperature']:.3g})" if name == "temperature" else name
        print(f"{shown:24s} NLL {value:.3f}  confidence {found['confidence'][name]:.3f}")
    print(f"{'':24s} accuracy {found['accuracy']:.3f} on {found['tokens']} tokens")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    return run_command(PROGRAM, lambda: run(sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    sys.exit(main())
