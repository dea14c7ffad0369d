"""`glueline sync`: show W&B what runs logged that could not reach it from their nodes."""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # run as a file: the repository root takes the place of launch/
    _root = Path(__file__).resolve().parents[1]
    sys.path[:] = [str(_root), *(p for p in sys.path if Path(p).resolve() != _root / "launch")]

import click

from launch.flags import FlagCommand
from launch.main import run_command
from launch.options import runs_option
from training.config import UsageError


@click.command("sync", cls=FlagCommand)
@click.argument("run_names", metavar="RUN...", nargs=-1)
@runs_option
@click.option("--all", "every", is_flag=True, help="All runs that could not reach W&B.")
def sync(run_names: tuple[str, ...], runs: str | None, every: bool) -> int:
    """Send runs to W&B that were tracked offline; what W&B has already is not sent again."""
    from launch.existing import need_run
    from launch.mirror import Busy, Unreachable, check_tracked, send, tracked_offline
    from launch.resolve import known_runs
    from training.rundir import list_runs

    folder = known_runs(runs, *run_names)
    if every == bool(run_names):
        raise UsageError("which runs? name them, or use --all")
    chosen = [need_run(folder, name) for name in run_names]
    if every:
        chosen = [r for r in list_runs(folder) if tracked_offline(r) and r.metrics.is_file()]
        if not chosen:
            print(f"no run in {folder} was tracked offline")
    for run in chosen:
        check_tracked(run)
    for run in chosen:
        try:
            name, count = send(run)
        except Unreachable as error:
            raise UsageError(f"W&B cannot be reached from here: {error} (wandb login)") from None
        except Busy:
            print(f"run {run.run_id}: another process sends it already")
            continue
        except Exception as error:  # wandb's own, of any kind: not the person's mistake
            said = " ".join(str(error).split())
            print(f"error: run {run.run_id}: W&B: {said}", file=sys.stderr)
            return 1
        print(f"run {run.run_id}: {count} lines, W&B run {name}")
    return 0


def main() -> None:
    """Run the command."""
    run_command(sync)


if __name__ == "__main__":
    main()
