"""Which seeds may decide a task, and what is stopped then."""

import json
from dataclasses import replace

from launch import sweep_view
from launch.reproducing.asked import Asked
from launch.reproducing.follow import (
    drop,
    due,
    follow,
    looks_taken,
    seeds_ended,
    take_looks,
    unfinished,
)
from launch.sweep_view import SweepView
from training.rundir import read_json
from training.sweepdir import SweepDir, Trial, read_trials


def seen(*states, task="cola"):
    trials = [Trial(n, f"r{n}", {"task": task, "seed": n + 1}) for n in range(len(states))]
    return SweepView(SweepDir("x"), tuple(trials), dict(enumerate(states)), {})


def test_a_quicker_seed_does_not_decide_before_its_turn():
    assert seeds_ended(seen("finished", "running", "finished", "failed"), "cola") == 1
    assert seeds_ended(seen("finished", "failed", "finished", "queued"), "cola") == 3
    assert seeds_ended(seen("finished"), "mrpc") == 0


def test_looks_are_those_that_were_planned():
    asked = Asked(reference={}, set_name="x", tasks=("cola",), seeds=5, looks=(3, 5))
    assert [due(asked, n, 0) for n in range(6)] == [None, None, None, 3, 3, 5]
    assert due(asked, 4, 3) is None


def test_what_is_left_of_a_decided_task_is_dropped(tmp_path):
    place = SweepDir(tmp_path / "runs" / ".sweeps" / "x")
    now = seen("finished", "finished", "finished", "running", "missing")
    rest = unfinished(now, "cola", 3)
    assert [t.number for t in rest] == [3, 4]
    place.path.mkdir(parents=True)
    place.trials.write_text("".join(json.dumps(t.plain()) + "\n" for t in now.trials))
    running = place.run(now.trials[3])
    running.path.mkdir(parents=True)
    drop(place, [3, 4])
    assert [t.number for t in read_trials(place)] == [0, 1, 2]
    assert read_json(running.request) == {"stop": True}


def test_a_decided_task_is_not_looked_at_again(tmp_path):
    asked = Asked(reference={}, set_name="x", tasks=("cola",), seeds=5, looks=(3, 4, 5))
    place = SweepDir(tmp_path / "runs" / ".sweeps" / "x")
    place.path.mkdir(parents=True)
    now = seen("finished", "finished", "finished", "queued", "queued")
    place.trials.write_text("".join(json.dumps(t.plain()) + "\n" for t in now.trials))
    stopped, looked, said = [], looks_taken(asked), []

    def once(verdict):
        stop = lambda *what: stopped.append(what)  # noqa: E731
        take_looks(place, asked, now, looked, lambda *_: verdict, stop, said.append)

    once(None)
    assert looked == {"cola": 3} and not stopped
    looked = looks_taken(asked)
    once("reproduced")
    once("reproduced")
    assert stopped == [("cola", 3)] and len(said) == 1 and "reproduced after 3" in said[0]
    assert [t.number for t in read_trials(place)] == [0, 1, 2]
    assert looks_taken(asked.decided({"cola": 3})) == {"cola": 5}


def test_while_slurm_is_silent_it_is_waited_for(monkeypatch):
    asked = Asked(reference={}, set_name="x", tasks=("cola",), seeds=5, looks=(3, 4, 5))
    silent = replace(seen(*["missing"] * 5), silent="Slurm does not answer: timeout")
    answers = [seen(*["queued"] * 5), silent, silent, seen(*["finished"] * 5)]
    left = iter(answers)
    monkeypatch.setattr(sweep_view, "look_at_sweep", lambda _: next(left))
    monkeypatch.setattr(sweep_view.time, "sleep", lambda _: None)
    said = []
    assert follow(SweepDir("x"), asked, lambda *_: None, lambda *_: None, said.append)
    assert next(left, None) is None
    told = [line for line in said if "does not answer" in line]
    assert len(told) == 1 and "waiting" in told[0]
    assert not any("missing" in line for line in said) and "5 finished" in said[-1]


def test_a_person_may_leave_while_slurm_is_silent(monkeypatch):
    silent = replace(seen("missing"), silent="Slurm does not answer")

    def leave(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep_view, "look_at_sweep", lambda _: silent)
    monkeypatch.setattr(sweep_view.time, "sleep", leave)
    asked = Asked(reference={}, set_name="x", tasks=("cola",), seeds=5, looks=(3, 4, 5))
    assert not follow(SweepDir("x"), asked, lambda *_: None, lambda *_: None, lambda _: None)
