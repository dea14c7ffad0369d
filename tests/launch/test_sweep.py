"""`glueline sweep` as a person types it: what is refused, and what a dry run shows."""

import json
import time

import pytest

from slurm.claims import claimed
from training.rundir import read_json, submissions
from training.sweepdir import SweepDir, read_trials

from .commandline import assert_refused, glueline, tree

LINE = ("--task", "demo", "--model", "tiny", "--executor", "local", "--tracker", "none")


def sweep(cwd, *words):
    return glueline("sweep", *words, cwd=cwd)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], ["there is nothing to vary", "--grid"]),
        (["--grid", "global_batch="], ["there are no values"]),
        (["--grid", "global_batch"], ["write KEY=V1,V2"]),
        (["--grid", "globel_batch=1"], ["unknown axis 'globel_batch'", "global_batch"]),
        (["--grid", "lr=1e-4,1e-4"], ["appears twice"]),
        (["--grid", "lr=1e-4", "--lr", "1"], ["--lr", "which the sweep varies"]),
        (["--grid", "global_batch=8,0"], ["trial 1 (global_batch=0)", "at least 1"]),
        (["--grid", "lr_rule=fixed,sqrt"], ["trial 1 (lr_rule=sqrt)", "needs --base-batch"]),
        (["--seeds", "0"], ["--seeds", "number of seeds"]),
        (["none.yaml"], ["there is no sweep file none.yaml"]),
        (["--seeds", "2", "--name", "a b"], ["a b"]),
        (["--seeds", "2", "--task", "nope"], ["nope"]),
        (["--seeds", "2", "--pack", "2"], ["--pack 2", "--max-parallel 2"]),
        (
            ["--search", "lr=1e-5..1e-3:log", "--trials", "3", "--pack", "2"],
            ["--pack 2", "--max-parallel 2"],
        ),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_written(tmp_path, words, said):
    assert_refused(sweep(tmp_path, *LINE, *words), *said)
    assert tree(tmp_path) == set()


def test_a_file_with_mistakes(tmp_path):
    file = tmp_path / "s.yaml"
    for text, said in (
        ("gird: {seed: [1]}", "unknown key 'gird'"),
        ("grid: {seed: []}", "there are no values"),
        ("set: {seed: 1}\nseeds: 2", "both set train.seed"),
        ("seeds: 2\nexclude: [{seed: 9}]", "no trial of the sweep is so"),
        ("seeds: 2\nexclude: [{seed: 1}, {seed: 2}]", "exclude leaves no trial"),
        ("- 1", "expected keys and values"),
        (
            "grid: {lr: [1]}\nseeds: 2\ngrid: {seed: [1]}",
            "'grid' stands in line 1 and in line 3: leave one of them out",
        ),
        ("seeds: 2\nname: 2024-05-01", "name: expected text, got 2024-05-01: write it in quotes"),
        ("seeds: 2\nname: 2024", "name: expected text, got 2024: write it in quotes"),
    ):
        file.write_text(text)
        assert_refused(sweep(tmp_path, *LINE, "s.yaml"), said)
    assert tree(tmp_path) == {"s.yaml"}


def test_a_dry_run_shows_trials_and_cost_and_touches_nothing(tmp_path):
    words = [*LINE, "--grid", "global_batch=16,32", "--seeds", "10", "--name", "x", "--dry-run"]
    done = sweep(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    assert "20 trials: 20 to submit" in done.stdout and "global_batch=16 seed=1" in done.stdout
    assert "8 more" in done.stdout and "core-hours" in done.stdout
    told = json.loads(sweep(tmp_path, *words, "--json").stdout)
    assert told["cost"]["trials"] == 20 and told["cost"]["hours"] > 0
    assert len({t["run_id"] for t in told["trials"]}) == 20
    assert tree(tmp_path) == set()


def test_trials_on_this_machine_and_the_same_line_again(tmp_path):
    words = [*LINE, "--max-steps", "2", "--name", "here"]
    # Both at once: each has its share of the cores.
    done = sweep(tmp_path, *words, "--seeds", "2", "--max-parallel", "2")
    assert done.returncode == 0, done.stderr
    watched = glueline("status", "here", "--watch", cwd=tmp_path)
    assert watched.returncode == 0, watched.stdout + watched.stderr
    assert "2 trials: 2 finished" in watched.stdout and "best     " in watched.stdout
    place = SweepDir(tmp_path / "runs" / ".sweeps" / "here")
    for trial in read_trials(place):
        run = place.run(trial)
        assert run.results.exists() and not run.model.exists(), "weights do not stay"
    again = sweep(tmp_path, *words, "--seeds", "2")
    assert again.returncode == 0 and "nothing to submit" in again.stdout
    # Another file of the same name: what differs is shown, and trials leave only when agreed.
    other = sweep(tmp_path, *words, "--seeds", "2", "--lr", "3e-3")
    assert other.returncode == 2 and "add --yes" in other.stderr
    assert "2 trials that are not asked for now" in other.stderr
    assert "changed  the line: " in other.stderr and "--lr 3e-3" in other.stderr
    assert len(read_trials(place)) == 2
    fewer = sweep(tmp_path, *words, "--grid", "seed=1", "--yes")
    assert fewer.returncode == 0 and "1 trials: 1 finished" in fewer.stdout
    assert "changed  seed: 1, 2 → 1" in fewer.stderr


def trains(run):
    """Return the step that a run is at, once it has begun."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        if step := (read_json(run.progress) or {}).get("step"):
            return step
        time.sleep(0.2)
    raise AssertionError(f"{run.run_id} does not train")


def test_a_trial_that_another_sweep_runs_is_left_to_it(tmp_path):
    words = [*LINE, "--max-steps", "20000"]
    places = [SweepDir(tmp_path / "runs" / ".sweeps" / name) for name in ("a", "b", "c")]
    try:
        assert sweep(tmp_path, *words, "--seeds", "1", "--name", "a").returncode == 0
        (shared,) = read_trials(places[0])
        trains(places[0].run(shared))
        done = sweep(tmp_path, *words, "--seeds", "2", "--name", "b")
        assert done.returncode == 0 and "submitted 1 trials" in done.stdout, done.stderr
        assert "1 running, 1 queued" in done.stdout
        first, second = read_trials(places[1])
        assert first.run_id == shared.run_id
        trains(places[1].run(second))
        assert claimed(places[1]) == {1}
        # A sweep of which others run all is written down, too: they are its trials.
        done = sweep(tmp_path, *words, "--seeds", "1", "--name", "c")
        assert "nothing to submit" in done.stdout and "1 trials: 1 running" in done.stdout
        assert [t.run_id for t in read_trials(places[2])] == [shared.run_id]
        # Who cancels the other sweep does not stop what is not its own.
        assert glueline("cancel", "b", "--yes", cwd=tmp_path).returncode == 0
        assert not places[0].run(shared).request.exists()
        assert [e["sweep"] for e in submissions(places[0].run(shared).jobs)] == ["a"]
    finally:
        glueline("cancel", "a", "--yes", cwd=tmp_path)
        glueline("cancel", "b", "--yes", cwd=tmp_path)
