"""`glueline sweep` as a person types it: what is refused, and what a dry run shows."""

import json

import pytest

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
