"""Whole runs: out of memory they end as runs that began with the smaller budget; meters; memory."""

import subprocess
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.launch.commandline import glueline
from training.rundir import RunDir, read_json, read_metrics


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Return a function that trains the demo task on this machine and returns the run."""
    runs = tmp_path_factory.mktemp("runs")

    def train(name: str, *options: str) -> tuple[RunDir, subprocess.CompletedProcess[str]]:
        done = glueline(
            "submit",
            *("--executor", "local", "--task", "demo", "--model", "tiny", "--name", name),
            *("--max-steps", "4", "--log-every", "1", "--tracker", "none", "--wait"),
            *("--eval-every", "100", "--set", "train.select=last", *options),
            cwd=runs,
            timeout=240,
        )
        return RunDir(runs / "runs" / name), done

    return train


def losses(run: RunDir) -> list[float]:
    return [line["loss"] for line in read_metrics(run.metrics) if line["kind"] == "train"]


ENGINES = {"ddp": (), "zero1": ("--zero", "1"), "zero2": ("--zero", "2"), "zero3": ("--zero", "3")}


@pytest.mark.parametrize("engine", ENGINES)
def test_it_ends_as_a_run_with_the_smaller_budget(start, engine):
    options = (*ENGINES[engine], "--procs-per-node", "2", "--global-batch", "64")
    small, done = start(f"{engine}-small", *options, "--micro-tokens", "128")
    assert done.returncode == 0, done.stderr
    faulty, done = start(
        f"{engine}-faulty", *options, "--micro-tokens", "512", "--set", "train.fault=oom@0:200"
    )
    assert done.returncode == 0, done.stderr
    events = [e for e in read_metrics(faulty.metrics) if e.get("event") == "out_of_memory"]
    assert [e["micro_tokens"] for e in events] == [256, 128]
    assert (read_json(faulty.results) or {})["micro_tokens"] == 128
    assert (read_json(faulty.results) or {})["examples_seen"] == 256
    # Bit for bit, dropout included.
    assert losses(faulty) == losses(small)
    weights = [load_file(run.model / "model.safetensors") for run in (small, faulty)]
    assert all(bool((weights[0][name] == weights[1][name]).all()) for name in weights[0])


def test_in_the_middle_of_a_run_the_step_is_made_again(start):
    options = ("--procs-per-node", "2", "--global-batch", "64", "--set", "model.dropout=0")
    plain, _ = start("plain", *options, "--micro-tokens", "512")
    # One micro-batch a step, and the second step: DDP's forward pass meets there once.
    faulty, done = start("faulty", *options, "--micro-tokens", "4096", "--set", "train.fault=oom@1")
    assert done.returncode == 0, done.stderr
    assert losses(faulty) == pytest.approx(losses(plain), rel=1e-5)


@pytest.mark.parametrize("flags", [("--set", "batch.pad_multiple=16"), ("--compile", "layers")])
def test_ways_to_compute_do_not_change_the_losses(start, flags):
    options = ("--procs-per-node", "2", "--global-batch", "64", "--set", "model.dropout=0")
    plain, _ = start("plain", *options, "--micro-tokens", "512")
    other, done = start(f"other-{flags[-1][:7]}", *options, "--micro-tokens", "512", *flags)
    assert done.returncode == 0, done.stderr
    assert losses(other) == pytest.approx(losses(plain), rel=1e-5)


def test_when_nothing_is_left_to_halve_it_says_so(start):
    run, done = start("hopeless", "--micro-tokens", "512", "--set", "train.fault=oom@0:1")
    assert done.returncode == 1
    assert "out of memory with one example of" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert not run.results.exists()


def test_memory_stays_flat_over_ten_epochs_and_the_meters_say_what_they_should(start, tmp_path):
    rows = tmp_path / "rows.csv"
    words = ("the match was won again,sport", "the vote was lost by many,politics")
    rows.write_text("text,topic\n" + "".join(f"{i} {words[i % 2]}\n" for i in range(400)))
    run, done = start(
        "epochs",
        *("--task", str(_task(tmp_path, rows)), "--max-steps", "240", "--global-batch", "16"),
        *("--log-every", "5", "--micro-tokens", "128", "--set", "task.holdout=0.05"),
        *("--cpus-per-node", "1"),
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in read_metrics(run.metrics) if line["kind"] == "train"]
    assert lines[-1]["epoch"] == 10
    # Steps on either side of the last five epochs; before, the first weights worth keeping were
    # written, which takes memory once.
    half, whole = lines[len(lines) // 2]["memory_bytes"], lines[-1]["memory_bytes"]
    assert whole < half * 1.02
    for name in ("padding_efficiency", "rank_imbalance", "data_wait_share", "communication_share"):
        assert all(0 <= line[name] <= 1.5 for line in lines[2:])
    results = read_json(run.results) or {}
    assert results["peak_memory_bytes"] >= whole * 0.9
    throughput = results["throughput"]
    assert 0 < throughput["mfu"] < 1 and throughput["peak_flops"] > 1e9
    assert 0 <= throughput["evaluation_share"] < 1 and 0 <= throughput["checkpoint_share"] < 1


def _task(folder: Path, rows: Path) -> Path:
    """Write a task file over a CSV file."""
    path = folder / "topics.yaml"
    path.write_text(
        "task:\n  text: [text]\n  label: topic\n  files:\n    train: [" + str(rows) + "]\n"
    )
    return path
