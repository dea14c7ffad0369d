"""What a name on the command line means: a run or a sweep."""

from __future__ import annotations

from pathlib import Path

from training.config import UsageError, nearest
from training.rundir import RUN_ID, RunDir, find_run, list_runs
from training.sweepdir import SWEEPS_FOLDER, SweepDir, list_sweeps, sweeps_folder


def need_named(runs: Path, name: str, damaged: bool = False) -> RunDir | SweepDir:
    """Return the run or the sweep that a name or a path means.

    Args:
        runs: the runs folder.
        name: a run's id, a sweep's name, or the path of either's folder.
        damaged: a folder that lost its files is a run too.

    Raises:
        UsageError: there is none, or both; the message says what to type.
    """
    path = Path(name).expanduser().absolute()
    if path.parent.name == SWEEPS_FOLDER and path.is_dir():
        return SweepDir(path)
    plain = RUN_ID.match(name) is not None
    sweep = sweeps_folder(runs) / name
    run = find_run(runs, name)
    lost = run is None and plain and (runs / name).is_dir()
    if lost and damaged:
        run = RunDir(runs / name)
    if plain and sweep.is_dir():
        if run is None:
            return SweepDir(sweep)
        raise UsageError(f"'{name}' is a run and a sweep: use {run.path} or {sweep}")
    if run is not None:
        return run
    if lost:
        raise UsageError(
            f"{runs / name} is there but holds no run (neither config.yaml nor jobs.json): "
            "remove it"
        )
    known = [r.run_id for r in list_runs(runs) if find_run(runs, r.run_id)]
    known += [s.name for s in list_sweeps(runs)]
    hint = nearest(name, known) if known else "there are none yet"
    raise UsageError(f"no run or sweep '{name}' in {runs}: {hint}")
