from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from slurm import claims
from slurm.begun import beginning, want
from slurm.claims import (
    MOST_LOST,
    Worker,
    claim,
    claimed,
    give_back,
    let_go,
    lost_claims,
    read_claims,
    take_over,
)
from slurm.search import over
from slurm.worker import ended, next_trial
from training.rundir import submissions, write_json
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


@pytest.mark.parametrize("cut_off", [False, True])
def test_a_claim_that_is_new_by_now_is_put_back(
    sweep: SweepDir, monkeypatch: pytest.MonkeyPatch, cut_off: bool
) -> None:
    """One worker looks at a dead claim; before it moves it, another one takes the trial over."""
    trial = Trial(0, "run-0", {})
    claim(sweep, trial, Worker("1_0"))
    if cut_off:
        sweep.claim(0).write_text('{"job": "1_')
    old = read_claims(sweep)[0]
    look, looks = claims._content, []

    def slowly(place: Path) -> dict[str, object]:
        seen = look(place)
        looks.append(place)
        if len(looks) == 1:
            monkeypatch.setattr(claims, "_content", look)
            assert take_over(sweep, 0, old) and claim(sweep, trial, Worker("1_1"))
            monkeypatch.setattr(claims, "_content", slowly)
        return seen

    monkeypatch.setattr(claims, "_content", slowly)
    assert not take_over(sweep, 0, old)
    assert read_claims(sweep)[0]["job"] == "1_1" and len(lost_claims(sweep, 0)) == 1
    assert not claim(sweep, trial, Worker("1_2"))
    assert {p.name for p in sweep.claims.iterdir()} == {
        "0.json",
        lost_claims(sweep, 0)[0].name,
    }, "nothing else is left"


def test_what_is_put_back_is_no_third_ones_place(
    sweep: SweepDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = Trial(0, "run-0", {})
    claim(sweep, trial, Worker("1_1"))
    look, looks = claims._content, []

    def slowly(place: Path) -> dict[str, object]:
        looks.append(place)
        if len(looks) == 1:
            return {"job": "1_0"}
        if len(looks) == 2:
            claim(sweep, trial, Worker("1_2"))
        return look(place)

    monkeypatch.setattr(claims, "_content", slowly)
    assert not take_over(sweep, 0, {"job": "1_0"})
    assert read_claims(sweep)[0]["job"] == "1_2"


def test_what_a_person_asks_for_again_does_not_count_as_a_vanished_worker(
    sweep: SweepDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slurm.worker._alive", lambda jobs, slurm: set())
    trial = Trial(0, "run-0", {})
    for number in range(MOST_LOST + 1):
        assert claim(sweep, trial, Worker(f"{number}_0"))
        let_go(sweep, 0, read_claims(sweep)[0])
    assert claim(sweep, trial, Worker("9_0"))
    assert not lost_claims(sweep, 0) and not over(sweep, trial)
    for number in range(1, 20):
        claim(sweep, Trial(number, f"run-{number}", {}), Worker("8_0"))
    # Its worker dies: another one goes on with it.
    found = next_trial(sweep, Worker("9_1"), False)
    assert found is not None and found.number == 0
    # And after as many as may vanish, a person can have it tried as often again.
    for number in range(2, MOST_LOST + 1):
        assert take_over(sweep, 0, read_claims(sweep)[0])
        assert claim(sweep, trial, Worker(f"9_{number}"))
    assert over(sweep, trial)
    let_go(sweep, 0, read_claims(sweep)[0])
    assert not over(sweep, trial) and 0 not in claimed(sweep)


def test_only_the_claim_that_was_seen_is_let_go_or_given_back(sweep: SweepDir) -> None:
    trial = Trial(0, "run-0", {})
    claim(sweep, trial, Worker("1_0"))
    let_go(sweep, 0, {"job": "0_0"})
    let_go(sweep, 0, None)
    give_back(sweep, 0, Worker("1_1"))
    assert read_claims(sweep)[0]["job"] == "1_0"
    give_back(sweep, 0, Worker("1_0"))
    assert not claimed(sweep) and not list(sweep.claims.iterdir())


def began(sweep: SweepDir, number: int, job: str, **more: object) -> None:
    """Write that a job began the run of a trial."""
    run = sweep.run(Trial(number, f"run-{number}", {}))
    run.path.mkdir(parents=True, exist_ok=True)
    write_json(run.jobs, {"jobs": [*submissions(run.jobs), {"job_id": job, "began": 1.0, **more}]})


def test_a_run_that_another_sweep_began_is_left_to_it(sweep: SweepDir) -> None:
    began(sweep, 0, "100_0")  # it trains there
    began(sweep, 1, "100_1", released=True)  # it failed there for good
    began(sweep, 2, "55")  # submitted by itself
    found = next_trial(sweep, Worker("1_0"), False)
    assert found is not None and found.number == 3
    # A person has the one that failed run again, and only that.
    run = sweep.run(Trial(1, "run-1", {}))
    want(sweep, {1: [beginning(e) for e in submissions(run.jobs)]})
    found = next_trial(sweep, Worker("1_1"), False)
    assert found is not None and found.number == 1


def test_a_trial_with_which_another_sweep_went_on_is_not_taken_over(
    sweep: SweepDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slurm.worker._alive", lambda jobs, slurm: set())
    for number in range(20):
        claim(sweep, Trial(number, f"run-{number}", {}), Worker("1_0"))
        began(sweep, number, "1_0")
    for number in range(19):
        began(sweep, number, "100_0")
    found = next_trial(sweep, Worker("2_0"), False)
    assert found is not None and found.number == 19
    monkeypatch.setattr("slurm.worker._alive", lambda jobs, slurm: {"2_0"})
    assert next_trial(sweep, Worker("2_1"), False) is None


def test_processes_of_another_machine_are_not_thought_gone(
    sweep: SweepDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = 2**22 + 1  # above the highest process number
    monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")
    for number in range(20):
        claim(sweep, Trial(number, f"run-{number}", {}), Worker(str(gone), slurm=False))
    monkeypatch.setattr("socket.gethostname", lambda: "here")
    assert next_trial(sweep, Worker("1", slurm=False), False) is None
    monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")
    assert next_trial(sweep, Worker("1", slurm=False), False) is not None
