"""The statistics of comparisons: means, intervals, tests and power, by SciPy and statsmodels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from sqloss_plugins.metrics import Metric

CONFIDENCE = 0.95
"""Of all intervals."""
POWER = 0.8
"""With which a difference should be seen."""
_ROUNDING = 1e-9
"""Of the largest of some differences: by so much equal ones may differ. 0.83 - 0.82 is not 0.85 - 0.84 in float64."""


class Interval(NamedTuple):
    """A confidence interval; an end may be infinite.

    Examples:
        >>> mean_interval([1.0, 2.0, 3.0]).low < 2 < mean_interval([1.0, 2.0, 3.0]).high
        True
    """

    low: float
    high: float


class Ratio(NamedTuple):
    """A ratio of two standard deviations, its interval and the two-sided p value of their being equal.

    Examples:
        >>> deviation_ratio(1.0, 5, 2.0, 5).ratio
        0.5
    """

    ratio: float
    interval: Interval
    p_value: float


def standard_deviation(values: Sequence[float]) -> float | None:
    """Of a sample (n - 1); None below two values, exactly 0 where all values are equal.

    Examples:
        >>> from sqloss_plugins.experiments.statistics import standard_deviation
        >>> standard_deviation([1.0, 2.0, 3.0])
        1.0
    """
    import numpy as np

    if len(values) < 2:
        return None
    # The mean is rounded: NumPy has 1.7e-17 for three times 0.1.
    return 0.0 if np.ptp(values) == 0 else float(np.std(values, ddof=1))


def shown_mean(metric: Metric, values: Sequence[float], sign: str = "") -> str:
    """Mean +- sample standard deviation as a table shows them; of one value that alone.

    Examples:
        >>> from sqloss_plugins.metrics import metric
        >>> shown_mean(metric("accuracy"), [0.80, 0.82])
        '81.00 +- 1.41'
    """
    import numpy as np

    mean, deviation = metric.shown(float(np.mean(values)), sign), standard_deviation(values)
    return mean if deviation is None else f"{mean} +- {metric.shown(deviation)}"


def difference_cells(metric: Metric, values: Sequence[float]) -> list[str]:
    """Three cells of differences seed by seed: their mean, each of them, and how many are better than none.

    Examples:
        >>> from sqloss_plugins.metrics import metric
        >>> difference_cells(metric("accuracy"), [0.01, -0.02])
        ['-0.50 +- 2.12', '+1.00 -2.00', '1 of 2']
    """
    better = sum(metric.is_better(value, 0.0) for value in values)
    by_seed = " ".join(metric.shown(value, "+") for value in values)
    return [shown_mean(metric, values, "+"), by_seed, f"{better} of {len(values)}"]


def _varies(values: Sequence[float]) -> bool:
    """Whether there is anything to test; rounding is no variation."""
    deviation = standard_deviation(values)
    return deviation is not None and deviation > _ROUNDING * max(abs(value) for value in values)  # False for nan


def mean_interval(values: Sequence[float]) -> Interval | None:
    """The t interval of a mean, of differences the paired t-test's; None below two values or without variation.

    Examples:
        >>> from sqloss_plugins.experiments.statistics import mean_interval
        >>> low, high = mean_interval([1.0, 2.0, 3.0])
        >>> f"{low:.2f} to {high:.2f}"  # 2 +- 4.303 / sqrt(3)
        '-0.48 to 4.48'
    """
    from scipy.stats import ttest_1samp

    if not _varies(values):
        return None
    found = ttest_1samp(values, 0.0).confidence_interval(CONFIDENCE)
    return Interval(float(found.low), float(found.high))


def paired_p_value(differences: Sequence[float]) -> float | None:
    """The two-sided p value of the paired t-test; None below three differences or where all are equal.

    Examples:
        >>> from sqloss_plugins.experiments.statistics import paired_p_value
        >>> f"{paired_p_value([1.0, 2.0, 3.0]):.3f}"  # t = 2 sqrt(3), two degrees of freedom
        '0.074'
    """
    from scipy.stats import ttest_1samp

    if len(differences) < 3 or not _varies(differences):
        return None
    return float(ttest_1samp(differences, 0.0).pvalue)


def deviation_interval(deviation: float, n: int) -> Interval | None:
    """The chi-square interval of a standard deviation of ``n`` normal values; None below two.

    Examples:
        >>> from sqloss_plugins.experiments.statistics import deviation_interval
        >>> low, high = deviation_interval(1.0, 5)
        >>> f"{low:.2f} to {high:.2f}"
        '0.60 to 2.87'
    """
    from scipy.stats import chi2

    if n < 2:
        return None
    low, high = chi2(n - 1).ppf([(1 + CONFIDENCE) / 2, (1 - CONFIDENCE) / 2])
    return Interval(deviation * math.sqrt((n - 1) / low), deviation * math.sqrt((n - 1) / high))


def deviation_ratio(deviation: float, n: int, other: float, m: int) -> Ratio | None:
    """The ratio of the standard deviations of two independent normal samples, with the F interval and test.

    Args:
        deviation, n: of the first sample, and how many values it has.
        other, m: of the second one.

    Returns:
        None below two values, or where one of the samples does not vary, which is no normal sample.

    Examples:
        >>> from sqloss_plugins.experiments.statistics import deviation_ratio
        >>> found = deviation_ratio(1.0, 5, 2.0, 5)
        >>> f"{found.ratio:.1f}, p = {found.p_value:.2f}"
        '0.5, p = 0.21'
    """
    from scipy.stats import f

    if min(n, m) < 2 or not (deviation > 0 and other > 0):
        return None
    ratio = deviation / other
    distribution = f(n - 1, m - 1)
    low, high = distribution.ppf([(1 + CONFIDENCE) / 2, (1 - CONFIDENCE) / 2])
    p_value = 2 * min(distribution.cdf(ratio**2), distribution.sf(ratio**2))
    return Ratio(ratio, Interval(ratio / math.sqrt(low), ratio / math.sqrt(high)), float(min(p_value, 1.0)))


def sign_test(wins: int, losses: int) -> float | None:
    """The two-sided p value of an exact sign test, without the ties; None where there are neither wins nor losses.

    Examples:
        >>> from sqloss_plugins.experiments.statistics import sign_test
        >>> f"{sign_test(17, 5):.3f}"  # the paper's wins and losses over its tasks
        '0.017'
    """
    from scipy.stats import binomtest

    return float(binomtest(wins, wins + losses).pvalue) if wins + losses else None


def adjusted(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's p values of a family of tests; None for what has none, which is not counted.

    Examples:
        >>> from sqloss_plugins.experiments.statistics import adjusted
        >>> adjusted([0.25, None, 0.125])
        [0.25, None, 0.25]
    """
    from statsmodels.stats.multitest import multipletests

    tested = [p for p in p_values if p is not None]
    if not tested:
        return list(p_values)
    found = iter(multipletests(tested, method="holm")[1])
    return [None if p is None else float(next(found)) for p in p_values]


def seeds_needed(differences: Sequence[float]) -> int | None:
    """With how many seeds the paired t-test at 5 % would see a true difference of the observed size, with power 0.8.

    The size is mean / standard deviation, itself an estimate from few seeds. Two seeds are the least. None where the
    differences do not vary, are fewer than two, or have a mean of 0.

    Examples:
        >>> from sqloss_plugins.experiments.statistics import seeds_needed
        >>> seeds_needed([0.5, -0.5, 1.5])
        34
    """
    import numpy as np
    from statsmodels.stats.power import TTestPower

    if not _varies(differences):
        return None
    effect = abs(float(np.mean(differences))) / float(np.std(differences, ddof=1))
    test = {"effect_size": effect, "alpha": 1 - CONFIDENCE, "alternative": "two-sided"}
    # Where two seeds are far more than enough the power is nan, and the solver finds nothing.
    if not TTestPower().power(nobs=2, **test) < POWER:
        return 2
    if effect < 1e-3:
        return None  # millions
    return math.ceil(float(np.squeeze(TTestPower().solve_power(nobs=None, power=POWER, **test))))
