"""`glueline list`: the runs of a runs folder that fit some filters."""

from __future__ import annotations

import json
import re
import sys
import time
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # run as a file: the repository root takes the place of launch/
    _root = Path(__file__).resolve().parents[1]
    sys.path[:] = [str(_root), *(p for p in sys.path if Path(p).resolve() != _root / "launch")]

import click

from launch.flags import FlagCommand
from launch.main import run_command
from launch.options import runs_option
from training.config import UsageError, nearest
from training.rundir import RunDir

if TYPE_CHECKING:
    from launch.view import View

STATES = ("created", "queued", "running", "finished", "failed", "interrupted", "damaged")
SHOWN = ("task.name", "model.name", "batch.global_batch", "optim.lr", "train.seed")
"""Of the configuration, in the table."""
UNITS = {"m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_SPAN = re.compile(r"(\d+(?:\.\d+)?)([mhdw])")


@click.command("list", cls=FlagCommand)
@click.argument("pattern", metavar="[PATTERN]", required=False)
@runs_option
@click.option("--state", metavar="S[,S]", help=f"Of these states: {', '.join(STATES)}.")
@click.option("--task", metavar="NAME", help="Of this task; * stands for anything.")
@click.option("--model", metavar="NAME", help="Of this model; * stands for anything.")
@click.option(
    "--where",
    metavar="KEY=VALUE",
    multiple=True,
    help="With this in the configuration: global_batch=32, optim.lr=1e-4; may be given again.",
)
@click.option("--sweep", metavar="NAME", help="Of this sweep.")
@click.option("--since", metavar="SPAN", help="Submitted within this time: 90m, 12h, 3d, 2w.")
@click.option(
    "--sort",
    type=click.Choice(["newest", "oldest", "metric", "name"]),
    default="newest",
    show_default=True,
)
@click.option("--limit", metavar="N", type=click.IntRange(1), help="No more than N.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list, with configurations.")
def list_(
    pattern: str | None,
    runs: str | None,
    state: str | None,
    task: str | None,
    model: str | None,
    where: tuple[str, ...],
    sweep: str | None,
    since: str | None,
    sort: str,
    limit: int | None,
    as_json: bool,
) -> int:
    """List runs, those of sweeps too, by what they are: task, model, state, any setting.

    PATTERN is for the run's name: 'mnli-*'.
    """
    from launch.resolve import known_runs
    from launch.status import look
    from training.rundir import list_runs

    wanted = [
        *([("task.name", task)] if task else []),
        *([("model.name", model)] if model else []),
        *map(condition, where),
    ]
    states = _states(state)
    begin = time.time() - span(since) if since else 0.0
    folder = known_runs(runs)
    chosen = [r for r in list_runs(folder) if not pattern or fnmatchcase(r.run_id, pattern)]
    if sweep is not None:
        trials = _trials(folder, sweep)
        chosen = [run for run in chosen if run.run_id in trials]
    submitted = {run.run_id: _submitted(run) for run in chosen}
    chosen = [run for run in chosen if submitted[run.run_id] >= begin]
    configs = {run.run_id: _config(run) for run in chosen}
    chosen = [
        run
        for run in chosen
        if all(fits(_get(configs[run.run_id], key), value) for key, value in wanted)
    ]
    views = [seen for seen in look(chosen) if not states or seen.state in states]
    views = ordered(views, submitted, sort)[:limit]
    if as_json:
        found = [
            {**v.plain(), "submitted": submitted[v.run_id], "config": configs[v.run_id]}
            for v in views
        ]
        print(json.dumps(found, ensure_ascii=False))
    elif views:
        _print(views, submitted, configs)
    else:
        print(f"no such runs in {folder}")
    return 0


def condition(text: str) -> tuple[str, str]:
    """Return the dotted key and the value of `KEY=VALUE`.

    Raises:
        UsageError: there is no such key, or no value.
    """
    from launch.grid import key_of

    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise UsageError(f"--where '{text}': write KEY=VALUE, global_batch=32 say")
    key = key_of(name.strip(), "--where", "key")
    return f"{key}.name" if key in ("task", "model") else key, value.strip()


def fits(value: Any, wanted: str) -> bool:
    """Return whether a configuration's value is the one that was typed: 1e-4 is 0.0001."""
    try:
        if not isinstance(value, bool) and float(value) == float(wanted):
            return True
    except (TypeError, ValueError):
        pass
    plain = {None: "none", True: "true", False: "false"}
    text = plain[value] if value is None or isinstance(value, bool) else str(value)
    return fnmatchcase(text.lower(), wanted.lower())


def span(text: str) -> float:
    """Return the seconds of `90m`, `12h`, `3d`, `2w`.

    Raises:
        UsageError: it is none of these.
    """
    match = _SPAN.fullmatch(text.strip().lower())
    if not match:
        raise UsageError(f"--since '{text}' is no span of time: write 90m, 12h, 3d or 2w")
    return float(match[1]) * UNITS[match[2]]


def ordered(views: list[View], submitted: dict[str, float], by: str) -> list[View]:
    """Return views in an order; by metric: the best first, those without a score last."""
    if by == "name":
        return sorted(views, key=lambda v: v.run_id)
    if by == "metric":
        from launch.sweep_view import goodness

        return sorted(views, key=goodness, reverse=True)
    return sorted(views, key=lambda v: submitted[v.run_id], reverse=by == "newest")


def _states(text: str | None) -> set[str]:
    found = {word.strip() for word in (text or "").split(",") if word.strip()}
    for word in sorted(found - set(STATES)):
        raise UsageError(f"--state '{word}': {nearest(word, STATES)}")
    return found


def _trials(folder: Path, name: str) -> set[str]:
    from launch.named import need_named
    from training.sweepdir import SweepDir, read_trials

    sweep = need_named(folder, name)
    if not isinstance(sweep, SweepDir):
        raise UsageError(f"'{name}' is a run, no sweep: leave --sweep out")
    return {trial.run_id for trial in read_trials(sweep)}


def _submitted(run: RunDir) -> float:
    """Return when a run was submitted first, epoch seconds; when its folder was made if unknown."""
    from training.rundir import read_json

    jobs = (read_json(run.jobs) or {}).get("jobs") or [{}]
    moment = jobs[0].get("time") if isinstance(jobs[0], dict) else None
    try:
        return float(moment) if moment else run.path.stat().st_mtime
    except OSError:
        return 0.0


def _config(run: RunDir) -> dict[str, Any]:
    """Return a run's configuration as it is written; empty where it cannot be read."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        found = yaml.load(run.config.read_text(), Loader=loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def _get(config: Any, key: str) -> Any:
    """Return the value of a dotted key; None where a run of another version has none."""
    for name in key.split("."):
        config = config.get(name) if isinstance(config, dict) else None
    return config


def _print(
    views: list[View], submitted: dict[str, float], configs: dict[str, dict[str, Any]]
) -> None:
    from launch.status import print_rows
    from launch.view import metric_text, step_text

    rows = [["run", "state", "task", "model", "batch", "lr", "seed", "step", "metric", "submitted"]]
    for seen in views:
        settings = [_get(configs[seen.run_id], key) for key in SHOWN]
        moment = time.strftime("%Y-%m-%d %H:%M", time.localtime(submitted[seen.run_id]))
        told = ["" if value is None else f"{value}" for value in settings]
        rows.append([seen.run_id, seen.state, *told, step_text(seen), metric_text(seen), moment])
    print_rows(rows, 1)


def main() -> None:
    """Run the command."""
    run_command(list_)


if __name__ == "__main__":
    main()
