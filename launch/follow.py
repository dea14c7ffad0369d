"""Following a job to its end: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from launch.existing import command_line, run_arguments
from launch.jobs import last_job
from launch.mirror import LiveMirror
from launch.slurm_site import JobInfo, SlurmSilent
from launch.view import View, attempt_end, explain, headline, view
from training.rundir import RunDir, Snapshot, last_attempt, read_json, snapshot

ASK_SECONDS = 2.0
"""How often Slurm is asked, at most: many people follow many jobs."""
LINE_SECONDS = 10.0
"""How often a plain line is printed, at most, while only numbers change."""
SURE = 3
"""How many looks must agree that the job is gone: its files may arrive a moment later."""
DETACHED = CANCELLED = 130
"""A person stopped it: the following, or the run."""


Each = Callable[[Snapshot, "JobInfo | None"], None]


def follow(
    run: RunDir,
    interval: float = 1.0,
    console: Console | None = None,
    each: Each | None = None,
) -> int:
    """Follow a run's last job, and its requeues, until it is gone.

    Where the run's nodes cannot reach W&B, and this machine can, W&B is shown what it logs.

    Args:
        run: the run.
        interval: seconds between two looks at the run's files.
        console: where to print; standard output if none.
        each: called at every look with the run's files and what the scheduler says.

    Returns:
        0 if the run finished, 1 if not, 130 if a person stopped following (the job goes on) or
        cancelled the run.
    """
    console = console or Console(highlight=False)
    mirror = LiveMirror(run).start()
    status = DETACHED
    try:
        with _Display(console) as display:
            job = _watch(run, interval, display, each)
        status = _conclude(run, job, console)
    except KeyboardInterrupt:
        line = command_line("status", *run_arguments(run))
        console.print(f"the job goes on; to see how it is: {line}", markup=False, soft_wrap=True)
    finally:
        try:
            told = mirror.leave(ok=status != 1)
        except KeyboardInterrupt:  # once more: without W&B then
            told = None
        if told:
            console.print(told, markup=False, soft_wrap=True)
    return status


def _watch(
    run: RunDir, interval: float, display: _Display, each: Each | None = None
) -> JobInfo | None:
    """Show how the run is until its job is gone; return the last word of the scheduler."""
    asked, gone = float("-inf"), 0
    job: JobInfo | None = None
    pace = Pace()
    while True:
        now = time.monotonic()
        files = snapshot(run)
        note = ""
        if now - asked >= (ASK_SECONDS if job is None or job.state != "gone" else interval):
            asked = now
            try:
                job = last_job(files)
            except SlurmSilent as error:
                note = f"{error}; asking again"
            gone = gone + 1 if is_over(files, job) and not note else 0
        if each is not None:
            each(files, job)
        seen = view(run, job, files)
        display.attempts(run, files)
        goes_on = seen.state == "running" and seen.phase == "training"
        left = pace.left(seen, now) if goes_on else None
        display.show(seen, headline(seen) + time_left(left) + (f"  ({note})" if note else ""))
        if gone >= SURE:
            return job
        time.sleep(interval)


def is_over(files: Snapshot, job: JobInfo | None) -> bool:
    """Return whether a job has ended: by its scheduler, else by its files."""
    if job is not None:
        return job.state == "gone"
    ended = [bool(node.get("ended")) for node in last_attempt(files)]
    return files.finished or (bool(ended) and all(ended))


class Pace:
    """Steps a second over the last minutes, within one attempt."""

    def __init__(self, keep: int = 120) -> None:
        self.points: deque[tuple[float, int]] = deque(maxlen=keep)

    def left(self, seen: View, now: float) -> float | None:
        """Return the seconds to the last step, None while unknown."""
        if seen.step is None or not seen.total_steps:
            return None
        if self.points and seen.step < self.points[-1][1]:
            self.points.clear()  # a new attempt
        if not self.points or seen.step > self.points[-1][1]:
            self.points.append((now, seen.step))
        (begin, first), (end, last) = self.points[0], self.points[-1]
        if last == first or end <= begin:
            return None
        return max(0.0, (seen.total_steps - last) * (end - begin) / (last - first) - (now - end))


def time_left(seconds: float | None) -> str:
    """Return a duration for the end of a line; empty if unknown."""
    if seconds is None:
        return ""
    whole = int(seconds)
    return f"  {whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d} left"


class _Display:
    """A line that changes in place on a terminal; lines, few of them, elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live = Live(console=console, transient=True, auto_refresh=False)
        self.shown: tuple[object, ...] = ()
        self.text = ""
        self.moment = float("-inf")
        self.ended: int | None = None
        """Attempts that had ended at the last look; None before the first."""

    def __enter__(self) -> _Display:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self.console.is_terminal:
            self.live.stop()

    def attempts(self, run: RunDir, files: Snapshot) -> None:
        """Say how attempts ended that had another one after them since the last look."""
        numbers = sorted(files.nodes)[:-1]
        for number in numbers[self.ended :] if self.ended is not None else ():
            text = f"attempt {number} {attempt_end(run, files, number)}"
            self.console.print(text, markup=False, soft_wrap=True)
        self.ended = len(numbers)

    def show(self, seen: View, line: str) -> None:
        """Show where the run is."""
        if self.console.is_terminal:
            text = Text(f"{seen.run_id}  {line}", no_wrap=True, overflow="ellipsis")
            self.live.update(text, refresh=True)
            return
        now = time.monotonic()
        what = (seen.state, seen.reason, seen.attempt, seen.phase)
        due = now - self.moment >= LINE_SECONDS and line != self.text
        if what != self.shown or due:
            self.shown, self.text, self.moment = what, line, now
            self.console.print(line, markup=False, soft_wrap=True)


def _conclude(run: RunDir, job: JobInfo | None, console: Console) -> int:
    files = snapshot(run)
    seen = view(run, job, files)

    def say(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    if seen.state == "finished":
        console.print(metrics_table(read_json(run.results) or {}))
        say(f"results  {run.results}")
        if seen.model:
            say(f"model    {seen.model}")
        return 0
    if files.stopped:
        _, *where = run_arguments(run)
        say(f"run {run.run_id} was cancelled: {headline(seen)}")
        say(f"continue it with  {command_line('submit', '--resume', run.run_id, *where)}")
        return CANCELLED
    if seen.state == "interrupted":
        _, *where = run_arguments(run)
        say(f"run {run.run_id} was interrupted: {headline(seen)}")
        say(f"continue it with  {command_line('submit', '--resume', run.run_id, *where)}")
        return 1
    cause, log = explain(run, files, job)
    say(f"run {run.run_id} failed: {cause}")
    if log:
        say(f"log      {log}")
    return 1


def metrics_table(results: dict[str, object]) -> Table:
    """Return the metrics of `results.json`, a row a split."""
    metrics = results.get("metrics")
    splits = metrics if isinstance(metrics, dict) else {}
    names = list(dict.fromkeys(name for values in splits.values() for name in values))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("split")
    for name in names:
        table.add_column(name, justify="right")
    for split, values in splits.items():
        cells = [values.get(name) for name in names]
        table.add_row(split, *(f"{v:.4f}" if isinstance(v, (int, float)) else "" for v in cells))
    return table
