"""The statistics of a report, against SciPy, statsmodels and values that are worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.power import TTestPower

from sqloss_plugins.experiments import statistics
from sqloss_plugins.metrics import metric

SAMPLES = st.lists(st.floats(-100, 100).map(lambda value: round(value, 3)), min_size=2, max_size=8).filter(
    lambda values: np.ptp(values) > 0
)


def test_a_mean_interval_by_hand():
    """Mean 2, standard deviation 1, three values: t(2, 0.975) = 4.302653."""
    low, high = statistics.mean_interval([1.0, 2.0, 3.0])
    assert (low, high) == pytest.approx((2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)), abs=1e-6)


@given(SAMPLES)
def test_a_mean_interval_leaves_out_zero_where_the_paired_t_test_is_significant(values):
    low, high = statistics.mean_interval(values)
    p = stats.ttest_rel(values, np.zeros(len(values))).pvalue
    assert (p < 0.05) == (not low <= 0 <= high) or p == pytest.approx(0.05, abs=1e-9)


@given(SAMPLES)
def test_the_paired_t_test_is_scipys(values):
    wanted = stats.ttest_rel(values, np.zeros(len(values))).pvalue if len(values) > 2 else None
    assert statistics.paired_p_value(values) == (wanted and pytest.approx(wanted))


def test_a_deviation_interval_by_hand():
    """chi2(4): 0.484419 and 11.143287 are its quantiles at 2.5 % and 97.5 %."""
    low, high = statistics.deviation_interval(0.5, 5)
    assert low == pytest.approx(0.5 * math.sqrt(4 / 11.143287), rel=1e-6)
    assert high == pytest.approx(0.5 * math.sqrt(4 / 0.484419), rel=1e-5)


def test_a_deviation_interval_covers_the_true_one_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(0, 2, (2000, 5)).std(axis=1, ddof=1)
    intervals = [statistics.deviation_interval(draw, 5) for draw in draws]
    assert np.mean([low <= 2 <= high for low, high in intervals]) == pytest.approx(0.95, abs=0.015)


def test_a_ratio_of_deviations_by_hand():
    """F(4, 4) has 9.604530 at 97.5 %, and its reciprocal at 2.5 %."""
    found = statistics.deviation_ratio(0.184, 5, 0.481, 5)
    assert found.ratio == pytest.approx(0.184 / 0.481)
    assert found.interval.low == pytest.approx(found.ratio / math.sqrt(9.604530), rel=1e-6)
    assert found.interval.high == pytest.approx(found.ratio * math.sqrt(9.604530), rel=1e-6)
    assert found.p_value == pytest.approx(2 * stats.f.cdf(found.ratio**2, 4, 4))


@given(st.floats(0.01, 100), st.integers(2, 20), st.integers(2, 20))
def test_the_two_losses_change_places(ratio, n, m):
    one, other = statistics.deviation_ratio(ratio, n, 1.0, m), statistics.deviation_ratio(1.0, m, ratio, n)
    assert one.p_value == pytest.approx(other.p_value, rel=1e-6)
    assert one.interval.low == pytest.approx(1 / other.interval.high, rel=1e-6)
    assert (one.p_value < 0.05) == (not one.interval.low <= 1 <= one.interval.high) or one.p_value == pytest.approx(
        0.05
    )


def test_a_sign_test_by_hand():
    """8 of 10: (1 + 10 + 45) / 1024 on either side."""
    assert statistics.sign_test(8, 2) == pytest.approx(2 * 56 / 1024)
    assert statistics.sign_test(0, 0) is None


def test_holm_by_hand():
    """Sorted 0.01, 0.02, 0.04: times 3, 2 and 1, and never less than the one before; what has none is not counted."""
    assert statistics.adjusted([0.04, None, 0.01, 0.02]) == [pytest.approx(0.04), None, 0.03, 0.04]
    assert statistics.adjusted([None, None]) == [None, None]


@pytest.mark.parametrize(
    ("differences", "needed"), [([18, 20], 2), ([16, 21], 3), ([1, 2, 4, 2, 3], 5), ([1, -0.5, 0.7, 0.1], 35)]
)
def test_the_seeds_needed_are_the_fewest_with_that_power(differences, needed):
    assert statistics.seeds_needed(differences) == needed
    effect = np.mean(differences) / np.std(differences, ddof=1)
    powers = [TTestPower().power(effect_size=effect, nobs=n, alpha=0.05) for n in (needed - 1, needed)]
    assert needed == 2 or powers[0] < 0.8
    assert not powers[1] < 0.8, "nan is where there is more than enough"


def test_a_power_by_simulation():
    """A true difference of one standard deviation needs ten seeds."""
    differences = np.array([-1.0, 0.0, 1.0]) + 1.0
    assert statistics.seeds_needed(differences) == 10
    draws = np.random.default_rng(0).normal(1, 1, (4000, 10))
    assert np.mean(stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05) == pytest.approx(0.8, abs=0.02)


ROUNDED = [0.83 - 0.82, 0.85 - 0.84, 0.87 - 0.86]
"""The same three times, but for rounding."""


@pytest.mark.parametrize(
    "values",
    [[], [0.5], [0.1, 0.1, 0.1], [0.0, 0.0], [math.nan, 1.0], ROUNDED, [0.8312 - 0.8311, 0.8552 - 0.8551, 0.0001]],
)
def test_what_does_not_vary_has_no_interval_no_test_and_no_power(values):
    assert statistics.mean_interval(values) is None
    assert statistics.paired_p_value(values) is None
    assert statistics.seeds_needed(values) is None


@given(st.floats(-100, 100), st.integers(2, 20))
def test_equal_values_have_a_standard_deviation_of_zero(value, number):
    """The rounded mean of three times 0.1 is another number."""
    assert statistics.standard_deviation([value] * number) == 0.0


def test_deviations_that_have_no_interval_and_no_ratio():
    assert statistics.deviation_interval(0.1, 1) is None
    assert statistics.deviation_ratio(1.0, 5, 0.0, 5) is None
    assert statistics.deviation_ratio(0.0, 5, 1.0, 5) is None, "an F test would have p = 0"
    assert statistics.deviation_ratio(1.0, 1, 1.0, 5) is None


def test_cells_of_differences():
    """For an error less is better."""
    assert statistics.difference_cells(metric("wer"), [-0.01, 0.02, -0.03]) == [
        "-0.67 +- 2.52", "-1.00 +2.00 -3.00", "2 of 3",
    ]  # fmt: skip
    assert statistics.shown_mean(metric("nll"), [0.5]) == "0.5000"
