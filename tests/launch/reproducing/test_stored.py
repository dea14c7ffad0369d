"""Receipts that somebody altered: each is refused in one line that says what is wrong."""

import copy
import json

import pytest

from launch.replay import repeat_of
from launch.reproducing.collect import gather
from launch.reproducing.receipt import make_receipt
from launch.reproducing.stored import read_receipt
from training.config import UsageError

from .made import reproduction


@pytest.fixture(scope="module")
def receipt(tmp_path_factory):
    sweep, asked = reproduction(tmp_path_factory.mktemp("made"), (0.9, 0.901, 0.899), seeds=3)
    return json.loads(json.dumps(make_receipt(gather(sweep, asked), 1795262000.0)))


def altered(receipt, path, value):
    """Return a receipt with another value at a path of keys; None takes the key away."""
    found = copy.deepcopy(receipt)
    *above, last = path
    part = found
    for key in above:
        part = part[key]
    if value is None:
        del part[last]
    else:
        part[last] = value
    return found


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("format",), None, "'format' is None"),
        (("format",), "1", "'format' is '1', not a number"),
        (("format",), True, "'format' is True"),
        (("format",), 99, "of a newer glueline"),
        (("kind",), "other", "is no receipt"),
        (("runs", 0, "seed"), None, "run 1: 'seed' is missing"),
        (("runs", 1, "recipe"), None, "run 2: 'recipe' is missing"),
        (("runs", 1, "seed"), "x", "run 2: 'seed' is not a whole number or null"),
        (("runs", 0), "x", "run 1 is not keys and values"),
        (("runs",), {}, "'runs' is not a list"),
        (("versions",), [], "'versions' is not keys and values"),
        (("name",), None, "'name' is missing"),
        (("inputs", "demo"), [], "inputs of demo is not"),
        (("inputs", "demo", "data"), {"bytes": 1}, "'sha256' is missing"),
        (("verdicts", 0, "outcome"), None, "verdict 1: 'outcome' is missing"),
        (("verdicts", 0, "scores", 0, "ours"), {}, "'mean' is missing"),
        (("asked", "tasks"), ["demo", "demi"], "'demi' of asked.tasks has no number"),
        (("asked", "level"), 0.7, "the level 0.7"),
        (("asked", "reference", "model"), None, "'model' is missing"),
        (("asked", "seeds"), None, "'seeds' is missing"),
    ],
)
def test_what_was_altered_is_named(receipt, tmp_path, path, value, said):
    place = tmp_path / "receipt.json"
    place.write_text(json.dumps(altered(receipt, path, value)))
    with pytest.raises(UsageError) as error:
        repeat_of(read_receipt(place), str(place))
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_receipt_as_it_was_written_is_repeated(receipt, tmp_path):
    place = tmp_path / "receipt.json"
    place.write_text(json.dumps(receipt))
    assert read_receipt(tmp_path) == receipt
    asked, wanted = repeat_of(receipt, str(place))
    assert wanted.anew and not asked.anew and wanted.tasks == ("demo",) and wanted.seeds == 3
    # Before there were rows and warnings in it.
    older = {k: v for k, v in receipt.items() if k != "warnings"}
    place.write_text(json.dumps(older))
    assert read_receipt(place) == older
