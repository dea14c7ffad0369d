from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from launch import searching, sweeping
from launch.packing import Packing
from launch.search_plan import difference
from launch.sweep_view import describe_sweep, view_sweeps
from launch.sweeping import count_text, trial_states
from slurm.search import ask, last_runs
from slurm.search_file import read_search
from tests.slurm.searches import BATCH, DECAY, LR, config, finish, make_search
from training.rundir import write_json
from training.sweepdir import read_trials


def test_what_is_missing_of_a_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = make_search(tmp_path, trials=3, fraction=0.5, finish=2)
    found = read_search(sweep)
    assert found is not None
    assert searching._missing(sweep, found.search, []) == (3, 2)
    first = ask(sweep)
    assert first is not None
    finish(sweep.run(first), 0.5)
    assert searching._missing(sweep, found.search, read_trials(sweep)) == (2, 2)
    # Workers that are there make the rest, whatever numbers that has.
    submitted = [{"job_id": "7", "trials": [0], "target": 3}]
    write_json(sweep.jobs, {"jobs": submitted})
    monkeypatch.setattr(sweeping, "alive_jobs", lambda _: {"7_0": "running"})
    assert searching._missing(sweep, found.search, read_trials(sweep)) == (0, 0)
    second = ask(sweep)
    trials = read_trials(sweep)
    assert second and trial_states(sweep.runs, trials, {}, submitted, ["7_0"])[1] == "queued"
    assert trial_states(sweep.runs, trials, {}, submitted, [])[1] == "missing"
    finish(sweep.run(second), 0.6)
    monkeypatch.setattr(sweeping, "alive_jobs", lambda _: {})
    assert searching._missing(sweep, found.search, read_trials(sweep)) == (1, 2)
    third = ask(sweep)
    assert third is not None and not last_runs(sweep)
    finish(sweep.run(third), 0.4)
    assert [t.best_of for t in last_runs(sweep)] == [1, 0]
    assert searching._missing(sweep, found.search, read_trials(sweep)) == (0, 0)


def test_a_pruned_trial_is_none_that_a_person_ended(tmp_path: Path) -> None:
    sweep = make_search(tmp_path, trials=3)
    trials = [t for _ in range(3) if (t := ask(sweep))]
    for trial, request in zip(
        trials, ({"pruned": 0.25, "stop": True}, {"stop": True}), strict=False
    ):
        sweep.run(trial).path.mkdir()
        write_json(sweep.run(trial).request, request)
    known = {t.run_id: "interrupted" for t in trials[:2]}
    states = trial_states(sweep.runs, trials, known, [], [])  # pyright: ignore[reportArgumentType]
    assert states == {0: "pruned", 1: "interrupted", 2: "missing"}
    assert count_text(states) == "1 pruned, 1 interrupted, 1 missing"


def test_status_knows_that_a_search_is_not_over(tmp_path: Path) -> None:
    sweep = make_search(tmp_path, trials=3)
    trial = ask(sweep)
    assert trial is not None
    finish(sweep.run(trial), 0.5)
    (seen,) = view_sweeps([sweep], {})
    assert seen.unasked == 2 and seen.state == "interrupted"
    assert "2 more to be asked for" in describe_sweep(seen)


def test_trials_of_another_space_do_not_compare(tmp_path: Path) -> None:
    old = read_search(make_search(tmp_path / "a", trials=3, fraction=0.5))
    more = read_search(make_search(tmp_path / "b", trials=9, fraction=0.5, sampler="random"))
    other = read_search(make_search(tmp_path / "c", LR, BATCH, trials=3, fraction=0.5))
    all_rows = read_search(make_search(tmp_path / "d", LR, DECAY, BATCH, trials=3))
    assert old and more and other and all_rows
    assert difference(old, more) is None
    assert difference(old, other) == "another space"
    assert difference(old, all_rows) == "another fraction of the rows"


@pytest.mark.parametrize(("nodes", "calls"), [(1, [[0, 1, 2]]), (2, [[0, 1, 2], [3, 4]])])
def test_last_runs_of_several_nodes_wait_for_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nodes: int, calls: list[list[int]]
) -> None:
    sweep = make_search(tmp_path, trials=3, fraction=0.5, finish=2)
    found = read_search(sweep)
    assert found is not None
    cluster = replace(config().cluster, nodes=nodes)
    base = SimpleNamespace(config=replace(config(), cluster=cluster))
    made = SimpleNamespace(file=found, found=SimpleNamespace(bases={"part": base}))
    seen = []

    def submitted(_, __, numbers, packing, after, bases, target):
        seen.append((list(numbers), after, target))
        return [str(70 + len(seen))]

    monkeypatch.setattr(sweeping, "submit_trials", submitted)
    jobs = searching._submit(sweep, made, [], 3, 2, Packing(), {})  # pyright: ignore[reportArgumentType]
    assert [numbers for numbers, _, _ in seen] == calls and len(jobs) == len(calls)
    assert [after for _, after, _ in seen] == [None, "71"][: len(calls)]
    assert {target for _, _, target in seen} == {3}
