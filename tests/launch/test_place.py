"""Where a job stands: by what Slurm's commands print."""

from __future__ import annotations

import pytest

from launch import place
from launch.place import Place, place_of, queue_words, rank_in
from launch.reporting.sacct import parse_clock
from slurm.scontrol import Refused, Silent, parse_moment
from tests.present import present


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("59:30", 3570.0),
        ("1:00:00", 3600.0),
        ("2-01:00:05", 176_405.0),
        ("0:07", 7.0),
        ("UNLIMITED", None),
        ("INVALID", None),
        ("N/A", None),
    ],
)
def test_time_left(text, seconds):
    assert parse_clock(text) == seconds


QUEUE = ["11|90", "12|90", "13_[0-99]|90", "14|95", "15|0", "", "nonsense"]


@pytest.mark.parametrize(
    ("job", "priority", "expected"), [("12", 90, 3), ("14", 95, 1), ("15", 0, 5), ("13_7", 90, 4)]
)
def test_place_by_priority_then_id(job, priority, expected):
    assert rank_in(QUEUE, job, priority) == (expected, 5)


def test_alone_in_the_queue():
    assert rank_in(["12|90"], "12", 90) == (1, 1)
    assert rank_in([], "12", 90) == (1, 1)  # it has just started


def answers(monkeypatch, *said):
    """Have Slurm answer in turn."""
    left = list(said)

    def ask(*command: str) -> str:
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(place, "ask", ask)


def test_of_a_queued_job(monkeypatch):
    config = "PrivateData             = none\nProctrackType = x\n"
    line = "PENDING|90|gpu|2026-11-20T21:40:00|1:00:00\n"
    answers(monkeypatch, line, config, "\n".join(QUEUE))
    found = place_of("12")
    assert found == Place("gpu", 3, 5, parse_moment("2026-11-20T21:40:00"))
    start = parse_moment("2026-11-20T21:40:00") or 0.0
    assert queue_words(present(found), start - 1500) == (
        "place 3 of 5 in partition gpu; expected to start at 21:40, in 25 min"
    )


def test_of_a_running_job(monkeypatch):
    answers(monkeypatch, "RUNNING|90|gpu|2026-11-20T21:40:00|59:00\n")
    assert place_of("12") == Place("gpu", left_seconds=3540.0)


@pytest.mark.parametrize(
    "said", ["", "COMPLETED|1|gpu|N/A|0:00", Refused("Invalid job id"), Silent("away")]
)
def test_nothing_is_known(monkeypatch, said):
    answers(monkeypatch, said)
    assert place_of("12") is None


def test_where_the_jobs_of_others_are_hidden_there_is_no_place(monkeypatch):
    private = "PrivateData             = accounts,jobs\n"
    answers(monkeypatch, "PENDING|90|gpu|2026-11-20T21:40:00|1:00:00\n", private, "12|90")
    assert place_of("12") == Place("gpu", expected_start=parse_moment("2026-11-20T21:40:00"))


def test_without_a_plan_or_a_queue(monkeypatch):
    answers(monkeypatch, "PENDING|90|gpu|N/A|1:00:00\n", Silent("away"))
    found = place_of("12")
    assert found == Place("gpu")
    assert queue_words(present(found), 0.0) is None
