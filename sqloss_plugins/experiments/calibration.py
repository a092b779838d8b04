"""How good the probabilities of finished runs are, by every method: from the outputs that the runs have kept."""

from __future__ import annotations

import math
import zipfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqloss_plugins.errors import UserError
from sqloss_plugins.experiments.comparison import Run
from sqloss_plugins.experiments.statistics import CONFIDENCE
from sqloss_plugins.losses import LOSSES
from sqloss_plugins.metrics import (
    adaptive_calibration_error,
    brier_by_example,
    calibration_error,
    nll_by_example,
    risk_by_coverage,
    top_class,
)
from sqloss_plugins.results import OUTPUTS_NAME, RESULT_NAME, Result, read_result

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Probabilities = NDArray[np.float64]
    Targets = NDArray[np.int64]

MEASURES = ("accuracy", "nll", "brier", "ece", "ece_adaptive", "aurc")
"""The metrics that are reported, of :data:`sqloss_plugins.metrics.METRICS`."""

FITTED_SQUARE = "square, fitted"
"""The method ``square`` with the floor and the temperature that fit validation data best, not 0.01 / C and 1."""

SAVED_SUFFIX = ".npz"
"""Of a file with outputs that is given instead of a run's folder."""

COVERAGES = tuple(percent / 100 for percent in range(5, 101, 5))
"""The shares of examples answered for which the share of errors is kept."""


@dataclass(frozen=True)
class Outputs:
    """What a run has kept.

    Attributes:
        run: whose they are.
        splits: ``validation`` or a test split -> outputs, floating point, shape (N, C), and class numbers, shape (N,).
    """

    run: Run
    splits: dict[str, tuple[Probabilities, Targets]]


def read_outputs(run: Run) -> Outputs:
    """The outputs beside a result.

    Raises:
        UserError: there are none, they cannot be read, or they are not those of examples with one true class each.
    """
    path = run.path if run.path.suffix == SAVED_SUFFIX else run.path.parent / OUTPUTS_NAME
    content, splits = _arrays(path), {}
    for name, outputs in content.items():
        split, _, kind = name.rpartition("_")
        targets = content.get(f"{split}_targets")
        if kind != "outputs" or targets is None:
            continue
        found = _labelled(path, split, outputs, targets)
        if len(found[1]):
            splits[split] = found
    if len({outputs.shape[1] for outputs, _ in splits.values()}) > 1:
        raise UserError(f"{path}: the splits do not have outputs of the same number of classes")
    if "validation" not in splits:
        raise UserError(f"{path} has no outputs on validation data with labels, on which the temperature is fitted")
    return Outputs(run, splits)


def _labelled(path: Path, split: str, outputs: NDArray[Any], targets: NDArray[Any]) -> tuple[Probabilities, Targets]:
    """The outputs on the examples with a label, whose targets are not negative, and the labels.

    Raises:
        UserError: they are not numbers, or not those of examples with one true class each.
    """
    import numpy as np

    if outputs.ndim != 2 or outputs.shape[1] < 2 or targets.shape != outputs.shape[:1]:
        raise UserError(f"{path}: the outputs are not those of examples with one true class each")
    if outputs.dtype.kind not in "fiu" or targets.dtype.kind not in "biu":
        raise UserError(f"{path}: outputs must be numbers and targets whole numbers; on {split} they are not")
    if not np.isfinite(outputs).all():
        raise UserError(f"{path}: not all outputs on {split} are finite")
    largest, classes = int(targets.max(initial=0)), outputs.shape[1]
    if largest >= classes:
        raise UserError(
            f"{path}: {split} has the class number {largest}, but {classes} outputs an example: number classes from 0"
        )
    has_label = targets >= 0
    return outputs[has_label].astype(np.float64), targets[has_label].astype(np.int64)


def saved_run(path: Path, loss: str, k: float | None, M: float | None) -> Run:
    """Outputs that a program of the user's has saved, as a run of which no more is known.

    Args:
        path: an NPZ file with ``validation_outputs`` and ``test_outputs``, floating point, of shape (N, C), and
            ``validation_targets`` and ``test_targets``, class numbers, of shape (N,).
        loss: that the model was trained with, a key of :data:`sqloss_plugins.losses.LOSSES`.
        k, M: of the square loss; None for others.
    """
    unknown: dict[str, Any] = {"rescaling_source": None, "ended_by": None, "best_epoch": None, "epochs": math.nan}
    unknown |= {"seed": 0, "parameters": 0, "device": "", "wall_time_s": math.nan, "resumed": False, "versions": {}}
    result = Result(
        task=path.name,
        arch="saved outputs",
        protocol="protocol not known",
        loss=loss,
        k=k,
        M=M,
        mini=False,
        hyperparameters={"learning_rate": math.nan},
        data={},
        metrics={},
        method=LOSSES[loss].methods[0],
        selection="accuracy",
        **unknown,
    )
    return Run(path, result)


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except FileNotFoundError:
        if path.name != OUTPUTS_NAME:
            raise UserError(f"{path} is not there") from None
        raise UserError(f"{path.parent} has no {OUTPUTS_NAME}: this run kept no outputs to calibrate") from None
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is not an NPZ file, as numpy.savez writes it") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error


@dataclass(frozen=True)
class Unknown:
    """Outputs of a run's model on data of another kind.

    Attributes:
        model: the folder of the run whose model it is.
        outputs: shape (N, C).
    """

    model: Path
    outputs: Probabilities


def read_unknown(folder: Path) -> Unknown:
    """What ``--do_predict --model_name_or_path RUN`` left of data of another kind, with or without labels.

    Raises:
        UserError: the folder is no such run.
    """
    import numpy as np

    try:
        result = read_result(folder)
    except ValueError as error:
        raise UserError(str(error)) from error
    model = Path(str(result.hyperparameters.get("model", "")))
    if not (model / RESULT_NAME).is_file():
        raise UserError(
            f"{folder} does not say of which run the model is: score it by --do_predict and the run's folder"
        )
    outputs = _arrays(folder / OUTPUTS_NAME).get("test_outputs")
    if outputs is None or outputs.ndim != 2 or not len(outputs) or not np.isfinite(outputs).all():
        raise UserError(f"{folder / OUTPUTS_NAME} has no outputs on test data, of examples with one true class each")
    return Unknown(model.resolve(), outputs.astype(np.float64))


@dataclass(frozen=True)
class Measured:
    """One method on one split of one run.

    Attributes:
        values: metric of :data:`MEASURES` -> value.
        intervals: metric -> lower and upper end of the 95 % interval, by the bootstrap over examples.
        confidence: the mean of the largest probability.
        risks: coverage -> the share of errors among the most confident examples.
        reliability: for each bin that has examples, the mean confidence, the accuracy and the number of examples.
    """

    values: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    confidence: float
    risks: dict[float, float]
    reliability: list[tuple[float, float, int]]


@dataclass(frozen=True)
class Calibrated:
    """A run's methods.

    Attributes:
        run: the run.
        classes: C.
        fitted: method -> argument -> what was fitted on validation data.
        measured: split -> method -> what came out.
        unknown: split -> method -> the area under the ROC curve of telling the split from a data set of another kind by
            the largest probability; empty where there is no such data set.
    """

    run: Run
    classes: int
    fitted: dict[str, dict[str, float]]
    measured: dict[str, dict[str, Measured]]
    unknown: dict[str, dict[str, float]]


def methods_of(
    outputs: Outputs,
) -> tuple[dict[str, Callable[[Probabilities], Probabilities]], dict[str, dict[str, float]]]:
    """The ways from a run's outputs to probabilities, and what was fitted for them on validation data."""
    import torch

    from sqloss_plugins.probability import fit_square, fit_temperature, probabilities

    result = outputs.run.result
    f, y = (torch.from_numpy(array) for array in outputs.splits["validation"])
    fitted = {"temperature": {"temperature": fit_temperature(f, y)}}
    names = list(LOSSES[result.loss].methods)
    rescaling: dict[str, float] = {}
    if result.k is not None and result.M is not None:
        rescaling = {"k": result.k, "M": result.M}
        floor, temperature = fit_square(f, y, **rescaling)
        fitted[FITTED_SQUARE] = {"floor": floor, "temperature": temperature}
        names.append(FITTED_SQUARE)

    def way(name: str) -> Callable[[Probabilities], Probabilities]:
        method = name.partition(",")[0]
        options: dict[str, Any] = {**rescaling, **fitted.get(name, {})}
        return lambda arrays: probabilities(torch.from_numpy(arrays), method, **options).numpy()

    return {name: way(name) for name in names}, fitted


def calibrate(
    outputs: Outputs, splits: Sequence[str], resamples: int, bins: int = 15, unknown: Unknown | None = None
) -> Calibrated:
    """Measures every method on splits of a run.

    Args:
        outputs: of the run.
        splits: those to measure.
        resamples: of the bootstrap; 0 for no intervals.
        bins: of the calibration errors and of the reliability diagram.
        unknown: the model's outputs on data of another kind.
    """
    methods, fitted = methods_of(outputs)
    measured: dict[str, dict[str, Measured]] = {}
    aurocs: dict[str, dict[str, float]] = defaultdict(dict)
    for split in splits:
        f, y = outputs.splits[split]
        found = {name: to_probabilities(f) for name, to_probabilities in methods.items()}
        measured[split] = {name: measure(p, y, resamples, bins) for name, p in found.items()}
        if unknown is not None:
            for name, p in found.items():
                aurocs[split][name] = _auroc(p.max(axis=1), methods[name](unknown.outputs).max(axis=1))
    return Calibrated(outputs.run, outputs.splits["validation"][0].shape[1], fitted, measured, dict(aurocs))


def measure(p: Probabilities, y: Targets, resamples: int, bins: int = 15) -> Measured:
    """All measures of class probabilities, shape (N, C), against class numbers, shape (N,)."""
    import numpy as np

    confidence, is_right = top_class(p, y)
    # Example by example: a bootstrap of their means takes no other pass over p.
    by_example = {
        "accuracy": is_right.astype(np.float64),
        "nll": nll_by_example(p, y),
        "brier": brier_by_example(p, y),
    }
    of_ranking: dict[str, Callable[[NDArray[np.intp]], float]] = {
        "ece": lambda rows: calibration_error(confidence[rows], is_right[rows], bins),
        "ece_adaptive": lambda rows: adaptive_calibration_error(confidence[rows], is_right[rows], bins),
        "aurc": lambda rows: float(risk_by_coverage(confidence[rows], is_right[rows]).mean()),
    }
    everything = np.arange(len(y))
    values = {name: float(each.mean()) for name, each in by_example.items()}
    values |= {name: of_rows(everything) for name, of_rows in of_ranking.items()}
    intervals = {}
    if resamples and len(y) > 1:
        intervals = {name: _interval(each, np.mean, resamples, True) for name, each in by_example.items()}
        intervals |= {name: _interval(everything, of_rows, resamples, False) for name, of_rows in of_ranking.items()}
    risk = risk_by_coverage(confidence, is_right)
    risks = {share: float(risk[max(1, round(share * len(y))) - 1]) for share in COVERAGES}
    return Measured(values, intervals, float(confidence.mean()), risks, _reliability(confidence, is_right, bins))


def _interval(data: Any, statistic: Any, resamples: int, vectorised: bool) -> tuple[float, float]:
    """The bootstrap's percentile interval over examples."""
    from scipy.stats import bootstrap

    found = bootstrap(
        (data,),
        statistic,
        n_resamples=resamples,
        batch=64,  # of N values each
        vectorized=vectorised,
        method="percentile",
        confidence_level=CONFIDENCE,
        rng=0,
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def _reliability(confidence: Probabilities, is_right: NDArray[np.bool_], bins: int) -> list[tuple[float, float, int]]:
    import numpy as np

    place = np.minimum((confidence * bins).astype(int), bins - 1)
    return [
        (float(confidence[place == i].mean()), float(is_right[place == i].mean()), int((place == i).sum()))
        for i in range(bins)
        if (place == i).any()
    ]


def _auroc(known: Probabilities, unknown: Probabilities) -> float:
    """1 where every one of the former is larger, 1/2 where they cannot be told apart."""
    import numpy as np
    from sklearn.metrics import roc_auc_score

    is_known = np.repeat([1, 0], [len(known), len(unknown)])
    return float(roc_auc_score(is_known, np.concatenate([known, unknown])))
