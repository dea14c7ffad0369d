"""A real cluster, small: needs root and the packages of `python -m slurm.cluster install`."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from slurm.cluster import BadRequest, ClusterConfig, ClusterError, VirtualCluster, packages
from slurm.cluster.__main__ import main
from slurm.cluster.layout import Layout
from slurm.cluster.processes import end, own_processes

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(bool(packages.missing()), reason="run: python -m slurm.cluster install"),
]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Iterator[VirtualCluster]:
    config = ClusterConfig(
        state=tmp_path_factory.mktemp("c") / "s",
        nodes=2,
        gpus=2,
        preempt=True,
        share=(shared,),
        # Slurm looks after a preempted job again after KillWait and this, 20 s by default.
        extra_conf=("MessageTimeout=3",),
    )
    with VirtualCluster(config) as up:
        yield up


def small(state: Path, **asked) -> VirtualCluster:
    return VirtualCluster(ClusterConfig(state=state, nodes=2, accounting=False, **asked))


def ask(cluster: VirtualCluster, *argv: str) -> str:
    done = subprocess.run(
        argv, env=os.environ | cluster.env(), capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def submit(cluster: VirtualCluster, folder: Path, script: str, *options: str) -> str:
    words = ["sbatch", "--parsable", "-o", f"{folder}/%j.out", *options, "--wrap", script]
    return ask(cluster, *words)


def wait_until(true: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def traces(state: Path) -> list[str]:
    """What the cluster with this state folder has left behind on this machine."""
    layout = Layout(state.resolve())
    mounts = [m.split()[4] for m in Path("/proc/self/mountinfo").read_text().splitlines()]
    links = [p.name for p in Path("/sys/class/net").iterdir()]
    found = [m for m in mounts if m.startswith(str(layout.state))]
    found += [name for name in links if name.startswith(layout.link_prefix)]
    return [*found, *([str(layout.freezer)] if layout.freezer.is_dir() else [])]


def test_nodes_have_hostnames_of_their_own(cluster: VirtualCluster) -> None:
    assert sorted(ask(cluster, "srun", "-N2", "hostname").split()) == ["node1", "node2"]


def test_tmp_is_private_and_the_share_is_not(cluster: VirtualCluster, shared: Path) -> None:
    name = f"glueline-{os.getpid()}"
    script = f"echo $SLURMD_NODENAME > /tmp/{name}; cp /tmp/{name} {shared}/$SLURMD_NODENAME"
    ask(cluster, "srun", "-N2", "sh", "-c", script)
    assert (shared / "node1").read_text() == "node1\n"
    assert (shared / "node2").read_text() == "node2\n"
    assert not Path("/tmp", name).exists()
    assert cluster.exec_on("node2", ["cat", f"/tmp/{name}"]).stdout == "node2\n"


def test_finished_jobs_are_accounted_for(cluster: VirtualCluster, shared: Path) -> None:
    job = submit(cluster, shared, "true")
    wait_until(lambda: ask(cluster, "sacct", "-XnPj", job, "-o", "State") == "COMPLETED")
    assert "glueline" in ask(cluster, "sacctmgr", "-nP", "show", "cluster", "format=Cluster")


def test_pretended_gpus_schedule(cluster: VirtualCluster) -> None:
    assert ask(cluster, "sinfo", "-h", "-p", "main", "-o", "%G") == "gpu:2"
    words = ["srun", "--gpus-per-node=2", "sh", "-c", "echo $CUDA_VISIBLE_DEVICES"]
    assert ask(cluster, *words) == "0,1"


def test_an_urgent_job_requeues_another(cluster: VirtualCluster, shared: Path) -> None:
    def state(job: str) -> str:
        return ask(cluster, "squeue", "-h", "-j", job, "-o", "%T")

    meek = submit(cluster, shared, "sleep 60", "-N2", "--exclusive")
    wait_until(lambda: state(meek) == "RUNNING")
    urgent = submit(cluster, shared, "sleep 60", "-N2", "--exclusive", "-p", "urgent")
    try:
        wait_until(lambda: state(urgent) == "RUNNING", seconds=30)
        assert state(meek) == "PENDING"
        assert "Restarts=1" in ask(cluster, "scontrol", "show", "job", meek)
    finally:
        ask(cluster, "scancel", meek, urgent)
    wait_until(lambda: ask(cluster, "squeue", "-h") == "")


def test_an_outage_of_slurmd_or_of_the_network(cluster: VirtualCluster) -> None:
    def slurmd() -> int | None:
        return cluster.status()["nodes"][1]["slurmd"]

    before = slurmd()
    cluster.kill_slurmd("node2")
    assert slurmd() is None
    cluster.start_slurmd("node2")
    wait_until(lambda: slurmd() not in (None, before))
    reach = ["srun", "-Q", "--immediate=5", "-w", "node2", "true"]
    wait_until(lambda: ask(cluster, "sinfo", "-hn", "node2", "-p", "main", "-o", "%T") == "idle")
    ask(cluster, *reach)

    script = "exec 3<>/dev/tcp/ctl/65017"
    cluster.cut("node2")
    with pytest.raises(subprocess.TimeoutExpired):
        cluster.exec_on("node2", ["bash", "-c", script], timeout=1)
    cluster.mend("node2")
    assert cluster.exec_on("node2", ["bash", "-c", script], timeout=10).returncode == 0


def test_the_controller_comes_back_with_its_jobs(cluster: VirtualCluster, shared: Path) -> None:
    job = submit(cluster, shared, "sleep 60")
    wait_until(lambda: ask(cluster, "squeue", "-ho", "%T") == "RUNNING")
    cluster.restart_controller()
    assert ask(cluster, "squeue", "-ho", "%i %T") == f"{job} RUNNING"
    ask(cluster, "scancel", job)


def test_up_again_is_no_work_and_other_settings_are_refused(
    cluster: VirtualCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    before = cluster.status()["daemons"]
    cluster.up()
    assert cluster.status()["daemons"] == before
    with pytest.raises(BadRequest, match="other settings"):
        small(cluster.config.state).up()
    assert main(["status", "--state", str(cluster.config.state)]) == 0
    assert "node2" in capsys.readouterr().out
    assert VirtualCluster.standing(cluster.config.state).config == cluster.config


def test_down_leaves_nothing(tmp_path: Path) -> None:
    cluster = small(tmp_path / "made" / "s").up()
    # One child stays in the job's session and one leaves it: both must go.
    submit(cluster, tmp_path, "setsid sleep 61 & sleep 61", "-N2")
    wait_until(lambda: ask(cluster, "squeue", "-ho", "%T") == "RUNNING")
    assert cluster.down()
    assert own_processes(cluster.layout) == []
    assert traces(tmp_path / "made" / "s") == []
    assert not (tmp_path / "made").exists()
    assert not cluster.down()


def test_up_copes_with_a_killed_cluster(tmp_path: Path) -> None:
    cluster = small(tmp_path / "s").up()
    try:
        end(own_processes(cluster.layout))
        cluster.up()
        assert len(ask(cluster, "srun", "-N2", "hostname").split()) == 2
    finally:
        cluster.down()


def test_down_copes_with_a_removed_folder(tmp_path: Path) -> None:
    cluster = small(tmp_path / "s").up()
    subprocess.run(["rm", "-rf", str(tmp_path / "s")], check=False, capture_output=True)
    assert cluster.down()
    assert own_processes(cluster.layout) == []
    assert traces(tmp_path / "s") == []
    assert not (tmp_path / "s").exists()


def test_two_clusters_do_not_see_each_other(tmp_path: Path) -> None:
    with small(tmp_path / "1") as one, small(tmp_path / "2") as two:
        ask(one, "sbatch", "--hold", "-J", "first", "--wrap", "true")
        assert ask(one, "squeue", "-ho", "%j") == "first"
        assert ask(two, "squeue", "-ho", "%j") == ""
        one.down()
        assert len(ask(two, "srun", "-N2", "hostname").split()) == 2


@pytest.mark.parametrize("proctrack", ["pgid", "cgroup"])
def test_proctracks(tmp_path: Path, proctrack: str) -> None:
    if proctrack == "cgroup" and not Path("/sys/fs/cgroup/freezer/cgroup.procs").exists():
        pytest.skip("no version-1 freezer controller here")
    with small(tmp_path / "s", proctrack=proctrack) as cluster:
        assert len(ask(cluster, "srun", "-N2", "hostname").split()) == 2
        states = ask(cluster, "sinfo", "-ho", "%T").split()
        assert not any("drain" in state for state in states)
    assert traces(tmp_path / "s") == []


def test_a_failure_is_explained_and_leaves_nothing_running(tmp_path: Path) -> None:
    cluster = small(tmp_path / "s", extra_conf=("SelectType=select/nonsense",))
    with pytest.raises(ClusterError) as failure:
        cluster.up()
    assert "nonsense" in failure.value.log
    assert own_processes(cluster.layout) == []
    assert cluster.down()


def test_a_folder_that_is_not_a_clusters_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    cluster = small(tmp_path)
    with pytest.raises(BadRequest, match="neither empty"):
        cluster.up()
    assert not cluster.down()
    assert (tmp_path / "precious").exists()
