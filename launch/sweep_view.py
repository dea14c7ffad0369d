"""What `status` says of a sweep: its trials' states, the best one, and what to type next."""

from __future__ import annotations

import contextlib
import io
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.existing import command_line
from launch.reporting.records import higher_is_better
from launch.sweeping import alive_jobs, count_text, read_jobs, trial_states
from launch.view import View, metric_text, step_text
from slurm.search_file import unasked
from training.config import UsageError
from training.rundir import State
from training.sweepdir import SweepDir, Trial, TrialState, read_trials

SHOWN = 40
"""Trials in the table of a sweep; beyond it only those that need a look."""
WATCH_SECONDS = 5.0
"""Between two looks at a sweep that is followed: thousands of files on a shared disk."""


@dataclass(frozen=True)
class SweepView:
    """A sweep at one moment."""

    sweep: SweepDir
    trials: tuple[Trial, ...]
    states: Mapping[int, TrialState]
    views: Mapping[str, View]
    """Of the runs that are there, by run id."""
    jobs: tuple[str, ...] = ()
    """The arrays that are queued or running."""
    unasked: int = 0
    """Trials that a search is still to ask for."""
    silent: str = ""
    """Why Slurm did not say which of its jobs are alive; empty where it did, or was not needed."""

    @property
    def name(self) -> str:
        """The sweep's name."""
        return self.sweep.name

    @property
    def live(self) -> bool:
        """Whether anything of it is queued or running."""
        asking = bool(self.jobs and self.unasked)
        return asking or any(state in ("queued", "running") for state in self.states.values())

    @property
    def done(self) -> bool:
        """Whether there is nothing left to run: all finished, or ended early by a search."""
        return not self.unasked and set(self.states.values()) <= {"finished", "pruned"}

    @property
    def finished(self) -> int:
        """Trials that finished."""
        return sum(state == "finished" for state in self.states.values())

    @property
    def state(self) -> str:
        """One word for all of it, as a run has one."""
        counts = Counter(self.states.values())
        for state in ("running", "queued", "failed", "damaged", "interrupted"):
            if counts[state]:
                return state
        if self.jobs and self.unasked:
            return "running"
        return "finished" if self.done else "interrupted" if self.unasked else "created"

    def best(self) -> tuple[Trial, View] | None:
        """Return the finished trial with the best score; None where there is none.

        Of several tasks there is no best one: their scores do not compare. Of a search it is one
        of those that had all rows, once there are any.
        """
        found = [
            (trial, seen)
            for trial in self.trials
            if self.states[trial.number] == "finished"
            and (seen := self.views.get(trial.run_id))
            and seen.value is not None
        ]
        if not found or len({str(trial.axes.get("task")) for trial in self.trials}) > 1:
            return None
        whole = [pair for pair in found if pair[0].best_of is not None]
        return max(whole or found, key=lambda pair: goodness(pair[1]))

    def plain(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        best = self.best()
        return {
            "sweep": self.name,
            "path": str(self.sweep.path),
            "state": self.state,
            "states": dict(Counter(self.states.values())),
            "jobs": list(self.jobs),
            "best": best[0].run_id if best else None,
            "trials": [
                {
                    "number": trial.number,
                    "axes": trial.axes,
                    **(seen.plain() if (seen := self.views.get(trial.run_id)) else {}),
                    "run_id": trial.run_id,
                    "state": self.states[trial.number],
                }
                for trial in self.trials
            ],
        }


def view_sweeps(sweeps: Sequence[SweepDir], views: Mapping[str, View]) -> list[SweepView]:
    """Return how sweeps are; one question to Slurm for all. Where it is silent, what files say.

    Args:
        sweeps: the sweeps.
        views: of all runs that are there, by run id.
    """
    trials = {sweep.name: read_trials(sweep) for sweep in sweeps}
    jobs = {sweep.name: read_jobs(sweep) for sweep in sweeps}
    open_jobs = [
        entry
        for sweep in sweeps
        for entry in jobs[sweep.name]
        if unasked(sweep, trials[sweep.name])
        or any(
            (v := views.get(t.run_id)) is None or v.state != "finished" for t in trials[sweep.name]
        )
    ]
    silent = ""
    try:
        alive = alive_jobs(open_jobs) if open_jobs else {}
    except UsageError as error:
        silent, alive = str(error), {}
        print(f"note: {error}; shown is what the files say", file=sys.stderr)
    found = []
    for sweep in sweeps:
        mine = {str(entry["job_id"]) for entry in jobs[sweep.name]}
        here = [job for job in alive if job.partition("_")[0] in mine]
        known: dict[str, State] = {
            t.run_id: v.state for t in trials[sweep.name] if (v := views.get(t.run_id))
        }
        found.append(
            SweepView(
                sweep,
                tuple(trials[sweep.name]),
                trial_states(sweep.runs, trials[sweep.name], known, jobs[sweep.name], here),
                {t.run_id: views[t.run_id] for t in trials[sweep.name] if t.run_id in views},
                tuple(sorted({job.partition("_")[0] for job in here}, key=int)),
                unasked(sweep, trials[sweep.name]),
                silent if any(entry in open_jobs for entry in jobs[sweep.name]) else "",
            )
        )
    return found


def look_at_sweep(sweep: SweepDir) -> SweepView:
    """Return how one sweep is."""
    from launch.status import look

    runs = [run for trial in read_trials(sweep) if (run := sweep.run(trial)).path.is_dir()]
    return view_sweeps([sweep], {seen.run_id: seen for seen in look(runs)})[0]


def looks_at_sweep(
    sweep: SweepDir, seconds: float, say: Callable[[str], None]
) -> Iterator[SweepView]:
    """Yield how a sweep is, again and again, until nothing of it runs or waits.

    While Slurm does not answer nothing is known of what waits: nothing is yielded, and a person is
    told once.

    Args:
        sweep: the sweep.
        seconds: between two looks.
        say: tells a person.
    """
    waiting = False
    while True:
        # Its notes are of a silence that is told here, once and not at every look.
        with contextlib.redirect_stderr(io.StringIO()):
            seen = look_at_sweep(sweep)
        if seen.silent:
            if not waiting:
                say(f"{seen.silent}: how the sweep is is not known; waiting for an answer")
            waiting = True
        else:
            if waiting:
                say("Slurm answers again")
            waiting = False
            yield seen
            if not seen.live:
                return
        time.sleep(seconds)


def describe_sweep(seen: SweepView) -> str:
    """Return a sweep in a few lines; its table is beside it."""
    more = f", {seen.unasked} more to be asked for" if seen.unasked else ""
    rows = [
        ("sweep", seen.name),
        ("state", f"{len(seen.trials)} trials: {count_text(seen.states)}{more}"),
    ]
    if seen.jobs:
        rows.append(("job", ", ".join(seen.jobs)))
    rows.append(("folder", str(seen.sweep.path)))
    if best := seen.best():
        trial, run = best
        rows.append(("best", f"{run.metric} {run.value:.4f}  {trial.words}  ({run.run_id})"))
    where = _where(seen.sweep)
    if seen.finished:
        rows.append(("report", command_line("report", seen.name, *where)))
    if not (seen.live or seen.done or seen.silent) and (line := _line(seen.sweep)):
        again = ["--retry-failed"] if "failed" in seen.states.values() else []
        rows.append(("rest", command_line(_command(seen.sweep, line), *line, *again)))
    return "\n".join(f"{name:<8} {value}" for name, value in rows)


def table_of(seen: SweepView) -> tuple[list[list[str]], int]:
    """Return rows of a table of trials (number, what varies, state, job, step, metric, cause),
    and how many are left out of it.

    Of many trials, those that run or went wrong come first, then the best ones.
    """
    trials = list(seen.trials)
    if len(trials) > SHOWN:

        def rank(trial: Trial) -> tuple[int, float]:
            state = seen.states[trial.number]
            order = ("failed", "damaged", "interrupted", "running", "finished")
            run = seen.views.get(trial.run_id)
            place = order.index(state) if state in order else len(order)
            return place, -goodness(run) if run else 0.0

        trials = sorted(sorted(trials, key=rank)[:SHOWN], key=lambda t: t.number)
    rows = []
    for trial in trials:
        run = seen.views.get(trial.run_id)
        told = ["", "", "", ""]
        if run:
            told = [run.job_id or "", step_text(run), metric_text(run), run.cause or ""]
        rows.append([str(trial.number), trial.words, seen.states[trial.number], *told])
    return rows, len(seen.trials) - len(rows)


def watch_sweep(sweep: SweepDir) -> int:
    """Print a line whenever a sweep's counts change, until nothing of it runs or waits.

    Returns:
        0 if every trial finished, 1 if not, 130 if a person stopped following.
    """
    told = ""

    def say(text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)

    seen: SweepView
    try:
        for seen in looks_at_sweep(sweep, WATCH_SECONDS, say):
            text = f"{len(seen.trials)} trials: {count_text(seen.states)}"
            if text != told:
                say(text)
                told = text
    except KeyboardInterrupt:
        print(f"the sweep goes on; to see how it is: {command_line('status', sweep.name)}")
        return 130
    print(describe_sweep(seen))
    return 0 if seen.finished == len(seen.trials) else 1


def goodness(run: View) -> float:
    """Return a number that is higher the better a run's score is."""
    if run.value is None:
        return -math.inf
    return run.value if higher_is_better(run.metric or "") else -run.value


def _where(sweep: SweepDir) -> list[str]:
    return [] if sweep.runs == Path("runs").absolute() else ["--runs", str(sweep.runs)]


def _line(sweep: SweepDir) -> list[str]:
    """Return the words that the sweep was asked for with last; empty where that is not known."""
    import yaml

    try:
        asked = yaml.safe_load(sweep.spec.read_text(encoding="utf-8"))["asked"]["line"]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return []
    drop = ("--yes", "--retry-failed", "--json", "--hold")
    return [str(word) for word in asked if word not in drop]


def _command(sweep: SweepDir, words: Sequence[str]) -> str:
    """Return the command that a sweep was asked for with, by its folder and the words it was given.

    Reproductions and replays write the same files. A replay's words name a receipt, which no flag
    precedes; `reproduce` takes flags alone.
    """
    from launch.reproducing.asked import file_of

    if not file_of(sweep).is_file():
        return "sweep"
    import click

    from launch.replay import replay

    try:
        replay.make_context("replay", list(words))
    except click.ClickException:
        return "reproduce"
    return "replay"
