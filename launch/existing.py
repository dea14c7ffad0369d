"""A run that is there already: what typing its line again answers, and what may be resumed."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from training.config import RunConfig, UsageError, nearest, place_keys
from training.config.schema import get_dotted, leaves, to_plain
from training.rundir import (
    RUN_ID,
    RunDir,
    State,
    find_run,
    list_runs,
    read_json,
    run_state,
    snapshot,
)
from training.sweepdir import sweeps_folder

FETCHED = ("task.path", "model.path")
"""Keys that are set once weights and rows were fetched: no part of what was asked for."""


def command_line(name: str, *args: str) -> str:
    """Return a line to type for one of our commands, in the form that this one was typed in."""
    typed = Path(sys.argv[0])
    if typed.suffix == ".py" and typed.parent.name == "launch":
        words = ["python", str(typed.with_name(f"{name}.py"))]
    else:
        words = ["glueline", name]
    return shlex.join([*words, *args])


def run_arguments(run: RunDir) -> list[str]:
    """Return the arguments that name a run: its id, and its runs folder if that is not `./runs`."""
    if run.path.parent == Path("runs").absolute():
        return [run.run_id]
    return [run.run_id, "--runs", str(run.path.parent)]


def current_state(run: RunDir) -> State:
    """Return the state of a run from its files and from what the scheduler says of its job."""
    from .status import job_state

    files = snapshot(run)
    return run_state(files, job_state(files))


def need_run(runs: Path, name: str) -> RunDir:
    """Return the run that an id or a path means.

    Raises:
        UsageError: there is none; the nearest id is named.
    """
    run = find_run(runs, name)
    if run is None:
        if RUN_ID.match(name) and (runs / name).is_dir():
            raise UsageError(
                f"{runs / name} is there but holds no run (neither config.yaml nor jobs.json): "
                "remove it"
            )
        if RUN_ID.match(name) and (sweeps_folder(runs) / name).is_dir():
            raise UsageError(f"'{name}' is a sweep, not a run: name one of its trials")
        known = [r.run_id for r in list_runs(runs) if find_run(runs, r.run_id)]
        hint = nearest(name, known) if known else "there are none yet"
        raise UsageError(f"no run '{name}' in {runs}: {hint}")
    return run


def answer(run: RunDir, state: State) -> str:
    """Return what to say of a run that is not submitted again: finished, queued or running.

    Raises:
        UsageError: it failed, was interrupted or is damaged; the message says what to type.
    """
    if state == "finished":
        return f"run {run.run_id} is finished: its results are in {run.results}"
    if state in ("queued", "running"):
        line = command_line("status", *run_arguments(run))
        return f"run {run.run_id} is {state}: follow it with {line}"
    if state == "damaged":
        raise UsageError(
            f"{run.path} is there but holds no run (config.yaml or jobs.json is missing or cut "
            "off): remove it, or use another --name or --runs"
        )
    how = {"interrupted": "was interrupted", "failed": "failed", "created": "was not submitted"}
    _, *where = run_arguments(run)
    line = command_line("submit", "--resume", run.run_id, *where)
    raise UsageError(f"run {run.run_id} {how[state]}: continue it with {line}")


def check_same(run: RunDir, config: RunConfig) -> None:
    """Raise `UsageError` if a run of this name was made with another configuration.

    Where and how long it computes does not count (`place_keys`), nor where weights and rows were
    fetched to. A run that was resumed on another shape is still the one that was first asked for.
    """
    if not run.config.is_file():
        return
    from .resume import load_run

    there = load_run(run)
    earlier: dict[str, list[Any]] = {}
    for job in snapshot(run).jobs:
        for key, (before, _) in (job.get("changed") or {}).items():
            earlier.setdefault(key, []).append(before)
    for key, (old, new) in differences(there, config).items():
        if key not in place_keys() and new not in earlier.get(key, []):
            raise UsageError(
                f"run {run.run_id} exists with another configuration ({key} is {old!r} there, "
                f"{new!r} here): choose another --name"
            )


def placed_otherwise(run: RunDir, config: RunConfig, typed: Iterable[str]) -> str | None:
    """Return in words what was typed now that is no part of what the run is, and is other there.

    Args:
        run: the run, made before.
        config: what is asked for now.
        typed: the keys that a person set.
    """
    if not run.config.is_file():
        return None
    from .resume import load_run

    named = place_keys().intersection(typed)
    other = {k: v for k, v in differences(load_run(run), config).items() if k in named}
    if not other:
        return None
    words = ", ".join(f"{key} {old!r}, not {new!r}" for key, (old, new) in other.items())
    return f"run {run.run_id} was made with {words}: for a run of its own, add --name NAME"


def differences(old: RunConfig, new: RunConfig) -> dict[str, list[Any]]:
    """Return old and new value, ready for JSON, of every key that differs.

    Where weights and rows were fetched to does not count.
    """
    found = {}
    for key in leaves(RunConfig):
        before, after = to_plain(get_dotted(old, key)), to_plain(get_dotted(new, key))
        if before != after and not (key in FETCHED and after is None):
            found[key] = [before, after]
    return found


def check_data(run: RunDir, config: RunConfig) -> None:
    """Raise `UsageError` if a file of the rows was changed since the run was made."""
    if path := changed_rows(run, config, {}):
        raise UsageError(
            f"run {run.run_id} was made when {path} held other rows: "
            "choose a --name to train on what it holds now"
        )


def changed_rows(run: RunDir, config: RunConfig, known: dict[str, Any]) -> str | None:
    """Return a file of a run's rows that was changed since the run was made, if there is one.

    Args:
        run: the run; one without a manifest has none.
        config: where its rows are now.
        known: fingerprints by path, filled here: of many runs each file is read once.
    """
    from launch.manifest import data_files, fingerprint

    there = (read_json(run.manifest) or {}).get("data") or []
    folders = repr((config.task.path, config.task.subset, config.task.files))
    if folders not in known:
        known[folders] = {str(p): p for p in data_files(config)}
    for entry in there:
        if (path := known[folders].get(entry["path"])) is None:
            continue
        if entry["path"] not in known:
            known[entry["path"]] = fingerprint([path])[0]
        now = known[entry["path"]]
        if (now["bytes"], now["sha256"]) != (entry["bytes"], entry["sha256"]):
            return entry["path"]
    return None


def confirmed(question: str) -> bool:
    """Return whether a person says yes to a question.

    Raises:
        UsageError: there is nobody to ask: standard input is at its end.
    """
    import click

    try:
        return click.confirm(question, err=True)
    except click.Abort:
        if sys.stdin is not None and sys.stdin.isatty():
            raise  # Ctrl-C
        print(file=sys.stderr)
        raise UsageError("there is nobody to ask here: add --yes") from None
