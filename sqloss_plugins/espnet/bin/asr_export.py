r"""Makes a model that was trained by this package one that plain ESPnet loads.

    python -m sqloss_plugins.espnet.bin.asr_export --asr_train_config exp/asr/config.yaml \
        --asr_model_file exp/asr/valid.acc.ave.pth --output_dir exported

Writes ``config.yaml``, without what only this package knows, and ``model.pth``. Plain ESPnet scores by softmax; with
``--score_scale s`` the output layer is multiplied by s, which makes that softmax(s f). The link has no such form.
"""

from __future__ import annotations

import argparse
import math
import pickle
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from sqloss_plugins.errors import UserError, run_command
from sqloss_plugins.espnet.decoding import OUTPUT_LAYERS
from sqloss_plugins.espnet.model import MODEL_NAME, OPTIONS


def export(config: Path, model_file: Path, folder: Path, scale: float = 1.0) -> None:
    """Does what the module says.

    Raises:
        UserError: a file that cannot be read, or is not of this package; a folder that cannot be written.
    """
    if not 0.0 < scale < math.inf:
        raise UserError(f"--score_scale must be a positive finite number, got {scale:g}")
    try:
        content: dict[str, Any] = yaml.safe_load(config.read_text(encoding="utf-8"))
        if content["model"] != MODEL_NAME:
            raise UserError(f"{config} has model: {content['model']}, which plain ESPnet loads as it is")
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError) as error:
        raise UserError(f"{config} is not the config.yaml of an ASR training: {error}") from error
    content["model"] = "espnet"
    content["model_conf"] = {name: value for name, value in content["model_conf"].items() if name not in OPTIONS}
    try:
        state = torch.load(model_file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise UserError(f"{model_file} is not a model file: {error}") from error
    layers = tuple(f"decoder.{layer}." for layer in OUTPUT_LAYERS)
    scaled = [name for name in state if name.startswith(layers)]
    if scale != 1.0 and not scaled:
        raise UserError(f"{model_file} has no output layer that could be scaled")
    for name in scaled:
        state[name] = state[name] * scale
    try:
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(state, folder / "model.pth")
        (folder / "config.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror or error}") from error


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--asr_train_config", type=Path, required=True)
    parser.add_argument("--asr_model_file", type=Path, required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--score_scale", type=float, default=1.0, metavar="S", help="multiply the outputs by this")
    args = parser.parse_args(argv)
    return run_command(
        "asr_export",
        lambda: export(args.asr_train_config, args.asr_model_file, args.output_dir, args.score_scale),
    )


if __name__ == "__main__":
    sys.exit(main())
