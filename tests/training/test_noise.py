"""The estimates of gradient noise are unbiased, also where rows of one length are alike."""

import itertools

import numpy as np
import pytest

from training.batching import cut_step
from training.config import (
    BatchConfig,
    EngineConfig,
    ModelConfig,
    RunConfig,
    TaskConfig,
    TrainConfig,
    UsageError,
)
from training.config.schema import build
from training.dealing import deal_step
from training.noise import Estimate, NoiseMeter, NoiseTotals, estimate, rows_square

from .test_train import demo


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 7])
def test_the_mean_over_all_deals_is_exact(rows):
    gradients = np.random.default_rng(rows).normal(2.0, 1.0, (rows, 5))
    half = -(-rows // 2)
    found = []
    for group in itertools.combinations(range(rows), half):
        a = gradients[list(group)].sum(axis=0)
        b = gradients.sum(axis=0) - a
        found.append(rows_square(a @ a, a @ b, b @ b, half, rows - half))
    assert np.mean(found) == pytest.approx((gradients**2).sum())


def test_a_group_without_its_other_half_is_refused():
    with pytest.raises(ValueError, match="3 rows in one group"):
        rows_square(1.0, 0.0, 0.0, 3, 0)


class Problem:
    """Rows whose gradients are known: a common one, one of their length, and noise.

    The mean over lengths of the second part is zero, so it is noise too; but neighbours in length
    share it, which is what misleads an estimator that takes micro-batches for random samples.
    """

    width, sigma, lengths = 20, 1.0, 8

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.common = rng.normal(0, 0.1, self.width)
        own = rng.normal(0, 1.0, (self.lengths, self.width))
        self.of_length = own - own.mean(axis=0)
        self.square = float(self.common @ self.common)
        between = float((self.of_length**2).sum(axis=1).mean())
        self.trace = self.width * self.sigma**2 + between

    def draw(self, rng: np.random.Generator, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Return lengths and gradients of some rows."""
        kind = rng.integers(0, self.lengths, rows)
        noise = rng.normal(0, self.sigma, (rows, self.width))
        return (kind + 1).astype(np.int32), self.common + self.of_length[kind] + noise


def dealt_estimate(lengths: np.ndarray, gradients: np.ndarray, step: int) -> Estimate:
    """Return what a measured step of two ranks finds."""
    rows = len(lengths)
    cut = deal_step(np.arange(rows), lengths, 2, 64, seed=3, step=step)
    each = 0.0
    for rank in cut.micro:
        for own, other in zip(rank[::2], rank[1::2], strict=True):
            a, b = gradients[own].sum(axis=0), gradients[other].sum(axis=0)
            if len(own):
                each += rows_square(a @ a, a @ b, b @ b, len(own), len(other))
    norm = float(np.linalg.norm(gradients.sum(axis=0))) / rows
    return estimate(norm, each / rows**2, rows)


def textbook_estimate(lengths: np.ndarray, gradients: np.ndarray) -> Estimate:
    """Return what micro-batches of the ordinary cut would say, were they random groups."""
    rows = len(lengths)
    cut = cut_step(np.arange(rows), lengths, 2, 64)
    sums = [(len(m), gradients[m].sum(axis=0)) for rank in cut.micro for m in rank]
    small, large = sum(float(s @ s) for _, s in sums), gradients.sum(axis=0)
    pairs = rows**2 - sum(n * n for n, _ in sums)
    square = (float(large @ large) - small) / pairs
    return Estimate(square, (small - sum(n * n for n, _ in sums) * square) / rows)


def off(values: list[float], truth: float) -> float:
    """Return by how many standard errors a mean is off."""
    return float((np.mean(values) - truth) / (np.std(values) / np.sqrt(len(values))))


def test_sorted_micro_batches_are_no_obstacle():
    problem, rng = Problem(), np.random.default_rng(1)
    dealt, naive = [], []
    for step in range(1500):
        lengths, gradients = problem.draw(rng, 61)
        dealt.append(dealt_estimate(lengths, gradients, step))
        naive.append(textbook_estimate(lengths, gradients))
    assert abs(off([e.square for e in dealt], problem.square)) < 4
    assert abs(off([e.trace for e in dealt], problem.trace)) < 4
    assert off([e.square for e in naive], problem.square) < -20  # below zero, in fact
    assert np.mean([e.square for e in naive]) < 0 < np.mean([e.square for e in dealt])


def test_the_run_averages_before_it_divides_and_says_how_sure_it_is():
    rng, inside, found = np.random.default_rng(0), 0, {}
    for _ in range(300):
        meter = NoiseMeter()
        for _ in range(20):
            meter.add(Estimate(1.0 + rng.normal(0, 1.0), 50.0 + rng.normal(0, 10.0)))
        found = meter.summary() or {}
        assert found["scale"] == found["trace"] / found["gradient_square"]
        inside += found["low"] <= 50.0 <= (found["high"] or np.inf)
    assert 0.9 < inside / 300 < 0.99


def test_where_noise_hides_the_gradient_no_number_is_made_up():
    totals = NoiseTotals()
    assert totals.summary() is None
    totals.add(Estimate(-0.5, 40.0))
    found = totals.summary() or {}
    assert (found["steps"], found["scale"], found["low"], found["high"]) == (1, None, None, None)
    for square in (1.0, 0.4, -0.2):
        totals.add(Estimate(square, 40.0 + square))
    found = totals.summary() or {}
    assert found["scale"] > 0 and 0 < found["low"] < found["scale"] and found["high"] is None


def test_what_a_checkpoint_keeps_goes_on():
    meter, other = NoiseMeter(), NoiseMeter()
    meter.add(Estimate(1.0, 10.0))
    assert meter.window() == {"noise_gradient_square": 1.0, "noise_trace": 10.0}
    assert meter.window() == {}
    meter.add(Estimate(3.0, 20.0))
    meter.add(None)  # not finite, as when fp16 overflows
    other.restore(meter.state())
    assert other.window() == {"noise_gradient_square": 3.0, "noise_trace": 20.0}
    assert other.summary() == meter.summary()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train": TrainConfig(noise_every=-1)}, "train.noise_every must be at least 0"),
        ({"batch": BatchConfig(global_batch=1)}, "--global-batch 2"),
        ({"engine": EngineConfig(compile="graphs", device="cuda")}, "--compile layers"),
    ],
)
def test_what_cannot_be_measured_is_refused(changes, words):
    model = ModelConfig(name="tiny", architecture="bert")
    settings = {
        "task": build(TaskConfig, demo()),
        "model": model,
        "train": TrainConfig(noise_every=5),
    } | changes
    with pytest.raises(UsageError, match=words):
        RunConfig(**settings).check()
