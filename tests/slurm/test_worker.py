"""What a worker does between trials."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from slurm import worker
from slurm.allocation import Allocation
from slurm.begun import Begun
from slurm.claims import claimed, read_claims
from slurm.worker import TrialWorker, work
from training.rundir import RunDir, read_json, write_json
from training.sweepdir import SweepDir, Trial


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SweepDir:
    """Return a sweep of three trials, whose first one somebody else begins at the last moment."""
    made = SweepDir(tmp_path / "runs" / ".sweeps" / "s")
    made.claims.mkdir(parents=True)
    trials = [Trial(n, f"run-{n}", {"seed": n}) for n in range(3)]
    made.trials.write_text("".join(json.dumps(t.plain()) + "\n" for t in trials))

    def open_run(sweep, trial, job, slurm, lanes):
        run = sweep.run(trial)
        run.path.mkdir(exist_ok=True)
        if trial.number == 0:
            write_json(run.jobs, {"jobs": [{"job_id": "100_0"}]})
            raise Begun("run-0 is somebody else's")
        return run, 0

    class Agent:
        def __init__(self, path: str, first: int) -> None:
            self._run = RunDir(path)

        def __call__(self) -> str:
            write_json(self._run.results, {})
            return "finished"

    monkeypatch.setattr(worker, "open_run", open_run)
    monkeypatch.setattr(worker, "NodeAgent", Agent)
    return made


def allocation(*hosts: str) -> Allocation:
    return Allocation("7_1", "7", hosts, node=0, cores=1, restarts=0, slurm=False)


def done(sweep: SweepDir) -> list[int]:
    return [n for n in range(3) if sweep.run(Trial(n, f"run-{n}", {})).results.exists()]


def test_a_trial_that_somebody_else_begins_is_left_out_and_the_next_one_is_run(
    sweep: SweepDir,
) -> None:
    assert work(sweep, allocation("a")) == "empty"
    assert done(sweep) == [1, 2] and claimed(sweep) == {1, 2}


def test_node_0_tells_the_trial_that_it_could_begin(
    sweep: SweepDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "read_allocation", lambda: allocation("a", "b"))
    assert TrialWorker(str(sweep.path))() == "finished"
    told = read_json(sweep.path / "elements" / "7_1.json")
    assert told == {"restarts": 0, "number": 1} and list(read_claims(sweep)) == [1]
    assert done(sweep) == [1]
