"""The critical batch, from runs that obey a known one."""

import random

import pytest

from launch.reporting.critical import fit
from tests.present import present

BATCHES = (16, 32, 64, 128, 256, 512)


def runs(critical, min_steps=100.0, noise=0.0, seeds=3, batches=BATCHES, rng=None):
    """Return (steps, examples) of runs that obey S = Smin (1 + Bcrit / B)."""
    rng = rng or random.Random(0)
    found = []
    for batch in batches:
        for _ in range(seeds):
            steps = min_steps * (1 + critical / batch) * (1 + noise * rng.gauss(0, 1))
            found.append((steps, steps * batch))
    return found


def test_exact_runs_give_the_critical_batch_back():
    found = fit(runs(128.0))
    assert found.value == pytest.approx(128.0, rel=1e-9)
    assert found.min_steps == pytest.approx(100.0) and found.min_examples == pytest.approx(12800.0)
    assert found.says == ""
    for steps, examples in runs(128.0, seeds=1):
        hyperbola = (steps / found.min_steps - 1) * (examples / found.min_examples - 1)
        assert hyperbola == pytest.approx(1.0, rel=1e-6)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    rng = random.Random(7)
    inside = 0
    for _ in range(300):
        found = fit(runs(100.0, noise=0.08, rng=rng))
        inside += present(found.low) <= 100.0 <= present(found.high)
    assert 0.91 <= inside / 300 <= 0.99  # of 95%


def test_two_batches_are_too_few():
    found = fit(runs(128.0, batches=(32, 64)))
    assert found.value is None and "a fit needs 3" in found.says
    # The tail of an epoch makes a batch a little smaller: that is no third one.
    found = fit([*runs(128.0, batches=(32, 64)), (300.0, 300.0 * 63.5)])
    assert found.value is None


def test_steps_that_do_not_fall_say_that_it_is_below():
    found = fit([(100.0, 1600.0), (101.0, 101 * 64.0), (100.0, 25600.0)])
    assert found.value is None and "below 16" in found.says


def test_steps_that_fall_in_proportion_say_that_it_is_above():
    found = fit([(1600.0, 25600.0), (400.0, 25600.0), (100.0, 25600.0)])
    assert found.value is None and "above 256" in found.says


def test_runs_that_scatter_tell_nothing():
    steps = ((16, 95.0), (64, 108.0), (64, 99.0), (256, 31.0))
    found = fit([(s, s * batch) for batch, s in steps])
    assert found.value is None and "scatter too much" in found.says


def test_outside_of_the_batches_is_an_extrapolation():
    found = fit(runs(2000.0))
    assert found.value == pytest.approx(2000.0) and "extrapolation" in found.says
