"""The line that repeats a run makes the same run."""

import shlex
from dataclasses import replace

import click
import pytest

from launch.flags import request_options
from launch.reporting.repeat import submit_arguments
from launch.resolve import resolve
from tests.present import present

from . import folders


def typed(words: list[str]):
    """Return the request that a line of flags makes, as `glueline submit` takes it."""
    found = []

    @click.command()
    @request_options()
    def take(request):
        found.append(request)

    take.main(words, standalone_mode=False)
    return found[0]


@pytest.mark.parametrize(
    "line",
    [
        "--executor local --task demo --model tiny --procs-per-node 2",
        "--executor local --task demo --model tiny --global-batch 512 --lr-rule sqrt --seed 3 "
        "--base-batch 32 --lr 0.00031 --zero 2 --set model.dropout=0.2 --set train.keep=all",
        "--executor local --model tiny --train-file train.csv --text-columns text --label-column "
        "label --sbatch exclusive --sbatch reservation=monday --set cluster.env.A=b --eval-every 3",
        "--executor local --model tiny --task mine.yaml --set train.select=last --compile layers",
        "--executor local --model tiny --task demo --set cluster.snapshot=false --tracker none",
    ],
)
def test_a_line_of_flags_makes_the_same_run(line, here, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(here / "none"))
    wanted = resolve(typed(shlex.split(line))).config
    words = submit_arguments(wanted, here / "runs")
    assert words is not None
    again = resolve(typed(words)).config
    assert again == wanted and again.run_id() == wanted.run_id()


def test_what_was_fetched_is_fetched_again(tmp_path):
    made = folders.config()
    cached = made.with_paths(task=str(tmp_path / "runs" / ".cache" / "hub" / "x"))
    assert submit_arguments(cached, tmp_path / "runs") == submit_arguments(made, tmp_path / "runs")
    own = made.with_paths(task=str(tmp_path / "rows"))
    assert f"task.path={tmp_path}/rows" in present(submit_arguments(own, tmp_path / "runs"))


def test_what_no_line_can_say_has_none(tmp_path):
    made = folders.config()
    odd = replace(made, cluster=replace(made.cluster, setup=("module load a, b",)))
    assert submit_arguments(odd, tmp_path) is None
