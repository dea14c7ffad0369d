"""A search's folder, and workers that take no time to train."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

from slurm.claims import Worker, lost_claims
from slurm.search import settle
from slurm.search_file import Axis, Option, Search, SearchFile
from slurm.worker import next_trial
from training.config import ModelConfig, RunConfig, TaskConfig
from training.config.schema import to_plain
from training.rundir import RunDir, read_json, write_atomic, write_json
from training.sweepdir import SweepDir

LR = Axis("lr", "optim.lr", (), 1e-5, 1e-2, log=True)
DECAY = Axis("weight_decay", "optim.weight_decay", (), 0.0, 0.1)
BATCH = Axis("global_batch", "batch.global_batch", (16, 32))


def config(fraction: float = 1.0) -> RunConfig:
    """Return the configuration that the trials differ from."""
    task = TaskConfig(
        name="demo", generated="demo", text=("a",), label="label", train_fraction=fraction
    )
    return RunConfig(task=task, model=ModelConfig(name="tiny", architecture="bert"))


def make_search(folder: Path, *axes: Axis, **asked: Any) -> SweepDir:
    """Write a search's folder as launch does."""
    sweep = SweepDir(folder / "runs" / ".sweeps" / "s")
    sweep.claims.mkdir(parents=True)
    search = Search(axes=axes or (LR, DECAY, BATCH), **asked)
    batches = {"global_batch": BATCH.choices} if BATCH in search.axes else {}
    whens = [{name: v} for name, values in batches.items() for v in values] or [{}]
    file = SearchFile(
        search=search,
        metric="accuracy",
        maximize=True,
        parts=tuple(Option(when, "part", "p") for when in whens),
        whole=tuple(Option(when, "whole", "w") for when in whens),
        bases={"part": to_plain(config(search.fraction)), "whole": to_plain(config())},
    )
    write_json(sweep.search, file.plain())
    for name in file.bases:
        write_atomic(sweep.base(name), config(search.fraction if name == "part" else 1.0).dump())
    return sweep


def finish(run: RunDir, value: float | None) -> None:
    """Leave a run as one that finished with a score."""
    run.path.mkdir(exist_ok=True)
    write_json(run.results, {"primary_value": value})


def work(path: str, deaths: float = 0.0) -> None:
    """Take trials until there is none left, as a job whose id is this process's.

    Args:
        path: the sweep's folder.
        deaths: how likely it is that the worker is killed over a trial that killed nobody yet.
    """
    sweep, worker = SweepDir(path), Worker(str(os.getpid()), slurm=False)
    while (trial := next_trial(sweep, worker, False)) is not None:
        run = sweep.run(trial)
        run.path.mkdir(exist_ok=True)
        # Two workers that train the same trial at the same time would see each other here.
        busy = run.path / "busy"
        pid = busy.read_text() if busy.exists() else ""
        assert not (pid and Path(f"/proc/{pid}").exists()), f"trial {trial.number} is trained twice"
        busy.write_text(str(os.getpid()))
        time.sleep(0.02)
        if random.random() < deaths and not lost_claims(sweep, trial.number):
            os.kill(os.getpid(), signal.SIGKILL)
        assert read_json(run.results) is None, f"trial {trial.number} is trained again"
        finish(run, 1.0 - trial.axes["lr"])
        busy.unlink()
    settle(sweep)
