"""Ranks that lack what the plan says, a slow node, a container, a submission inside a job."""

import json
import os
import subprocess
import sys

import pytest

from slurm.cluster import ClusterConfig, VirtualCluster
from tests.launch.commandline import ROOT, glueline
from tests.slurm.slurmtools import start_now, wait_for
from training.rundir import RunDir, read_json, snapshot

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]

LINE = ["--task", "demo", "--model", "tiny", "--max-steps", "2", "--nodes", "2"]
LINE += ["--tracker", "none", "--set", "cluster.shared=/tmp", "--runs", "runs", "--cluster", "none"]
APPTAINER = """#!/bin/sh
echo "$@" >> {folder}/apptainer.log
while [ "$1" != {image} ]; do shift; done
shift
exec env GLUELINE_INSIDE=yes "$@"
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared")
    (folder / "bin").mkdir()
    (folder / "image.sif").touch()
    tool = folder / "bin" / "apptainer"
    tool.write_text(APPTAINER.format(folder=folder, image=folder / "image.sif"))
    tool.chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, shared):
    state = tmp_path_factory.mktemp("cluster") / "s"
    config = ClusterConfig(state=state, nodes=3, cpus=2, accounting=False, share=(shared,))
    with VirtualCluster(config) as made:
        yield made


@pytest.fixture
def submit(cluster, shared):
    def go(name, *words):
        done = glueline("submit", *LINE, "--name", name, *words, cwd=shared, env=cluster.env())
        assert done.returncode == 0, done.stderr
        return RunDir(shared / "runs" / name)

    return go


def cause(run, attempt=0):
    def told():
        nodes = snapshot(run).nodes.get(attempt, [])
        found = [n["cause"] for n in nodes if n.get("cause") and not n["cause"]["secondary"]]
        return found and found[0]

    return wait_for(f"{run} did not fail", told)


@pytest.fixture
def submit_inside(cluster, shared):
    """Submit from inside another job, whose variables would spoil this one's."""

    def go(name, *words):
        line = [sys.executable, str(ROOT / "launch" / "submit.py"), *LINE, "--name", name, *words]
        env = os.environ | cluster.env() | {
            "CUDA_VISIBLE_DEVICES": "7", "RANK": "3", "OMPI_COMM_WORLD_RANK": "3",
            "SBATCH_PARTITION": "none-such", "SLURM_CPU_BIND": "map_cpu:0",
            "PATH": f"{shared}/bin:{os.environ['PATH']}",
        }  # fmt: skip
        outer = ["srun", "--nodes=1", "--ntasks=1", "--cpus-per-task=1", "--cpu-bind=none", *line]
        done = subprocess.run(
            outer, env=env, cwd=shared, capture_output=True, text=True, timeout=100, check=False
        )
        assert done.returncode == 0, done.stderr
        return RunDir(shared / "runs" / name)

    return go


def test_a_slow_node_is_left_out(cluster, shared, submit_inside):
    image = str(shared / "image.sif")
    words = ["--set", f"cluster.container={image}"]
    words += ["--set", f"cluster.container_python={sys.executable}"]
    run = submit_inside("slow", "--set", "train.fault=slow@0:1", *words)
    told = cause(run)
    sick = snapshot(run).nodes[0][1]["host"]
    assert told["kind"] == "SickNode" and told["blame"] == sick, told
    assert f"{sick} is sick: rank 1 multiplies matrices at" in told["message"]
    verdict = wait_for("no verdict", lambda: read_json(run.verdict(0)))
    assert verdict["action"] == "requeue" and verdict["exclude"] == [sick]
    job = snapshot(run).jobs[0]["job_id"]
    start_now(job, os.environ | cluster.env())
    results = wait_for("the run does not go on", lambda: read_json(run.results))
    assert results["world_size"] == 2
    hosts = [n["host"] for n in snapshot(run).nodes[1]]
    assert sick not in hosts and len(hosts) == 2
    ranks = (read_json(run.environment(1)) or {})["ranks"]
    assert [r["cores"] for r in ranks] == [2, 2] and all(r["matrix_flops"] > 0 for r in ranks)
    # The ranks of both attempts ran in the container, with what they need to see.
    log = (shared / "apptainer.log").read_text().splitlines()
    assert len(log) == 4 and all(line.startswith("exec --bind") for line in log)
    assert f"--bind {run.path.parent}:{run.path.parent}" in log[0] and "--nv" not in log[0]
    assert f"{image} sh -c" in log[0]
    # What a person would start by hand is the same.
    assert "apptainer exec --bind" in run.command.read_text()


def test_a_missing_image_is_said_at_once(cluster, shared):
    words = ["--set", "cluster.container=none.sif", "--dry-run", "--json"]
    done = glueline("submit", *LINE, *words, cwd=shared, env=cluster.env())
    assert done.returncode == 2 and "no such image file" in done.stderr
    words[1] = "cluster.container=docker://a/b:1"
    done = glueline(
        "submit", *LINE, *words, "--set", "cluster.container_runtime=pyxis",
        cwd=shared, env=cluster.env(),
    )  # fmt: skip
    command = json.loads(done.stdout)["command"]
    assert "srun --overlap" in command and "--container-image=docker://a/b:1" in command
    assert '--nodelist="$SLURMD_NODENAME"' in command


def test_a_rank_on_fewer_cores_than_planned(cluster, submit):
    for node in ("node1", "node2", "node3"):
        cluster.pin(node, {min(os.sched_getaffinity(0))})
    told = cause(submit("pinned"))
    assert told["kind"] == "UsageError", told
    assert "rank 0 on node" in told["message"]
    assert "may use 1 core, the plan says 2" in told["message"]
