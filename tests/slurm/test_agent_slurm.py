"""The agent under a real Slurm of several hosts, over small ranks without torch."""

import contextlib
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch import slurm_site
from launch.slurm_site import job_states, partitions, sbatch_available
from launch.submit import submit_jobs
from slurm.agent import NodeAgent
from slurm.cluster import ClusterConfig as VirtualConfig
from slurm.cluster import VirtualCluster, daemons
from training.config import UsageError, load_config
from training.rundir import RunDir, first_cause, read_json, run_state, snapshot, write_json

from .slurmtools import start_now, wait_for

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]

STANDINS = Path(__file__).parent / "standins"
ROOT = Path(__file__).resolve().parents[2]
NUMBERS = itertools.count()
STATE = Path(f"/var/tmp/glueline-agent-{os.getpid()}")

linuxproc = pytest.mark.parametrize("cluster", ["linuxproc"], indirect=True)
"""For what does not depend on how Slurm follows processes."""


@pytest.fixture(scope="module", params=["linuxproc", "pgid", "cgroup"])
def cluster(request, tmp_path_factory):
    """Two hosts; the folders of the test, of Python and of the code are shared."""
    base = tmp_path_factory.mktemp(request.param)
    shared = tuple(dict.fromkeys([base, Path(sys.prefix), Path(sys.base_prefix), ROOT]))
    config = VirtualConfig(
        state=STATE,
        nodes=2,
        cpus=2,
        gpus=2,
        proctrack=request.param,
        preempt=True,
        share=shared,
        extra_conf=("KillWait=15", "MessageTimeout=3"),
    )
    with VirtualCluster(config) as up:
        before = dict(os.environ)
        os.environ.update(up.env())
        slurm_site.partitions.cache_clear()
        try:
            yield base
        finally:
            os.environ.clear()
            os.environ.update(before)
            slurm_site.partitions.cache_clear()


@pytest.fixture
def submit(cluster, request, monkeypatch):
    """Submit stand-in ranks; every job is cancelled at the end."""
    jobs = []
    monkeypatch.setitem(NodeAgent.__init__.__kwdefaults__, "module", "standin")

    def go(plan, seconds=0.0, nodes=2, procs=2, partition="main", **cluster_keys):
        run = RunDir(cluster / "runs of 'ours'" / f"{request.node.originalname}-{next(NUMBERS)}")
        run.path.mkdir(parents=True)
        write_json(
            run.config,  # JSON is YAML
            {
                "cluster": {
                    "executor": "slurm",
                    "nodes": nodes,
                    "procs_per_node": procs,
                    "cpus_per_node": 1,
                    "partition": partition,
                    "time": "10",
                    "env": {
                        "PYTHONPATH": f"{ROOT}:{STANDINS}",
                        "GLUELINE_STANDIN": plan,
                        "GLUELINE_STANDIN_SECONDS": str(seconds),
                    },
                    **cluster_keys,
                },
                "engine": {"device": "cpu"},
            },
        )
        job = submit_jobs(load_config(run.config), run, 0)
        jobs.extend(entry["job_id"] for entry in snapshot(run).jobs)
        return run, job

    yield go
    for job in jobs:
        subprocess.run(["scancel", "-f", job], check=False)
    deadline = time.monotonic() + 60
    while any(i.state != "gone" for i in job_states(jobs).values()):
        assert time.monotonic() < deadline
        time.sleep(0.5)


def gone(job, seconds=90.0):
    def ended():
        info = job_states([job])[job]
        return info if info.state == "gone" else None

    return wait_for(f"job {job} goes on", ended, seconds)


def started(run, ranks=4, attempt=0):
    paths = [run.logs(attempt) / f"seen-{rank}.json" for rank in range(ranks)]
    wait_for("ranks did not start", lambda: all(p.exists() for p in paths))
    return [read_json(p) or {} for p in paths]


def output(run):
    return "".join(p.read_text() for p in run.submitit.glob("*.out"))


def ends(run, attempt=0, nodes=2):
    return [(read_json(run.node(attempt, k)) or {}).get("end") for k in range(nodes)]


def assert_no_ranks(run, attempt=0):
    """All hosts of the virtual cluster share one process table."""
    pids = [(read_json(p) or {})["pid"] for p in run.logs(attempt).glob("seen-*.json")]
    assert pids
    wait_for("ranks are left", lambda: not any(Path(f"/proc/{p}").exists() for p in pids), 20)


def test_two_nodes_finish(submit):
    run, job = submit("ok")
    info = gone(job)
    assert info.slurm == "COMPLETED", output(run)
    seen = started(run)
    assert [s["RANK"] for s in seen] == ["0", "1", "2", "3"]
    assert [s["GLUELINE_NODE"] for s in seen] == ["0", "0", "1", "1"]
    assert [s["host"] for s in seen] == ["node1", "node1", "node2", "node2"]
    assert {s["MASTER_ADDR"] for s in seen} == {"node1"}
    assert {s["OMP_NUM_THREADS"] for s in seen} == {"1"}
    nodes = [read_json(run.node(0, k)) or {} for k in (0, 1)]
    assert [n["end"] for n in nodes] == ["finished", "finished"]
    assert [n["host"] for n in nodes] == ["node1", "node2"]
    assert {n["job_id"] for n in nodes} == {job}
    assert run_state(snapshot(run), "gone") == "finished"


@pytest.mark.parametrize(
    ("plan", "rank", "message", "why", "keys"),
    [
        ("raise:3", 3, "the data ran out", "it would fail again", {}),
        ("kill:1", 1, "rank 1 was killed (signal 9)", "failed once", {"max_retries": 0}),
        ("kill:2", 2, "rank 2 was killed (signal 9)", "failed once", {"max_retries": 0}),
    ],
)
def test_a_dead_rank_takes_all_down(submit, plan, rank, message, why, keys):
    run, job = submit(plan, **keys)
    started(run)
    start = time.monotonic()
    info = gone(job)
    took = time.monotonic() - start
    print(f"\n{plan}: all gone after {took:.0f} s")
    assert took < 60
    assert info.slurm == "FAILED"
    files = snapshot(run)
    assert run_state(files, "gone") == "failed"
    cause = first_cause(files)
    assert cause, output(run)
    assert cause["rank"] == rank
    assert message in cause["message"]
    assert run.path.joinpath(cause["log"]).is_file()
    other = read_json(run.node(0, 0 if rank >= 2 else 1)) or {}
    assert other["end"] == "failed", output(run)
    assert other["cause"]["secondary"] is True
    assert_no_ranks(run)
    verdict = read_json(run.verdict(0)) or {}
    assert verdict["action"] == "stop", output(run)
    assert why in verdict["why"]
    assert f"glueline submit --resume {run.run_id}" in verdict["why"]
    assert why in output(run)


def queued_again(run, job, attempt=0):
    """Wait until a failed job is queued again, and have it start."""
    wait_for("not queued again", lambda: job_states([job])[job].state == "queued")
    verdict = read_json(run.verdict(attempt)) or {}
    assert verdict["action"] == "requeue", output(run)
    start_now(job)
    return verdict


@linuxproc
def test_a_killed_rank_is_tried_again(submit):
    run, job = submit("kill:2:once")
    started(run)
    verdict = queued_again(run, job)
    assert "rank 2 was killed (signal 9): out of memory?: retry 1 of 3" in verdict["why"]
    assert gone(job).slurm == "COMPLETED", output(run)
    assert ends(run, 0) == ["failed"] * 2
    assert ends(run, 1) == ["finished"] * 2
    assert_no_ranks(run)


@linuxproc
@pytest.mark.parametrize("node", [0, 1])
def test_a_killed_agent_is_missed(submit, node):
    run, job = submit("kill:99:once")  # nobody is killed: all hang, as in a collective
    started(run)
    os.kill((read_json(run.node(0, node)) or {})["pid"], 9)
    start = time.monotonic()
    verdict = queued_again(run, job)
    print(f"\nqueued again after {time.monotonic() - start:.0f} s")
    other = read_json(run.node(0, 1 - node)) or {}
    assert (other["end"], other["cause"]["kind"]) == ("failed", "PeerFailed"), output(run)
    assert other["cause"]["blame"] == f"node{node + 1}"
    assert f"node{node + 1}" in verdict["why"]
    assert verdict["exclude"] == []  # both nodes are needed
    assert gone(job).slurm == "COMPLETED", output(run)
    assert run.results.exists()
    assert_no_ranks(run)


@linuxproc
def test_a_bad_node_is_avoided(submit):
    plan = "raise:0:once:kind=OSError:message=[Errno 5] Input/output error"
    run, job = submit(plan, nodes=1)
    seen = started(run, ranks=2)
    verdict = queued_again(run, job)
    assert verdict["exclude"] == [seen[0]["host"]]
    assert gone(job).slurm == "COMPLETED", output(run)
    again = started(run, ranks=2, attempt=1)
    assert again[0]["host"] != seen[0]["host"], output(run)


@linuxproc
def test_a_job_of_one_node_starts_again_by_itself(submit):
    run, job = submit("kill:1:once", nodes=1)
    assert gone(job).slurm == "COMPLETED", output(run)
    assert (read_json(run.verdict(0)) or {})["action"] == "restart"
    assert [(read_json(run.node(n, 0)) or {})["end"] for n in (0, 1)] == ["failed", "finished"]


@linuxproc
def test_the_controller_is_away_when_the_job_wants_to_be_queued_again(submit, cluster):
    run, job = submit("once", seconds=300)
    started(run)
    virtual = VirtualCluster.standing(STATE)
    daemons.shut_down_slurmctld(virtual.layout)
    try:
        for node in (0, 1):
            os.kill((read_json(run.node(0, node)) or {})["pid"], 12)
        wait_for("Slurm is not asked", lambda: "asking again" in output(run))
    finally:
        virtual.restart_controller(crash=True)
    wait_for("not queued again", lambda: job_states([job])[job].state == "queued")
    start_now(job)
    assert gone(job).slurm == "COMPLETED", output(run)
    assert ends(run, 1) == ["finished"] * 2


@linuxproc
def test_the_controller_restarts_under_a_run(submit, cluster):
    run, job = submit("ok", seconds=8)
    started(run)
    VirtualCluster.standing(STATE).restart_controller()
    assert gone(job).slurm == "COMPLETED", output(run)
    assert ends(run, 0) == ["finished"] * 2


@linuxproc
def test_a_chain_of_jobs_where_requeue_is_forbidden(submit):
    run, job = submit("once", seconds=300, requeue="no")
    first, second, third = snapshot(run).jobs
    assert (first["job_id"], second["after"], third["after"]) == (job, job, second["job_id"])
    started(run)
    assert job_states([second["job_id"]])[second["job_id"]].state == "queued"
    subprocess.run(["scancel", "--signal=USR2", job], check=True)
    assert gone(job).slurm == "COMPLETED"
    assert gone(second["job_id"]).slurm == "COMPLETED", output(run)
    assert ends(run, 1) == ["finished"] * 2, output(run)
    assert (read_json(run.node(1, 0)) or {})["job_id"] == second["job_id"]
    assert gone(third["job_id"]).slurm == "COMPLETED"
    assert run.attempt_numbers() == [0, 1]
    assert "the run is finished: nothing to do" in output(run)


@linuxproc
def test_a_chain_ends_with_an_error_in_the_code(submit):
    run, job = submit("raise:1", procs=1, requeue="no", successors=1)
    assert gone(job).slurm == "FAILED"
    (second,) = [e["job_id"] for e in snapshot(run).jobs[1:]]
    assert gone(second).slurm == "FAILED"
    assert run.attempt_numbers() == [0]
    assert "the job before failed for good: ValueError: the data ran out" in output(run)


def test_the_time_limit_signal_stops_and_requeues(submit):
    run, job = submit("once", seconds=300)
    started(run)
    subprocess.run(["scancel", "--signal=USR2", job], check=True)
    wait_for("not interrupted", lambda: (read_json(run.node(0, 0)) or {}).get("ended"))
    wait_for("not queued again", lambda: job_states([job])[job].state == "queued")
    assert ends(run, 0) == ["interrupted"] * 2, output(run)
    assert (read_json(run.progress) or {})["interrupted"] is True
    assert_no_ranks(run)
    start_now(job)
    info = gone(job)
    assert ends(run, 1) == ["finished"] * 2, (info, output(run))
    assert run.results.exists()


def test_no_more_requeues_than_allowed(submit):
    run, job = submit("ok", seconds=300, max_requeues=0)
    started(run)
    subprocess.run(["scancel", "--signal=USR2", job], check=True)
    assert gone(job).slurm == "COMPLETED"
    assert "cluster.max_requeues=0 is reached" in output(run)
    assert run_state(snapshot(run), "gone") == "interrupted"


def preempted(submit) -> None:
    """Submit a job, have an urgent one take its place, and see it to its end."""
    run, job = submit("once", seconds=300, cpus_per_node=2)
    started(run)
    _, urgent = submit("ok", partition="urgent", cpus_per_node=2)
    wait_for("not queued again", lambda: job_states([job])[job].state == "queued")
    assert ends(run, 0) == ["interrupted"] * 2, output(run)
    assert gone(urgent).slurm == "COMPLETED"
    start_now(job)
    gone(job)
    assert run.results.exists(), output(run)


@contextlib.contextmanager
def partition(setting: str, usual: str) -> Iterator[None]:
    """The partition that jobs are preempted in, with another setting."""
    words = ["scontrol", "update", "PartitionName=main"]
    subprocess.run([*words, setting], check=True)
    try:
        yield
    finally:
        subprocess.run([*words, usual], check=True)


def test_preemption_stops_and_requeues(submit):
    preempted(submit)


def test_preemption_with_time_to_go(submit):
    """The job ends within its grace time: Slurm would take it for completed."""
    with partition("GraceTime=60", usual="GraceTime=0"):
        preempted(submit)


@linuxproc
def test_a_preemption_that_cancels(submit):
    """PreemptMode=CANCEL without grace: Slurm leaves the job at that, and we queue it again."""
    with partition("PreemptMode=CANCEL", usual="PreemptMode=REQUEUE"):
        preempted(submit)


def test_a_cancelled_job_stays_gone(submit):
    run, job = submit("ok", seconds=300)
    started(run)
    subprocess.run(["scancel", job], check=True)
    assert gone(job).slurm == "CANCELLED"
    files = snapshot(run)
    assert run_state(files, "gone") == "interrupted", output(run)
    assert_no_ranks(run)
    time.sleep(2)
    assert job_states([job])[job].slurm == "CANCELLED"


def test_two_jobs_on_the_same_nodes(submit):
    pairs = [submit("ok", seconds=5, procs=1) for _ in range(2)]
    seen = [started(run, ranks=2) for run, _ in pairs]
    # Both are there at the same time, on both nodes.
    assert [job_states([job])[job].state for _, job in pairs] == ["running"] * 2
    ports = {s["MASTER_PORT"] for ranks in seen for s in ranks}
    assert len(ports) == 2
    assert [gone(job).slurm for _, job in pairs] == ["COMPLETED"] * 2


def test_what_slurm_says(cluster, submit):
    assert sbatch_available()
    main = next(p for p in partitions() if p.name == "main")
    assert (main.default, main.nodes, main.cpus_per_node, main.gpus_per_node) == (True, 2, 2, 2)
    assert job_states(["999999"])["999999"].slurm == "UNKNOWN"
    with pytest.raises(UsageError, match=r"Slurm refused the job: .*partition"):
        submit("ok", partition="nosuch")
    with pytest.raises(UsageError, match="Slurm refused the job: "):
        submit("ok", sbatch={"begin": "nonsense"})
