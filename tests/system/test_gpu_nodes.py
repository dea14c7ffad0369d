"""GPUs per node come from the partition's GRES; a GPU that torch does not see is no CPU."""

import json

import pytest

from slurm.cluster import ClusterConfig, VirtualCluster
from tests.launch.commandline import glueline

LINE = ["--task", "demo", "--model", "tiny", "--nodes", "2"]


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, shared):
    """Start two hosts whose GPUs exist for the scheduler alone."""
    state = tmp_path_factory.mktemp("cluster") / "s"
    config = ClusterConfig(
        state=state, nodes=2, cpus=4, gpus=2, accounting=False, share=(shared,)
    )  # fmt: skip
    with VirtualCluster(config) as made:
        yield made


@pytest.mark.slurm
def test_the_plan_has_the_partitions_gpus(cluster, shared):
    done = glueline("submit", *LINE, "--dry-run", "--json", cwd=shared, env=cluster.env())
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)["plan"]
    assert plan["world_size"] == 4 and "bf16" in json.dumps(plan)
    shown = glueline("submit", *LINE, "--dry-run", cwd=shared, env=cluster.env()).stdout
    assert "#SBATCH --gpus-per-node=2" in shown and "--nproc-per-node 2" in shown
    one = glueline(
        "submit", *LINE, "--procs-per-node", "1", "--dry-run", cwd=shared, env=cluster.env()
    )
    assert "#SBATCH --gpus-per-node=1" in one.stdout
    # Cores and memory go with the GPUs.
    assert "#SBATCH --mem=0" in shown and "#SBATCH --mem=4000M" in one.stdout
    assert "#SBATCH --cpus-per-task=2" in one.stdout


@pytest.mark.slurm
@pytest.mark.timeout(600)
def test_gpus_that_torch_does_not_see_fail_the_run(cluster, shared):
    done = glueline(
        "submit", *LINE, "--wait", "--name", "blind", "--runs", str(shared / "runs"),
        cwd=shared, env=cluster.env(), timeout=200,
    )  # fmt: skip
    assert done.returncode == 1
    assert "torch sees none on this node" in done.stdout + done.stderr
    assert not (shared / "runs" / "blind" / "results.json").exists()


@pytest.mark.slurm
def test_doctor_says_that_torch_sees_no_gpu(cluster, shared):
    words = ["--json", "--save", "none", "--runs", str(shared / "runs")]
    done = glueline("doctor", *words, cwd=shared, env=cluster.env(), timeout=200)
    assert done.returncode == 1, done.stderr
    told = {f["check"]: f["text"] for f in json.loads(done.stdout)["findings"]}
    assert "sees no GPU on node" in told["collective"]
