"""What a sweep's folder says: states of trials, differences, and how arrays are cut."""

import json
import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch import sweeping
from launch.packing import Packing
from launch.sweeping import (
    ask_to_stop,
    count_text,
    cut,
    difference,
    free,
    left_alone,
    runs_here,
    states,
    trial_states,
)
from slurm.begun import read_past
from slurm.claims import Worker, claim, claimed, lost_claims, take_over
from slurm.scontrol import Refused
from slurm.worker import next_trial
from training.config import ClusterConfig, RunConfig
from training.rundir import State, read_json, submissions, write_json
from training.sweepdir import SweepDir, Trial


def trials(count):
    return [Trial(n, f"r{n}", {"seed": n}) for n in range(count)]


def test_a_trial_without_a_run_is_queued_while_a_worker_may_come():
    submitted = [{"job_id": "7", "trials": [0, 1, 2]}, {"job_id": "8", "trials": [3]}]
    known: dict[str, State] = {"r0": "finished", "r1": "interrupted"}
    found = trial_states(Path("runs"), trials(5), known, submitted, ["7_12"])
    assert found == {0: "finished", 1: "queued", 2: "queued", 3: "missing", 4: "missing"}
    assert trial_states(Path("runs"), trials(2), known, submitted, [])[1] == "interrupted"
    assert count_text(found, "to submit") == "1 finished, 2 queued, 2 to submit"


def test_what_changed_is_told_by_key():
    old = {"set": {"optim.lr": 1e-4}, "grid": {"seed": [1, 2]}, "points": [{"epochs": 3}]}
    new = {"set": {"optim.lr": 2e-4}, "grid": {"seed": [1, 2], "lr_rule": ["sqrt"]}}
    assert difference(old, new) == [
        "optim.lr: 0.0001 → 0.0002",
        "lr_rule: not given → sqrt",
        "points: no longer {'epochs': 3}",
    ]
    lines = [{"asked": {"line": ["--task", task]}} for task in ("rte", "my task")]
    assert difference(*lines) == ["the line: --task rte → --task 'my task'"]
    assert difference(old, old) == []


@given(st.integers(1, 5000), st.integers(1, 1001), st.none() | st.integers(1, 3000))
def test_arrays_keep_the_limit_and_the_throttle(elements, limit, parallel):
    arrays = cut(elements, limit, parallel)
    sizes, shares = zip(*arrays, strict=True)
    assert all(1 <= share <= size <= limit for size, share in arrays)
    if parallel is None:
        assert sum(sizes) == elements and len(arrays) == -(-elements // limit)
    else:
        assert sum(shares) <= parallel and len(arrays) <= parallel
        assert sum(shares) == min(parallel, sum(sizes)) or sum(sizes) == elements


@pytest.mark.parametrize(
    ("packing", "elements"),
    [
        (Packing(), [30]),
        (Packing(lanes=4), [8]),
        (Packing(workers=5), [5]),
        (Packing(lanes=4, workers=20), [8]),
        (Packing(workers=25, parallel=3), [25]),
    ],
)
def test_workers_are_as_many_as_a_site_lets_a_person_submit(
    tmp_path, monkeypatch, packing, elements
):
    asked = []

    def submitted(config, sweep, lanes, elements, *more):
        asked.append(elements)
        return "7"

    monkeypatch.setattr("launch.executor.submit_workers", submitted)
    monkeypatch.setattr(sweeping, "array_limit", lambda: 1000)
    monkeypatch.setattr("launch.jobs.whose", lambda executor: {})
    sweep = SweepDir(tmp_path / "runs" / ".sweeps" / "b")
    sweep.path.mkdir(parents=True)
    config = RunConfig(cluster=ClusterConfig(executor="slurm"))
    sweeping.submit_trials(sweep, config, range(30), packing)
    assert asked == elements


def test_jobs_of_several_nodes_run_one_trial_each_and_none_is_left_out(tmp_path, monkeypatch):
    asked = []

    def submitted(config, sweep, lanes, elements, parallel, after, *more):
        asked.append((elements, parallel, after))
        return str(len(asked))

    monkeypatch.setattr("launch.executor.submit_workers", submitted)
    monkeypatch.setattr(sweeping, "array_limit", lambda: 10)
    monkeypatch.setattr("launch.jobs.whose", lambda executor: {})
    for nodes, expected in (
        (1, [(10, 1, "5"), (10, 1, "5")]),
        (2, [(9, 2, "5"), (8, 2, "1"), (8, 2, "2")]),
    ):
        asked.clear()
        sweep = SweepDir(tmp_path / "runs" / ".sweeps" / str(nodes))
        sweep.path.mkdir(parents=True)
        config = RunConfig(cluster=ClusterConfig(executor="slurm", nodes=nodes))
        sweeping.submit_trials(sweep, config, range(25), Packing(parallel=2), "5")
        assert asked == expected, "of those that wait for each other each has the whole throttle"


@pytest.fixture
def shared(tmp_path, monkeypatch):
    """Return a sweep of four trials, a function that begins one's run, and Slurm's queue."""
    sweep = SweepDir(tmp_path / "runs" / ".sweeps" / "b")
    sweep.claims.mkdir(parents=True)
    some = trials(4)
    sweep.trials.write_text("".join(json.dumps(t.plain()) + "\n" for t in some))
    queue: dict[str, str] = {}

    def ask(*words, seconds):
        assert words[0] == "squeue"
        asked = words[words.index("-j") + 1].split(",")
        lines = [f"{j} {s}" for j, s in queue.items() if j.partition("_")[0] in asked]
        if not lines:
            raise Refused("slurm_load_jobs error: Invalid job id specified")
        return "\n".join(lines)

    monkeypatch.setattr(sweeping, "ask", ask)

    def begin(number, job, *, end=None, **more):
        """Leave a run as one that a job began, and that ended so."""
        run = sweep.run(some[number])
        attempt = len(submissions(run.jobs))
        run.attempt(attempt).mkdir(parents=True)
        run.config.write_text("a: 1\n")
        entry = {"job_id": job, "executor": "slurm", "first_attempt": attempt, "began": 1.0}
        write_json(run.jobs, {"jobs": [*submissions(run.jobs), {**entry, **more}]})
        write_json(run.node(attempt, 0), {"node": 0, "job_id": job, "end": end})
        if end == "failed":
            write_json(run.verdict(attempt), {"action": "stop"})

    return sweep, some, begin, queue


def test_a_run_that_another_sweep_or_a_job_of_its_own_has_is_running(shared):
    sweep, some, begin, queue = shared
    begin(0, "100_0", sweep="a")
    begin(1, "55")
    begin(2, "100_1", sweep="a", end="failed", released=True)
    begin(3, "100_2", sweep="a")
    queue.update({"100_0": "RUNNING", "100_1": "RUNNING", "55": "PENDING"})
    found = states(sweep, some)
    assert found == {0: "running", 1: "queued", 2: "failed", 3: "failed"}
    # Nor does a worker of this sweep begin one of them.
    write_json(sweep.jobs, {"jobs": [{"job_id": "200", "trials": [0, 1, 2, 3]}]})
    queue["200_0"] = "RUNNING"
    assert states(sweep, some) == found
    assert next_trial(sweep, Worker("200_0"), False) is None and not claimed(sweep)


def test_local_jobs_are_looked_for_as_processes(shared, monkeypatch):
    sweep, some, begin, _ = shared
    monkeypatch.setattr(sweeping, "ask", None)
    here = {"executor": "local", "host": socket.gethostname()}
    begin(0, str(2**22 + 1), **here)  # no process has this number
    begin(1, str(os.getpid()), **here)  # another program
    begin(2, "7", **{**here, "host": "elsewhere"})
    begin(3, "8", **{**here, "host": "elsewhere"}, end="interrupted")
    found = states(sweep, some)
    assert found == {0: "failed", 1: "failed", 2: "running", 3: "interrupted"}


def test_what_a_person_asks_for_again_is_free_for_workers(shared):
    sweep, some, begin, queue = shared
    begin(0, "100_0", sweep="a", end="failed", released=True)
    begin(1, "100_1", sweep="a", end="interrupted")
    begin(2, "100_2", sweep="a")
    claim(sweep, some[1], Worker("190_0"))
    assert take_over(sweep, 1, read_json(sweep.claim(1)) or {})
    claim(sweep, some[1], Worker("190_1"))
    queue["100_2"] = "RUNNING"
    free(sweep, [some[1], some[2]])
    assert not claimed(sweep) and not lost_claims(sweep, 1)
    taken = [next_trial(sweep, Worker(f"200_{n}"), False) for n in range(3)]
    assert [t.number for t in taken if t] == [1, 3], "one failed, another one is running"
    free(sweep, [some[0]])
    found = next_trial(sweep, Worker("200_4"), False)
    assert found is not None and found.number == 0


def test_what_somebody_begins_while_slurm_is_asked_is_left_to_them(shared, monkeypatch):
    sweep, some, begin, _ = shared
    begin(0, "100_0", sweep="a", end="interrupted")
    ask = sweeping.ask

    def late(*words, seconds):
        begin(0, "100_7", sweep="a")
        return ask(*words, seconds=seconds)

    monkeypatch.setattr(sweeping, "ask", late)
    free(sweep, [some[0]])
    assert not read_past(sweep).free(sweep, some[0], "200_0")


def test_a_sweep_stops_no_run_that_is_another_ones(shared):
    sweep, some, begin, _ = shared
    begin(0, "100_0", sweep="a")
    begin(1, "55")
    begin(2, "200_0", sweep="b")
    assert [runs_here(sweep, t) for t in some] == [False, False, True, True]
    ask_to_stop(sweep, some[:3])
    assert [sweep.run(t).request.exists() for t in some[:3]] == [False, False, True]


def test_only_what_no_worker_takes_over_is_told_to_be_left_alone(shared):
    sweep, some, begin, _ = shared
    for number in range(4):
        claim(sweep, some[number], Worker("200_0"))
        begin(number, "200_0", sweep="b", end="failed" if number == 1 else None)
    begin(2, "100_0", sweep="a")  # another sweep went on with it, in vain
    sweep.claim(3).unlink()
    assert left_alone(sweep, some) == some[1:]
