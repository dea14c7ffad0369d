"""A search on two hosts: a worker is killed, a trial is pruned, the best is run on all rows."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from slurm.cluster import ClusterConfig, VirtualCluster
from slurm.search_file import read_search
from slurm.study import open_study
from tests.launch.commandline import glueline
from tests.slurm.slurmtools import start_now, wait_for
from training.config import load_config
from training.rundir import list_runs, node_records, read_json, read_metrics
from training.sweepdir import SweepDir, pruned_at, read_trials

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1200)]

LINE = ["--task", "demo", "--model", "tiny", "--tracker", "none", "--cpus-per-node", "1"]
LINE += ["--time", "30", "--global-batch", "32", "--epochs", "8", "--schedule", "constant"]
SEARCH = """
search:
  trials: 4
  sampler: grid
  seed: {seed}
  pruner: median
  fraction: 0.5
  space: {{lr: [1.0e-3, 2.0e-3, 3.0e-3, 1.0e-9]}}
"""


def seed_with_the_worst_last():
    """Return a seed by which the grid comes to the last of four values last."""
    from optuna.samplers import GridSampler

    values = {"lr": [1, 2, 3, 4]}
    return next(s for s in range(1, 99) if GridSampler(values, s)._all_grids[-1] == (4,))


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Return a folder that all hosts see."""
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def cluster(shared):
    """Start two hosts of one core each."""
    config = ClusterConfig(
        state=Path(f"/var/tmp/glueline-search-{os.getpid()}"),
        nodes=2,
        cpus=1,
        share=(shared, Path(sys.prefix), Path(sys.base_prefix)),
    )
    with VirtualCluster(config) as made:
        yield made


def queue(cluster):
    """Return Slurm's state of every element."""
    words = ("squeue", "-h", "-r", "-o", "%i %T")
    env = os.environ | cluster.env()
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False, timeout=60)
    return dict(line.split() for line in done.stdout.splitlines())


def test_a_search_comes_to_its_end_whatever_dies(cluster, shared):
    (shared / "s.yaml").write_text(SEARCH.format(seed=seed_with_the_worst_last()))
    runs = shared / "runs"

    def sweep(*words):
        words = (str(shared / "s.yaml"), *LINE, *words, "--runs", str(runs))
        return glueline("sweep", *words, cwd=shared, env=cluster.env(), timeout=180)

    done = sweep("--max-parallel", "2")
    assert done.returncode == 0, done.stderr
    assert "submitted workers of search s" in done.stdout and "0 of 4 trials" in done.stdout
    place = SweepDir(runs / ".sweeps" / "s")

    def running(number):
        """Return the agent's record of a trial that trains."""
        trial = next((t for t in read_trials(place) if t.number == number), None)
        run = place.run(trial) if trial else None
        records = [n for a in run.attempt_numbers() for n in node_records(run, a)] if run else []
        return records[-1] if records and not records[-1].get("ended") else None

    record = wait_for("trial 0 does not start", lambda: running(0), 240)
    os.kill(record["pid"], signal.SIGKILL)
    # Nothing is submitted twice while workers are there.
    again = json.loads(sweep("--max-parallel", "2", "--json").stdout)
    assert again["jobs"] == [] and again["cost"]["trials"] == 0, again

    def over():
        # Slurm holds what is queued again for two minutes.
        if queue(cluster).get(record["job_id"]) == "PENDING":
            start_now(record["job_id"], cluster.env())
        last = [t for t in read_trials(place) if t.best_of is not None]
        return bool(last) and all(place.run(t).results.exists() for t in last)

    wait_for("the search does not come to its end", over, 400)
    wait_for("workers stay though nothing is left", lambda: not queue(cluster), 60)
    trials = read_trials(place)
    own = [t for t in trials if t.best_of is None]
    (last,) = [t for t in trials if t.best_of is not None]
    assert [t.number for t in trials] == [0, 1, 2, 3, 4] and len(list_runs(runs)) == 5
    assert sorted(t.axes["lr"] for t in own) == [1e-9, 1e-3, 2e-3, 3e-3]
    assert len(place.run(own[0]).attempt_numbers()) == 2
    results = {t.number: read_json(place.run(t).results) or {} for t in trials}
    full = [t for t in own if results[t.number]]
    ended = {t.number: pruned_at(place.run(t)) for t in own if not results[t.number]}
    # The last one, which learns nothing; of the others those that began worse than most.
    assert own[3].axes["lr"] == 1e-9 and 3 in ended and full
    assert all(share is not None and 0 < share < 1 for share in ended.values())
    assert not any(place.run(own[number]).checkpoints.exists() for number in ended)
    assert {results[t.number]["steps"] for t in full} == {8 * 63}
    best = max(full, key=lambda t: (results[t.number]["primary_value"], -t.number))
    assert last.best_of == best.number and last.values == best.values
    assert load_config(place.run(last).config).task.train_fraction == 1
    assert results[last.number]["steps"] == 8 * 125
    assert (place.run(last).path / "model").is_dir()
    assert not (place.run(best).path / "model").exists()
    # What Optuna knows is what the runs say.
    found = read_search(place)
    assert found is not None
    frozen = open_study(place.journal, found).get_trials()
    ends = ["PRUNED" if number in ended else "COMPLETE" for number in range(4)]
    assert [t.state.name for t in frozen] == [*ends, "FAIL"]
    for trial in full:
        assert frozen[trial.number].value == results[trial.number]["primary_value"]
        lines = [e for e in read_metrics(place.run(trial).metrics) if e["kind"] == "eval"]
        told = frozen[trial.number].intermediate_values
        assert told and set(told.values()) <= {e["accuracy"] for e in lines}
    # The same line again: nothing, and what was found.
    done = sweep("--max-parallel", "2")
    assert done.returncode == 0 and "nothing to submit" in done.stdout, done.stdout
    counts = f"{len(full) + 1} finished, {len(ended)} pruned"
    assert f"4 of 4 trials asked for: {counts}" in done.stdout
    assert f"on all rows  accuracy {results[last.number]['primary_value']:.4f}" in done.stdout
    assert not queue(cluster)
    status = glueline("status", "s", "--runs", str(runs), cwd=shared, env=cluster.env())
    assert counts in status.stdout, status.stdout
    # Another space is another search.
    other = sweep("--search", "lr=1e-3,2e-3")
    assert other.returncode == 2 and "has another space" in other.stderr
    grid = glueline(
        "sweep",
        *LINE,
        "--seeds",
        "2",
        "--name",
        "s",
        "--runs",
        str(runs),
        cwd=shared,
        env=cluster.env(),
    )
    assert grid.returncode == 2 and "sweep s is a search" in grid.stderr
