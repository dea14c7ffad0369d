"""`glueline report`: what a run or a sweep found, as a page, as tables and as JSON."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # run as a file: the repository root takes the place of launch/
    _root = Path(__file__).resolve().parents[1]
    sys.path[:] = [str(_root), *(p for p in sys.path if Path(p).resolve() != _root / "launch")]

import click

from launch.flags import FlagCommand
from launch.main import run_command
from launch.options import runs_option
from training.config import UsageError
from training.rundir import RunDir, write_atomic, write_json
from training.sweepdir import SweepDir

if TYPE_CHECKING:
    from launch.reporting.tables import Table


@click.command("report", cls=FlagCommand)
@click.argument("name", metavar="NAME")
@runs_option
@click.option("--out", metavar="DIR", help="Write there.  [default: the run's or sweep's folder]")
@click.option(
    "--target",
    type=float,
    metavar="SCORE",
    help="Sweep: the score whose cost is told.  [default: the best mean less 0.01]",
)
@click.option(
    "--margin",
    type=click.FloatRange(min=0),
    metavar="SCORE",
    help="Sweep: how much worse the recommended batch may be.  [default: 0.01; of mse 5%]",
)
@click.option("--json", "as_json", is_flag=True, help="Print what report.json holds.")
def report(
    name: str,
    runs: str | None,
    out: str | None,
    target: float | None,
    margin: float | None,
    as_json: bool,
) -> int:
    """Report on a run or a sweep: report.html, report.json and CSV tables in its folder.

    NAME is a run's id, a sweep's name, or the folder of either.
    """
    from launch.named import need_named
    from launch.resolve import known_runs

    if target is not None and not math.isfinite(target):
        raise UsageError(f"--target {target}: write a score, such as 0.85")
    found = need_named(known_runs(runs, name), name, damaged=True)
    if isinstance(found, SweepDir):
        return report_sweep(found, out, target, margin, as_json)
    for flag, value in (("--target", target), ("--margin", margin)):
        if value is not None:
            raise UsageError(f"{flag} is for sweeps: {name} is a run")
    return report_run(found, out, as_json)


def report_sweep(
    sweep: SweepDir, out: str | None, target: float | None, margin: float | None, as_json: bool
) -> int:
    """Write and print the report of a sweep."""
    from launch.reporting.gather import gather_sweep
    from launch.reporting.plain import plain_sweep
    from launch.reporting.sweep_page import sweep_page
    from launch.reporting.tables import sweep_tables
    from launch.reporting.terminal import print_sweep

    seen, now = gather_sweep(sweep, target, margin), time.time()
    plain = plain_sweep(seen, now)
    page = write(out_folder(out, sweep.path), sweep_page(seen, now), plain, sweep_tables(seen))
    if as_json:
        print(json.dumps(plain, ensure_ascii=False))
    else:
        print_sweep(seen)
        print(f"report  {page}")
    return 0


def report_run(run: RunDir, out: str | None, as_json: bool) -> int:
    """Write and print the report of a run."""
    from launch.reporting.gather import gather_run
    from launch.reporting.plain import plain_run
    from launch.reporting.run_page import run_page
    from launch.reporting.tables import run_tables
    from launch.reporting.terminal import print_run

    seen, now = gather_run(run), time.time()
    plain = plain_run(seen, now)
    page = write(out_folder(out, run.path), run_page(seen, now), plain, run_tables(seen))
    if as_json:
        print(json.dumps(plain, ensure_ascii=False))
    else:
        print_run(seen)
        print(f"report  {page}")
    return 0


def out_folder(typed: str | None, own: Path) -> Path:
    """Return the folder that a report is written to, made if it was typed.

    Raises:
        UsageError: it cannot be made.
    """
    folder = Path(typed).expanduser().absolute() if typed else own
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {typed}: cannot be made: {error.strerror}") from None
    return folder


def write(folder: Path, page: str, plain: dict[str, Any], tables: Iterable[Table]) -> Path:
    """Write the files of a report; return the page's path.

    Raises:
        UsageError: the folder cannot be written.
    """
    path = folder / "report.html"
    try:
        for table in tables:
            write_atomic(folder / f"{table.name}.csv", table.csv(), durable=False)
        write_json(folder / "report.json", plain, durable=False)
        write_atomic(path, page, durable=False)
    except OSError as error:
        raise UsageError(f"cannot write {folder}: {error.strerror}: use --out DIR") from None
    return path


def main() -> None:
    """Run the command."""
    run_command(report)


if __name__ == "__main__":
    main()
