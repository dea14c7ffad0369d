"""The whole training script, small: what it leaves behind, and that it is right."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from training.config import RunConfig
from training.config.schema import build, set_dotted
from training.metrics import compute_metrics
from training.predictions import open_predictions
from training.rundir import RunDir, read_json, read_metrics

from .ports import free_port

ROOT = Path(__file__).resolve().parents[2]


def make_run(folder: Path, task: dict, *settings: str) -> RunDir:
    """Write the configuration of a tiny run, as launch does."""
    values: dict[str, Any] = {
        "task": task,
        "model": {"name": "tiny", "architecture": "bert", "layers": 1, "hidden_size": 32},
        "engine": {"device": "cpu", "precision": "fp32"},
        "batch": {"global_batch": 50, "micro_tokens": 512},
        "optim": {"lr": 2e-3},
        "train": {"max_steps": 12, "log_every": 5, "eval_every": 6},
        "tracking": {"tracker": "none"},
    }
    values["model"] |= {"heads": 2, "intermediate_size": 64, "dropout": 0.0, "vocab_size": 300}
    for setting in settings:
        key, value = setting.split("=", 1)
        set_dotted(values, key, yaml.safe_load(value))
    config = build(RunConfig, values)
    config.check()
    run = RunDir(folder)
    run.path.mkdir(parents=True)
    run.config.write_text(config.dump())
    return run


def demo(**extra) -> dict:
    """Return the embedded task's configuration."""
    task = yaml.safe_load((ROOT / "configs" / "tasks" / "demo.yaml").read_text())["task"]
    return {"name": "demo", **task, **extra}


def start(run: RunDir, ranks: int) -> subprocess.Popen:
    """Start torchrun over the run."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks)]
    command += ["--master-port", str(free_port()), "-m", "training.train"]
    return subprocess.Popen(
        [*command, "--", "--run", str(run.path), "--attempt", "0"],
        cwd="/",
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def train(run: RunDir, ranks: int = 2) -> dict:
    """Train to the end and return the results."""
    process = start(run, ranks)
    said, _ = process.communicate(timeout=240)
    logs = (
        "".join(p.read_text() for p in run.logs(0).glob("*-0.log")) if run.logs(0).exists() else ""
    )
    assert process.returncode == 0, said[-2000:] + logs[-3000:]
    return json.loads(run.results.read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("runs") / "tiny", demo())
    return run, train(run)


def test_the_exact_set_of_files(finished):
    run, _ = finished
    assert {str(p.relative_to(run.path)) for p in run.path.rglob("*") if p.is_file()} == {
        "config.yaml",
        "progress.json",
        "metrics.jsonl",
        "results.json",
        "model/config.json",
        "model/model.safetensors",
        "model/tokenizer.json",
        "model/tokenizer_config.json",
        "predictions/validation.tsv",
        "predictions/test.tsv",
        "attempts/0/environment.json",
        "attempts/0/logs/0-0.log",
        "attempts/0/logs/0-1.log",
    }


def test_the_lines_of_metrics(finished):
    run, results = finished
    lines = read_metrics(run.metrics)
    assert [(e["kind"], e["step"]) for e in lines if e["kind"] != "event"] == [
        ("train", 5),
        ("eval", 6),
        ("train", 10),
        ("train", 12),
        ("eval", 12),
    ]
    train_lines = [e for e in lines if e["kind"] == "train"]
    assert all(e["loss"] > 0 and e["lr"] >= 0 and e["grad_norm"] > 0 for e in train_lines)
    assert results["steps"] == 12 and results["examples_seen"] == 600


def test_results_are_complete(finished):
    _, results = finished
    wanted = "run_id task model seed world_size zero_stage precision global_batch micro_batches "
    wanted += "epochs steps examples_seen metrics primary_metric primary_value best_step "
    wanted += "throughput wall_seconds attempts wandb_run_id"
    assert set(wanted.split()) <= set(results)
    assert set(results["metrics"]) == {"validation", "test"}
    speeds = ("examples_per_second", "real_tokens_per_second", "padding_efficiency", "mfu")
    assert all(results["throughput"][key] > 0 for key in speeds)
    assert results["micro_batches"] > 1
    assert results["primary_value"] == results["metrics"]["validation"]["accuracy"]


def test_the_exported_scores_are_those_of_training(finished):
    run, results = finished
    best = [e for e in read_metrics(run.metrics) if e["kind"] == "eval"]
    at_best = next(e for e in best if e["step"] == results["best_step"])
    assert results["primary_value"] == pytest.approx(at_best["accuracy"], abs=1e-12)


def test_a_plain_pipeline_says_the_same(finished):
    from transformers import pipeline

    from training.demo import generate
    from training.predict import Predictor

    run, _ = finished
    config = build(RunConfig, yaml.safe_load(run.config.read_text()))
    first, second = config.task.text
    texts = [(str(r[first]), str(r[second])) for r in generate()["test"][:20]]
    ours = Predictor(run, config).predict([*texts])
    classify: Any = pipeline("text-classification", model=str(run.model))
    theirs = [classify({"text": a, "text_pair": b}) for a, b in texts]
    theirs = [t[0] if isinstance(t, list) else t for t in theirs]
    assert [p.label for p in ours] == [t["label"] for t in theirs]
    assert [p.value for p in ours] == pytest.approx([t["score"] for t in theirs], abs=1e-5)
    rows = [line.split("\t") for line in (run.predictions / "test.tsv").read_text().splitlines()]
    assert [p.label for p in ours] == [row[2] for row in rows[1:21]]


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_metrics_equal_the_full_set_at_any_world_size(tmp_path, ranks):
    run = make_run(tmp_path / "runs" / "r", demo(), "train.max_steps=2")
    results = train(run, ranks)
    rows = [r.split("\t") for r in (run.predictions / "validation.tsv").read_text().splitlines()]
    names = [name[2:-1] for name in rows[0][3:]]
    labels = np.array([names.index(r[1]) for r in rows[1:]])
    outputs = np.array([[float(p) for p in r[3:]] for r in rows[1:]], dtype=np.float32)
    config = build(RunConfig, yaml.safe_load(run.config.read_text()))
    again = compute_metrics(config.task, outputs, labels)
    assert results["metrics"]["validation"] == pytest.approx(again, abs=1e-9)
    assert results["world_size"] == ranks


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_zero_trains_the_same_run(tmp_path, finished, zero):
    run = make_run(tmp_path / "runs" / "z", demo(), f"engine.zero={zero}")
    results = train(run)
    assert results["engine"] == "deepspeed" and results["zero_stage"] == zero
    same = {e["step"]: e["loss"] for e in read_metrics(finished[0].metrics) if e["kind"] == "train"}
    for line in read_metrics(run.metrics):
        if line["kind"] == "train":
            assert line["loss"] == pytest.approx(same[line["step"]], rel=1e-5)


def test_regression_from_a_file(tmp_path):
    rng = np.random.default_rng(0)
    for split, rows in (("train", 200), ("validation", 60)):
        values = rng.integers(1, 6, rows)
        lines = [json.dumps({"a": "good " * int(v), "y": float(v)}) for v in values]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    task = {
        "name": "stars",
        "problem": "regression",
        "files": {s: [str(tmp_path / f"{s}.jsonl")] for s in ("train", "validation")},
        "text": ["a"],
        "label": "y",
    }
    run = make_run(tmp_path / "runs" / "r", task, "engine.zero=3", "train.max_steps=40")
    results = train(run)
    assert results["metrics"]["validation"]["pearson"] > 0.5
    assert json.loads((run.model / "config.json").read_text())["problem_type"] == "regression"


def test_last_weights_early_stop_and_frozen_encoder(tmp_path):
    run = make_run(
        tmp_path / "runs" / "r",
        demo(),
        "model.freeze_encoder=true",
        "train.eval_every=2",
        "train.patience=1",
        "optim.lr=0",
        "train.max_steps=20",
    )
    results = train(run, 1)
    assert results["stopped_early"] and results["steps"] == 4 and results["best_step"] == 2


@pytest.mark.parametrize(
    ("name", "keep", "left"),
    [
        ("adam", "results", []),
        ("sgd", "model", ["model"]),
        ("adagrad", "all", ["checkpoints", "model"]),
    ],
)
def test_other_optimizers_and_schedules_and_what_they_keep(tmp_path, name, keep, left):
    run = make_run(
        tmp_path / "runs" / "r", demo(), f"optim.name={name}", "optim.schedule=cosine",
        "train.max_steps=3", "train.select=last", "train.save_every=2", f"train.keep={keep}",
    )  # fmt: skip
    assert train(run, 1)["best_step"] == 3
    assert sorted(p.name for p in (run.checkpoints, run.model) if p.exists()) == left
    end = ".tsv.gz" if keep == "results" else ".tsv"
    assert {p.name for p in run.predictions.iterdir()} == {f"validation{end}", f"test{end}"}
    with open_predictions(run, "validation") as file:
        assert file.readline().split("\t")[:3] == ["index", "label", "prediction"]


def test_a_signal_stops_at_a_step_boundary(tmp_path):
    run = make_run(
        tmp_path / "runs" / "r", demo(), "train.max_steps=100000", "train.eval_every=50000"
    )
    process = start(run, 2)
    deadline = time.monotonic() + 120
    while (read_json(run.progress) or {}).get("step", 0) < 5:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.2)
    pids = subprocess.run(
        ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True
    )
    rank = int(pids.stdout.split()[0])
    # Signals go on coming while the rank ends: that must not turn its exit into a failure.
    while process.poll() is None:
        assert time.monotonic() < deadline + 60
        try:
            os.kill(rank, signal.SIGUSR2)
        except ProcessLookupError:
            pass
        time.sleep(0.001)
    assert process.returncode == 0
    progress = read_json(run.progress)
    assert progress is not None and progress["interrupted"]
    assert not run.results.exists()


def test_a_rank_that_fails_leaves_its_reason(tmp_path):
    run = make_run(tmp_path / "runs" / "r", demo(), "optim.lr=1e30", "optim.clip=0")
    process = start(run, 2)
    process.communicate(timeout=120)
    assert process.returncode != 0
    error = read_json(run.rank_error(0, 0, 0))
    assert error is not None and error["kind"] == "FloatingPointError"
    assert "the loss is" in error["message"] and not error["secondary"]
    assert not run.results.exists()
