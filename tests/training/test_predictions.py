"""Predictions on the disk: plain or compressed, and one of the two."""

import pytest

from training.predictions import open_predictions, predictions_file, save_predictions
from training.rundir import RunDir

TEXT = "index\tlabel\tprediction\n0\tété\tété\n"


@pytest.fixture
def run(tmp_path):
    return RunDir(tmp_path)


@pytest.mark.parametrize("compressed", [False, True])
def test_what_was_written_is_read(run, compressed):
    save_predictions(run, "validation", TEXT, compressed)
    with open_predictions(run, "validation") as file:
        assert file.read() == TEXT
    first = predictions_file(run, "validation", compressed).read_bytes()
    save_predictions(run, "validation", TEXT, compressed)
    assert predictions_file(run, "validation", compressed).read_bytes() == first


def test_a_new_form_takes_the_place_of_the_old(run):
    save_predictions(run, "test", TEXT)
    save_predictions(run, "test", TEXT * 2, compressed=True)
    assert [p.name for p in run.predictions.iterdir()] == ["test.tsv.gz"]
    save_predictions(run, "test", TEXT)
    assert [p.name for p in run.predictions.iterdir()] == ["test.tsv"]


def test_there_are_none(run):
    with pytest.raises(FileNotFoundError):
        open_predictions(run, "test")
