"""What rank 0 makes of what the ranks tell."""

from dataclasses import replace

import pytest
import torch

from training.config import ClusterConfig, RunConfig
from training.health import (
    RankFacts,
    matrix_flops,
    plan_problem,
    slow_node,
    unfit,
    usable_cores,
    wrong_sum,
)

CONFIG = RunConfig(cluster=ClusterConfig(nodes=2, procs_per_node=2))
PLAN = {"cores_per_rank": 4, "device": "cpu"}


def rank(number, **more):
    values = {
        "rank": number,
        "host": f"node{number // 2 + 1}",
        "node": number // 2,
        "cores": tuple(range(8)),
        "machine_cores": 8,
        "threads": 4,
        "device": "cpu",
        "model": "CPU",
        "free_mb": 1e5,
        "total_mb": 2e5,
        "matrix_flops": 1e11,
    }
    return RankFacts(**values | more)


def ranks(**of_third):
    return [rank(0), rank(1), rank(2), rank(3, **of_third)]


def test_ranks_as_planned():
    assert plan_problem(ranks(), PLAN, CONFIG) is None
    assert plan_problem(ranks(), {}, CONFIG) is None
    assert unfit(ranks()) is None and slow_node(ranks()) is None and wrong_sum(ranks()) is None


def test_a_bound_rank_is_named_with_what_to_do():
    told = plan_problem(ranks(cores=(5,)), PLAN, CONFIG)
    assert told and told.startswith("rank 3 on node2 may use 1 core, the plan says 4: ")
    assert "--cpus-per-node 2" in told
    # Each rank on its own half is as good as both on the whole.
    halves = [rank(0, cores=(0, 1, 2, 3)), rank(1, cores=(4, 5, 6, 7)), rank(2), rank(3)]
    assert [usable_cores(r, halves) for r in halves] == [4, 4, 4, 4]
    assert plan_problem(halves, PLAN, CONFIG) is None
    # A machine that has less than Slurm says is not a binding.
    few = [replace(r, cores=(0, 1), machine_cores=2, threads=1) for r in ranks()]
    assert plan_problem(few, PLAN, CONFIG) is None


def test_fewer_threads_than_planned():
    told = plan_problem(ranks(threads=1, limits={"MKL_NUM_THREADS": "1"}), PLAN, CONFIG)
    assert told and "rank 3 on node2 computes with 1 thread, the plan says 4" in told
    assert "MKL_NUM_THREADS=1 is set" in told
    chosen = RunConfig(
        cluster=ClusterConfig(nodes=2, procs_per_node=2, env={"OMP_NUM_THREADS": "1"})
    )
    assert plan_problem(ranks(threads=1), PLAN, chosen) is None


def test_gpus():
    plan = {"device": "cuda"}
    gpus = [rank(n, device="A100", model="A100", identity=f"g{n}") for n in range(4)]
    assert plan_problem(gpus, plan, CONFIG) is None
    assert "rank 0 on node1 computes on the CPU" in (plan_problem(ranks(), plan, CONFIG) or "")
    gpus[3] = replace(gpus[3], identity="g2")
    assert "ranks 2 and 3 on node2 have the same GPU" in (plan_problem(gpus, plan, CONFIG) or "")
    gpus[1] = replace(gpus[1], free_mb=2048.0, total_mb=81920.0)
    taken = unfit(gpus)
    assert taken and taken.host == "node1" and "2.0 of 80.0 GiB free" in taken.why


@pytest.mark.parametrize(("flops", "sick"), [(0.35e11, True), (0.45e11, False)])
def test_slow_nodes(flops, sick):
    found = slow_node(ranks(matrix_flops=flops))
    assert (found is not None) == sick
    assert not sick or (found and found.host == "node2" and "rank 3" in found.why)
    # Another kind of processor is another group.
    assert slow_node(ranks(matrix_flops=1e9, model="another")) is None
    # Of two the faster one is the measure.
    assert (slow_node([rank(0), rank(2, matrix_flops=flops)]) is not None) == sick


def test_a_wrong_sum_is_a_nodes_fault_unless_all_have_it():
    found = wrong_sum(ranks(reduced_right=False))
    assert found and found.host == "node2"
    assert wrong_sum([replace(r, reduced_right=False) for r in ranks()]) is None


def test_a_product_is_timed_and_threads_come_back():
    threads = torch.get_num_threads()
    flops = matrix_flops(torch.device("cpu"), 0.05)
    assert flops > 1e8 and torch.get_num_threads() == threads
    assert matrix_flops(torch.device("cpu"), 0.05, work=20) < flops / 4
