"""The doctor on a real Slurm: a healthy cluster, then one fault beside the other."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from slurm.cluster import ClusterConfig, VirtualCluster
from tests.launch.commandline import assert_refused, glueline

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]

PROLOG = """#!/bin/sh
[ -e {folder}/wrong-clock ] && [ "$(hostname)" = node2 ] &&
  echo "export PYTHONPATH={folder}/site:$PYTHONPATH"
exit 0
"""
CLOCK = """import time
_real = time.time
time.time = lambda: _real() + 90
"""
SCONTROL = """#!/bin/sh
[ "$1" = requeue ] && {{ echo "Access/permission denied" >&2; exit 1; }}
exec {folder}/scontrol-itself "$@"
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared")
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(CLOCK)
    for name, text in (("prolog", PROLOG), ("scontrol-denied", SCONTROL)):
        (folder / name).write_text(text.format(folder=folder))
        (folder / name).chmod(0o755)
    shutil.copy(shutil.which("scontrol") or "", folder / "scontrol-itself")
    return folder


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, shared):
    config = ClusterConfig(
        state=tmp_path_factory.mktemp("cluster") / "s",
        nodes=2,
        cpus=2,
        accounting=False,
        share=(shared,),
        extra_conf=(
            f"TaskProlog={shared}/prolog",
            "PartitionName=short Nodes=ALL MaxTime=2 State=UP",
            "PartitionName=gone Nodes=ALL State=DOWN",
        ),
    )
    with VirtualCluster(config) as made:
        yield made


@pytest.fixture
def ask(cluster, shared):
    def go(*words, env=None, timeout=150):
        more = cluster.env() | {"XDG_CONFIG_HOME": str(shared / "config")} | (env or {})
        done = glueline("doctor", "--json", *words, cwd=shared, env=more, timeout=timeout)
        assert done.returncode in (0, 1), done.stderr
        return done.returncode, json.loads(done.stdout), done.stderr

    return go


def said(told, level):
    return {f["check"]: f["text"] for f in told["findings"] if f["level"] == level}


def no_job_is_left(cluster):
    queue = ["squeue", "-h", "-t", "PENDING,RUNNING"]
    done = subprocess.run(
        queue, env=os.environ | cluster.env(), capture_output=True, text=True, check=True
    )
    return not done.stdout.strip()


def test_a_healthy_cluster(cluster, shared, ask):
    runs = shared / "my runs"
    status, told, _ = ask("--runs", str(runs))
    assert status == 0 and told["problems"] == 0, said(told, "problem")
    good, notes = said(told, "ok"), said(told, "note")
    assert {"ports", "clocks", "signals", "requeue", "cores", "collective", "speed"} <= set(good)
    assert "GB/s over 2 ranks (gloo)" in good["collective"]
    assert str(runs) in good["folders"] and "20000-29999 are open" in good["ports"]
    assert "no accounting" in notes["accounting"]
    # What it leaves: no job, no file but the profile.
    assert no_job_is_left(cluster)
    assert not runs.exists() and not list(shared.glob(".glueline*"))
    profile = yaml.safe_load((shared / "config/glueline/clusters/glueline.yaml").read_text())
    assert profile["runs"] == str(runs) and profile["cluster"]["requeue"] == "yes"
    assert str(shared) in profile["cluster"]["shared"]
    assert profile["measured"]["cores_per_node"] == 2
    # submit uses it from now on, says so, and can be told not to.
    line = ["--task", "demo", "--model", "tiny", "--dry-run"]
    env = cluster.env() | {"XDG_CONFIG_HOME": str(shared / "config")}
    env.pop("GLUELINE_SHARED")
    done = glueline("submit", *line, cwd=shared, env=env)
    assert done.returncode == 0, done.stderr
    assert f"chdir={runs}" in done.stdout.replace("'", "").replace('"', "")
    assert "site profile glueline" in done.stdout and "profile glueline" in done.stdout
    done = glueline("submit", *line, "--cluster", "none", cwd=shared, env=env)
    assert_refused(done, "the nodes cannot see the runs folder")


def test_bad_requests_and_what_the_login_node_sees(cluster, shared, ask):
    env = cluster.env() | {"XDG_CONFIG_HOME": str(shared / "config")}
    for words, expected in (
        (["--partition", "nope"], "unknown partition 'nope'"),
        (["--nodes", "9"], "has 2 nodes"),
        (["--executor", "local"], "leave out --executor"),
        (["--save", "a/b"], "--save"),
        (["--cluster", "nope"], "unknown site profile"),
    ):
        assert_refused(glueline("doctor", *words, cwd=shared, env=env), expected)
    status, told, _ = ask("--partition", "gone")
    assert status == 1 and "partition gone is down" in said(told, "problem")["partition"]
    assert told["job_id"] is None
    status, told, _ = ask("--save", "none", "--sbatch", "begin=now+1hour", "--timeout", "2")
    assert status == 0 and not told["measured"] and told["profile"] is None
    assert "still in the queue" in said(told, "note")["canary"]
    status, told, _ = ask("--sbatch", "reservation=none-such")
    assert status == 1 and "reservation" in said(told, "problem")["submission"].lower()
    assert no_job_is_left(cluster)


def test_every_fault_is_named(cluster, shared, ask):
    (shared / "wrong-clock").touch()
    cluster.block_ports("node2", 20000, 29999)
    cluster.pin("node2", {min(os.sched_getaffinity(0))})
    bind = ["mount", "--bind", str(shared / "scontrol-denied"), shutil.which("scontrol") or ""]
    assert cluster.exec_on("node1", bind).returncode == 0
    private = Path("/var/tmp") / f"glueline-doctor-{os.getpid()}"
    own = ["sh", "-c", f"mkdir -p {private}; mount -t tmpfs x {private}"]
    nodes_own = cluster.exec_on("node2", own)
    private.mkdir(exist_ok=True)
    assert nodes_own.returncode == 0
    try:
        status, told, _ = ask(
            "--partition", "short", "--save", "sick",
            "--set", f"cluster.shared={shared},{private}", "--runs", str(shared / "runs"),
        )  # fmt: skip
    finally:
        (shared / "wrong-clock").unlink()
        cluster.exec_on("node2", ["umount", str(private)])
        shutil.rmtree(private)
        cluster.block_ports("node2", 1, 0)
        cluster.pin("node2", os.sched_getaffinity(0))
    assert status == 1
    found = said(told, "problem")
    assert "clock of node2 is 9" in found["clocks"] and "ahead" in found["clocks"]
    assert "to node2 ports 20000-29999 are blocked" in found["ports"]
    assert "node2 may use 1 core, Slurm gave it 2" in found["cores"]
    assert "put itself back into the queue: Access/permission denied" in found["requeue"]
    assert f"{private} is not shared: node2 does not see" in found["folders"]
    assert "partition short allows jobs of 0:02:00" in found["limits"]
    assert all(f["mend"] for f in told["findings"] if f["level"] == "problem")
    assert told["values"]["cluster"]["requeue"] == "no"
    assert told["values"]["cluster"]["shared"] == [str(shared)]


def test_a_private_runs_folder_and_no_munge(cluster, shared, ask):
    private = f"/tmp/glueline-private-{os.getpid()}"
    status, told, log = ask(
        "--save", "none", "--set", f"cluster.shared={private}", "--runs", private
    )
    assert status == 1, told
    found = [f["text"] for f in told["findings"] if f["level"] == "problem"]
    assert any(f"{private} is not shared" in text for text in found), found
    assert "trying another folder" in log and told["measured"]
    assert not Path(private).exists()
    cluster.stop_munge()
    status, told, _ = ask()
    assert status == 1 and "munge" in said(told, "problem")["munge"]
