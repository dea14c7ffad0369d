from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from launch import capacity, machine
from launch.memory import GIB, MIB
from training.config import ClusterConfig, EngineConfig, ModelConfig, RunConfig

from . import fakes

BERT = {
    "model_type": "bert",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "vocab_size": 500,
    "max_position_embeddings": 64,
}


def config(device: str = "cpu", **cluster: object) -> RunConfig:
    values = {"executor": "slurm", "procs_per_node": 1, **cluster}
    return RunConfig(
        model=ModelConfig(name="tiny", architecture="bert", layers=2, hidden_size=64),
        engine=EngineConfig(device=device, precision="fp32"),  # type: ignore[arg-type]
        cluster=ClusterConfig(**values),  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("text", "size"),
    [("32G", 32 * GIB), ("4096", 4096 * MIB), ("512mb", 512 * MIB), ("0", None), ("lots", None)],
)
def test_slurms_sizes(text: str, size: int | None) -> None:
    assert capacity.parse_memory(text) == size


def test_a_nodes_memory_is_what_is_asked_else_the_partitions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fakes.slurm(monkeypatch)
    asked = capacity.node_memory(config(mem="16G"))
    assert asked is not None and asked.bytes == 16 * GIB and "--mem 16G" in asked.where
    there = capacity.node_memory(config())
    assert there is not None and there.bytes == 32000 * MIB and "cpu" in there.where
    here = capacity.node_memory(config(executor="local"))
    assert here is not None and here.bytes == machine.memory_bytes()


def test_a_gpus_memory_is_the_profiles_else_its_names(monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.slurm(monkeypatch)
    said = capacity.gpu_memory(config("cuda", partition="gpu", gpu_memory_gb=24))
    assert said is not None and said.bytes == 24 * GIB
    named = capacity.gpu_memory(config("cuda", partition="gpu", constraint="a100&ib"))
    assert named is not None and named.bytes == 40 * GIB
    assert capacity.gpu_memory(config("cuda", partition="gpu")) is None


def test_runs_in_one_partition_compare_and_those_in_another_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fakes.slurm(monkeypatch)
    kinds = [capacity.device_kind(config(partition=p)) for p in ("cpu", None, "gpu")]
    assert kinds[0] == kinds[1] != kinds[2]


def test_a_core_is_told_by_its_vectors() -> None:
    rates = [capacity.core_rate(f"flags : fpu {f}") for f in ("avx512f avx2", "avx2", "")]
    assert rates == sorted(rates, reverse=True) and len(set(rates)) == 3


def test_what_was_counted_goes_before_the_formula(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes.slurm(monkeypatch)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(BERT | {"model_type": "deberta-v2"}))
    wanted = replace(config(), model=ModelConfig(name="m", path=str(folder)))
    guessed = capacity.look(wanted, tmp_path)
    assert guessed.anatomy is not None and not guessed.usual
    assert capacity.needs_counting(wanted.model)
    (folder / "config.json").write_text(json.dumps(BERT))
    assert not capacity.needs_counting(wanted.model)
    found = capacity.count_anatomy(wanted, tmp_path)
    assert found is not None, "the process that counts failed"
    counted = capacity.look(wanted, tmp_path)
    assert counted.usual and counted.anatomy is not None and guessed.anatomy is not None
    assert counted.anatomy.source != guessed.anatomy.source
    assert counted.anatomy.parameters == pytest.approx(guessed.anatomy.parameters, rel=1e-3)
