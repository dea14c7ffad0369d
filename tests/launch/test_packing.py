"""How trials share nodes: numbers that add up."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.packing import Packing, shares
from training.config import ClusterConfig, EngineConfig, RunConfig, TaskConfig

SLURM, LOCAL = (ClusterConfig(executor=e, cpus_per_node=8) for e in ("slurm", "local"))
COUNTS = st.lists(st.integers(1, 50), min_size=1, max_size=8)


@given(st.integers(1, 60), COUNTS)
def test_shares_add_up_and_leave_nobody_out(total, counts):
    found = shares(total, counts)
    assert all(share >= 1 for share in found)
    assert sum(found) == max(total, len(counts))
    pairs = sorted(zip(counts, found, strict=True))
    assert all(b[1] >= a[1] - 1 for a, b in itertools.pairwise(pairs)), pairs


@given(st.none() | st.integers(1, 60), COUNTS)
def test_arrays_of_several_shapes_hold_to_one_throttle(parallel, counts):
    found = Packing(parallel=parallel).divided(counts)
    if parallel is None:
        assert all(one.parallel is None for one in found)
    elif parallel >= len(counts):
        assert sum(one.parallel or 0 for one in found) == parallel
    else:
        assert all(one.parallel == parallel for one in found), "they wait for each other"


def test_workers_are_divided_too():
    assert [one.workers for one in Packing(workers=5).divided([30, 10])] == [4, 1]


@pytest.mark.parametrize(
    ("packing", "cluster", "lanes", "jobs", "slowdown"),
    [
        (Packing(), SLURM, 1, None, 1),
        (Packing(4, 6), SLURM, 4, 6, 4),
        (Packing(4, 6, workers=2), SLURM, 4, 2, 4),
        (Packing(parallel=2), LOCAL, 2, 1, 2),
        (Packing(), LOCAL, 1, 1, 1),
    ],
)
def test_what_a_packing_means(packing, cluster, lanes, jobs, slowdown):
    config = RunConfig(cluster=cluster, engine=EngineConfig(device="cpu"))
    assert (packing.lanes_of(config), packing.jobs(cluster)) == (lanes, jobs)
    assert packing.slowdown(config, 8) == slowdown
    on_gpu = RunConfig(cluster=cluster, engine=EngineConfig(device="cuda"))
    assert packing.slowdown(on_gpu, 8) == 1


def test_some_tasks_have_other_lanes():
    packing = Packing(of_task={"rte": 4})
    small, large = (
        RunConfig(task=TaskConfig(name=name), cluster=SLURM) for name in ("rte", "mnli")
    )
    assert (packing.lanes_of(small), packing.lanes_of(large)) == (4, 1)
    here = replace(small, cluster=LOCAL)
    assert packing.lanes_of(here) == 1, "on this machine --max-parallel says it"


def test_trials_of_few_cores_each_do_not_slow_each_other():
    small = ClusterConfig(executor="local", cpus_per_node=2)
    config = RunConfig(cluster=small, engine=EngineConfig(device="cpu"))
    assert Packing(parallel=4).slowdown(config, 8) == 1
