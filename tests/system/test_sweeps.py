"""A sweep on four hosts: workers die, a node goes down, and every trial is done once."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from slurm.claims import read_claims
from slurm.cluster import ClusterConfig, VirtualCluster
from tests.launch.commandline import glueline
from tests.slurm.slurmtools import start_now, wait_for
from training.rundir import list_runs, node_records, read_json
from training.sweepdir import SweepDir, read_trials

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1200)]

LINE = ["--task", "demo", "--model", "tiny", "--tracker", "none", "--cpus-per-node", "1"]
LINE += ["--max-steps", "12", "--time", "30"]
GRID = ["--grid", "global_batch=16,64", "--grid", "lr_rule=fixed,sqrt", "--set"]
GRID += ["optim.base_batch=16", "--seeds", "6", "--name", "s"]


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Return a folder that all hosts see."""
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def cluster(shared):
    """Start four hosts of one core each; arrays have 40 elements at most."""
    config = ClusterConfig(
        state=Path(f"/var/tmp/glueline-sweep-{os.getpid()}"),
        nodes=4,
        cpus=1,
        share=(shared, Path(sys.prefix), Path(sys.base_prefix)),
        slurmd_timeout=8,
        extra_conf=("MaxArraySize=40",),
    )
    with VirtualCluster(config) as made:
        yield made


@pytest.fixture
def sweep(cluster, shared):
    """Return `glueline sweep` as one types it."""

    def run(*words):
        words = (*LINE, *words, "--runs", str(shared / "runs"))
        return glueline("sweep", *words, cwd=shared, env=cluster.env(), timeout=180)

    return run


@pytest.fixture
def typed(cluster, shared):
    """Return any other command as one types it."""

    def run(name, *words):
        runs = ("--runs", str(shared / "runs"))
        return glueline(name, *words, *runs, cwd=shared, env=cluster.env())

    return run


def slurm(cluster, *words):
    env = os.environ | cluster.env()
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False, timeout=60)
    return done.stdout


def queue(cluster):
    """Return Slurm's state of every element."""
    lines = slurm(cluster, "squeue", "-h", "-r", "-o", "%i %T").splitlines()
    return dict(line.split() for line in lines)


def test_every_trial_is_done_once_whatever_dies(cluster, shared, sweep):
    done = sweep(*GRID, "--max-parallel", "4")
    assert done.returncode == 0, done.stderr
    assert "submitted 24 trials of sweep s" in done.stdout
    place = SweepDir(shared / "runs" / ".sweeps" / "s")
    trials = read_trials(place)
    assert len(trials) == 24 and len({t.run_id for t in trials}) == 24
    (entry,) = (read_json(place.jobs) or {})["jobs"]
    assert entry["elements"] == 24

    def running(number):
        """Return the agent's record of a trial that trains."""
        run = place.run(trials[number])
        records = [n for a in run.attempt_numbers() for n in node_records(run, a)]
        return records[-1] if records and not records[-1].get("ended") else None

    killed = []
    for number in (2, 5):
        record = wait_for(f"trial {number} does not start", lambda n=number: running(n), 240)
        os.kill(record["pid"], signal.SIGKILL)
        killed.append(record["job_id"])
    record = wait_for("trial 9 does not start", lambda: running(9), 240)
    # All of the node is gone at once: slurmd, the step, the worker.
    step_daemon = int(Path(f"/proc/{record['pid']}/stat").read_text().rpartition(")")[2].split()[1])
    cluster.kill_slurmd(record["host"])
    for pid in (step_daemon, record["pid"]):
        os.kill(pid, signal.SIGKILL)
    lost = record["job_id"]

    def over():
        # Slurm holds what is queued again for two minutes.
        states = queue(cluster)
        for job in {*killed, lost}:
            if states.get(job) == "PENDING":
                start_now(job, cluster.env())
        return all(place.run(t).results.exists() for t in trials)

    wait_for("not all trials are done", over, 400)
    wait_for("workers stay though nothing is left", lambda: not queue(cluster), 60)
    assert len(read_claims(place)) == 24 and len(list_runs(shared / "runs")) == 24
    for trial in trials:
        run = place.run(trial)
        results = read_json(run.results) or {}
        assert results["steps"] == 12 and results["seed"] == trial.axes["seed"]
        assert results["global_batch"] == trial.axes["global_batch"]
        ends = [n.get("end") for a in run.attempt_numbers() for n in node_records(run, a)]
        assert ends.count("finished") == 1, ends
        assert not (run.path / "model").exists()
    # The workers that died went on with their own trials.
    again = [t.number for t in trials if len(place.run(t).attempt_numbers()) > 1]
    assert {2, 5, 9} <= set(again)
    done = sweep(*GRID, "--max-parallel", "4")
    assert done.returncode == 0 and "nothing to submit" in done.stdout, done.stdout
    assert "24 trials: 24 finished" in done.stdout and not queue(cluster)
    cluster.start_slurmd(record["host"])


def test_large_sweeps_are_cut_into_arrays_and_can_be_extended(cluster, sweep, typed):
    words = ["--hold", "--max-parallel", "10", "--name", "large", "--json"]
    done = sweep("--grid", "global_batch=16,32", "--seeds", "50", *words)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert len(told["jobs"]) == 3 and len(told["trials"]) == 100
    assert {t["state"] for t in told["trials"]} == {"queued"}
    states = queue(cluster)
    assert len(states) == 100 and set(states.values()) == {"PENDING"}
    throttles = [slurm(cluster, "scontrol", "show", "job", "-o", j) for j in told["jobs"]]
    assert sum(int(t.partition("ArrayTaskThrottle=")[2].split()[0]) for t in throttles) == 10
    # Twice the same is once; more seeds are more trials; fewer must be agreed on.
    again = json.loads(sweep("--grid", "global_batch=16,32", "--seeds", "50", *words).stdout)
    assert again["jobs"] == []
    more = json.loads(sweep("--grid", "global_batch=16,32", "--seeds", "51", *words).stdout)
    assert len(more["jobs"]) == 1 and more["cost"]["trials"] == 2
    assert [t["number"] for t in more["trials"]] == list(range(102))
    fewer = sweep("--grid", "global_batch=16,32", "--seeds", "49", *words)
    assert fewer.returncode == 2 and "4 trials that are not asked for now" in fewer.stderr
    assert "add --yes" in fewer.stderr
    assert "changed  seed: " in fewer.stderr
    seen = typed("status", "large")
    assert "102 trials: 102 queued" in seen.stdout and "and 62 more" in seen.stdout
    table = typed("status")
    assert "large  queued" in table.stdout and "0/102 trials" in table.stdout
    done = typed("cancel", "large", "--yes")
    assert done.returncode == 0 and "told to stop" in done.stdout, done.stderr
    # What was cancelled is missing, and the same line submits it.
    wait_for("the queue is not empty", lambda: not queue(cluster))
    assert "is not running: 102 trials: 102 missing" in typed("cancel", "large").stdout
    dry = sweep("--grid", "global_batch=16,32", "--seeds", "51", "--name", "large", "--dry-run")
    assert "102 to submit" in dry.stdout and "core-hours" in dry.stdout


def test_several_trials_share_a_node(cluster, shared, sweep):
    done = sweep("--seeds", "4", "--pack", "2", "--name", "packed", "--max-parallel", "1")
    assert done.returncode == 0, done.stderr
    place = SweepDir(shared / "runs" / ".sweeps" / "packed")
    trials = read_trials(place)
    wait_for("not done", lambda: all(place.run(t).results.exists() for t in trials), 240)
    wait_for("a worker stays", lambda: not queue(cluster), 60)
    lanes = {(c["job"], c["lane"]) for c in read_claims(place).values()}
    assert len(lanes) == 2 and {lane for _, lane in lanes} == {0, 1}


def test_trials_of_a_search_share_a_node(cluster, shared, sweep):
    words = ["--search", "lr=1e-4..1e-2:log", "--trials", "4", "--sampler", "random"]
    done = sweep(*words, "--pack", "2", "--name", "drawn", "--max-parallel", "1")
    assert done.returncode == 0, done.stderr
    place = SweepDir(shared / "runs" / ".sweeps" / "drawn")

    def ended():
        trials = [t for t in read_trials(place) if t.best_of is None]
        return len(trials) == 4 and all(place.run(t).results.exists() for t in trials)

    wait_for("not done", ended, 240)
    wait_for("a worker stays", lambda: not queue(cluster), 60)
    lanes = [(c["job"], c["lane"]) for c in read_claims(place).values()]
    assert {lane for _, lane in lanes} == {0, 1} and len({job for job, _ in lanes}) == 1
    assert len({t.axes["lr"] for t in read_trials(place)}) == 4


def test_a_trial_that_fails_stops_nothing_and_can_be_tried_again(cluster, shared, sweep):
    words = ["--grid", "lr=1e-4,1e30", "--name", "bad", "--set", "optim.clip=0"]
    done = sweep(*words)
    assert done.returncode == 0, done.stderr
    place = SweepDir(shared / "runs" / ".sweeps" / "bad")
    good, bad = read_trials(place)
    wait_for("the good one is not done", place.run(good).results.exists, 240)
    wait_for("a worker stays", lambda: not queue(cluster), 120)
    told = json.loads(sweep(*words, "--json").stdout)
    assert [t["state"] for t in told["trials"]] == ["finished", "failed"], told
    assert told["jobs"] == []
    again = json.loads(sweep(*words, "--retry-failed", "--json").stdout)
    assert len(again["jobs"]) == 1 and again["cost"]["trials"] == 1
    wait_for("a worker stays", lambda: not queue(cluster), 240)
    assert len(place.run(bad).attempt_numbers()) == 2


def test_a_trial_or_the_whole_sweep_is_cancelled(cluster, shared, sweep, typed):
    words = ["--seeds", "3", "--name", "long", "--max-steps", "4000", "--max-parallel", "1"]
    assert sweep(*words).returncode == 0
    place = SweepDir(shared / "runs" / ".sweeps" / "long")
    runs = [place.run(trial) for trial in read_trials(place)]

    def trains(number):
        return (read_json(runs[number].progress) or {}).get("step", 0) > 0

    wait_for("the first trial does not train", lambda: trains(0), 120)
    assert "running" in typed("status", "long").stdout
    done = typed("cancel", runs[0].run_id, "--yes")
    assert "goes on with other trials of sweep long" in done.stdout, done.stderr
    # The same worker takes the next one.
    wait_for("the second trial does not train", lambda: trains(1), 120)
    (record,) = node_records(runs[0], 0)
    assert record["end"] == "interrupted"
    assert node_records(runs[1], 0)[0]["job_id"] == record["job_id"]
    done = typed("cancel", "long", "--yes")
    assert done.returncode == 0, done.stderr
    wait_for("a worker stays", lambda: not queue(cluster), 120)
    told = json.loads(typed("status", "long", "--json").stdout)
    assert [t["state"] for t in told["trials"]] == ["interrupted", "interrupted", "missing"]
    assert not runs[2].path.exists()
    again = sweep(*words, "--hold", "--json")
    assert json.loads(again.stdout)["cost"]["trials"] == 3, again.stderr
    typed("cancel", "long", "--yes")
