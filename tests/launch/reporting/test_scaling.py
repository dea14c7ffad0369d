"""Scaling over ranks: efficiency, and what the time went into."""

from pathlib import Path
from typing import Any

import pytest

from launch.reporting.cells import Trial
from launch.reporting.records import Record
from launch.reporting.scaling import PARTS, loss_shares, make_series
from tests.present import present
from training.sweepdir import TrialState

SHARES = {
    "padding_efficiency": 0.9,
    "rank_imbalance": 1.1,
    "data_wait_share": 0.05,
    "communication_share": 0.25,
}


def trial(ranks, batch, speed, seed=1, state: TrialState = "finished", shares: Any = None):
    throughput = {"examples_per_second": speed, **(shares or SHARES)}
    record = Record(
        f"r{ranks}-{batch}-{seed}",
        Path("r"),
        state,
        global_batch=batch,
        ranks=ranks,
        throughput=throughput,
    )
    return Trial(0, {"nodes": ranks, "global_batch": batch, "seed": seed}, record)


def test_the_shares_add_up_to_the_time():
    found = loss_shares(SHARES)
    assert sum(found.values()) == pytest.approx(1.0) and set(found) == set(PARTS)
    # 70% compute: 90% of it on real tokens; the mean rank waits a tenth of it for the slowest.
    assert found["useful"] == pytest.approx(0.63) and found["padding"] == pytest.approx(0.07)
    assert found["imbalance"] == pytest.approx(0.07)
    assert found["communication"] == pytest.approx(0.18) and found["data"] == pytest.approx(0.05)


def test_imbalance_is_at_most_what_was_waited():
    found = loss_shares(SHARES | {"communication_share": 0.02})
    assert found["imbalance"] == pytest.approx(0.02) and found["communication"] == 0.0
    assert loss_shares({"examples_per_second": 3.0}) == {}


def test_strong_scaling_holds_the_batch_and_weak_the_batch_of_a_rank():
    runs = [trial(1, 64, 100.0), trial(2, 64, 180.0), trial(4, 64, 300.0), trial(2, 128, 190.0)]
    series = {(s.kind, s.name): s for s in make_series(runs)}
    strong = series["strong", "batch 64"]
    assert [(p.ranks, p.efficiency.value) for p in strong.points] == [
        (1, pytest.approx(1.0)),
        (2, pytest.approx(0.9)),
        (4, pytest.approx(0.75)),
    ]
    weak = series["weak", "64 a rank"]
    assert [(p.ranks, p.batch) for p in weak.points] == [(1, 64), (2, 128)]
    assert weak.points[1].efficiency.value == pytest.approx(0.95)
    assert set(series) == {("strong", "batch 64"), ("weak", "64 a rank")}


def test_what_is_not_in_the_shares_is_slower_arithmetic():
    runs = [trial(1, 64, 100.0), trial(2, 64, 100.0)]
    (strong, *_) = make_series(runs)
    # The same shares and half the speed of a rank: cores that the ranks share.
    assert strong.points[1].arithmetic == pytest.approx(0.5)


def test_one_world_size_and_unfinished_runs_are_no_series():
    assert make_series([trial(2, 64, 100.0), trial(2, 64, 110.0, seed=2)]) == []
    assert make_series([trial(1, 64, 100.0), trial(2, 64, 150.0, state="running")]) == []


def test_the_interval_has_the_scatter_of_both_and_the_base_has_none():
    speeds = {1: (100.0, 110.0, 120.0), 4: (396.0, 400.0, 404.0)}
    runs = [
        trial(n, 64, speed, seed) for n, row in speeds.items() for seed, speed in enumerate(row)
    ]
    (strong, *_) = make_series(runs)
    base, four = (p.efficiency for p in strong.points)
    assert (base.value, base.low) == (1.0, None)
    assert four.value == pytest.approx(400 / 440)
    assert present(four.low) < 0.8 < 1.05 < present(four.high)
    (strong, *_) = make_series(runs[2:])
    assert strong.points[1].efficiency.low is None, "one run of the base: its scatter is not known"


def test_what_follows_the_batch_parts_no_weak_series():
    runs = [trial(1, 64, 100.0), trial(2, 128, 190.0)]
    own = [
        Trial(0, {**t.axes, "eval_every": 400 // present(t.record.ranks)}, t.record) for t in runs
    ]
    assert make_series(own) == []
    (weak,) = make_series(own, ["eval_every"])
    assert weak.kind == "weak" and len(weak.points) == 2
