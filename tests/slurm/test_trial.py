"""A trial's run directory: whose it is, and what is written down of who began it."""

from __future__ import annotations

import json
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from slurm.begun import Begun, beginning, want
from slurm.claims import Worker, claim, read_claims, take_over
from slurm.trial import open_run, release, suits
from training.rundir import read_json, submissions, write_atomic, write_json
from training.sweepdir import SweepDir, Trial

from .searches import config

TRIAL = Trial(0, "demo-run", {"lr": 1e-4}, {"optim.lr": 1e-4}, "b", "p")


def made(folder: Path, name: str) -> SweepDir:
    """Return a sweep of one trial, which every sweep of the folder shares."""
    sweep = SweepDir(folder / "runs" / ".sweeps" / name)
    sweep.claims.mkdir(parents=True)
    write_atomic(sweep.base("b"), config().dump())
    write_json(sweep.plans, {"p": {"cores_per_rank": 4}})
    write_json(sweep.manifest, {})
    sweep.trials.write_text(json.dumps(TRIAL.plain()) + "\n")
    return sweep


def begin(path: str, job: str) -> bool:
    """Return whether a worker of a sweep began the run."""
    try:
        open_run(SweepDir(path), TRIAL, job, slurm=True)
    except Begun:
        return False
    return True


def test_of_two_sweeps_one_begins_a_run(tmp_path: Path) -> None:
    one, other = made(tmp_path, "a"), made(tmp_path, "b")
    run, first = open_run(one, TRIAL, "100_0", slurm=True)
    assert first == 0 and (read_json(run.plan) or {})["cores_per_rank"] == 4
    write_json(run.request, {"note": 1})
    with pytest.raises(Begun, match="demo-run is somebody else's"):
        open_run(other, TRIAL, "200_0", slurm=True)
    assert [e["job_id"] for e in submissions(run.jobs)] == ["100_0"]
    assert run.request.exists(), "what was asked of it stands"
    assert open_run(one, TRIAL, "100_0", slurm=True)[1] == 0, "it is its own"
    # A person asked for it again after it was over: the other sweep may go on with it.
    run.attempt(0).mkdir(parents=True)
    want(other, {0: [beginning(e) for e in submissions(run.jobs)]})
    again, first = open_run(other, TRIAL, "200_0", slurm=True, lanes=2)
    assert first == 1 and again.path == run.path and not run.request.exists()
    assert [e["job_id"] for e in submissions(run.jobs)] == ["100_0", "200_0"]
    assert (read_json(run.plan) or {})["cores_per_rank"] == 2
    assert not list(run.path.glob(".*"))


def test_many_at_once_begin_a_run_once(tmp_path: Path) -> None:
    sweeps = [str(made(tmp_path, f"s{n}").path) for n in range(8)]
    with ProcessPoolExecutor(8) as pool:
        begun = list(pool.map(begin, sweeps, [f"{n}00_0" for n in range(8)]))
    assert sum(begun) == 1
    assert len(submissions(SweepDir(sweeps[0]).run(TRIAL).jobs)) == 1
    assert len(list((tmp_path / "runs").iterdir())) == 2, "nothing of the others is left"


def test_a_worker_goes_on_for_one_of_its_own_sweep_that_vanished(tmp_path: Path) -> None:
    sweep = made(tmp_path, "a")
    claim(sweep, TRIAL, Worker("100_0"))
    run, _ = open_run(sweep, TRIAL, "100_0", slurm=True)
    assert not begin(str(sweep.path), "100_1")
    assert take_over(sweep, 0, read_claims(sweep)[0])
    assert begin(str(sweep.path), "100_1")
    assert [e["job_id"] for e in submissions(run.jobs)] == ["100_0", "100_1"]


def test_a_job_that_was_done_with_a_run_has_it_anew(tmp_path: Path) -> None:
    sweep = made(tmp_path, "a")
    run, _ = open_run(sweep, TRIAL, "100_0", slurm=True)
    release(run, "100_0")
    run.attempt(0).mkdir(parents=True)
    write_json(run.request, {"stop": True})
    _, first = open_run(sweep, TRIAL, "100_0", slurm=True)
    (entry,) = submissions(run.jobs)
    assert first == entry["first_attempt"] == 1 and not entry.get("released")
    assert not run.request.exists()


def test_a_later_trial_of_a_job_has_the_time_of_the_jobs_submission(tmp_path: Path) -> None:
    sweep = made(tmp_path, "a")
    submitted = time.time() - 3600
    write_json(sweep.jobs, {"jobs": [{"job_id": "100", "time": submitted}, {"job_id": "99"}]})
    run, _ = open_run(sweep, TRIAL, "100_7", slurm=True)
    (entry,) = submissions(run.jobs)
    assert entry["time"] == submitted and entry["began"] > submitted + 3000


def test_a_worker_takes_trials_that_its_nodes_are_for(tmp_path: Path) -> None:
    sweep = made(tmp_path, "a")
    later, larger = (
        replace(config(), cluster=replace(config().cluster, **change))
        for change in ({"time": "99:00:00", "mail": "me"}, {"nodes": 2})
    )
    write_atomic(sweep.base("later"), later.dump())
    write_atomic(sweep.base("larger"), larger.dump())
    assert suits(sweep, "b", ("b",)) and suits(sweep, "later", ("b",)) and suits(sweep, "none", ())
    assert not suits(sweep, "larger", ("b",)) and not suits(sweep, "none", ("b",))
    assert suits(sweep, "larger", ("x", "larger"))
