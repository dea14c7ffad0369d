from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from launch.capacity import Capacity, Limit
from launch.forecast import forecast, highest_budget
from launch.memory import GIB, Sizes, encoder
from training.batching import CutSummary
from training.config import (
    BatchConfig,
    ClusterConfig,
    EngineConfig,
    ModelConfig,
    RunConfig,
    UsageError,
)

LARGE = Sizes(hidden=1024, layers=24, heads=16, inner=4096, vocabulary=30522)
CUT = CutSummary(
    steps_per_epoch=100,
    micro_batches=2.0,
    micro_batches_max=3,
    padding_efficiency=0.9,
    rank_imbalance=1.02,
    empty_share=0.0,
    most_tokens=4000,
    most_square=4000 * 128,
    padded_tokens=10_000.0,
)


def config(device: str = "cuda", **engine: Any) -> RunConfig:
    gpus = 4 if device == "cuda" else 0
    return RunConfig(
        model=ModelConfig(name="bert-large", path="x"),
        batch=BatchConfig(global_batch=256, micro_tokens=16384),
        engine=EngineConfig(device=device, precision="bf16", **engine),  # type: ignore[arg-type]
        cluster=ClusterConfig(
            executor="slurm", nodes=2, procs_per_node=4, gpus_per_node=gpus, cpus_per_node=16
        ),
    )


def known(limit_gib: float | None, device: str = "cuda", node_gib: float = 500) -> Capacity:
    return Capacity(
        sizes=LARGE,
        anatomy=encoder(LARGE, device, "bf16"),
        gpu=Limit(limit_gib * GIB, "its name, v100") if limit_gib else None,
        node=Limit(node_gib * GIB, "a node of partition gpu"),
        device_kind="gpu: v100 in gpu",
        cpu_rate=80e9,
    )


def told(wanted: RunConfig, there: Capacity, cut: CutSummary | None = CUT) -> Any:
    rows = {"train": 25_600, "validation": 1000}
    return forecast(wanted, there, [], cut, (40.0, 128), rows, 300)


def test_what_fits_is_told_with_its_share_and_the_highest_budget() -> None:
    found = told(config(), known(80)).memory
    assert found["limit_bytes"] == 80 * GIB and 0 < found["share"] < 0.5
    assert found["highest_micro_tokens"] > 16384
    assert found["rank_bytes"] == sum(found["parts"].values()) + found["baseline_bytes"]
    tight = told(config(), known(10)).memory
    assert 128 <= tight["highest_micro_tokens"] < found["highest_micro_tokens"]


def test_what_cannot_fit_is_refused_with_what_does() -> None:
    with pytest.raises(UsageError) as error:
        told(config(), known(5))
    text = str(error.value)
    assert "bert-large does not fit" in text and "5.0 GiB (its name, v100)" in text
    assert "ZeRO 2 fits with 4.3 GiB of 5.0 GiB (--zero 2)" in text
    alone = replace(config(), cluster=ClusterConfig(procs_per_node=1, gpus_per_node=1))
    with pytest.raises(UsageError, match=r"fits with 4\.\d GiB .*--offload optimizer"):
        told(alone, known(5))
    with pytest.raises(UsageError, match="a smaller --max-length or model"):
        told(config(), known(1))


def test_a_full_cpu_node_names_fewer_ranks() -> None:
    with pytest.raises(UsageError, match=r"--procs-per-node 3 fits with \d"):
        told(config("cpu", zero=3), known(None, "cpu", node_gib=17))


def test_a_typed_budget_that_is_too_large_is_a_note_with_one_that_fits() -> None:
    cut = replace(CUT, most_tokens=16384, most_square=16384 * 128)
    (note, *_) = told(config(), known(12), cut).notes
    best = highest_budget(config(), known(12), 128, 16384)
    assert best is not None and f"--micro-tokens {best} fits" in note
    (note, *_) = told(config(), known(8), cut).notes
    assert "may fit" in note


def test_an_unknown_gpu_and_an_unknown_model_are_said() -> None:
    found = told(config(), known(None)).memory
    assert found["limit_bytes"] is None and found["share"] is None
    nothing = told(config(), Capacity(gpu=Limit(GIB, "x")))
    assert nothing.memory is None and "not here yet" in nothing.why_unknown


def test_time_and_its_cost() -> None:
    found = told(config(), known(80)).time
    assert found["unit"] == "GPU-hours" and found["runs"] == 0
    assert found["hours"] == pytest.approx(8 * found["seconds"] / 3600)
    expected = 300 * found["step_seconds"] + found["evaluation_seconds"] + found["start_seconds"]
    assert found["seconds"] == pytest.approx(expected)
    on_cpu = told(config("cpu"), known(None, "cpu")).time
    assert on_cpu["unit"] == "core-hours"
    assert on_cpu["hours"] == pytest.approx(32 * on_cpu["seconds"] / 3600)


def test_a_time_limit_that_is_too_short_is_noted_for_slurm_alone() -> None:
    short = config("cpu")
    short = replace(short, cluster=replace(short.cluster, time="00:02:00"))
    assert any("--time" in n for n in told(short, known(None, "cpu")).notes)
    local = replace(short, cluster=replace(short.cluster, executor="local", nodes=1))
    assert not any("--time" in n for n in told(local, known(None, "cpu")).notes)
