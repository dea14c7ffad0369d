"""Who began a run, and whether that is over: a run may belong to several sweeps, or to none.

A worker begins a run only if nobody did, or if whoever did is known to be gone. That is known of
workers of its own sweep (their claims are `lost`), and of the jobs that Slurm was asked about when
a person typed the sweep's line: `wanted.json` has those. A run that another sweep's worker, or a
job of its own, began since is left to them: nobody has to ask Slurm whether they live, or to wait.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from slurm.claims import lost_jobs
from training.rundir import read_json, submissions, write_json
from training.sweepdir import SweepDir, Trial


class Begun(Exception):
    """A run is somebody else's: another sweep's worker, or a job of its own, began it."""


@dataclass(frozen=True)
class Past:
    """Which beginnings of its runs a sweep knows to be over, by the trials' numbers."""

    wanted: Mapping[int, Collection[str]] = field(default_factory=dict)
    """What was over when a person asked for the trial, see `beginning`."""
    lost: Mapping[int, Collection[str]] = field(default_factory=dict)
    """Jobs of workers that vanished."""

    def free(self, sweep: SweepDir, trial: Trial, *jobs: str) -> bool:
        """Return whether a trial's run is not somebody else's.

        Args:
            sweep: the sweep.
            trial: the trial.
            jobs: whose beginnings do not count: the worker's own, and those that are gone.
        """
        over = {*jobs, *self.lost.get(trial.number, ())}
        wanted = self.wanted.get(trial.number, ())
        return all(
            str(entry["job_id"]) in over or beginning(entry) in wanted
            for entry in submissions(sweep.run(trial).jobs)
        )


def beginning(entry: Mapping[str, Any]) -> str:
    """Return what tells one beginning of a run from others, also of the same job."""
    return f"{entry['job_id']} {entry.get('began', entry.get('time'))}"


def want(sweep: SweepDir, over: Mapping[int, Collection[str]]) -> None:
    """Write down what is over of trials that a person asks for. Called on the login node.

    Raises:
        OSError: the folder cannot be written.
    """
    if not over:
        return
    known = {**_wanted(sweep), **over}
    sweep.path.mkdir(parents=True, exist_ok=True)
    trials = {str(number): sorted(some) for number, some in sorted(known.items())}
    write_json(sweep.wanted, {"trials": trials})


def read_past(sweep: SweepDir) -> Past:
    """Return what a sweep knows to be over now."""
    return Past(_wanted(sweep), lost_jobs(sweep))


def _wanted(sweep: SweepDir) -> dict[int, Collection[str]]:
    value = read_json(sweep.wanted)
    listed = value.get("trials") if isinstance(value, dict) else None
    return {int(n): some for n, some in listed.items()} if isinstance(listed, dict) else {}
