"""What a run asks of nodes that are not all alike."""

import pytest

from launch import nodes
from launch.flags import Override, Request
from launch.node_kinds import NodeKind
from launch.nodes import effective_cpus, named_gpus
from launch.resolve import resolve
from tests.launch import fakes
from tests.present import present
from training.config import ClusterConfig, UsageError

V100 = NodeKind(4, 40, 380000, {"v100": 4}, frozenset({"v100"}))
A100 = NodeKind(8, 64, 1000000, {"a100": 8}, frozenset({"a100"}))
DRAINED = NodeKind(1, 40, 380000, {"v100": 3}, usable=False)
MIXED = fakes.Partition("batch", default=True, cpus_per_node=48, others=(V100, A100, DRAINED))


@pytest.fixture(autouse=True)
def mixed(workplace, monkeypatch):
    """Pretend that the default partition has nodes of several kinds; scontrol says nothing."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(workplace / "config"))
    fakes.slurm(monkeypatch, (MIXED, fakes.Partition("small", gpus_per_node=2)))
    monkeypatch.setattr("launch.limits._answer", lambda *words: "")
    monkeypatch.setattr(nodes, "ask", silent)


def silent(*words, **more):
    raise nodes.Silent("nobody answers")


def cluster(sbatch=None, device="auto", **values):
    """Return the configuration that such flags lead to."""
    flags = [Override(f"cluster.{k}", v, f"--{k}") for k, v in values.items()]
    flags.append(Override("engine.device", device, "--device"))
    request = Request(task="mnli", model="minilm", flags=tuple(flags), sbatch=sbatch or {})
    return resolve(request).config


def shape(config):
    c = config.cluster
    return config.engine.device, c.procs_per_node, c.gpus_per_node, c.cpus_per_node, c.mem


def test_where_some_nodes_have_gpus_those_are_meant():
    # Four GPUs are all of one kind and half of the other: the smaller share fits both.
    assert shape(cluster()) == ("cuda", 4, 4, 32, "380000M")


def test_features_and_numbers_choose_the_kind():
    assert shape(cluster(constraint="a100")) == ("cuda", 8, 8, 64, "0")
    assert shape(cluster(gpus_per_node="8")) == ("cuda", 8, 8, 64, "0")
    assert shape(cluster(gpus_per_node="2")) == ("cuda", 2, 2, 16, "190000M")
    assert shape(cluster(device="cpu")) == ("cpu", 1, 0, 40, None)


def test_options_of_sbatch_are_part_of_the_plan():
    assert shape(cluster(sbatch={"gres": "gpu:a100:2"})) == ("cuda", 2, 2, 16, "250000M")
    assert shape(cluster(nodes="2", sbatch={"gpus": "8"}))[:3] == ("cuda", 4, 4)
    assert shape(cluster(sbatch={"gres": "lscratch:100"}))[:3] == ("cuda", 4, 4)
    assert shape(cluster(gpus_per_node="2", sbatch={"cpus-per-gpu": "6"}))[3] == 12
    with pytest.raises(UsageError, match="no multiple of --nodes 3"):
        cluster(nodes="3", sbatch={"gpus": "8"})
    with pytest.raises(UsageError, match="--gpus-per-node 4 contradicts --sbatch gres=gpu:2"):
        cluster(gpus_per_node="4", sbatch={"gres": "gpu:2"})
    with pytest.raises(UsageError, match="--sbatch partition: use --partition"):
        cluster(sbatch={"partition": "small"})


def test_more_than_there_is_names_the_partition_that_has_it():
    with pytest.raises(UsageError, match="--nodes 14: partition batch has 13 nodes with GPUs"):
        cluster(nodes="14")
    with pytest.raises(UsageError, match="--gpus-per-node 4: partition small has 2 a node: "):
        cluster(partition="small", gpus_per_node="4")
    with pytest.raises(UsageError, match=r"batch has 4 a node$"):
        cluster(gpus_per_node="16")


def test_a_plugin_may_find_the_partition(monkeypatch):
    fakes.slurm(
        monkeypatch, (fakes.Partition("cpu", default=True), fakes.Partition("g", gpus_per_node=4))
    )
    with pytest.raises(UsageError, match="partition cpu has no GPUs: use --partition g"):
        cluster(gpus_per_node="4")
    monkeypatch.setattr(nodes, "ask", lambda *words, **more: "JobSubmitPlugins        = lua\n")
    assert shape(cluster(gpus_per_node="4")) == ("cuda", 4, 4, None, None)
    with pytest.raises(UsageError, match="partition cpu has no GPUs"):
        cluster(gpus_per_node="4", partition="cpu")


def test_cores_that_slurm_keeps_are_not_asked_for(monkeypatch):
    text = "NodeName=n1 CPUTot=64 CPUEfctv=60 CoreSpecCount=2"
    kind = NodeKind(2, 64, 1000, {}, first="n1")
    partition = fakes.Partition("cpu", default=True, nodes=0, cpus_per_node=64, others=(kind,))
    fakes.slurm(
        monkeypatch,
        (partition,),
    )
    monkeypatch.setattr(nodes, "ask", lambda *words, **more: text)
    assert cluster().cluster.cpus_per_node == 60
    assert effective_cpus({"CoreSpecCount": "2", "ThreadsPerCore": "2"}, 64) == 60
    assert effective_cpus({"CPUEfctv": "x"}, 64) == 64 and effective_cpus({}, 64) == 64
    monkeypatch.setattr(
        "launch.limits._answer", lambda *words: "PartitionName=cpu MaxCPUsPerNode=48"
    )
    assert cluster().cluster.cpus_per_node == 48


def test_old_gpus_and_slices(monkeypatch):
    old = fakes.Partition("old", default=True, nodes=0, others=(V100,))
    fakes.slurm(monkeypatch, (old,))
    assert cluster().engine.precision == "fp16"
    slices = NodeKind(2, 56, 400000, {"1g.10gb": 7})
    fakes.slurm(monkeypatch, (fakes.Partition("mig", default=True, nodes=0, others=(slices,)),))
    assert shape(cluster())[:3] == ("cuda", 1, 1)
    with pytest.raises(UsageError, match=r"slices of GPUs.*--procs-per-node 1"):
        cluster(procs_per_node="2")


def test_gpus_that_options_name():
    def named(**sbatch):
        return named_gpus(ClusterConfig(nodes=2, sbatch=sbatch))

    assert present(named(gres="gpu:a100:2,lscratch:5")).gpus == 2
    assert present(named(gpus_per_node="h100:4")).types == ("h100",)
    assert present(named(gpus="8")).gpus == 4
    assert named(gres="lscratch:5") is None and named() is None
