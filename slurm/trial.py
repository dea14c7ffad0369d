"""A trial's run directory, made by the worker that takes the trial."""

from __future__ import annotations

import functools
import os
import shutil
import socket
import time
from pathlib import Path
from typing import Any

from slurm.begun import Begun, read_past
from slurm.turns import Turn
from training.config import RunConfig, UsageError, load_config
from training.rundir import RunDir, read_json, submissions, write_json
from training.scaling import scaled_for
from training.schedule import warmup_steps
from training.sweepdir import SweepDir, Trial

OPEN_SECONDS = 60.0
"""How long one worker may take to begin a run, by the clock of others that want to."""


NODES = (
    *("nodes", "min_nodes", "procs_per_node", "gpus_per_node", "cpus_per_node", "mem"),
    *("partition", "account", "qos", "constraint"),
)
"""Keys of `cluster` in which trials must agree that a worker's nodes are for."""


def suits(sweep: SweepDir, base: str, bases: tuple[str, ...]) -> bool:
    """Return whether the nodes that trials of some bases were given are right for another's too.

    A sweep may have been extended by trials of other nodes while its workers were queued.

    Args:
        sweep: the sweep.
        base: digest of the base of a trial.
        bases: those that a worker was submitted for; empty: any.
    """
    if not bases or base in bases:
        return True
    wanted = _nodes(str(sweep.base(base)))
    return wanted is not None and wanted == _nodes(str(sweep.base(bases[0])))


@functools.cache
def _nodes(path: str) -> tuple[Any, ...] | None:
    """Return what nodes a base needs; None where it cannot be read. A file of that name stays."""
    try:
        config = load_config(Path(path))
    except UsageError:
        return None
    return (config.engine.device, *(getattr(config.cluster, key) for key in NODES))


def trial_config(sweep: SweepDir, trial: Trial) -> RunConfig:
    """Return a trial's configuration.

    Raises:
        UsageError: the sweep's files cannot be read.
    """
    return load_config(sweep.base(trial.base)).with_values(trial.values)


def trial_plan(sweep: SweepDir, trial: Trial, config: RunConfig, lanes: int = 1) -> dict[str, Any]:
    """Return a trial's plan: that of all trials like it, with its own learning rate.

    Args:
        sweep: the sweep.
        trial: the trial.
        config: its configuration.
        lanes: trials that share the node's cores.
    """
    plans = read_json(sweep.plans)
    plan = dict(plans.get(trial.plan) or {}) if isinstance(plans, dict) else {}
    if cores := plan.get("cores_per_rank"):
        plan["cores_per_rank"] = max(1, cores // lanes)
    optim = scaled_for(config)
    plan["lr"] = optim.lr
    if plan.get("steps"):
        plan["warmup_steps"] = warmup_steps(optim, plan["steps"])
    return plan


def open_run(
    sweep: SweepDir, trial: Trial, job: str, slurm: bool, lanes: int = 1
) -> tuple[RunDir, int]:
    """Return a trial's run directory, made if it is not there, and the job's first attempt.

    Args:
        sweep: the sweep.
        trial: the trial.
        job: whose worker opens it.
        slurm: whether that is a job of Slurm's.
        lanes: trials that share the node's cores.

    Raises:
        Begun: somebody else began the run.
        UsageError: the sweep's files cannot be read.
        OSError: the runs folder cannot be written.
    """
    run = sweep.run(trial)
    if not run.path.exists():
        _make(sweep, trial, run, lanes)
    for entry in submissions(run.jobs):
        if str(entry["job_id"]) == job and not entry.get("released"):
            _share(sweep, trial, run, lanes)
            return run, int(entry.get("first_attempt", 0))
    # Workers of two sweeps may be here at once: the one that is first is seen by the other.
    with Turn(run.path / ".begin.turn", OPEN_SECONDS).held():
        if not read_past(sweep).free(sweep, trial, job):
            raise Begun(f"run {run.run_id} is somebody else's")
        _share(sweep, trial, run, lanes)
        first = max(run.attempt_numbers(), default=-1) + 1
        _note(sweep, run, job, slurm, first)
    # What a person asked of an earlier job is not asked of this one.
    run.request.unlink(missing_ok=True)
    return run, first


def _note(sweep: SweepDir, run: RunDir, job: str, slurm: bool, first: int) -> None:
    now = time.time()
    entry = {
        "job_id": job,
        "executor": "slurm" if slurm else "local",
        "first_attempt": first,
        "time": _submitted(sweep, job) or now,
        "began": now,
        "host": socket.gethostname(),
        "sweep": sweep.name,
    }
    if slurm:
        entry |= {"cluster": os.environ.get("SLURM_CLUSTER_NAME"), "uid": os.getuid()}
    # A worker that had the run before, and was done with it, has it anew.
    others = [e for e in submissions(run.jobs) if str(e["job_id"]) != job]
    write_json(run.jobs, {"jobs": [*others, entry]})


def _submitted(sweep: SweepDir, job: str) -> float | None:
    """Return when a worker's job was submitted: long before it began its later trials.

    None where the login node has not written that down yet. Whoever asks Slurm for the job takes
    one that is older than this for another of the same number.
    """
    array = job.partition("_")[0]
    return next((e.get("time") for e in submissions(sweep.jobs) if str(e["job_id"]) == array), None)


def _share(sweep: SweepDir, trial: Trial, run: RunDir, lanes: int) -> None:
    """Have the plan of a run that goes on say the cores of this worker, not of an earlier one."""
    plan = read_json(run.plan)
    cores = trial_plan(sweep, trial, trial_config(sweep, trial), lanes).get("cores_per_rank")
    if isinstance(plan, dict) and cores and plan.get("cores_per_rank") != cores:
        write_json(run.plan, {**plan, "cores_per_rank": cores})


def release(run: RunDir, job: str) -> None:
    """Write down that a job, which goes on with other trials, is done with this one."""
    known = [
        {**e, "released": True} if str(e["job_id"]) == job else e for e in submissions(run.jobs)
    ]
    write_json(run.jobs, {"jobs": known})


def _make(sweep: SweepDir, trial: Trial, run: RunDir, lanes: int) -> None:
    config = trial_config(sweep, trial)
    temporary = RunDir(run.path.parent / f".tmp-{run.run_id}-{socket.gethostname()}-{os.getpid()}")
    try:
        temporary.path.mkdir(parents=True)
        if config.cluster.private:
            temporary.path.chmod(0o700)
        temporary.config.write_text(config.dump(), encoding="utf-8")
        write_json(temporary.plan, trial_plan(sweep, trial, config, lanes), durable=False)
        shutil.copy(sweep.manifest_of(trial.base), temporary.manifest)
        if sweep.prepared(trial.base).exists():
            shutil.copy(sweep.prepared(trial.base), temporary.prepared)
        temporary.path.rename(run.path)
    except OSError:
        if not run.path.exists():
            raise
        # Another sweep's worker made it meanwhile.
    finally:
        shutil.rmtree(temporary.path, ignore_errors=True)
