from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from slurm.claims import MOST_LOST, Worker, claim, claimed, lost_claims, read_claims, take_over
from slurm.worker import ended, next_trial
from training.rundir import write_json
from training.sweepdir import SweepDir, Trial


@pytest.fixture
def sweep(tmp_path: Path) -> SweepDir:
    """Return a sweep of twenty trials that nobody took."""
    import json

    made = SweepDir(tmp_path / "runs" / ".sweeps" / "s")
    made.claims.mkdir(parents=True)
    trials = [Trial(n, f"run-{n}", {"seed": n}, base="a" if n < 15 else "b") for n in range(20)]
    made.trials.write_text("".join(json.dumps(t.plain()) + "\n" for t in trials))
    return made


def take_all(path: str, job: str) -> list[int]:
    """Take trials until there is none left; return their numbers."""
    sweep, worker, mine = SweepDir(path), Worker(job), []
    # Jobs that Slurm is not asked about: as if it were silent, nobody's trial is taken over.
    while (trial := next_trial(sweep, worker, False)) is not None:
        mine.append(trial.number)
        run = sweep.run(trial)
        run.path.mkdir()
        write_json(run.results, {})
    return mine


def test_many_at_once_take_each_trial_once(sweep: SweepDir) -> None:
    with ProcessPoolExecutor(8) as pool:
        taken = list(pool.map(take_all, [str(sweep.path)] * 8, [f"1_{n}" for n in range(8)]))
    assert sorted(n for some in taken for n in some) == list(range(20))
    assert claimed(sweep) == set(range(20))
    assert {c["job"] for c in read_claims(sweep).values()} <= {f"1_{n}" for n in range(8)}


def test_a_worker_that_starts_again_goes_on_with_its_own(sweep: SweepDir) -> None:
    first, other = Worker("7_1"), Worker("7_2")
    mine = next_trial(sweep, first, False)
    theirs = next_trial(sweep, other, False)
    assert mine and theirs and mine.number == 0 and theirs.number == 1
    assert next_trial(sweep, Worker("7_1"), True) == mine
    assert next_trial(sweep, Worker("7_1", lane=1), True) != mine
    # A run that failed for good is not gone on with.
    run = sweep.run(mine)
    run.attempt(0).mkdir(parents=True)
    write_json(run.verdict(0), {"action": "stop"})
    assert ended(run)
    again = next_trial(sweep, Worker("7_1"), True)
    assert again is not None and again.number == 3


def test_only_trials_of_ones_own_kind_are_taken(sweep: SweepDir) -> None:
    found = next_trial(sweep, Worker("1_0"), False, ("b",))
    assert found is not None and found.number == 15


def test_what_is_done_elsewhere_is_not_taken(sweep: SweepDir) -> None:
    run = sweep.run(Trial(0, "run-0", {}))
    run.path.mkdir()
    write_json(run.results, {})
    found = next_trial(sweep, Worker("1_0"), False)
    assert found is not None and found.number == 1


def test_the_trials_of_a_worker_that_is_gone_are_taken_over(
    sweep: SweepDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive = {"1_1"}
    monkeypatch.setattr("slurm.worker._alive", lambda jobs, slurm: alive & jobs)
    for n in range(20):
        assert claim(sweep, Trial(n, f"run-{n}", {}), Worker("1_0" if n == 4 else "1_1"))
    found = next_trial(sweep, Worker("1_2"), False)
    assert found is not None and found.number == 4
    assert read_claims(sweep)[4]["job"] == "1_2" and len(lost_claims(sweep, 4)) == 1
    assert next_trial(sweep, Worker("1_3"), False) is not None  # 1_2 is not alive either
    for _ in range(MOST_LOST):
        next_trial(sweep, Worker("1_4"), False)
    # After so many it is left alone: the trial itself may be what kills them.
    assert next_trial(sweep, Worker("1_5"), False) is None
    monkeypatch.setattr("slurm.worker._alive", lambda jobs, slurm: None)
    assert next_trial(sweep, Worker("1_6"), False) is None


def test_two_cannot_take_over_the_same(sweep: SweepDir) -> None:
    claim(sweep, Trial(0, "run-0", {}), Worker("1_0"))
    old = read_claims(sweep)[0]
    assert take_over(sweep, 0, old) and not take_over(sweep, 0, old)
    claim(sweep, Trial(0, "run-0", {}), Worker("1_1"))
    assert not take_over(sweep, 0, old)  # it is somebody else's by now
