"""Rows that are not those of the published numbers."""

import pytest

from launch.hub_rows import GLUE_ROWS
from launch.reproducing.official import unlike_published
from launch.resolve import load_task


@pytest.mark.parametrize("name", list(GLUE_ROWS))
def test_the_official_rows_are_those_of_the_published_numbers(name):
    task = load_task(name)
    assert unlike_published(task, GLUE_ROWS[name], task.validation_splits, done=True) == []


def test_other_rows_are_told():
    task, rows = load_task("rte"), {"train": 500, "validation": 100, "test": 3}
    assert unlike_published(task, rows, ["validation"], done=True) == [
        "the published number is of 277 validation rows, these runs were scored on 100",
        "the published recipe trains on 2,490 rows, these runs were trained on 500",
    ]
    assert unlike_published(task, {"validation": 100}, ["validation"], done=False) == [
        "the published number is of 277 validation rows, these runs are scored on 100"
    ]
    assert unlike_published(load_task("ag_news"), {"test": 760}, ["test"], done=True)
    assert unlike_published(load_task("demo"), rows, ["validation"], done=True) == []
