"""One run, one folder: ``result.json``, written last and atomically, and ``outputs.npz`` beside it where there are any.

Both hosts write their results here, and every table, statistic and figure is made from these files alone.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import math
import os
import platform
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqloss_plugins.metrics import metric

if TYPE_CHECKING:
    import torch

SCHEMA_VERSION = 2
RESULT_NAME = "result.json"
OUTPUTS_NAME = "outputs.npz"

PROTOCOLS = ("early_stopping", "same_epochs", "fixed_epochs")
"""``early_stopping``: until the validation metric has not improved for some epochs, or the maximum; the best epoch's
model. ``same_epochs``: as many epochs as cross-entropy's early stopping chose for the same seed; the last model.
``fixed_epochs``: so many epochs as the configuration says, and the average of the best, as ESPnet does."""

OF_OUTPUTS = "outputs"
"""In ``Result.metrics`` the place of metrics that no method decides: of the largest output, or of a regression's."""

_PACKAGES = ("torch", "transformers", "datasets", "accelerate", "espnet", "numpy", "scikit-learn")


@dataclass(frozen=True)
class Result:
    """What one run was and what came out.

    Attributes:
        task: the task's name, as in the paper's tables where the paper has it.
        arch: the model's short name.
        loss: a key of :data:`sqloss_plugins.losses.LOSSES`, or ``mean_squared_error`` for a regression.
        k, M: rescaling of the square loss; None for other losses.
        rescaling_source: where k and M come from; None for other losses.
        protocol: one of :data:`PROTOCOLS`.
        ended_by: what ended the training: ``early stopping``, or ``maximum`` for the number of epochs or steps; None
            where nothing was trained.
        epochs: epochs that were trained.
        best_epoch: the epoch whose model counts; None where it is not one epoch's.
        seed: the random seed.
        mini: True for the embedded mini data, which is never the real task.
        hyperparameters: every setting of the host.
        data: where the data came from, its fingerprint, and examples by split.
        parameters: how many the model has.
        device: what trained it.
        wall_time_s: seconds. Of the Trainer: from the start of training to the last prediction, in the process that
            finished. Of ESPnet: training and validation of all epochs, in whichever processes, without decoding.
        resumed: True where an earlier process had begun the training.
        metrics: split -> method -> metric -> value. The method is one of
            :data:`sqloss_plugins.probability.METHODS` for metrics of probabilities or of decoding, else
            :data:`OF_OUTPUTS`. Fractions are fractions. ``train`` has the mean loss of what was logged last, by default
            of the last epoch. What is not finite is null in the file, nan here.
        method: the method whose metrics count, chosen on validation data or by the loss.
        selection: the metric of the validation data by which epochs and learning rates are chosen.
        directions: metric -> its direction and unit, for every metric that occurs.
        versions: of this package, of Python and of the libraries.
        schema_version: of this format.
    """

    task: str
    arch: str
    loss: str
    k: float | None
    M: float | None
    rescaling_source: str | None
    protocol: str
    ended_by: str | None
    epochs: float
    best_epoch: float | None
    seed: int
    mini: bool
    hyperparameters: dict[str, Any]
    data: dict[str, Any]
    parameters: int
    device: str
    wall_time_s: float
    resumed: bool
    metrics: dict[str, dict[str, dict[str, float]]]
    method: str
    selection: str
    directions: dict[str, dict[str, Any]] = field(default_factory=dict)
    versions: dict[str, str | None] = field(default_factory=lambda: versions())
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        for name in {name for split in self.metrics.values() for values in split.values() for name in values}:
            if name not in self.directions:
                self.directions[name] = asdict(metric(name))

    def value(self, split: str, name: str, method: str | None = None) -> float | None:
        """A metric of a split, by the method that counts unless another is named; None where it was not measured."""
        by_method = self.metrics.get(split, {})
        for place in (method or self.method, OF_OUTPUTS):
            if name in by_method.get(place, {}):
                return by_method[place][name]
        return None


def run_folder(
    task: str,
    arch: str,
    loss: str,
    k: float | None,
    M: float | None,
    learning_rate: float,
    protocol: str,
    seed: int,
    mini: bool,
) -> Path:
    """``runs/<task>/<arch>/<loss>[-k<k>-M<M>]-lr<lr>-<protocol>-s<seed>[-mini]``, the default folder of a run."""
    rescaled = "" if k is None or M is None else f"-k{k:g}-M{M:.4g}"
    name = f"{loss}{rescaled}-lr{learning_rate:g}-{protocol}-s{seed}{'-mini' if mini else ''}"
    return Path("runs") / task / arch / name


def write_json(path: Path, content: Any) -> None:
    """Writes JSON so that a reader, or a crash, sees the old file or the whole new one.

    Numbers that are not finite, which JSON does not have, become null.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(_finite(content), file, indent=2, allow_nan=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _finite(content: Any) -> Any:
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, Mapping):
        return {name: _finite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return content


def write_result(folder: Path, result: Result, outputs: Mapping[str, Any]) -> Path:
    """Writes ``outputs.npz`` (name -> array) if there are any, then ``result.json``; returns the latter's path."""
    if outputs:
        import numpy as np

        partial = folder / f".{OUTPUTS_NAME}"
        with partial.open("wb") as file:
            np.savez_compressed(file, **outputs)
        os.replace(partial, folder / OUTPUTS_NAME)
    path = folder / RESULT_NAME
    write_json(path, asdict(result))
    return path


def read_result(path: Path) -> Result:
    """Reads a ``result.json``, given itself or its folder.

    Raises:
        ValueError: not a result, or of another schema version.
    """
    path = path / RESULT_NAME if path.is_dir() else path
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content["schema_version"]
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a result file") from error
    if version != SCHEMA_VERSION:
        raise ValueError(f"{path} has schema version {version}; this package reads version {SCHEMA_VERSION}")
    try:
        result = Result(**content)
        for by_method in result.metrics.values():
            for values in by_method.values():
                values.update({name: math.nan for name, value in values.items() if value is None})
        return result
    except (TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a result file: {error}") from error


def versions() -> dict[str, str | None]:
    """Versions of Python, of this package (and its git commit in a checkout) and of the libraries installed.

    They are looked up once a process: a run is named after the code that it began with.
    """
    return dict(_versions())


@functools.cache
def _versions() -> dict[str, str | None]:
    from sqloss_plugins import __version__

    found: dict[str, str | None] = {"python": platform.python_version(), "sqloss_plugins": __version__}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    found["git"] = _git_commit()
    return found


def _git_commit() -> str | None:
    """The commit of the checkout that this package runs from, ``-dirty`` where it was changed; else None."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()


def device_name(device: torch.device | str) -> str:
    """What a PyTorch device is: the GPU's name, or the processor with its number of threads."""
    import torch

    device = torch.device(device)
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    if device.type == "cpu":
        return f"CPU ({platform.machine()}, threads: {torch.get_num_threads()})"
    return device.type


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows, the first being the header, as an aligned Markdown table."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
