"""What a run's files tell."""

import pytest

from launch.reporting.records import read_record
from launch.reporting.repeat import flat
from tests.present import present
from training.rundir import RunDir, read_json, write_json

from . import folders


@pytest.fixture
def run(tmp_path):
    """Return a run on GPUs that finished, of which an agent wrote so much about GPUs."""

    def make(gpus):
        run = RunDir(tmp_path / f"gpus-{gpus}")
        made = folders.config(64, 1)
        folders.finished(run, made)
        plan = read_json(run.plan) or {}
        write_json(run.plan, {**plan, "device": "cuda"})
        node = read_json(run.node(0, 0)) or {}
        write_json(run.node(0, 0), {**node, "gpus": gpus})
        return read_record(run, "finished", flat(made))

    return make


def test_gpu_hours_are_of_gpus_that_were_held(run):
    """Four trials that share a GPU hold a quarter each; a GPU without a rank is held too."""
    alone, shared, more = run(None), run(0.25), run(8)
    assert alone.unit == "GPU-hours"
    hours = present(alone.hours) / present(alone.ranks)
    assert shared.hours == pytest.approx(0.25 * hours) and more.hours == pytest.approx(8 * hours)
    assert present(shared.evaluations[-1].hours) < present(shared.hours)


def test_the_last_step_of_an_epoch_trains_on_what_is_left(run):
    found = run(None)
    per = -(-folders.ROWS // 64)
    for one in found.evaluations:
        epochs, more = divmod(one.step, per)
        assert one.examples == epochs * folders.ROWS + min(64 * more, folders.ROWS)
