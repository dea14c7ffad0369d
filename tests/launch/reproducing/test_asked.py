"""What is judged is fixed before, and what is asked again must be the same."""

from dataclasses import replace

import pytest

from launch.reproducing.asked import (
    Asked,
    Stop,
    asked_of,
    continued,
    file_of,
    plan_looks,
    read_asked,
    write_asked,
)
from training.config import UsageError
from training.sweepdir import SweepDir

ASKED = Asked(
    reference={"model": "tiny"},
    set_name="set",
    tasks=("cola",),
    seeds=5,
    looks=(3, 4, 5),
    changed={"cola": [{"key": "optim.lr"}]},
    overrides=(("optim.lr", "1e-3"),),
    stopped={"mrpc": Stop(3, (3, 4, 5), 0.05)},
)


def test_it_is_read_as_it_was_written(tmp_path):
    place = SweepDir(tmp_path / "runs" / ".sweeps" / "x")
    assert read_asked(place) is None
    write_asked(place, ASKED)
    assert read_asked(place) == ASKED


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "altered"),
        ('{"format": 1}', "altered: 'reference' is missing"),
        ("{}", "its format is None, not a number"),
        ('{"format": "1"}', "its format is '1', not a number"),
        ('{"format": 99}', "newer glueline"),
    ],
)
def test_a_file_that_is_none(tmp_path, text, said):
    place = SweepDir(tmp_path)
    file_of(place).write_text(text)
    with pytest.raises(UsageError, match=said):
        read_asked(place)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"level": 0.7}, "the level 0.7 is not between"),
        ({"level": 0}, "the level 0 is not"),
        ({"spent": -1}, "of the error rate"),
        ({"seeds": 2}, "2 seeds are fewer"),
        ({"tasks": []}, "no tasks"),
        ({"margin": 7}, "the margin 7"),
        ({"seeds": "many"}, "invalid literal"),
        ({"stopped": []}, "altered"),
    ],
)
def test_what_nobody_can_have_asked_for(other, said):
    with pytest.raises(UsageError, match=said) as error:
        asked_of({**ASKED.plain(), **other}, "here")
    assert "\n" not in str(error.value) and str(error.value).startswith("here")


def test_looks():
    assert plan_looks(5, early=True) == (3, 4, 5)
    assert plan_looks(3, early=True) == (3,)
    assert plan_looks(5, early=False) == (5,)


def test_the_plan_of_the_first_time_holds():
    assert continued(ASKED, replace(ASKED, looks=(5,), tasks=("mrpc",))) == replace(
        ASKED, tasks=("cola", "mrpc")
    )
    with pytest.raises(UsageError, match="there are 5 already"):
        continued(ASKED, replace(ASKED, seeds=4))
    for other in ({"margin": 0.02}, {"changed": {}}, {"reference": {}}):
        with pytest.raises(UsageError, match="another --name"):
            continued(ASKED, replace(ASKED, **other))


def test_tasks_that_are_added_are_changed_in_their_own_way():
    mrpc = {"mrpc": [{"key": "optim.lr"}]}
    both = continued(ASKED, replace(ASKED, tasks=("mrpc",), changed=mrpc))
    assert both.tasks == ("cola", "mrpc") and both.changed == {**ASKED.changed, **mrpc}


def test_seeds_that_are_added_cost_error():
    more = continued(ASKED, replace(ASKED, seeds=12))
    assert (more.seeds, more.looks, more.level) == (12, (12,), 0.025)
    assert more.total_error == pytest.approx(0.075)
    again = continued(more, replace(ASKED, seeds=20))
    assert again.total_error == pytest.approx(0.0875)
