from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from launch.duration import Work, duration, enough, gpu_of, in_words, words

WORK = Work(
    task="mnli",
    model="minilm 6×384×1536",
    device="cpu",
    device_kind="cpu: X",
    cores_per_rank=1,
    world=2,
    zero=None,
    precision="bf16",
    steps=100,
    tokens_per_step=2000.0,
    imbalance=1.0,
    evaluated=30_000.0,
    scored=30_000.0,
    flops_per_token=7e7,
)


def past(rate: float, **more: Any) -> dict[str, Any]:
    return {
        "run_id": f"r{rate}",
        "task": "mnli",
        "model": WORK.model,
        "device_kind": WORK.device_kind,
        "cores_per_rank": 1,
        "world_size": 2,
        "zero_stage": None,
        "precision": "bf16",
        "tokens_per_second_rank": rate,
        "start_seconds": 40.0,
    } | more


def test_runs_like_it_tell_the_time_and_their_spread_the_error() -> None:
    found = duration(WORK, [past(900.0), past(1000.0), past(1100.0)])
    assert found is not None and found.runs == 3
    assert found.step_seconds == pytest.approx(1.0)
    assert found.evaluation_seconds == pytest.approx(30_000 / 2 / 3 / 1000)
    assert found.seconds == pytest.approx(100 + 5 + 40)
    assert found.error == pytest.approx(0.1)
    assert in_words(found) == "about 145 s (from 3 runs like it, ±10%)"
    wild = replace(found, error=5.31)
    assert in_words(wild) == "about 145 s (from 3 runs like it, could be off by 6×)"


@pytest.mark.parametrize(
    "other",
    [
        {"model": "bert"},
        {"device_kind": "gpu: a100"},
        {"precision": "fp32"},
        {"zero_stage": 2},
        {"cores_per_rank": 8},
        {"tokens_per_second_rank": None},
    ],
    ids=str,
)
def test_other_runs_tell_nothing(other: dict[str, Any]) -> None:
    found = duration(WORK, [past(1000.0, **other)], cpu_rate=80e9)
    assert found is not None and found.runs == 0
    assert "a guess" in found.source and "could be off by 2×" in in_words(found)


def test_another_number_of_ranks_is_less_sure_than_the_same() -> None:
    same = duration(WORK, [past(1000.0), past(500.0, world_size=64)])
    other = duration(WORK, [past(1000.0, world_size=64)])
    assert same is not None and other is not None
    assert same.runs == 1 and same.step_seconds == pytest.approx(1.0)
    assert other.error > same.error


def test_another_tasks_end_is_not_this_ones() -> None:
    own, other = (duration(WORK, [past(1000.0, task=t)]) for t in ("mnli", "cola"))
    assert own is not None and other is not None
    assert other.evaluation_seconds > own.evaluation_seconds


def test_without_runs_and_without_sizes_nothing_is_said() -> None:
    assert duration(replace(WORK, flops_per_token=None), [], cpu_rate=80e9) is None


def test_a_faster_gpu_is_guessed_to_be_faster() -> None:
    def guess(kind: str) -> float:
        found = duration(replace(WORK, device="cuda", device_kind=f"gpu: {kind}"), [])
        assert found is not None
        return found.step_seconds

    assert guess("h100") < guess("a100") < guess("v100") < guess("t4")
    assert guess("NVIDIA A100-SXM4-80GB") == guess("a100")


def test_a_short_time_limit_is_a_note_with_what_to_type() -> None:
    found = duration(replace(WORK, steps=7200), [past(1000.0)])
    assert found is not None
    assert enough(found, 10 * 60, "10:00:00") is None
    short = enough(found, 60, "01:00:00")
    assert short is not None and "is too short" in short and "--time 02:" in short
    tight = enough(found, 130, "02:10:00")
    assert tight is not None and "may be too short" in tight


def test_names_and_words() -> None:
    assert gpu_of("gpu:l40s:4", ["l4", "l40", "l40s"]) == "l40s"
    assert gpu_of("shiny", ["l4"]) is None
    assert [words(s) for s in (20, 600, 7200, 86400 * 3)] == ["20 s", "10 min", "2.0 h", "3.0 days"]
