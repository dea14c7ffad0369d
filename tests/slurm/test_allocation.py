"""What the agent reads of its job from the environment."""

import os

import pytest

from slurm.allocation import LANE, read_allocation


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))


@pytest.mark.parametrize(("lane", "cores"), [(None, 8), ("0/2", 4), ("2/3", 2), ("9/16", 1)])
def test_runs_that_share_this_machine_share_its_cores(lane, cores):
    environ = {"SUBMITIT_EXECUTOR": "local", "SUBMITIT_LOCAL_JOB_ID": "77"}
    found = read_allocation(environ | ({LANE: lane} if lane else {}))
    assert (found.cores, found.slurm, found.job_id) == (cores, False, "77")


def test_lanes_of_a_job_share_its_gpus():
    environ = {"SLURM_JOB_ID": "7", "SLURM_GPUS_ON_NODE": "1"}
    assert read_allocation(environ).gpus == 1
    assert read_allocation(environ | {LANE: "3/4"}).gpus == 0.25
    assert read_allocation({"SLURM_JOB_ID": "7"}).gpus is None


def test_lanes_of_a_job_share_its_cores():
    environ = {"SLURM_JOB_ID": "5", "SLURM_CPUS_ON_NODE": "6", "SLURM_JOB_NODELIST": "a"}
    assert read_allocation(environ).cores == 6
    found = read_allocation(environ | {LANE: "1/2"})
    assert (found.cores, found.lane, found.lanes) == (3, 1, 2)
