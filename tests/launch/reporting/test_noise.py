"""The noise scale over runs."""

import math
import random

import pytest

from launch.reporting.noise import bounds, pooled_noise
from tests.present import present

from .test_cells import record


def measured(square, trace, **more):
    return record(0.9, noise={"gradient_square": square, "trace": trace, **more})


def test_means_are_divided_and_not_ratios_averaged():
    """Of one run the noise hid the gradient: it counts all the same."""
    runs = [measured(s, t, scale=t / s) for s, t in ((0.004, 900.0), (0.45, 950.0), (0.5, 870.0))]
    runs.append(measured(-0.02, 900.0, scale=None))
    found = present(present(pooled_noise(runs)).scale)
    assert found.value == pytest.approx(3620 / 0.934) and found.count == 4
    assert present(found.low) > 0 and math.isinf(present(found.high))
    assert found.plain()["high"] is None


def test_one_run_has_the_bounds_of_its_steps():
    found = present(present(pooled_noise([measured(0.5, 50.0, low=60.0, high=None)])).scale)
    assert (found.value, found.low, found.high) == (100.0, 60.0, math.inf)
    assert present(present(pooled_noise([measured(0.5, 50.0)])).scale).low is None


def test_what_noise_hides_is_told_apart_from_what_nobody_measured():
    assert pooled_noise([record(0.9)]) is None
    assert present(pooled_noise([measured(-0.1, 50.0)])).scale is None
    assert present(pooled_noise([measured(0.1, -50.0)])).scale is None


def test_the_bounds_hold_the_truth_as_often_as_they_say():
    draw = random.Random(3)
    inside = 0
    for _ in range(400):
        traces = [draw.gauss(100.0, 10.0) for _ in range(6)]
        squares = [draw.gauss(1.0, 0.2) + (t - 100.0) / 100.0 for t in traces]
        low, high = bounds(traces, squares)
        inside += (low or 0.0) <= 100.0 <= (math.inf if high is None else high)
    assert 0.92 <= inside / 400 <= 0.98  # of 95%
