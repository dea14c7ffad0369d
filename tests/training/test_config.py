"""The configuration is strict, typed, and names what to type instead."""

import dataclasses

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from training.config import (
    BatchConfig,
    ClusterConfig,
    EngineConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    TaskConfig,
    TrainConfig,
    UsageError,
    load_config,
)
from training.config.schema import build, coerce, leaves, nearest

GOOD = RunConfig(
    task=TaskConfig(name="t", hub="x/y", text=("a",), label="y"),
    model=ModelConfig(name="m", hub="o/m"),
)


def test_round_trip(tmp_path):
    (tmp_path / "config.yaml").write_text(GOOD.dump())
    assert load_config(tmp_path / "config.yaml") == GOOD


def test_an_unknown_key_names_the_nearest():
    with pytest.raises(UsageError, match="optim: unknown key 'learning_rat'"):
        build(RunConfig, {"optim": {"learning_rat": 1}})
    with pytest.raises(UsageError, match="did you mean 'global_batch'"):
        build(RunConfig, {"batch": {"globalbatch": 1}})


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (BatchConfig(global_batch=0), "--global-batch must be at least 1"),
        (BatchConfig(micro_tokens=0), "--micro-tokens"),
        (OptimConfig(lr=-1.0), "--lr must not be below 0"),
        (OptimConfig(weight_decay=-0.1), "--weight-decay"),
        (OptimConfig(warmup_ratio=1.5), "--warmup-ratio"),
        (OptimConfig(beta2=1.0), "optim.beta2"),
        (TrainConfig(epochs=0), "--epochs"),
        (TrainConfig(max_steps=0), "--max-steps"),
        (TrainConfig(seed=-1), "--seed"),
        (TrainConfig(log_every=0), "--log-every"),
        (TrainConfig(patience=2, select="last"), "--patience needs --select best"),
        (EngineConfig(offload="optimizer"), "needs --zero"),
        (EngineConfig(offload="all", zero=2), "needs --zero 3"),
        (EngineConfig(precision="fp16", device="cpu"), "fp16 does not run on CPU"),
        (ClusterConfig(nodes=0), "--nodes"),
        (ClusterConfig(procs_per_node=0), "--procs-per-node"),
        (ClusterConfig(time="soon"), "--time 'soon'"),
        (ClusterConfig(executor="local", nodes=2), "--procs-per-node 2"),
        (ModelConfig(hub="x", hidden_size=64), "model.pretrained=false"),
        (ModelConfig(hub="x", dropout=1.0), "model.dropout"),
        (ModelConfig(), "needs one of"),
        (TaskConfig(hub="x"), "text columns"),
        (TaskConfig(hub="x", text=("a",), metrics=("acuracy",)), "did you mean 'accuracy'"),
        (TaskConfig(text=("a",)), "no data given"),
        (TaskConfig(hub="x", text=("a", "a")), "given twice"),
        (TaskConfig(hub="x", text=("a",), label="a"), "both text and label"),
        (TaskConfig(hub="x", text=("a",), problem="regression", labels=("b",)), "not --labels"),
        (ModelConfig(hub="x", activation="gelo"), "did you mean 'gelu'"),
    ],
)
def test_values_out_of_range(section, message):
    with pytest.raises(UsageError, match=message) as caught:
        section.check()
    assert "\n" not in str(caught.value)


def test_best_needs_validation_rows():
    config = dataclasses.replace(GOOD, task=dataclasses.replace(GOOD.task, validation=()))
    with pytest.raises(UsageError, match=r"task\.holdout"):
        config.check()


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("90", 90), ("01:00:00", 60), ("1-00:00:00", 1440), ("10:30", 11), ("2-12", 3600)],
)
def test_time_limits_as_slurm_reads_them(text, minutes):
    assert ClusterConfig(time=text).time_minutes == minutes


@given(st.one_of(st.text(max_size=8), st.integers(), st.floats(), st.none(), st.booleans()))
def test_coerce_answers_or_explains(value):
    for _, annotation in leaves(RunConfig).values():
        try:
            coerced = coerce(value, annotation, "here")
        except UsageError as error:
            assert str(error).startswith("here")
        else:
            assert coerce(coerced, annotation, "here") == coerced


def test_run_id_follows_the_configuration():
    other = dataclasses.replace(GOOD, optim=OptimConfig(lr=1e-3))
    assert GOOD.run_id() != other.run_id()
    assert GOOD.run_id().startswith("t-m-b32-s42-")
    assert GOOD.run_id("mine") == "mine"
    assert GOOD.with_paths(task="/a").run_id() != ""


def test_files_that_are_not_configurations(tmp_path):
    with pytest.raises(UsageError, match="cannot read"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1")
    with pytest.raises(UsageError, match="is not YAML"):
        load_config(tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text(yaml.safe_dump([1]))
    with pytest.raises(UsageError, match="expected keys and values"):
        load_config(tmp_path / "list.yaml")


def test_nearest_lists_choices_when_nothing_is_near():
    assert nearest("zzz", ["rte", "mrpc"]) == "choose from: mrpc, rte"


def test_activations_are_those_of_transformers():
    from transformers.activations import ACT2FN

    from training.config.model import ACTIVATIONS

    assert set(ACTIVATIONS) <= set(ACT2FN)
