"""The metrics: each one's direction and unit, and how it is computed, here and nowhere else.

Most are computed by scikit-learn, SciPy, jiwer and torchmetrics, which are imported when they are needed. As modules
of Hugging Face's ``evaluate`` the same metrics are in :mod:`sqloss_plugins.evaluate_metrics`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqloss_plugins import ranking_metrics
from sqloss_plugins.metric_inputs import check_length, checked

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.generic]


@dataclass(frozen=True)
class Metric:
    """A metric.

    Attributes:
        name: as in results, options and tables.
        higher_is_better: its direction.
        unit: ``%`` for a fraction that is shown in per cent; ``bits``, ``nats`` or nothing for a plain number.
        is_comparable: whether it means the same for every loss; the training loss does not.
        inputs: a key of :data:`sqloss_plugins.metric_inputs.INPUTS`; empty for a metric that :func:`compute` does not
            have.
        function: predictions and references, as NumPy arrays or lists of strings, to the value.

    Examples:
        >>> wer = metric("wer")
        >>> wer.higher_is_better, wer.is_better(0.05, 0.06), wer.shown(0.05)
        (False, True, '5.00')
    """

    name: str
    higher_is_better: bool
    unit: str = "%"
    is_comparable: bool = True
    inputs: str = ""
    function: Callable[..., float] | None = field(default=None, repr=False, compare=False)

    @property
    def heading(self) -> str:
        """The name with its unit, for a table."""
        return f"{self.name} {self.unit}".rstrip()

    @property
    def direction(self) -> dict[str, Any]:
        """What a result file says of the metric; ``Metric(name, **direction)`` is made from it."""
        return {"higher_is_better": self.higher_is_better, "unit": self.unit, "is_comparable": self.is_comparable}

    def shown(self, value: float, sign: str = "") -> str:
        """A value as a table shows it, without the unit; ``sign`` is ``+`` for differences."""
        digits = 2 if self.unit == "%" or abs(value) >= 10 else 4
        return f"{100 * value if self.unit == '%' else value:{sign}.{digits}f}"

    def is_better(self, value: float, other: float) -> bool:
        """Whether ``value`` is better than ``other``; what is not a number is worse than any number."""
        if math.isnan(value) or math.isnan(other):
            return math.isnan(other) and not math.isnan(value)
        return value > other if self.higher_is_better else value < other

    def best(self, values: Sequence[float]) -> int:
        """The index of the best value, of equals the first."""
        best = 0
        for i, value in enumerate(values):
            if self.is_better(value, values[best]):
                best = i
        return best


# ---------------------------------------------------------------- classes and numbers


def _accuracy(predictions: Array, references: Array) -> float:
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(references, predictions))


def hit_rate(best: Array, references: Array) -> float:
    """The share of examples whose class is among some that were chosen for it.

    Args:
        best: class numbers, shape (N, n).
        references: the true ones, shape (N,).

    Examples:
        >>> import numpy as np
        >>> from sqloss_plugins.metrics import hit_rate
        >>> hit_rate(np.array([[3, 1], [0, 2]]), np.array([1, 1]))
        0.5
    """
    return float((best == references[:, None]).any(axis=1).mean())


def _top(count: int) -> Callable[[Array, Array], float]:
    def compute(outputs: Array, references: Array) -> float:
        import torch

        return hit_rate(torch.from_numpy(outputs).topk(min(count, outputs.shape[1])).indices.numpy(), references)

    return compute


def _f1(predictions: Array, references: Array, *, average: str = "binary") -> float:
    from sklearn.metrics import f1_score

    if predictions.ndim == 2 and average == "binary":
        raise ValueError("f1: of label sets take f1_macro or f1_micro, because this is the F1 of class number 1")
    if predictions.ndim == 2 and predictions.shape[1] == 1 and average != "samples":
        # To scikit-learn these are class numbers 0 and 1, and its averages those of both classes.
        predictions, references, average = predictions[:, 0], references[:, 0], "binary"
    return float(f1_score(references, predictions, average=average, zero_division=0.0))


def _f1_macro(predictions: Array, references: Array) -> float:
    return _f1(predictions, references, average="macro")


def _f1_micro(predictions: Array, references: Array) -> float:
    return _f1(predictions, references, average="micro")


def _matthews_correlation(predictions: Array, references: Array) -> float:
    from sklearn.metrics import matthews_corrcoef

    if predictions.ndim == 2:
        raise ValueError("matthews_correlation: it is of class numbers, and these are label sets")
    return float(matthews_corrcoef(references, predictions))


def _correlation(name: str) -> Callable[[Array, Array], float]:
    def compute(predictions: Array, references: Array) -> float:
        import numpy as np
        import scipy.stats

        if not (np.isfinite(predictions).all() and np.isfinite(references).all()):
            return math.nan
        if np.ptp(predictions) == 0 or np.ptp(references) == 0:
            return 0.0  # not defined
        return float(getattr(scipy.stats, name)(references, predictions).statistic)

    return compute


def _mse(predictions: NDArray[np.float64], references: NDArray[np.float64]) -> float:
    return float(((predictions - references) ** 2).mean())  # nan where a number is, which scikit-learn refuses


# ---------------------------------------------------------------- texts


@dataclass(frozen=True)
class Edits:
    """Edits between references and predictions.

    Attributes:
        substitutions, deletions, insertions: how many of each.
        length: words, characters, phones or tokens of the references.
        texts: how many texts there are.
        wrong_texts: texts with an edit.

    Examples:
        >>> edits = count_edits("wer", ["a x"], ["a b c"])
        >>> (edits.substitutions + edits.deletions + edits.insertions) / edits.length
        0.6666666666666666
    """

    substitutions: int
    deletions: int
    insertions: int
    length: int
    texts: int
    wrong_texts: int

    @property
    def rate(self) -> float:
        """Edits for each word, character, phone or token of the references, a fraction.

        Of references that are all empty: the number of insertions, as jiwer has it.
        """
        return (self.substitutions + self.deletions + self.insertions) / max(self.length, 1)

    @property
    def rate_of_texts(self) -> float:
        """Texts with an edit, a fraction."""
        return self.wrong_texts / max(self.texts, 1)


EDIT_RATES = ("wer", "cer", "per", "ter")
"""The metrics that are counted in edits of words, characters, phones, or tokens of a vocabulary."""


def count_edits(name: str, predictions: Sequence[str], references: Sequence[str]) -> Edits:
    """The edits of an error rate over all texts together, counted by jiwer.

    Args:
        name: ``wer``, ``cer``, or ``per`` and ``ter``, of phones and of tokens that are separated by spaces.
        predictions, references: as many texts.

    Raises:
        ValueError: another name, no texts, or two different numbers of them.

    Examples:
        >>> from sqloss_plugins.metrics import count_edits
        >>> count_edits("wer", ["a fine day"], ["a very fine day"])
        Edits(substitutions=0, deletions=1, insertions=0, length=4, texts=1, wrong_texts=1)
    """
    import jiwer

    if name not in EDIT_RATES:
        raise ValueError(f"{name} is no error rate of texts: choose from {', '.join(EDIT_RATES)}")
    check_length(name, predictions, references)
    process = jiwer.process_characters if name == "cer" else jiwer.process_words
    found = process(list(references), list(predictions))
    length = found.hits + found.substitutions + found.deletions
    wrong = sum(any(chunk.type != "equal" for chunk in chunks) for chunks in found.alignments)
    return Edits(found.substitutions, found.deletions, found.insertions, length, len(found.alignments), wrong)


def _error_rate(name: str) -> Callable[[Sequence[str], Sequence[str]], float]:
    return lambda predictions, references: count_edits(name, predictions, references).rate


def _sentence_error_rate(predictions: Sequence[str], references: Sequence[str]) -> float:
    return count_edits("wer", predictions, references).rate_of_texts


# ---------------------------------------------------------------- probabilities


def perplexity(nll: float) -> float:
    """Perplexity from the mean negative log-likelihood in nats: exp(nll); infinite where that is too large.

    Examples:
        >>> from sqloss_plugins.metrics import perplexity
        >>> perplexity(0.0)
        1.0
    """
    try:
        return math.exp(nll)
    except OverflowError:
        return math.inf


def nll_by_example(probabilities: NDArray[np.float64], references: Array) -> NDArray[np.float64]:
    """-ln of the true class's probability, in nats, shape (N,); a probability of 0 counts as 2.2e-16.

    Examples:
        >>> import numpy as np
        >>> from sqloss_plugins.metrics import nll_by_example
        >>> nll_by_example(np.array([[0.5, 0.5], [1.0, 0.0]]), np.array([0, 0]))
        array([ 0.69314718, -0.        ])
    """
    import numpy as np

    found: NDArray[np.float64] = probabilities[np.arange(len(references)), references]
    return -np.log(np.maximum(found, np.finfo(np.float64).eps))


def _nll(probabilities: NDArray[np.float64], references: Array) -> float:
    return float(nll_by_example(probabilities, references).mean())


def _perplexity(probabilities: NDArray[np.float64], references: Array) -> float:
    return perplexity(_nll(probabilities, references))


def _bpc(probabilities: NDArray[np.float64], references: Array, *, characters: int | None = None) -> float:
    if characters is not None and characters < 1:
        raise ValueError(f"characters must be at least 1, got {characters}")
    tokens_per_character = 1.0 if characters is None else len(references) / characters
    return _nll(probabilities, references) / math.log(2) * tokens_per_character


def brier_by_example(probabilities: NDArray[np.float64], references: Array) -> NDArray[np.float64]:
    """sum_i (p_i - [i = y])^2, shape (N,).

    Examples:
        >>> import numpy as np
        >>> from sqloss_plugins.metrics import brier_by_example
        >>> brier_by_example(np.array([[0.5, 0.5], [1.0, 0.0]]), np.array([0, 0]))
        array([0.5, 0. ])
    """
    import numpy as np

    found: NDArray[np.float64] = probabilities[np.arange(len(references)), references]
    squares: NDArray[np.float64] = (probabilities**2).sum(axis=1)
    return squares - found**2 + (found - 1) ** 2


def _brier(probabilities: NDArray[np.float64], references: Array) -> float:
    return float(brier_by_example(probabilities, references).mean())


def _check_bins(bins: int) -> None:
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")


def top_class(probabilities: NDArray[np.float64], references: Array) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The largest probability of each row, shape (N,), and whether it is that of the true class.

    Examples:
        >>> import numpy as np
        >>> top_class(np.array([[0.9, 0.1], [0.6, 0.4]]), np.array([0, 1]))
        (array([0.9, 0.6]), array([ True, False]))
    """
    return probabilities.max(axis=1), probabilities.argmax(axis=1) == references


def calibration_error(confidence: NDArray[np.float64], is_right: NDArray[np.bool_], bins: int = 15) -> float:
    """Expected calibration error in bins of equal width, from what :func:`top_class` returns.

    Raises:
        ValueError: ``bins`` is less than 1.

    Examples:
        >>> import numpy as np
        >>> from sqloss_plugins.metrics import calibration_error
        >>> calibration_error(np.array([0.75, 0.75, 0.75, 0.75]), np.array([True, True, False, False]))
        0.25
    """
    import torch
    from torchmetrics.functional.classification import binary_calibration_error

    _check_bins(bins)
    # Clipped, because torchmetrics takes all values for logits where rounding makes one larger than 1.
    sure = torch.from_numpy(confidence.clip(0.0, 1.0))
    right = torch.from_numpy(is_right.astype("int64"))
    return float(binary_calibration_error(sure, right, n_bins=bins, norm="l1"))


def adaptive_calibration_error(confidence: NDArray[np.float64], is_right: NDArray[np.bool_], bins: int = 15) -> float:
    """:func:`calibration_error` in bins of equally many examples.

    Examples:
        >>> import numpy as np
        >>> from sqloss_plugins.metrics import adaptive_calibration_error
        >>> adaptive_calibration_error(np.array([0.5, 0.5, 1.0, 1.0]), np.array([True, False, True, True]), bins=2)
        0.0
    """
    import numpy as np

    _check_bins(bins)
    order = np.argsort(confidence, kind="stable")
    gaps = (is_right - confidence)[order]
    return float(sum(abs(part.sum()) for part in np.array_split(gaps, bins)) / len(gaps))


def _ece(probabilities: NDArray[np.float64], references: Array, *, bins: int = 15) -> float:
    return calibration_error(*top_class(probabilities, references), bins)


def _ece_adaptive(probabilities: NDArray[np.float64], references: Array, *, bins: int = 15) -> float:
    return adaptive_calibration_error(*top_class(probabilities, references), bins)


def risk_by_coverage(confidence: NDArray[np.float64], is_right: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The share of errors among the n most confident examples, for n = 1 to N; of equal confidences, their mean.

    Examples:
        >>> import numpy as np
        >>> from sqloss_plugins.metrics import risk_by_coverage
        >>> risk_by_coverage(np.array([0.9, 0.8, 0.6, 0.5]), np.array([True, True, True, False]))
        array([0.  , 0.  , 0.  , 0.25])
    """
    import numpy as np

    order = np.argsort(-confidence, kind="stable")
    wrong, ranked = (~is_right[order]).astype(np.float64), confidence[order]
    _, start, counts = np.unique(-ranked, return_index=True, return_counts=True)
    wrong = np.repeat(np.add.reduceat(wrong, start) / counts, counts)  # whichever of them is answered first
    risk: NDArray[np.float64] = wrong.cumsum() / np.arange(1, len(wrong) + 1)
    return risk


def _aurc(probabilities: NDArray[np.float64], references: Array) -> float:
    return float(risk_by_coverage(*top_class(probabilities, references)).mean())


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("accuracy", higher_is_better=True, inputs="labels", function=_accuracy),
        Metric("top5", higher_is_better=True, inputs="outputs", function=_top(5)),
        Metric("top10", higher_is_better=True, inputs="outputs", function=_top(10)),
        Metric("f1", higher_is_better=True, inputs="labels", function=_f1),
        Metric("f1_macro", higher_is_better=True, inputs="labels", function=_f1_macro),
        Metric("f1_micro", higher_is_better=True, inputs="labels", function=_f1_micro),
        Metric("matthews_correlation", higher_is_better=True, unit="", inputs="labels", function=_matthews_correlation),
        Metric("pearson", higher_is_better=True, unit="", inputs="numbers", function=_correlation("pearsonr")),
        Metric("spearmanr", higher_is_better=True, unit="", inputs="numbers", function=_correlation("spearmanr")),
        Metric("mse", higher_is_better=False, unit="", inputs="numbers", function=_mse),
        Metric("wer", higher_is_better=False, inputs="texts", function=_error_rate("wer")),
        Metric("cer", higher_is_better=False, inputs="texts", function=_error_rate("cer")),
        Metric("per", higher_is_better=False, inputs="texts", function=_error_rate("per")),
        Metric("ter", higher_is_better=False, inputs="texts", function=_error_rate("ter")),
        Metric("ser", higher_is_better=False, inputs="texts", function=_sentence_error_rate),
        Metric("perplexity", higher_is_better=False, unit="", inputs="probabilities", function=_perplexity),
        Metric("bpc", higher_is_better=False, unit="bits", inputs="probabilities", function=_bpc),
        Metric("nll", higher_is_better=False, unit="nats", inputs="probabilities", function=_nll),
        Metric("brier", higher_is_better=False, unit="", inputs="probabilities", function=_brier),
        Metric("ece", higher_is_better=False, inputs="probabilities", function=_ece),
        Metric("ece_adaptive", higher_is_better=False, inputs="probabilities", function=_ece_adaptive),
        Metric("aurc", higher_is_better=False, inputs="probabilities", function=_aurc),
        Metric("word_auroc", higher_is_better=True),
        *(Metric(name, higher_is_better=True) for name in ranking_metrics.NAMES),
        Metric("loss", higher_is_better=False, unit="", is_comparable=False),
    )
}
"""Name -> metric. Fractions are kept as fractions; the unit says how they are shown."""


def metric(name: str) -> Metric:
    """The metric of that name.

    Raises:
        ValueError: there is none, so that nobody knows its direction.

    Examples:
        >>> from sqloss_plugins.metrics import metric
        >>> metric("wer").shown(0.0534), metric("wer").is_better(0.05, 0.06)
        ('5.34', True)
    """
    try:
        return METRICS[name]
    except KeyError:
        raise ValueError(f"unknown metric {name!r}: choose from {', '.join(METRICS)}") from None


def compute(name: str, predictions: Any, references: Any, **options: Any) -> float:
    """A metric's value.

    * ``accuracy`` (of label sets: the share of those that are predicted exactly), ``matthews_correlation`` (of class
      numbers), ``f1`` (of class 1; ``average`` as scikit-learn's, for more classes and for label sets).
    * ``top5``, ``top10``: the share of examples whose class is among the five or ten largest outputs; of equal outputs
      those count that torch.topk takes. Of so few classes and less it is 1.
    * ``f1_macro``: the mean of the F1 of each class. ``f1_micro``: F1 of all decisions together, which for class
      numbers is the accuracy. An F1 where nothing is predicted and nothing there counts as 0.
    * ``pearson``, ``spearmanr``: 0 where one side is constant, which leaves them undefined; nan where a number is.
    * ``mse``: the mean squared error; nan where a number is.
    * ``wer``, ``cer``, ``per``, ``ter``: edits over all texts together, divided by the length of all references.
      Phones and the tokens of a vocabulary are separated by spaces.
    * ``ser``: sentence error rate, the fraction of texts of which a word is wrong.
    * ``nll``: mean negative log-likelihood in nats. A probability of 0 counts as 2.2e-16, as in scikit-learn.
    * ``perplexity``: exp(nll). ``bpc``: nll in bits, by token; by character where ``characters``, how many the text
      has, is given.
    * ``brier``: the mean of sum_i (p_i - [i = y])^2, from 0 to 2 (Brier, 1950).
    * ``ece``: expected calibration error of the largest probability, in ``bins`` (15) of equal width (Guo et al.,
      2017). ``ece_adaptive``: in bins of equally many examples (Nguyen & O'Connor, 2015).
    * ``aurc``: the share of errors where only the most confident examples are answered, as a mean over how many
      (Geifman & El-Yaniv, 2017).

    Args:
        name: a key of :data:`METRICS`.
        predictions, references: of the kind that :attr:`Metric.inputs` says; sequences, arrays or tensors.
        **options: of the metric, as above.

    Raises:
        ValueError: an unknown metric or option; no examples; shapes or values that the metric cannot have, such as
            probabilities that are not numbers or do not sum to one.

    Examples:
        >>> import numpy as np
        >>> from sqloss_plugins.metrics import compute
        >>> compute("accuracy", np.array([0, 1, 1, 0]), np.array([0, 1, 0, 0]))
        0.75
    """
    wanted = metric(name)
    if wanted.function is None:
        raise ValueError(f"{name} is not computed from predictions and references")
    check_length(name, predictions, references)
    unknown = sorted(options.keys() - inspect.signature(wanted.function).parameters.keys())
    if unknown:
        raise ValueError(f"{name} has no option {', '.join(unknown)}")
    return wanted.function(*checked(wanted.inputs, name, predictions, references), **options)
