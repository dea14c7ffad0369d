"""Runs that belong to several sweeps: who may begin one."""

from __future__ import annotations

from pathlib import Path

from slurm.begun import Past, beginning, read_past, want
from slurm.claims import Worker, claim, read_claims, take_over
from training.rundir import submissions, write_json
from training.sweepdir import SweepDir, Trial

TRIAL = Trial(3, "r", {})


def begun(sweep: SweepDir, *jobs: str) -> None:
    """Write that these jobs began the run, one after the other."""
    run = sweep.run(TRIAL)
    run.path.mkdir(parents=True, exist_ok=True)
    listed = [{"job_id": job, "began": float(place)} for place, job in enumerate(jobs)]
    write_json(run.jobs, {"jobs": listed})


def made(folder: Path) -> SweepDir:
    sweep = SweepDir(folder / "runs" / ".sweeps" / "b")
    sweep.claims.mkdir(parents=True)
    return sweep


def test_a_run_that_somebody_else_began_is_theirs(tmp_path: Path) -> None:
    sweep = made(tmp_path)
    assert read_past(sweep).free(sweep, TRIAL, "200_0"), "nobody began it"
    begun(sweep, "100_0")
    assert not read_past(sweep).free(sweep, TRIAL, "200_0")
    assert read_past(sweep).free(sweep, TRIAL, "100_0"), "its own"
    assert read_past(sweep).free(sweep, TRIAL, "200_0", "100_0"), "one that is known to be gone"


def test_what_was_over_when_a_person_asked_is_free_and_nothing_that_came_later(
    tmp_path: Path,
) -> None:
    sweep = made(tmp_path)
    begun(sweep, "100_0")
    want(sweep, {3: [beginning(e) for e in submissions(sweep.run(TRIAL).jobs)], 4: ["7 0.0"]})
    want(sweep, {})
    past = read_past(sweep)
    assert past.free(sweep, TRIAL, "200_0") and set(past.wanted) == {3, 4}
    begun(sweep, "100_0", "55")
    assert not past.free(sweep, TRIAL, "200_0"), "submitted by itself since"
    # The same job, which had other trials meanwhile, began it anew.
    write_json(sweep.run(TRIAL).jobs, {"jobs": [{"job_id": "100_0", "began": 9.0}]})
    assert not past.free(sweep, TRIAL, "200_0")


def test_workers_of_the_same_sweep_that_vanished_do_not_count(tmp_path: Path) -> None:
    sweep = made(tmp_path)
    assert claim(sweep, TRIAL, Worker("100_0"))
    begun(sweep, "100_0")
    assert not read_past(sweep).free(sweep, TRIAL, "100_1")
    assert take_over(sweep, 3, read_claims(sweep)[3])
    assert read_past(sweep).lost == {3: {"100_0"}}
    assert read_past(sweep).free(sweep, TRIAL, "100_1")


def test_damaged_files_say_nothing(tmp_path: Path) -> None:
    sweep = made(tmp_path)
    (sweep.path / "wanted.json").write_text("[1")
    assert read_past(sweep) == Past()
    run = sweep.run(TRIAL)
    run.path.mkdir(parents=True)
    run.jobs.write_text('{"jobs": [3, {"x": 1}]}')
    assert submissions(run.jobs) == []
