"""Metrics of extreme multi-label classification: how many of the best answers are true, and how rare these are.

For N texts, S_n the true labels of text n and B_n(k) its k best answers:

    precision at k = sum over n of |B_n(k) and S_n| / (N k)

    propensity-scored precision at k = sum over n, and over i in B_n(k) and S_n, of 1 / p_i, divided by its largest
    value, that of the k rarest labels of each text

Rare labels are missing from texts more often than frequent ones, so that a right answer among them counts for more. The
propensity of a label that N_i of N texts to train on have is, with a data set's A and B,

    1 / p_i = 1 + (ln N - 1) (B + 1)^A (N_i + B)^-A

Source: Jain, Prabhu & Varma (KDD 2016), Sections 4 and 6.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

COUNTS = (1, 3, 5)
"""How many of the best answers are looked at, as the repository's authors do."""
NAMES = tuple(f"{kind}_at_{k}" for kind in ("precision", "psp") for k in COUNTS)
"""The metrics."""
NO_CLASS = -100
"""What fills up lists of class numbers."""
NO_ANSWER = -1
"""What fills up answers, where there are too few."""


def inverse_propensities(counts: NDArray[np.int64], count: int, A: float = 0.55, B: float = 1.5) -> NDArray[np.float64]:
    """1 / p of each label, of shape (C).

    Args:
        counts: how many texts to train on have each label, of shape (C).
        count: how many texts there are.
        A, B: of the data set: 0.6 and 2.6 for Amazon's, 0.5 and 0.4 for Wikipedia's, 0.55 and 1.5 for others.

    Examples:
        >>> import numpy as np
        >>> from sqloss_plugins.ranking_metrics import inverse_propensities
        >>> inverse_propensities(np.array([100, 1]), count=1000).round(2)
        array([1.77, 6.91])
    """
    import numpy as np

    weights: NDArray[np.float64] = 1.0 + (np.log(count) - 1.0) * (B + 1.0) ** A * (counts + B) ** -A
    return weights


def is_among(answers: NDArray[np.int64], lists: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each answer is in the list of its row.

    Args:
        answers: class numbers, of shape (N, n).
        lists: class numbers, of shape (N, L), filled up with -100.

    Returns:
        Of shape (N, n).

    Examples:
        >>> import numpy as np
        >>> from sqloss_plugins.ranking_metrics import is_among
        >>> is_among(np.array([[3, 1], [0, 2]]), np.array([[1, 7], [2, -100]]))
        array([[False,  True],
               [False,  True]])
    """
    import numpy as np

    largest = max(int(answers.max(initial=0)), int(lists.max(initial=0))) + 1
    rows = np.arange(len(answers))[:, None] * largest
    found: NDArray[np.bool_] = np.isin(rows + answers, (rows + lists)[lists != NO_CLASS])
    return found & (answers >= 0)


def without_filtered(
    answers: NDArray[np.int64], filtered: Mapping[int, Sequence[int]], count: int
) -> NDArray[np.int64]:
    """The best answers that may be given.

    Args:
        answers: class numbers, the best first, of shape (N, n), n at least ``count``.
        filtered: row -> class numbers that are no answer to it.
        count: how many are wanted.

    Returns:
        Of shape (N, count); -1 where too few are left.

    Examples:
        >>> import numpy as np
        >>> from sqloss_plugins.ranking_metrics import without_filtered
        >>> without_filtered(np.array([[3, 1, 2], [0, 2, 1]]), {1: [0]}, 2)
        array([[3, 1],
               [2, 1]])
    """
    kept = answers[:, :count].copy()
    for row, classes in filtered.items():
        left = [answer for answer in answers[row] if answer not in classes][:count]
        kept[row] = left + [NO_ANSWER] * (count - len(left))
    return kept


def ranking_metrics(
    answers: NDArray[np.int64],
    lists: NDArray[np.int64],
    weights: NDArray[np.float64],
    counts: Sequence[int] = COUNTS,
) -> dict[str, float]:
    """``precision_at_k`` and ``psp_at_k``, the propensity-scored precision, for some k, as fractions.

    Args:
        answers: class numbers, the best first, or -1, of shape (N, n), n at least the largest k, or all classes.
        lists: the true labels, class numbers, of shape (N, L), filled up with -100.
        weights: 1 / p of each label, of shape (C).
        counts: the values of k.

    Examples:
        >>> import numpy as np
        >>> from sqloss_plugins.ranking_metrics import ranking_metrics
        >>> ranking_metrics(np.array([[0, 2]]), np.array([[2, -100]]), np.array([1.0, 1.0, 3.0]), counts=[1, 2])
        {'precision_at_1': 0.0, 'precision_at_2': 0.5, 'psp_at_1': 0.0, 'psp_at_2': 1.0}
    """
    import numpy as np

    right = is_among(answers, lists)
    gained = np.where(right, weights[np.maximum(answers, 0)], 0.0)
    possible = -np.sort(-np.where(lists == NO_CLASS, 0.0, weights[np.maximum(lists, 0)]), axis=1)
    precision = {f"precision_at_{k}": float(right[:, :k].sum() / (len(right) * k)) for k in counts}
    scored = {}
    for k in counts:
        most = possible[:, :k].sum()
        scored[f"psp_at_{k}"] = float(gained[:, :k].sum() / most) if most else 0.0
    return precision | scored
