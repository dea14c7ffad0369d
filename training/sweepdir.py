"""The sweep folder: which trials a sweep has, and where each one's run is.

The one module that knows what lies where below `<runs>/.sweeps/<name>/`. Standard library only. A
trial is a run like any other, in the runs folder beside the sweep's; the sweep's own files say
which runs belong together and what was varied.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .rundir import CACHE_FOLDER, RunDir, State, json_lines, read_json

SWEEPS_FOLDER = ".sweeps"
"""Below the runs folder."""
TrialState = State | Literal["missing", "pruned"]
"""A run's states, that of a trial which has no run directory yet (no worker took it), and that of
one which a search ended early."""


@dataclass(frozen=True)
class Trial:
    """One line of `trials.jsonl`."""

    number: int
    """From 0, in the order of the sweep; never given out again."""
    run_id: str
    """Name of its run directory: the digest in it is that of its resolved configuration."""
    axes: dict[str, Any]
    """What the sweep varies, by the names that the person typed: `{"global_batch": 128}`."""
    values: dict[str, Any] = field(default_factory=dict)
    """What differs from the base configuration, by dotted key."""
    base: str = ""
    """Digest of the base configuration, see `SweepDir.base`."""
    plan: str = ""
    """Digest of the plan, see `SweepDir.plans`."""
    best_of: int | None = None
    """Of a search: the trial whose values this one runs with all rows."""

    @property
    def words(self) -> str:
        """What varies, for people: `global_batch=32 seed=1`."""
        return words_of(self.axes)

    def plain(self) -> dict[str, Any]:
        """Return the line."""
        line = {
            "number": self.number,
            "run_id": self.run_id,
            "axes": self.axes,
            "values": self.values,
            "base": self.base,
            "plan": self.plan,
        }
        return line if self.best_of is None else {**line, "best_of": self.best_of}


def words_of(axes: Mapping[str, Any]) -> str:
    """Return what varies of a trial, for people: `global_batch=32 seed=1`."""
    return " ".join(f"{key}={value}" for key, value in axes.items())


class SweepDir:
    """Paths of one sweep. Nothing is created by naming it."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()

    def __repr__(self) -> str:
        return f"SweepDir({str(self.path)!r})"

    @property
    def name(self) -> str:
        """The sweep's name: that of its folder."""
        return self.path.name

    @property
    def run_id(self) -> str:
        """What Slurm's jobs are called: the sweep's name."""
        return self.name

    @property
    def cache(self) -> Path:
        """The cache of the runs folder."""
        return self.runs / CACHE_FOLDER

    @property
    def runs(self) -> Path:
        """The runs folder, which holds the trials' run directories."""
        return self.path.parents[1]

    @property
    def spec(self) -> Path:
        """Written by launch: the sweep as it was asked for."""
        return self.path / "sweep.yaml"

    @property
    def trials(self) -> Path:
        """Written by launch: a JSON line a trial of a grid."""
        return self.path / "trials.jsonl"

    @property
    def search(self) -> Path:
        """Written by launch: what a search tries, and the bases and plans of what it may try."""
        return self.path / "search.json"

    @property
    def asked(self) -> Path:
        """One file a trial of a search, made once by the worker that asked for it."""
        return self.path / "asked"

    @property
    def plans(self) -> Path:
        """Written by launch: the plans by their digest; many trials share one."""
        return self.path / "plans.json"

    @property
    def manifest(self) -> Path:
        """Written by launch: code, versions and data, as a run's."""
        return self.path / "manifest.json"

    def own_manifest(self, base: str) -> Path:
        """Written by launch: the manifest of a base whose rows or weights are other ones."""
        return self.path / f"manifest-{base}.json"

    def manifest_of(self, base: str) -> Path:
        """Return the manifest that trials of a base have."""
        own = self.own_manifest(base)
        return own if own.exists() else self.manifest

    @property
    def jobs(self) -> Path:
        """Written by launch: the arrays that were submitted, oldest first."""
        return self.path / "jobs.json"

    @property
    def request(self) -> Path:
        """Written by launch: what a person asked of the workers: `{"stop": true}` (`cancel`)."""
        return self.path / "request.json"

    @property
    def wanted(self) -> Path:
        """Written by launch: earlier jobs of runs that are over (`slurm.begun`)."""
        return self.path / "wanted.json"

    @property
    def claims(self) -> Path:
        """One file a trial that a worker took, written by that worker."""
        return self.path / "claims"

    def claim(self, number: int) -> Path:
        """Written by the worker that took a trial: its job, and when."""
        return self.claims / f"{number}.json"

    def prepared(self, base: str) -> Path:
        """Written by launch: which prepared inputs the trials of a base read."""
        return self.path / f"prepared-{base}.json"

    @property
    def submitit(self) -> Path:
        """Written by submitit: its pickles, scripts and the workers' output."""
        return self.path / "submitit"

    @property
    def journal(self) -> Path:
        """Written by Optuna: the study of a search."""
        return self.path / "study.journal"

    def base(self, digest: str) -> Path:
        """Written by launch: a configuration that trials differ from, by its digest."""
        return self.path / f"base-{digest}.yaml"

    def run(self, trial: Trial) -> RunDir:
        """Return the run directory of a trial; it is there once a worker took the trial."""
        return RunDir(self.runs / trial.run_id)


def sweeps_folder(runs: Path) -> Path:
    """Return the folder of a runs folder's sweeps."""
    return runs / SWEEPS_FOLDER


def list_sweeps(runs: Path) -> list[SweepDir]:
    """Return the sweeps of a runs folder, by name."""
    folder = sweeps_folder(runs)
    if not folder.is_dir():
        return []
    return [SweepDir(p) for p in sorted(folder.iterdir()) if p.is_dir()]


def read_trials(sweep: SweepDir) -> list[Trial]:
    """Return the trials of a sweep, in order; a line that a crash cut off is left out.

    Those of a grid are lines of one file. Those of a search are a file each: appends of several
    machines to one file of a network file system can overwrite each other.
    """
    found: dict[int, Trial] = {}
    for line in (*json_lines(sweep.trials), *_asked(sweep)):
        if isinstance(line.get("number"), int) and isinstance(line.get("run_id"), str):
            best_of = line.get("best_of")
            found[line["number"]] = Trial(
                line["number"],
                line["run_id"],
                line.get("axes") or {},
                line.get("values") or {},
                str(line.get("base", "")),
                str(line.get("plan", "")),
                best_of if isinstance(best_of, int) else None,
            )
    return [found[number] for number in sorted(found)]


def _asked(sweep: SweepDir) -> Iterator[dict[str, Any]]:
    try:
        names = os.listdir(sweep.asked)  # noqa: PTH208
    except OSError:
        return
    for name in names:
        if name.endswith(".json") and not name.startswith("."):
            value = read_json(sweep.asked / name)
            if isinstance(value, dict):
                yield value


def pruned_at(run: RunDir) -> float | None:
    """Return where a search ended a run that was not worth going on with, as a share of its steps.

    None where it did not: what a person ended, say.
    """
    request = read_json(run.request)
    share = request.get("pruned") if isinstance(request, dict) else None
    return float(share) if isinstance(share, (int, float)) else None
