"""`glueline logs`: what a run's processes printed."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if not __package__:  # run as a file: the repository root takes the place of launch/
    _root = Path(__file__).resolve().parents[1]
    sys.path[:] = [str(_root), *(p for p in sys.path if Path(p).resolve() != _root / "launch")]

import click

from launch.flags import FlagCommand
from launch.main import run_command
from launch.options import runs_option
from training.config import UsageError
from training.rundir import RunDir, Snapshot, earliest_cause, read_json, snapshot

if TYPE_CHECKING:
    from launch.view import View

LOOK_SECONDS = 0.5
"""How often a followed log is looked at."""
STATE_SECONDS = 5.0
"""How often it is asked whether the run goes on."""
DETACHED = 130


@dataclass(frozen=True)
class Wanted:
    """Which output is to be shown."""

    rank: int | None = None
    node: int | None = None
    attempt: int | None = None
    every: bool = False
    agent: bool = False


@click.command("logs", cls=FlagCommand)
@click.argument("run_name", metavar="RUN")
@runs_option
@click.option("--rank", type=click.IntRange(min=0), metavar="R", help="Of this rank.  [default: 0]")
@click.option("--node", type=click.IntRange(min=0), metavar="K", help="Of this node's first rank.")
@click.option(
    "--attempt", type=click.IntRange(min=0), metavar="N", help="Of this attempt.  [default: newest]"
)
@click.option("--all", "every", is_flag=True, help="Of all ranks, one after the other.")
@click.option("--agent", is_flag=True, help="What torchrun and the job itself printed, by node.")
@click.option(
    "--errors",
    "--first-error",
    "errors",
    is_flag=True,
    help="The first cause of a failure, with its traceback.",
)
@click.option("--lines", type=click.IntRange(min=1), metavar="N", help="Only the last N lines.")
@click.option("--follow", "-f", is_flag=True, help="Go on until the run ends; Ctrl-C stops it.")
def logs(
    run_name: str,
    runs: str | None,
    rank: int | None,
    node: int | None,
    attempt: int | None,
    every: bool,
    agent: bool,
    errors: bool,
    lines: int | None,
    follow: bool,
) -> int:
    """Print what a run's ranks printed: rank 0 of the newest attempt, if nothing else is asked."""
    from launch.existing import need_run
    from launch.resolve import known_runs

    if errors and (follow or every or agent or rank is not None or node is not None):
        raise UsageError("--errors is used alone, or with --attempt")
    if every and (rank is not None or node is not None):
        raise UsageError("--all shows every rank: leave out --rank and --node")
    if follow and every:
        raise UsageError("--follow follows one log: leave out --all")
    if agent and rank is not None:
        raise UsageError("--agent is of a node, not of a rank: use --node")
    run = need_run(known_runs(runs, run_name), run_name)
    if errors:
        return show_errors(run, attempt)
    wanted = Wanted(rank, node, attempt, every, agent)
    if follow:
        return follow_log(run, wanted, lines)
    found = files_of(run, wanted)
    if not found:
        return explain_nothing(run, wanted, lines)
    for path in found:
        if len(found) > 1:
            print(f"==> {path} <==")
        show(path, lines)
    return 0


def files_of(run: RunDir, wanted: Wanted) -> list[Path]:
    """Return the logs that are meant and there, ranks in their order.

    Raises:
        UsageError: the attempt has logs, but not of that rank or node.
    """
    number = wanted.attempt
    if number is None:
        number = max(run.attempt_numbers(), default=None)
    if number is None:
        return []
    if wanted.agent:
        return agent_files(run, number, wanted.node)
    ranks = rank_files(run, number)
    if not ranks or wanted.every:
        return [path for _, _, path in ranks]
    if wanted.rank is not None:
        ranks = [r for r in ranks if r[1] == wanted.rank]
        what = f"rank {wanted.rank}"
    elif wanted.node is not None:
        ranks = [r for r in ranks if r[0] == wanted.node]
        what = f"node {wanted.node}"
    else:
        what = "rank 0"
    if wanted.rank is not None and wanted.node is not None:
        ranks = [r for r in ranks if r[0] == wanted.node]
        what += f" on node {wanted.node}"
    if not ranks:
        there = sorted({(n, r) for n, r, _ in rank_files(run, number)})
        shown = ", ".join(f"{r} (node {n})" for n, r in there[:16])
        raise UsageError(f"attempt {number} has no log of {what}: there are those of rank {shown}")
    return [ranks[0][2]]


def rank_files(run: RunDir, attempt: int) -> list[tuple[int, int, Path]]:
    """Return node, rank and file of every rank's log of an attempt, by rank."""
    found = []
    for path in run.logs(attempt).glob("*-*.log"):
        node, _, rank = path.stem.partition("-")
        if node.isdigit() and rank.isdigit():
            found.append((int(node), int(rank), path))
    return sorted(found, key=lambda entry: (entry[1], entry[0]))


def agent_files(run: RunDir, attempt: int, node: int | None) -> list[Path]:
    """Return what torchrun and the job printed on a node (on all, if none is named)."""
    found = []
    for path in sorted(run.logs(attempt).glob("*-torchrun.log"), key=_node_of):
        if node is None or _node_of(path) == node:
            found.append(path)
    files = snapshot(run)
    records = files.nodes.get(attempt, [])
    jobs = {str(r.get("job_id")) for r in records} or {
        str(job["job_id"]) for job in files.jobs[-1:]
    }
    for job in sorted(jobs):
        for path in sorted(run.submitit.glob(f"{job}_*_log.out"), key=_task_of):
            if node is None or _task_of(path) == node:
                found.append(path)
    return found


def _node_of(path: Path) -> int:
    head = path.name.partition("-")[0]
    return int(head) if head.isdigit() else -1


def _task_of(path: Path) -> int:
    task = path.name.removesuffix("_log.out").rpartition("_")[2]
    return int(task) if task.isdigit() else -1


def show(path: Path, lines: int | None) -> None:
    """Print a log, or its last lines.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            if lines is not None:
                file.seek(start_of_last(file, lines))
            while block := file.read(1 << 20):
                _write(block)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None


def start_of_last(source: BinaryIO, lines: int) -> int:
    """Return the position at which the last lines of a file begin, reading it from behind."""
    place = source.seek(0, 2)
    breaks, first = 0, True
    while place > 0:
        size = min(1 << 16, place)
        place -= size
        source.seek(place)
        block = source.read(size)
        end = len(block)
        if first and block.endswith(b"\n"):
            end -= 1  # the last line's own
        first = False
        while (at := block.rfind(b"\n", 0, end)) >= 0:
            breaks += 1
            if breaks == lines:
                return place + at + 1
            end = at
    return 0


def _write(block: bytes) -> None:
    sys.stdout.flush()
    sys.stdout.buffer.write(block)
    sys.stdout.buffer.flush()


def explain_nothing(run: RunDir, wanted: Wanted, lines: int | None) -> int:
    """Say why there is no log, and how to look; return the exit status."""
    numbers = run.attempt_numbers()
    if wanted.attempt is not None and wanted.attempt not in numbers:
        there = ", ".join(map(str, numbers)) or "none yet"
        raise UsageError(f"run {run.run_id} has no attempt {wanted.attempt}: there are {there}")
    seen, files = _seen(run)
    said, output = why_no_log(run, seen, files)
    print(said, file=sys.stderr, flush=True)
    if output is not None and not wanted.agent:
        show(output, lines)
    return 0 if seen.state in ("queued", "running", "created") else 1


def why_no_log(run: RunDir, seen: View, files: Snapshot) -> tuple[str, Path | None]:
    """Return one line why no rank has printed anything, and the job's output if it tells more."""
    from launch.existing import command_line, run_arguments
    from launch.jobs import job_output

    look = command_line("status", *run_arguments(run))
    name = f"run {run.run_id}"
    if seen.state == "queued":
        why = f" ({seen.reason})" if seen.reason else ""
        return f"{name} has not started: job {seen.job_id} is queued{why}; to look: {look}", None
    if seen.state == "running":
        return f"{name} is starting: its ranks have printed nothing yet; to look: {look}", None
    if seen.state == "created":
        return f"{name} was not submitted; to look: {look}", None
    if seen.state == "damaged":
        return f"{name} is damaged: its config.yaml is gone; to look: {look}", None
    output = job_output(run, files)
    told = f"; its job's output, {output}:" if output else f"; to look: {look}"
    return f"{name} left no log of its ranks: it is {seen.state}{told}", output


def _seen(run: RunDir) -> tuple[View, Snapshot]:
    from launch.status import look

    (seen,) = look([run], history=True)
    return seen, snapshot(run)


def show_errors(run: RunDir, attempt: int | None) -> int:
    """Print the first cause of an attempt's failure and its traceback; 1 if there was one.

    Without an attempt: of the last one that failed, and in a line each how earlier ones did.
    """
    from launch.view import cause_text, explain

    seen, files = _seen(run)
    failed = [n for n in files.nodes if earliest_cause(files.nodes[n], n)]
    number = max(failed or files.nodes, default=None) if attempt is None else attempt
    if attempt is None and failed and seen.state == "failed" and number != max(files.nodes):
        # The last one was ended from outside: what failed before is not the cause.
        print(f"attempt {max(files.nodes)} failed: {seen.cause}")
        for line in _earlier(files, max(files.nodes), {}):
            print(line)
        return 1
    if number is None or number not in files.nodes:
        if attempt is not None:
            return explain_nothing(run, Wanted(attempt=attempt), None)
        if seen.state == "failed":
            text, output = explain(run, files, None)
            print(f"the run failed: {text}")
            if output:
                print(f"log {output}")
            return 1
        print(why_no_log(run, seen, files)[0], file=sys.stderr)
        return 0
    cause = earliest_cause(files.nodes[number], number)
    if cause is None:
        print(f"run {run.run_id}: attempt {number} left no error", file=sys.stderr)
        return 0
    print(f"attempt {number} failed: {cause_text(cause)}")
    log = cause.get("log")
    if isinstance(log, str):
        report = read_json((run.path / log).with_suffix(".error.json"))
        text = report.get("traceback") if isinstance(report, dict) else None
        print(str(text).rstrip() if text else f"its last lines, of {run.path / log}:", flush=True)
        if not text and (run.path / log).is_file():
            show(run.path / log, 30)
        if text:
            print(f"log {run.path / log}")
        if others := _ranks_with(run, number, cause):
            plural = "s" if len(others) > 1 else ""
            print(f"the same on {len(others)} other rank{plural}: {', '.join(map(str, others))}")
    if attempt is None:
        for line in _earlier(files, number, cause):
            print(line)
    return 0 if attempt is None and seen.state == "finished" else 1


def _ranks_with(run: RunDir, attempt: int, cause: dict[str, Any]) -> list[int]:
    """Return the other ranks of an attempt that raised the same."""
    found = []
    for path in run.logs(attempt).glob("*.error.json"):
        report = read_json(path)
        rank = path.name.partition(".")[0].rpartition("-")[2]
        if isinstance(report, dict) and rank.isdigit() and int(rank) != cause.get("rank"):
            found += [int(rank)] if _same(report, cause) else []
    return sorted(found)


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(one.get(key) == other.get(key) for key in ("kind", "message"))


def _earlier(files: Snapshot, last: int, cause: dict[str, Any]) -> list[str]:
    """Return a line for each kind of failure of the attempts before, those that repeat as one."""
    from launch.view import cause_text

    alike: dict[str, list[int]] = {}
    for number in sorted(n for n in files.nodes if n < last):
        found = earliest_cause(files.nodes[number], number)
        if found is not None:
            text = "in the same way" if _same(found, cause) else f": {cause_text(found)}"
            alike.setdefault(text, []).append(number)
    return [
        f"attempt{'s' if len(n) > 1 else ''} {', '.join(map(str, n))} failed"
        + (text if text.startswith(":") else f" {text}")
        for text, n in alike.items()
    ]


def follow_log(run: RunDir, wanted: Wanted, lines: int | None) -> int:
    """Print a log as it grows, through requeues, until the run ends.

    Returns:
        0 if the run finished, 1 if not, 130 if the person stopped following.
    """
    shown: Path | None = None
    position = 0
    asked = float("-inf")
    said = ""
    state = "running"
    try:
        while True:
            now = time.monotonic()
            if now - asked >= STATE_SECONDS:
                asked = now
                seen, files = _seen(run)
                state = seen.state
                text = why_no_log(run, seen, files)[0]
                if shown is None and text != said and not _newest(run, wanted):
                    said = text
                    print(text, file=sys.stderr, flush=True)
            path = _newest(run, wanted)
            if path is not None and path != shown:
                if shown is not None:
                    print(f"==> {path} <==", flush=True)
                shown, position = path, 0
                if lines is not None:
                    with path.open("rb") as file:
                        position = start_of_last(file, lines)
            grew = False
            if shown is not None:
                for block in _from(shown, position):
                    _write(block)
                    position += len(block)
                    grew = True
            if state not in ("queued", "running") and not grew:
                return 0 if state == "finished" else 1
            time.sleep(LOOK_SECONDS)
    except KeyboardInterrupt:
        return DETACHED


def _newest(run: RunDir, wanted: Wanted) -> Path | None:
    try:
        found = files_of(run, wanted)
    except UsageError:
        return None  # that rank has not begun
    return found[0] if found else None


def _from(path: Path, position: int) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            file.seek(position)
            while block := file.read(1 << 20):
                yield block
    except OSError:
        return


def main() -> None:
    """Run the command."""
    try:
        run_command(logs)
    except BrokenPipeError:  # `glueline logs RUN | head`
        sys.stderr.close()
        sys.exit(0)


if __name__ == "__main__":
    main()
