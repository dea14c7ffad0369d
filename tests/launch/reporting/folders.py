"""Sweep folders with run directories in the real formats, as a small run leaves them.

The numbers follow a stated law, so that a test knows what a report must find: steps to a score
obey S = Smin + Emin / B, and speed, shares and noise are what `Law` says.
"""

from __future__ import annotations

import json
import math
import random
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from training.config import (
    BatchConfig,
    ClusterConfig,
    EngineConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    TaskConfig,
    TrackingConfig,
    TrainConfig,
)
from training.config.schema import get_dotted, leaves, to_plain
from training.rundir import RunDir, append_line, write_json
from training.sweepdir import SweepDir, Trial, sweeps_folder

ROWS = 4000
LABELS = ("bird", "fish", "mammal")
CLOCK = 1795262000.0
"""Epoch seconds at which every run starts."""


@dataclass(frozen=True)
class Law:
    """What the made runs obey."""

    min_steps: float = 40.0
    min_examples: float = 40.0 * 128
    top: float = 0.9
    """Score that training goes to; it starts at a third."""
    noise: float = 0.006
    """Standard deviation over seeds: of the score, and relative of the steps."""
    speed: float = 1000.0
    """Examples a second of one rank."""
    scale: float | None = None
    """Critical batch that the gradients' noise predicts."""


def config(
    batch: int = 64, seed: int = 1, rule: str = "sqrt", procs: int = 2, **cluster: Any
) -> RunConfig:
    """Return what `submit --executor local --task demo --model tiny` resolves to."""
    task = TaskConfig(
        name="demo",
        description="generated, for trying without data",
        generated="demo",
        text=("first_note", "second_note"),
        label="label",
        test=("test",),
        max_length=64,
        metrics=("accuracy", "macro_f1", "weighted_f1"),
    )
    model = ModelConfig(
        name="tiny",
        architecture="bert",
        vocab_size=2048,
        layers=2,
        hidden_size=64,
        heads=4,
        intermediate_size=256,
        dropout=0.0,
    )
    given = {"executor": "local", "procs_per_node": procs, "gpus_per_node": 0, "cpus_per_node": 2}
    return RunConfig(
        task=task,
        model=model,
        batch=BatchConfig(global_batch=batch, micro_tokens=1024),
        optim=OptimConfig(lr=3e-4, lr_rule=rule, base_batch=None if rule == "fixed" else 32),  # type: ignore[arg-type]
        train=TrainConfig(seed=seed, epochs=12.0),
        engine=EngineConfig(device="cpu", precision="fp32"),
        cluster=ClusterConfig(**(given | cluster)),
        tracking=TrackingConfig(tracker="none"),
    )


def submitted(run: RunDir, made: RunConfig, job: str = "4711") -> None:
    """Write what launch writes before a run starts."""
    run.path.mkdir(parents=True)
    run.config.write_text(made.dump())
    steps = math.ceil(ROWS * made.train.epochs / made.batch.global_batch)
    write_json(
        run.plan,
        {
            "world_size": made.world_size,
            "nodes": made.cluster.nodes,
            "cores_per_rank": 1,
            "device": made.engine.device,
            "device_kind": "cpu: AMD EPYC",
            "precision": "fp32",
            "global_batch": made.batch.global_batch,
            "rows": {"train": ROWS, "validation": 600, "test": 600},
            "steps": steps,
            "memory": {"rank_bytes": 627673786, "limit_bytes": 12638251008},
            "time": {"seconds": 32.9, "unit": "core-hours", "hours": 0.018},
        },
    )
    # A process of another machine: nobody can be asked, so the files decide.
    executor = made.cluster.executor
    entry = {"job_id": job, "executor": executor, "first_attempt": 0, "time": CLOCK - 20}
    write_json(run.jobs, {"jobs": [entry | {"host": f"not-{socket.gethostname()}"}]})


def node(run: RunDir, attempt: int, start: float, **more: Any) -> None:
    """Write what a node's agent writes of an attempt."""
    run.logs(attempt).mkdir(parents=True, exist_ok=True)
    record = {"job_id": "4711", "host": "n1", "attempt": attempt, "restarts": attempt, "node": 0}
    write_json(run.node(attempt, 0), {**record, "nodes": 1, "start": start, "cores": 2, **more})


def trained(
    run: RunDir,
    made: RunConfig,
    law: Law,
    until: float = 1.0,
    attempt: int = 0,
    start: float = CLOCK,
    after: int = 0,
) -> tuple[float, float]:
    """Write metrics.jsonl and progress.json up to a share of all steps; return score and time."""
    batch, world, rng = made.batch.global_batch, made.world_size, _random(made)
    steps = math.ceil(ROWS * made.train.epochs / batch)
    rate = law.speed * world * (0.95 ** math.log2(world) if world > 1 else 1.0)
    luck, top = 1 + law.noise * rng.gauss(0, 1), law.top + law.noise * rng.gauss(0, 1)
    # The score meets 0.85 of the law's way at Smin + Emin/B steps.
    wanted = (law.min_steps + law.min_examples / batch) * luck
    pace = wanted / -math.log(1 - 0.85)
    every, now, value = max(1, steps // 40), start, 1 / 3
    line = {"kind": "event", "attempt": attempt, "step": after, "epoch": 0.0, "time": now}
    append_line(run.metrics, line | {"event": "start", "engine": "ddp", "world_size": world})
    for step in range(after + 1, math.ceil(until * steps) + 1):
        now = start + 10 + (step - after) * batch / rate
        value = 1 / 3 + (top - 1 / 3) * (1 - math.exp(-step / pace))
        common = {"attempt": attempt, "step": step, "epoch": step * batch / ROWS, "time": now}
        if step % max(1, every // 2) == 0:
            noise = 1 + 0.05 * rng.gauss(0, 1)
            told = {
                "loss": 1.1 * math.exp(-step / pace) * noise + 0.02,
                "lr": 3e-4 * min(1.0, 10 * step / steps) * (1 - step / (steps + 1)),
                "grad_norm": 0.4 * noise + 0.2,
                "examples_per_second": rate * noise,
                **shares(world),
            }
            append_line(run.metrics, {"kind": "train", **common, **told})
        if step % every == 0 or step == steps:
            told = {"split": "validation", "accuracy": round(value, 6), "macro_f1": value - 0.01}
            append_line(run.metrics, {"kind": "eval", **common, **told})
    progress = {"phase": "training", "step": math.ceil(until * steps), "total_steps": steps}
    told = {"attempt": attempt, "primary_metric": "accuracy", "primary_value": value, "time": now}
    write_json(run.progress, progress | told)
    return value, now


def shares(world: int) -> dict[str, float]:
    """Return the shares of time that runs of so many ranks log."""
    return {
        "padding_efficiency": 0.95,
        "rank_imbalance": 1.0 + 0.02 * (world > 1),
        "data_wait_share": 0.01,
        "communication_share": 0.05 * math.log2(world) if world > 1 else 0.0,
    }


def finished(run: RunDir, made: RunConfig, law: Law | None = None) -> None:
    """Write a run that finished."""
    law = law or Law()
    submitted(run, made)
    value, now = trained(run, made, law)
    node(run, 0, CLOCK, end="finished", exit_code=0, cause=None, ended=now + 5)
    write_results(run, made, law, value, now + 5 - CLOCK)


def write_results(
    run: RunDir, made: RunConfig, law: Law, value: float, seconds: float, attempts: int = 1
) -> None:
    """Write results.json and the predictions."""
    batch, world = made.batch.global_batch, made.world_size
    steps = math.ceil(ROWS * made.train.epochs / batch)
    rate = law.speed * world * (0.95 ** math.log2(world) if world > 1 else 1.0)
    scores = {"accuracy": value, "macro_f1": value - 0.01, "weighted_f1": value - 0.01}
    found: dict[str, Any] = {
        "run_id": run.run_id,
        "task": "demo",
        "model": "tiny",
        "seed": made.train.seed,
        "world_size": world,
        "engine": "ddp",
        "zero_stage": None,
        "precision": "fp32",
        "global_batch": batch,
        "epochs": made.train.epochs,
        "steps": steps,
        "examples_seen": int(ROWS * made.train.epochs),
        "metrics": {"validation": scores, "test": scores},
        "primary_metric": "accuracy",
        "primary_split": "validation",
        "primary_value": value,
        "best_step": steps,
        "throughput": {
            "examples_per_second": rate,
            **shares(world),
            "mfu": 0.35,
            "train_seconds": seconds - 10,
            "evaluation_seconds": 3.0,
            "checkpoint_seconds": 0.1,
        },
        "micro_tokens": 1024,
        "peak_memory_bytes": 576028672,
        "wall_seconds": seconds - 2,
        "attempts": attempts,
    }
    if law.scale is not None:
        seen = law.scale * (1 + 0.05 * _random(made).gauss(0, 1))
        found["noise"] = {
            "steps": 20,
            "gradient_square": 0.01,
            "trace": 0.01 * seen,
            "scale": seen,
            "low": 0.8 * seen,
            "high": 1.3 * seen,
        }
    write_json(run.results, found)
    run.predictions.mkdir(exist_ok=True)
    lines = ["index\tlabel\tprediction\t" + "\t".join(f"p({n})" for n in LABELS)]
    # 40% are of one class: what a collapsed run answers.
    labels = ["bird"] * 240 + ["fish"] * 180 + ["mammal"] * 180
    lines += [f"{i}\t{label}\tbird\t0.4\t0.3\t0.3" for i, label in enumerate(labels)]
    (run.predictions / "validation.tsv").write_text("\n".join(lines) + "\n")


def failed(run: RunDir, made: RunConfig, kind: str, message: str) -> None:
    """Write a run that failed on rank 1."""
    submitted(run, made)
    _, now = trained(run, made, Law(), until=0.2)
    log = "attempts/0/logs/0-1.log"
    cause = {"kind": kind, "message": message, "rank": 1, "time": now, "log": log}
    node(run, 0, CLOCK, end="failed", exit_code=1, cause=cause, ended=now)
    run.rank_log(0, 0, 1).write_text(f"{kind}: {message}\n")


def diverged(run: RunDir, made: RunConfig) -> None:
    """Write a run whose loss was not finite."""
    failed(run, made, "FloatingPointError", "the loss of step 12 is not finite (nan)")


def resumed(run: RunDir, made: RunConfig) -> None:
    """Write a finished run whose first attempt was interrupted half way."""
    law = Law()
    submitted(run, made)
    _, first = trained(run, made, law, until=0.5)
    node(run, 0, CLOCK, end="interrupted", signal="SIGUSR2", exit_code=0, cause=None, ended=first)
    verdict = {"action": "requeue", "why": "preempted", "checkpoint": 10}
    write_json(run.verdict(0), verdict)
    again = first + 60
    steps = math.ceil(ROWS * made.train.epochs / made.batch.global_batch)
    value, now = trained(run, made, law, attempt=1, start=again, after=steps // 2)
    node(run, 1, again, end="finished", exit_code=0, cause=None, ended=now + 5)
    write_results(run, made, law, value, first - CLOCK + now + 5 - again, attempts=2)


def _random(made: RunConfig) -> random.Random:
    return random.Random(f"{made.batch.global_batch} {made.train.seed} {made.optim.lr_rule}")


def _unlike(base: RunConfig, made: RunConfig) -> dict[str, Any]:
    return {
        key: to_plain(get_dotted(made, key))
        for key in leaves(RunConfig)
        if get_dotted(made, key) != get_dotted(base, key)
    }


def write_sweep(
    runs: Path, name: str, trials: Iterable[tuple[RunConfig, Mapping[str, Any]]]
) -> SweepDir:
    """Write a sweep's own folder; its runs are made apart."""
    sweep = SweepDir(sweeps_folder(runs) / name)
    sweep.path.mkdir(parents=True)
    listed = list(trials)
    # One configuration that all differ from, as the sweep command writes it.
    first = listed[0][0]
    sweep.base("0a").write_text(first.dump())
    lines = [
        Trial(n, made.run_id(), dict(axes), _unlike(first, made), "0a", "0b").plain()
        for n, (made, axes) in enumerate(listed)
    ]
    sweep.trials.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return sweep


def batches(
    runs: Path,
    name: str = "batches",
    sizes: Iterable[int] = (32, 64, 128, 256, 512),
    rules: Iterable[str] = ("sqrt", "linear"),
    seeds: Iterable[int] = (1, 2, 3),
    procs: Iterable[int] = (2,),
    law: Law | None = None,
) -> SweepDir:
    """Write a sweep over batches, rules and seeds that all finished.

    With `linear`, a batch of 512 collapses: such runs answer one class.
    """
    law, trials = law or Law(scale=140.0), []
    ranks = tuple(procs)
    for batch in sizes:
        for rule in rules:
            for count in ranks:
                for seed in seeds:
                    made = config(batch, seed, rule, count)
                    own = law
                    if rule == "linear" and batch >= 512:
                        own = replace(law, top=0.4, noise=0.0)
                    finished(RunDir(runs / made.run_id()), made, own)
                    axes = {"global_batch": batch, "lr_rule": rule, "seed": seed}
                    if len(ranks) > 1:
                        axes["procs_per_node"] = count
                    trials.append((made, axes))
    return write_sweep(runs, name, trials)


def states(runs: Path, name: str = "states") -> SweepDir:
    """Write a sweep with a trial in every state."""
    made = {n: config(64, n) for n in range(1, 9)}
    at = {n: RunDir(runs / one.run_id()) for n, one in made.items()}
    finished(at[1], made[1])
    failed(at[2], made[2], "OutOfMemoryError", "no memory for 2 GiB")
    diverged(at[3], made[3])
    submitted(at[4], made[4])  # queued
    submitted(at[5], made[5])
    trained(at[5], made[5], Law(), until=0.3)
    node(at[5], 0, CLOCK)  # running
    at[6].path.mkdir()  # damaged
    (at[6].path / "results.json").write_text('{"primary_value": [')
    resumed(at[7], made[7])
    return write_sweep(
        runs, name, [(one, {"global_batch": 64, "seed": n}) for n, one in made.items()]
    )
