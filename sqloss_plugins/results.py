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
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn, Union, get_args, get_origin, get_type_hints

from sqloss_plugins.errors import brief
from sqloss_plugins.metrics import Metric, metric

if TYPE_CHECKING:
    import torch

SCHEMA_VERSION = 2
RESULT_NAME = "result.json"
OUTPUTS_NAME = "outputs.npz"
_PARTIAL = ".partial"
"""What the names of files end with until they are whole; a process that was killed leaves them."""

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
        data: about the data. Every host writes these entries, and may write more:

            * ``source``: where the data came from, for people.
            * ``fingerprint``: of what decided the model, the training and the validation data, and of nothing else.
              Runs with equal fingerprints are compared, whichever test sets each of them has.
            * ``test_fingerprints``: split -> fingerprint, for every split beside those two, under its name in
              ``metrics``. Values on a test set are compared only where these are equal.
            * ``sizes``: split, or ESPnet's subset -> examples or utterances.
        parameters: how many the model has.
        device: what trained it.
        wall_time_s: seconds. Of the Trainer: from the start of training to the last prediction, in the process that
            finished. Of ESPnet: training and validation of all epochs, in whichever processes, without decoding.
        resumed: True where an earlier process had begun the training.
        metrics: split -> method -> metric -> value. Splits are ``train``, ``validation`` and ``test``; a further one
            begins with one of these, as ``test test-other``. The method is one of
            :data:`sqloss_plugins.probability.METHODS` for metrics of probabilities or of decoding, else
            :data:`OF_OUTPUTS`. Fractions are fractions. ``train`` has the mean loss of what was logged last, by default
            of the last epoch; where the training data was scored, what that gave. What is not finite is null in the
            file, nan here.
        method: the method whose metrics count, chosen on validation data or by the loss.
        selection: the metric of the validation data by which epochs and learning rates are chosen.
        curves: what was measured during the training: split -> metric -> epoch, as text -> value, of finite values
            alone. The Trainer has the task's metrics on validation data, ESPnet the accuracy of its attention decoder
            there, which is told the true history. Empty where there are none.
        directions: metric -> :attr:`sqloss_plugins.metrics.Metric.direction`, for every metric that occurs. Those that
            the package has need not be given.
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
    curves: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    directions: dict[str, dict[str, Any]] = field(default_factory=dict)
    versions: dict[str, str | None] = field(default_factory=lambda: versions())
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        given = {name: self.directions.get(name) or metric(name).direction for name in self.metric_names()}
        object.__setattr__(self, "directions", given)

    def metric_names(self) -> list[str]:
        """Every metric that occurs, in the order of the first split that has it."""
        return _metric_names(self.metrics)

    def metric(self, name: str) -> Metric:
        """A metric with the direction and the unit that the result says."""
        return Metric(name, **self.directions[name])

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
    variant: str = "",
) -> Path:
    """``runs/<task>/<arch>/<loss>[-k<k>-M<M>][-<variant>]-lr<lr>-<protocol>-s<seed>[-mini]``, a run's default folder.

    The variant names options of the loss beside k and M; all else that decides a run is in the folder's settings.

    Examples:
        >>> from sqloss_plugins.results import run_folder
        >>> run_folder("mrpc", "bert", "square", 1, 1, 2e-5, "early_stopping", 7, mini=False).name
        'square-k1-M1-lr2e-05-early_stopping-s7'
    """
    rescaled = "" if k is None or M is None else f"-k{k:g}-M{M:.4g}"
    varied = f"-{variant}" if variant else ""
    name = f"{loss}{rescaled}{varied}-lr{learning_rate:g}-{protocol}-s{seed}{'-mini' if mini else ''}"
    return Path("runs") / task / arch / name


def write_json(path: Path, content: Any) -> None:
    """Writes JSON as ``write_text`` does. Numbers that are not finite, which JSON does not have, become null."""
    write_text(path, json.dumps(_finite(content), indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a text file, UTF-8, in one step, as :func:`write_file` does."""
    write_file(path, lambda file: file.write(text.encode()))


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Writes name -> array as a compressed NPZ file, in one step, as :func:`write_file` does."""
    import numpy as np

    write_file(path, lambda file: np.savez_compressed(file, **arrays))


def write_file(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Writes a file so that a reader, or a crash, sees the old file or the whole new one.

    Args:
        path: the file.
        write: puts its content into a file that is open for writing.
    """
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_PARTIAL)
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


def remove_partial_files(folder: Path) -> None:
    """Removes what a process that was killed while it wrote has left; for whoever has the folder's lock."""
    for path in folder.glob(f".*{_PARTIAL}"):
        path.unlink(missing_ok=True)


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
        write_arrays(folder / OUTPUTS_NAME, outputs)
    path = folder / RESULT_NAME
    write_json(path, asdict(result))
    return path


def read_result(path: Path) -> Result:
    """Reads a ``result.json``, given itself or its folder.

    Raises:
        ValueError: it cannot be read, is no result, or is of another schema version; one sentence that names the file.
    """
    path = path / RESULT_NAME if path.is_dir() and path.name != RESULT_NAME else path
    content = _read_object(path)
    version = content.get("schema_version")
    if version != SCHEMA_VERSION:
        raise ValueError(f"{path} has schema version {brief(version)}; this package reads version {SCHEMA_VERSION}")
    for values in _metric_values(content.get("metrics")):
        values.update({name: math.nan for name, value in values.items() if value is None})
    try:
        _check_fields(content)
        return Result(**content)
    except ValueError as error:
        raise ValueError(f"{path} is not a whole result: {error}") from error


def _read_object(path: Path) -> dict[str, Any]:
    """A JSON file with an object.

    Raises:
        ValueError: something else is there.
    """

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is no JSON")

    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a result file: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a result file: it holds no JSON object")
    return content


def _metric_values(metrics: Any) -> list[dict[str, Any]]:
    """The innermost dictionaries of ``Result.metrics``, as far as it has that form."""
    splits = metrics.values() if isinstance(metrics, dict) else ()
    methods = [values for split in splits if isinstance(split, dict) for values in split.values()]
    return [values for values in methods if isinstance(values, dict)]


def _metric_names(metrics: Any) -> list[str]:
    return list(dict.fromkeys(name for values in _metric_values(metrics) for name in values))


def _check_fields(content: Mapping[str, Any]) -> None:
    """Refuses what is not a result's fields, by their type hints.

    Raises:
        ValueError: with the first field that is wrong.
    """
    hints = get_type_hints(Result)
    required = {item.name for item in fields(Result) if item.default is MISSING and item.default_factory is MISSING}
    for problem, names in (("lacks", required - content.keys()), ("has unknown", content.keys() - hints.keys())):
        if names:
            raise ValueError(f"it {problem} {', '.join(sorted(names))}")
    for name, value in content.items():
        if not _has_type(value, hints[name]):
            raise ValueError(f"{name} is {brief(value)}")
    if content["protocol"] not in PROTOCOLS:
        raise ValueError(f"protocol is {brief(content['protocol'])}, not one of {', '.join(PROTOCOLS)}")
    data = content["data"]
    for name, hint in (("fingerprint", str), ("test_fingerprints", dict[str, str])):
        if name in data and not _has_type(data[name], hint):
            raise ValueError(f"data has the {name} {brief(data[name])}")
    hints = get_type_hints(Metric)
    for name in _metric_names(content["metrics"]):
        direction = content.get("directions", {}).get(name)
        if direction is None:
            raise ValueError(f"it does not say in which direction the metric {name} is better")
        if direction.keys() != metric("loss").direction.keys() or not all(
            _has_type(value, hints[key]) for key, value in direction.items()
        ):
            raise ValueError(f"the direction of {name} is {brief(direction)}")


def _has_type(value: Any, hint: Any) -> bool:
    """Whether a value from JSON has a type: a plain one, an optional one, or a dictionary."""
    if hint is Any:
        return True
    if get_origin(hint) in (types.UnionType, Union):
        return any(_has_type(value, option) for option in get_args(hint))
    if get_origin(hint) is dict:
        _, of_values = get_args(hint)
        return isinstance(value, dict) and all(_has_type(item, of_values) for item in value.values())
    if hint is float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and not (math.isinf(value) if isinstance(value, float) else abs(value) >= 2**63)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    return isinstance(value, hint)


def versions() -> dict[str, str | None]:
    """Versions of Python, of this package (and its git commit in a checkout) and of the libraries installed.

    They are looked up once a process: a run is named after the code that it began with.

    Examples:
        >>> {"python", "sqloss_plugins", "torch"} <= versions().keys()
        True
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
    """What a PyTorch device is: the GPU's name, or the processor with its number of threads.

    Examples:
        >>> device_name("cpu").startswith("CPU")
        True
    """
    import torch

    device = torch.device(device)
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    if device.type == "cpu":
        return f"CPU ({platform.machine()}, threads: {torch.get_num_threads()})"
    return device.type


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows, the first being the header, as an aligned Markdown table; a bar within a cell stays one.

    Examples:
        >>> from sqloss_plugins.results import markdown_table
        >>> print(markdown_table([["loss", "accuracy"], ["square", "83.8"]]))
        | loss   | accuracy |
        |--------|----------|
        | square | 83.8     |
    """
    rows = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
