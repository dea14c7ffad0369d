"""What trials differ in, and which axes follow the batch."""

import itertools

from launch.reporting.axes import axis_key, searched_axes, tied_axes, varied_axes


def tied(axes):
    return tied_axes(varied_axes(axes), axes)


def grid(points, **axes):
    """Return every point with every combination of values."""
    names = list(axes)
    return [
        {**point, **dict(zip(names, values, strict=True))}
        for point in points
        for values in itertools.product(*axes.values())
    ]


def test_axes_are_known_by_any_spelling():
    assert axis_key("--global-batch") == axis_key("batch.global_batch") == "batch.global_batch"
    assert axis_key("seed") == "train.seed" and axis_key("task") == "task"


def test_what_only_some_trials_have_is_an_axis():
    found = grid([{"optimizer": "lamb"}, {"warmup_ratio": 0.2}], global_batch=[32, 64], seed=[1, 2])
    assert varied_axes(found) == ["optimizer", "global_batch", "warmup_ratio"]
    assert tied(found) == [], "they differ at every batch"


def test_what_is_listed_beside_each_batch_follows_it():
    points = [{"global_batch": b, "eval_every": 4096 // b} for b in (32, 64, 128)]
    assert tied(grid(points, seed=[1, 2])) == ["eval_every"]
    assert tied(grid(points, lr_rule=["sqrt", "linear"])) == ["eval_every"]
    both = [{**p, "nodes": p["global_batch"] // 32} for p in points]
    assert tied(grid(both, seed=[1])) == ["eval_every", "nodes"]


def test_of_a_rule_and_its_rate_the_rate_follows():
    points = [
        {"lr_rule": rule, "lr": scale * b, "global_batch": b}
        for rule, scale in (("linear", 1e-6), ("sqrt", 1e-5))
        for b in (32, 64, 128)
    ]
    assert tied(points) == ["lr"]
    assert tied([p for p in points if p["global_batch"] == 32]) == [], "without batches nothing is"


def test_a_full_grid_has_no_followers():
    assert tied(grid([{}], global_batch=[32, 64], lr=[1e-4, 2e-4])) == []
    assert tied(grid([{}], global_batch=[32, 64], lr_rule=["sqrt", "linear"], lr=[1, 2])) == []


def test_a_search_has_points_and_no_followers():
    found = [{"global_batch": 2**n, "lr": n / 7} for n in range(12)]
    assert searched_axes(["global_batch", "lr"], found) == ["lr"] and tied(found) == []
