"""`glueline save`: have a running run write a checkpoint now."""

from __future__ import annotations

import sys
import time
from pathlib import Path

if not __package__:  # run as a file: the repository root takes the place of launch/
    _root = Path(__file__).resolve().parents[1]
    sys.path[:] = [str(_root), *(p for p in sys.path if Path(p).resolve() != _root / "launch")]

import click

from launch.flags import FlagCommand
from launch.main import run_command
from launch.options import runs_option
from training.config import UsageError, load_config
from training.rundir import read_json, write_json


@click.command("save", cls=FlagCommand)
@click.argument("run_name", metavar="RUN")
@runs_option
def save(run_name: str, runs: str | None) -> int:
    """Have a running run write a checkpoint at its next step; it goes on meanwhile."""
    from launch.existing import command_line, current_state, need_run, run_arguments
    from launch.resolve import known_runs

    run = need_run(known_runs(runs, run_name), run_name)
    state = current_state(run)
    if state != "running":
        raise UsageError(f"run {run.run_id} is not running: it is {state}")
    if load_config(run.config).engine.peer != "none":
        raise UsageError(f"run {run.run_id} is a peer's (--peer): it writes no checkpoints")
    request = read_json(run.request)
    known = request if isinstance(request, dict) else {}
    write_json(run.request, known | {"checkpoint": time.time()})
    line = command_line("status", *run_arguments(run))
    print(f"run {run.run_id}: asked for a checkpoint; {line} shows the last one")
    return 0


def main() -> None:
    """Run the command."""
    run_command(save)


if __name__ == "__main__":
    main()
