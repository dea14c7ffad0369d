import itertools
from typing import Any

import pytest

from launch import jobs
from launch.jobs import last_job, last_submission, open_jobs
from launch.slurm_site import JobInfo
from training.rundir import Snapshot


def files(*ids: str, nodes=None, chained: tuple[str, ...] = ()) -> Snapshot:
    entries = [{"job_id": i, "executor": "slurm", "first_attempt": 0} for i in ids]
    for before, entry in itertools.pairwise(entries):
        if entry["job_id"] in chained:
            entry["after"] = before["job_id"]
    return Snapshot("r", entries, {}, nodes or {}, finished=False, readable=True)


@pytest.fixture
def says(monkeypatch):
    """Tells Slurm what to say of jobs."""

    def say(**states):
        kinds: dict[str, Any] = {"RUNNING": "running", "PENDING": "queued"}

        def job_states(ids, times):
            return {i: JobInfo(i, kinds.get(w := states[f"j{i}"], "gone"), w) for i in ids}

        monkeypatch.setattr(jobs, "job_states", job_states)

    return say


def test_jobs_that_follow_each_other_are_one_submission():
    chain = files("1", "2", "3", "4", chained=("3", "4"))
    assert [e["job_id"] for e in last_submission(chain)] == ["2", "3", "4"]
    assert [e["job_id"] for e in last_submission(files("1", "2"))] == ["2"]
    assert last_submission(files()) == []


def test_of_them_the_one_that_runs_counts(says):
    chain = files("1", "2", "3", chained=("2", "3"))
    for states, counts in (
        ({"j1": "RUNNING", "j2": "PENDING", "j3": "PENDING"}, "1"),
        ({"j1": "FAILED", "j2": "RUNNING", "j3": "PENDING"}, "2"),
        ({"j1": "FAILED", "j2": "PENDING", "j3": "PENDING"}, "2"),
        ({"j1": "FAILED", "j2": "FAILED", "j3": "CANCELLED"}, "3"),
    ):
        says(**states)
        info = last_job(chain)
        assert info and info.id == counts


def test_of_those_that_ended_the_one_that_ran_last_counts(says):
    # The others ended at once: the run was finished.
    chain = files("1", "2", "3", chained=("2", "3"), nodes={0: [{"job_id": "1"}]})
    says(j1="COMPLETED", j2="COMPLETED", j3="COMPLETED")
    info = last_job(chain)
    assert info and info.id == "1"


def test_open_jobs_are_those_of_every_submission(says):
    says(j1="RUNNING", j2="FAILED", j3="PENDING")
    assert [e["job_id"] for e in open_jobs(files("1", "2", "3"))] == ["1", "3"]


@pytest.mark.parametrize(
    ("noted", "me", "known"),
    [
        ({}, 1000, True),
        ({"cluster": "hpc1", "uid": 1000}, 1000, True),
        ({"cluster": "hpc2", "uid": 1000}, 1000, False),
        ({"cluster": "hpc1", "uid": 1001}, 1000, False),
        ({"cluster": "hpc1", "uid": 1001}, 0, True),
    ],
)
def test_a_job_that_slurm_does_not_know_may_be_elsewhere(says, monkeypatch, noted, me, known):
    """Of another cluster, or of a person whose jobs are hidden: nobody can tell from here."""
    monkeypatch.setattr("launch.presets.slurm_cluster", lambda: "hpc1")
    monkeypatch.setattr("os.getuid", lambda: me)
    run = files("1")
    run.jobs[0].update(noted)
    says(j1="UNKNOWN")
    assert (last_job(run) is not None) is known
    assert jobs.elsewhere(run.jobs) is not known
    says(j1="RUNNING")
    assert last_job(run) is not None
