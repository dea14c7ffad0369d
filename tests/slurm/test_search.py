from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from slurm import pruning
from slurm.claims import Worker, claim
from slurm.pruning import watched
from slurm.search import ask, last_runs, settle
from slurm.search_file import Axis, read_search
from slurm.study import Journal, open_study
from slurm.turns import Turn
from slurm.worker import next_trial
from training.rundir import append_line, read_json, write_json
from training.sweepdir import SweepDir, pruned_at, read_trials

from .searches import BATCH, DECAY, LR, finish, make_search

ROOT = Path(__file__).resolve().parents[2]


def study_of(sweep: SweepDir) -> optuna.Study:
    found = read_search(sweep)
    assert found is not None
    return open_study(sweep.journal, found)


def started(sweep: SweepDir, deaths: float) -> subprocess.Popen[bytes]:
    """Start a worker."""
    code = f"from tests.slurm.searches import work; work({str(sweep.path)!r}, {deaths})"
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)


@pytest.mark.timeout(600)
def test_eight_workers_on_one_journal_lose_and_double_nothing(tmp_path: Path) -> None:
    sweep = make_search(tmp_path, trials=24, fraction=0.5, finish=2, finish_seeds=(1, 2))
    workers = [started(sweep, deaths=0.1) for _ in range(8)]
    rng, killed = random.Random(0), 0
    while alive := [w for w in workers if w.poll() is None]:
        time.sleep(0.05)
        # Anywhere: in the middle of asking, of writing the journal, or of training.
        if killed < 4 and len(read_trials(sweep)) > 4 * (killed + 1):
            rng.choice(alive).send_signal(signal.SIGKILL)
            killed += 1
        dead = sum(w.returncode == -signal.SIGKILL for w in workers)
        if len(workers) < 8 + dead:
            workers.append(started(sweep, deaths=0.0))
    # Whoever comes last finds what the last that died had.
    workers.append(started(sweep, deaths=0.0))
    assert workers[-1].wait(timeout=60) == 0
    assert killed == 4 and {w.returncode for w in workers} == {-signal.SIGKILL, 0}
    trials = read_trials(sweep)
    own = [t for t in trials if t.best_of is None]
    assert len(own) == 24 and len({t.run_id for t in trials}) == len(trials) == 28
    values = {t.number: (read_json(sweep.run(t).results) or {})["primary_value"] for t in trials}
    frozen = {t.number: t for t in study_of(sweep).get_trials()}
    assert {t.number for t in own} <= frozen.keys()
    for trial in own:
        assert frozen[trial.number].state == TrialState.COMPLETE
        assert frozen[trial.number].value == values[trial.number]
        assert frozen[trial.number].params["lr"] == trial.axes["lr"]
    assert not [t for t in frozen.values() if t.state == TrialState.RUNNING]
    # The two best ones, each with two seeds, on all rows.
    best = sorted(own, key=lambda t: -values[t.number])[:2]
    last = [t for t in trials if t.best_of is not None]
    wanted = {(t.number, seed) for t in best for seed in (1, 2)}
    assert {(t.best_of, t.axes["seed"]) for t in last} == wanted
    assert {t.axes["task.train_fraction"] for t in last} == {1.0}


def test_a_number_whose_worker_died_before_it_had_a_trial_is_taken(tmp_path: Path) -> None:
    sweep = make_search(tmp_path, trials=3)
    # Died between asking and writing, half of its values drawn.
    lost = study_of(sweep).ask()
    lr = lost.suggest_float("lr", LR.low, LR.high, log=True)
    first, second, third = ask(sweep), ask(sweep), ask(sweep)
    assert first and second and third and ask(sweep) is None
    assert [t.number for t in (first, second, third)] == [0, 1, 2]
    assert first.axes["lr"] == lr and first.values["optim.lr"] == lr
    # Died between writing and claiming: it is free.
    found = next_trial(sweep, Worker("1", slurm=False), False)
    assert found == first


def test_what_became_of_trials_is_told_once(tmp_path: Path) -> None:
    sweep = make_search(tmp_path, trials=5)
    trials = [ask(sweep) for _ in range(5)]
    runs = [sweep.run(t) for t in trials if t]
    finish(runs[0], 0.5)
    finish(runs[1], None)
    for run, kind in ((runs[2], "FloatingPointError"), (runs[3], "ValueError")):
        run.attempt(0).mkdir(parents=True)
        write_json(run.verdict(0), {"action": "stop", "kind": kind})
    settle(sweep)
    states = [t.state.name for t in study_of(sweep).get_trials()]
    assert states == ["COMPLETE", "FAIL", "PRUNED", "FAIL", "RUNNING"]
    # One that failed is run again: its score counts, and is no trial more.
    finish(runs[3], 0.75)
    settle(sweep)
    settle(sweep)
    study = study_of(sweep)
    assert study.best_value == 0.75 and len(study.get_trials()) == 6
    assert study.best_params["lr"] == study.get_trials()[3].params["lr"]
    assert ask(sweep) is None


def test_a_small_space_is_tried_once_and_whole(tmp_path: Path) -> None:
    sizes = Axis("warmup_steps", "optim.warmup_steps", (), 0, 3, whole=True)
    for sampler in ("tpe", "random"):
        sweep = make_search(tmp_path / sampler, BATCH, sizes, trials=20, sampler=sampler)
        seen = []
        while (trial := ask(sweep)) is not None:
            seen.append((trial.axes["global_batch"], trial.axes["warmup_steps"]))
            finish(sweep.run(trial), 0.5)
        assert sorted(seen) == [(b, w) for b in (16, 32) for w in range(4)]


def test_a_grid_is_gone_through_without_doubles(tmp_path: Path) -> None:
    rates = Axis("lr", "optim.lr", (1e-4, 1e-3, 1e-2))
    sweep = make_search(tmp_path, rates, BATCH, trials=99, sampler="grid")
    seen = []
    while (trial := ask(sweep)) is not None:
        seen.append((trial.axes["lr"], trial.axes["global_batch"]))
        finish(sweep.run(trial), 0.5)
        settle(sweep)
    assert len(seen) == 6 and len(set(seen)) == 6
    assert len(study_of(sweep).get_trials()) == 6


def test_the_same_seed_draws_the_same_and_workers_do_not_draw_alike(tmp_path: Path) -> None:
    drawn = []
    for name in ("a", "b"):
        sweep = make_search(tmp_path / name, trials=6, seed=7)
        drawn.append([t.axes["lr"] for _ in range(6) if (t := ask(sweep))])
    assert drawn[0] == drawn[1] and len(set(drawn[0])) == 6


def test_more_trials_go_on_with_the_study(tmp_path: Path) -> None:
    sweep = make_search(tmp_path, trials=2, fraction=0.5)
    for _ in range(2):
        trial = ask(sweep)
        assert trial is not None
        finish(sweep.run(trial), trial.axes["lr"])
    (last,) = last_runs(sweep)
    assert last.number == 2 and last.values["optim.lr"] == trial_rate(sweep, last.best_of)
    assert last_runs(sweep) == [last] and ask(sweep) is None
    value = read_json(sweep.search) or {}
    value["search"]["trials"] = 3
    write_json(sweep.search, value)
    more = ask(sweep)
    assert more and more.number == 3 and ask(sweep) is None
    # Not before the new one is done.
    assert last_runs(sweep) == [last]
    finish(sweep.run(more), 1.0)
    assert [t.best_of for t in last_runs(sweep)] == [last.best_of, 3]


def trial_rate(sweep: SweepDir, number: int | None) -> float:
    return next(t.axes["lr"] for t in read_trials(sweep) if t.number == number)


@pytest.mark.parametrize("pruner", ["median", "successive-halving"])
def test_a_run_that_is_worse_than_the_others_is_asked_to_end(
    tmp_path: Path, pruner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "LOOK_SECONDS", 0.05)
    sweep = make_search(tmp_path, trials=4, pruner=pruner)
    worker = Worker("1", slurm=False)
    ends = []
    for score in (0.9, 0.8, 0.2, 0.95):
        trial = next_trial(sweep, worker, False)
        assert trial is not None
        run = sweep.run(trial)
        run.attempt(0).mkdir(parents=True)
        write_json(run.progress, {"total_steps": 40})
        node = {"node": 0, "job_id": "1"}
        write_json(run.node(0, 0), node)
        run.checkpoints.mkdir()
        with watched(sweep, trial):
            for step in (10, 20, 40):
                line = {"kind": "eval", "split": "validation", "step": step, "attempt": 0}
                append_line(run.metrics, {**line, "accuracy": score})
                deadline = time.monotonic() + 5
                while time.monotonic() < deadline and not run.request.exists() and step < 40:
                    told = study_of(sweep).get_trials()[trial.number].intermediate_values
                    if told.get(round(100 * step / 40)) == score:
                        break
                    time.sleep(0.02)
                time.sleep(0.2)
                if run.request.exists():
                    break
            else:
                finish(run, score)
        write_json(run.node(0, 0), {**node, "end": "interrupted", "ended": 1.0})
        ends.append(pruned_at(run))
    settle(sweep)
    states = [t.state.name for t in study_of(sweep).get_trials()]
    assert ends[2] == 0.25 and ends[0] is None and ends[3] is None
    assert states[2] == "PRUNED" and states[0] == states[3] == "COMPLETE"
    trials = read_trials(sweep)
    # Nobody goes on with it, and its checkpoints are gone; nor is it one that a person ended.
    assert not sweep.run(trials[2]).checkpoints.exists()
    assert sweep.run(trials[3]).checkpoints.exists()
    assert next_trial(sweep, worker, True) is None


def test_a_journal_goes_on_after_half_a_line(tmp_path: Path) -> None:
    sweep = make_search(tmp_path, trials=9)
    assert ask(sweep) is not None
    with sweep.journal.open("a") as file:
        file.write('{"op_code":4,"worker_id":"x","stu')
    assert ask(sweep) is not None and len(study_of(sweep).get_trials()) == 2
    assert all(json.loads(line) for line in sweep.journal.read_text().splitlines())


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.dictionaries(st.text(), st.integers()), min_size=1), max_size=8))
def test_a_journal_gives_back_what_was_written(batches: list[list[dict[str, int]]]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "j"
        for batch in batches:
            Journal(place).append_logs(batch)
            with place.open("a") as file:
                file.write("{half")
        found = list(Journal(place).read_logs(0)) if place.exists() else []
        assert found == [log for batch in batches for log in batch]


@settings(max_examples=50, deadline=None)
@given(st.floats(1e-5, 1e-2), st.floats(0, 0.1), st.sampled_from(BATCH.choices))
def test_a_trial_is_its_values(lr: float, decay: float, batch: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        found = read_search(make_search(Path(folder), LR, DECAY, BATCH, trials=2, fraction=0.5))
    assert found is not None
    values = {"lr": lr, "weight_decay": decay, "global_batch": batch}
    part, whole = found.trial(3, values), found.trial(4, values, 3)
    assert part.values == {"optim.lr": lr, "optim.weight_decay": decay, "batch.global_batch": batch}
    assert whole.values == part.values and whole.run_id != part.run_id
    assert found.trial(9, values).run_id == part.run_id
    assert (part.base, whole.base, whole.best_of) == ("part", "whole", 3)


def test_turns_are_taken_one_at_a_time_and_a_dead_ones_is_free(tmp_path: Path) -> None:
    place, inside = tmp_path / "turn", []

    def hold() -> None:
        for _ in range(30):
            with Turn(place).held():
                inside.append(1)
                assert len(inside) == 1
                inside.pop()

    import threading

    threads = [threading.Thread(target=hold) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not place.exists()
    code = "import os, sys; from slurm.turns import Turn; from pathlib import Path; "
    code += "Turn(Path(sys.argv[1])).acquire(); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code, str(place)], cwd=ROOT, check=False)
    assert place.exists()
    begun = time.monotonic()
    with Turn(place).held():
        assert time.monotonic() - begun < 5
    # Of another machine one cannot know: after a while.
    place.write_text("elsewhere 1")
    with Turn(place, stale=0.3).held():
        assert not place.read_text().startswith("elsewhere")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(place)  # noqa: PTH108
    assert claim(make_search(tmp_path / "x", trials=1), _one(), Worker("1"))


def _one():
    from training.sweepdir import Trial

    return Trial(0, "r", {})
