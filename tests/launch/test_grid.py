from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.grid import Spec, expand, key_of, spec_of_file, with_flags
from training.config import UsageError


def spec(**values: Any) -> Spec:
    return spec_of_file(values, "s.yaml")


def test_a_file_becomes_points() -> None:
    found = spec(
        task="mnli",
        set={"lr": 1e-4},
        grid={"global_batch": [32, 64], "optim.beta2": [0.9, 0.99]},
        points=[{"epochs": 3}, {"epochs": 6, "warmup_ratio": 0.1}],
        exclude=[{"global_batch": 64, "epochs": 6}],
        seeds=[3, 5],
    )
    assert found.fixed == {"task": "mnli", "optim.lr": 1e-4}
    points = expand(found)
    assert len(points) == 2 * 2 * 2 * 2 - 4
    assert points[0] == {"global_batch": 32, "optim.beta2": 0.9, "seed": 3, "epochs": 3}
    assert not [p for p in points if p["global_batch"] == 64 and p["epochs"] == 6]


def test_flags_go_over_the_file() -> None:
    found = with_flags(spec(grid={"global_batch": [1]}, seeds=2), ["global-batch=8,16"], 3)
    assert found.axes == {"global_batch": (8, 16), "seed": (1, 2, 3)}
    assert with_flags(Spec(), ["lr=1e-5,0.1", "lr-rule=sqrt"], None).axes == {
        "lr": (1e-5, 0.1),
        "lr_rule": ("sqrt",),
    }


def test_an_axis_is_a_flag_or_a_key() -> None:
    assert key_of("global_batch", "") == "batch.global_batch"
    assert key_of("--lr-rule", "") == "optim.lr_rule"
    assert key_of("optim.eps", "") == "optim.eps" and key_of("model", "") == "model"


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"gird": {}}, "unknown key 'gird': did you mean 'grid'"),
        ({"grid": {"global_bach": [1]}}, "unknown axis 'global_bach': did you mean 'global_batch'"),
        ({"grid": {"lr": []}}, "lr: there are no values"),
        ({"grid": {"lr": [1, 2, 1]}}, "1 appears twice"),
        ({"grid": {"lr": [1], "optim.lr": [2]}}, "lr and optim.lr are the same key"),
        ({"grid": {"lr": [1]}, "set": {"optim.lr": 2}}, "both set optim.lr"),
        ({"grid": {"lr": [1]}, "points": [{"lr": 2}]}, "points and the axis lr both set lr"),
        ({"seeds": 0}, "expected a number of seeds"),
        ({"seeds": ["a"]}, "expected a number of seeds"),
        ({"grid": [1]}, "grid: expected keys and values"),
        ({"points": [1]}, "points: expected a list of mappings"),
        ({"task": "mnli"}, "nothing to vary"),
        ({"seeds": 2, "name": 2024}, "name: expected text, got 2024: write it in quotes"),
        ({"seeds": 2, "name": date(2024, 5, 1)}, "name: expected text, got 2024-05-01"),
    ],
)
def test_what_contradicts_itself_is_refused(values: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        spec_of_file(values, "s.yaml")


def test_excluding_nothing_or_all_is_refused() -> None:
    with pytest.raises(UsageError, match="no trial of the sweep is so"):
        expand(spec(grid={"lr": [1, 2]}, exclude=[{"lr": 3}]))
    with pytest.raises(UsageError, match="leaves no trial"):
        expand(spec(grid={"lr": [1, 2]}, exclude=[{"lr": 1}, {"lr": 2}]))
    with pytest.raises(UsageError, match="write KEY=V1,V2"):
        with_flags(Spec(), ["lr"], None)


@given(
    st.dictionaries(
        st.sampled_from(["lr", "global_batch", "epochs", "weight_decay"]),
        st.lists(st.integers(1, 50), min_size=1, max_size=4, unique=True),
        min_size=1,
    )
)
def test_every_combination_is_there_once(grid: dict[str, list[int]]) -> None:
    points = expand(spec(grid=grid))
    total = 1
    for values in grid.values():
        total *= len(values)
    assert len(points) == total == len({tuple(sorted(p.items())) for p in points})
    assert all(p[name] in values for p in points for name, values in grid.items())


def test_values_are_of_their_fields_type() -> None:
    found = spec(grid={"lr": ["1e-4", 2e-4], "global_batch": ["16"]}, exclude=[{"lr": 1.0e-4}])
    assert found.axes == {"lr": (1e-4, 2e-4), "global_batch": (16,)}
    assert expand(found) == [{"lr": 2e-4, "global_batch": 16}]
    assert expand(spec(points=[{"lr": "1e-4"}])) == [{"lr": 1e-4}]
    with pytest.raises(UsageError, match=r"lr: 0\.0001 appears twice"):
        spec(grid={"lr": ["1e-4", 0.0001]})
