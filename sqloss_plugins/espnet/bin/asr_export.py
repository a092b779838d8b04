r"""Makes a model that was trained by this package one that plain ESPnet loads.

    python -m sqloss_plugins.espnet.bin.asr_export --asr_train_config exp/asr/config.yaml \
        --asr_model_file exp/asr/valid.acc.ave.pth --output_dir exported

Writes ``config.yaml``, without what only this package knows, ``model.pth``, and copies of the files that the
configuration names: the token model, the symbols that are not spelled, and the statistics of the features. The
configuration has the absolute paths of the copies, because ESPnet looks for relative ones where it runs: change these
when you move the folder.

Plain ESPnet takes the softmax of the outputs for probabilities; with ``--temperature T`` the output layer is divided by
T, which makes that softmax(f / T). The method ``square`` has no such form.
"""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqloss_plugins.command_line import OptionParser
from sqloss_plugins.errors import UserError, run_command

PROGRAM = "asr_export"


def export(config: Path, model_file: Path, folder: Path, temperature: float = 1.0) -> None:
    """Does what the module says.

    Args:
        config, model_file: of the trained model.
        folder: where to; it must not have either file.
        temperature: T, by which the output layer is divided.

    Raises:
        UserError: a file that cannot be read, is not of this package, or does not fit the other; a folder that has a
            model already, or cannot be written.
    """
    if not 0.0 < temperature < math.inf:
        raise UserError(f"--temperature must be a positive finite number, got {temperature:g}")
    there = [name for name in ("config.yaml", "model.pth") if (folder / name).exists()]
    if there:
        raise UserError(f"--output_dir {folder} has a {there[0]} already: choose a new folder")

    import torch
    import yaml

    from sqloss_plugins.espnet.decoding import OUTPUT_LAYERS
    from sqloss_plugins.espnet.model import MODEL_NAME, OPTIONS
    from sqloss_plugins.espnet.model_files import load_model, read_config

    content = read_config(config)
    if content.get("model") != MODEL_NAME:
        raise UserError(f"{config} has model: {content.get('model')}, which plain ESPnet loads as it is")
    model, _ = load_model(config, model_file)
    content["model"] = "espnet"
    options = {name: value for name, value in content["model_conf"].items() if name not in OPTIONS}
    # This package takes text such as 3e-1, which YAML does not read as a number; ESPnet does not.
    numbers = {name: float(options[name]) for name in ("ctc_weight", "lsm_weight") if name in options}
    content["model_conf"] = {**options, **numbers}
    state = model.state_dict()
    scaled = [name for name in state if name.startswith(tuple(f"decoder.{layer}." for layer in OUTPUT_LAYERS))]
    if temperature != 1.0 and not scaled:
        raise UserError(f"{model_file} has no output layer that could be divided by the temperature")
    for name in scaled:
        state[name] = state[name] / temperature
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _copy_named_files(content, folder)
        torch.save(state, folder / "model.pth")
        (folder / "config.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error}") from error


def _copy_named_files(content: dict[str, Any], folder: Path) -> None:
    """Copies the token model, the symbols and the statistics, and has the configuration name the copies."""
    statistics = content.get("normalize_conf") or {}
    for settings, name in ((content, "bpemodel"), (content, "non_linguistic_symbols"), (statistics, "stats_file")):
        source = settings.get(name)
        if isinstance(source, str) and Path(source).is_file():
            target = folder.absolute() / Path(source).name
            shutil.copyfile(source, target)
            settings[name] = str(target)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""

    def run() -> None:
        parser = OptionParser(PROGRAM, __doc__)
        parser.add_argument("--asr_train_config", type=Path, required=True, help="config.yaml of the training")
        parser.add_argument("--asr_model_file", type=Path, required=True, help="the trained model")
        parser.add_argument("--output_dir", type=Path, required=True, help="a new folder")
        parser.add_argument("--temperature", type=float, default=1.0, metavar="T", help="divide the outputs by this")
        args = parser.parse_args(sys.argv[1:] if argv is None else argv)
        export(args.asr_train_config, args.asr_model_file, args.output_dir, args.temperature)

    return run_command(PROGRAM, run)


if __name__ == "__main__":
    sys.exit(main())
