"""What trials take together."""

import time
from dataclasses import replace
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch import machine
from launch.packing import Packing
from launch.sweep_cost import cost_of, cost_words, elapsed
from training.config import ClusterConfig, EngineConfig, RunConfig, TaskConfig

NOW = time.mktime((2026, 11, 22, 10, 0, 0, 0, 0, -1))


def trials(count, executor, device: Literal["cpu", "cuda"] = "cpu", minutes=10.0):
    cluster = ClusterConfig(executor=executor, cpus_per_node=2, gpus_per_node=2)
    config = RunConfig(cluster=cluster, engine=EngineConfig(device=device))
    unit = "core-hours" if device == "cpu" else "GPU-hours"
    return [(config, {"seconds": 60 * minutes, "hours": 2 * minutes / 60, "unit": unit})] * count


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    monkeypatch.setattr(machine, "cores", lambda: 2)


@given(st.lists(st.floats(0.1, 100), max_size=20), st.integers(1, 25))
def test_trials_start_as_places_come_free(seconds, at_once):
    found = elapsed(seconds, at_once)
    assert found >= max(seconds, default=0.0) - 1e-9
    assert found >= sum(seconds) / at_once - 1e-6
    assert found <= sum(seconds) / at_once + max(seconds, default=0.0) + 1e-6
    assert elapsed(seconds, None) == max(seconds, default=0.0)


def test_two_at_a_time_on_the_same_cores_take_as_long_as_one_after_the_other():
    alone = cost_of(trials(36, "local"), Packing())
    both = cost_of(trials(36, "local"), Packing(parallel=2))
    assert alone["seconds"] == both["seconds"] == 6 * 3600
    assert alone["hours"] == both["hours"] == pytest.approx(12)
    assert cost_words(both, NOW) == (
        "about 12 core-hours; 6.0 h, 2 at a time: until 16:00 if the first starts now"
    )


def test_trials_that_share_gpus_were_planned_so():
    shared = cost_of(trials(4, "slurm", "cuda"), Packing(2, 1))
    assert shared["hours"] == pytest.approx(4 * (1 / 3) / 2) and shared["seconds"] == 1200


def test_trials_that_share_nodes_and_trials_that_do_not():
    cost = trials(4, "slurm", "cuda")
    config = replace(cost[0][0], task=TaskConfig(name="rte"))
    both = [*cost, *((config, planned) for _, planned in cost)]
    found = cost_of(both, Packing(of_task={"rte": 4}))
    # Four alone, then four on one node.
    assert found["seconds_in_a_row"] == 5 * 600 and found["seconds"] == 600
    assert found["hours"] == pytest.approx(4 * (1 / 3) + 4 * (1 / 3) / 4)
    two = cost_of(both, Packing(parallel=2, of_task={"rte": 4}))
    assert two["seconds"] == 2 * 600 + 600


def test_fewer_trials_than_places_take_as_long_as_the_longest():
    assert cost_of(trials(2, "slurm"), Packing(parallel=16))["seconds"] == 600


def test_where_slurm_may_start_all_both_ends_are_told():
    found = cost_of(trials(6, "slurm"), Packing())
    assert cost_words(found, NOW) == (
        "about 2 core-hours; 10 min if all start at once, 60 min one job after the other"
    )
    assert cost_words(cost_of(trials(20, "slurm"), Packing(workers=4)), NOW) == (
        "about 6.7 core-hours; 50 min, 4 at a time: until 10:50 if the first starts now"
    )


def test_what_no_plan_knows_is_said():
    config = RunConfig()
    assert cost_words(cost_of([(config, None)], Packing())) is None
    some = cost_of([(config, None), *trials(1, "slurm")], Packing(parallel=1))
    assert "1 trials not counted" in str(cost_words(some, NOW))
