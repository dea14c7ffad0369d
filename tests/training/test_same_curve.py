"""The same run at another scale is the same experiment: 30 steps on real rows, as a user types it.

Ranks and the token budget decide how a global batch is cut, and nothing else: every step has the
same loss and gradient norm, and the model at the end says the same of every row.
"""

import json
from pathlib import Path

import pytest

from tests.launch.commandline import glueline
from training.rundir import RunDir, read_metrics

STEPS, BATCH = 30, 32
BUDGETS = {1: 256, 2: 512, 4: 4096}
"""Tokens of a micro-batch by world size: the more ranks, the larger, so that K differs most."""
TOLERANCE = {"loss": 1e-5, "grad_norm": 1e-4}
"""Relative. Orders of summation in fp32 differ by 1e-7 a step, which 30 steps of AdamW carry on, to
2e-6 of a norm; a batch with another example in it is far beyond both bounds."""

pytestmark = [pytest.mark.data, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, data_dir) -> dict[int, RunDir]:
    """Return the finished run of every world size."""
    here = tmp_path_factory.mktemp("curve")
    return {world: train(here, world, data_dir) for world in BUDGETS}


def train(here: Path, world: int, data: Path) -> RunDir:
    """Submit a run on this machine and wait for it."""
    line = ["--executor", "local", "--device", "cpu", "--task", "mnli", "--model", "tiny"]
    line += ["--data", str(data), "--procs-per-node", str(world), "--name", f"w{world}"]
    line += ["--set", "model.dropout=0", "--precision", "fp32", "--tracker", "none"]
    line += ["--max-steps", str(STEPS), "--global-batch", str(BATCH), "--log-every", "1"]
    line += ["--micro-tokens", str(BUDGETS[world]), "--wait"]
    done = glueline("submit", *line, cwd=here, timeout=240)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    return RunDir(here / "runs" / f"w{world}")


def results(run: RunDir) -> dict:
    return json.loads(run.results.read_text())


def curve(run: RunDir, key: str) -> list[float]:
    """Return a value of every step."""
    lines = [line for line in read_metrics(run.metrics) if line["kind"] == "train"]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    return [line[key] for line in lines]


def outputs(run: RunDir, split: str) -> tuple[list[str], list[float]]:
    """Return the true labels of a split, and the probabilities of all its rows."""
    file = run.predictions / f"{split}.tsv"
    rows = [line.split("\t") for line in file.read_text().splitlines()[1:]]
    return [row[1] for row in rows], [float(value) for row in rows for value in row[3:]]


def test_the_runs_are_cut_differently(runs):
    found = {world: results(run) for world, run in runs.items()}
    assert {world: r["world_size"] for world, r in found.items()} == {w: w for w in BUDGETS}
    depths = [found[world]["micro_batches"] for world in BUDGETS]
    assert depths == sorted(set(depths), reverse=True), depths
    for r in found.values():
        assert r["engine"] == "ddp" and r["precision"] == "fp32"
        assert r["steps"] == STEPS and r["examples_seen"] == STEPS * BATCH


@pytest.mark.parametrize("key", TOLERANCE)
@pytest.mark.parametrize("world", [2, 4])
def test_every_step_is_the_same(runs, world, key):
    assert curve(runs[world], key) == pytest.approx(curve(runs[1], key), rel=TOLERANCE[key])


@pytest.mark.parametrize("world", [2, 4])
def test_the_model_at_the_end_is_the_same(runs, world):
    alone, many = results(runs[1]), results(runs[world])
    for split, metrics in alone["metrics"].items():
        labels, probabilities = outputs(runs[1], split)
        same_labels, same = outputs(runs[world], split)
        assert same_labels == labels and len(labels) > 100
        assert same == pytest.approx(probabilities, abs=1e-5)
        # A row between two classes may fall to either side.
        one_row = 1 / len(labels) + 1e-9
        assert many["metrics"][split]["accuracy"] == pytest.approx(metrics["accuracy"], abs=one_row)
