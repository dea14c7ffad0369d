from __future__ import annotations

import json
import time
from typing import Any

import pytest

from launch.probe import Answer, Candidate, as_json, line_of, parse_test_only, ranked, shapes
from training.config import UsageError

from . import fakes

PARTITIONS: Any = fakes.PARTITIONS

LATER = "sbatch: Job 7 to start at 2026-11-21T10:00:00 using 4 processors on nodes node[1-2] in x"


def test_a_start() -> None:
    found = parse_test_only(LATER, 0)
    assert found.start == time.mktime((2026, 11, 21, 10, 0, 0, 0, 0, -1))
    assert found.nodes == "node[1-2]" and not found.reason


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("allocation failure: Requested node configuration is not available", "no node of it"),
        ("allocation failure: Node count specification invalid", "fewer nodes"),
        ("sbatch: error: Batch job submission failed: Invalid qos specification", "--qos"),
        ("allocation failure: Something new", "Something new"),
        ("", "no reason"),
    ],
)
def test_a_refusal_is_said_in_words_and_in_slurms_own(said: str, words: str) -> None:
    found = parse_test_only(said, 1)
    assert found.start is None and words in found.reason
    assert said.rpartition(": ")[2] in found.reason


def test_an_answer_without_a_start_is_no_start() -> None:
    assert parse_test_only("sbatch: something else", 0) == Answer(None, reason="something else")


def test_powers_of_two_up_to_what_a_partition_has() -> None:
    found = shapes(PARTITIONS, None, 1, typed_nodes=False)
    assert found == [("cpu", 1), ("gpu", 1), ("cpu", 2), ("gpu", 2), ("cpu", 4)]
    assert shapes(PARTITIONS, "gpu", 1, typed_nodes=False) == [("gpu", 1), ("gpu", 2)]
    assert shapes(PARTITIONS, "cpu", 3, typed_nodes=True)[0] == ("cpu", 3)
    assert shapes(PARTITIONS, "old", 1, typed_nodes=False) == [], "a partition that is down"


def test_few_questions_on_a_large_cluster() -> None:
    many: Any = tuple(fakes.Partition(f"p{n}", nodes=1024) for n in range(30))
    assert len(shapes(many, None, 1, typed_nodes=False)) == 12
    one = shapes(many, "p3", 512, typed_nodes=True)
    assert len(one) == 11 and one[0] == ("p3", 512)


def test_an_unknown_partition_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'gpu'"):
        shapes(PARTITIONS, "gpus", 1, typed_nodes=False)


def test_the_first_to_finish_comes_first_and_of_equals_the_cheaper() -> None:
    def at(name: str, start: float | None, seconds: float | None, hours: float) -> Candidate:
        return Candidate(
            name, 1, 1, "", seconds=seconds, hours=hours, answer=Answer(start, reason="no")
        )

    found = ranked(
        [
            at("refused", None, 10, 1),
            at("soon but slow", 0, 1000, 1),
            at("later but quick", 500, 100, 5),
            at("the same, cheaper", 500, 100, 2),
        ]
    )
    names = [c.partition for c in found]
    assert names == ["the same, cheaper", "later but quick", "soon but slow", "refused"]
    plain = json.loads(as_json(found))["probe"]
    assert plain[0]["finish"] == 600 and plain[0]["refused"] == "no"
    assert plain[-1]["finish"] is None


def test_the_line_to_type_is_what_was_typed_with_another_shape() -> None:
    typed = ["--task", "mnli", "--nodes", "8", "--partition=a", "--probe", "--json", "--zero", "2"]
    line = line_of(typed, "gpu", 4)
    assert line.endswith("--task mnli --zero 2 --partition gpu --nodes 4")
