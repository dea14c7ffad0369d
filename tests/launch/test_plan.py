from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from launch.plan import UNKNOWN, make_plan
from training.config import (
    BatchConfig,
    ClusterConfig,
    EngineConfig,
    OptimConfig,
    RunConfig,
    TrainConfig,
    UsageError,
)

LENGTHS = np.random.default_rng(0).integers(8, 60, 500).astype(np.int32)


def config(**batch: int) -> RunConfig:
    return RunConfig(
        batch=BatchConfig(**({"global_batch": 64, "micro_tokens": 512} | batch)),
        cluster=ClusterConfig(nodes=4, procs_per_node=2, gpus_per_node=0, cpus_per_node=9),
        engine=EngineConfig(zero=2, precision="bf16", device="cpu"),
        train=TrainConfig(epochs=1.5),
        optim=OptimConfig(warmup_ratio=0.1),
    )


def test_the_plan_of_known_data() -> None:
    plan = make_plan(config(), {"train": 1000, "validation": 50}, LENGTHS)
    assert (plan.world_size, plan.nodes, plan.procs_per_node) == (8, 4, 2)
    assert plan.cores_per_rank == 4
    assert (plan.engine, plan.zero_stage, plan.precision) == ("DeepSpeed ZeRO-2", 2, "bf16")
    assert plan.steps_per_epoch == 16 and plan.steps == 24 and plan.warmup_steps == 3
    assert plan.micro_batches is not None and plan.micro_batches >= 1
    assert plan.padding_efficiency is not None and 0.5 < plan.padding_efficiency <= 1
    assert plan.longest == int(LENGTHS.max())
    assert plan.lengths_from == "sampled from 500 rows"
    assert plan.notes == ()


def test_it_is_json_and_pure() -> None:
    rows = {"train": 1000}
    first, second = (make_plan(config(), rows, LENGTHS) for _ in range(2))
    assert first == second
    text = json.dumps(first.to_json(), allow_nan=False)
    assert json.loads(text)["rows"] == rows


def test_unknown_data_is_null_and_said_so() -> None:
    plan = make_plan(config(), None, None)
    assert plan.lengths_from == UNKNOWN
    for name in (
        "rows micro_batches padding_efficiency rank_imbalance steps_per_epoch steps longest"
    ).split():
        assert getattr(plan, name) is None
    known = dataclasses.replace(config(), train=TrainConfig(max_steps=30))
    assert make_plan(known, None, None).steps == 30


def test_an_input_longer_than_the_budget_is_refused_with_both_numbers() -> None:
    with pytest.raises(UsageError, match=r"59 tokens.*--micro-tokens is 40"):
        make_plan(config(micro_tokens=40), {"train": 1000}, LENGTHS)


def test_a_global_batch_below_the_world_size_is_allowed_and_noted() -> None:
    plan = make_plan(config(global_batch=6), {"train": 1000}, LENGTHS)
    assert any("2 ranks" in note and "25%" in note for note in plan.notes)
    assert plan.empty_share is not None and plan.empty_share > 0


def test_a_global_batch_that_the_world_size_does_not_divide_is_allowed() -> None:
    assert make_plan(config(global_batch=65), {"train": 1000}, LENGTHS).notes == ()


def test_zero_with_one_process_is_allowed_and_noted() -> None:
    one = dataclasses.replace(config(), cluster=ClusterConfig(procs_per_node=1))
    plan = make_plan(one, {"train": 1000}, LENGTHS)
    assert plan.world_size == 1
    assert any("one process" in note for note in plan.notes)


def test_a_global_batch_beyond_the_rows_is_noted() -> None:
    plan = make_plan(config(global_batch=2000), {"train": 1000}, LENGTHS)
    assert plan.steps_per_epoch == 1
    assert any("larger than the training rows" in note for note in plan.notes)
