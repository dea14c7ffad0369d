"""What tests say of two runs: whether they were the same experiment to the last bit."""

from __future__ import annotations

from typing import Any

from training.rundir import RunDir, read_json, read_metrics

TOLD = ("kind", "step", "epoch", "split", "loss", "lr", "grad_norm", "accuracy", "macro_f1")
TOLD += ("noise_gradient_square", "noise_trace")
RESULTS = (
    "metrics",
    "examples_seen",
    "steps",
    "best_step",
    "epochs",
    "micro_batches_mean",
    "noise",
)


def events(run: RunDir, name: str) -> list[dict[str, Any]]:
    """Return the events of one name that a run logged."""
    return [e for e in read_metrics(run.metrics) if e.get("event") == name]


def told(run: RunDir) -> list[tuple[Any, ...]]:
    """Return what the log says of the training, without times and speeds."""
    lines = [line for line in read_metrics(run.metrics) if line["kind"] != "event"]
    return [tuple(line.get(key) for key in TOLD) for line in lines]


def unlike(run: RunDir, other: RunDir) -> list[str]:
    """Return in what two finished runs are not equal, bit for bit; empty if in nothing."""
    files = [r.model / "model.safetensors" for r in (run, other)]
    results = [read_json(r.results) or {} for r in (run, other)]
    found = [key for key in RESULTS if results[0].get(key) != results[1].get(key)]
    if told(run) != told(other):
        found.append("log")
    if files[0].read_bytes() != files[1].read_bytes():
        found.append("weights")
    return found
