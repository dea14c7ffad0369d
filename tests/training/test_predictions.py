"""Predictions on the disk: plain or compressed, and one of the two."""

import gzip

import numpy as np
import pytest

from training.config import UsageError
from training.predictions import (
    Predictions,
    open_predictions,
    predicted_classes,
    predicted_splits,
    predictions_file,
    read_predictions,
    save_predictions,
)
from training.rundir import RunDir
from training.session import write_predictions

CLASSES = "index\tlabel\tprediction\tp(no)\tp(yes)\n0\tno\tyes\t0.2\t0.8\n1\tyes\tyes\t0.1\t0.9\n"
VALUES = "index\tlabel\tprediction\n0\t1.5\t1.25\n1\t3\t2.5\n"
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


def test_predictions_are_read(run):
    save_predictions(run, "validation", CLASSES)
    save_predictions(
        run,
        "test",
        CLASSES.replace("\tlabel", "").replace("\tno\ty", "\ty").replace("1\tyes\t", "1\t"),
        True,
    )
    save_predictions(run, "values", VALUES)
    assert predicted_splits(run) == ["test", "validation", "values"]
    found = read_predictions(run, "validation")
    assert found == Predictions("validation", ("yes", "yes"), ("no", "yes"), ("no", "yes"))
    assert (len(found), found.right) == (2, 1)
    found = read_predictions(run, "test")
    assert (found.answers, found.labels, found.right) == (("yes", "yes"), None, None)
    found = read_predictions(run, "values")
    assert found == Predictions("values", ("1.25", "2.5"), ("1.5", "3"), ())
    assert found.right is None
    assert predicted_classes(run) == ("no", "yes")


def test_names_may_hold_all_but_tabs_and_line_breaks(run):
    """What `check_source` lets through is read as it was written."""
    names = ["/r/politics", "a, b", "p(x)", 'it\'s "so"', "\u2028\x0b\x85", " é ", "label", "\\t"]
    outputs, labels = np.eye(len(names), dtype=np.float32), np.arange(len(names))
    for compressed in (False, True):
        write_predictions(run, "validation", outputs, labels, names, compressed)
        found = read_predictions(run, "validation")
        assert found == Predictions("validation", *(tuple(names),) * 3)
        assert predicted_classes(run) == tuple(names)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("", "line 1"),
        ("index\n", "line 1"),
        (VALUES.splitlines()[0], "no row is left"),
        (CLASSES[:-6], "line 3"),
        (CLASSES.replace("\tyes\t0.2", "\tmaybe\t0.2"), "line 2"),
        (CLASSES.replace("\n1\t", "\n2\t"), "line 3"),
        (VALUES + "2\tx\t1\n", "line 4"),
    ],
)
def test_damaged_predictions_are_said(run, text, where):
    save_predictions(run, "validation", text)
    with pytest.raises(UsageError, match=f"on validation are damaged.*{where}"):
        read_predictions(run, "validation")


def test_missing_and_cut_off_predictions_are_said(run):
    with pytest.raises(FileNotFoundError):
        read_predictions(run, "test")
    assert predicted_splits(run) == [] and predicted_classes(run) == ()
    run.predictions.mkdir()
    packed = gzip.compress(CLASSES.encode())
    (run.predictions / "test.tsv.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(UsageError, match="on test cannot be read"):
        read_predictions(run, "test")
    assert predicted_classes(run) == ()
