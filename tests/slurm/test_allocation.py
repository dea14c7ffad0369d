"""What the agent reads of its job from the environment."""

import os
import subprocess
import sys

import pytest

from slurm.allocation import LANE, read_allocation


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))


def test_a_local_job_has_all_cores():
    found = read_allocation({"SUBMITIT_EXECUTOR": "local", "SUBMITIT_LOCAL_JOB_ID": "77"})
    assert (found.cores, found.slurm, found.job_id) == (8, False, "77")


@pytest.mark.parametrize("lanes", [1, 2, 3, 8, 16])
def test_lanes_of_this_machine_share_its_cores(lanes):
    """A lane reads its allocation when its affinity is narrowed: it is not divided again."""
    held = []
    for lane in range(lanes):
        code = (
            "import os, slurm.lane as lane; from slurm.allocation import read_allocation as read;"
            f"os.environ['GLUELINE_LANE'] = '{lane}/{lanes}';"
            "os.environ['SUBMITIT_EXECUTOR'] = 'local'; held = set(range(8));"
            "os.sched_getaffinity = lambda pid: held;"
            "os.sched_setaffinity = lambda pid, cores: (held.clear(), held.update(cores));"
            "lane.work = lambda sweep, found, bases: told.append(found.cores) or 'empty';"
            "told = [];"
            "lane.sys.argv = ['lane', 'sweep']; lane.main(); print(*told, read().cores, len(held))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        first, again, left = map(int, done.stdout.split())
        assert first == again == (left if lanes <= 8 else 1), done.stderr
        held.append(first)
    assert sum(held) == max(8, lanes)


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
