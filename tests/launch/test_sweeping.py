"""What a sweep's folder says: states of trials, differences, and how arrays are cut."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from launch.sweeping import count_text, cut, difference, trial_states
from training.rundir import State
from training.sweepdir import Trial


def trials(count):
    return [Trial(n, f"r{n}", {"seed": n}) for n in range(count)]


def test_a_trial_without_a_run_is_queued_while_a_worker_may_come():
    submitted = [{"job_id": "7", "trials": [0, 1, 2]}, {"job_id": "8", "trials": [3]}]
    known: dict[str, State] = {"r0": "finished", "r1": "interrupted"}
    found = trial_states(Path("runs"), trials(5), known, submitted, ["7_12"])
    assert found == {0: "finished", 1: "queued", 2: "queued", 3: "missing", 4: "missing"}
    assert trial_states(Path("runs"), trials(2), known, submitted, [])[1] == "interrupted"
    assert count_text(found, "to submit") == "1 finished, 2 queued, 2 to submit"


def test_what_changed_is_told_by_key():
    old = {"set": {"optim.lr": 1e-4}, "grid": {"seed": [1, 2]}, "points": [{"epochs": 3}]}
    new = {"set": {"optim.lr": 2e-4}, "grid": {"seed": [1, 2], "lr_rule": ["sqrt"]}}
    assert difference(old, new) == [
        "optim.lr: 0.0001 → 0.0002",
        "lr_rule: not given → sqrt",
        "points: no longer {'epochs': 3}",
    ]
    lines = [{"asked": {"line": ["--task", task]}} for task in ("rte", "my task")]
    assert difference(*lines) == ["the line: --task rte → --task 'my task'"]
    assert difference(old, old) == []


@given(st.integers(1, 5000), st.integers(1, 1001), st.none() | st.integers(1, 3000))
def test_arrays_keep_the_limit_and_the_throttle(elements, limit, parallel):
    arrays = cut(elements, limit, parallel)
    sizes, shares = zip(*arrays, strict=True)
    assert all(1 <= share <= size <= limit for size, share in arrays)
    if parallel is None:
        assert sum(sizes) == elements and len(arrays) == -(-elements // limit)
    else:
        assert sum(shares) <= parallel and len(arrays) <= parallel
        assert sum(shares) == min(parallel, sum(sizes)) or sum(sizes) == elements
