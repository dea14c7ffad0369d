"""Intervals against scipy's."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from launch.reporting.stats import beta_inc, mean_interval, t_cdf, t_quantile, wilson
from tests.present import present


@given(st.floats(0.001, 0.9999), st.integers(1, 500))
@settings(max_examples=200, deadline=None)
def test_quantiles_of_t_are_those_of_scipy(p, df):
    assert t_quantile(p, df) == pytest.approx(scipy_stats.t.ppf(p, df), rel=1e-8, abs=1e-9)


@given(st.floats(-30, 30), st.floats(0.5, 300))
@settings(max_examples=200, deadline=None)
def test_distribution_of_t_is_that_of_scipy(t, df):
    assert t_cdf(t, df) == pytest.approx(scipy_stats.t.cdf(t, df), abs=1e-12)


@given(st.floats(0.3, 80), st.floats(0.3, 80), st.floats(0, 1))
@settings(max_examples=200, deadline=None)
def test_incomplete_beta_is_that_of_scipy(a, b, x):
    assert beta_inc(a, b, x) == pytest.approx(scipy_stats.beta.cdf(x, a, b), abs=1e-10)


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=12))
@settings(deadline=None)
def test_interval_of_a_mean_is_that_of_scipy(values):
    found = present(mean_interval(values))
    scale = scipy_stats.sem(values)
    if scale < 1e-12:
        return
    low, high = scipy_stats.t.interval(0.95, len(values) - 1, loc=found.value, scale=scale)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-7, abs=1e-9)
    assert found.count == len(values)


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_interval_of_a_share_is_that_of_scipy(case):
    successes, count = case
    found = present(wilson(successes, count))
    wanted = scipy_stats.binomtest(successes, count).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=1e-9)
    assert present(found.low) <= found.value <= present(found.high)


def test_one_run_has_no_interval_and_none_has_no_mean():
    assert present(mean_interval([0.5])).low is None
    assert mean_interval([]) is None and wilson(0, 0) is None


@pytest.mark.parametrize(("p", "df"), [(0.0, 3), (1.0, 3), (0.5, 0)])
def test_what_is_no_probability_is_refused(p, df):
    with pytest.raises(ValueError, match="t_quantile"):
        t_quantile(p, df)
