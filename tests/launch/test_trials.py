"""From what a sweep varies to its trials: what they share, and what each has of a node."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launch import machine
from launch.executor_local import visible_gpus
from launch.flags import Override, Request
from launch.grid import Spec
from launch.packing import Packing
from launch.sweep import check_packing
from launch.trials import Compiled, compile_sweep, gpus_of_lane, plan_again
from slurm.allocation import LANE, Allocation
from slurm.worker import lane_environment
from training.config import UsageError

from . import fakes


@pytest.fixture(autouse=True)
def here(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory beside a cluster with nodes of four GPUs."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(workplace / "config"))
    monkeypatch.setattr(machine, "local_gpus", lambda: 0)
    fakes.slurm(monkeypatch)
    return workplace


def compiled(lanes: int, *typed: tuple[str, Any]) -> Compiled:
    values: dict[str, Any] = {"cluster.partition": "gpu", "cluster.time": "60", **dict(typed)}
    flags = tuple(Override(k, v, f"--{k.split('.')[1]}") for k, v in values.items())
    spec = Spec(axes={"seed": (1, 2)})
    request = Request(task="demo", model="tiny", flags=flags)
    local = values.get("cluster.executor") == "local"
    packing = Packing(parallel=lanes) if local else Packing(lanes)
    return compile_sweep(request, spec, packing)


def shape(found: Compiled) -> tuple[int | None, int | None, int | None]:
    cluster, *others = [found.config(t).cluster for t in found.trials]
    assert all(other == cluster for other in others)
    return cluster.gpus_per_node, cluster.procs_per_node, cluster.cpus_per_node


@pytest.mark.parametrize("lanes", [1, 2, 3, 4, 8])
def test_trials_that_share_a_node_have_a_rank_for_each_gpu_of_their_share(lanes: int) -> None:
    found = compiled(lanes)
    ranks = max(1, 4 // lanes)
    assert shape(found) == (4, ranks, 32)
    check_packing(found, Packing(lanes))
    plans = {found.plans[t.plan].procs_per_node for t in found.trials}
    assert plans == {ranks}
    # What a worker gives each of them holds so many GPUs.
    allocation = Allocation("1_0", "1", ("a",), node=0, cores=32, restarts=0, slurm=True)
    for lane in range(lanes):
        given = lane_environment(allocation, lane, lanes, {"CUDA_VISIBLE_DEVICES": "0,1,2,3"})
        every = {"ROCR_VISIBLE_DEVICES": "0,1,2,3", "CUDA_VISIBLE_DEVICES": "0,1,2,3"}
        of_amd = lane_environment(allocation, lane, lanes, every, amd=True)
        assert of_amd["ROCR_VISIBLE_DEVICES"] == given["CUDA_VISIBLE_DEVICES"]
        assert "CUDA_VISIBLE_DEVICES" not in of_amd
        assert len(given["CUDA_VISIBLE_DEVICES"].split(",")) >= ranks == gpus_of_lane(4, lanes)
        assert given[LANE] == f"{lane}/{lanes}"


def test_a_run_id_says_the_ranks_that_a_trial_has() -> None:
    alone, packed = compiled(1), compiled(4)
    typed = compiled(4, ("cluster.gpus_per_node", 4), ("cluster.procs_per_node", 1))
    assert [t.run_id for t in packed.trials] == [t.run_id for t in typed.trials]
    assert not {t.run_id for t in alone.trials} & {t.run_id for t in packed.trials}
    for trial in packed.trials:
        assert packed.config(trial).run_id() == trial.run_id


def test_gpus_that_were_typed_are_shared_out() -> None:
    found = compiled(2, ("cluster.gpus_per_node", 2))
    assert shape(found) == (2, 1, 16)
    check_packing(found, Packing(2))


@pytest.mark.parametrize(
    ("lanes", "typed", "said"),
    [
        (4, {"procs_per_node": 4}, "4 ranks, and 1 of a node's 4 GPUs: use --gpus-per-node 4"),
        (2, {"procs_per_node": 2}, "use --gpus-per-node 2 --procs-per-node 1"),
        (2, {"procs_per_node": 2, "gpus_per_node": 2}, "--procs-per-node 1"),
        (2, {"nodes": 2}, "trials of 2 nodes cannot share a node"),
    ],
)
def test_ranks_that_do_not_fit_are_refused_in_a_line(
    lanes: int, typed: dict[str, Any], said: str
) -> None:
    found = compiled(lanes, *((f"cluster.{key}", value) for key, value in typed.items()))
    with pytest.raises(UsageError, match=said) as caught:
        check_packing(found, Packing(lanes))
    assert f"--pack {lanes}" in str(caught.value) and "\n" not in str(caught.value)
    check_packing(found, Packing(1))


LOCAL = (("cluster.executor", "local"), ("cluster.partition", None))


def test_trials_that_share_this_machine_share_its_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "local_gpus", lambda: 4)
    for lanes, ranks in ((1, 4), (2, 2), (4, 1), (8, 1)):
        found = compiled(lanes, *LOCAL)
        assert shape(found)[:2] == (4, ranks)
        check_packing(found, Packing(parallel=lanes))
        config = found.config(found.trials[0])
        assert visible_gpus(config, None) == "0,1,2,3", "of the worker: all are shared out"
    one = compiled(4, *LOCAL, ("cluster.procs_per_node", 1))
    assert shape(one)[:2] == (4, 1)
    many = compiled(4, *LOCAL, ("cluster.procs_per_node", 2))
    with pytest.raises(UsageError, match="1 of this machine's 4 GPUs: use --procs-per-node 1"):
        check_packing(many, Packing(parallel=4))
    with pytest.raises(UsageError, match="--pack 2 is for the nodes of a cluster"):
        check_packing(one, Packing(2))
    nodes = compiled(1, ("cluster.nodes", 2))
    with pytest.raises(UsageError, match="--workers 3: a job of 2 nodes runs one trial"):
        check_packing(nodes, Packing(workers=3))


PLACES = [
    *[("cluster.time", "120"), ("cluster.mem", "20G"), ("cluster.cpus_per_node", 3)],
    *[("tracking.tracker", "none"), ("train.keep", "model"), ("cluster.partition", "cpu")],
]


@pytest.mark.parametrize(("key", "value"), PLACES)
def test_where_and_how_long_a_trial_computes_is_no_part_of_what_it_is(key: str, value: Any) -> None:
    plain = compiled(1, ("engine.device", "cpu"))
    other = compiled(1, ("engine.device", "cpu"), (key, value))
    assert [t.run_id for t in plain.trials] == [t.run_id for t in other.trials]


def test_what_a_sweep_varies_is_a_part_of_it_whatever_it_is() -> None:
    request = Request(task="demo", model="tiny")
    found = compile_sweep(request, Spec(axes={"cluster.partition": ("gpu", "cpu"), "seed": (1,)}))
    assert len({t.run_id for t in found.trials}) == 2 and not found.twins


def test_ranks_on_cpus_are_as_typed() -> None:
    found = compiled(2, ("cluster.partition", "cpu"), ("cluster.procs_per_node", 2))
    assert shape(found) == (0, 2, 8)
    check_packing(found, Packing(2))


def test_auto_beside_what_it_means_is_one_trial() -> None:
    values = ("auto", "bf16", "fp32")
    request = Request(
        task="demo", model="tiny", flags=(Override("cluster.partition", "gpu", "--partition"),)
    )
    found = compile_sweep(request, Spec(axes={"engine.precision": values}))
    assert [t.axes["engine.precision"] for t in found.trials] == ["auto", "fp32"]
    assert found.twins == (({"engine.precision": "bf16"}, {"engine.precision": "auto"}),)
    budgets = compile_sweep(request, Spec(axes={"batch.micro_tokens": ("auto", 512)}))
    sizes = [budgets.config(t).batch.micro_tokens for t in budgets.trials]
    assert sizes[1] == 512 and isinstance(sizes[0], int) and sizes[0] != 512


def test_what_is_fetched_is_planned_anew(data_dir: Path) -> None:
    flags = (Override("cluster.time", "60", "--time"), Override("cluster.partition", "gpu", "--p"))
    request = Request(task="rte", model="tiny", flags=flags)
    found = compile_sweep(request, Spec(axes={"seed": (1, 2), "global_batch": (16, 32)}))
    names = set(found.plans)
    assert all(plan.rows is None for plan in found.plans.values())
    ((name, base),) = found.bases.items()
    task = replace(base.config.task, path=str(data_dir / "glue"))
    found.bases[name] = replace(base, config=replace(base.config, task=task))
    plan_again(found, name)
    assert set(found.plans) == names == {t.plan for t in found.trials}
    for trial in found.trials:
        plan = found.plans[trial.plan]
        assert plan.rows is not None and plan.rows["validation"] == 277
        assert plan.global_batch == trial.axes["global_batch"]
