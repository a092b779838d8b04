"""A copy of a trained classifier for programs that take a softmax of the outputs and cannot be changed.

    sqloss export runs/mrpc/bert/square-... exported

The last layer of the copy is divided by the temperature T that fits the run's validation outputs best, so that the
softmax of its outputs is softmax(f / T): Transformers' stock pipelines, servers and ONNX converters then give sensible
scores. The labels stay the same. Said is how far these scores are from the probabilities by the loss's own method.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForImageClassification, AutoModelForSequenceClassification
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING

import sqloss_plugins.models  # noqa: F401, its architectures are registered by it
from sqloss_plugins.command_line import OptionParser
from sqloss_plugins.errors import UserError, run_command, sentence
from sqloss_plugins.folders import SETTINGS_NAME
from sqloss_plugins.hf.pipelines import class_probabilities
from sqloss_plugins.hf.trained_model import forget_training
from sqloss_plugins.hf.without_logits import output_layer
from sqloss_plugins.probability import fit_temperature
from sqloss_plugins.results import OUTPUTS_NAME, RESULT_NAME

PROGRAM = "sqloss export"
_LEFT = (
    *("*.safetensors", "*.bin", "*.index.json", "config.json"),  # written anew
    *(OUTPUTS_NAME, RESULT_NAME, SETTINGS_NAME, "*.tsv", "checkpoint-*", "runs", "README.md", ".*"),
)
"""What is of the run, or of its model, rather than beside the model, as its tokenizer is."""


def export(run: Path, folder: Path) -> dict[str, float]:
    """Writes the copy.

    Args:
        run: folder of a finished run, with its model and ``outputs.npz``.
        folder: where the copy goes; must not be there.

    Returns:
        ``temperature``, and in nats on the validation data ``nll`` of the copy's softmax, ``nll_before`` of the run's
        own probabilities, and ``kl`` from the latter to the former.

    Raises:
        UserError: no such run, or a model whose last layer is not known.
    """
    if folder.exists():
        raise UserError(f"{folder} is there already: name a new folder")
    try:
        with np.load(run / OUTPUTS_NAME) as arrays:
            f, y = (torch.from_numpy(arrays[f"validation_{name}"]) for name in ("outputs", "targets"))
        config = AutoConfig.from_pretrained(run, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{run} is no run of a classifier with outputs on validation data: {sentence(error)}"
        ) from error
    if f.dim() != 2 or f.shape[1] < 2 or y.dim() != 1:
        raise UserError(f"{run}: only the outputs of examples with one true class each can be read by a softmax")
    f, y = f[y >= 0].double(), y[y >= 0]
    temperature = fit_temperature(f, y)
    is_of_images = type(config) in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING
    auto = AutoModelForImageClassification if is_of_images else AutoModelForSequenceClassification
    try:
        model = auto.from_pretrained(run, local_files_only=True)
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"the model of {run} cannot be loaded: {sentence(error)}") from error
    try:
        layer = output_layer(model, f.shape[1])
    except ValueError:
        kind = type(model).__name__
        raise UserError(
            f"{kind} has not one linear layer of which the outputs are, so that it stays as it is"
        ) from None
    before = class_probabilities(config, f)
    after = (f / temperature).log_softmax(1)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.div_(temperature)
    forget_training(model.config)  # the outputs are logits now
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(run, partial, ignore=shutil.ignore_patterns(*_LEFT))
    model.save_pretrained(partial)
    partial.rename(folder)

    def nll(logs: torch.Tensor) -> float:
        return -float(logs.gather(1, y[:, None]).mean())

    kl = float((before * (before.log() - after)).nan_to_num().sum(1).mean())
    return {"temperature": temperature, "nll": nll(after), "nll_before": nll(before.log()), "kl": kl}


def _run(argv: Sequence[str] | None) -> None:
    parser = OptionParser(PROGRAM, __doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a finished run")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where the copy goes")
    args = parser.parse_args(argv)
    try:
        found = export(args.run, args.folder)
    except OSError as error:
        raise UserError(f"cannot write {args.folder}: {error.strerror or error}") from error
    print(
        f"The model is in {args.folder}: its softmax is that of the outputs divided by {found['temperature']:.4g}.\n"
        f"On validation data: likelihood {found['nll']:.4f} nats, by the loss's own probabilities "
        f"{found['nll_before']:.4f}; Kullback-Leibler divergence {found['kl']:.4f} nats."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    return run_command(PROGRAM, lambda: _run(argv))


if __name__ == "__main__":
    sys.exit(main())
