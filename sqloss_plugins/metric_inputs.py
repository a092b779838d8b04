"""What the predictions and references of metrics may be, as NumPy arrays; everything else is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.generic]

INPUTS = {
    "labels": "class numbers, shape (N,), or label sets, 1 for each class that is in it and else 0, shape (N, C)",
    "numbers": "numbers, shape (N,)",
    "texts": "N strings",
    "probabilities": "class probabilities, shape (N, C), and for the references class numbers, shape (N,)",
    "outputs": "outputs or probabilities, shape (N, C), and for the references class numbers, shape (N,)",
}
"""What predictions and references are, by :attr:`sqloss_plugins.metrics.Metric.inputs`."""

_SUM_TOLERANCE = 1e-3
"""By how much the probabilities of an example may sum to something else than one; rounding to bfloat16 stays below."""


def check_length(name: str, predictions: Any, references: Any) -> None:
    """Refuses what does not pair up.

    Raises:
        ValueError: more of one side than of the other, or nothing.
    """
    if len(predictions) != len(references):
        raise ValueError(f"{name}: {len(predictions)} predictions and {len(references)} references do not pair up")
    if not len(references):
        raise ValueError(f"{name}: there are no examples")


def checked(kind: str, name: str, predictions: Any, references: Any) -> tuple[Any, Any]:
    """Predictions and references as a metric's function takes them.

    Args:
        kind: a key of :data:`INPUTS`.
        name: the metric's, for the messages.
        predictions, references: as many, and at least one.

    Returns:
        Class numbers and label sets as int64, numbers and probabilities as float64; texts as lists of strings.

    Raises:
        ValueError: shapes or values that the kind cannot have.
    """
    return _CHECKS[kind](name, predictions, references)


def _array(values: Any, dtype: Any = None) -> NDArray[Any]:
    """Numbers as an array. A tensor may have a graph, be on a GPU, or in bfloat16, none of which NumPy takes."""
    import numpy as np

    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.double() if values.is_floating_point() else values
    return np.asarray(values, dtype=dtype)


def _whole_numbers(name: str, what: str, values: Any, kind: str, ndim: tuple[int, ...] = (1,)) -> Array:
    import numpy as np

    array = _array(values)
    if array.ndim in ndim and (array.dtype == np.bool_ or np.issubdtype(array.dtype, np.number)):
        with np.errstate(invalid="ignore"):
            whole = array.astype(np.int64)  # of nan, infinity, and what is too large for it, another number
        if np.equal(whole, array).all() and (array.ndim == 1 or np.isin(whole, (0, 1)).all()):
            return whole
    raise ValueError(f"{name}: the {what} must be {kind}")


def _class_numbers(name: str, what: str, values: Any) -> Array:
    return _whole_numbers(name, what, values, "class numbers, of shape (N,)")


def _check_labels(name: str, predictions: Any, references: Any) -> tuple[Array, Array]:
    kind = "class numbers, of shape (N,), or label sets of 0 and 1, of shape (N, C)"
    p, y = (
        _whole_numbers(name, what, values, kind, (1, 2))
        for what, values in (("predictions", predictions), ("references", references))
    )
    if p.shape != y.shape:
        raise ValueError(f"{name}: predictions of shape {p.shape} and references of shape {y.shape} do not pair up")
    return p, y


def _check_numbers(name: str, predictions: Any, references: Any) -> tuple[Array, Array]:
    import numpy as np

    p, y = _array(predictions, np.float64), _array(references, np.float64)
    if p.ndim != 1 or y.ndim != 1:
        raise ValueError(f"{name}: predictions and references must be numbers, of shape (N,)")
    return p, y


def _check_texts(name: str, predictions: Any, references: Any) -> tuple[list[str], list[str]]:
    texts = list(predictions), list(references)
    if not all(isinstance(text, str) for side in texts for text in side):
        raise ValueError(f"{name}: predictions and references must be strings")
    return texts


def _check_outputs(name: str, predictions: Any, references: Any) -> tuple[Array, Array]:
    return _rows_and_classes(name, "outputs", predictions, references)


def _check_probabilities(name: str, predictions: Any, references: Any) -> tuple[Array, Array]:
    import numpy as np

    p, y = _rows_and_classes(name, "probabilities", predictions, references)
    sums = p.sum(axis=1)
    if p.min() < 0 or np.abs(sums - 1).max() > _SUM_TOLERANCE:
        worst = sums[np.abs(sums - 1).argmax()]
        raise ValueError(
            f"{name}: the predictions must be probabilities that sum to one, not outputs or logits; the smallest is "
            f"{p.min():.4g}, and one sum is {worst:.4g}"
        )
    return p / sums[:, None], y


def _rows_and_classes(
    name: str, what: str, predictions: Any, references: Any
) -> tuple[NDArray[np.float64], NDArray[np.generic]]:
    """Finite numbers of shape (N, C), and class numbers from 0 to C - 1."""
    import numpy as np

    p, y = _array(predictions, np.float64), _class_numbers(name, "references", references)
    if p.ndim != 2 or p.shape[1] < 2:
        raise ValueError(f"{name}: the predictions must be class {what}, of shape (N, C) with C >= 2")
    if not np.isfinite(p).all():
        raise ValueError(f"{name}: not all {what} are numbers")
    if y.min() < 0 or y.max() >= p.shape[1]:
        raise ValueError(f"{name}: the references must be class numbers from 0 to {p.shape[1] - 1}")
    return p, y


_CHECKS: dict[str, Callable[[str, Any, Any], tuple[Any, Any]]] = {
    "labels": _check_labels,
    "numbers": _check_numbers,
    "texts": _check_texts,
    "probabilities": _check_probabilities,
    "outputs": _check_outputs,
}
