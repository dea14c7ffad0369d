"""A run that was stopped goes on as if nothing had happened."""

import json
import os
import shutil
import subprocess
from functools import cache

import pytest
import yaml

from tests.runs import events, told, unlike
from training import checkpoints
from training.config import UsageError
from training.restore import Checkpoint, check_steps
from training.rundir import RunDir, read_json, read_metrics, write_json

from .test_train import demo, make_run

STEPS = 14
SETTINGS = (f"train.max_steps={STEPS}", "train.log_every=3", "train.eval_every=6")
# 47 rows a step over several micro-batches and ranks, some of them empty at the end of an epoch.
SETTINGS += ("batch.global_batch=47", "batch.micro_tokens=128", "model.dropout=0.1")
SETTINGS += ("train.noise_every=4",)


@pytest.fixture(scope="module")
def attempt(forks):
    """Return a function that runs the ranks of an attempt and returns their exit codes."""

    def go(run: RunDir, world_size: int = 2, number: int = 0, timeout: float = 120) -> list[int]:
        zero = yaml.safe_load(run.config.read_text())["engine"]["zero"]
        return forks(
            "training.train",
            ["--run", str(run.path), "--attempt", str(number)],
            world_size,
            # As the node agent sets it.
            env={} if zero is None else {"ACCELERATE_USE_DEEPSPEED": "true"},
            timeout=timeout,
        )

    return go


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def straight(attempt, runs):
    """Return a function that trains without interruption, once for each kind."""

    @cache
    def train(engine: str, world_size: int, precision: str = "fp32", *more: str) -> RunDir:
        name = f"straight-{engine}-{world_size}-{precision}-{len(more)}"
        run = make_run(runs / name, demo(), *settings(engine, precision), *more)
        assert attempt(run, world_size) == [0] * world_size, log(run)
        return run

    return train


def settings(engine: str, precision: str = "fp32") -> list[str]:
    zero = "null" if engine == "ddp" else engine
    return [*SETTINGS, f"engine.zero={zero}", f"engine.precision={precision}"]


def log(run: RunDir, attempt: int = 0) -> str:
    return "".join(p.read_text()[-3000:] for p in sorted(run.logs(attempt).glob("*.log")))


def change(run: RunDir, **engine) -> None:
    """Change the engine of a run, as `submit --resume` does."""
    values = yaml.safe_load(run.config.read_text())
    values["engine"].update(engine)
    run.config.write_text(yaml.safe_dump(values))


def assert_same(run: RunDir, other: RunDir) -> None:
    """Assert that two runs ended the same, bit for bit."""
    assert unlike(run, other) == []


CASES = [
    *(("ddp", 2, "bf16"), ("ddp", 4, "fp32"), ("0", 2, "fp32"), ("0", 2, "bf16")),
    *(("1", 2, "fp32"), ("1", 4, "bf16"), ("2", 2, "bf16"), ("2", 4, "fp32")),
    *(("3", 2, "fp32"), ("3", 4, "bf16")),
]
"""Each engine in both precisions, and but for stage 0 on two and on four ranks."""


@pytest.mark.parametrize(("engine", "world_size", "precision"), CASES)
def test_stopped_and_killed_it_ends_bit_for_bit_the_same(
    attempt, runs, straight, engine, world_size, precision
):
    """Stopped once at a step boundary, then killed between two checkpoints."""
    whole = straight(engine, world_size, precision)
    run = make_run(
        runs / f"cut-{engine}-{world_size}-{precision}",
        demo(),
        *settings(engine, precision),
        "train.fault=stop@3",
        "train.save_every=5",
    )
    assert attempt(run, world_size, 0) == [0] * world_size, log(run)
    assert (read_json(run.progress) or {})["interrupted"] is True
    assert [e["step"] for e in events(run, "saved")] == [4]
    run.fault(0).unlink()
    values = yaml.safe_load(run.config.read_text())
    values["train"]["fault"] = "kill@8"
    run.config.write_text(yaml.safe_dump(values))
    assert -9 in attempt(run, world_size, 1)
    assert checkpoints.last_step(run) == 5
    assert attempt(run, world_size, 2) == [0] * world_size, log(run, 2)
    saved = {e["step"]: e for e in events(run, "saved")}
    resumed = events(run, "resumed")
    assert [e["step"] for e in resumed] == [4, 5]
    for event in resumed:
        for key in ("next_ids", "lr", "optimizer", "weights"):
            assert event[key] == saved[event["step"]][key], key
    assert_same(run, whole)
    assert not run.checkpoints.exists()


@pytest.mark.parametrize("engine", ["ddp", "3"])
def test_the_noise_of_the_gradient_is_in_the_log_and_the_results(straight, engine):
    run = straight(engine, 2, "fp32")
    lines = [line for line in read_metrics(run.metrics) if line["kind"] == "train"]
    # Steps 4, 8 and 12 are measured; lines come after steps 3, 6, 9, 12 and the last, 14.
    assert [line["step"] for line in lines if "noise_trace" in line] == [6, 9, 12]
    found = (read_json(run.results) or {})["noise"]
    assert found["steps"] == 3
    measured = [line for line in lines if "noise_trace" in line]
    for key, name in (("trace", "noise_trace"), ("gradient_square", "noise_gradient_square")):
        assert found[key] == pytest.approx(sum(line[name] for line in measured) / 3)
    assert found["trace"] > 0


@pytest.mark.parametrize(("optimizer", "zero"), [("lamb", "null"), ("lars", "0")])
def test_layerwise_optimizers_go_on_bit_for_bit(attempt, runs, optimizer, zero):
    chosen = (f"optim.name={optimizer}", f"engine.zero={zero}", "optim.lr=0.02")
    whole = make_run(runs / f"whole-{optimizer}", demo(), *SETTINGS, *chosen)
    assert attempt(whole) == [0, 0], log(whole)
    run = make_run(runs / optimizer, demo(), *SETTINGS, *chosen, "train.fault=stop@6")
    assert attempt(run) == [0, 0], log(run)
    assert attempt(run, 2, 1) == [0, 0], log(run, 1)
    assert_same(run, whole)
    (saved,), (resumed,) = events(run, "saved"), events(run, "resumed")
    for key in ("step", "next_ids", "optimizer", "weights"):
        assert saved[key] == resumed[key], key


RESIZED = [("ddp", 4, "ddp", 2), ("ddp", 1, "ddp", 4), ("1", 2, "1", 3), ("2", 4, "2", 2)]
RESIZED += [("3", 2, "3", 3), ("3", 4, "1", 2), ("2", 2, "ddp", 3), ("ddp", 2, "3", 4)]


@pytest.mark.parametrize(("engine", "world_size", "then", "size"), RESIZED)
def test_with_another_size_or_stage_it_is_the_same_experiment(
    attempt, runs, straight, engine, world_size, then, size
):
    still = "model.dropout=0"
    whole = straight(engine, world_size, "fp32", still)
    name = f"resized-{engine}-{world_size}-{then}-{size}"
    run = make_run(runs / name, demo(), *settings(engine), still, "train.fault=stop@6")
    assert attempt(run, world_size) == [0] * world_size, log(run)
    change(run, zero=None if then == "ddp" else int(then))
    assert attempt(run, size, 1) == [0] * size, log(run, 1)
    (saved,), (resumed,) = events(run, "saved"), events(run, "resumed")
    assert resumed["world_size"] == size and resumed["from_world_size"] == world_size
    for key in ("step", "next_ids", "lr", "optimizer", "weights"):
        assert saved[key] == resumed[key], key
    for mine, theirs in zip(told(run), told(whole), strict=True):
        assert mine[:4] == theirs[:4]
        if mine[4] is not None:
            assert mine[4] == pytest.approx(theirs[4], rel=1e-4)
    assert (read_json(run.results) or {})["world_size"] == size


@pytest.fixture
def stopped(attempt, runs, request):
    """A run that saved after steps 2 and 4 and was stopped there."""
    run = make_run(
        runs / request.node.name, demo(), *SETTINGS, "train.fault=stop@3", "train.save_every=2"
    )
    assert attempt(run) == [0, 0], log(run)
    assert [checkpoints.step_of(p) for p in checkpoints.complete(run)] == [4, 2]
    return run


def flip(folder):
    path = folder / "shard-00001.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(folder):
    path = folder / "shard-00000.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def lose(folder):
    (folder / "shard-00001.safetensors").unlink()


def cut_off(folder):
    """The way a folder looks when the machine stopped in the middle of writing."""
    folder.rename(checkpoints.temporary_folder(folder))


def unsealed(folder):
    (folder / checkpoints.MANIFEST).unlink()


@pytest.mark.parametrize("harm", [flip, truncate, lose, cut_off, unsealed])
def test_a_damaged_checkpoint_is_never_used(attempt, stopped, straight, harm):
    harm(checkpoints.step_folder(stopped, 4))
    assert attempt(stopped, 2, 1) == [0, 0], log(stopped, 1)
    assert [e["step"] for e in events(stopped, "resumed")] == [2]
    if harm in (flip, truncate, lose):
        (notice,) = events(stopped, "checkpoint_damaged")
        assert "step-4" in notice["reason"]
        assert "checkpoint left out: step-4" in log(stopped, 1)
    assert_same(stopped, straight("ddp", 2, "fp32"))


def test_all_damaged_it_starts_at_0(attempt, stopped, straight):
    for folder in checkpoints.complete(stopped):
        flip(folder)
    assert attempt(stopped, 2, 1) == [0, 0], log(stopped, 1)
    assert events(stopped, "resumed") == []
    assert len(events(stopped, "checkpoint_damaged")) == 2
    assert_same(stopped, straight("ddp", 2, "fp32"))


def test_a_checkpoint_of_a_newer_version_is_refused(attempt, stopped):
    manifest = checkpoints.step_folder(stopped, 4) / checkpoints.MANIFEST
    write_json(manifest, (read_json(manifest) or {}) | {"format": 99})
    assert attempt(stopped, 2, 1) == [1, 1]
    error = read_json(stopped.rank_error(1, 0, 0)) or {}
    assert error["kind"] == "UsageError" and "newer glueline" in error["message"]


def test_the_budget_found_is_kept(attempt, runs):
    name = "budget"
    run = make_run(runs / name, demo(), *SETTINGS, "train.fault=oom@1:100", "train.save_every=3")
    run.request.write_text(json.dumps({"stop": True}))
    codes = attempt(run)
    assert codes == [0, 0], log(run)
    assert checkpoints.last_step(run) is not None
    state = read_json(checkpoints.complete(run)[0] / checkpoints.STATE) or {}
    run.request.unlink()
    assert attempt(run, 2, 1) == [0, 0], log(run, 1)
    budget = (read_json(run.results) or {})["micro_tokens"]
    assert budget <= max(64, state["budget"]) and budget < 128


def test_a_verdict_lowers_the_budget(attempt, runs):
    run = make_run(runs / "verdict", demo(), *SETTINGS)
    run.attempt(0).mkdir(parents=True)
    write_json(run.verdict(0), {"action": "requeue", "micro_tokens": 64})
    assert attempt(run, 2, 1) == [0, 0], log(run, 1)
    assert (read_json(run.results) or {})["micro_tokens"] == 64


def test_stopped_in_the_final_scoring_it_finishes_later(attempt, runs, straight):
    # The step's own agreement is over: what stops here is the evaluation after the last step.
    run = make_run(runs / "late", demo(), *SETTINGS, f"train.fault=stop@{STEPS - 1}")
    assert attempt(run) == [0, 0], log(run)
    assert not run.results.exists() and checkpoints.last_step(run) == STEPS
    assert attempt(run, 2, 1) == [0, 0], log(run, 1)
    assert_same(run, straight("ddp", 2, "fp32"))


def test_nan_stops_at_once(attempt, runs):
    run = make_run(runs / "nan", demo(), *SETTINGS, "train.fault=nan@3", "train.save_every=2")
    assert attempt(run) == [1, 1]
    error = read_json(run.rank_error(0, 0, 0)) or {}
    assert error["kind"] == "FloatingPointError" and "--lr" in error["message"]
    assert checkpoints.last_step(run) == 2


def test_a_hang_is_noticed_and_the_rank_named(attempt, runs):
    settings = (*SETTINGS, "train.fault=hang@3:1", "engine.hang_timeout=10")
    run = make_run(runs / "hang", demo(), *settings)
    assert 1 in attempt(run, timeout=120)
    errors = [read_json(p) or {} for p in run.logs(0).glob("*.error.json")]
    primary = [e for e in errors if not e["secondary"]]
    assert primary and all(e["kind"] == "Hang" and e["rank"] == 1 for e in primary)
    # On a busy machine the rank may hang before it told its host and its step for the first time.
    told = "rank 1 on " in primary[0]["message"] and "step 3" in primary[0]["message"]
    assert told or "rank 1 never reported" in primary[0]["message"]


def test_another_length_is_refused(runs):
    checkpoint = Checkpoint(runs / "step-3", {"progress": {"step": 3, "total": 20}})
    check_steps(checkpoint, 20)
    with pytest.raises(UsageError, match="run of 20 steps, this one has 10"):
        check_steps(checkpoint, 10)


def test_a_full_disk_costs_the_checkpoint_not_the_run(attempt, runs, straight):
    small = runs / "full"
    small.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    run = make_run(small / "run", demo(), *SETTINGS, "train.save_every=4")
    run.checkpoints.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48k", "none", str(run.checkpoints)]
    subprocess.run(mount, check=True)
    try:
        codes = attempt(run)
    finally:
        subprocess.run(["umount", str(run.checkpoints)], check=True)
    assert codes == [0, 0], log(run)
    failed = [e["reason"] for e in events(run, "save_failed")]
    assert any("MB free" in reason for reason in failed)
    assert any(reason.startswith("best weights: ") for reason in failed)
    shutil.rmtree(run.checkpoints, ignore_errors=True)
    # The best weights were kept in memory.
    assert_same(run, straight("ddp", 2, "fp32"))
